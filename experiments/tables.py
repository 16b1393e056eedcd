"""The paper's tables 1 and 2 with the numbers of trained nets in their place.

    python -m experiments.tables [--workdir=A,B,…] [--pretrained=C,D,…]
        [--folder=ILSVRC-2010|ILSVRC-2012] [--json]

--workdir names nets that began with random weights, and --pretrained nets that began with those
of another run (their config's init_from; the paper's asterisk). The first of each is the row of
one net, and all together are the rows of several, their softmax averaged over nets and views.
Every net is evaluated here, on all images of its test split (validation where there is no labelled
one), with ten views and with the centre view. What was not evaluated is "not run".

Numbers on images other than a table's own stand in columns of their own, which say which images
and how many. ILSVRC-2012 is known by the name that TensorFlow Datasets has for it; that a folder
of images holds ILSVRC-2010 or ILSVRC-2012, --folder says.

Prints Markdown, errors in per cent; or with --json an object a row, errors as fractions: "paper",
null where the paper has none; "here", on the table's images, and "other", on others, null where
not run.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from alexnet_jax import cache, command
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import Net, evaluate, load_net, open_split

NOT_RUN, NONE = "not run", "—"
ERRORS = ("top1_error", "top5_error")
VIEWS = {"ten": "ten views", "center": "centre view"}

# How many nets of a row began with random weights, and how many with another run's.
Nets = tuple[int, int]
ONE: Nets = (1, 0)


@dataclass(frozen=True)
class Row:
    """A row of a table, as the paper has it.

    Attributes:
        model: its name there.
        paper: errors in per cent, a column each; None where the paper has none.
        nets: whose average it is; None for the methods of others.
        views: "ten" or "center".
    """

    model: str
    paper: tuple[float | None, ...]
    nets: Nets | None = None
    views: str = "ten"


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        number: in the paper.
        about: what it shows.
        images: the data set; split: the one that nets can be evaluated on here.
        count: images in that split; classes: of the data set.
        columns: (heading, split, error) of each.
        rows: the paper's, in its order.
    """

    number: int
    about: str
    images: str
    split: str
    count: int
    classes: int
    columns: tuple[tuple[str, str, str], ...]
    rows: tuple[Row, ...]


TABLES = (
    Table(
        number=1,
        about="Errors on the test images of ILSVRC-2010, in %.",
        images="ILSVRC-2010",
        split="test",
        count=150_000,
        classes=1000,
        columns=(("Top-1", "test", "top1_error"), ("Top-5", "test", "top5_error")),
        rows=(
            Row("*Sparse coding*", (47.1, 28.2)),
            Row("*SIFT + FVs*", (45.7, 25.7)),
            Row("CNN", (37.5, 17.0), ONE),
            Row("CNN, centre view", (39.0, 18.3), ONE, "center"),  # 6, in a footnote
        ),
    ),
    Table(
        number=2,
        about="Errors on the validation and test images of ILSVRC-2012, in %.",
        images="ILSVRC-2012",
        split="validation",
        count=50_000,
        classes=1000,
        columns=(
            ("Top-1 (val)", "validation", "top1_error"),
            ("Top-5 (val)", "validation", "top5_error"),
            ("Top-5 (test)", "test", "top5_error"),
        ),
        rows=(
            Row("*SIFT + FVs*", (None, None, 26.2)),
            Row("1 CNN", (40.7, 18.2, None), ONE),
            Row("5 CNNs", (38.1, 16.4, 16.4), (5, 0)),
            Row("1 CNN*", (39.0, 16.6, None), (0, 1)),
            Row("7 CNNs*", (36.7, 15.4, 15.3), (5, 2)),
        ),
    ),
)
NOTE = (
    "In italics: others' best, from the paper. Ten views unless it says the centre view. An "
    "asterisk: first trained on other images, in the paper ImageNet of Fall 2011; 7 CNNs*: five "
    "without and two with."
)


@dataclass(frozen=True)
class Measured:
    """What was evaluated here.

    Attributes:
        images: the name of a table's data set, else that of the runs' data.
        split: of them; count: images in it.
        results: by nets and views, what `evaluate` gives.
        runs: the folders of each row's nets, with their steps.
    """

    images: str
    split: str
    count: int
    results: dict[tuple[Nets, str], dict[str, Any]]
    runs: dict[Nets, list[str]]


def measure(workdirs: list[str], pretrained: list[str], folder: str | None = None) -> Measured:
    """Evaluate nets one by one and averaged.

    Args:
        workdirs: of nets that began with random weights.
        pretrained: of nets that began with another run's; one net at least is given.
        folder: what a folder of images holds: the name of a table's data set.

    Raises:
        InputError: as `load_net`, `open_split` and `evaluate`; a run given twice, or in the
            place of the other kind; a folder that holds other images.
    """
    given = [*workdirs, *pretrained]
    ((most, times),) = Counter(str(Path(name).resolve()) for name in given).most_common(1)
    if times > 1:
        raise InputError(f"{most} is given {times} times; expected each net once")
    nets = [load_net(name) for name in given]
    for number, (name, net) in enumerate(zip(given, nets, strict=True)):
        _check_start(name, net, pretrained=number >= len(workdirs))
    pack, split = open_split(nets[0])
    count = pack.splits[split].count
    images = _images(nets[0].config.data, split, count, len(pack.class_names), folder)
    rows = _rows(len(workdirs), len(pretrained))
    # All nets first: those that do not go together are refused before anything long.
    sets = sorted(set(rows.values()), key=len, reverse=True)
    sets = sets[:1] + [chosen for chosen in sets[1:] if len(chosen) > 1]
    results: dict[tuple[Nets, str], dict[str, Any]] = {}
    for views, said in VIEWS.items():
        for chosen in sets:
            print(f"evaluate: {said}, {len(chosen)} of {len(nets)} nets", file=sys.stderr)
            _, found = evaluate([nets[i] for i in chosen], split, views)
            for row, which in rows.items():
                if which == chosen:  # of several, their average is the last
                    results[row, views] = found[-1]
                elif len(which) == 1 and which[0] in chosen:
                    results[row, views] = found[chosen.index(which[0])]
    named = [_named(name, net) for name, net in zip(given, nets, strict=True)]
    return Measured(
        images=images,
        split=split,
        count=count,
        results=results,
        runs={row: [named[i] for i in which] for row, which in rows.items()},
    )


def _rows(plain: int, pretrained: int) -> dict[Nets, tuple[int, ...]]:
    """Which nets make up which row: their numbers, from 0, the pretrained ones last."""
    rows: dict[Nets, tuple[int, ...]] = {}
    if plain:
        rows[ONE] = (0,)
        rows[plain, 0] = tuple(range(plain))
    if pretrained:
        rows[0, 1] = (plain,)
        rows[plain, pretrained] = tuple(range(plain + pretrained))
    return rows


def _check_start(name: str, net: Net, *, pretrained: bool) -> None:
    """Raise InputError for a net in the place of the other kind."""
    start = net.config.init_from
    if pretrained and not start:
        raise InputError(
            f"--pretrained={name} began with random weights (its config's init_from is empty); "
            "give it to --workdir"
        )
    if start and not pretrained:
        raise InputError(
            f"--workdir={name} began with the weights of {start} (its config's init_from); "
            "give it to --pretrained"
        )


def _named(workdir: str, net: Net) -> str:
    """As in runs/a (1125 steps, from runs/b)."""
    start = f", from {net.config.init_from}" if net.config.init_from else ""
    return f"{workdir} ({net.step} steps{start})"


def _images(data: ConfigDict, split: str, count: int, classes: int, folder: str | None) -> str:
    """What to call the images of `data`'s split.

    Raises:
        InputError: `folder` names others.
    """
    name = folder or {"imagenet2012": "ILSVRC-2012"}.get(data.name)
    for table in TABLES:
        if (name, split, count, classes) == (table.images, table.split, table.count, table.classes):
            return table.images
    where = f"{data.name} {Path(data.dir).name}" if data.name in ("folder", "idx") else data.name
    if folder:
        (table,) = (table for table in TABLES if table.images == folder)
        raise InputError(
            f"--folder={folder} has {table.count:,} images of {table.classes} classes to "
            f"{table.split}; these nets see {where}, {split}: {count:,} images of {classes} classes"
        )
    return where


@dataclass(frozen=True)
class Line:
    """A row with what was measured: fractions; None where it was not run.

    Attributes:
        here: on the table's images, a column each.
        other: top-1 and top-5 on others.
    """

    row: Row
    here: tuple[float | None, ...]
    other: tuple[float | None, ...]


def lines(table: Table, measured: Measured | None) -> list[Line]:
    """The rows of a table, the paper's and then those that only were measured."""
    if measured is None:
        return [Line(row, (None,) * len(table.columns), (None, None)) for row in table.rows]
    own, other = measured.images == table.images, is_other(measured)
    rows = list(table.rows)
    if own or (other and table.number == 2):
        there = {(row.nets, row.views) for row in rows}
        nothing = (None,) * len(table.columns)
        more = [key for key in measured.results if key not in there]
        rows += [Row(_model(nets, views), nothing, nets, views) for nets, views in more]
    made = []
    for row in rows:
        result = measured.results.get((row.nets, row.views), {}) if row.nets else {}
        here = tuple(
            result.get(error) if own and split == measured.split else None
            for _, split, error in table.columns
        )
        made.append(
            Line(row, here, tuple(result.get(error) if other else None for error in ERRORS))
        )
    return made


def is_other(measured: Measured | None) -> bool:
    """Whether the numbers belong to neither table's images."""
    return measured is not None and measured.images not in {table.images for table in TABLES}


def _model(nets: Nets, views: str = "ten") -> str:
    """The name of a row that the paper has not."""
    plain, pretrained = nets
    name = f"{plain + pretrained} CNN{'s' * (plain + pretrained > 1)}{'*' * bool(pretrained)}"
    mixed = f" ({plain} + {pretrained}*)" if plain and pretrained else ""
    return f"{name}{mixed}{', centre view' if views == 'center' else ''}"


def markdown(table: Table, measured: Measured | None) -> str:
    """A table to read, errors in per cent."""
    heads = ["", *(head for head, _, _ in table.columns)]
    heads += [f"here: {head}" for head, _, _ in table.columns]
    other = is_other(measured)
    if measured and other:
        where = f"{measured.images}, {measured.split}, {measured.count:,} images"
        heads += [f"here, on {where}: {head}" for head in ("Top-1", "Top-5")]
    text = [f"**Table {table.number}.** {table.about}", ""]
    text += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for line in lines(table, measured):
        paper = [NONE if error is None else f"{error:.1f}" for error in line.row.paper]
        ours = line.here + line.other * other
        cells = [
            NONE if line.row.nets is None else NOT_RUN if error is None else f"{100 * error:.2f}"
            for error in ours
        ]
        text.append(f"| {' | '.join([line.row.model, *paper, *cells])} |")
    return "\n".join(text)


def as_json(table: Table, measured: Measured | None) -> list[dict[str, Any]]:
    """A table's rows as objects; see the head of this file."""
    objects = []
    for line in lines(table, measured):
        names = [f"{error.removesuffix('_error')}_{split}" for _, split, error in table.columns]
        paper = [None if error is None else round(error / 100, 3) for error in line.row.paper]
        ours: dict[str, Any] = {"here": None, "other": None}
        if line.row.nets is not None:
            ours["here"] = dict(zip(names, line.here, strict=True))
            if measured and line.other != (None, None):
                about = {"images": measured.images, "split": measured.split}
                errors = dict(zip(ERRORS, line.other, strict=True))
                ours["other"] = {**about, "count": measured.count, **errors}
        objects.append(
            {
                "table": table.number,
                "images": table.images,
                "model": line.row.model.strip("*") if line.row.nets is None else line.row.model,
                "views": line.row.views if line.row.nets else None,
                "paper": dict(zip(names, paper, strict=True)),
                **ours,
            }
        )
    return objects


def main(_: list[str]) -> None:
    """The command."""
    cache.keep_compiled()
    flag = flags.FLAGS
    if flag.folder and not (flag.workdir or flag.pretrained):
        raise InputError(f"--folder={flag.folder} without nets; expected --workdir or --pretrained")
    measured = None
    if flag.workdir or flag.pretrained:
        measured = measure(flag.workdir, flag.pretrained, flag.folder)
    if flag.json:
        for table in TABLES:
            for one in as_json(table, measured):
                print(json.dumps(one, ensure_ascii=False))
        return
    print("\n\n".join(markdown(table, measured) for table in TABLES))
    print(f"\n{NOTE}")
    if measured:
        print("\nThe nets here:\n")
        for nets, runs in measured.runs.items():
            print(f"- {_model(nets)}: {', '.join(runs)}")


if __name__ == "__main__":
    flags.DEFINE_list("workdir", [], "Folders of runs that began with random weights.")
    flags.DEFINE_list("pretrained", [], "Folders of runs that began with another run's weights.")
    names = [table.images for table in TABLES]
    flags.DEFINE_enum("folder", None, names, "What a folder of images holds (data.name=folder).")
    flags.DEFINE_bool("json", False, "One JSON object a row instead of Markdown.")
    command.run(main)
