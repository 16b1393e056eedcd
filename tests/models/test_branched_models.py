"""Sizes, layers and words of residual networks and GoogLeNet."""

import json
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.config_files import load
from helpers.torch_branched import random_variables, small_googlenet, small_resnet

from alexnet_jax import describe, sharding
from alexnet_jax.analysis.collectives import list_collectives, lower_train_step
from alexnet_jax.analysis.summary import abstract_activations, summarize
from alexnet_jax.config import (
    Config,
    config_from_json,
    config_to_json,
    config_to_text,
    validated,
    with_changes,
)
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.schedules import learning_rate, total_steps

RESNET, GOOGLENET = "resnet.py", "googlenet.py"
QUICK = {"xla_backend_optimization_level": 0}  # to compile what runs once
# Counted from the papers' tables. Those of shortcut B are also torchvision's.
RESNETS = {
    "18": 11_689_512, "34": 21_797_672, "": 25_557_032, "101": 44_549_160, "152": 60_192_808,
    "18,shortcut_a": 11_515_688, "50,shortcut_a": 22_780_456,
    "34,shortcut_c": 22_716_840, "50,shortcut_c": 40_128_552,
    "plain18": 11_515_688, "plain34": 21_623_848,
    "cifar20": 269_722, "cifar32": 464_154, "cifar44": 658_586, "cifar56": 853_018,
    "cifar110": 1_727_962, "cifar_plain20": 269_722,
}  # fmt: skip


@pytest.mark.parametrize("variant", RESNETS)
def test_parameters_of_resnets(variant: str) -> None:
    """Catches: a projection too many or too few, a bias before a normalization."""
    params = registry.abstract_variables(describe.with_classes(load(RESNET, variant)))["params"]
    assert sum(prod(leaf.shape) for leaf in jax.tree.leaves(params)) == RESNETS[variant]


@pytest.mark.parametrize(
    ("variant", "as_trained", "at_test"),
    [("", 13_378_280, 6_998_552), ("torchvision", 13_004_888, 6_624_904)],
)
def test_parameters_of_googlenet(variant: str, as_trained: int, at_test: int) -> None:
    """Catches: auxiliary classifiers counted at test time, or without one of their layers; the
    numbers are Caffe's and torchvision's."""
    rows = summarize(describe.with_classes(load(GOOGLENET, variant)))
    assert sum(row.parameters for row in rows) == as_trained
    assert sum(row.parameters for row in rows if not row.training_only) == at_test


def test_cifar1202() -> None:
    """Catches: another number of blocks than (1202 - 2) / 6 in a stage."""
    model = load(RESNET, "cifar1202").model
    assert isinstance(model, ResNetConfig)
    assert model.stage_sizes == (200, 200, 200)
    # 19,421,274 parameters: each further block of all three stages adds those of its kernels, and
    # of two normalizations. To trace 1,202 layers takes ten seconds.
    kernels = sum(2 * 9 * width**2 + 4 * width for width in (16, 32, 64))
    assert 269_722 + 197 * kernels == 19_421_274


@pytest.mark.parametrize(
    ("file", "variant", "multiply_adds"),
    [
        (RESNET, "50,torchvision", 4_089_184_256),
        (GOOGLENET, "", 1_582_671_872),
    ],
)
def test_multiply_adds(file: str, variant: str, multiply_adds: int) -> None:
    """Catches: a stride in another convolution (4.089 G is torchvision's own number), a pooling
    whose output is a pixel smaller; the numbers are those at test time."""
    rows = summarize(describe.with_classes(load(file, variant)))
    assert sum(row.multiply_adds for row in rows if not row.training_only) == multiply_adds


def test_layers_of_the_papers() -> None:
    """Catches: layers out of order, outputs of another size than in table 1 of the papers."""
    rows = {row.name: row for row in summarize(describe.with_classes(load(GOOGLENET, "")))}
    names = list(rows)
    assert names[:5] == [
        "conv1", "conv2_reduce", "conv2", "inception_3a/1x1", "inception_3a/3x3_reduce",
    ]  # fmt: skip
    assert names.index("aux1/fc2") < names.index("inception_4b/1x1") < names.index("aux2/conv")
    assert names[-1] == "fc"
    assert rows["conv2"].output == (56, 56, 192)
    assert rows["inception_3b/5x5"].output == (28, 28, 96)
    assert rows["aux1/conv"].output == (4, 4, 128)
    assert rows["inception_5b/pool_proj"].output == (7, 7, 128)
    rows = {row.name: row for row in summarize(describe.with_classes(load(RESNET, "")))}
    assert list(rows)[:4] == ["conv1", "bn1", "conv2_1/conv1", "conv2_1/bn1"]
    assert rows["conv3_1/conv1"].output == (28, 28, 128)
    assert rows["conv5_3/conv3"].output == (7, 7, 2048)


@pytest.mark.parametrize("make", [small_resnet, small_googlenet])
def test_activations(make: Any) -> None:
    """Catches: activations that are not those of the model, out of order or without the logits;
    auxiliary classifiers computed at test time; a feature layer that does not exist."""
    config = validated(make())
    model, variables = registry.make_model(config), random_variables(config)
    crop = config.data.crop
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, crop, crop, 1)), jnp.float32)

    def compute() -> tuple[dict[str, jax.Array], jax.Array]:
        logits = registry.apply_model(model, variables, images)[0].logits
        return registry.compute_activations(model, variables, images), logits

    activations, logits = jax.jit(compute, compiler_options=QUICK)()
    assert set(activations) == set(abstract_activations(config))
    np.testing.assert_array_equal(activations["fc"], logits)
    features = activations[registry.feature_layer(config)]
    fc = variables["params"]["fc"]
    expected = features @ fc["kernel"] + fc["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    *_, last = abstract_activations(config)
    assert last == "fc"
    assert not any(name.startswith("aux") for name in activations)
    first = registry.family_of(config.model).first_conv(config.model)
    assert variables["params"][first]["kernel"].shape[:3] == (3, 3, 1)


@pytest.mark.parametrize("make", [small_resnet, small_googlenet])
def test_dense_model(make: Any) -> None:
    """Catches: whole images refused, or averaged over positions in another way than the classifier
    of each position, as section 3.4 of the ResNet paper has it."""
    config = validated(make())
    model, variables = registry.make_dense_model(config), random_variables(config)
    side = config.data.crop + 9
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side, 1)), jnp.float32)
    compute = partial(registry.compute_activations, model, variables, images)
    activations = jax.jit(compute, compiler_options=QUICK)()
    names = [*abstract_activations(config)]
    before = names[names.index("global_pool") - 1]
    fc = variables["params"]["fc"]
    scores = np.asarray(activations[before]) @ fc["kernel"] + fc["bias"]
    assert scores.shape[1] > 1
    np.testing.assert_allclose(activations["fc"], scores.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_dropout_of_googlenet() -> None:
    """Catches: dropout that is not applied while training, masks that are the same in both
    auxiliary classifiers, or activations that are not divided by the share that is kept."""
    config = validated(small_googlenet(dropout=0.4, aux_dropout=0.7))
    model, variables = registry.make_model(config), random_variables(config)
    images = jnp.ones((64, 20, 20, 1))
    compute = partial(registry.compute_activations, model, variables, images, train=True)
    activations = jax.jit(compute, compiler_options=QUICK)()
    for name, before, rate in (
        ("drop", "global_pool", 0.4), ("aux1/drop", "aux1/fc1_relu", 0.7),
        ("aux2/drop", "aux2/fc1_relu", 0.7),
    ):  # fmt: skip
        positive = np.asarray(activations[before]) > 0
        kept = np.asarray(activations[name])[positive]
        assert np.mean(kept == 0) == pytest.approx(rate, abs=0.05)
        scaled = np.asarray(activations[before])[positive] / (1 - rate)
        np.testing.assert_allclose(kept[kept > 0], scaled[kept > 0], rtol=1e-6)
    masks = [np.asarray(activations[f"{aux}/drop"]) == 0 for aux in ("aux1", "aux2")]
    assert (masks[0] != masks[1]).any()


@pytest.mark.parametrize("make", [small_resnet, small_googlenet])
def test_collectives(make: Any) -> None:
    """Catches: a collective of a layer in a block that is counted for a layer of the same name
    outside, or for none."""
    config = make(normalization="batch_norm") if make is small_googlenet else make(n=1)
    config.parallel.data = 2
    mesh = sharding.make_mesh(validated(config).parallel)
    found = list_collectives(lower_train_step(config, mesh), config, mesh)
    sizes = {row.name: row.parameters for row in summarize(config)}
    gradients = {item.layer: 0 for item in found if item.direction == "backward"}
    assert set(gradients) == set(sizes)
    assert {item.axis for item in found} == {"data"}
    convs = [name for name in sizes if "bn" not in name and "fc" not in name]
    for item in found:
        if item.direction == "backward" and item.layer in convs:
            gradients[item.layer] += item.bytes // 4
    assert {name: gradients[name] for name in convs} == {name: sizes[name] for name in convs}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.shortcut": "D"}, r"model\.shortcut=D; expected one of A, B, C, none"),
        ({"model.stage_sizes": ()}, r"model\.stage_sizes=\(\); expected one stage or more"),
        ({"model.stage_sizes": (2, 0)}, r"model\.stage_sizes=\(2, 0\)"),
        ({"model.width": 0}, r"model\.width=0; expected 1 or more"),
        ({"model.pool_padding": 2}, r"model\.pool_padding=2; expected 0 or 1"),
        ({"model.stem": "imagenet", "data.crop": 4}, r"data\.crop=4 is too small"),
        ({"model.batch_norm.momentum": 1.0}, r"batch_norm\.momentum=1\.0; expected from 0 to"),
        ({"model.batch_norm.epsilon": 0.0}, r"batch_norm\.epsilon=0\.0; expected more than 0"),
    ],
)
def test_wrong_resnets(changes: dict[str, Any], message: str) -> None:
    """Catches: a field whose value is not checked, and so is trained with, or raises later."""
    with pytest.raises(InputError, match=message):
        with_changes(small_resnet(), changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.normalization": "bn"}, r"model\.normalization=bn; expected one of lrn, "),
        ({"model.width": 0.0}, r"model\.width=0\.0; expected more than 0"),
        ({"model.large_kernel": 7}, r"model\.large_kernel=7; expected 3 or 5"),
        ({"model.dropout": 1.0}, r"model\.dropout=1\.0; expected from 0 to below 1"),
        ({"model.aux_weight": -1.0}, r"model\.aux_weight=-1\.0; expected 0 or more"),
        ({"data.crop": 19}, r"data\.crop=19 is too small for the model; expected 20 or more"),
        ({"model.stem": "imagenet", "data.crop": 78}, r"expected 79 or more pixels"),
    ],
)
def test_wrong_googlenets(changes: dict[str, Any], message: str) -> None:
    """Catches: a field whose value is not checked, and so is trained with, or raises later."""
    with pytest.raises(InputError, match=message):
        with_changes(small_googlenet(), changes)


@pytest.mark.parametrize(
    ("stem", "aux_weight", "ceil_mode", "crop"),
    [
        ("small", 0.3, True, 20),
        ("small", 0.0, True, 12),
        ("imagenet", 0.3, True, 79),
        ("imagenet", 0.0, True, 47),
        ("small", 0.3, False, 23),
        ("imagenet", 0.0, False, 61),
    ],
)
def test_smallest_crops(stem: str, aux_weight: float, ceil_mode: bool, crop: int) -> None:
    """Catches: a smallest crop in which some window does not fit."""
    config = small_googlenet(stem=stem, aux_weight=aux_weight, ceil_mode=ceil_mode)
    with pytest.raises(InputError, match=f"expected {crop} or more pixels"):
        with_changes(config, {"data.crop": crop - 1})
    shapes = registry.abstract_variables(with_changes(config, {"data.crop": crop}))["params"]
    assert all(prod(leaf.shape) > 0 for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("model", [ResNetConfig(), GoogLeNetConfig(width=0.25)])
def test_json(model: ResNetConfig | GoogLeNetConfig) -> None:
    """Catches: a class or a field that a checkpoint's config would lose."""
    config = validated(Config(model=model))
    assert config_from_json(json.loads(config_to_text(config))) == config
    assert config_to_json(config)["model"]["type"] == type(model).__name__


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("18,v1.5", r"v1\.5 changes bottleneck blocks"),
        ("cifar20,torchvision", r"torchvision changes bottleneck blocks and the first max pooling"),
        ("18,sample,torchvision", r"torchvision changes bottleneck blocks"),
        ("plain18,shortcut_c", r"shortcut_c changes shortcuts, but the network is plain"),
        ("18,34", r"network"),
        ("cifar21", r"unknown variant 'cifar21'"),
    ],
)
def test_wrong_words(variant: str, message: str) -> None:
    """Catches: a word that changes nothing, and words that contradict each other."""
    with pytest.raises(InputError, match=message):
        load(RESNET, variant)


def test_warmup_is_for_cifar() -> None:
    """Catches: a warm-up that lasts until the end of the sample's short run."""
    assert load(RESNET, "cifar110").schedule.warmup_steps == 400
    for variant in ("cifar110,sample", "sample,cifar110"):
        assert load(RESNET, variant).schedule.warmup_steps == 0


def test_words_of_network_and_data() -> None:
    """Catches: a data word that replaces the network, or a network word that replaces the data,
    in either order; and the sample without a network of suitable size."""
    for variant in ("cifar32,sample", "sample,cifar32"):
        config = load(RESNET, variant)
        assert isinstance(config.model, ResNetConfig)
        assert config.data.name == "sample"
        assert config.model.stage_sizes == (5, 5, 5)
        assert config.model.channels == 1
    config = load(RESNET, "sample")
    assert isinstance(config.model, ResNetConfig)
    assert (config.model.stage_sizes, config.model.width) == ((3, 3, 3), 8)
    config = load(RESNET, "18,cifar10")
    assert isinstance(config.model, ResNetConfig)
    assert (config.model.stem, config.data.crop, config.max_steps) == ("small", 32, 64_000)


@pytest.mark.parametrize("variant", ["cifar20", "cifar_plain110", "cifar10", "18,cifar10"])
def test_the_schedule_of_section_4_2(variant: str) -> None:
    """Catches: images held out, with which the drops and the end come earlier; a drop that is a
    step off."""
    config = load(RESNET, variant)
    images = round(50_000 * (1 - config.data.validation_share))
    assert total_steps(config, images) == 64_000
    around = (31_999, 32_000, 47_999, 48_000)
    rates = [float(learning_rate(config, images, step, None)) for step in around]
    np.testing.assert_allclose(rates, [0.1, 0.01, 0.01, 0.001])


def test_the_sample_has_validation_images() -> None:
    """Catches: a sample without validation images, since the words for CIFAR-10 hold none out."""
    for variant in ("sample", "cifar56,sample", "sample,cifar_plain20", "18,fashion_mnist"):
        assert load(RESNET, variant).data.validation_share == 0.1
