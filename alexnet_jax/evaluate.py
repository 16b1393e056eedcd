"""Exact top-1 and top-5 errors over a split: centre view, ten views, several nets averaged.

    python -m alexnet_jax.evaluate --workdir=DIR[,DIR…] [--views=center|ten] [--split=…] [--json]

Every image of the split is counted once. The ten views are the four corners and the centre
and their reflections (section 4.1); the softmax is averaged over views, and over nets where
several workdirs are given (tables 1 and 2).
"""

import functools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from alexnet_jax import cache, command, distributed, metrics, parallel
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import mean_of
from alexnet_jax.network import abstract_params, make_features, make_forward
from alexnet_jax.prepare import prepare
from alexnet_jax.workdir import read_config
from alexnet_jax.writers import append_record, progress_bar, read_records

T = TypeVar("T")

# A batch with one view of each image to log-probabilities (batch, classes).
Predict = Callable[[dict[str, Array]], Array]


@dataclass(frozen=True)
class Net:
    """A trained net, ready to look at images.

    Attributes:
        config: of the run, with the number of classes.
        step: of the checkpoint.
        params: {"conv1": {"kernel": …, "bias": …}, …}, all columns.
        mean_image: (side, side, channels of the data), in units of 0…255.
        class_names: by class number.
    """

    config: ConfigDict
    step: int
    params: Any
    mean_image: np.ndarray
    class_names: tuple[str, ...]

    def predict(self, mesh: Mesh) -> Predict:
        """The net's log-probabilities, computed on a mesh."""
        return self._on(mesh, make_forward(self.config, mesh))

    def features(self, mesh: Mesh) -> Callable[[dict[str, Array]], tuple[Array, Array]]:
        """The same, and what the last layer sees (batch, units): `network.make_features`."""
        return self._on(mesh, make_features(self.config, mesh))

    def _on(self, mesh: Mesh, forward: Callable[..., T]) -> Callable[[dict[str, Array]], T]:
        mean = mean_of(self.mean_image, self.config.data, self.config.model.channels)
        params = jax.device_put(self.params, parallel.shardings(self.params, mesh))
        return lambda batch: forward(params, mean, batch)


def load_net(workdir: str | Path, mesh: Mesh | None = None) -> Net:
    """The newest readable checkpoint of a run.

    Args:
        mesh: over which to lay the parameters; None puts all on the first device.

    Raises:
        InputError: no run, or no checkpoint, there.
    """
    workdir = Path(workdir)
    recorded = read_config(workdir)
    checkpoints = Checkpoints(workdir)

    def read(step: int) -> Net:
        metadata = checkpoints.metadata(step)
        config = ConfigDict(metadata["config"])
        config.data.dir = recorded.data.dir  # which may have moved since
        template = parallel.template(abstract_params(config), mesh or parallel.data_mesh(1))
        params = checkpoints.params(step, template)
        return Net(config, step, params, checkpoints.mean(step), tuple(metadata["class_names"]))

    found = checkpoints.newest(read)
    checkpoints.close()
    if found is None:
        raise InputError(f"--workdir={workdir} has no checkpoint yet; train it first")
    return found[1]


@jax.jit
def _mean(log_probabilities: list[Array]) -> Array:
    """The logarithm of the mean of probabilities."""
    stacked = jnp.stack(log_probabilities)
    return jax.nn.logsumexp(stacked, axis=0) - math.log(len(log_probabilities))


_sums = jax.jit(metrics.sums)


def errors(
    predicts: list[Predict], batches: Iterable[dict[str, np.ndarray]], mesh: Mesh
) -> list[dict[str, Any]]:
    """Loss, errors and count of each net, and last, where there are several, of their average.

    Args:
        batches: as `data.pipeline.evaluation_batches` gives them.
    """
    totals = [metrics.Totals() for _ in range(len(predicts) + (len(predicts) > 1))]
    for truth, found in over_views(predicts, batches, mesh):
        logs = [_mean(views) for views in found]
        if len(predicts) > 1:
            logs.append(_mean(logs))
        for total, log in zip(totals, logs, strict=True):
            total.add(jax.device_get(_sums(log, truth["label"], truth["mask"])))
    return [total.means() for total in totals]


def over_views(
    functions: list[Callable[[dict[str, Array]], T]],
    batches: Iterable[dict[str, np.ndarray]],
    mesh: Mesh,
) -> Iterator[tuple[dict[str, Array], list[list[T]]]]:
    """What each function of a batch's view gives for every view, beside label and mask.

    Args:
        batches: as `data.pipeline.evaluation_batches` gives them.
    """
    sharding = NamedSharding(mesh, P("data"))
    for batch in batches:
        truth = parallel.shard_batch({k: batch[k] for k in ("label", "mask")}, sharding)
        views = [
            parallel.shard_batch({k: batch[k][:, v] for k in ("image", "offset", "flip")}, sharding)
            for v in range(batch["image"].shape[1])
        ]
        yield truth, [[function(view) for view in views] for function in functions]


def _sees(net: Net) -> tuple[Any, ...]:
    """What nets must have in common in order to look at the same images."""
    shape = ("image_size", "resize", "crop")
    fields = ("name", *shape, "validation_share", "test_share", "split_seed")
    data = {name: net.config.data[name] for name in fields}
    return net.class_names, data, net.config.model.channels


def evaluate(
    nets: list[Net], split: str | None = None, views: str = "center", mesh: Mesh | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """The errors of trained nets on their data, with a progress bar.

    Args:
        split: of the data; None takes test, and validation where there is no labelled test.
        views: "center" or "ten".
        mesh: on which to compute; None takes all devices, each with whole nets.

    Returns:
        The split's name, and what `errors` gives.

    Raises:
        InputError: no such split, or nets whose classes, data or channels differ, from each other
            or, classes, from the data's.
    """
    for net in nets[1:]:
        for name, ours, theirs in zip(
            ("classes", "data", "channels"), _sees(nets[0]), _sees(net), strict=True
        ):
            if ours != theirs:
                raise InputError(
                    f"nets whose {name} differ cannot be averaged: {ours} and {theirs}"
                )
    pack, split = open_split(nets[0], split)
    mesh = mesh or parallel.data_mesh(nets[0].config.batch_size)
    predicts = [net.predict(mesh) for net in nets]
    return split, errors(predicts, split_batches(nets[0], pack, split, mesh, views), mesh)


def split_batches(
    net: Net,
    pack: Pack,
    split: str,
    mesh: Mesh,
    views: str = "center",
    index: np.ndarray | None = None,
) -> Iterable[dict[str, np.ndarray]]:
    """This process's rows of a split's batches as a net wants them, with a progress bar.

    Args:
        views, index: as `data.pipeline.evaluation_batches` takes them.
    """
    size = net.config.batch_size
    batches = evaluation_batches(
        pack,
        split,
        net.config.data,
        batch_size=size,
        channels=net.config.model.channels,
        views=views,
        index=index,
        rows=parallel.local_rows(size, NamedSharding(mesh, P("data"))),
    )
    count = pack.splits[split].count if index is None else len(index)
    return progress_bar(batches, math.ceil(count / size), f"{split} ({views})")


def open_split(net: Net, split: str | None = None) -> tuple[Pack, str]:
    """The images that a net knows, and which split of them to look at.

    Args:
        split: None takes test, and validation where there is no labelled test, and says so.

    Raises:
        InputError: the images cannot be had, are of other classes, or have no such split.
    """
    data = net.config.data
    pack = prepare(data)
    check_classes(net.class_names, tuple(pack.class_names), data.name)
    if split is None and "test" not in pack.splits:
        _say_once(f"{data.name} has no labelled test split: using validation.")
    split = split or ("test" if "test" in pack.splits else "validation")
    if split not in pack.splits:
        have = ", ".join(pack.splits)
        raise InputError(f"--split={split}: {data.name} has the splits {have}")
    return pack, split


def check_classes(ours: tuple[str, ...], theirs: tuple[str, ...], name: str) -> None:
    """Raise InputError for data of other classes than the net's, or in another order.

    A net whose file names none has numbers for names (`convert`); which classes these are, only
    the order can tell.
    """
    if ours == theirs:
        return
    if len(ours) == len(theirs) and ours == tuple(map(str, range(len(ours)))):
        _say_once(
            f"The net has numbers for names: its classes are taken in the order of {name}'s, "
            f"{theirs[0]} first."
        )
        return
    pairs = enumerate(zip(ours, theirs, strict=False))
    differing = (f"class {i} is {a} and {b}; " for i, (a, b) in pairs if a != b)
    raise InputError(
        f"the net tells {len(ours)} classes apart, {name} has {len(theirs)}; "
        f"{next(differing, '')}expected the same in the same order"
    )


@functools.cache
def _say_once(text: str) -> None:
    """A line on stderr, however often a split is opened; of several processes the first says it."""
    if distributed.is_first():
        print(text, file=sys.stderr)


def finish(workdir: Path, mesh: Mesh) -> None:
    """Evaluate a trained net, both views, once; print the errors and add them to its metrics.

    Of several processes all take part, and the first one prints and writes.
    """
    net = load_net(workdir, mesh)
    records = read_records(workdir)
    done = {(r["step"], r.get("views")): r for r in records}
    for views in ("center", "ten"):
        record = done.get((net.step, views))
        if distributed.broadcast_bool(record is None):  # the others may not see its file yet
            split, (result,) = evaluate([net], views=views, mesh=mesh)
            epoch = next((r["epoch"] for r in records if r["step"] == net.step), None)
            record = dict(step=net.step, epoch=epoch, split=split, views=views, **result)
            if distributed.is_first():
                append_record(workdir, record)
        if record is not None and distributed.is_first():
            print(line(str(workdir), record["split"], views, record))


def line(name: str, split: str, views: str, result: dict[str, Any]) -> str:
    """A result as a line to read."""
    return (
        f"{name}: {split}, {'ten views' if views == 'ten' else 'centre view'}: "
        f"top-1 error {result['top1_error']:.2%}, top-5 error {result['top5_error']:.2%}, "
        f"{result['count']} images"
    )


def main(_: list[str]) -> None:
    """The command."""
    cache.keep_compiled()
    flag = flags.FLAGS
    nets = [load_net(workdir) for workdir in flag.workdir]
    split, results = evaluate(nets, flag.split, flag.views)
    for name, result in zip([*flag.workdir, "average"], results, strict=False):
        if flag.json:
            print(json.dumps({"net": name, "split": split, "views": flag.views, **result}))
        else:
            print(line(name, split, flag.views, result))


if __name__ == "__main__":
    flags.DEFINE_list("workdir", None, "Folders of runs, separated by commas.", required=True)
    flags.DEFINE_enum("views", "center", ["center", "ten"], "One central view or the paper's ten.")
    flags.DEFINE_string("split", None, "Split; by default test, or validation without a test.")
    flags.DEFINE_bool("json", False, "One JSON object a line instead of text.")
    command.run(main)
