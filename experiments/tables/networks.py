"""Recognize by its config which network of which paper a model is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from alexnet_jax.config import Config
from alexnet_jax.data_config import DataConfig
from alexnet_jax.fields import to_json
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.sequential_config import SequentialConfig
from configs import alexnet, bvlc_alexnet, googlenet, resnet, source2012, vgg, zfnet

MODULES = dict(
    alexnet=alexnet,
    bvlc_alexnet=bvlc_alexnet,
    googlenet=googlenet,
    resnet=resnet,
    source2012=source2012,
    vgg=vgg,
    zfnet=zfnet,
)

# Fields that do not change which network of a paper a model is: those of the data, of initial
# values, of training alone, and details in which other programs differ from the papers.
IGNORED = {
    *("channels", "num_classes", "init", "std", "bias"),
    *("inverted", "aux_weight", "aux_pooling", "aux_dropout"),
    *("k", "alpha", "beta", "alpha_over_size", "across_columns", "pool_padding", "batch_norm"),
}

SMALL = 224  # pixels; models for smaller crops are not those of the papers but like them
SCALES = ("256", "384", "[256; 512]")  # S of VGG's training images (table 3)


def _any_recipe(_: Config) -> bool:
    """Return True: the layers alone determine the network."""
    return True


@dataclass(frozen=True)
class Network:
    """A network of a paper.

    Attributes:
        name: unique name.
        paper: name of the paper that introduces it.
        full: configs that have it, as FILE:WORDS without the suffix of the file.
        small: configs of models like it for small images.
        has_recipe: function that distinguishes the configs of networks with the same layers.
    """

    name: str
    paper: str
    full: tuple[str, ...]
    small: tuple[str, ...]
    has_recipe: Callable[[Config], bool] = _any_recipe


def _has_limited_filters(config: Config) -> bool:
    """Return whether filters are limited, as in ZFNet's paper alone."""
    return config.optimizer.max_filter_rms > 0


def _alexnets() -> tuple[Network, ...]:
    """Return the networks with AlexNet's layers."""
    full = ("alexnet:", "source2012:", "bvlc_alexnet:")
    small = ("alexnet:sample", "source2012:sample")
    more = (*full, "source2012:finetune2012"), (*small, "source2012:sample,finetune2012")

    def is_first(config: Config) -> bool:
        return not config.init_from and not _has_limited_filters(config)

    def is_pretrained(config: Config) -> bool:
        return bool(config.init_from) and not _has_limited_filters(config)

    return (
        Network("AlexNet", "alexnet", full, small, is_first),
        Network("AlexNet*", "alexnet", *more, is_pretrained),
    )


# The networks of ZFNet's tables 2 and 3, with their words in configs/zfnet.py.
ZFNETS = {
    "AlexNet replica": "krizhevsky",
    "AlexNet replica without layers 3, 4": "krizhevsky,no_conv3,no_conv4",
    "AlexNet replica without layer 7": "krizhevsky,no_fc7",
    "AlexNet replica without layers 6, 7": "krizhevsky,no_fc6,no_fc7",
    "AlexNet replica without layers 3, 4, 6, 7": "krizhevsky,no_conv3,no_conv4,no_fc6,no_fc7",
    "AlexNet replica, fc 2048": "krizhevsky,fc2048",
    "AlexNet replica, fc 8192": "krizhevsky,fc8192",
    "ZFNet": "",
    "ZFNet, fc 2048": "fc2048",
    "ZFNet, fc 8192": "fc8192",
    "ZFNet (b)": "b",
    "ZFNet (b), fc 8192": "b,fc8192",
}


def _zfnet(name: str, words: str) -> Network:
    """Return a network of configs/zfnet.py."""
    full, small = f"zfnet:{words}", f"zfnet:sample,{words}".rstrip(",")
    # Without limited filters it is an ablation of configs/alexnet.py.
    is_replica = words.startswith("krizhevsky")
    has_recipe = _has_limited_filters if is_replica else _any_recipe
    return Network(name, "zfnet", (full,), (small,), has_recipe)


def _vgg(letter: str, scale: str) -> Network:
    """Return a model of VGG's table 1, trained at a scale."""
    word = letter.replace("-", "_")
    return Network(
        f"VGG {letter}, S = {scale}",
        "vgg",
        (f"vgg:{word}",),
        (f"vgg:{word},sample",),
        lambda config: _train_scale(config.data) == scale,
    )


def _train_scale(data: DataConfig) -> str:
    """Return the scale S of VGG's training images as in table 3."""
    if data.crop < SMALL:
        return "[256; 512]" if data.scale_jitter else "256"
    low, high = data.scale_jitter or (data.image_size, data.image_size)
    return str(low) if low == high else f"[{low}; {high}]"


def _resnet(name: str, word: str, *changes: str) -> Network:
    """Return a network of configs/resnet.py."""
    full, small = (",".join((word, *data, *changes)) for data in ((), ("sample",)))
    return Network(name, "resnet", (f"resnet:{full}",), (f"resnet:{small}",))


NETWORKS = (
    *_alexnets(),
    *(_zfnet(name, words) for name, words in ZFNETS.items()),
    *(_vgg(letter, s) for letter in ("A", "A-LRN", "B", "C", "D", "E") for s in SCALES),
    Network("GoogLeNet", "googlenet", ("googlenet:",), ("googlenet:sample",)),
    *(_resnet(f"plain-{layers}", f"plain{layers}") for layers in (18, 34)),
    *(
        _resnet(f"ResNet-{layers} {kind}", str(layers), f"shortcut_{kind.lower()}")
        for layers in (18, 34, 50, 101, 152)
        for kind in "ABC"
    ),
    # "sample" alone is ResNet-20 with half of the filters.
    Network(
        "ResNet-20 (CIFAR)",
        "resnet",
        ("resnet:cifar20",),
        ("resnet:cifar20,sample", "resnet:sample"),
    ),
    *(_resnet(f"ResNet-{layers} (CIFAR)", f"cifar{layers}") for layers in (32, 44, 56, 110, 1202)),
    *(_resnet(f"plain-{n} (CIFAR)", f"cifar_plain{n}") for n in (20, 32, 44, 56, 110)),
)


def find_network(config: Config, *, small: bool = True) -> Network | None:
    """Return the network of a paper that a config has, or None.

    Args:
        config: config of the run.
        small: whether the models for small images that are like the papers' count, too.
    """
    layers = _comparable(to_json(config.model))
    for network in NETWORKS:
        presets = network.full + network.small * small
        if layers in map(_layers_of, presets) and network.has_recipe(config):
            return network
    return None


def paper_of(config: Config) -> str:
    """Return the name of the paper whose family a model belongs to."""
    if network := find_network(config):
        return network.paper
    model = config.model
    if isinstance(model, ResNetConfig):
        return "resnet"
    if isinstance(model, GoogLeNetConfig):
        return "googlenet"
    if isinstance(model, SequentialConfig) and "conv1_1" in model.ops:
        return "vgg"
    return "zfnet" if config.optimizer.max_filter_rms else "alexnet"


def load_preset(preset: str) -> Config:
    """Return the config of FILE:WORDS, neither checked nor sealed."""
    file, _, words = preset.partition(":")
    config: Config = MODULES[file].get_config(words)
    return config


@cache
def _layers_of(preset: str) -> Any:
    """Return what `_comparable` leaves of the model of a preset."""
    return _comparable(to_json(load_preset(preset).model))


def _comparable(value: Any) -> Any:
    """Return a JSON value of a model without IGNORED fields and without the names of ops."""
    if not isinstance(value, dict):
        return value
    kept = {name: _comparable(field) for name, field in value.items() if name not in IGNORED}
    if "ops" in kept:
        kept["ops"] = list(kept["ops"].values())
    if kept.get("block") == "basic":
        del kept["stride_in"]  # a field of bottleneck blocks
    return kept
