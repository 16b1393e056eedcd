"""The comparison of the families: sizes, receptive fields, and where errors come from."""

import re
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, processes

from alexnet_jax.analysis.summary import summarize
from alexnet_jax.config import with_changes
from experiments.families.content import (
    NETWORKS,
    NetworkSummary,
    PublishedErrors,
    find_published,
    summarize_network,
)
from experiments.families.page import HEADS, format_markdown, make_page
from experiments.families.plots import STYLES, plot_families
from experiments.families.samples import read_samples
from experiments.tables.networks import load_preset
from experiments.tables.published import PAPERS

MADE_UP = [
    NetworkSummary(
        name=f"network {index}",
        family=family,
        crop=224,
        depth=8,
        parameters=61_000_000 * index,
        multiply_adds=724_000_000 * index,
        receptive_fields=(11, 51, 99, 131 + index),
        stride=16,
        published=PublishedErrors(40.7, 18.2 if index != 3 else None, "table 2, ten views"),
    )
    for index, family in enumerate(STYLES, start=1)
]


@pytest.mark.parametrize(
    ("network", "depth", "parameters", "giga", "field", "stride"),
    [
        # Counts of the papers and of other programs; fields of Araujo et al. (2019).
        ("AlexNet", 8, 60_965_224, 0.724, 163, 16),
        ("GoogLeNet", 22, 6_998_552, 1.583, None, 32),
        ("ResNet-18 A", 18, 11_515_688, 1.8, 435, 32),
        pytest.param("ZFNet", 8, 62_357_608, 1.168, 139, 16, marks=pytest.mark.slow),
        pytest.param("VGG D, S = 256", 16, 138_357_544, 15.47, 196, 16, marks=pytest.mark.slow),
        pytest.param("ResNet-50 B", 50, 25_557_032, 3.8, 483, 32, marks=pytest.mark.slow),
        pytest.param("ResNet-101 B", 101, 44_549_160, 7.6, 1027, 32, marks=pytest.mark.slow),
        pytest.param("ResNet-152 B", 152, 60_192_808, 11.3, 1507, 32, marks=pytest.mark.slow),
    ],
)
def test_sizes(
    network: str, depth: int, parameters: int, giga: float, field: int | None, stride: int
) -> None:
    """Catches: auxiliary classifiers, projections or normalization counted as layers of the path,
    a path with the smaller kernels, and multiply-adds counted twice."""
    found = summarize_network(network, "x")
    assert (found.depth, found.parameters, found.stride) == (depth, parameters, stride)
    assert found.multiply_adds / 1e9 == pytest.approx(giga, rel=0.03)
    fields = found.receptive_fields
    assert list(fields) == sorted(fields)
    assert field in (None, fields[-1])
    dense = {"AlexNet": 3, "ZFNet": 3, "VGG D, S = 256": 3}.get(network, 1)
    assert len(fields) == depth - dense


def test_where_errors_come_from() -> None:
    """Catches: errors of ILSVRC-2010, of several models, of another network or another way of
    testing, test errors for those of validation, and top-1 in the place of top-5."""
    expected = {
        "AlexNet": (40.7, 18.2, "table 2, ten views"),
        "ZFNet": (38.4, 16.5, "table 2, views not stated"),
        "VGG D, S = 256": (27.0, 8.8, "table 3, dense"),
        "GoogLeNet": (None, 9.15, "table 3, ten views"),
        "ResNet-18 A": (27.88, None, "table 2, ten views"),
        "ResNet-34 A": (25.03, 7.76, "table 3, ten views"),
    }
    for network, errors in expected.items():
        assert find_published(network) == PublishedErrors(*errors)
    for network in NETWORKS:
        find_published(network)
    with pytest.raises(LookupError, match="plain-20"):
        find_published("plain-20 (CIFAR)")
    assert len(PAPERS) == len(STYLES)


def test_the_table() -> None:
    """Catches: cells below another heading, missing errors as numbers, and rows of
    the samples among those of the networks."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table_of(MADE_UP)]
    assert lines[0] == list(HEADS)
    assert lines[2] == ["network 1", "8", "61.0 M", "0.72 G", "132", "16", "40.7", "18.2",
                        "table 2, ten views"]  # fmt: skip
    assert lines[4][7] == "—"


def table_of(summaries: list[NetworkSummary]) -> list[str]:
    """Return the lines of the Markdown table."""
    return format_markdown(summaries, read_samples()).split("\n\n")[0].splitlines()


def test_the_figure() -> None:
    """Catches: a network without its point, curve or name, an error that is not published drawn as
    one, areas that are not in proportion, and families in one color."""
    axes: list[Any] = plot_families(MADE_UP).axes
    left, right = axes
    names = [text.get_text() for text in right.texts]
    assert names[: len(MADE_UP)] == [summary.name for summary in MADE_UP]
    assert "224 pixels" in names[-1]
    assert [text.get_text() for text in left.texts] == [
        summary.name for summary in MADE_UP if summary.published.top5 is not None
    ]
    circles = [float(one.get_sizes()[0]) for one in left.collections[:8:2]]
    assert circles == pytest.approx([circles[0] * n for n in (1, 2, 4, 5)])
    curves = [line for line in right.lines if len(line.get_xdata()) == 4]
    assert [list(line.get_ydata())[-1] for line in curves] == [132, 133, 134, 135, 136]
    assert len({line.get_color() for line in curves}) == len(STYLES)


def test_the_page() -> None:
    """Catches: a page that needs the network or another file, and a network or a sample
    without its row."""
    html = make_page(MADE_UP, read_samples())
    assert "default-src 'none'" in html
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    for summary in MADE_UP:
        assert f'<th scope="row">{summary.name}</th>' in html
    for run in read_samples():
        assert f'<th scope="row">{run.model}</th><td>{run.config}</td>' in html


def test_errors_of_the_samples_are_those_of_the_documentation() -> None:
    """Catches: an error, machine or date that differs between the file and a page, a family
    without a sample, and a number of parameters of another model."""
    runs = read_samples()
    assert [run.config for run in runs] == [
        f"configs/{name}.py:sample" for name in ("alexnet", "zfnet", "vgg", "googlenet", "resnet")
    ]
    pages = {name: (ROOT / name).read_text() for name in ("README.md", "experiments/README.md")}
    assert format_markdown([], runs).split("\n\n", 1)[1] in (ROOT / "docs/families.md").read_text()
    for run in runs:
        errors = [f"{error:.2f}" for error in (run.center, run.ten)]
        cells = " | ".join(f"{error} %" for error in errors)
        row = f"| {cells} | {run.machine.split(',')[0]}, {run.date} |"
        named = "the quick start" if run.config == "configs/alexnet.py:sample" else run.config
        (line,) = [one for one in pages["README.md"].splitlines() if row in one]
        assert named in line
        if run.config != "configs/alexnet.py:sample":
            lines = pages["experiments/README.md"].splitlines()
            assert any(all(part in one for part in (run.config, *errors)) for one in lines)
    (zfnet,) = [run for run in runs if "zfnet" in run.command]
    config = with_changes(load_preset("zfnet:sample"), {"model.num_classes": 10})
    assert zfnet.parameters == sum(layer.parameters for layer in summarize(config))


@pytest.mark.slow
def test_the_command_makes_the_documented_table(tmp_path: Path) -> None:
    """Catches: a table in the documentation that the program does not print, and files that are
    not written."""
    ended = processes.run("families", f"--output={tmp_path}", package="experiments")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout in (ROOT / "docs" / "families.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"families.html", "families.png"}
