"""Evaluate what the tables of papers need, each model and way of testing once."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import jax

from alexnet_jax.compatible import check_compatible, shared_settings
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.sources import FILE_SOURCES
from alexnet_jax.data_config import DataConfig
from alexnet_jax.diagnostics import check_loss
from alexnet_jax.errors import DivergedError, InputError
from alexnet_jax.evaluate import VIEW_NAMES, evaluate
from alexnet_jax.metrics import Metrics
from alexnet_jax.model_data import choose_split, open_data, print_assumptions
from alexnet_jax.trained import TrainedModel, load_trained
from experiments.tables.networks import find_network, paper_of
from experiments.tables.planning import Given, Images, Plan, Test, plan_paper
from experiments.tables.published import PAPERS, Paper

# Data sets of tables by the names of their sources; folders are declared with --folder.
DATA_SETS = {
    "imagenet2012": "ILSVRC-2012",
    "cifar10": "CIFAR-10",
    "cifar10_binary": "CIFAR-10",
}
TABLES = tuple(table for paper in PAPERS for table in paper.tables)


@dataclass(frozen=True)
class Measurements:
    """The errors for the tables of papers.

    Attributes:
        plans: the rows, a plan for each paper.
        errors: results of `evaluate`; a test that the models refuse, or whose loss is not finite,
            is missing.
        models: a description of each model.
    """

    plans: tuple[Plan, ...]
    errors: dict[Test, Metrics]
    models: tuple[str, ...]


def measure_errors(
    workdirs: Sequence[str], papers: Sequence[Paper] | None = None, folder: str | None = None
) -> Measurements:
    """Evaluate models for the tables of papers.

    Args:
        workdirs: folders of the models' runs; without any, nothing is measured.
        papers: the papers; None takes those whose families the models belong to, or AlexNet's.
        folder: name of the tables' data set that folders of images hold.

    Raises:
        InputError: a run is given twice or cannot be loaded, models of a row cannot be averaged, or
            a folder has other images.
    """
    _check_distinct(workdirs)
    models = [load_trained(workdir) for workdir in workdirs]
    if folder and all(model.config.data.name != "folder" for model in models):
        raise InputError(
            f"--folder={folder} names the images of a folder, and no model was trained on one "
            "(data.name=folder); leave it out"
        )
    if papers is None:
        names = {paper_of(model.config) for model in models} or {"alexnet"}
        papers = [paper for paper in PAPERS if paper.name in names]
    groups = _group_compatible(models)
    packs = {first: open_data(models[first]) for first in dict.fromkeys(groups)}
    for first, pack in packs.items():
        print_assumptions(models[first], pack, None)
    given = [
        describe_model(workdir, model, packs[first], folder)
        for workdir, model, first in zip(workdirs, models, groups, strict=True)
    ]
    plans = tuple(plan_paper(paper, given) for paper in papers)
    tests = set[Test]().union(*(plan.tests() for plan in plans))
    for members, _ in tests:  # before anything long
        for one, other in combinations(members, 2):
            check_compatible(models[one], models[other])
    errors: dict[Test, Metrics] = {}
    for first, pack in packs.items():
        of_group = {(members, views) for members, views in tests if groups[members[0]] == first}
        split = given[first].images.split
        errors |= _evaluate_group(workdirs, models, pack, split, of_group)
    described = tuple(map(_describe_run, given, models))
    return Measurements(plans, errors, described)


def _check_distinct(workdirs: Sequence[str]) -> None:
    """Raise InputError for a run that is given twice."""
    counts = Counter(str(Path(name).resolve()) for name in workdirs)
    for name, times in counts.items():
        if times > 1:
            raise InputError(f"{name} is given {times} times; expected each model once")


def _group_compatible(models: Sequence[TrainedModel]) -> list[int]:
    """Return for each model the number of the first one with which it can be averaged.

    A model without a recorded digest is put into the group of the first model with the same
    settings that has one.
    """
    pairs = [(shared_settings(model), model.source_digest) for model in models]
    keys = []
    for own, digest in pairs:
        known = [other for settings, other in pairs if settings == own and other is not None]
        keys.append((own, digest or next(iter(known), None)))
    return [keys.index(key) for key in keys]


def _evaluate_group(
    workdirs: Sequence[str],
    models: Sequence[TrainedModel],
    pack: Pack,
    split: str,
    tests: set[Test],
) -> dict[Test, Metrics]:
    """Evaluate models that can be averaged, each once in every way of testing.

    A way that a model refuses is left out for it, with the reason on stderr, and so is a result
    whose loss is not finite.
    """
    found: dict[Test, Metrics] = {}
    for views in VIEW_NAMES:
        rows = sorted(members for members, way in tests if way == views)
        used = sorted({one for members in rows for one in members})
        if not rows:
            continue
        averaged = [members for members in rows if len(members) > 1]
        name = VIEW_NAMES[views]
        print(f"evaluate: {name}, {len(used)} of {len(models)} models", file=sys.stderr)
        try:
            _, results = evaluate(
                [models[one] for one in used],
                split,
                views,
                pack=pack,
                averages=[[used.index(one) for one in members] for members in averaged],
            )
        except InputError as error:
            if len(rows) > 1:  # another model may not refuse
                for members in rows:
                    found |= _evaluate_group(workdirs, models, pack, split, {(members, views)})
                continue
            print(f"not run: {name}: {error}", file=sys.stderr)
            continue
        keys = [(one,) for one in used] + averaged
        for key, result in zip(keys, results, strict=True):
            try:
                check_loss(", ".join(workdirs[one] for one in key), split, result["loss"])
            except DivergedError as error:
                print(f"left out: {name}: {error}", file=sys.stderr)
                continue
            found[key, views] = result
    return found


def describe_model(workdir: str, model: TrainedModel, pack: Pack, folder: str | None) -> Given:
    """Return what the tables need to know of a model.

    Raises:
        InputError: `folder` names other images than those of the model's folder.
    """
    split = choose_split(model, pack)
    count, classes = pack.splits[split].count, len(pack.class_names)
    name = name_images(model.config.data, split, count, classes, folder)
    network = find_network(model.config)
    return Given(
        workdir,
        network.name if network else None,
        is_full=find_network(model.config, small=False) is not None,
        images=Images(name, split, count),
    )


def name_images(data: DataConfig, split: str, count: int, classes: int, folder: str | None) -> str:
    """Return the name of the images of a split.

    Raises:
        InputError: `folder` names other images than those of a folder.
    """
    declared = folder if data.name == "folder" else None
    name = declared or DATA_SETS.get(data.name)
    for table in TABLES:
        if (name, split, count, classes) == (table.images, table.split, table.count, table.classes):
            return table.images
    where = f"{data.name} {Path(data.dir).name}" if data.name in FILE_SOURCES else data.name
    if declared:
        table = next(table for table in TABLES if table.images == declared)
        raise InputError(
            f"--folder={declared} has {table.count:,} images of {table.classes} classes to "
            f"{table.split}; these models take {where}, {split}: {count:,} images of {classes} "
            "classes"
        )
    return where


def _describe_run(given: Given, model: TrainedModel) -> str:
    """Return a line such as "runs/a: AlexNet, 1,125 steps, 687,082 parameters, on sample"."""
    size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    steps = f"{model.step:,} steps" if model.step else "imported weights"
    start = f", from {model.config.init_from}" if model.config.init_from else ""
    network = given.network or "no network of the papers"
    return (
        f"{given.workdir}: {network}, {size:,} parameters, {steps}{start}, on {given.images.name}"
    )
