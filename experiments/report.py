"""One page about a run, in one file that needs no network.

    python -m experiments.report --workdir=DIR [--split=test] [--output=DIR/report.html]

The errors, the learning curves, what the net says of images and where it is wrong, the kernels of
conv1, the layers and the config. The page is made from the newest checkpoint, metrics.jsonl and
the prepared images. What a workdir does not have is left out, and the page says why: nothing is
prepared or downloaded for it.
"""

import datetime
import json
import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from alexnet_jax import cache, command, describe, metrics
from alexnet_jax.data.names import readable_name, short_name
from alexnet_jax.data.pack import open_pack
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import Net, load_net
from alexnet_jax.prepare import pack_dir
from alexnet_jax.train import total_steps
from alexnet_jax.workdir import ADDED, differences
from alexnet_jax.writers import read_records
from configs import alexnet, bvlc_alexnet, one_weird_trick, source2012, variants
from experiments import html, looking, plots
from experiments.looking import Look

TEMPLATE = "report.html.jinja"
NOT_RUN = "not run"
VIEWS = {"center": "centre view", "ten": "ten views"}
PACKAGES = ("jax", "flax", "optax", "numpy", "matplotlib")
SHOWN = (6, 2)  # images that the net has right and wrong
WORST = 12
MIX_UPS = 10


@dataclass(frozen=True)
class Errors:
    """A line of the table of errors; what was not measured says so.

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
class Guess:
    """A class that the net takes an image for: its name, probability, and whether it is right."""

    name: str
    share: float
    right: bool


@dataclass(frozen=True)
class Seen:
    """An image, its class and the up to five guesses of the net, the most probable first."""

    picture: html.EmbeddedImage
    label: str
    guesses: list[Guess]


@dataclass
class Sections:
    """What the page shows of a run; None and empty lists are what it leaves out.

    Attributes:
        mix_ups: (true class, taken for, images, images of the true class).
        seen: which images were looked at and how many are wrong, for the text.
        left_out: (section, why).
    """

    errors: list[Errors]
    curves: html.EmbeddedImage | None = None
    seen: str = ""
    predictions: list[Seen] = field(default_factory=list)
    worst: list[Seen] = field(default_factory=list)
    confusion: html.EmbeddedImage | None = None
    mix_ups: list[tuple[str, str, int, int]] = field(default_factory=list)
    kernels: html.EmbeddedImage | None = None
    colour: str = ""
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def leave_out(self, section: str, why: str) -> None:
        """Say why a section is not there, on stderr with the folders that the page leaves out."""
        print(f"left out: {section}: {why}", file=sys.stderr)
        self.left_out.append((section, html.strip_folders(why)))


def gather(workdir: Path, net: Net, split: str | None) -> Sections:
    """Everything that the page shows of a run.

    Raises:
        InputError: the data have no such split.
    """
    records = read_records(workdir)
    sections = Sections(final_errors(records, net.step))
    if any("views" not in record for record in records):
        alt = "Top-1 error over epochs, on training and on validation images."
        sections.curves = html.embed_figure(_scaled(plots.plot_curves(records, ""), 0.7), alt)
    else:
        why = "metrics.jsonl has no records of training" if net.step else "nothing was trained here"
        sections.leave_out("learning curves", why)
    if look := _look(net, split, sections):
        _add_look(sections, net, look)
    try:
        kernel = looking.conv1(net)
    except InputError as error:
        sections.leave_out("kernels", str(error))
    else:
        _add_kernels(sections, net, kernel)
    return sections


def _look(net: Net, split: str | None, sections: Sections) -> Look | None:
    """What the net makes of a split whose images are prepared already; None where none are."""
    data = net.config.data
    try:
        splits = open_pack(pack_dir(data)).splits
        if split is None or split in splits:
            return looking.look(net, split)
    except InputError as error:
        sections.leave_out("predictions, mistakes and confusion matrix", str(error))
        return None
    raise InputError(f"--split={split}: {data.name} has the splits {', '.join(splits)}")


def _add_look(sections: Sections, net: Net, look: Look) -> None:
    everyone = jnp.ones(len(look.labels), bool)
    sums = metrics.sums(jnp.asarray(look.log_probabilities), jnp.asarray(look.labels), everyone)
    counted = metrics.Totals()
    counted.add(jax.device_get(sums))
    name = f"{look.split}, centre view"
    if name not in [row.images for row in sections.errors]:
        sections.errors.append(_errors(f"{name}, counted for this page", counted.means()))
    wrong = np.count_nonzero(~look.right)
    sections.seen = (
        f"{len(look.labels):,} images of the {look.split} split in their centre view, {wrong:,}"
    )
    sections.predictions = _seen(net, look.at(looking.choose(look, *SHOWN)))
    sections.worst = _seen(net, look.at(looking.worst(look, WORST)))
    sections.mix_ups, sections.confusion = mix_ups(look, net.class_names)


def _seen(net: Net, look: Look) -> list[Seen]:
    """Cards of all images of a look, of none if the net has made no mistake."""
    if not len(look.index):
        return []
    shown = []
    pixels = looking.pictures(net, look.split, look.index)
    for place, label, picture, shares in zip(
        look.index, look.labels, pixels, look.probabilities, strict=True
    ):
        name = readable_name(net.class_names[label])
        alt = f"Image {place} of the {look.split} split: {name}"
        guesses = [
            Guess(short_name(net.class_names[c]), float(shares[c]), bool(c == label))
            for c in np.argsort(-shares, kind="stable")[:5]
        ]
        shown.append(Seen(html.embed_pixels(picture, alt), name, guesses))
    return shown


def mix_ups(
    look: Look, names: tuple[str, ...]
) -> tuple[list[tuple[str, str, int, int]], html.EmbeddedImage | None]:
    """What is taken for what: the pairs most often confused, and of few classes the matrix.

    Returns:
        A list of (true class, taken for, images, images of the true class), and a picture.
    """
    counts = looking.confusion(look.labels, look.predictions, len(names))
    pairs = [
        (readable_name(names[a]), readable_name(names[b]), n, int(counts[a].sum()))
        for a, b, n in looking.mix_ups(counts, MIX_UPS)
    ]
    if len(names) > plots.MATRIX:
        return pairs, None
    alt = f"How many images of each of {len(names)} classes were taken for each class."
    return pairs, html.embed_figure(_scaled(plots.plot_confusion(counts, names), 0.7), alt)


def _add_kernels(sections: Sections, net: Net, kernel: np.ndarray) -> None:
    colour = looking.specialisation(net)
    columns, height, width, _, maps = kernel.shape
    alt = f"Columns of conv1: {columns}, each with {maps} kernels of {height} by {width} pixels."
    figure = _scaled(plots.plot_kernels(kernel, colour.columns), 0.75)
    sections.kernels, sections.colour = html.embed_figure(figure, alt), colour.text


def _scaled(figure: Figure, factor: float) -> Figure:
    """A smaller figure with letters as large as before, for a phone to show legibly."""
    figure.set_size_inches(*(factor * figure.get_size_inches()))
    return figure


def final_errors(records: list[dict[str, Any]], step: int) -> list[Errors]:
    """The errors that were measured on the net of a step; "not run" for the others."""
    found = [r for r in records if r["step"] == step and r["split"] != "train"]
    rows = []
    for views, name in VIEWS.items():
        of = [r for r in found if r.get("views") == views]
        rows += [_errors(f"{r['split']}, {name}", r) for r in of] or [Errors(f"final, {name}")]
    while_training = [r for r in found if "views" not in r]
    return rows + [_errors(f"{r['split']}, while training", r) for r in while_training]


def _errors(images: str, record: dict[str, Any]) -> Errors:
    top1, top5 = (f"{100 * record[name]:.2f} %" for name in ("top1_error", "top5_error"))
    return Errors(images, top1, top5, f"{record['loss']:.4f}", f"{record['count']:,}")


def state(net: Net, records: list[dict[str, Any]]) -> str:
    """How far the run has come, as a sentence."""
    trained = [r for r in records if r["split"] == "train" and r["step"] <= net.step]
    if not net.step:
        return "The weights were imported; nothing was trained here."
    if not trained:
        return f"Trained for {net.step:,} steps."
    images = round(trained[-1]["step"] * net.config.batch_size / trained[-1]["epoch"])
    epochs = net.step * net.config.batch_size / images
    done = f"Trained for {net.step:,} steps, {epochs:.1f} times through {images:,} images"
    steps = total_steps(net.config, images)
    if net.step < steps:
        return f"{done}; it was interrupted, its config asks for {steps:,} steps."
    return f"{done}, to the end."


def presets() -> Iterator[tuple[str, ConfigDict]]:
    """The configs that come with the program, by their names on the command line."""
    for module in (alexnet, source2012):
        file = f"configs/{module.__name__.rpartition('.')[2]}.py"
        for data in ("", *module.DATA):
            for word in ("", *variants.ABLATIONS):
                words = ",".join(filter(None, (data, word)))
                try:
                    yield f"{file}:{words}".rstrip(":"), module.get_config(words)
                except ValueError:  # words that do not go together
                    continue
    yield "configs/bvlc_alexnet.py", bvlc_alexnet.get_config()
    yield "configs/one_weird_trick.py", one_weird_trick.get_config()


def nearest_preset(fields: dict[str, Any]) -> tuple[str, list[tuple[str, str, str]]]:
    """The preset with the fewest other fields, and these: (field, there, here).

    A number of classes that a preset leaves to the data does not count.

    Args:
        fields: as `recorded` gives them.
    """
    best: tuple[str, list[tuple[str, Any, Any]]] | None = None
    for name, preset in presets():
        there = json.loads(preset.to_json())
        there["model"]["classes"] = there["model"]["classes"] or fields["model"]["classes"]
        found = list(differences(there, fields))
        if best is None or len(found) < len(best[1]):
            best = name, found
    assert best is not None
    return best[0], [(one, _text(there), _text(here)) for one, there, here in best[1]]


def recorded(workdir: Path) -> tuple[dict[str, Any], list[tuple[int, str, str, str]]]:
    """The config of a run in the order of its file, and what was changed on the way.

    Returns:
        Fields, nested as in config.json, and a list of (step, field, from, to).
    """
    content = json.loads((workdir / "config.json").read_text())
    changed = [
        (c["step"], c["field"], _text(c["from"]), _text(c["to"])) for c in content["changes"]
    ]
    return {name: value for name, value in content.items() if name not in ADDED}, changed


def leaves(fields: dict[str, Any], name: str = "") -> Iterator[tuple[str, str]]:
    """(field, value) of everything in a config, as model.lrn.size and 5."""
    for key, value in fields.items():
        where = f"{name}.{key}" if name else key
        if isinstance(value, dict):
            yield from leaves(value, where)
        else:
            yield where, _text(value)


def _text(value: Any) -> str:
    """A value as JSON has it, without the folders of this machine."""
    if isinstance(value, str):
        value = html.strip_folders(value)
    return "–" if value is None else json.dumps(value, ensure_ascii=False)


def report(workdir: Path, net: Net, split: str | None, words: list[str]) -> str:
    """The page.

    Args:
        split: to look at; None takes test, and validation where there is no labelled test.
        words: of the command line, for the page to say how it was made.

    Raises:
        InputError: the data have no such split.
    """
    fields, changed = recorded(workdir)
    preset, differing = nearest_preset(fields)
    return html.render_template(
        TEMPLATE,
        name=workdir.resolve().name,
        net=net,
        state=state(net, read_records(workdir)),
        sections=gather(workdir, net, split),
        layers=describe.layers(net.config),
        preset=preset,
        differing=differing,
        fields=list(leaves(fields)),
        changed=changed,
        command=html.strip_folders(shlex.join(["python", "-m", "experiments.report", *words])),
        date=datetime.date.today().isoformat(),
        versions=[("Python", platform.python_version()), *((p, version(p)) for p in PACKAGES)],
    )


def main(_: list[str]) -> None:
    """The command."""
    cache.keep_compiled()
    flag = flags.FLAGS
    workdir = Path(flag.workdir)
    output = Path(flag.output) if flag.output else workdir / "report.html"
    html = report(workdir, load_net(workdir), flag.split, sys.argv[1:])
    try:
        output.write_text(html, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write --output={output}: {error.strerror}") from None
    print(output)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("split", None, "Split; by default test, or validation without a test.")
    flags.DEFINE_string("output", None, "File to write; by default report.html in the workdir.")
    command.run(main)
