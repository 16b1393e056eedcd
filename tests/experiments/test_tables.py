"""The paper's tables with our errors: whose they are, where they stand, and what was not run."""

import json
import shutil
from pathlib import Path

import pytest
from helpers import processes
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here
from helpers.tiny_model import tiny_config

from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.metrics import Metrics
from alexnet_jax.trained import load_trained
from experiments import tables
from experiments.tables import ONE, TABLES, Evaluation, ModelCounts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three runs: `a`, `b`, and `c`, which began with the weights of `a`."""
    path = tmp_path_factory.mktemp("tables")
    write_idx_set(path / "data", train=60, test=40)
    for name, fields in (("a", {}), ("b", {"seed": 1}), ("c", {"init_from": str(path / "a")})):
        assert train_here(tiny_config(path / "data", **fields), path / name) == 0
    return path


def cells(text: str) -> dict[str, list[str]]:
    """Return the rows of a Markdown table by their first cell; "" are the headings."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return {name: cells for name, *cells in rows}


def made_up(images: str, split: str, count: int) -> Evaluation:
    """Return errors that identify their row: 10 % for one model, 20 % for five, …"""
    sizes: list[ModelCounts] = [(1, 0), (5, 0), (0, 1), (5, 2)]
    results = {
        (counts, views): Metrics(
            loss=1.0,
            top1_error=0.1 * n + (views == "center") / 100,
            top5_error=0.01 * n,
            count=count,
        )
        for n, counts in enumerate(sizes, start=1)
        for views in ("ten", "center")
    }
    return Evaluation(images, split, count, results, {counts: ["x"] for counts in sizes})


def test_the_papers_numbers() -> None:
    """Catches a number of the paper that is not the paper's (section 6, tables 1 and 2), in words
    and in JSON, and a number of ours where none was given."""
    first, second = (cells(tables.format_table(table, None)) for table in TABLES)
    assert first == {
        "": ["Top-1", "Top-5", "measured: Top-1", "measured: Top-5"],
        "*Sparse coding*": ["47.1", "28.2", "—", "—"],
        "*SIFT + FVs*": ["45.7", "25.7", "—", "—"],
        "CNN": ["37.5", "17.0", "not run", "not run"],
        "CNN, center view": ["39.0", "18.3", "not run", "not run"],
    }
    columns = ["Top-1 (val)", "Top-5 (val)", "Top-5 (test)"]
    assert second == {
        "": [*columns, *(f"measured: {column}" for column in columns)],
        "*SIFT + FVs*": ["—", "—", "26.2", "—", "—", "—"],
        "1 CNN": ["40.7", "18.2", "—"] + ["not run"] * 3,
        "5 CNNs": ["38.1", "16.4", "16.4"] + ["not run"] * 3,
        "1 CNN*": ["39.0", "16.6", "—"] + ["not run"] * 3,
        "7 CNNs*": ["36.7", "15.4", "15.3"] + ["not run"] * 3,
    }
    *_, last = tables.to_json(TABLES[1], None)
    nothing = dict(top1_validation=None, top5_validation=None, top5_test=None)
    paper = dict(top1_validation=0.367, top5_validation=0.154, top5_test=0.153)
    assert last == dict(
        table=2, images="ILSVRC-2012", model="7 CNNs*", views="ten", paper=paper, measured=nothing,
        other=None,
    )  # fmt: skip


def test_numbers_on_imagenet_stand_in_their_own_places() -> None:
    """Catches validation errors in the test column, errors of 2012 in the table of 2010 or the
    other way round, rows that change places, and a column of other images without any."""
    of_2012 = made_up("ILSVRC-2012", "validation", 50_000)
    first, second = (cells(tables.format_table(table, of_2012)) for table in TABLES)
    assert first == cells(tables.format_table(TABLES[0], None))
    ours = {name: row[3:] for name, row in second.items()}
    assert ours["1 CNN"] == ["10.00", "1.00", "not run"]
    assert ours["5 CNNs"] == ["20.00", "2.00", "not run"]
    assert ours["1 CNN*"] == ["30.00", "3.00", "not run"]
    assert ours["7 CNNs*"] == ["40.00", "4.00", "not run"]
    assert second["5 CNNs, center view"] == ["—"] * 3 + ["21.00", "2.00", "not run"]

    one_cnn = tables.to_json(TABLES[1], of_2012)[1]
    measured = dict(top1_validation=0.1, top5_validation=0.01, top5_test=None)
    assert (one_cnn["measured"], one_cnn["other"]) == (measured, None)

    of_2010 = made_up("ILSVRC-2010", "test", 150_000)
    first, second = (cells(tables.format_table(table, of_2010)) for table in TABLES)
    assert second == cells(tables.format_table(TABLES[1], None))
    assert first["CNN"] == ["37.5", "17.0", "10.00", "1.00"]
    assert first["CNN, center view"] == ["39.0", "18.3", "11.00", "1.00"]
    assert first["5 CNNs"] == ["—", "—", "20.00", "2.00"]


def test_other_images_stand_apart() -> None:
    """Catches numbers on small images in the columns of ImageNet, or without their images' name,
    split and count; and others' methods as if they could be run."""
    sample = made_up("sample", "test", 2000)
    for table, name in zip(TABLES, ("CNN", "1 CNN"), strict=True):
        found, width = cells(tables.format_table(table, sample)), len(table.columns)
        where = "measured on sample, test, 2,000 images"
        assert found[""][2 * width :] == [f"{where}: Top-1", f"{where}: Top-5"]
        assert found[name][width:] == ["not run"] * width + ["10.00", "1.00"]
        assert found["*SIFT + FVs*"][width:] == ["—"] * (width + 2)
    assert found["7 CNNs*"][-2:] == ["40.00", "4.00"]
    of_five = tables.to_json(TABLES[1], sample)[2]
    assert set(of_five["measured"].values()) == {None}
    assert of_five["other"] == dict(
        images="sample", split="test", count=2000, top1_error=0.2, top5_error=0.02
    )


def test_numbers_are_those_of_evaluate(folder: Path) -> None:
    """Catches: an average over too few or too many models, the first model mistaken for another,
    the center view for ten, and pretrained models among the others."""
    a, b, c = (str(folder / name) for name in "abc")
    found = tables.evaluate_all([a, b], [c])
    assert (found.images, found.split, found.count) == ("idx data", "test", 40)
    models = [load_trained(name) for name in (a, b, c)]
    expected: dict[tuple[ModelCounts, str], Metrics] = {}
    for views in ("ten", "center"):
        _, (first, _, plain) = evaluate(models[:2], "test", views)
        _, (_, _, third, everything) = evaluate(models, "test", views)
        expected |= {(ONE, views): first, ((2, 0), views): plain}
        expected |= {((0, 1), views): third, ((2, 1), views): everything}
    assert found.results == expected
    assert len({result["loss"] for result in expected.values()}) == 8  # none hides another
    assert found.runs[2, 1] == [f"{a} (3 steps)", f"{b} (3 steps)", f"{c} (3 steps, from {a})"]
    rows = cells(tables.format_table(TABLES[1], found))
    for model, counts in (("2 CNNs", (2, 0)), ("3 CNNs* (2 + 1*)", (2, 1))):
        assert rows[model][-2] == f"{100 * expected[counts, 'ten']['top1_error']:.2f}"
    assert rows["5 CNNs"][-2:] == rows["7 CNNs*"][-2:] == ["not run"] * 2


def test_the_command(folder: Path) -> None:
    """Catches: flags that do not reach the tables, progress among the rows, and models that the
    reader cannot trace."""
    a = folder / "a"
    ended = processes.run("tables", f"--workdir={a}", package="experiments")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines()[0].startswith("evaluate: ten views")
    top1 = evaluate([load_trained(a)], "test", "ten")[1][0]["top1_error"]
    assert cells(ended.stdout.split("**Table 2.**")[1])["1 CNN"][-2] == f"{100 * top1:.2f}"
    assert ended.stdout.endswith(f"- 1 CNN: {a} (3 steps)\n")
    ended = processes.run("tables", "--json", package="experiments")
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["table"] for row in rows] == [1] * 4 + [2] * 5


def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path) -> None:
    """Catches: a model averaged with itself, a pretrained model in a plain row or the other way
    round, models of other data in a row, and images that are called ImageNet and are not."""
    a, c = str(folder / "a"), str(folder / "c")
    with pytest.raises(InputError, match=r"a is given 2 times; expected each model once"):
        tables.evaluate_all([a, f"{folder}/b/../a"], [])
    with pytest.raises(InputError, match=r"--pretrained=.*a began with random weights .*--workdir"):
        tables.evaluate_all([], [a])
    with pytest.raises(InputError, match=r"--workdir=.*c began with the weights of .*a .*--pretr"):
        tables.evaluate_all([c], [])
    with pytest.raises(InputError, match=r"ILSVRC-2010 has 150,000 images .* idx data, test: 40 "):
        tables.evaluate_all([a], [], "ILSVRC-2010")
    data = Path(shutil.copytree(folder / "data", tmp_path / "data"))
    config = tiny_config(data, **{"data.split_seed": 3})
    assert train_here(config, tmp_path / "d") == 0
    with pytest.raises(
        InputError, match=r"models whose data\.split_seed differ cannot be averaged"
    ):
        tables.evaluate_all([a, str(tmp_path / "d")], [])


@pytest.mark.parametrize(
    ("name", "split", "count", "classes", "folder", "expected"),
    [
        ("imagenet2012", "validation", 50_000, 1000, None, "ILSVRC-2012"),
        ("folder", "test", 150_000, 1000, "ILSVRC-2010", "ILSVRC-2010"),
        ("folder", "validation", 50_000, 1000, "ILSVRC-2012", "ILSVRC-2012"),
        ("folder", "test", 150_000, 1000, None, "folder images"),
        ("imagenet2012", "validation", 49_920, 1000, None, "imagenet2012"),
        ("sample", "test", 2000, 10, None, "sample"),
    ],
)
def test_what_images_are_called(
    name: str, split: str, count: int, classes: int, folder: str | None, expected: str
) -> None:
    """Catches a name of the paper's images for fewer of them, or for a folder of whatever."""
    data = DataConfig(name=name, dir="/of/images")
    assert tables._name_images(data, split, count, classes, folder) == expected
