"""Collect the content of the report on a run, and render it as HTML."""

import datetime
import platform
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from alexnet_jax import model_data
from alexnet_jax.analysis.summary import summarize
from alexnet_jax.data.names import readable_name
from alexnet_jax.data.pack import Pack, open_pack
from alexnet_jax.data.sources import location
from alexnet_jax.errors import InputError
from alexnet_jax.fields import leaves
from alexnet_jax.metrics import Metrics, MetricSums, compute_metrics
from alexnet_jax.prepare import pack_dir
from alexnet_jax.records import Record, read_records, training_records
from alexnet_jax.schedules import StepSchedule
from alexnet_jax.status import read_status
from alexnet_jax.trained import TrainedModel
from alexnet_jax.workdir import ADDED, is_in_use, read_recorded
from experiments import html_page
from experiments.figures import plots
from experiments.figures.colorfulness import measure_specialization
from experiments.figures.predictions import (
    Predictions,
    choose_rows,
    first_conv_kernels,
    first_conv_name,
    hidden_ops,
    predict_split,
    worst_mistakes,
)
from experiments.report.image_sections import (
    ImageWithNeighbors,
    PredictedImage,
    ShownActivations,
    make_activations,
    make_neighbors,
    make_predicted_images,
    summarize_confusion,
)
from experiments.report.presets import nearest_preset

TEMPLATE = "report/report.html.jinja"
NOT_RUN = "not run"
VIEWS = {"center": "center view", "ten": "ten views"}
PACKAGES = ("jax", "flax", "optax", "numpy", "matplotlib")
NUM_SHOWN = (6, 2)  # correct and wrong predictions
NUM_MISTAKES = 12
MISSING_IMAGES = "predictions, nearest training images, mistakes, confusion matrix and activations"


@dataclass(frozen=True)
class ErrorRow:
    """A row of the table of errors, with NOT_RUN for what was not measured.

    Attributes:
        images: "test, ten views" or the like.
        top1, top5, loss, count: as text.
    """

    images: str
    top1: str = NOT_RUN
    top5: str = NOT_RUN
    loss: str = NOT_RUN
    count: str = NOT_RUN


@dataclass
class Sections:
    """The content of the page; None and empty lists for what it leaves out.

    Attributes:
        confused: (true class, predicted, images, images of the true class).
        predicted: which images were used and how many are misclassified, for the text.
        compared: what `neighbors` are, for the text.
        kernels_layer: name of the convolution that has the kernels.
        activated: image of which `activations` are, for the text.
        left_out: (section, reason).
        folders: paths that reasons may contain, and the page does not show.
    """

    errors: list[ErrorRow]
    curves: html_page.EmbeddedImage | None = None
    predicted: str = ""
    predictions: list[PredictedImage] = field(default_factory=list)
    neighbors: list[ImageWithNeighbors] = field(default_factory=list)
    compared: str = ""
    mistakes: list[PredictedImage] = field(default_factory=list)
    confusion: html_page.EmbeddedImage | None = None
    confused: list[tuple[str, str, int, int]] = field(default_factory=list)
    kernels: html_page.EmbeddedImage | None = None
    kernels_layer: str = ""
    color: str = ""
    activations: list[ShownActivations] = field(default_factory=list)
    activated: str = ""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    folders: tuple[Path, ...] = ()

    def leave_out(self, section: str, reason: str) -> None:
        """Leave out a section; print the reason on stderr, with full paths unlike on the page."""
        print(f"left out: {section}: {reason}", file=sys.stderr)
        self.left_out.append((section, html_page.strip_folders(reason, self.folders)))


def make_sections(workdir: Path, model: TrainedModel, split: str | None) -> Sections:
    """Collect the content of the page.

    Raises:
        InputError: the data have no such split.
    """
    records, data = read_records(workdir), model.config.data
    folders = workdir.absolute(), location(data), pack_dir(data)
    sections = Sections(final_errors(records, model.step), folders=folders)
    if while_training := training_records(records):
        names = {"train": "training", "validation": "validation"}
        splits = " and on ".join(names[split] for split in while_training)
        alt = f"Top-1 error over epochs, on {splits} images."
        sections.curves = html_page.embed_figure(
            html_page.scale_figure(plots.plot_curves(records, ""), 0.7), alt
        )
    else:
        reason = "metrics.jsonl has no records of training"
        if not model.step:
            reason = "the model was imported, not trained"
        sections.leave_out("learning curves", reason)
    if predicted := _predict(model, split, sections):
        _add_predictions(sections, model, *predicted)
    try:
        _add_kernels(sections, model)
    except InputError as error:
        sections.leave_out("kernels", str(error))
    return sections


def _predict(
    model: TrainedModel, split: str | None, sections: Sections
) -> tuple[Pack, Predictions] | None:
    """Return a data set that is prepared already and the predictions for a split, or None."""
    data = model.config.data
    try:
        pack = open_pack(pack_dir(data))
        if split is None or split in pack.splits:
            pack = model_data.open_data(model, make=False)
            predictions = predict_split(model, pack, split)
            model_data.print_assumptions(model, pack, split)
            return pack, predictions
    except InputError as error:
        sections.leave_out(MISSING_IMAGES, str(error))
        return None
    raise InputError(f"--split={split}: {data.name} has the splits {', '.join(pack.splits)}")


def _add_predictions(
    sections: Sections, model: TrainedModel, pack: Pack, predictions: Predictions
) -> None:
    """Add what the model predicts for the images of a split, and the errors of its center view."""
    sums = compute_metrics(
        jnp.asarray(predictions.log_probabilities),
        jnp.asarray(predictions.labels),
        jnp.ones(len(predictions.labels), bool),
    )
    name = f"{predictions.split}, center view"
    if name not in [row.images for row in sections.errors]:
        counted = MetricSums().plus(sums).compute()
        sections.errors.append(_error_row(f"{name}, evaluated for this page", counted))
    wrong = np.count_nonzero(~predictions.correct)
    sections.predicted = (
        f"{len(predictions.labels):,} images of the {predictions.split} split in their center "
        f"view, {wrong:,}"
    )
    shown = predictions.select(choose_rows(predictions, *NUM_SHOWN))
    mistakes = predictions.select(worst_mistakes(predictions, NUM_MISTAKES))
    sections.predictions = make_predicted_images(model, pack, shown)
    sections.mistakes = make_predicted_images(model, pack, mistakes)
    sections.confused, sections.confusion = summarize_confusion(predictions, model.class_names)
    try:
        sections.neighbors, sections.compared = make_neighbors(model, pack, shown)
        index, label = int(shown.index[0]), readable_name(model.class_names[shown.labels[0]])
        sections.activations = make_activations(model, pack, predictions.split, index)
        sections.activated = f"image {index} of the {predictions.split} split ({label})"
    except InputError as error:
        sections.leave_out("nearest training images and activations", str(error))


def _add_kernels(sections: Sections, model: TrainedModel) -> None:
    """Add the kernels of the first convolution, and a text about the colors of its columns."""
    kernel, layer = first_conv_kernels(model), first_conv_name(model.config)
    assert layer is not None
    color = measure_specialization(model)
    columns, height, width, _, count = kernel.shape
    where = f" in each of {columns} columns" if columns > 1 else ""
    alt = f"Kernels of {layer}: {count} of {height} by {width} pixels{where}."
    figure = html_page.scale_figure(plots.plot_kernels(kernel, color.columns, layer=layer), 0.75)
    sections.kernels, sections.color = html_page.embed_figure(figure, alt), color.text
    sections.kernels_layer = layer


def final_errors(records: list[Record], step: int) -> list[ErrorRow]:
    """Return the errors that were measured after a step; "not run" for the others."""
    found = [r for r in records if r["step"] == step and r["split"] != "train"]
    rows = []
    for views, name in VIEWS.items():
        of = [r for r in found if r.get("views") == views]
        rows += [_error_row(f"{r['split']}, {name}", r) for r in of] or [ErrorRow(f"final, {name}")]
    while_training = [r for r in found if "views" not in r]
    return rows + [_error_row(f"{r['split']}, while training", r) for r in while_training]


def _error_row(images: str, errors: Record | Metrics) -> ErrorRow:
    """Return the row of a record or of metrics, with errors in percent."""
    top1, top5 = (f"{100 * error:.2f} %" for error in (errors["top1_error"], errors["top5_error"]))
    return ErrorRow(images, top1, top5, f"{errors['loss']:.4f}", f"{errors['count']:,}")


def describe_progress(model: TrainedModel, workdir: Path) -> str:
    """Return a sentence about how long the model was trained, and how its run stands.

    Raises:
        InputError: see `read_status`.
    """
    if not model.step:
        return "The weights were imported, not trained."
    schedule, status = StepSchedule(model.config, model.num_images), read_status(workdir)
    done = (
        f"Trained for {model.step:,} steps, {schedule.epoch(model.step):.1f} epochs of "
        f"{model.num_images:,} images"
    )
    last = f"the config has {schedule.last_step:,} steps"
    if model.step >= schedule.last_step:
        return f"{done}; training is complete."
    if status is None:
        return f"{done}; {last}."
    if status.status == "finished":
        return f"{done}; training is complete, by stop_error={model.config.stop_error:g}; {last}."
    if status.status == "running" and is_in_use(workdir):
        return f"{done}; training goes on, {last}."
    ended = status.status if status.status in ("diverged", "failed") else "was interrupted"
    return f"{done}; training {ended}, {last}."


def load_recorded(workdir: Path) -> tuple[dict[str, Any], list[tuple[int, str, str, str]]]:
    """Load the config of a run in the order of its file, and its changes between steps.

    Returns:
        Fields, nested as in config.json, and a list of (step, field, from, to).
    """
    content = read_recorded(workdir)
    changed = [
        (c["step"], c["field"], html_page.format_value(c["from"]), html_page.format_value(c["to"]))
        for c in content["changes"]
    ]
    return {name: value for name, value in content.items() if name not in ADDED}, changed


def make_page(workdir: Path, model: TrainedModel, split: str | None, arguments: list[str]) -> str:
    """Return the page as HTML.

    Args:
        split: whose images to show; None takes test, and validation without a labeled test.
        arguments: of the command line, shown on the page.

    Raises:
        InputError: the data have no such split.
    """
    fields, changed = load_recorded(workdir)
    preset, differing = nearest_preset(fields)
    words = ["python", "-m", "experiments.report", *arguments]
    return html_page.render_template(
        TEMPLATE,
        name=workdir.resolve().name,
        model=model,
        progress=describe_progress(model, workdir),
        sections=make_sections(workdir, model, split),
        layers=summarize(model.config),
        hidden=len(hidden_ops(model.config)),
        preset=preset,
        differing=[(path, *map(html_page.format_value, values)) for path, *values in differing],
        fields=[(name, html_page.format_value(value)) for name, value in leaves(fields)],
        changed=changed,
        command=html_page.format_command(words),
        date=datetime.date.today().isoformat(),
        versions=[("Python", platform.python_version()), *((p, version(p)) for p in PACKAGES)],
    )
