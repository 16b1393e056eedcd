"""VGG: the sizes of its tables, and its logits beside torchvision's and Keras's."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
from helpers.config_files import load
from helpers.torch_reference import conv_op
from helpers.torchvision_models import make_vgg, params_from_torch

from alexnet_jax import command, describe
from alexnet_jax.analysis.summary import summarize
from alexnet_jax.config import Config, sequential_model, validated
from alexnet_jax.data.crops import evaluation_scale
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool

# Table 1: parameters and layers, counted from the widths; millions of multiply-adds.
TABLE_1 = {
    "A": (132_863_336, 11, 7_609),
    "A_LRN": (132_863_336, 11, 7_609),
    "B": (133_047_848, 13, 11_308),
    "C": (133_638_952, 16, 11_771),
    "D": (138_357_544, 16, 15_470),
    "E": (143_667_240, 19, 19_632),
}


@pytest.mark.parametrize("letter", TABLE_1)
def test_table_1(letter: str) -> None:
    """Catches: a layer of another width, kernel or number; a pooling left out."""
    parameters, layers, millions = TABLE_1[letter]
    rows = summarize(describe.with_classes(load("vgg.py", letter)))
    assert sum(row.parameters for row in rows) == parameters
    assert len(rows) == layers
    assert round(sum(row.multiply_adds for row in rows) / 10**6) == millions
    assert [row.output for row in rows if row.name in ("conv1_1", "conv5_1", "fc6")] == [
        (224, 224, 64),
        (14, 14, 512),
        (4096,),
    ]


def test_the_default_is_d() -> None:
    """Catches: another model without a word."""
    assert load("vgg.py", "") == load("vgg.py", "D")


def test_receptive_fields() -> None:
    """Catches: strides multiplied before the layer that has them. By hand, layer by layer."""
    rows = {row.name: row for row in summarize(describe.with_classes(load("vgg.py", "D")))}
    assert (rows["conv1_2"].receptive_field, rows["conv1_2"].stride) == (5, 1)
    assert (rows["conv3_3"].receptive_field, rows["conv3_3"].stride) == (40, 4)
    assert (rows["conv5_3"].receptive_field, rows["conv5_3"].stride) == (196, 16)


def test_recipe() -> None:
    """Catches: a field of section 3.1 that has AlexNet's value."""
    config = load("vgg.py", "")
    assert (config.batch_size, config.epochs, config.learning_rate) == (256, 74, 0.01)
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 0.0005)
    assert (config.schedule.rule, config.schedule.drops) == ("plateau", 3)
    assert config.data.mean == "channel"
    assert config.data.lighting == "paper"
    ops = sequential_model(config).ops.values()
    assert {op.inverted for op in ops if isinstance(op, Dropout)} == {True}
    assert {op.bias for op in ops if isinstance(op, Conv | Dense)} == {0.0}
    assert not any(isinstance(op, LRN) for op in ops)


def test_the_normalization_of_a_lrn_follows_the_first_layer() -> None:
    """Catches: a normalization before the ReLU, or with constants other than AlexNet's."""
    ops = sequential_model(load("vgg.py", "A_LRN")).ops
    assert list(ops)[:4] == ["conv1_1", "relu1_1", "norm1_1", "pool1"]
    assert ops["norm1_1"] == LRN(5, 2.0, 1e-4, 0.75)


def test_glorot_initial_weights() -> None:
    """Catches: fan-out that counts channels but no pixels of the kernels, a normal distribution,
    and a variance other than 2 / (fan-in + fan-out)."""
    config = load("vgg.py", "sample")
    assert sequential_model(config).init == "glorot"
    sequential_model(config).ops = dict(conv1=Conv(64, kernel=5), fc2=Dense(100), fc3=Dense(0))
    config.model.num_classes, config.data.crop = 40, 8
    params = registry.init_variables(validated(config))["params"]
    for name, fans in (("conv1", 25 + 25 * 64), ("fc2", 16 * 64 + 100), ("fc3", 100 + 40)):
        kernel = np.asarray(params[name]["kernel"])
        limit = (6 / fans) ** 0.5
        assert 0.98 * limit < np.abs(kernel).max() <= limit
        np.testing.assert_allclose(kernel.var(), 2 / fans, rtol=0.05)


def test_layers_of_model_a() -> None:
    """Catches: a layer to take from A that B to E do not have in the same shape; another run."""
    of_a = registry.abstract_variables(describe.with_classes(load("vgg.py", "A")))["params"]
    for letter in "BCDE":
        config = load("vgg.py", f"{letter},from_A")
        assert config.init_from == "runs/vgg-A"
        params = registry.abstract_variables(describe.with_classes(config))["params"]
        assert len(config.init_layers) == 7
        for layer in config.init_layers:
            assert params[layer]["kernel"].shape == of_a[layer]["kernel"].shape
    assert load("vgg.py", "sample,E,from_A").init_from == "runs/vgg-sample-A"


def test_words_of_network_and_data_in_any_order() -> None:
    """Catches: a network that undoes the size of the sample's model, or the reverse."""
    assert load("vgg.py", "sample,C") == load("vgg.py", "C,sample")
    assert conv_op(load("vgg.py", "C,sample"), "conv5_3").kernel == 1
    assert conv_op(load("vgg.py", "C,sample"), "conv5_3").features == 128


def test_scales_of_the_recipe() -> None:
    """Catches: a scale at which the run before was not trained; a test scale other than the mean
    of the scales."""
    for letter in "DE":
        config = load("vgg.py", f"{letter},s384")
        assert (config.data.image_size, config.learning_rate) == (384, 0.001)
        config = load("vgg.py", f"{letter},jitter")
        assert (config.data.image_size, config.data.scale_jitter) == (512, (256, 512))
        assert evaluation_scale(config.data, 512) == 384
    config = load("vgg.py", "sample,jitter")
    assert (config.init_from, config.data.scale_jitter) == ("", (24, 28))


@pytest.mark.parametrize(
    ("variant", "earlier"),
    [
        ("D,s384", "D"),
        ("D,jitter", "D,s384"),
        ("s384", ""),
        ("jitter", "s384"),
        ("E,imagenette,s384", "E,imagenette"),
        ("imagenette,E,s384", "imagenette,E"),
        ("E,imagenette,jitter", "E,imagenette,s384"),
        ("D,s384,jitter", "D,s384"),
        ("B,normal_init,jitter,conv5x5", "B,normal_init,s384,conv5x5"),
        ("B,conv5x5,s384", "B,conv5x5"),
        ("D,from_A,s384", "D,from_A"),
        ("D,s384,from_A", "D,from_A"),
        ("E,imagenette,from_A", "A,imagenette"),
        ("imagenette,E,normal_init,from_A", "imagenette,A"),
        ("imagenette,from_A", "imagenette,A"),
    ],
)
def test_chain(monkeypatch: pytest.MonkeyPatch, variant: str, earlier: str) -> None:
    """Catches: a run that looks for another workdir than the one before it leaves, and layers of A
    alone where the run before has all of them."""
    given = "configs/vgg.py" + (f":{earlier}" if earlier else "")
    monkeypatch.setattr(command, "given_config", lambda: (given, {}))
    config = load("vgg.py", variant)
    assert config.init_from == command.default_workdir()
    assert len(config.init_layers) == (0 if {"s384", "jitter"} & {*variant.split(",")} else 7)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("A,D", "names the network D after A; expected at most one word for the network"),
        ("no_dropout,A", "names the network A after no_dropout"),
        ("sample,s384", "those of these data are small"),
        ("sample,caffe", "those of these data are gray"),
        ("D,conv5x5", "conv5x5 replaces the pairs of convolutions of model B"),
        ("F", "unknown variant 'F'; known: A, A_LRN, B, C, D, E"),
    ],
)
def test_wrong_words(variant: str, message: str) -> None:
    """Catches: a second network that silently replaces the first, or the changes before it."""
    with pytest.raises(InputError, match=message):
        load("vgg.py", variant)


def test_5x5_kernels() -> None:
    """Catches: a pair that stays, or padding that changes the size of activations."""
    config = describe.with_classes(load("vgg.py", "B,conv5x5"))
    rows = summarize(config)
    assert [row.name for row in rows[:5]] == [f"conv{n}_1" for n in range(1, 6)]
    assert {conv_op(config, row.name).kernel for row in rows[:5]} == {5}
    assert rows[4].output == (14, 14, 512)
    pools = [op for op in sequential_model(config).ops.values() if isinstance(op, MaxPool)]
    assert len(pools) == 5


def small(letter: str, share: int) -> Config:
    """Return a model's config with a part of its channels and units, for seven classes."""
    config = load("vgg.py", letter)
    for op in sequential_model(config).ops.values():
        if isinstance(op, Conv | Dense):
            op.features //= share
    config.model.num_classes = 7
    return validated(config)


def our_logits(config: Config, params: Any, images_NxHxWxC: np.ndarray) -> np.ndarray:
    """Return the logits of preprocessed images at test time."""
    model = registry.make_model(config)
    outputs, _ = jax.jit(lambda p, x: registry.apply_model(model, {"params": p}, x))(
        params, images_NxHxWxC
    )
    return np.asarray(outputs.logits)


def images(count: int) -> np.ndarray:
    """Return random images (count, 224, 224, 3), mean-subtracted."""
    return np.random.default_rng(0).normal(0, 60, (count, 224, 224, 3)).astype(np.float32)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Assert a relative difference of at most 1e-5 of the largest logit."""
    assert np.abs(expected).max() > 0.1
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def check_against_torchvision(letter: str, share: int, count: int) -> None:
    """Compare logits with those of torchvision for the same random weights."""
    config, peer = small(letter, share), make_vgg(letter, share=share)
    x = images(count)
    with torch.no_grad():
        expected = peer(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    assert_close(our_logits(config, params_from_torch(config, peer.state_dict()), x), expected)


@pytest.mark.parametrize("letter", ["A", "B", "D", "E"])
def test_logits_are_torchvisions(letter: str) -> None:
    """Catches: another order of layers, pooling or padding than torchvision's, and units that are
    flattened in another order; with a sixteenth of the channels."""
    check_against_torchvision(letter, share=16, count=2)


def test_logits_are_torchvisions_at_full_size() -> None:
    """Catches: sums whose rounding grows with the number of channels."""
    check_against_torchvision("A", share=1, count=1)


@pytest.mark.slow
@pytest.mark.parametrize("letter", ["B", "D", "E"])
def test_logits_of_deeper_models_are_torchvisions(letter: str) -> None:
    """Catches: what the test above does, in the deeper models."""
    check_against_torchvision(letter, share=1, count=1)


@pytest.mark.slow
@pytest.mark.parametrize(("letter", "name"), [("D", "VGG16"), ("E", "VGG19")])
def test_logits_are_kerass(letter: str, name: str) -> None:
    """Catches: an order of layers or of flattened units that differs from Keras's, which has
    images with channels last, too."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    peer = getattr(keras.applications, name)(
        weights=None, classes=7, classifier_activation=None, input_shape=(224, 224, 3)
    )
    layers = [layer.get_weights() for layer in peer.layers if layer.get_weights()]
    rng = np.random.default_rng(0)
    layers = [(kernel, rng.normal(0, 0.1, bias.shape)) for kernel, bias in layers]
    for layer, weights in zip((x for x in peer.layers if x.weights), layers, strict=True):
        layer.set_weights(weights)
    config, x = small(letter, 1), images(1)
    names = [row.name for row in summarize(config)]
    params = {
        layer: {"kernel": kernel, "bias": bias.astype(np.float32)}
        for layer, (kernel, bias) in zip(names, layers, strict=True)
    }
    assert_close(our_logits(config, params, x), np.asarray(peer(x)))
