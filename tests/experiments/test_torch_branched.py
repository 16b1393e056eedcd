"""PyTorch's residual networks and GoogLeNets, beside which ours are timed, are the same models."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.torch_branched import variables_from_torch

from alexnet_jax.config import Config, with_changes
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import GoogLeNetConfig
from configs import googlenet, resnet
from experiments.benchmark import cases, train_step_benchmarks
from experiments.benchmark.torch_reference import TorchTrainStep, make_torch_model

CONFIGS = {
    "googlenet": train_step_benchmarks.googlenet_config,
    "resnet18": train_step_benchmarks.resnet18_config,
    "resnet50": train_step_benchmarks.resnet50_config,
    "resnet20": train_step_benchmarks.resnet20_config,
}
WITHOUT_OVERHANG = {
    "model.num_classes": 7,
    "model.ceil_mode": False,
    "data.crop": 28,
    "data.image_size": 30,
}
QUICK = {"xla_backend_optimization_level": 0}  # to compile what runs once


def narrow(config: Config, **changes: Any) -> Config:
    """Return a config with few filters, small images and no dropout."""
    fields: dict[str, Any]
    if isinstance(config.model, GoogLeNetConfig):
        fields = {"model.width": 1 / 32, "data.crop": 130}
        fields |= {"model.dropout": 0.0, "model.aux_dropout": 0.0}
    elif config.data.crop == 32:
        fields = {"model.width": 2, "model.stage_sizes": (1, 1, 2)}
    else:
        fields = {"model.width": 2, "data.crop": 65, "model.stage_sizes": (1, 2)}
    return with_changes(config, {"batch_size": 2, **fields, **changes})


@pytest.mark.parametrize("name", CONFIGS)
def test_the_peer_has_the_layers_of_the_config(name: str) -> None:
    """Catches: a peer with other layers, without auxiliary classifiers, or with biases more."""
    config = CONFIGS[name]()
    with torch.device("meta"):  # no memory is taken
        theirs = Counter(tuple(sorted(p.shape)) for p in make_torch_model(config).parameters())
    leaves = jax.tree.leaves(registry.abstract_variables(config)["params"])
    assert theirs == Counter(tuple(sorted(leaf.shape)) for leaf in leaves)


@pytest.mark.parametrize(
    "config",
    [
        *(narrow(make()) for make in CONFIGS.values()),
        narrow(resnet.get_config("50,torchvision"), **{"model.num_classes": 7}),
        narrow(resnet.get_config("plain18"), **{"model.num_classes": 7}),
        narrow(googlenet.get_config("torchvision"), **{"model.num_classes": 7}),
        narrow(googlenet.get_config("sample"), **WITHOUT_OVERHANG),
    ],
    ids=[
        *CONFIGS,
        "resnet50 of torchvision",
        "plain18",
        "googlenet of torchvision",
        "googlenet without overhang",
    ],
)
def test_the_peer_computes_the_same_logits(config: Config) -> None:
    """Catches: a stride, a padding, a shortcut or a normalization of another kind or at another
    place, a pooling of another size, an auxiliary classifier at another module."""
    torch.manual_seed(0)
    model = make_torch_model(config)
    variables = variables_from_torch(config, model)
    side, channels = config.data.crop, config.model.channels
    images = np.random.default_rng(0).normal(0, 1, (3, side, side, channels)).astype(np.float32)

    def apply(variables: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        model = registry.make_model(config)
        outputs, _ = registry.apply_model(
            *(model, variables, images), train=True, examples=jnp.arange(3),
            dropout_key=jax.random.key(0),
        )  # fmt: skip
        return outputs.logits, *outputs.aux_logits.values()

    found = jax.jit(apply, compiler_options=QUICK)(variables, images)
    wanted = model.train()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.ptp(ours) > 0.1
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-4 * np.ptp(ours))


def test_the_peer_averages_its_parameters_and_decays_as_the_config() -> None:
    """Catches: a peer that is spared the averaged parameters, or decays what ours does not."""
    config = narrow(train_step_benchmarks.googlenet_config())
    step = TorchTrainStep(config, torch.channels_last)
    step()
    assert step.average is not None
    before = [array.clone() for array in step.average.parameters()]
    step()
    assert any(
        not torch.equal(a, b) for a, b in zip(before, step.average.parameters(), strict=True)
    )
    decays = {group["weight_decay"]: group["params"] for group in step.optimizer.param_groups}
    assert decays.keys() == {0.0, 0.0002}
    assert all(array.ndim == 1 for array in decays[0.0])
    assert all(array.ndim > 1 for array in decays[0.0002])
    assert len(step.aux_weights) == 2


@pytest.mark.usefixtures("quick_to_compile")
@pytest.mark.parametrize(
    "name", [pytest.param("googlenet", marks=pytest.mark.slow), "resnet18", "resnet50", "resnet20"]
)
def test_both_steps_run(name: str) -> None:
    """Catches: a random batch or a mean that does not fit the config of a case, a peer's loss that
    leaves out what the model returns, names of cases that differ from those of others."""
    changes = {} if name == "googlenet" else {"model.stage_sizes": (1,)}
    config = narrow(CONFIGS[name](), **changes)
    (result,) = train_step_benchmarks.time_train_step(config, 1, ("eager",))
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]
    assert cases.MODELS[f"{name}_"] == CONFIGS[name]
    assert {f"{name}_train_step/torch_{kind}" for kind in ("eager", "compile")} | {
        f"{name}_train_step_memory"
    } <= {*cases.result_names(cases.CASES)}
