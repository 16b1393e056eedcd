"""ZFNet: the sizes of its figure and tables, and its logits beside PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.config_files import followers, load
from helpers.torchvision_models import params_from_torch

from alexnet_jax import describe
from alexnet_jax.analysis.summary import abstract_activations, summarize
from alexnet_jax.config import sequential_model, validated
from alexnet_jax.models import registry
from alexnet_jax.models.ops import LRN, Conv, Dense

# Counted from the widths; imgclsmob's zfnet and zfnetb have the first two.
PARAMETERS = {
    "": 62_357_608,
    "b": 107_627_624,
    "fc2048": 28_848_232,
    "fc8192": 154_542_184,
    "b,fc8192": 237_560_936,
    "krizhevsky": 60_965_224,
    # Table 3's rows without layers 3, 4; 7; 6, 7; 3, 4, 6, 7. conv5 takes conv2's 256 channels.
    "krizhevsky,no_conv3,no_conv4": 60_965_224 - 885_120 - 663_936 + 9 * (256 - 192) * 256,
    "krizhevsky,no_fc7": 60_965_224 - 16_781_312,
    "krizhevsky,no_fc6,no_fc7": 60_965_224 - 37_752_832 - 16_781_312 + (9216 - 4096) * 1000,
}


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters(variant: str) -> None:
    """Catches: a layer of another width in figure 3 or a row of tables 2 and 3."""
    rows = summarize(describe.with_classes(load("zfnet.py", variant)))
    assert sum(row.parameters for row in rows) == PARAMETERS[variant]


def test_sizes_of_figure_3() -> None:
    """Catches: sizes rounded down, 109-54-25-12-5; normalization before pooling."""
    config = describe.with_classes(load("zfnet.py", ""))
    shapes = {name: array.shape[1:] for name, array in abstract_activations(config).items()}
    names = ("conv1", "pool1", "norm1", "conv2", "norm2", "conv3", "conv4", "conv5", "pool5")
    assert [shapes[name] for name in names] == [
        *((110, 110, 96), (55, 55, 96), (55, 55, 96), (26, 26, 256), (13, 13, 256)),
        *((13, 13, 384), (13, 13, 384), (13, 13, 256), (6, 6, 256)),
    ]
    assert followers(config, "conv1") == ["ReLU", "MaxPool", "LRN"]
    assert followers(config, "conv2") == ["ReLU", "MaxPool", "LRN"]


def test_receptive_fields() -> None:
    """Catches: another stride in layers 1 and 2 than 2, of which the paper's section 5.1 tells."""
    rows = summarize(describe.with_classes(load("zfnet.py", "")))
    assert [(row.receptive_field, row.stride) for row in rows[:5]] == [
        *((7, 2), (27, 8), (75, 16), (107, 16), (139, 16)),
    ]


def test_recipe() -> None:
    """Catches: a field of section 3 that has AlexNet's value, such as biases of 1."""
    config = load("zfnet.py", "")
    assert (config.batch_size, config.epochs, config.learning_rate) == (128, 70, 0.01)
    assert (config.optimizer.momentum, config.optimizer.max_filter_rms) == (0.9, 0.1)
    assert config.data.crop_positions == "five"
    assert config.data.flip
    assert config.data.lighting == "none"
    for variant in ("", "krizhevsky"):
        ops = sequential_model(load("zfnet.py", variant)).ops.values()
        assert {op.bias for op in ops if isinstance(op, Conv | Dense)} == {0.0}
        assert {op.std for op in ops if isinstance(op, Conv | Dense)} == {0.01}
    assert sequential_model(load("zfnet.py", "krizhevsky")).num_columns == 2


def pytorch_zfnet(channels: list[int], units: int, classes: int) -> torch.nn.Sequential:
    """Return figure 3 in PyTorch's layers; pooling and conv1 round up by padding at the end."""
    nn = torch.nn
    a, b, c, d, e = channels
    torch.manual_seed(0)

    def pool() -> torch.nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    def norm() -> torch.nn.Module:
        return nn.LocalResponseNorm(5, 5 * 1e-4, 0.75, 2.0)  # PyTorch divides alpha by the size

    return nn.Sequential(
        *(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, a, 7, 2), nn.ReLU(), pool(), norm()),
        *(nn.Conv2d(a, b, 5, 2), nn.ReLU(), pool(), norm()),
        *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), pool(), nn.Flatten()),
        *(nn.Linear(36 * e, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU()),
        nn.Linear(units, classes),
    )


@pytest.mark.parametrize("share", [8, 1])
def test_logits_are_pytorchs(share: int) -> None:
    """Catches: another order of pooling and normalization, windows that are not rounded up, and
    units flattened in another order; with an eighth of the channels, and all of them."""
    config = load("zfnet.py", "")
    for op in sequential_model(config).ops.values():
        if isinstance(op, Conv | Dense):
            op.features //= share
    config.model.num_classes = 7
    ops = sequential_model(validated(config)).ops.values()
    widths = [op.features for op in ops if isinstance(op, Conv)]
    peer = pytorch_zfnet(widths, 4096 // share, 7)
    params = params_from_torch(config, peer.state_dict())
    for name in ("fc7", "fc8"):  # dropout multiplies by 0.5 at test time, as in 2012
        params[name]["kernel"] = 2 * params[name]["kernel"]
    x = np.random.default_rng(0).normal(0, 60, (1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = peer(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    model = registry.make_model(config)
    outputs, _ = registry.apply_model(model, {"params": params}, jnp.asarray(x))
    found = np.asarray(outputs.logits)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_normalization_is_alexnets() -> None:
    """Catches: constants other than AlexNet's, to which the paper refers."""
    ops = sequential_model(load("zfnet.py", "")).ops
    assert ops["norm1"] == ops["norm2"] == LRN(5, 2.0, 1e-4, 0.75)


def test_words_keep_the_wider_layers_on_small_data() -> None:
    """Catches: the sample's model, the same with and without b."""
    rows = {row.name: row for row in summarize(describe.with_classes(load("zfnet.py", "sample,b")))}
    assert [rows[f"conv{n}"].output[-1] for n in range(1, 6)] == [24, 64, 128, 256, 128]
    assert rows["conv5"].output[0] == 6
    assert jax.tree.leaves(rows["fc6"].output) == [512]
