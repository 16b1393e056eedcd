"""Exact top-1 and top-5 errors over a split: center view, ten views, several models averaged.

    python -m alexnet_jax.evaluate --workdir=DIR[,DIR…] [--views=center|ten] [--split=…] [--json]

Every image of the split is counted once. The ten views are the four corners and the center
and their reflections (section 4.1); the softmax is averaged over views, and over models where
several workdirs are given (tables 1 and 2).
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import cache, command, distributed, sharding, writers
from alexnet_jax.data import images
from alexnet_jax.data.batch import Batch, Labels
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import VIEWS, evaluation_batches
from alexnet_jax.errors import InputError
from alexnet_jax.metrics import Metrics, MetricSums, compute_metrics
from alexnet_jax.prepare import prepare
from alexnet_jax.trained import Predict, TrainedModel, load_trained

T = TypeVar("T")

# What models must have in common to be given the same images: fields of config.data.
SHARED_FIELDS = (
    *("name", "image_size", "resize", "crop"),
    *("validation_share", "test_share", "split_seed"),
)


@jax.jit
def _log_mean(log_probabilities: list[Array]) -> Array:
    """Return the logarithm of the mean of probabilities."""
    stacked = jnp.stack(log_probabilities)
    return jax.nn.logsumexp(stacked, axis=0) - math.log(len(log_probabilities))


_compute_metrics = jax.jit(compute_metrics)


def evaluate_batches(
    predicts: list[Predict], batches: Iterable[Batch], mesh: Mesh
) -> list[Metrics]:
    """Return loss, errors and count of each model, and last, of several, of their average.

    Args:
        batches: of `data.pipeline.evaluation_batches`.
    """
    totals = [MetricSums() for _ in range(len(predicts) + (len(predicts) > 1))]
    for labels, outputs in apply_to_views(predicts, batches, mesh):
        logs = [_log_mean(views) for views in outputs]
        if len(predicts) > 1:
            logs.append(_log_mean(logs))
        sums = [jax.device_get(_compute_metrics(log, labels.label, labels.mask)) for log in logs]
        totals = [total.plus(one) for total, one in zip(totals, sums, strict=True)]
    return [total.compute() for total in totals]


def apply_to_views(
    functions: list[Callable[[Batch], T]], batches: Iterable[Batch], mesh: Mesh
) -> Iterator[tuple[Labels, list[list[T]]]]:
    """Yield the labels of each batch, and what every function returns for each of its views.

    Args:
        batches: of `data.pipeline.evaluation_batches`.
    """
    places = sharding.evaluation_sharding(mesh)
    for host in batches:
        labels = sharding.shard_batch(host.labels(), places)
        views = [
            sharding.shard_batch(host.view(number), places) for number in range(host.image.shape[1])
        ]
        yield labels, [[function(view) for view in views] for function in functions]


def evaluate(
    models: list[TrainedModel],
    split: str | None = None,
    views: str = "center",
    mesh: Mesh | None = None,
) -> tuple[str, list[Metrics]]:
    """Compute the errors of trained models on their data, with a progress bar.

    Args:
        split: of the data; None takes test, and validation where there is no labeled test.
        views: "center" or "ten".
        mesh: on which to compute; None takes all devices, each with whole models.

    Returns:
        The split's name, and the results of `evaluate_batches`.

    Raises:
        InputError: no such split, or models whose classes, data or channels differ, from each
            other or, classes, from the data's.
    """
    for model in models[1:]:
        _check_compatible(models[0], model)
    pack, split = open_split(models[0], split)
    mesh = mesh or sharding.make_data_mesh(models[0].config.batch_size)
    predicts = [model.make_predict_fn(mesh) for model in models]
    batches = split_batches(models[0], pack, split, mesh, views)
    return split, evaluate_batches(predicts, batches, mesh)


def _check_compatible(one: TrainedModel, other: TrainedModel) -> None:
    """Raise InputError for models that cannot be given the same images."""
    for name, ours, theirs in (
        ("classes", one.class_names, other.class_names),
        *(
            (f"data.{name}", getattr(one.config.data, name), getattr(other.config.data, name))
            for name in SHARED_FIELDS
        ),
        ("channels", one.config.model.channels, other.config.model.channels),
    ):
        if ours != theirs:
            raise InputError(f"models whose {name} differ cannot be averaged: {ours} and {theirs}")


def split_batches(
    model: TrainedModel,
    pack: Pack,
    split: str,
    mesh: Mesh,
    views: str = "center",
    index: np.ndarray | None = None,
) -> Iterable[Batch]:
    """Return this process's rows of a split's batches for a model, with a progress bar.

    Args:
        views, index: as for `data.pipeline.evaluation_batches`.
    """
    size = model.config.batch_size
    rows = sharding.local_rows(size, sharding.evaluation_sharding(mesh))
    batches = evaluation_batches(pack, split, model.config, views=views, index=index, rows=rows)
    count = pack.splits[split].count if index is None else len(index)
    return writers.progress_bar(batches, math.ceil(count / size), f"{split} ({views})")


def open_split(model: TrainedModel, split: str | None = None) -> tuple[Pack, str]:
    """Return the images that a model was trained on, and which split of them to use.

    Args:
        split: None takes test, and validation where there is no labeled test.

    Raises:
        InputError: the images cannot be had, are of other classes, or have no such split.
    """
    data = model.config.data
    pack = prepare(data)
    check_classes(model.class_names, tuple(pack.class_names), data.name)
    split = split or ("test" if "test" in pack.splits else "validation")
    if split not in pack.splits:
        have = ", ".join(pack.splits)
        raise InputError(f"--split={split}: {data.name} has the splits {have}")
    return pack, split


def check_classes(ours: tuple[str, ...], theirs: tuple[str, ...], name: str) -> None:
    """Raise InputError for data of other classes than the model's, or in another order.

    A model imported from a file without class names has numbers for them (`convert`); its classes
    are assumed to be in the order of the data's, which `print_assumptions` says.
    """
    if ours == theirs or takes_order_of(ours, theirs):
        return
    pairs = enumerate(zip(ours, theirs, strict=False))
    differing = (f"class {i} is {a} and {b}; " for i, (a, b) in pairs if a != b)
    raise InputError(
        f"the model has {len(ours)} classes, {name} has {len(theirs)}; "
        f"{next(differing, '')}expected the same in the same order"
    )


def takes_order_of(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Return whether our classes have numbers for names, 0, 1, 2, …, as many as theirs."""
    return ours != theirs and ours == tuple(map(str, range(len(theirs))))


def print_assumptions(model: TrainedModel, pack: Pack, split: str | None) -> None:
    """Print on stderr what `open_split` assumed: the order of classes, validation for test."""
    if not distributed.is_first():
        return
    name, theirs = model.config.data.name, tuple(pack.class_names)
    if takes_order_of(model.class_names, theirs):
        print(
            f"The model has numbers for class names: its classes are taken in the order of "
            f"{name}'s, {theirs[0]} first.",
            file=sys.stderr,
        )
    if split is None and "test" not in pack.splits:
        print(f"{name} has no labeled test split: using validation.", file=sys.stderr)


def final_evaluation(workdir: Path, mesh: Mesh) -> None:
    """Evaluate a trained model, both views, once; print the errors and add them to its metrics.

    Of several processes all take part, and the first one prints and writes.
    """
    model = load_trained(workdir, mesh)
    records = writers.read_records(workdir)
    done = {(r["step"], r.get("views")): r for r in records}
    print_assumptions(model, prepare(model.config.data), None)
    for views in VIEWS:
        record = done.get((model.step, views))
        if distributed.broadcast_bool(record is None):  # the others may not see its file yet
            split, (result,) = evaluate([model], views=views, mesh=mesh)
            epoch = next((r["epoch"] for r in records if r["step"] == model.step), None)
            record = writers.make_record(model.step, epoch, split, result)
            record["views"] = views
            if distributed.is_first():
                writers.append_record(workdir, record)
        if record is not None and distributed.is_first():
            print(format_result(str(workdir), record["split"], views, record))


def format_result(name: str, split: str, views: str, result: Metrics | writers.Record) -> str:
    """Return a result as a line of text."""
    return (
        f"{name}: {split}, {'ten views' if views == 'ten' else 'center view'}: "
        f"top-1 error {result['top1_error']:.2%}, top-5 error {result['top5_error']:.2%}, "
        f"{result['count']} images"
    )


def main(_: list[str]) -> None:
    """Run the command."""
    cache.keep_compiled()
    images.ignore_pillow_warnings()
    flag = flags.FLAGS
    models = [load_trained(workdir) for workdir in flag.workdir]
    print_assumptions(models[0], prepare(models[0].config.data), flag.split)
    split, results = evaluate(models, flag.split, flag.views)
    for name, result in zip([*flag.workdir, "average"], results, strict=False):
        if flag.json:
            print(json.dumps({"net": name, "split": split, "views": flag.views, **result}))
        else:
            print(format_result(name, split, flag.views, result))


if __name__ == "__main__":
    flags.DEFINE_list("workdir", None, "Folders of runs, separated by commas.", required=True)
    flags.DEFINE_enum("views", "center", VIEWS, "One central view or the paper's ten.")
    flags.DEFINE_string("split", None, "Split; by default test, or validation without a test.")
    flags.DEFINE_bool("json", False, "Print one JSON object per line instead of text.")
    command.run(main)
