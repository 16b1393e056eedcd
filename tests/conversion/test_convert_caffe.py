"""Caffe's files, read by us and by OpenCV's Caffe importer: the same activations."""

from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from helpers import foreign_files
from helpers.foreign_files import channels_first, make_image, wire

from alexnet_jax import convert
from alexnet_jax.config import with_changes
from alexnet_jax.conversion import presets
from alexnet_jax.data.names import synsets
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import LRN, Dropout, MaxPool, WithinChannelLRN, blocks
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.predict import predict
from alexnet_jax.trained import TrainedModel

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)


def write(folder: Path, sizes: dict[str, int], generation: str, shaped: bool) -> Path:
    path = folder / "net.caffemodel"
    arrays = foreign_files.weights(sizes)
    path.write_bytes(foreign_files.caffemodel(sizes, arrays, generation=generation, shaped=shaped))
    return path


def opencv(
    path: Path, sizes: dict[str, int], pixels: np.ndarray, definition: str = ""
) -> dict[str, np.ndarray]:
    """Return every layer's output in OpenCV for the central crop of RGB pixels."""
    definition = definition or foreign_files.prototxt(sizes)
    files = (definition.encode(), path.read_bytes())
    opencv_net = cv2.dnn.readNetFromCaffe(*(np.frombuffer(content, np.uint8) for content in files))
    opencv_net.enableFusion(False)
    crop = np.ascontiguousarray(pixels[14:241, 14:241, ::-1])
    opencv_net.setInput(cv2.dnn.blobFromImage(crop, 1.0, (227, 227), MEAN_BGR))
    names = [name for name, *_ in foreign_files.caffe_layers(sizes)]
    return dict(zip(names, opencv_net.forward(names), strict=True))


def check(model: TrainedModel, theirs: dict[str, np.ndarray], pixels: np.ndarray) -> None:
    """Assert that all activations agree, and the probabilities by way of predict."""
    seen = pixels[None, 14:241, 14:241, ::-1] - np.array(MEAN_BGR, np.float32)
    compute = partial(registry.compute_activations, registry.make_model(model.config))
    ours = jax.jit(compute, compiler_options=QUICK)(model.variables, seen)
    assert {*ours} == {*theirs} - {"prob"}
    for name, expected in theirs.items():
        if name == "prob":
            continue
        got = channels_first(ours[name])
        largest = np.abs(expected).max()
        assert largest > 1e-3
        # Float32 sums of up to 9,216 terms in another order; LRN by another formula.
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * largest, err_msg=name)
    ((_, best),) = predict(model, [("image", pixels)])
    for name, probability in best:
        expected = theirs["prob"][0, model.class_names.index(name)]
        assert probability == pytest.approx(float(expected), rel=1e-3)


def test_against_opencv(tmp_path: Path) -> None:
    """Catches a wrong field number, groups mixed up, LRN that stops at the columns, RGB for BGR."""
    path, pixels = write(tmp_path, foreign_files.SMALL, "layer", shaped=True), make_image()
    model = convert.read_model(path)
    names = [name for name, *_ in foreign_files.caffe_layers(foreign_files.SMALL) if name != "prob"]
    assert [*sequential_model(model).ops] == names
    assert sequential_model(model).num_columns == 2
    assert model.config.model.num_classes == 10
    assert model.config.data == presets.bvlc_alexnet().data
    check(model, opencv(path, foreign_files.SMALL, pixels), pixels)


def test_full_size_against_opencv(tmp_path: Path) -> None:
    """Catches sizes that only the small model has: 60,965,224 parameters, 1,000 classes."""
    path, pixels = write(tmp_path, foreign_files.BVLC, "layers", shaped=False), make_image()
    model = convert.read_model(path)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == 60_965_224
    assert model.class_names == synsets()
    seen = pixels[None, 14:241, 14:241, ::-1] - np.array(MEAN_BGR, np.float32)
    apply = partial(registry.apply_model, registry.make_model(model.config))
    outputs, _ = jax.jit(apply, compiler_options=QUICK)(model.variables, seen)
    ours = np.asarray(outputs.logits)
    expected = opencv(path, foreign_files.BVLC, pixels)["fc8"]
    # Float32 sums of up to 9,216 terms in another order; LRN by another formula.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("generation", "shaped"), [("layers", True), ("layers", False), ("layer", False)]
)
def test_layouts_of_every_generation(tmp_path: Path, generation: str, shaped: bool) -> None:
    """Catches old types or old sizes read otherwise; OpenCV gives the same logits for all."""
    path, expected = (
        write(tmp_path, foreign_files.SMALL, generation, shaped),
        foreign_files.weights(foreign_files.SMALL),
    )
    model = convert.read_model(path)
    (tmp_path / "new").mkdir()
    new = write(tmp_path / "new", foreign_files.SMALL, "layer", shaped=True)
    jax.tree.map(np.testing.assert_array_equal, model.params, convert.read_model(new).params)
    assert model.config == convert.read_model(new).config
    np.testing.assert_array_equal(
        opencv(path, foreign_files.SMALL, make_image())["fc8"],
        opencv(new, foreign_files.SMALL, make_image())["fc8"],
    )
    assert model.params["conv4"]["kernel"][1, 2, 0, 3, 5] == expected["conv4"][0][6 + 5, 3, 2, 0]


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
    path = write(tmp_path, foreign_files.SMALL, "layer", shaped=True)
    deploy = foreign_files.prototxt(foreign_files.SMALL)
    start, end = deploy.index('layer { name: "conv1"'), deploy.index('layer { name: "prob"')
    text = TRAINING + deploy[start:end] + LOSS
    if old:
        for kind in ("Convolution", "ReLU", "LRN", "Pooling", "Dropout", "Data", "Accuracy"):
            text = text.replace(f'type: "{kind}"', f"type: {kind.upper()}")
        text = text.replace('type: "InnerProduct"', "type: INNER_PRODUCT")
        text = text.replace('type: "SoftmaxWithLoss"', "type: SOFTMAX_LOSS")
        text = text.replace("layer {", "layers {")
    (tmp_path / "train_val.prototxt").write_text(text)
    model = convert.read_model(path, prototxt=tmp_path / "train_val.prototxt")
    assert (model.config.data.crop, model.config.data.scale) == (227, 0.5)
    assert model.config.data.given_mean == (123.0, 117.0, 104.0)
    jax.tree.map(np.testing.assert_array_equal, model.params, convert.read_model(path).params)


@pytest.mark.parametrize(
    ("kind", "param", "other"),
    [("DATA", 11, 15), ("IMAGE_DATA", 15, 20), ("WINDOW_DATA", 20, 11)],
)
def test_where_old_data_layers_have_their_transformation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, param: int, other: int
) -> None:
    """Catches: pixels in 0…255 for weights that were trained on others, and no word of the mean
    image, where Caffe moves these fields to transform_param as it reads the file; the fields of
    another kind of data layer taken for them."""
    path = write(tmp_path, foreign_files.SMALL, "layers", shaped=False)
    number = dict(DATA=5, IMAGE_DATA=12, WINDOW_DATA=24)[kind]
    layer = wire(4, "data") + wire(5, number) + wire(3, "data") + wire(3, "label")
    layer += wire(36, wire(1, 0.25) + wire(2, 1)) + wire(other, wire(2, 0.125) + wire(5, 200))
    layer += wire(param, wire(2, 0.5) + wire(3, "mean.binaryproto") + wire(4, 9) + wire(5, 227))
    path.write_bytes(wire(2, layer) + path.read_bytes())
    config = with_changes(presets.bvlc_alexnet(), {"data.crop": 224})
    model = convert.read_model(path, config)
    assert (model.config.data.crop, model.config.data.scale) == (227, 0.5)
    assert "trained with the mean image 'mean.binaryproto'" in capsys.readouterr().err

    text = foreign_files.prototxt(foreign_files.SMALL)
    for name in ("Convolution", "ReLU", "LRN", "Pooling", "Dropout", "Softmax"):
        text = text.replace(f'type: "{name}"', f"type: {name.upper()}")
    text = text.replace('type: "InnerProduct"', "type: INNER_PRODUCT").replace(
        "layer {", "layers {"
    )
    old = {11: "data_param", 15: "image_data_param", 20: "window_data_param"}[param]
    data = f'layers {{ name: "data" type: {kind} top: "data" top: "label" {old} {{ source: "x" '
    data += 'scale: 0.5 mean_file: "m" batch_size: 9 crop_size: 227 mirror: true } }\n'
    text = data + text[text.index('layers { name: "conv1"') :]
    (tmp_path / "train_val.prototxt").write_text(text)
    again = convert.read_model(path, config, prototxt=tmp_path / "train_val.prototxt")
    assert again.config == model.config
    assert "trained with the mean image 'm'" in capsys.readouterr().err


def test_pooling_before_lrn(tmp_path: Path) -> None:
    """Catches an order of ops that is assumed: CaffeNet, of the same geometry, pools first; and a
    definition whose order is not the one that the weights were trained with."""
    sizes, ops = foreign_files.SMALL, foreign_files.CAFFENET_OPS
    arrays, path = foreign_files.weights(sizes), tmp_path / "net.caffemodel"
    content = foreign_files.caffemodel(sizes, arrays, generation="layer", shaped=True, ops=ops)
    path.write_bytes(content)
    text, definition = foreign_files.prototxt(sizes, ops=ops), tmp_path / "caffenet.prototxt"
    definition.write_text(text)
    pixels = make_image()
    for given in (definition, None):
        model = convert.read_model(path, prototxt=given)
        layers = blocks(sequential_model(model).ops)
        assert [*layers["conv2"]] == ["conv2", "relu2", "pool2", "norm2"]
    check(model, opencv(path, sizes, pixels, text), pixels)

    write(tmp_path, sizes, "layers", shaped=True)
    with pytest.raises(InputError, match=r"ReLU, Pooling, LRN.*trained as.* ReLU, LRN, Pooling"):
        convert.read_model(path, prototxt=definition)
    without_pool = foreign_files.prototxt(sizes, ops={**foreign_files.OPS, "conv5": ("relu5",)})
    definition.write_text(without_pool)
    with pytest.raises(InputError, match="expected the same order"):
        convert.read_model(path, prototxt=definition)


def test_the_last_layer_renamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a fine-tuned model that is refused, Caffe's way to fine-tune being another name for
    the last layer, and another layer than the last matched by its place."""
    path = write(tmp_path, foreign_files.SMALL, "layer", shaped=True)
    plain = convert.read_model(path)
    definition = tmp_path / "deploy.prototxt"
    definition.write_text(foreign_files.prototxt(foreign_files.SMALL))
    path.write_bytes(path.read_bytes().replace(b"fc8", b"my8"))
    assert [*convert.read_model(path).params][-1] == "my8"
    assert capsys.readouterr().err == ""
    tuned = convert.read_model(path, prototxt=definition)
    assert "the last layer, 'my8', is taken as 'fc8'" in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, tuned.params, plain.params)
    assert tuned.config.model.num_classes == 10

    path.write_bytes(path.read_bytes().replace(b"my8", b"fc8").replace(b"fc7", b"my7"))
    with pytest.raises(InputError, match="layer fc7 has 0 blobs"):
        convert.read_model(path, prototxt=definition)


def test_layers_that_differ(tmp_path: Path) -> None:
    """Catches one rule taken for all LRN, pools and dropout, as if they were the model's, and
    another divisor at the edges of a window within a channel."""
    path = write(tmp_path, foreign_files.SMALL, "layer", shaped=True)
    norm, pool = "local_size: 5 alpha: 0.05", "kernel_size: 3 stride: 2"
    first, second, third = foreign_files.prototxt(foreign_files.SMALL).split("pooling_param", 2)
    text = "pooling_param".join([first, second.replace(norm, "local_size: 3 alpha: 0.5"), third])
    text = text.replace(pool, "kernel_size: 4 stride: 2", 1)  # 55 → 27 pixels too
    text = text.replace("dropout_ratio: 0.5", "dropout_ratio: 0.25", 1)
    text = text.replace(norm, f"{norm} norm_region: WITHIN_CHANNEL", 1)
    (tmp_path / "other.prototxt").write_text(text)
    model, pixels = convert.read_model(path, prototxt=tmp_path / "other.prototxt"), make_image()
    ops = sequential_model(model).ops
    assert ops["norm1"] == WithinChannelLRN(5, k=1.0, alpha=0.05)
    assert ops["norm2"] == LRN(3, 1.0, 0.5, alpha_over_size=True, across_columns=True)
    assert (ops["pool1"], ops["pool2"]) == (MaxPool(4, 2), MaxPool(3, 2))
    assert ops["drop6"] == Dropout(0.25, inverted=True)
    assert ops["drop7"] == Dropout(0.5, inverted=True)
    check(model, opencv(path, foreign_files.SMALL, pixels, text), pixels)


def test_names(tmp_path: Path) -> None:
    """Catches names lost, one name for two ops, and names that no path or module can have."""
    path = write(tmp_path, foreign_files.SMALL, "layer", shaped=True)
    text = foreign_files.prototxt(foreign_files.SMALL)
    for name, other in (("relu1", "relu"), ("relu2", "relu"), ("norm2", "conv2/norm")):
        text = text.replace(f'"{name}"', f'"{other}"')
    text = text.replace('name: "drop6"', 'name: "param"')  # Flax's
    (tmp_path / "net.prototxt").write_text(text)
    named = sequential_model(convert.read_model(path, prototxt=tmp_path / "net.prototxt")).ops
    plain = sequential_model(convert.read_model(path)).ops
    assert [*named.values()] == [*plain.values()]
    assert [*named] == ["relu" if name == "relu1" else name for name in plain]

    renamed = tmp_path / "renamed.caffemodel"
    renamed.write_bytes(path.read_bytes().replace(b"fc7", b"new"))
    assert [*convert.read_model(renamed).params][-3:] == ["fc6", "new", "fc8"]

    text = text.replace('name: "conv4"', 'name: "conv3"')
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(InputError, match="two layers are named conv3"):
        convert.read_model(path, prototxt=tmp_path / "net.prototxt")


def sequential_model(model: TrainedModel) -> SequentialConfig:
    """Return the chain of ops of a model."""
    assert isinstance(model.config.model, SequentialConfig)
    return model.config.model
