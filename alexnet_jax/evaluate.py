"""Compute the top-1 and top-5 errors of a model, or of the average of several, on a split.

    python -m alexnet_jax.evaluate --workdir=DIR[,DIR…]
                                   [--views=center|ten|grid|dense|dense_grid|144]
                                   [--scales=256,384,512] [--split=…] [--json]
                                   [--data_dir=DIR] [--class_names=FILE]

Every image of the split is counted once. The ten views are the crops of the four corners and the
center and their reflections (section 4.1). The grid has 5 × 5 crops and their reflections; "dense"
applies the model to the whole image and its reflection, at every position; "dense_grid" averages
both (section 3.2 of Simonyan and Zisserman 2014). The 144 views are those of section 7 of Szegedy
et al. (2014): four scales of the image, three squares of each, their corners, center and whole, and
reflections. Images are whole if they were prepared with data.resize=shorter_side; otherwise all
views are of their central squares. Probabilities are averaged over views, over the scales of the
images, and over models if several workdirs are given (tables 1 and 2).

With --data_dir the images are those of a folder, in folders with names of the model's classes, or
in folders of splits with such folders. The classes may be some of the model's; it still chooses
among all of its own.
"""

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import cache, command, distributed, model_data, sharding
from alexnet_jax.compatible import check_compatible
from alexnet_jax.config import ParallelConfig, with_changes
from alexnet_jax.data import images
from alexnet_jax.data.batch import Batch, Labels
from alexnet_jax.data.crops import scales_of_144
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches, index_of_batches
from alexnet_jax.diagnostics import check_loss, compare_with_majority
from alexnet_jax.errors import InputError
from alexnet_jax.metrics import Metrics, MetricSums, compute_metrics
from alexnet_jax.placement import place_images
from alexnet_jax.progress import progress_bar
from alexnet_jax.records import Record, append_record, make_record, read_records
from alexnet_jax.trained import Predict, TrainedModel, load_trained

T = TypeVar("T")

FINAL_VIEWS = ("center", "ten")  # after training
VIEW_NAMES = dict(
    center="center view",
    ten="ten views",
    grid="grid of 50 views",
    dense="dense",
    dense_grid="dense and grid of 50 views",
    **{"144": "144 views"},
)
# For --views that are no views of `data.crops.make_views`: those whose probabilities are averaged.
PASSES = {"dense_grid": ("dense", "grid"), "144": ("squares",)}


@jax.jit
def _log_mean(log_probabilities: list[Array]) -> Array:
    """Return the logarithm of the mean of probabilities."""
    stacked = jnp.stack(log_probabilities)
    return jax.nn.logsumexp(stacked, axis=0) - math.log(len(log_probabilities))


_compute_metrics = jax.jit(compute_metrics)


class ViewPass(NamedTuple):
    """All images of a split with some views.

    Attributes:
        predicts: function from a batch to log-probabilities, for each model.
        batches: batches from `data.pipeline.evaluation_batches`.
    """

    predicts: list[Predict]
    batches: Iterable[Batch]


def evaluate_batches(
    passes: list[ViewPass], mesh: Mesh, averages: Sequence[Sequence[int]] | None = None
) -> list[Metrics]:
    """Return the metrics of each model, and then those of averages of models.

    Args:
        passes: passes with batches of the same images, over which probabilities are averaged.
        mesh: the mesh of devices.
        averages: the models of each average by their numbers, from 0; None for one of all models,
            if there are several.
    """
    count = len(passes[0].predicts)
    if averages is None:
        averages = [range(count)] if count > 1 else []
    totals = [MetricSums() for _ in range(count + len(averages))]
    results = (apply_to_views(predicts, batches, mesh) for predicts, batches in passes)
    for parts in zip(*results, strict=True):
        labels = parts[0][0]
        by_pass = [[_log_mean(views) for views in outputs] for _, outputs in parts]
        logs = [
            _log_mean(list(of_model)) if len(passes) > 1 else of_model[0]
            for of_model in zip(*by_pass, strict=True)
        ]
        logs += [_log_mean([logs[i] for i in members]) for members in averages]
        sums = [jax.device_get(_compute_metrics(log, labels.label, labels.mask)) for log in logs]
        totals = [total.plus(batch) for total, batch in zip(totals, sums, strict=True)]
    return [total.compute() for total in totals]


def apply_to_views(
    functions: list[Callable[[Batch], T]], batches: Iterable[Batch], mesh: Mesh
) -> Iterator[tuple[Labels, list[list[T]]]]:
    """Yield the labels of each batch, and the results of every function for each of its views.

    Args:
        functions: functions of a batch on the devices with one view per image.
        batches: batches from `data.pipeline.evaluation_batches`.
        mesh: the mesh of devices.
    """
    batch_sharding = sharding.evaluation_sharding(mesh)
    for batch in batches:
        labels = sharding.shard_batch(batch.labels(), batch_sharding)
        views = [
            sharding.shard_batch(batch.view(number), batch_sharding)
            for number in range(batch.offset.shape[1])
        ]
        yield labels, [[function(view) for view in views] for function in functions]


def evaluate(
    models: list[TrainedModel],
    split: str | None = None,
    views: str = "center",
    mesh: Mesh | None = None,
    pack: Pack | None = None,
    scales: Sequence[int] = (),
    averages: Sequence[Sequence[int]] | None = None,
) -> tuple[str, list[Metrics]]:
    """Compute the errors of trained models on their data, with a progress bar.

    Args:
        models: the models.
        split: name of the split; None takes test, or validation if there is no labeled test split.
        views: one of `VIEW_NAMES`.
        mesh: the mesh of devices; None splits the batch over all devices.
        pack: the images, with the classes of the models; None opens the data of the first model.
        scales: lengths to which the shorter sides of images are scaled; () for that of training, or
            those of views "144".
        averages: see `evaluate_batches`.

    Returns:
        The name of the split, and the results of `evaluate_batches`.

    Raises:
        InputError: the split does not exist, the models differ in classes, data or channels or were
            trained on different images, the classes are not those of the data, or the views or
            scales do not fit a model.
    """
    for pair in itertools.combinations(models, 2):
        check_compatible(*pair)
    pack = pack or model_data.open_data(models[0])
    split = model_data.choose_split(models[0], pack, split)
    mesh = mesh or sharding.make_data_mesh(models[0].config.batch_size)
    if views == "144":
        if scales:
            raise InputError("views=144 has scales of its own; expected no --scales")
        scales = scales_of_144(models[0].config.data.crop)
    for model in models:
        _check_scales(model, pack, scales)
    first = models[0] if views in FINAL_VIEWS else _with_smaller_batches(models[0], mesh)
    kinds, passes = PASSES.get(views, (views,)), []
    by_shape = "dense" in kinds  # the batches of all passes must hold the same images
    pixels = place_images(first.config.data, pack, [split], mesh)[0].get(split)
    for kind in kinds:
        if kind == "dense":
            predicts = [model.make_dense_predict_fn(mesh) for model in models]
        else:
            predicts = [model.make_predict_fn(mesh) for model in models]
        for scale in scales or (None,):
            batches = split_batches(
                first, pack, split, mesh, kind, scale=scale, by_shape=by_shape, pixels=pixels
            )
            passes.append(ViewPass(predicts, batches))
    return split, evaluate_batches(passes, mesh, averages)


def _with_smaller_batches(model: TrainedModel, mesh: Mesh) -> TrainedModel:
    """Return a model with a fifth of the batch size, for views that need more memory than ten."""
    devices = mesh.shape["data"]
    size = devices * max(1, model.config.batch_size // (5 * devices))
    changes = {"batch_size": size, "parallel": ParallelConfig()}
    return dataclasses.replace(model, config=with_changes(model.config, changes))


def _check_scales(model: TrainedModel, pack: Pack, scales: Sequence[int]) -> None:
    """Raise InputError for scaled images with a model that subtracts a mean for each pixel."""
    mean = model.config.data.mean
    if mean in ("image", "center") and any(scale != pack.side for scale in scales):
        raise InputError(
            f"the model subtracts a mean for each pixel (data.mean={mean}), which images scaled to "
            f"{', '.join(map(str, scales))} pixels do not have; expected --scales={pack.side}, and "
            "other --views than 144"
        )


def split_batches(
    model: TrainedModel,
    pack: Pack,
    split: str,
    mesh: Mesh,
    views: str = "center",
    index: np.ndarray | None = None,
    scale: int | None = None,
    by_shape: bool = False,
    pixels: Array | None = None,
) -> Iterable[Batch]:
    """Return the batches of a split for a model, with a progress bar.

    Of each batch only the rows for the devices of this process are returned.

    Args:
        model: the model.
        pack: the prepared images.
        split: name of the split.
        mesh: the mesh of devices.
        views, index, scale, by_shape, pixels: see `data.pipeline.evaluation_batches`.
    """
    size = model.config.batch_size
    rows = sharding.local_rows(size, sharding.evaluation_sharding(mesh))
    batches = evaluation_batches(
        pack,
        split,
        model.config,
        views=views,
        scale=scale,
        index=index,
        by_shape=by_shape,
        rows=rows,
        pixels=pixels,
    )
    count = len(index_of_batches(pack.splits[split], size, index, by_shape=by_shape))
    return progress_bar(batches, count, f"{split} ({views})")


def final_evaluation(workdir: Path, mesh: Mesh) -> None:
    """Evaluate a model after training, with center and ten views; print and record the errors.

    An evaluation that is recorded already is not repeated. Without images besides those for
    training there is none. With several processes, all must call this; the first one prints and
    writes.
    """
    model = load_trained(workdir, mesh)
    pack = model_data.open_data(model)
    if not model_data.has_held_out(pack):
        if distributed.is_first():
            print(
                f"{model.config.data.name} has training images only: nothing to evaluate on.",
                file=sys.stderr,
            )
        return
    records = read_records(workdir)
    recorded = {(r["step"], r.get("views")): r for r in records}
    model_data.print_assumptions(model, pack, None)
    for views in FINAL_VIEWS:
        record = recorded.get((model.step, views))
        # Only the first process decides, since others may not see its file yet.
        if distributed.broadcast_bool(record is None):
            split, (result,) = evaluate([model], views=views, mesh=mesh, pack=pack)
            check_loss(str(workdir), split, result["loss"])
            epoch = next((r["epoch"] for r in records if r["step"] == model.step), None)
            record = make_record(model.step, epoch, split, result)
            record["views"] = views
            if distributed.is_first():
                append_record(workdir, record)
        if record is not None and distributed.is_first():
            print(format_result(str(workdir), record["split"], views, record))
            _print_majority(pack, record["split"], record)


def _print_majority(pack: Pack, split: str, result: Metrics | Record) -> None:
    """Print on stderr if a model is no better than always answering one class."""
    labels = pack.splits[split].labels
    line = compare_with_majority(split, labels, pack.class_names, result["top1_error"])
    if line is not None:
        print(line, file=sys.stderr)


def format_result(name: str, split: str, views: str, result: Metrics | Record) -> str:
    """Return a result as a line of text."""
    return (
        f"{name}: {split}, {VIEW_NAMES[views]}: "
        f"top-1 error {result['top1_error']:.2%}, top-5 error {result['top5_error']:.2%}, "
        f"{result['count']} images"
    )


def parse_scales(words: Sequence[str]) -> list[int]:
    """Return the numbers of --scales.

    Raises:
        InputError: a word is no number of pixels.
    """
    for word in words:
        if not (word.isascii() and word.isdigit() and 0 < int(word) < 2**15):
            raise InputError(
                f"--scales={','.join(words)}: {word!r} is no length in pixels; expected numbers "
                "separated by commas, such as 256,384,512"
            )
    return [int(word) for word in words]


def main(_: list[str]) -> None:
    """Run the command."""
    cache.keep_compiled()
    images.ignore_pillow_warnings()
    flag = flags.FLAGS
    models, split, shown = [load_trained(workdir) for workdir in flag.workdir], flag.split, ""
    scales = parse_scales(flag.scales)
    if flag.class_names:
        models = [model_data.with_class_names(m, Path(flag.class_names)) for m in models]
    if flag.data_dir:
        models = [model_data.with_folder(m, Path(flag.data_dir)) for m in models]
        pack = model_data.open_folder(models[0])
        if split is None and len(pack.splits) == 1:
            (split,), shown = pack.splits, "all images"
    else:
        pack = model_data.open_data(models[0])
    model_data.print_assumptions(models[0], pack, split)
    split, results = evaluate(models, split, flag.views, pack=pack, scales=scales)
    given = {"split": shown or split, "views": flag.views, **({"scales": scales} if scales else {})}
    for name, result in zip([*flag.workdir, "average"], results, strict=False):
        check_loss(name, split, result["loss"])
        if flag.json:
            print(json.dumps({"workdir": name, **given, **result}, allow_nan=False))
        else:
            print(format_result(name, shown or split, flag.views, result))
        _print_majority(pack, split, result)


if __name__ == "__main__":
    flags.DEFINE_list("workdir", None, "Folders of runs, separated by commas.", required=True)
    flags.DEFINE_enum("views", "center", [*VIEW_NAMES], "The views of each image; see above.")
    flags.DEFINE_list("scales", [], "Lengths of the shorter side of scaled images, in pixels.")
    flags.DEFINE_string("split", None, "Split; by default test, or validation if there is none.")
    flags.DEFINE_string("data_dir", None, "Folder of other images, in folders named by class.")
    flags.DEFINE_string("class_names", None, "Text file of the model's class names, one per line.")
    flags.DEFINE_bool("json", False, "Print one JSON object per line instead of text.")
    command.run(main)
