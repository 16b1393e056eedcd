"""Weights as caffe-tensorflow writes them, and mean images, in NumPy's files."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import caffe_tensorflow_files, foreign_files
from helpers.foreign_files import GROUPS, LRN_ALPHA, SMALL
from helpers.weight_files import TINY, caffemodel, make_caffe, make_onnx

from alexnet_jax import convert
from alexnet_jax.config import sequential_model
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import LRN
from alexnet_jax.trained import TrainedModel

Layers = dict[str, Any]


def layers(sizes: dict[str, int] = TINY) -> Layers:
    return dict(caffe_tensorflow_files.layers(foreign_files.weights(sizes)))


def read(path: Path, **given: Any) -> TrainedModel:
    return convert.read_model(path, caffe_tensorflow_files.config(TINY), **given)


def objects(pair: list[np.ndarray]) -> np.ndarray:
    array = np.empty(2, object)
    array[:] = pair
    return array


def test_against_caffe(tmp_path: Path) -> None:
    """Catches kernels in another order of axes, rows of fc6 in Caffe's order, which have the same
    shape, and preprocessing other than Caffe's; in every structure that such files have."""
    path = tmp_path / "bvlc_alexnet.npy"
    expected = convert.read_model(make_caffe(tmp_path))
    named = {n: dict(weights=w, biases=b) for n, (w, b) in layers().items()}
    for content in (layers(), {n: tuple(pair) for n, pair in layers().items()}, named):
        caffe_tensorflow_files.write_python3(path, content)
        model = read(path)
        jax.tree.map(np.testing.assert_array_equal, model.params, expected.params)
        assert model.config.data == expected.config.data
    caffe_tensorflow_files.write_python2(path, layers())
    jax.tree.map(np.testing.assert_array_equal, read(path).params, expected.params)
    archive = tmp_path / "bvlc_alexnet.npz"
    for arrays in (
        {n: objects(pair) for n, pair in layers().items()},
        {"arr_0": np.array(layers(), object)},
        {f"{n}/{part}": a[i] for n, a in layers().items() for i, part in enumerate(("W", "b"))},
    ):
        np.savez(archive, **arrays)
        jax.tree.map(np.testing.assert_array_equal, read(archive).params, expected.params)


def test_the_file_of_python_2_is_numpys(tmp_path: Path) -> None:
    """Catches a test's file that no NumPy would have written: NumPy itself reads it."""
    path = tmp_path / "net.npy"
    caffe_tensorflow_files.write_python2(path, layers())
    content = np.load(path, allow_pickle=True, encoding="latin1").item()
    jax.tree.map(np.testing.assert_array_equal, content, layers())


def test_against_tensorflow(tmp_path: Path) -> None:
    """Catches weights whose logits differ from those of TensorFlow with the arrays of the file."""
    import tensorflow as tf

    content = layers(SMALL)
    caffe_tensorflow_files.write_python3(tmp_path / "net.npy", content)
    config = caffe_tensorflow_files.config(SMALL)
    for op in sequential_model(config).ops.values():
        if isinstance(op, LRN):
            op.alpha = LRN_ALPHA
    model = convert.read_model(tmp_path / "net.npy", config)
    seen = np.random.default_rng(0).normal(0, 70, (2, 227, 227, 3)).astype(np.float32)
    x = tf.constant(seen)
    for name, (kernel, bias) in content.items():
        if name in foreign_files.GEOMETRY:
            _, stride, pad = foreign_files.GEOMETRY[name]
            inputs = tf.split(tf.pad(x, [[0, 0], [pad] * 2, [pad] * 2, [0, 0]]), groups(name), 3)
            kernels = tf.split(kernel, groups(name), 3)
            parts = [
                tf.nn.conv2d(i, k, stride, "VALID") for i, k in zip(inputs, kernels, strict=True)
            ]
            x = tf.nn.relu(tf.concat(parts, 3) + bias)
            for kind in foreign_files.OPS[name]:
                if kind.startswith("norm"):
                    # TensorFlow does not divide alpha by the size.
                    x = tf.nn.local_response_normalization(x, 2, 1.0, LRN_ALPHA / 5, 0.75)
                elif kind.startswith("pool"):
                    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
            continue
        x = tf.reshape(x, (2, -1)) @ kernel + bias
        x = x if name == "fc8" else tf.nn.relu(x)
    apply = partial(registry.apply_model, registry.make_model(model.config))
    ours = np.asarray(jax.jit(apply)(model.variables, seen)[0].logits)
    assert np.ptp(ours, axis=0).max() > 1e-2
    # Float32 sums in another order.
    np.testing.assert_allclose(ours, x.numpy(), rtol=0, atol=2e-5 * np.abs(ours).max())


def groups(name: str) -> int:
    return GROUPS.get(name, 1)


def test_the_order_of_ops_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches silence about an order of ops that the file does not contain, and a renamed layer."""
    content = layers()
    content["fc8_flickr"] = content.pop("fc8")
    caffe_tensorflow_files.write_python3(tmp_path / "net.npy", content)
    model = read(tmp_path / "net.npy")
    printed = capsys.readouterr().err
    assert "contains arrays only: order of ops, sizes and preprocessing are those of" in printed
    assert "'fc8_flickr' is taken as fc8, the last" in printed
    assert ([*model.params][-1], model.config.model.num_classes) == ("fc8", 3)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('sprung')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv1": Trap()}, r"it names (builtins|__builtin__)\.exec; expected dictionaries"),
        ([1, 2], r"holds an array \(2,\); expected a dictionary"),
        ({"conv1": [np.zeros(3)]}, "has conv1; expected a pair of arrays, or a dictionary of wei"),
        ({**layers(), "fc9": layers()["fc8"]}, "has conv1, conv2, .*; expected a pair of arrays"),
        ({**layers(), "conv3": layers()["fc8"]}, r"has conv3 \(8, 3\); expected \(height, width"),
        ({**layers(), "fc6": layers()["fc7"]}, "has fc6 of 4 inputs; expected a multiple of 36"),
        ({**layers(), "fc7": layers()["fc8"]}, r"has fc7 \(3, 8\); expected \(8, 8\)"),
        ({**layers(), "conv2": [*map(np.int64, layers()["conv2"])]}, "conv2 has weights of type"),
        ({**layers(), "conv2": [*map(np.float64, layers()["conv2"])]}, ""),
    ],
)
def test_other_contents(tmp_path: Path, content: Any, message: str) -> None:
    """Catches a pickle that is run, and contents that end in a traceback."""
    path = tmp_path / "net.npy"
    for protocol in (2, 4, 5):
        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
        whole = np.array(content, object) if isinstance(content, dict) else np.array(content)
        np.save(path, content, allow_pickle=True)
        if whole.dtype == object:
            start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            path.write_bytes(start + pickle.dumps(whole, protocol))
        if not message:
            read(path)
            continue
        with pytest.raises(InputError, match=message) as raised:
            read(path)
        assert "\n" not in str(raised.value)


def mean_bgr() -> np.ndarray:
    return np.random.default_rng(0).uniform(90, 140, (3, 256, 256))


@pytest.mark.parametrize(
    "turn",
    [
        lambda mean: mean,
        lambda mean: mean.astype(np.float32)[None],
        lambda mean: mean.transpose(1, 2, 0),
        lambda mean: np.asfortranarray(mean.transpose(1, 2, 0)),
        lambda mean: mean.astype(">f4"),
    ],
)
def test_mean_images(tmp_path: Path, turn: Any) -> None:
    """Catches channels in another order than B, G, R, and axes or bytes mixed up: the mean image is
    that of Caffe's own format."""
    mean = mean_bgr()
    np.save(tmp_path / "ilsvrc_2012_mean.npy", turn(mean))
    blob = foreign_files.blob(mean.astype(np.float32)[None], shaped=False)
    (tmp_path / "mean.binaryproto").write_bytes(blob)
    path = make_caffe(tmp_path)
    expected = convert.read_model(path, mean=tmp_path / "mean.binaryproto")
    for file in (path, make_onnx(tmp_path)):
        model = convert.read_model(file, mean=tmp_path / "ilsvrc_2012_mean.npy")
        np.testing.assert_array_equal(model.mean_image, expected.mean_image)
        assert model.config.data.mean == "image"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 227, 227)), r"is \(227, 227, 3\); expected \(256, 256, 3\)"),
        (np.zeros((256, 256)), r"holds an array \(256, 256\); expected a mean image \(3, side"),
        (np.zeros(3), r"holds an array \(3,\); expected a mean image"),
        (np.zeros(()), r"holds an array \(\); expected a mean image"),
        (np.zeros((0, 3)), r"holds an array \(0, 3\); expected a mean image"),
        (np.full((3, 256, 256), np.nan), "has numbers that are not finite"),
        (np.zeros((3, 256, 256), complex), "its numbers have the type <c16"),
        (np.zeros(3, [("a", "<f4")]), "its header does not describe an array"),
        (np.array({"a": 1}), "holds dict; expected an array, a mean image"),
        (b"\x93NUMPY\x01\x00", "does not begin as an .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{'descr': ", "header does not describe"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "header does not describe"),
        (
            b"\x93NUMPY\x01\x00\x40\x00"
            + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999,)}".ljust(64),
            "has 0 bytes",
        ),
        (
            b"\x93NUMPY\x01\x00\x40\x00"
            + b"{'descr': '<f1', 'fortran_order': False, 'shape': (3,)}".ljust(64)
            + bytes(3),
            "its numbers have the type <f1",
        ),
        (b"a text", "does not begin as an .npy file"),
    ],
)
def test_mean_files_that_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    """Catches a traceback or NaN for a mean file that is damaged or of another kind."""
    path, mean = tmp_path / "net.caffemodel", tmp_path / "mean.npy"
    path.write_bytes(caffemodel(TINY))
    if isinstance(content, bytes):
        mean.write_bytes(content)
    else:
        np.save(mean, content, allow_pickle=True)
    with pytest.raises(InputError, match=message) as raised:
        convert.read_model(path, mean=mean)
    assert "\n" not in str(raised.value)
