"""The papers' tables with our errors: whose they are, where they stand, and what was not run."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.image_sets import write_idx_set
from helpers.in_process import run_here

from alexnet_jax import fields
from alexnet_jax.config import validated
from alexnet_jax.convert import write_workdir
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.metrics import Metrics
from alexnet_jax.model_data import open_data
from alexnet_jax.models import registry
from alexnet_jax.trained import TrainedModel, load_trained
from experiments.tables import measuring
from experiments.tables.formatting import format_paper, to_json
from experiments.tables.measuring import Measurements, measure_errors, name_images
from experiments.tables.networks import load_preset
from experiments.tables.planning import Given, Images, Test, plan_paper
from experiments.tables.published import ALEXNET, PAPERS, RESNET, VGG, Paper

NOTHING = Measurements((), {}, ())
SAMPLE = Images("sample", "test", 2000)
ILSVRC2012 = Images("ILSVRC-2012", "validation", 50_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs with random weights, on noise in five classes.

    `a` and `b` have the sample's AlexNet; `own` is a model of no paper, and `other` is on other
    splits.
    """
    path = tmp_path_factory.mktemp("tables")
    write_idx_set(path / "data", train=60, test=40)
    write_run(path, "a", "alexnet:sample")
    write_run(path, "b", "alexnet:sample", seed=1)
    write_run(path, "own", "alexnet:sample,no_lrn")
    write_run(path, "other", "alexnet:sample", **{"data.split_seed": 3})
    return path


def write_run(path: Path, name: str, preset: str, **changes: Any) -> None:
    """Write a workdir whose model has random weights and the config of a preset."""
    data = {"data.name": "idx", "data.dir": str(path / "data"), "model.num_classes": 5}
    config = validated(fields.replace(load_preset(preset), {"batch_size": 8, **data, **changes}))
    side = config.data.image_size
    names = tuple(map(str, range(5)))
    mean = np.full((side, side, 1), 100.0, np.float32)
    rng = np.random.default_rng(config.seed)
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape, scale=0.02).astype(leaf.dtype),
        registry.abstract_variables(config),
    )
    write_workdir(path / name, TrainedModel(config, 0, variables, mean, names))


def cells(text: str, title: str = "**") -> dict[str, list[str]]:
    """Return the rows of the Markdown table below a title by their first cells; "" the headings."""
    block = next(b for b in text.split("**")[1::2] if title in f"**{b}")
    lines = text.split(block, 1)[1].split("\n\n")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return {name: cells for name, *cells in rows if name != "---"}


def with_errors(paper: Paper, given: list[Given]) -> Measurements:
    """Return errors that identify their models: 10 % of the first one, 20 % of two, …"""
    plan = plan_paper(paper, given)
    errors = {
        (members, views): Metrics(
            loss=1.0,
            top1_error=0.1 * len(members) + members[0] / 100 + (views == "center") / 1000,
            top5_error=0.01 * len(members),
            count=1,
        )
        for members, views in plan.tests()
    }
    return Measurements((plan,), errors, ())


def test_a_table_without_models() -> None:
    """Catches: errors of ours where nothing was given, others' methods as if they could be run,
    columns in another order, and a number rounded away."""
    assert format_paper(plan_paper(RESNET, []), NOTHING).splitlines()[:9] == [
        "**He, Zhang, Ren and Sun (2015), table 2.** Errors of plain and residual networks on the "
        "validation images of ILSVRC-2012, in %.",
        "",
        "|  | Top-1 (val) | measured: Top-1 (val) |",
        "|---|---|---|",
        "| plain-18 | 27.94 | not run |",
        "| ResNet-18 A | 27.88 | not run |",
        "| plain-34 | 28.54 | not run |",
        "| ResNet-34 A | 25.03 | not run |",
        "",
    ]
    second = cells(format_paper(plan_paper(ALEXNET, []), NOTHING), "table 2")
    assert second["*SIFT + FVs*"] == ["—", "—", "26.2", "—", "—", "—"]
    assert second["7 CNNs*"] == ["36.7", "15.4", "15.3"] + ["not run"] * 3
    third = cells(format_paper(plan_paper(VGG, []), NOTHING), "table 3")
    assert third["E"] == ["[256; 512]", "384", "25.5", "8.0", "not run", "not run"]
    *_, last = to_json(plan_paper(ALEXNET, []), NOTHING)
    nothing = dict(top1_validation=None, top5_validation=None, top5_test=None)
    paper = dict(top1_validation=0.367, top5_validation=0.154, top5_test=0.153)
    assert last == dict(
        publication="alexnet", table=2, images="ILSVRC-2012", model="7 CNNs*", details={},
        views="ten", paper=paper, measured=nothing, other=[],
    )  # fmt: skip


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_tables_are_whole(paper: Paper) -> None:
    """Catches: rows with too many or too few numbers, errors that are no percents or whose top-5
    is not the lower one, two rows of one network and way of testing, and tables without a row."""
    for table in paper.tables:
        kinds = [column.error for column in table.columns]
        tested = [(row.networks, row.views) for row in table.rows if row.networks]
        assert len({*tested}) == len(tested) > 0
        for row in table.rows:
            assert len(row.paper) == len(table.columns)
            assert len(row.details) == len(table.details)
            known = [e for e in row.paper if e is not None]
            assert known
            assert all(1 < error < 75 for error in known)
            pairs = [*zip(kinds, row.paper, strict=True)]
            for (kind, top1), (next_kind, top5) in itertools.pairwise(pairs):
                if (kind, next_kind) == ("top1_error", "top5_error") and top1 and top5:
                    assert top1 > top5


def test_numbers_on_imagenet_stand_in_their_own_places() -> None:
    """Catches validation errors in the test column, errors of 2012 in the table of 2010, rows that
    change places, and a column of other images without any."""
    networks = ["AlexNet"] * 5 + ["AlexNet*"] * 2
    given = [Given(f"r{i}", name, True, ILSVRC2012) for i, name in enumerate(networks)]
    found = with_errors(ALEXNET, given)
    text = format_paper(found.plans[0], found)
    assert cells(text, "table 1")["CNN"] == ["37.5", "17.0", "not run", "not run"]
    ours = {name: row[3:] for name, row in cells(text, "table 2").items()}
    assert ours["1 CNN"] == ["10.00", "1.00", "not run"]
    assert ours["5 CNNs"] == ["50.00", "5.00", "not run"]
    assert ours["1 CNN*"] == ["15.00", "1.00", "not run"]
    assert ours["7 CNNs*"] == ["70.00", "7.00", "not run"]
    further = cells(text, "Without a row")
    where = "ILSVRC-2012, validation, 50,000 images"
    assert further["5 × AlexNet"] == [where, "center view", "50.10", "5.00"]
    assert further["2 × AlexNet*"][1:] in (
        ["ten views", "25.00", "2.00"],
        ["center view", "25.10", "2.00"],
    )
    one_cnn = next(row for row in to_json(found.plans[0], found) if row["model"] == "1 CNN")
    assert one_cnn["measured"] == dict(top1_validation=0.1, top5_validation=0.01, top5_test=None)
    assert one_cnn["other"] == []


def test_other_images_stand_apart() -> None:
    """Catches: numbers on small images in the columns of a table, or without their images' name,
    split and count, and small models among those of the paper's size on the table's own images."""
    cifar = Images("CIFAR-10", "test", 10_000)
    given = [
        Given("small", "ResNet-20 (CIFAR)", False, cifar),
        Given("sample", "ResNet-20 (CIFAR)", False, SAMPLE),
        Given("full", "ResNet-32 (CIFAR)", True, cifar),
        Given("50", "ResNet-50 B", False, cifar),
    ]
    found = with_errors(RESNET, given)
    text = format_paper(found.plans[0], found)
    last = cells(text, "table 6")
    where = "measured on sample, test, 2,000 images"
    assert last[""][2:] == ["measured: Top-1", f"{where}: Top-1", f"{where}: Top-5"]
    assert last["ResNet-20"][2:] == ["not run", "11.10", "1.00"]
    assert last["ResNet-32"][2:] == ["12.10", "not run", "not run"]
    third = cells(text, "table 3")
    assert third[""][4:] == [
        f"measured on CIFAR-10, test, 10,000 images: {e}" for e in ("Top-1", "Top-5")
    ]
    assert third["ResNet-50 B"][2:] == ["not run", "not run", "13.00", "1.00"]
    assert third["*VGG-16*"][2:] == ["—"] * 4
    assert cells(text, "Without a row").keys() == {"", "small"}
    rows = {row["model"]: row for row in to_json(found.plans[0], found) if row["table"] == 6}
    assert rows["ResNet-20"]["other"] == [
        dict(images="sample", split="test", count=2000, top1_error=0.111, top5_error=0.01)
    ]
    assert rows["ResNet-32"]["other"] == []


def test_every_model_is_shown() -> None:
    """Catches: models that disappear: the second one of a row, and one that no paper has."""
    networks = ["VGG D, S = 256", "VGG D, S = 256", None, "AlexNet"]
    given = [Given(f"r{i}", name, False, SAMPLE) for i, name in enumerate(networks)]
    plan = plan_paper(VGG, given)
    assert [row.members for row in plan.measured] == [(0,)]
    assert [(row.label, row.members, row.views) for row in plan.further] == [
        (f"r{i}", (i,), "dense") for i in (1, 2, 3)
    ]
    assert format_paper(plan, NOTHING).count("not run") == 2 * 12 + 2 * 12 + 2 * 3


@pytest.mark.usefixtures("quick_to_compile")
def test_numbers_are_those_of_evaluate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: an average over too few or too many models, the first model mistaken for another,
    the center view for ten, models evaluated twice, and one of no paper that stops the others."""
    names = [str(folder / name) for name in ("a", "b", "own")]
    models = [load_trained(name) for name in names]
    calls: list[tuple[int, str]] = []

    def counted(models: list[TrainedModel], split: str, views: str, **options: Any) -> Any:
        calls.extend((id(model), views) for model in models)
        return evaluate(models, split, views, **options)

    monkeypatch.setattr(measuring, "evaluate", counted)
    found = measure_errors(names)
    assert len(calls) == len({*calls}) == 2 * len(models)
    expected: dict[Test, Metrics] = {}
    for views in ("ten", "center"):
        _, results = evaluate(models, "test", views, averages=[(0, 1)])
        keys: list[tuple[int, ...]] = [(0,), (1,), (2,), (0, 1)]
        expected |= {(key, views): one for key, one in zip(keys, results, strict=True)}
    assert found.errors == expected
    assert len({result["loss"] for result in expected.values()}) == 8  # none hides another
    (plan,) = found.plans
    rows = cells(format_paper(plan, found), "Without a row")
    error = expected[(0, 1), "ten"]["top1_error"]
    assert rows["2 × AlexNet"][1:3] == ["ten views", f"{100 * error:.2f}"]
    assert rows.keys() == {"", "2 × AlexNet", names[2]}
    assert found.models[0].startswith(f"{names[0]}: AlexNet, ")
    assert found.models[0].endswith(" parameters, imported weights, on idx data")


def test_ways_of_testing_that_a_model_refuses(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: a model that cannot be tested densely that ends the command, or has a number."""
    found = measure_errors([str(folder / "a")], [VGG])
    assert found.errors == {}
    assert "not run: dense: views=dense applies" in capsys.readouterr().err
    text = format_paper(found.plans[0], found)
    assert cells(text, "Without a row")[str(folder / "a")][1:] == ["dense", "not run", "not run"]


@pytest.mark.usefixtures("quick_to_compile")
def test_the_command(folder: Path) -> None:
    """Catches: flags that do not reach the tables, progress among the rows, and models that the
    reader cannot trace."""
    own = folder / "own"
    ended = run_here("tables", f"--workdir={own}", package="experiments")
    assert ended.returncode == 0, ended.stderr
    assert "evaluate: center view, 1 of 1 models" in ended.stderr
    top1 = evaluate([load_trained(own)], "test", "ten")[1][0]["top1_error"]
    assert f"| {own} | idx data, test, 40 images | ten views | {100 * top1:.2f} |" in ended.stdout
    assert ended.stdout.endswith("imported weights, on idx data\n")
    ended = run_here("tables", "--json", "--paper=vgg", package="experiments")
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["model"] for row in rows] == ["A", "A-LRN", "B", *"CCCDDDEEE"]


def test_what_does_not_go_together_is_refused(folder: Path) -> None:
    """Catches: a model averaged with itself, models of other data in a row, and a name for images
    that are in no folder."""
    a = str(folder / "a")
    with pytest.raises(InputError, match=r"a is given 2 times; expected each model once"):
        measure_errors([a, f"{folder}/b/../a"])
    with pytest.raises(InputError, match=r"--folder=ILSVRC-2010 .* no model .*\(data\.name=folder"):
        measure_errors([a], folder="ILSVRC-2010")
    with pytest.raises(
        InputError, match=r"models whose data\.split_seed differ cannot be averaged"
    ):
        measure_errors([a, str(folder / "other")])


def test_models_trained_on_different_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a row that averages models of different images; a model of unknown images that joins
    two groups, or is alone."""
    model = load_trained(folder / "a")
    digests = {"none": None, "one": "1", "other": "2", "again": "1"}
    models = [dataclasses.replace(model, source_digest=digest) for digest in digests.values()]
    assert measuring._group_compatible(models) == [0, 0, 2, 0]
    monkeypatch.setattr(
        measuring, "load_trained", lambda workdir: models[[*digests].index(Path(workdir).name)]
    )
    monkeypatch.setattr(measuring, "open_data", lambda _: open_data(model))
    with pytest.raises(InputError, match="models trained on different images cannot be averaged"):
        measure_errors(["none", "one", "other"])


@pytest.mark.parametrize(
    ("name", "split", "count", "classes", "folder", "expected"),
    [
        ("imagenet2012", "validation", 50_000, 1000, None, "ILSVRC-2012"),
        ("folder", "test", 150_000, 1000, "ILSVRC-2010", "ILSVRC-2010"),
        ("folder", "validation", 50_000, 1000, "ILSVRC-2012", "ILSVRC-2012"),
        ("folder", "test", 150_000, 1000, None, "folder images"),
        ("imagenet2012", "validation", 49_920, 1000, "ILSVRC-2012", "imagenet2012"),
        ("cifar10_binary", "test", 10_000, 10, None, "CIFAR-10"),
        ("cifar10", "validation", 10_000, 10, None, "cifar10"),
        ("sample", "test", 2000, 10, None, "sample"),
    ],
)
def test_what_images_are_called(
    name: str, split: str, count: int, classes: int, folder: str | None, expected: str
) -> None:
    """Catches a name of a table's images for fewer of them, or for a folder of whatever."""
    data = DataConfig(name=name, dir="/of/images")
    assert name_images(data, split, count, classes, folder) == expected
    if name == "folder" and folder:
        with pytest.raises(InputError, match=rf"--folder={folder} has .* folder images, train: 9 "):
            name_images(data, "train", 9, classes, folder)
