"""Print the paper's tables 1 and 2 beside the errors of trained models.

    python -m experiments.tables [--workdir=A,B,…] [--pretrained=C,D,…]
        [--folder=ILSVRC-2010|ILSVRC-2012] [--json]

--workdir names models that began with random weights, and --pretrained models that began with
those of another run (their config's init_from; the paper's asterisk). The first of each makes the
row of one model, and all together make the rows of several, their softmax averaged over models and
views. Every model is evaluated on all images of its labeled test split, or else of validation, with
ten views and with the center view. What was not evaluated is "not run".

Errors on images other than a table's own are in separate columns, whose headings name the images
and their number. ILSVRC-2012 is recognized by its name in TensorFlow Datasets; --folder declares
that a folder of images holds ILSVRC-2010 or ILSVRC-2012.

Prints Markdown, errors in percent; or with --json an object a row, errors as fractions: "paper",
null where the paper has none; "measured", on the table's images, and "other", on others, null
where not run.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from alexnet_jax import cache, command
from alexnet_jax.data.sources import FILE_SOURCES
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.metrics import Metrics
from alexnet_jax.model_data import choose_split, open_data, print_assumptions
from alexnet_jax.trained import TrainedModel, load_trained

NOT_RUN, NONE = "not run", "—"
ERRORS = ("top1_error", "top5_error")
VIEWS = {"ten": "ten views", "center": "center view"}

# How many models of a row began with random weights, and how many with another run's.
ModelCounts = tuple[int, int]
ONE: ModelCounts = (1, 0)


@dataclass(frozen=True)
class Row:
    """A row of a table in the paper.

    Attributes:
        model: its name in the paper.
        paper: errors in percent, a column each; None where the paper has none.
        counts: of the models whose average it is; None for the methods of others.
        views: "ten" or "center".
    """

    model: str
    paper: tuple[float | None, ...]
    counts: ModelCounts | None = None
    views: str = "ten"


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        number: in the paper.
        caption: in the paper.
        images: the data set; split: the labeled one that models are evaluated on.
        count: images in that split; classes: of the data set.
        columns: (heading, split, error) of each.
        rows: the paper's, in its order.
    """

    number: int
    caption: str
    images: str
    split: str
    count: int
    classes: int
    columns: tuple[tuple[str, str, str], ...]
    rows: tuple[Row, ...]


TABLES = (
    Table(
        number=1,
        caption="Errors on the test images of ILSVRC-2010, in %.",
        images="ILSVRC-2010",
        split="test",
        count=150_000,
        classes=1000,
        columns=(("Top-1", "test", "top1_error"), ("Top-5", "test", "top5_error")),
        rows=(
            Row("*Sparse coding*", (47.1, 28.2)),
            Row("*SIFT + FVs*", (45.7, 25.7)),
            Row("CNN", (37.5, 17.0), ONE),
            Row("CNN, center view", (39.0, 18.3), ONE, "center"),  # 6, in a footnote
        ),
    ),
    Table(
        number=2,
        caption="Errors on the validation and test images of ILSVRC-2012, in %.",
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
    "Italics: the best results of others, from the paper. Ten views unless stated otherwise. "
    "Asterisk: pretrained on other images, in the paper on ImageNet of Fall 2011; 7 CNNs*: five "
    "models without pretraining and two with."
)


@dataclass(frozen=True)
class Evaluation:
    """The errors of the given models.

    Attributes:
        images: the name of a table's data set, else that of the runs' data.
        split: of them; count: images in it.
        results: of `evaluate`, by numbers of models and views.
        runs: the folders of each row's models, with their steps.
    """

    images: str
    split: str
    count: int
    results: dict[tuple[ModelCounts, str], Metrics]
    runs: dict[ModelCounts, list[str]]


def evaluate_all(
    workdirs: list[str], pretrained: list[str], folder: str | None = None
) -> Evaluation:
    """Evaluate models one by one and averaged.

    Args:
        workdirs: of models that began with random weights.
        pretrained: of models that began with another run's; at least one model is given.
        folder: the name of the table's data set that a folder of images holds.

    Raises:
        InputError: as `load_trained`, `open_data` and `evaluate`; a run given twice, or in the
            place of the other kind; a folder that holds other images.
    """
    given = [*workdirs, *pretrained]
    ((most, times),) = Counter(str(Path(name).resolve()) for name in given).most_common(1)
    if times > 1:
        raise InputError(f"{most} is given {times} times; expected each model once")
    models = [load_trained(name) for name in given]
    for number, (name, model) in enumerate(zip(given, models, strict=True)):
        _check_start(name, model, pretrained=number >= len(workdirs))
    pack = open_data(models[0])
    split = choose_split(models[0], pack)
    print_assumptions(models[0], pack, None)
    count = pack.splits[split].count
    images = _name_images(models[0].config.data, split, count, len(pack.class_names), folder)
    rows = _rows(len(workdirs), len(pretrained))
    # All models first: those that cannot be averaged are refused before anything long.
    sets = sorted(set(rows.values()), key=len, reverse=True)
    sets = sets[:1] + [chosen for chosen in sets[1:] if len(chosen) > 1]
    results: dict[tuple[ModelCounts, str], Metrics] = {}
    for views, name in VIEWS.items():
        for chosen in sets:
            count_of = f"{len(chosen)} of {len(models)} models"
            print(f"evaluate: {name}, {count_of}", file=sys.stderr)
            _, found = evaluate([models[i] for i in chosen], split, views)
            for row, which in rows.items():
                if which == chosen:  # of several, their average is the last
                    results[row, views] = found[-1]
                elif len(which) == 1 and which[0] in chosen:
                    results[row, views] = found[chosen.index(which[0])]
    named = [_name_run(name, model) for name, model in zip(given, models, strict=True)]
    return Evaluation(
        images=images,
        split=split,
        count=count,
        results=results,
        runs={row: [named[i] for i in which] for row, which in rows.items()},
    )


def _rows(plain: int, pretrained: int) -> dict[ModelCounts, tuple[int, ...]]:
    """Return the models of each row by their numbers, from 0, the pretrained ones last."""
    rows: dict[ModelCounts, tuple[int, ...]] = {}
    if plain:
        rows[ONE] = (0,)
        rows[plain, 0] = tuple(range(plain))
    if pretrained:
        rows[0, 1] = (plain,)
        rows[plain, pretrained] = tuple(range(plain + pretrained))
    return rows


def _check_start(name: str, model: TrainedModel, *, pretrained: bool) -> None:
    """Raise InputError for a model given to the flag of the other kind."""
    start = model.config.init_from
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


def _name_run(workdir: str, model: TrainedModel) -> str:
    """Return a name such as "runs/a (1125 steps, from runs/b)"."""
    start = f", from {model.config.init_from}" if model.config.init_from else ""
    return f"{workdir} ({model.step} steps{start})"


def _name_images(data: DataConfig, split: str, count: int, classes: int, folder: str | None) -> str:
    """Return the name of the images of a split.

    Raises:
        InputError: `folder` names other images.
    """
    name = folder or {"imagenet2012": "ILSVRC-2012"}.get(data.name)
    for table in TABLES:
        if (name, split, count, classes) == (table.images, table.split, table.count, table.classes):
            return table.images
    where = f"{data.name} {Path(data.dir).name}" if data.name in FILE_SOURCES else data.name
    if folder:
        (table,) = (table for table in TABLES if table.images == folder)
        raise InputError(
            f"--folder={folder} has {table.count:,} images of {table.classes} classes to "
            f"{table.split}; these models take {where}, {split}: {count:,} images of {classes} "
            "classes"
        )
    return where


@dataclass(frozen=True)
class ResultRow:
    """A row with the measured errors as fractions; None where it was not run.

    Attributes:
        measured: on the table's images, a column each.
        other: top-1 and top-5 on others.
    """

    row: Row
    measured: tuple[float | None, ...]
    other: tuple[float | None, ...]


def result_rows(table: Table, evaluation: Evaluation | None) -> list[ResultRow]:
    """Return the rows of a table, those of the paper and then those that were only measured."""
    if evaluation is None:
        return [ResultRow(row, (None,) * len(table.columns), (None, None)) for row in table.rows]
    own, other = evaluation.images == table.images, is_other(evaluation)
    rows = list(table.rows)
    if own or (other and table.number == 2):
        in_paper = {(row.counts, row.views) for row in rows}
        nothing = (None,) * len(table.columns)
        more = [key for key in evaluation.results if key not in in_paper]
        rows += [Row(_name_row(counts, views), nothing, counts, views) for counts, views in more]
    made = []
    for row in rows:
        found = evaluation.results.get((row.counts, row.views)) if row.counts else None
        result: dict[str, Any] = {**found} if found else {}
        measured = tuple(
            result.get(error) if own and split == evaluation.split else None
            for _, split, error in table.columns
        )
        made.append(
            ResultRow(
                row, measured, tuple(result.get(error) if other else None for error in ERRORS)
            )
        )
    return made


def is_other(evaluation: Evaluation | None) -> bool:
    """Return whether the errors are on neither table's images."""
    return evaluation is not None and evaluation.images not in {table.images for table in TABLES}


def _name_row(counts: ModelCounts, views: str = "ten") -> str:
    """Return the name of a row that the paper does not have."""
    plain, pretrained = counts
    name = f"{plain + pretrained} CNN{'s' * (plain + pretrained > 1)}{'*' * bool(pretrained)}"
    mixed = f" ({plain} + {pretrained}*)" if plain and pretrained else ""
    return f"{name}{mixed}{', center view' if views == 'center' else ''}"


def format_table(table: Table, evaluation: Evaluation | None) -> str:
    """Return a table as Markdown, errors in percent."""
    heads = ["", *(head for head, _, _ in table.columns)]
    heads += [f"measured: {head}" for head, _, _ in table.columns]
    other = is_other(evaluation)
    if evaluation and other:
        where = f"{evaluation.images}, {evaluation.split}, {evaluation.count:,} images"
        heads += [f"measured on {where}: {head}" for head in ("Top-1", "Top-5")]
    text = [f"**Table {table.number}.** {table.caption}", ""]
    text += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for line in result_rows(table, evaluation):
        paper = [NONE if error is None else f"{error:.1f}" for error in line.row.paper]
        ours = line.measured + line.other * other
        cells = [
            NONE if line.row.counts is None else NOT_RUN if error is None else f"{100 * error:.2f}"
            for error in ours
        ]
        text.append(f"| {' | '.join([line.row.model, *paper, *cells])} |")
    return "\n".join(text)


def to_json(table: Table, evaluation: Evaluation | None) -> list[dict[str, Any]]:
    """Return a table's rows as JSON objects, as described at the top of this file."""
    objects = []
    for line in result_rows(table, evaluation):
        names = [f"{error.removesuffix('_error')}_{split}" for _, split, error in table.columns]
        paper = [None if error is None else round(error / 100, 3) for error in line.row.paper]
        ours: dict[str, Any] = {"measured": None, "other": None}
        if line.row.counts is not None:
            ours["measured"] = dict(zip(names, line.measured, strict=True))
            if evaluation and line.other != (None, None):
                images = {"images": evaluation.images, "split": evaluation.split}
                errors = dict(zip(ERRORS, line.other, strict=True))
                ours["other"] = {**images, "count": evaluation.count, **errors}
        objects.append(
            {
                "table": table.number,
                "images": table.images,
                "model": line.row.model.strip("*") if line.row.counts is None else line.row.model,
                "views": line.row.views if line.row.counts else None,
                "paper": dict(zip(names, paper, strict=True)),
                **ours,
            }
        )
    return objects


def main(_: list[str]) -> None:
    """Run the command."""
    cache.keep_compiled()
    flag = flags.FLAGS
    if flag.folder and not (flag.workdir or flag.pretrained):
        raise InputError(
            f"--folder={flag.folder} without models; expected --workdir or --pretrained"
        )
    evaluation = None
    if flag.workdir or flag.pretrained:
        evaluation = evaluate_all(flag.workdir, flag.pretrained, flag.folder)
    if flag.json:
        for table in TABLES:
            for one in to_json(table, evaluation):
                print(json.dumps(one, ensure_ascii=False))
        return
    print("\n\n".join(format_table(table, evaluation) for table in TABLES))
    print(f"\n{NOTE}")
    if evaluation:
        print("\nModels:\n")
        for counts, runs in evaluation.runs.items():
            print(f"- {_name_row(counts)}: {', '.join(runs)}")


if __name__ == "__main__":
    flags.DEFINE_list("workdir", [], "Folders of runs that began with random weights.")
    flags.DEFINE_list("pretrained", [], "Folders of runs that began with another run's weights.")
    names = [table.images for table in TABLES]
    flags.DEFINE_enum(
        "folder", None, names, "The data set in a folder of images (data.name=folder)."
    )
    flags.DEFINE_bool("json", False, "One JSON object a row instead of Markdown.")
    command.run(main)
