"""Collect the content of the report on a run, and render it as HTML."""

import datetime
import itertools
import json
import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from alexnet_jax import model_data
from alexnet_jax.analysis.summary import summarize
from alexnet_jax.config import Config, config_to_json
from alexnet_jax.data.names import readable_name, short_name
from alexnet_jax.data.pack import Pack, open_pack
from alexnet_jax.errors import InputError
from alexnet_jax.fields import differences, leaves
from alexnet_jax.metrics import Metrics, MetricSums, compute_metrics
from alexnet_jax.prepare import pack_dir
from alexnet_jax.schedules import total_steps
from alexnet_jax.trained import TrainedModel
from alexnet_jax.workdir import ADDED, read_recorded
from alexnet_jax.writers import Record, read_records
from configs import alexnet, bvlc_alexnet, one_weird_trick, source2012, variants, vgg, zfnet
from experiments import html_page
from experiments.figures import plots
from experiments.figures.colorfulness import measure_specialization
from experiments.figures.predictions import (
    Predictions,
    choose_rows,
    confusion_matrix,
    first_conv_kernels,
    load_crops,
    most_confused,
    predict_split,
    worst_mistakes,
)

TEMPLATE = "report/report.html.jinja"
NOT_RUN = "not run"
VIEWS = {"center": "center view", "ten": "ten views"}
PACKAGES = ("jax", "flax", "optax", "numpy", "matplotlib")
NUM_SHOWN = (6, 2)  # correct and wrong predictions
NUM_MISTAKES = 12
NUM_CONFUSED = 10


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


@dataclass(frozen=True)
class ClassProbability:
    """A class: its name, its probability by the model, and whether it is the label."""

    name: str
    probability: float
    correct: bool


@dataclass(frozen=True)
class PredictedImage:
    """An image, its true class and up to five classes, the most probable first."""

    image: html_page.EmbeddedImage
    label: str
    top5: list[ClassProbability]


@dataclass
class Sections:
    """The content of the page; None and empty lists for what it leaves out.

    Attributes:
        confused: (true class, predicted, images, images of the true class).
        predicted: which images were used and how many are misclassified, for the text.
        left_out: (section, reason).
    """

    errors: list[ErrorRow]
    curves: html_page.EmbeddedImage | None = None
    predicted: str = ""
    predictions: list[PredictedImage] = field(default_factory=list)
    mistakes: list[PredictedImage] = field(default_factory=list)
    confusion: html_page.EmbeddedImage | None = None
    confused: list[tuple[str, str, int, int]] = field(default_factory=list)
    kernels: html_page.EmbeddedImage | None = None
    color: str = ""
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def leave_out(self, section: str, reason: str) -> None:
        """Leave out a section; print the reason on stderr, with full paths unlike on the page."""
        print(f"left out: {section}: {reason}", file=sys.stderr)
        self.left_out.append((section, html_page.strip_folders(reason)))


def make_sections(workdir: Path, model: TrainedModel, split: str | None) -> Sections:
    """Collect the content of the page.

    Raises:
        InputError: the data have no such split.
    """
    records = read_records(workdir)
    sections = Sections(final_errors(records, model.step))
    if any("views" not in record for record in records):
        alt = "Top-1 error over epochs, on training and on validation images."
        sections.curves = html_page.embed_figure(_scaled(plots.plot_curves(records, ""), 0.7), alt)
    else:
        reason = "metrics.jsonl has no records of training"
        if not model.step:
            reason = "the model was imported, not trained"
        sections.leave_out("learning curves", reason)
    if predicted := _predict(model, split, sections):
        _add_predictions(sections, model, *predicted)
    try:
        kernel = first_conv_kernels(model)
    except InputError as error:
        sections.leave_out("kernels", str(error))
    else:
        _add_kernels(sections, model, kernel)
    return sections


def _predict(
    model: TrainedModel, split: str | None, sections: Sections
) -> tuple[Pack, Predictions] | None:
    """Return a data set that is prepared already and the predictions for a split, or None."""
    data = model.config.data
    try:
        pack = open_pack(pack_dir(data))
        if split is None or split in pack.splits:
            pack = model_data.open_data(model)
            predictions = predict_split(model, pack, split)
            model_data.print_assumptions(model, pack, split)
            return pack, predictions
    except InputError as error:
        sections.leave_out("predictions, mistakes and confusion matrix", str(error))
        return None
    raise InputError(f"--split={split}: {data.name} has the splits {', '.join(pack.splits)}")


def _add_predictions(
    sections: Sections, model: TrainedModel, pack: Pack, predictions: Predictions
) -> None:
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
    sections.predictions = _predicted_images(model, pack, shown)
    sections.mistakes = _predicted_images(model, pack, mistakes)
    sections.confused, sections.confusion = summarize_confusion(predictions, model.class_names)


def _predicted_images(
    model: TrainedModel, pack: Pack, predictions: Predictions
) -> list[PredictedImage]:
    """Return the images with their labels and most probable classes."""
    if not len(predictions.index):
        return []
    shown = []
    images = load_crops(model, pack, predictions.split, predictions.index)
    for place, label, image, row in zip(
        predictions.index, predictions.labels, images, predictions.probabilities, strict=True
    ):
        name = readable_name(model.class_names[label])
        alt = f"Image {place} of the {predictions.split} split: {name}"
        top5 = [
            ClassProbability(short_name(model.class_names[c]), float(row[c]), bool(c == label))
            for c in np.argsort(-row, kind="stable")[:5]
        ]
        shown.append(PredictedImage(html_page.embed_pixels(image, alt), name, top5))
    return shown


def summarize_confusion(
    predictions: Predictions, names: tuple[str, ...]
) -> tuple[list[tuple[str, str, int, int]], html_page.EmbeddedImage | None]:
    """Return the pairs of classes most often confused, and for few classes the matrix.

    Returns:
        A list of (true class, predicted, images, images of the true class), and a figure.
    """
    counts = confusion_matrix(predictions.labels, predictions.classes, len(names))
    pairs = [
        (readable_name(names[a]), readable_name(names[b]), n, int(counts[a].sum()))
        for a, b, n in most_confused(counts, NUM_CONFUSED)
    ]
    if len(names) > plots.MATRIX_CLASSES:
        return pairs, None
    alt = f"Confusion matrix of {len(names)} classes: images by true and by predicted class."
    return pairs, html_page.embed_figure(_scaled(plots.plot_confusion(counts, names), 0.7), alt)


def _add_kernels(sections: Sections, model: TrainedModel, kernel: np.ndarray) -> None:
    color = measure_specialization(model)
    columns, height, width, _, count = kernel.shape
    alt = f"Kernels of conv1: {columns} columns of {count} kernels, {height} by {width} pixels."
    figure = _scaled(plots.plot_kernels(kernel, color.columns), 0.75)
    sections.kernels, sections.color = html_page.embed_figure(figure, alt), color.text


def _scaled(figure: Figure, factor: float) -> Figure:
    """Scale a figure but not its letters, to keep them legible on a phone."""
    figure.set_size_inches(*(factor * figure.get_size_inches()))
    return figure


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
    top1, top5 = (f"{100 * error:.2f} %" for error in (errors["top1_error"], errors["top5_error"]))
    return ErrorRow(images, top1, top5, f"{errors['loss']:.4f}", f"{errors['count']:,}")


def describe_progress(model: TrainedModel, records: list[Record]) -> str:
    """Return a sentence about how long the model was trained."""
    trained = [r for r in records if r["split"] == "train" and r["step"] <= model.step]
    if not model.step:
        return "The weights were imported, not trained."
    if not trained:
        return f"Trained for {model.step:,} steps."
    last_epoch = trained[-1]["epoch"]
    assert last_epoch is not None
    images = round(trained[-1]["step"] * model.config.batch_size / last_epoch)
    epochs = model.step * model.config.batch_size / images
    done = f"Trained for {model.step:,} steps, {epochs:.1f} epochs of {images:,} images"
    steps = total_steps(model.config, images)
    if model.step < steps:
        return f"{done}; training was interrupted, the config has {steps:,} steps."
    return f"{done}; training is complete."


def presets() -> Iterator[tuple[str, Config]]:
    """Yield the configs of this repository with their names on the command line."""
    for module, networks, changes in (
        (alexnet, (), variants.ABLATIONS),
        (source2012, (), variants.ABLATIONS),
        (zfnet, zfnet.NETWORKS, zfnet.CHANGES),
        (vgg, vgg.NETWORKS, vgg.CHANGES),
    ):
        file = f"configs/{module.__name__.rpartition('.')[2]}.py"
        for chosen in itertools.product(("", *module.DATA), ("", *networks), ("", *changes)):
            words = ",".join(filter(None, chosen))
            try:
                yield f"{file}:{words}".rstrip(":"), module.get_config(words)
            except InputError:  # words that cannot be combined
                continue
    yield "configs/bvlc_alexnet.py", bvlc_alexnet.get_config()
    yield "configs/one_weird_trick.py", one_weird_trick.get_config()


def nearest_preset(fields: dict[str, Any]) -> tuple[str, list[tuple[str, str, str]]]:
    """Find the preset that differs in the fewest fields, and list these fields.

    A number of classes that a preset leaves to the data does not count.

    Args:
        fields: of a config, from `configs.to_json`.

    Returns:
        The preset's name, and a list of (field, its value in the preset, its value in `fields`).
    """
    best: tuple[str, list[tuple[str, Any, Any]]] | None = None
    for name, preset in presets():
        expected = config_to_json(preset)
        num_classes = expected["model"]["num_classes"] or fields["model"]["num_classes"]
        expected["model"]["num_classes"] = num_classes
        found = list(differences(expected, fields))
        if best is None or len(found) < len(best[1]):
            best = name, found
    assert best is not None
    return best[0], [
        (path, _format_value(expected), _format_value(value)) for path, expected, value in best[1]
    ]


def load_recorded(workdir: Path) -> tuple[dict[str, Any], list[tuple[int, str, str, str]]]:
    """Load the config of a run in the order of its file, and its changes between steps.

    Returns:
        Fields, nested as in config.json, and a list of (step, field, from, to).
    """
    content = read_recorded(workdir)
    changed = [
        (c["step"], c["field"], _format_value(c["from"]), _format_value(c["to"]))
        for c in content["changes"]
    ]
    return {name: value for name, value in content.items() if name not in ADDED}, changed


def _format_value(value: Any) -> str:
    """Return a value as JSON, without the folders of this machine."""
    if isinstance(value, str):
        value = html_page.strip_folders(value)
    return "–" if value is None else json.dumps(value, ensure_ascii=False)


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
        progress=describe_progress(model, read_records(workdir)),
        sections=make_sections(workdir, model, split),
        layers=summarize(model.config),
        preset=preset,
        differing=differing,
        fields=[(name, _format_value(value)) for name, value in leaves(fields)],
        changed=changed,
        command=html_page.strip_folders(shlex.join(words)),
        date=datetime.date.today().isoformat(),
        versions=[("Python", platform.python_version()), *((p, version(p)) for p in PACKAGES)],
    )
