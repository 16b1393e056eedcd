"""Receptive fields: against the influence of every pixel, and against published tables."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.unknown_op import Unknown

from alexnet_jax.analysis.receptive_fields import compute_receptive_fields
from alexnet_jax.analysis.summary import compute_model_fields
from alexnet_jax.config import Config, sequential_model, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import (
    LRN,
    AvgPool,
    Conv,
    Dense,
    LocalConv,
    MaxPool,
    Op,
    ReLU,
    WithinChannelLRN,
)
from configs import googlenet, resnet
from configs.alexnet import get_config


def _square(activations: jax.Array) -> tuple[int, int, int]:
    """Return (height, width, channels) of activations, 1 × 1 pixels of a fully-connected layer."""
    _, *pixels, channels = activations.shape
    height, width = pixels or (1, 1)
    return height, width, channels


def config_of(ops: dict[str, Op], crop: int, columns: int = 1) -> Config:
    changes = {"model.ops": ops, "model.num_columns": columns, "model.num_classes": 3}
    return with_changes(get_config("sample"), {**changes, "data.crop": crop})


UNEVEN = dict(
    conv1=Conv(2, kernel=5, stride=3, padding=(2, 0)), relu1=ReLU(), norm1=LRN(size=3),
    pool1=MaxPool(window=3, stride=2),
    conv2=Conv(2, kernel=3, padding=(1, 2)), rnorm2=WithinChannelLRN(size=3),
    pool2=MaxPool(window=2, stride=2, ceil_mode=False),
    fc3=Dense(0),
)  # fmt: skip
# conv1 omits the last pixel of 12, and the first and last windows of conv2 lie in its padding.
OMITTED = dict(
    conv1=Conv(2, kernel=3, stride=2), conv2=Conv(2, kernel=2, padding=(3, 3)),
    conv3=Conv(2, kernel=3), fc4=Dense(0),
)  # fmt: skip


LOCAL = dict(
    conv1=Conv(2, kernel=3, stride=2), pool1=AvgPool(),
    local2=LocalConv(2, kernel=3, stride=2, padding=(2, 1)),
    pool2=AvgPool(window=2, stride=2, ceil_mode=False), fc3=Dense(0),
)  # fmt: skip


def narrow(config: Config, crop: int, **fields: Any) -> Config:
    """Return a config for gray images with few filters, which do not change what they see."""
    changes = {f"model.{name}": value for name, value in fields.items()}
    return with_changes(config, {"model.channels": 1, "data.crop": crop, **changes})


BRANCHED = {
    "cifar": narrow(resnet.get_config("sample"), 13, width=1, stage_sizes=(1, 2)),
    "bottleneck": narrow(resnet.get_config("50"), 35, width=1, stage_sizes=(2, 1, 1)),
    "torchvision": narrow(
        resnet.get_config("50,torchvision,shortcut_c"), 33, width=1, stage_sizes=(1, 1)
    ),
    "plain": narrow(resnet.get_config("plain18"), 32, width=1, stage_sizes=(1, 1)),
    "inception": narrow(googlenet.get_config("sample"), 27, width=0.01, aux_weight=0.0),
    "googlenet": narrow(
        googlenet.get_config("torchvision"), 47, width=0.01, stem="imagenet", aux_weight=0.0
    ),
}
SEQUENTIAL = {
    "uneven": config_of(UNEVEN, crop=31),
    "omitted": config_of(OMITTED, crop=12),
    "local": config_of(LOCAL, crop=22),
    "sample": get_config("sample"),
}


SLOW = ("torchvision", "plain", "googlenet")  # their rules are also those of the others


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, config in (SEQUENTIAL | BRANCHED).items()
    ],
)
def test_fields_are_where_pixels_have_an_influence(config: Config) -> None:
    """Catches a field that is one pixel too large, too small or displaced, at an edge or anywhere,
    and a branch that is left out.

    An image whose pixels of one row or column are not numbers has outputs that are none exactly
    where the field contains that row or column.
    """
    crop = config.data.crop
    config = with_changes(config, {"model.num_classes": 3})
    fields = compute_model_fields(config)
    rows = np.ones((crop, crop, crop, 1), np.float32)
    rows[np.arange(crop), np.arange(crop)] = np.nan
    model, variables = registry.make_model(config), registry.init_variables(config)
    compute = jax.jit(partial(registry.compute_activations, model))
    for axis, images in ((1, rows), (2, rows.transpose(0, 2, 1, 3))):
        found = compute(variables, jnp.asarray(images))
        assert found.keys() == fields.keys()
        for name, activations in found.items():
            unknown = np.isnan(np.asarray(activations).reshape(crop, *_square(activations)))
            influence = np.any(unknown, axis=(3 - axis, 3))  # (row or column, place)
            expected = [[a <= pixel < b for a, b in fields[name].bounds] for pixel in range(crop)]
            np.testing.assert_array_equal(influence, expected, err_msg=name)


def test_sizes_and_strides_of_alexnet() -> None:
    """Catches a stride that multiplies too early or too late, and a fully-connected layer whose
    field is not that of all its inputs. 355 = 195 + 5 · 32."""
    fields = compute_receptive_fields(sequential_model(get_config()).ops, crop=224)
    found = {name: (field.size, field.stride) for name, field in fields.items()}
    expected = dict(
        conv1=(11, 4), norm1=(11, 4), pool1=(19, 8), conv2=(51, 8), pool2=(67, 16), conv3=(99, 16),
        conv4=(131, 16), conv5=(163, 16), pool5=(195, 32), fc6=(355, 32), fc8=(355, 32),
    )  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_sizes_and_strides_of_residual_networks() -> None:
    """Catches a stride of the shortcut alone. 435 of ResNet-18 and 483 of ResNet-50 are those of
    Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill, 2019."""
    for variant, last, size in (("18", "conv5_2/relu", 435), ("50", "conv5_3/relu", 483)):
        config = with_changes(resnet.get_config(variant), {"model.num_classes": 3})
        field = compute_model_fields(config)[last]
        assert (field.size, field.stride) == (size, 32)


def test_a_field_that_no_edge_cuts_off_has_its_full_size() -> None:
    """Catches a start or a stride that does not belong to the bounds."""
    for field in compute_receptive_fields(UNEVEN, crop=31).values():
        for place, (first, end) in enumerate(field.bounds):
            begin = field.start + place * field.stride
            assert first == max(begin, 0)
            if begin >= 0 and begin + field.size <= 31:
                assert end - first == field.size


def test_an_op_without_a_rule() -> None:
    """Catches an unknown op that is taken for one without windows."""
    with pytest.raises(InputError, match="receptive field of odd is unknown: Unknown"):
        compute_receptive_fields({"odd": Unknown(), "fc": Dense(0)}, crop=4)
