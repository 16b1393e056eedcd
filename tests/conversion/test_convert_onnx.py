"""ONNX files, read and written by us and run by ONNX Runtime."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import foreign_files
from helpers.foreign_files import channels_first
from helpers.onnx_files import make_zoo_model
from helpers.torch_reference import conv_op, dense_op, make_one_column, random_params, small_config
from onnx import helper, numpy_helper

from alexnet_jax import convert
from alexnet_jax.config import Config, sequential_model, validated
from alexnet_jax.conversion import presets
from alexnet_jax.data.batch import Batch, center_crops
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import mean_of, normalize
from alexnet_jax.models import registry
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, Tanh, WithinChannelLRN
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.trained import TrainedModel
from configs import alexnet, bvlc_alexnet, source2012, vgg, zfnet

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once


def run(model: onnx.ModelProto | Path, images: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """Return outputs, or other activations, by ONNX Runtime."""
    model = onnx.load(model) if isinstance(model, Path) else model
    listed = {value.name for value in model.graph.output}
    for name in names:
        if name not in listed:
            model.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # of weights among the inputs
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[np.ndarray] = session.run(names, {session.get_inputs()[0].name: images})
    return found


def test_a_model_of_the_zoo(tmp_path: Path) -> None:
    """Catches geometry that is assumed: padding of conv1, windows of the three pools, groups."""
    path = tmp_path / "bvlcalexnet.onnx"
    model = make_zoo_model(foreign_files.SMALL)
    path.write_bytes(model.SerializeToString())
    trained = convert.read_model(path)
    assert isinstance(trained.config.model, SequentialConfig)
    ops = trained.config.model.ops
    assert [*ops] == [n for name in foreign_files.OPS for n in (name, *foreign_files.OPS[name])][
        :-1
    ]
    pools = [ops[name] for name in ("pool1", "pool2", "pool5")]
    assert pools == [MaxPool(ceil_mode=False), MaxPool(ceil_mode=False), MaxPool(ceil_mode=True)]
    expected_data = presets.bvlc_alexnet().data
    expected_data.crop = 224
    assert trained.config.data == expected_data
    rng = np.random.default_rng(1)
    seen = rng.normal(0, 70, (1, 224, 224, 3)).astype(np.float32)
    compute = partial(registry.compute_activations, registry.make_model(trained.config))
    ours = jax.jit(compute, compiler_options=QUICK)(trained.variables, seen)
    theirs = run(model, seen.transpose(0, 3, 1, 2), [f"{name}_1" for name in ours])
    for (name, activation), expected in zip(ours.items(), theirs, strict=True):
        got = channels_first(activation)
        # Float32 sums in another order, and LRN by another formula.
        largest = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * largest, err_msg=name)


def test_names_of_the_config(tmp_path: Path) -> None:
    """Catches layers of a file, which names none, called other than --config has them, and layers
    of a file that are more, fewer or of another type than its."""
    path = tmp_path / "bvlcalexnet.onnx"
    path.write_bytes(make_zoo_model(foreign_files.SMALL).SerializeToString())
    config = bvlc_alexnet.get_config()
    names = {"conv1": "first", "fc8": "last"}
    ops = sequential_model(config).ops
    sequential_model(config).ops = {names.get(name, name): op for name, op in ops.items()}
    assert [*convert.read_model(path, config).params] == [
        names.get(n, n) for n in foreign_files.SMALL
    ]
    for config, message in (
        (alexnet.get_config("no_conv5"), "fc6 is a Conv; expected it to be Dense"),
        (alexnet.get_config("conv6"), "conv6 is a Gemm; expected it to be Conv"),
    ):
        with pytest.raises(InputError, match=message):
            convert.read_model(path, config)
    for change, message in ((-1, "one more Gemm than the config has layers"), (1, "no layers for")):
        config = alexnet.get_config()
        *hidden, last = sequential_model(config).ops.items()
        more = [("fc9", Dense(8)), ("fc10", Dense(0))][: 1 + change]
        kept = [(n, op) for n, op in hidden if change > 0 or n != "fc7"]
        sequential_model(config).ops = dict([*kept, last, *more])
        with pytest.raises(InputError, match=message):
            convert.read_model(path, config)


def shrink(config: Config) -> None:
    """Give a config of the paper's network few channels and classes."""
    config.model.num_classes = 7
    for op in sequential_model(config).ops.values():
        if isinstance(op, Conv | Dense):
            op.features = min(op.features, 12)


def some_model(kind: str) -> TrainedModel:
    """Return a model that a run would leave, with all that the graph has to hold."""
    config = small_config()
    config.model.channels = 3
    model = sequential_model(config)
    if kind == "paper, shrunk":
        config = alexnet.get_config()
        shrink(config)
        for op in sequential_model(config).ops.values():
            if isinstance(op, LRN):
                op.alpha = 0.05
    elif kind == "the 2012 program's, shrunk":
        config = source2012.get_config()
        shrink(config)
        for op in sequential_model(config).ops.values():
            if isinstance(op, WithinChannelLRN):
                op.alpha = 5.0  # as strong as can be seen after random weights
    elif kind in ("ZFNet, shrunk", "VGG, shrunk"):
        config = zfnet.get_config() if kind == "ZFNet, shrunk" else vgg.get_config("A")
        shrink(config)
        for op in sequential_model(config).ops.values():
            if isinstance(op, LRN):
                op.alpha = 0.05
    elif kind == "no communication, pools that round down":
        conv_op(config, "conv3").groups = dense_op(config, "fc6").groups = 2
        del model.ops["norm1"]
        model.ops["relu1"], model.ops["pool1"] = Tanh(), MaxPool(ceil_mode=False)
        config.data.mean, config.data.given_mean = "given", (120.0, 110.0, 100.0)
    elif kind == "BGR in units of a deviation, LRN across":
        config.data.channel_order = "bgr"
        config.data.std = (50.0, 60.0, 70.0)
        config.data.mean = "center"
        for op in model.ops.values():
            if isinstance(op, LRN):
                op.across_columns = True
            elif isinstance(op, Dropout):
                op.inverted = True
    elif kind == "one column, ops that differ":
        make_one_column(config)
        model.ops["norm1"] = WithinChannelLRN(alpha=5.0)
        model.ops["pool2"] = MaxPool(2, 2, ceil_mode=False)
        model.ops["drop6"] = Dropout(0.25)
    elif kind == "one column, no convolution":
        make_one_column(config)
        model.ops = {name: model.ops[name] for name in ("fc6", "relu6", "fc8")}
    config = validated(config)
    rng = np.random.default_rng(5)
    side = config.data.crop + 3  # at most data.image_size
    mean = rng.uniform(90, 140, (side, side, 3)).astype(np.float32)
    params = jax.tree.map(np.float32, random_params(config))
    next(iter(params.values()))["kernel"] /= 20
    names = tuple(map(str, range(config.model.num_classes)))
    return TrainedModel(config, 0, {"params": params}, mean, names)


KINDS = [
    "paper, shrunk",
    "the 2012 program's, shrunk",
    "ZFNet, shrunk",
    "VGG, shrunk",
    "no communication, pools that round down",
    "BGR in units of a deviation, LRN across",
    "one column, ops that differ",
    "one column, no convolution",
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_written_stands_alone(tmp_path: Path, kind: str) -> None:
    """Catches a mean of another crop, LRN across columns, our own order of flattened feature maps,
    a normalization within a channel whose windows at the edges divide by fewer activations, an op
    written with another's numbers, and a file that does not come back as it was."""
    model, path = some_model(kind), tmp_path / "model.onnx"
    convert.write_model(path, model)
    crop, side = model.config.data.crop, len(model.mean_image)
    pixels = np.random.default_rng(2).integers(0, 256, (3, side, side, 3), np.uint8)
    batch = center_crops(pixels, crop, 3)
    mean = jnp.asarray(mean_of(model.mean_image, model.config.data, 3))
    apply = partial(registry.apply_model, registry.make_model(model.config))

    @jax.jit
    def forward(variables: Any, batch: Batch) -> jax.Array:
        return apply(variables, normalize(batch, mean, model.config.data))[0].logits

    (theirs,) = run(
        path, np.asarray(batch.image).transpose(0, 3, 1, 2).astype(np.float32), ["logits"]
    )
    ours = np.asarray(forward(model.variables, batch))
    assert np.abs(ours).max() > 0.05
    # As asked for: 1e-4 of logits near 1; sums in another order give a tenth of that.
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4 * max(1, np.abs(ours).max()))
    assert theirs.std(axis=0).max() > 1e-2  # the images are told apart
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    if "conv3" in model.params:
        kernel = model.params["conv3"]["kernel"]
        last = kernel[1] if kernel.ndim == 5 else kernel
        np.testing.assert_array_equal(weights["conv3_0"][-1, -1], last[:, :, -1, -1])
    convert.write_model(tmp_path / "model.safetensors", model)
    for file in (path, tmp_path / "model.safetensors"):
        again = convert.read_model(file)
        assert (again.config, again.class_names) == (model.config, model.class_names)
        np.testing.assert_array_equal(again.mean_image, model.mean_image)
        jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
