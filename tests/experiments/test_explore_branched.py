"""The page to look inside models with branches or many columns: its diagram, also in a browser."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import start_browser
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from alexnet_jax.analysis.receptive_fields import field_of_pixels
from alexnet_jax.config import with_changes
from alexnet_jax.models.registry import family_of
from alexnet_jax.trained import TrainedModel
from configs import googlenet, resnet
from experiments.explore import page
from experiments.explore.channel_content import ChannelContent, layers_to_json
from experiments.explore.embedded_images import ImageTable
from experiments.explore.image_content import NUM_NEIGHBORS
from experiments.explore.layers import ShownLayer

CLASSES = tuple("abcdefghi")


def made_up_layer(name: str, kind: str, **changes: Any) -> ShownLayer:
    """Return a layer of 4×4×12 activations."""
    layer = ShownLayer(
        *(name, name, (4, 4, 12), kind, 1, "all columns"),
        followers=(),
        branches=(),
        field=field_of_pixels(26),
        has_kernels=False,
    )
    return replace(layer, **changes)


BRANCHES = (("1×1", 4), ("3×3", 6), ("5×5", 1), ("pooling", 1))
LAYERS = [
    made_up_layer("conv1", "convolution", followers=("pool", "norm")),
    made_up_layer("inception_3a", "Inception module", branches=BRANCHES),
    made_up_layer("conv2_1", "residual block", followers=("mean",)),
    made_up_layer("fc", "classifier", shape=(9,)),
]


def write_page(directory: Path, layers: list[ShownLayer]) -> Path:
    """Write the page of a model with made-up layers, and return its path."""
    config = with_changes(resnet.get_config("sample"), {"model.num_classes": len(CLASSES)})
    table = ImageTable()
    picture = table.add_image(np.zeros((8, 8, 1), np.uint8), 64)
    nine, labels = [picture] * 9, [0, 0, 0, 1, 2, 3, 4, 5, 6]
    values = [float(value) for value in range(9, 0, -1)]
    found = {
        layer.name: [
            ChannelContent(
                channel, 0, layer.branch_of(channel), values, [*range(9)], labels, nine, nine, None
            )
            for channel, values in ((0, [0.0] * 9), (7, values))
        ]
        for layer in layers
    }
    activations = dict(picture=picture, height=8, width=8, active=0.5, strongest=7, value=9.0)
    occlusion: dict[str, float] = dict.fromkeys(
        ("picture", "side", "lowest", "highest", "row", "column", "start", "size"), 0
    )
    image = dict(
        index=3, label=8, picture=picture, top5=[[0, 0.5]], probability=0.02,
        activations=[activations] * len(layers), occlusion=occlusion, neighbors=[],
    )  # fmt: skip
    data = dict(
        split="test", classes=CLASSES, layers=layers_to_json(config, layers, found), images=[image],
        pictures=table.sources,
    )  # fmt: skip
    content = dict(
        data=data, layers=layers, limit=2, split="test", searched=9, neighbors="Left out."
    )
    model = TrainedModel(config, 1, {}, np.zeros((26, 26, 1), np.float32), CLASSES)
    path = directory / "explore.html"
    path.write_text(page.make_page(directory, model, content, []), encoding="utf-8")
    return path


def test_the_diagram_is_a_list_of_buttons(tmp_path: Path) -> None:
    """Catches a block that readers who do not see the diagram cannot tell from a convolution,
    branches or a shortcut that only the drawing has, and drawings that are read out."""
    html = write_page(tmp_path, LAYERS).read_text(encoding="utf-8")
    diagram = html[html.index('<ol role="list" class="diagram') : html.index("</ol>")]
    assert re.findall('<button [^>]*aria-label="([^"]*)"', diagram) == [
        "conv1: convolution, 4×4×12, then pooling, then normalization",
        "inception_3a: Inception module, 4×4×12, which joins the branches 1×1, 3×3, 5×5 and "
        "pooling",
        "conv2_1: residual block, 4×4×12, which adds its input to its output, then the mean over "
        "all pixels",
        "fc: classifier, 9",
    ]
    drawings = re.findall("<svg [^>]*>", diagram)
    assert len(drawings) == len(LAYERS) + 2  # lines, branches, shortcut
    assert all('aria-hidden="true"' in drawing for drawing in drawings)
    assert "<b>3a</b>" in diagram


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_columns(columns: int, tmp_path: Path) -> None:
    """Catches columns without a line, lines that cross drawn like those within a column, and a
    note that takes every model for the paper's."""
    layers = [
        made_up_layer(name, "convolution", columns=columns, inputs=inputs)
        for name, inputs in (
            ("conv1", "the image"),
            ("conv2", "its own column"),
            ("conv3", "all columns"),
        )
    ]
    layers.append(made_up_layer("fc", "classifier", shape=(9,)))
    html = write_page(tmp_path, layers).read_text(encoding="utf-8")
    drawn = re.findall('<svg class="connection".*?</svg>', html, re.S)
    assert [one.count("<line ") for one in drawn] == [columns, columns, columns**2, columns]
    crossing = [one.count('class="crossing"') for one in drawn]
    assert crossing == [0, 0, columns**2 - columns, columns]
    for one, ends in zip(drawn, (1, columns, columns, columns), strict=True):
        assert len(set(re.findall(r'y1="([\d.]+)"', one))) == ends
    heights = re.findall(r'y1="([\d.]+)" x2="20" y2="([\d.]+)"', drawn[1])
    centers = [100 * (column + 0.5) / columns for column in range(columns)]
    assert [float(left) for left, _ in heights] == pytest.approx(centers, abs=0.01)
    assert all(left == right for left, right in heights)
    assert f"{columns} columns{', as in the paper' if columns == 2 else ''}; column 0" in html


def test_the_branch_of_a_channel() -> None:
    """Catches the last channel of a branch counted as the next one's, and branches that are not
    those of the module."""
    inception = LAYERS[1]
    found = [inception.branch_of(channel) for channel in (0, 3, 4, 9, 10, 11)]
    assert found == ["1×1", "1×1", "3×3", "3×3", "5×5", "pooling"]
    assert LAYERS[0].branch_of(5) == ""
    for words, third in (("", "5×5"), ("torchvision", "second 3×3")):
        model = googlenet.get_config(words).model
        module = family_of(model).hidden_layers(model)[3]
        assert module.name == "inception_3a"
        assert module.branches == (("1×1", 64), ("3×3", 128), (third, 32), ("pooling", 32))


def test_the_largest_page_is_small() -> None:
    """Catches a page above 10 MB: more channels or images, larger patches, or a quality of their
    encoding that takes more. Photographs have spectra like 1/f (Field 1987)."""
    random = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(page.PATCH_SIDE)[:, None], np.fft.rfftfreq(page.PATCH_SIDE)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / page.PATCH_SIDE)
    table, samples = ImageTable(), 20
    for _ in range(samples):
        noise = np.fft.rfft2(random.normal(size=(3, page.PATCH_SIDE, page.PATCH_SIDE)))
        gray = np.fft.irfft2(noise / frequency).mean(0)
        pixels = 120 + 50 * np.stack([gray] * 3, axis=-1) / gray.std()
        table.add_image(np.clip(pixels, 0, 255).astype(np.uint8), page.PATCH_SIDE)
    mean = sum(map(len, table.sources)) / samples
    of_channels = page.MAX_CHANNELS * (2 * page.NUM_STRONGEST + 1)
    of_images = 8 * (4 + NUM_NEIGHBORS)  # of which one has four times the pixels
    assert mean * (of_channels + of_images) < page.MAX_BYTES


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Return a browser with the page."""
    for browser in start_browser():
        browser.get(write_page(tmp_path_factory.mktemp("branched"), LAYERS).as_uri())
        yield browser


def test_the_keyboard_goes_through_the_layers(opened: webdriver.Chrome) -> None:
    """Catches layers that the keyboard reaches in another order than that of the model or not at
    all, a focus that is not scrolled into sight, and a branch that is not named or announced."""
    box = opened.find_element(By.CSS_SELECTOR, ".box")
    opened.execute_script("arguments[0].focus()", box)
    for name in ("conv1", "inception_3a", "conv2_1", "fc"):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        focused = opened.switch_to.active_element
        assert (focused.get_attribute("aria-label") or "").startswith(f"{name}: ")
        assert focused.value_of_css_property("outline-style") == "solid"
        assert 0 <= focused.rect["x"] < 360
    ActionChains(opened).key_down(Keys.SHIFT).send_keys(Keys.TAB * 2).key_up(Keys.SHIFT).perform()
    ActionChains(opened).send_keys(Keys.ENTER).perform()
    assert opened.find_element(By.ID, "layer-title").text == "inception_3a: 2 of 12 channels"
    assert opened.find_element(By.ID, "layer-text").text.startswith("An Inception module, 4×4×12, ")
    opened.find_elements(By.CSS_SELECTOR, "#channels button")[1].click()
    title = opened.find_element(By.ID, "channel-title").text
    assert title == "inception_3a, channel 7, branch 3×3"
    text = "The 9 strongest activations, from 9 to 1, are on images of 3 × a, 1 × b, 1 × c and 4 "
    assert opened.find_element(By.ID, "channel-text").text == f"{text}other classes."
    status = opened.find_element(By.ID, "status").get_attribute("textContent") or ""
    assert status.startswith(title)
    scroll = opened.execute_script("return document.documentElement.scrollWidth")
    assert scroll <= 360
    assert opened.get_log("browser") == []


def test_what_there_is_not(opened: webdriver.Chrome) -> None:
    """Catches captions below pictures of a channel that has none, the true class left out where it
    is not among the most probable ones, a diagram stretched by its lines, and no word on those of
    its layers that are out of sight."""
    channels = opened.find_elements(By.CSS_SELECTOR, "#channels button")
    grids = [opened.find_element(By.ID, name) for name in ("patches", "projections")]
    for button, shown in zip(channels, (False, True), strict=True):
        button.click()
        assert [grid.is_displayed() for grid in grids] == [shown] * 2
    rows = [row.text for row in opened.find_elements(By.CSS_SELECTOR, "#top5 li")]
    assert rows == ["a\n50.0 %", "i ✓\n2.0 %"]
    assert opened.find_element(By.CSS_SELECTOR, ".diagram").rect["height"] < 170
    assert opened.find_element(By.ID, "scrolls").is_displayed()
