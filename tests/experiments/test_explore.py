"""The page to look inside a model: beside what the model computes, and in a browser."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, processes
from helpers.browser import start_browser
from helpers.explored_run import CLASSES, decode_picture, make_explored_run
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from alexnet_jax.analysis.occlusion import compute_occlusion_maps
from alexnet_jax.analysis.strongest import make_strongest_fn
from alexnet_jax.errors import InputError
from alexnet_jax.model_data import open_data
from alexnet_jax.trained import TrainedModel, load_trained
from configs import resnet
from experiments.explore import __main__ as explore_command
from experiments.explore import page
from experiments.explore.embedded_images import ImageTable
from experiments.figures.channels import Projector
from experiments.figures.predictions import (
    compute_image_activations,
    first_conv_kernels,
    load_crops,
    nearest_neighbors,
    predict_split,
)

IMAGES = (3, 12)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_explored_run(tmp_path_factory.mktemp("explore"))


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return load_trained(run)


@pytest.fixture(scope="module")
def content(model: TrainedModel) -> dict[str, Any]:
    return page.collect_content(model, "test", 3, IMAGES)


def close(numbers: Any, expected: Any) -> None:
    np.testing.assert_allclose(numbers, expected, rtol=1e-3, atol=1e-6)


def test_channels_are_what_the_model_computes(model: TrainedModel, content: dict[str, Any]) -> None:
    """Catches activations, images or patches of another channel or rank, an unlimited number of
    channels, and a projection of another activation."""
    pack, data = open_data(model), content["data"]
    assert [layer["name"] for layer in data["layers"]] == ["conv1", "conv2", "fc6", "fc8"]
    ops = ["relu1", "relu2", "relu6", "fc8"]
    found = make_strongest_fn(model, pack, "test", ops)(model.variables)
    projector = Projector(model)
    for layer, op in zip(data["layers"], ops, strict=True):
        assert len(layer["channels"]) == 3
        for one in layer["channels"]:
            channel = one["channel"]
            close(one["values"], found[op].values[channel])
            assert one["images"] == found[op].images[channel].tolist()
            assert one["labels"] == pack.splits["test"].labels[one["images"]].tolist()
            if op not in ("relu1", "relu6"):
                continue
            crops = load_crops(model, pack, "test", one["images"])
            positions = found[op].positions[channel]
            patches = projector.cut(op, crops, positions, 128)
            assert [patch.shape[0] for patch in patches] == [3 if op == "relu1" else 26] * 9
            projections = projector.cut(op, projector.project(op, crops, positions), positions, 0)
            for rank in (0, 8):
                expected = ImageTable()
                expected.add_image(patches[rank], 64)
                expected.add_signal(projections[rank], 64)
                shown = one["patches"][rank], one["projections"][rank]
                assert [data["pictures"][index] for index in shown] == expected.sources


def test_kernels(model: TrainedModel, content: dict[str, Any]) -> None:
    """Catches the kernel of another channel or column, and kernels of layers that have none."""
    data, columns = content["data"], first_conv_kernels(model)
    kernels = np.concatenate(list(columns), axis=-1)
    for one in data["layers"][0]["channels"]:
        assert one["column"] == one["channel"] // 2
        kernel = kernels[..., one["channel"]]
        shown = decode_picture(data["pictures"][one["kernel"]])
        np.testing.assert_allclose(shown / 127.5 - 1, kernel / np.abs(kernel).max(), atol=0.01)
    params = model.params["conv2"]["kernel"]
    for one in data["layers"][1]["channels"]:
        kernel = np.asarray(params)[one["column"], ..., one["channel"] % 2]  # 2×2, 4 inputs
        shown = decode_picture(data["pictures"][one["kernel"]])[..., :3].mean(-1)
        assert shown.shape == (5, 5)
        signal = kernel[..., 1] / np.abs(kernel).max()  # at the upper right
        np.testing.assert_allclose(shown[:2, 3:] / 127.5 - 1, signal, atol=0.03)
    assert all(one["kernel"] is None for layer in data["layers"][2:] for one in layer["channels"])


def test_images_are_what_the_model_computes(model: TrainedModel, content: dict[str, Any]) -> None:
    """Catches probabilities, activations, neighbors or an occlusion map of another image."""
    pack, images = open_data(model), content["data"]["images"]
    predictions = predict_split(model, pack, "test", index=IMAGES, features=True)
    train = predict_split(model, pack, "train", features=True)
    assert predictions.features is not None
    assert train.features is not None
    rows, distances = nearest_neighbors(predictions.features, train.features)
    crops = load_crops(model, pack, "test", IMAGES)
    maps = compute_occlusion_maps(model, crops, "fc8", 7, 1)
    for i, one in enumerate(images):
        assert (one["index"], one["label"]) == (IMAGES[i], predictions.labels[i])
        classes = [label for label, _ in one["top5"]]
        close([share for _, share in one["top5"]], predictions.probabilities[i][classes])
        assert classes == np.argsort(-predictions.probabilities[i], kind="stable").tolist()
        assert [near["index"] for near in one["neighbors"]] == rows[i].tolist()
        close([near["distance"] for near in one["neighbors"]], distances[i])
        assert [near["label"] for near in one["neighbors"]] == train.labels[rows[i]].tolist()
        activations = compute_image_activations(model, crops[i])
        for layer, op in zip(one["activations"], ["relu1", "relu2", "relu6", "fc8"], strict=True):
            values = activations[op]
            close(layer["value"], values.max())
            assert layer["strongest"] == np.argmax(values) % values.shape[-1]
            close(layer["active"], (values > 0).mean())
        shares = maps[i].probabilities[..., one["label"]]
        found = one["occlusion"]
        close([found["lowest"], found["highest"]], [shares.min(), shares.max()])
        at_lowest = shares[found["row"] - 3, found["column"] - 3]  # the center of 7 pixels
        close(at_lowest, shares.min())


def test_images_are_chosen(model: TrainedModel) -> None:
    """Catches an image or a split that does not exist passed over."""
    with pytest.raises(InputError, match="image 13 of test does not exist"):
        page.collect_content(model, None, 1, (13,))
    with pytest.raises(InputError, match="--split=tset: folder has the splits train, "):
        page.collect_content(model, "tset", 1, ())


def test_the_page_is_one_file(run: Path, model: TrainedModel, content: dict[str, Any]) -> None:
    """Catches anything that a browser would load, markup from a class's name, a limit that the
    page does not state, and the folders of who made it."""
    html = page.make_page(run, model, content, [f"--workdir={run}"])
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)
    assert found is not None
    assert json.loads(found[1]) == content["data"]
    assert content["data"]["classes"] == [*CLASSES]
    assert "<" not in found[1]
    assert "default-src 'none'" in html
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html)
    assert "url(" not in html
    assert "@import" not in html
    assert str(run.parent) not in html
    words = " ".join(re.sub("<[^>]*>", "", html.split('<script id="data"')[0]).split())
    assert "At most 3 channels of each layer are shown" in words
    assert "those of 13 images of the test split" in words
    assert len(html) < page.MAX_BYTES
    assert (ROOT / "docs/explore_sample.html").stat().st_size < page.MAX_BYTES
    # Of conv1 two columns see one image, conv2 and fc6 cross, fc8 joins.
    assert html.count("<line ") == 2 + 4 + 4 + 2
    assert html.count('class="crossing"/>') == 2 + 2 + 2
    assert (
        "fc6: fully-connected layer, 8, 2 columns, each of which takes the channels of all columns"
        in html
    )
    assert "conv1: convolution, 9×9×4, 2 columns, each of which takes the image, then" in html


def test_numbers_that_json_cannot_express(
    run: Path, model: TrainedModel, content: dict[str, Any]
) -> None:
    """Catches NaN in the page's data, at which its script ends: `allow_nan` left at its default."""
    damaged = {**content, "data": {**content["data"], "images": [math.nan]}}
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        page.make_page(run, model, damaged, [])


def test_a_residual_network(tmp_path: Path) -> None:
    """Catches a page that fails for a model with branches, or shows it as a chain."""
    network = resnet.get_config("sample").model
    run = make_explored_run(tmp_path, network, width=2, stage_sizes=(1,))
    model = load_trained(run)
    content = page.collect_content(model, None, 1, (0,))
    html = page.make_page(run, model, content, [])
    assert "so the gradient of the activation" in html
    assert html.count('class="bypass"') == 1
    names = [layer["name"] for layer in content["data"]["layers"]]
    assert names == ["conv1", "conv2_1", "fc"]
    first, block = content["data"]["layers"][:2]
    assert (first["field"], block["field"]) == (3, 7)
    assert first["channels"][0]["kernel"] is not None
    assert block["channels"][0]["kernel"] is None


def test_the_command(run: Path, tmp_path: Path) -> None:
    """Catches a wrong place, a missing folder that is not made, and flags that are not heeded."""
    output = tmp_path / "missing" / "inside.html"
    arguments = [f"--workdir={run}", "--channels=1", "--images=2", f"--output={output}"]
    ended = processes.run("explore", *arguments, package="experiments")
    assert (ended.returncode, ended.stdout) == (0, f"{output}\n"), ended.stderr
    html = output.read_text(encoding="utf-8")
    assert "At most <b>1 channels of each layer</b>" in html
    assert html.count("data-layer=") == 4


def test_wrong_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an index that counts from the end, and a traceback."""
    values = explore_command.flags.FlagValues()
    explore_command.define_flags(values)
    values(["explore", "--workdir=anywhere", "--images=3,-1"])
    monkeypatch.setattr(explore_command.flags, "FLAGS", values)
    with pytest.raises(InputError, match="--images=3,-1: -1 is no number from 0 on"):
        explore_command.main([])


def test_large_pages_and_wrong_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a page's characters counted for its bytes, and a place where the page cannot be
    written found out only after the page is computed."""
    computed: list[TrainedModel] = []
    monkeypatch.setattr(explore_command, "load_trained", lambda _: None)
    monkeypatch.setattr(
        explore_command, "collect_content", lambda model, *_: computed.append(model)
    )
    monkeypatch.setattr(explore_command, "make_page", lambda *_: "×" * 600_000)
    monkeypatch.setattr(explore_command, "MAX_BYTES", 1_000_000)

    def explore(output: Path) -> None:
        values = explore_command.flags.FlagValues()
        explore_command.define_flags(values)
        values(["explore", "--workdir=anywhere", f"--output={output}"])
        monkeypatch.setattr(explore_command.flags, "FLAGS", values)
        explore_command.main([])

    with pytest.raises(InputError, match=f"cannot write {tmp_path}: Is a directory"):
        explore(tmp_path)
    assert not computed
    explore(tmp_path / "page.html")
    assert "The page has 1.2 MB and may load slowly" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Return a browser with the width of a phone."""
    yield from start_browser()


@pytest.fixture(scope="module")
def opened(
    browser: webdriver.Chrome, run: Path, model: TrainedModel, content: dict[str, Any]
) -> webdriver.Chrome:
    """Return the browser with the page."""
    output = run / "explore.html"
    output.write_text(page.make_page(run, model, content, []), encoding="utf-8")
    browser.get(output.as_uri())
    return browser


def text(driver: webdriver.Chrome, selector: str) -> str:
    return driver.find_element(By.CSS_SELECTOR, selector).text


def pressed(driver: webdriver.Chrome, group: str) -> list[str]:
    """Return the attribute aria-pressed of the buttons in a group."""
    buttons = driver.find_elements(By.CSS_SELECTOR, f"{group} button")
    return [button.get_attribute("aria-pressed") or "" for button in buttons]


def alternatives(driver: webdriver.Chrome, selector: str) -> list[str]:
    images = driver.find_elements(By.CSS_SELECTOR, f"{selector} img")
    return [image.get_attribute("alt") or "" for image in images]


def test_clicks_show_a_layer_and_a_channel(opened: webdriver.Chrome) -> None:
    """Catches a button that does nothing or shows another channel, a kernel kept from the layer
    before, and a choice that is not announced or not marked."""
    layers = opened.find_elements(By.CSS_SELECTOR, ".diagram button")
    layers[0].click()
    assert pressed(opened, ".diagram") == ["true", "false", "false", "false"]
    assert text(opened, "#layer-title") == "conv1: 3 of 4 channels"
    assert "depends on 3×3 pixels" in text(opened, "#layer-text")
    assert opened.find_element(By.ID, "kernel").is_displayed()
    opened.find_elements(By.CSS_SELECTOR, "#channels button")[1].click()
    assert pressed(opened, "#channels") == ["false", "true", "false"]
    title = text(opened, "#channel-title")
    assert title.startswith("conv1, channel ")
    assert text(opened, "#channel-text").startswith("The 9 strongest activations, from ")
    for group, word in (("#patches", "Patch"), ("#projections", "Projection")):
        found = alternatives(opened, group)
        assert len(found) == 9
        assert found[8].startswith(f"{word} 9 of 9, activation ")
        assert found[8].split(": ")[-1] in CLASSES
    status = opened.find_element(By.ID, "status")
    assert status.get_attribute("aria-live") == "polite"
    assert (status.get_attribute("textContent") or "").startswith(title)
    layers[3].click()
    assert text(opened, "#layer-title") == "fc8: 3 of 3 classes"
    assert not opened.find_element(By.ID, "kernel").is_displayed()


def test_the_keyboard_shows_an_image(opened: webdriver.Chrome) -> None:
    """Catches a choice that only a mouse can make, a focus that cannot be seen, and parts of the
    image chosen before."""
    first, second = opened.find_elements(By.CSS_SELECTOR, "#thumbnails button")
    opened.execute_script("arguments[0].focus()", first)
    ActionChains(opened).send_keys(Keys.TAB, Keys.ENTER).perform()
    assert opened.switch_to.active_element == second
    assert second.value_of_css_property("outline-style") == "solid"
    assert pressed(opened, "#thumbnails") == ["false", "true"]
    assert text(opened, "#image-title").startswith("Image 12 of the test split: d, ")
    assert alternatives(opened, "#picture") == ["Image 12: d"]
    shares = opened.find_elements(By.CSS_SELECTOR, "#top5 li")
    assert len(shares) == 3
    assert sum("✓" in share.text for share in shares) == 1
    bars = [width(share.find_element(By.CLASS_NAME, "bar")) for share in shares]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] > 10
    assert len(alternatives(opened, "#neighbors")) == 6
    assert len(alternatives(opened, "#activations")) == 4
    assert alternatives(opened, "#occlusion")[0].startswith("Occlusion map. The probability of d ")
    assert "Image 12" in (opened.find_element(By.ID, "status").get_attribute("textContent") or "")


def width(element: WebElement) -> float:
    size: dict[str, float] = element.rect
    return size["width"]


def test_the_page_fits_a_phone(opened: webdriver.Chrome) -> None:
    """Catches a page that scrolls sideways, letters or buttons that are too small, images that
    are broken or without a text, buttons without a name, and errors or loads on the console."""
    found = opened.execute_script(
        """
        const shown = [...document.querySelectorAll("button")].filter(one => one.offsetParent);
        return {
          width: innerWidth,
          scroll: document.documentElement.scrollWidth,
          letters: parseFloat(getComputedStyle(document.body).fontSize),
          images: [...document.images].map(one => one.naturalWidth),
          unlabeled: [...document.images].filter(one => !one.alt && !one.closest("button")).length,
          names: shown.map(one => one.ariaLabel || one.textContent.trim()),
          heights: shown.filter(one => !one.matches(".link")).map(one => one.offsetHeight),
          loaded: performance.getEntriesByType("resource").map(one => one.name)
            .filter(name => !name.startsWith("data:")),
        };
        """
    )
    assert found["width"] == 360
    assert found["scroll"] <= 360
    assert found["letters"] >= 16
    assert min(found["images"]) > 0
    assert found["unlabeled"] == 0
    assert all(found["names"])
    assert "<script>" in " ".join(found["names"])
    assert min(found["heights"]) >= 44
    assert found["loaded"] == []
    assert opened.get_log("browser") == []
