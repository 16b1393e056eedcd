"""Projections to pixels: against PyTorch, explicitly and by autograd, and by their identities."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.config_files import data_variants, load
from helpers.torch_reference import TorchReference, make_one_column, random_params, small_config
from helpers.unknown_op import Unknown

from alexnet_jax.analysis.deconvnet import METHODS, make_project_fn
from alexnet_jax.analysis.receptive_fields import compute_receptive_fields
from alexnet_jax.config import Config, sequential_model, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, Op, ReLU, WithinChannelLRN
from alexnet_jax.models.sequential_config import SequentialConfig
from configs import resnet

pytestmark = pytest.mark.usefixtures("double_precision")

COUNT = 4  # images


def images_of(config: Config, seed: int = 1) -> np.ndarray:
    shape = (COUNT, config.data.crop, config.data.crop, config.model.channels)
    return np.random.default_rng(seed).normal(size=shape)


def activations_of(config: Config, params: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    model, variables = registry.make_model(config), {"params": params}
    found = registry.compute_activations(model, variables, jnp.asarray(images, jnp.float32))
    return {name: np.asarray(activations) for name, activations in found.items()}


def project(
    config: Config, params: Any, images: np.ndarray, op: str, positions: Any, method: str
) -> np.ndarray:
    function = make_project_fn(config, op, method)
    inputs = jnp.asarray(images, jnp.float32)
    return np.asarray(function({"params": params}, inputs, jnp.asarray(positions)))


def active_positions(activations: np.ndarray, seed: int = 2) -> np.ndarray:
    """Return the position of a random activation of each image that is not zero."""
    rng = np.random.default_rng(seed)
    flat = activations.reshape(len(activations), -1)
    return np.array([rng.choice(np.flatnonzero(row)) for row in flat])


class TorchDeconvnet(TorchReference):
    """The deconvnet op by op, as the paper describes it, with PyTorch's transposed layers."""

    def project(self, images: np.ndarray, op: str, positions: np.ndarray) -> np.ndarray:
        x, inputs = torch.tensor(images.transpose(0, 3, 1, 2)), {}
        names = list(self.model.ops)
        names = names[: names.index(op) + 1]
        for name in names:
            inputs[name] = x
            x = self._op(name, self.model.ops[name], x)
        signal = x * channels_first(one_hot(positions, x))
        for name in reversed(names):
            signal = self._down(name, self.model.ops[name], signal, inputs[name])
        return signal.detach().numpy().transpose(0, 2, 3, 1)

    def _down(self, name: str, op: Op, signal: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        match op:
            case Conv():
                weight, _ = self._weights_of(name)
                full = F.conv_transpose2d(signal, weight, stride=op.stride, groups=op.groups)
                before, after = op.padding
                padded = torch.zeros(*x.shape[:2], *(side + before + after for side in x.shape[2:]))
                padded[:, :, : full.shape[2], : full.shape[3]] = full
                return padded[:, :, before : before + x.shape[2], before : before + x.shape[3]]
            case Dense():
                weight, _ = self._weights_of(name)
                groups = zip(weight.chunk(op.groups), signal.chunk(op.groups, 1), strict=True)
                return torch.cat([s @ w for w, s in groups], 1).reshape(x.shape)
            case MaxPool():
                _, switches = F.max_pool2d(
                    x, op.window, op.stride, ceil_mode=op.ceil_mode, return_indices=True
                )
                unpooled = torch.zeros_like(x).flatten(2)
                unpooled.scatter_add_(2, switches.flatten(2), signal.flatten(2))
                return unpooled.reshape(x.shape)
            case ReLU():
                return signal.clamp(min=0)
            case LRN():
                return signal
            case Dropout():
                return signal * (1 - op.rate)
        raise AssertionError(op)


def one_hot(positions: np.ndarray, like: torch.Tensor) -> np.ndarray:
    """Return zeros (batch, height, width, channels) or (batch, units), and one at each position."""
    shape = like.shape if like.ndim == 2 else like.permute(0, 2, 3, 1).shape
    ones = np.zeros((len(positions), int(np.prod(shape[1:]))))
    ones[np.arange(len(positions)), positions] = 1
    return ones.reshape(shape)


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array if array.ndim == 2 else array.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("columns", "names"), [(2, ("pool1", "conv2", "relu3", "fc6", "fc8")), (1, ("norm2", "fc8"))]
)
def test_beside_an_explicit_deconvnet(columns: int, names: tuple[str, ...]) -> None:
    """Catches a signal that passes an op otherwise than in the paper: a ReLU that masks by the
    input, a normalization that is differentiated, pooling without switches, a layer of groups
    transposed as one without, a bias on the way down, or images that are mixed up."""
    config = small_config()
    if columns == 1:
        make_one_column(config)
    params, images = random_params(config), images_of(config)
    reference = TorchDeconvnet(sequential_model(config), params)
    activations = activations_of(config, params, images)
    for op in names:
        positions = active_positions(activations[op])
        expected = reference.project(images, op, positions)
        found = project(config, params, images, op, positions, "deconvnet")
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * scale, err_msg=op)
        assert np.abs(expected).max((1, 2, 3)).min() > 1e-3 * scale


class _GuidedRelu(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context: Any, signal: torch.Tensor) -> torch.Tensor:
        (x,) = context.saved_tensors
        return signal.clamp(min=0) * (x > 0)


class TorchGuided(TorchReference):
    """PyTorch's backward pass with another ReLU."""

    def _op(self, name: str, op: Op, x: torch.Tensor) -> torch.Tensor:
        return _GuidedRelu.apply(x) if isinstance(op, ReLU) else super()._op(name, op, x)


@pytest.mark.parametrize("op", ["norm2", "relu3", "fc8"])
@pytest.mark.parametrize("method", ["gradient", "guided"])
def test_gradients_beside_autograd(method: str, op: str) -> None:
    """Catches a gradient that starts with the activation, a guided one that does not, a ReLU of
    another method, and a normalization that is passed unchanged."""
    config = small_config()
    params, images = random_params(config), images_of(config)
    positions = active_positions(activations_of(config, params, images)[op])
    kind = TorchGuided if method == "guided" else TorchReference
    reference = kind(sequential_model(config), params)
    x = inputs = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    for name, each in sequential_model(config).ops.items():
        x = reference._op(name, each, x)
        if name == op:
            break
    start = channels_first(one_hot(positions, x))
    x.backward(start * x.detach() if method == "guided" else start)
    assert inputs.grad is not None
    expected = inputs.grad.numpy().transpose(0, 2, 3, 1)
    found = project(config, params, images, op, positions, method)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_values_that_share_a_switch_are_added() -> None:
    """Catches unpooling that overwrites: it gives 4 · 20 in place of (1 + 2 + 3 + 4) · 20.

    The four windows of 3 × 3 pixels overlap in the middle of 5 × 5, where their maximum is 2. The
    unit is 20 = (1 + 2 + 3 + 4) · 2.
    """
    config = one_channel_config(pool1=MaxPool())
    params = one_channel_params(np.array([1.0, 2, 3, 4])[:, None])
    image = np.zeros((1, 5, 5, 1))
    image[0, 2, 2] = 2
    expected = np.zeros((1, 5, 5, 1))
    expected[0, 2, 2] = (1 + 2 + 3 + 4) * 20
    np.testing.assert_allclose(project(config, params, image, "fc2", [0], "deconvnet"), expected)


def test_a_signal_is_rectified_where_the_input_was_not_positive() -> None:
    """Catches the three methods' rules mixed up. Of four pixels -1 and 2 enter ReLU and weights
    of 3 and -5: the unit is 3 · max(±, 0) + …, and each rule keeps another pixel."""
    config = one_channel_config(crop=2)
    params = one_channel_params(np.array([3.0, 3, -5, -5])[:, None])
    image = np.array([-1.0, 4, -1, 1]).reshape(1, 2, 2, 1)  # the unit is 3 · 4 - 5 · 1 = 7
    kept = {"gradient": [0, 3, 0, -5], "deconvnet": [21, 21, 0, 0], "guided": [0, 21, 0, 0]}
    for method, expected in kept.items():
        found = project(config, params, image, "fc2", [0], method)
        np.testing.assert_allclose(found.ravel(), expected, err_msg=method)


def one_channel_config(crop: int = 5, **pools: Op) -> Config:
    """Return a model whose convolution copies the image: conv1 relu1 … fc2, with one class."""
    config = small_config()
    make_one_column(config)
    config.data.crop, config.model.num_classes = crop, 1
    ops = dict(conv1=Conv(1, kernel=1), relu1=ReLU(), **pools, fc2=Dense(0))
    sequential_model(config).ops = ops
    return config


def one_channel_params(weights: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    conv = {"kernel": np.ones((1, 1, 1, 1)), "bias": np.zeros(1)}
    return {"conv1": conv, "fc2": {"kernel": weights, "bias": np.zeros(1)}}


def test_layer_1_is_the_activation_times_its_filter() -> None:
    """Catches a filter that is displaced, flipped, of another channel or column, or not cut off
    at the edge of the image."""
    config = small_config()
    params, images = random_params(config), images_of(config)
    activations = activations_of(config, params, images)["conv1"]  # 12 × 12 × 8, stride 2
    where = [(0, 0, 0), (3, 11, 5), (11, 4, 7), (6, 6, 2)]
    positions = [(y * 12 + x) * 8 + channel for y, x, channel in where]
    found = project(config, params, images, "conv1", positions, "deconvnet")
    for i, (y, x, channel) in enumerate(where):
        kernel = params["conv1"]["kernel"][channel // 4, :, :, :, channel % 4]
        padded = np.zeros((24 + 3, 24 + 3, 1))  # the padding is after the image
        padded[2 * y : 2 * y + 5, 2 * x : 2 * x + 5] = activations[i, y, x, channel] * kernel
        np.testing.assert_allclose(found[i], padded[:24, :24], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_zero_outside_the_receptive_field(method: str) -> None:
    """Catches a projection of another position than asked for: a corner's and the middle's are in
    their own field alone, whichever column the channel is of."""
    config = small_config()
    params, images = random_params(config), images_of(config)
    fields = compute_receptive_fields(sequential_model(config).ops, config.data.crop)
    activations = activations_of(config, params, images)
    for op in ("relu1", "norm2"):
        side, channels = activations[op].shape[1], activations[op].shape[3]
        rows, columns = np.array([0, side - 1, side // 2, 1]), np.array([0, 0, side // 2, side - 1])
        best = activations[op][np.arange(COUNT), rows, columns].argmax(-1)
        positions = (rows * side + columns) * channels + best
        found = project(config, params, images, op, positions, method)
        for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
            (top, bottom), (left, right) = fields[op].bounds[row], fields[op].bounds[column]
            inside = np.zeros_like(found[i], bool)
            inside[top:bottom, left:right] = True
            assert np.abs(found[i][inside]).max() > 0
            assert np.abs(found[i][~inside]).max() == 0


def test_methods_agree_where_nothing_is_negative() -> None:
    """Catches a ReLU that changes a signal that no method may change, and a start without the
    activation: with weights, biases and images of 0 or more, deconvnet = guided = gradient times
    activation."""
    config = small_config()
    model = sequential_model(config)
    model.ops = {name: op for name, op in model.ops.items() if not isinstance(op, LRN)}
    params: Any = {
        name: {kind: np.abs(array) for kind, array in layer.items()}
        for name, layer in random_params(config).items()
    }
    images = np.abs(images_of(config))
    activations = activations_of(config, params, images)["fc7"]
    positions = np.arange(COUNT) * 3
    deconvnet, guided, gradient = (
        project(config, params, images, "fc7", positions, method) for method in METHODS
    )
    np.testing.assert_allclose(guided, deconvnet, rtol=1e-5)
    chosen = activations[np.arange(COUNT), positions].reshape(COUNT, 1, 1, 1)
    np.testing.assert_allclose(gradient * chosen, deconvnet, rtol=1e-4)


@pytest.mark.parametrize("norm", [LRN(size=3, alpha=0.4), WithinChannelLRN(size=3, alpha=4)])
def test_a_normalization_is_passed_unchanged(norm: Op) -> None:
    """Catches either normalization differentiated: its own projection and that of the ReLU before
    it differ only by the factor between the two activations."""
    config = small_config()
    model = sequential_model(config)
    model.ops = {name: norm if name == "norm2" else op for name, op in model.ops.items()}
    params, images = random_params(config), images_of(config)
    activations = activations_of(config, params, images)
    positions = active_positions(activations["norm2"])
    before, after = (
        project(config, params, images, op, positions, "deconvnet") for op in ("relu2", "norm2")
    )
    chosen = (
        activations[op].reshape(COUNT, -1)[np.arange(COUNT), positions] for op in ("relu2", "norm2")
    )
    relu, normalized = (values.reshape(COUNT, 1, 1, 1) for values in chosen)
    assert np.abs(relu / normalized - 1).max() > 0.1
    np.testing.assert_allclose(after * (relu / normalized), before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("file", "variant"), data_variants())
def test_every_config_can_be_projected(file: str, variant: str) -> None:
    """Catches an op that a config has and that has no rule here or in `receptive_fields`, and a
    deconvnet of a model for which it is not defined."""
    config = load(file, variant)
    if not isinstance(config.model, SequentialConfig):
        with pytest.raises(InputError, match="no rules for a"):
            make_project_fn(config, "fc")
        return
    chain = sequential_model(config).ops
    make_project_fn(config, next(reversed(chain)))
    assert compute_receptive_fields(chain, config.data.crop).keys() == chain.keys()


def test_the_gradient_of_a_model_with_branches() -> None:
    """Catches a signal that leaves out a branch or does not start with 1.

    Before training, a residual network has no biases and no means, so that a multiple of an image
    has that multiple of its activations, which then are image · gradient (Euler's theorem).
    """
    changes = {"model.width": 2, "model.stage_sizes": (1, 1), "model.num_classes": 3}
    config = with_changes(resnet.get_config("sample"), {**changes, "data.crop": 8})
    images, variables = jnp.asarray(images_of(config), jnp.float32), registry.init_variables(config)
    compute = jax.jit(partial(registry.compute_activations, registry.make_model(config)))
    activations = np.asarray(compute(variables, images)["conv3_1/sum"])
    positions = active_positions(activations)
    project = make_project_fn(config, "conv3_1/sum", "gradient")
    found = np.asarray(project(variables, images, jnp.asarray(positions)))
    chosen = activations.reshape(COUNT, -1)[np.arange(COUNT), positions]
    np.testing.assert_allclose((found * images).sum((1, 2, 3)), chosen, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_projected() -> None:
    """Catches an op without a rule that is differentiated, although it comes before the one asked
    for, and an error about one that comes after it; a method or an op that does not exist."""
    config = small_config()
    model = sequential_model(config)
    model.ops = {**model.ops, "relu3": Unknown()}
    with pytest.raises(InputError, match="through relu3: Unknown has no rule"):
        make_project_fn(config, "fc6")
    make_project_fn(config, "conv3")
    with pytest.raises(InputError, match="the model has no op fc9; expected one of conv1, relu1"):
        make_project_fn(config, "fc9")
    with pytest.raises(InputError, match="'gradients' is unknown; expected deconvnet or guided or"):
        make_project_fn(config, "fc6", "gradients")
