"""Caffe's files, read by us and by OpenCV's Caffe importer: the same activations."""

from pathlib import Path

import cv2
import foreign
import jax
import numpy as np
import pytest
from foreign import picture, stacked

from alexnet_jax import convert, network
from alexnet_jax.data.names import synsets
from alexnet_jax.evaluate import Net
from alexnet_jax.models.alexnet import activations
from alexnet_jax.predict import predict

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)


def write(folder: Path, sizes: dict[str, int], generation: str, shaped: bool) -> Path:
    path = folder / "net.caffemodel"
    arrays = foreign.weights(sizes)
    path.write_bytes(foreign.caffemodel(sizes, arrays, generation=generation, shaped=shaped))
    return path


def opencv(path: Path, sizes: dict[str, int], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's output in OpenCV for the central crop of RGB pixels."""
    files = (foreign.prototxt(sizes).encode(), path.read_bytes())
    net = cv2.dnn.readNetFromCaffe(*(np.frombuffer(content, np.uint8) for content in files))
    net.enableFusion(False)
    crop = np.ascontiguousarray(pixels[14:241, 14:241, ::-1])
    net.setInput(cv2.dnn.blobFromImage(crop, 1.0, (227, 227), MEAN_BGR))
    names = [name for name, *_ in foreign.caffe_layers(sizes)]
    return dict(zip(names, net.forward(names), strict=True))


def check(net: Net, theirs: dict[str, np.ndarray], pixels: np.ndarray) -> None:
    """All activations agree, and the probabilities by way of predict."""
    seen = pixels[None, 14:241, 14:241, ::-1] - np.array(MEAN_BGR, np.float32)
    run = jax.jit(activations, static_argnums=0, compiler_options=QUICK)
    ours = run(network.make_model(net.config), net.params, seen)
    renamed = {"relu": "relu", "norm": "lrn", "pool": "pool", "drop": "dropout"}
    for name, expected in theirs.items():
        kind, number = name[:-1], name[-1]
        if name == "prob":
            continue
        base = next(n for n in foreign.STEPS if n.endswith(number))
        got = np.asarray(ours[f"{base}_{renamed[kind]}" if kind in renamed else name])
        got = got if name == "fc8" else stacked(got)
        largest = np.abs(expected).max()
        assert largest > 1e-3
        # Float32 sums of up to 9,216 terms in another order; LRN by another formula.
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * largest, err_msg=name)
    ((_, best),) = predict(net, [("image", pixels)])
    for name, probability in best:
        expected = theirs["prob"][0, net.class_names.index(name)]
        assert probability == pytest.approx(float(expected), rel=1e-3)


def test_against_opencv(tmp_path: Path) -> None:
    """Catches a wrong field number, groups mixed up, LRN that stops at the columns, RGB for BGR."""
    path, pixels = write(tmp_path, foreign.SMALL, "layer", shaped=True), picture()
    net = convert.read(path)
    assert (net.config.model.columns, net.config.model.classes) == (2, 10)
    check(net, opencv(path, foreign.SMALL, pixels), pixels)


def test_full_size_against_opencv(tmp_path: Path) -> None:
    """Catches sizes that only the small net has: 60,965,224 parameters, 1,000 classes."""
    path, pixels = write(tmp_path, foreign.BVLC, "layers", shaped=False), picture()
    net = convert.read(path)
    assert sum(leaf.size for leaf in jax.tree.leaves(net.params)) == 60_965_224
    assert net.class_names == synsets()
    seen = pixels[None, 14:241, 14:241, ::-1] - np.array(MEAN_BGR, np.float32)
    run = jax.jit(network.logits, static_argnums=0, compiler_options=QUICK)
    ours = np.asarray(run(network.make_model(net.config), net.params, seen))
    expected = opencv(path, foreign.BVLC, pixels)["fc8"]
    # Float32 sums of up to 9,216 terms in another order; LRN by another formula.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("generation", "shaped"), [("layers", True), ("layers", False), ("layer", False)]
)
def test_layouts_of_every_generation(tmp_path: Path, generation: str, shaped: bool) -> None:
    """Catches old types or old sizes read otherwise; OpenCV gives the same logits for all."""
    path, expected = (
        write(tmp_path, foreign.SMALL, generation, shaped),
        foreign.weights(foreign.SMALL),
    )
    net = convert.read(path)
    (tmp_path / "new").mkdir()
    new = write(tmp_path / "new", foreign.SMALL, "layer", shaped=True)
    jax.tree.map(np.testing.assert_array_equal, net.params, convert.read(new).params)
    assert net.config == convert.read(new).config
    np.testing.assert_array_equal(
        opencv(path, foreign.SMALL, picture())["fc8"], opencv(new, foreign.SMALL, picture())["fc8"]
    )
    assert net.params["conv4"]["kernel"][1, 2, 0, 3, 5] == expected["conv4"][0][6 + 5, 3, 2, 0]


TRAINING = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true crop_size: 227 scale: 0.5
    mean_value: 104 mean_value: 117 mean_value: 123 }
  data_param { source: "train_lmdb" batch_size: 256 backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { mirror: false crop_size: 227 scale: 0.5
    mean_value: 104 mean_value: 117 mean_value: 123 }
  data_param { source: "val_lmdb" batch_size: 50 backend: LMDB } }
"""
LOSS = """
layer { name: "accuracy" type: "Accuracy" bottom: "fc8" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("old", [False, True])
def test_a_definition_for_training(tmp_path: Path, old: bool) -> None:
    """Catches data layers, two phases and a loss taken for layers of the chain; a mean in BGR.

    Such are train_val.prototxt files, in whose first generation the types are bare words.
    """
    path = write(tmp_path, foreign.SMALL, "layer", shaped=True)
    deploy = foreign.prototxt(foreign.SMALL)
    start, end = deploy.index('layer { name: "conv1"'), deploy.index('layer { name: "prob"')
    text = TRAINING + deploy[start:end] + LOSS
    if old:
        for kind in ("Convolution", "ReLU", "LRN", "Pooling", "Dropout", "Data", "Accuracy"):
            text = text.replace(f'type: "{kind}"', f"type: {kind.upper()}")
        text = text.replace('type: "InnerProduct"', "type: INNER_PRODUCT")
        text = text.replace('type: "SoftmaxWithLoss"', "type: SOFTMAX_LOSS")
        text = text.replace("layer {", "layers {")
    (tmp_path / "train_val.prototxt").write_text(text)
    net = convert.read(path, prototxt=tmp_path / "train_val.prototxt")
    assert (net.config.data.crop, net.config.data.scale) == (227, 0.5)
    assert tuple(net.config.data.given_mean) == (123.0, 117.0, 104.0)
    jax.tree.map(np.testing.assert_array_equal, net.params, convert.read(path).params)


def test_pooling_before_lrn(tmp_path: Path) -> None:
    """Catches an order of steps that is assumed: CaffeNet, of the same geometry, pools first."""
    path = write(tmp_path, foreign.SMALL, "layer", shaped=True)
    text = foreign.prototxt(foreign.SMALL)
    for number, blob in (("1", "conv1"), ("2", "conv2")):
        norm = text.index(f'layer {{ name: "norm{number}"')
        pool = text.index(f'layer {{ name: "pool{number}"')
        after = text.index("layer {", pool + 1)
        first = text[pool:after].replace(f'"norm{number}"', f'"{blob}"')
        second = text[norm:pool].replace(f'bottom: "{blob}"', f'bottom: "pool{number}"')
        text = (
            text[:norm]
            + first
            + second
            + text[after:].replace(f'bottom: "pool{number}"', f'bottom: "norm{number}"')
        )
    (tmp_path / "caffenet.prototxt").write_text(text)
    net = convert.read(path, prototxt=tmp_path / "caffenet.prototxt")
    assert net.config.model.layers.conv2.after == ("relu", "pool", "lrn")
