"""torchvision's googlenet and residual networks in state dicts: names of tensors, and configs."""

import re
from collections import Counter
from collections.abc import Callable, Collection
from operator import attrgetter
from pathlib import Path

from alexnet_jax.config import Config
from alexnet_jax.conversion import presets
from alexnet_jax.conversion.pytorch.resnet_names import TORCHVISION, ResNetNames
from alexnet_jax.conversion.weights_by_name import shown
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.googlenet import AUXILIARY, INCEPTION
from alexnet_jax.models.model_config import ModelConfig

# A tensor by whose name GoogLeNet is recognized.
GOOGLENET_TENSOR = "inception3a.branch1.conv.weight"

FIRST_OF_BLOCK = re.compile(r"layer(\d+)\.\d+\.conv1\.weight")
ALTERNATIVES = "--output=FILE.safetensors without --names"

ShapeOf = Callable[[str], tuple[int, ...]]

# Collections and names of a layer's arrays here, and PyTorch's names, in its order.
ARRAYS = {
    "params/{}/kernel": "weight",
    "params/{}/scale": "weight",
    "params/{}/bias": "bias",
    "batch_stats/{}/mean": "running_mean",
    "batch_stats/{}/var": "running_var",
}
COUNTER = "num_batches_tracked"  # of a batch normalization, which has no counterpart here

BRANCHES = {
    "1x1": "branch1",
    "3x3_reduce": "branch2.0",
    "3x3": "branch2.1",
    "5x5_reduce": "branch3.0",
    "5x5": "branch3.1",
    "pool_proj": "branch4.1",
}


def tensor_names(
    model: ModelConfig, paths: Collection[str], resnet_names: ResNetNames = TORCHVISION
) -> dict[str, str]:
    """Return a program's name of the tensor of every variable by its path, in its order.

    Args:
        model: config of the model, which the program need not have: it may be a plain network.
        paths: paths of the model's variables, such as params/conv1/kernel.
        resnet_names: names of the program; those of GoogLeNet are torchvision's.

    Raises:
        InputError: the model is neither a residual network nor GoogLeNet.
    """
    if isinstance(model, ResNetConfig):
        modules = resnet_names.module_names(model)
    elif isinstance(model, GoogLeNetConfig):
        modules = _googlenet_names()
    else:
        raise InputError(
            f"the model is a {type(model).__name__}; expected a residual network or GoogLeNet"
        )
    names: dict[str, str] = {}
    for layer, module in modules.items():
        for pattern, part in ARRAYS.items():
            if (path := pattern.format(layer)) in paths:
                names[path] = f"{module}.{part}"
    assert names.keys() == {*paths}
    return names


def _googlenet_names() -> dict[str, str]:
    """Return torchvision's names of GoogLeNet's modules by the names of layers here, in its order.

    The auxiliary classifiers are included.
    """
    names: dict[str, str] = {}

    def add_conv(ours: str, theirs: str) -> None:
        names[ours], names[f"{ours}_bn"] = f"{theirs}.conv", f"{theirs}.bn"

    for ours, theirs in (("conv1", "conv1"), ("conv2_reduce", "conv2"), ("conv2", "conv3")):
        add_conv(ours, theirs)
    for module in INCEPTION:
        for ours, theirs in BRANCHES.items():
            add_conv(f"inception_{module}/{ours}", f"inception{module}.{theirs}")
    for aux in AUXILIARY.values():
        add_conv(f"{aux}/conv", f"{aux}.conv")
        names |= {f"{aux}/{layer}": f"{aux}.{layer}" for layer in ("fc1", "fc2")}
    return names | {"fc": "fc"}


def choose_config(path: Path, names: Collection[str], shape_of: ShapeOf) -> tuple[str, Config]:
    """Return torchvision's name of a model and its config, with the model that a file contains.

    Numbers of channels, filters, blocks and classes are read from the file, and so is whether
    GoogLeNet has auxiliary classifiers.

    Args:
        path: the file, for messages.
        names: names of the tensors, without prefixes.
        shape_of: function from a name to the shape of its tensor.

    Raises:
        InputError: torchvision has no such model.
    """
    if GOOGLENET_TENSOR in names:
        config = presets.torchvision_googlenet()
        model = config.model
        assert isinstance(model, GoogLeNetConfig)
        _, model.channels = conv_shape(path, "conv1.conv.weight", 7, shape_of)
        # The layer with the most filters, of which the width follows with the least rounding.
        filters, _ = conv_shape(path, "inception5b.branch2.1.conv.weight", 3, shape_of)
        model.width = filters / INCEPTION["5b"][2]
        if not any(name.startswith("aux1.") for name in names):
            model.aux_weight = 0.0
        model.num_classes = count_classes(path, "fc", shape_of)
        return "googlenet", config
    stages = Counter(match[1] for name in names if (match := FIRST_OF_BLOCK.fullmatch(name)))
    if sorted(stages) != ["1", "2", "3", "4"]:
        raise InputError(
            f"{path} is a residual network with the stages {shown(sorted(stages))}; expected 1 to "
            "4, as torchvision's have, or the model in --config=FILE"
        )
    block = "bottleneck" if "layer1.0.conv3.weight" in names else "basic"
    sizes = tuple(stages[stage] for stage in sorted(stages))
    config = presets.torchvision_resnet(block, *sizes)
    model = config.model
    assert isinstance(model, ResNetConfig)
    model.width, model.channels = conv_shape(path, "conv1.weight", 7, shape_of)
    model.num_classes = count_classes(path, "fc", shape_of)
    return presets.TORCHVISION_RESNETS.get((block, sizes), "residual networks"), config


def count_classes(path: Path, classifier: str, shape_of: ShapeOf) -> int:
    """Return the number of classes of a model, by the name of its classifier.

    Raises:
        InputError: the classifier has no classes or no weights.
    """
    shape = shape_of(f"{classifier}.weight")
    if len(shape) != 2 or not shape[0]:
        raise InputError(f"{path} has {classifier}.weight {shape}; expected (classes, features)")
    return shape[0]


def conv_shape(path: Path, name: str, side: int, shape_of: ShapeOf) -> tuple[int, int]:
    """Return the numbers of filters and input channels of a convolution.

    Raises:
        InputError: its kernels do not have this side.
    """
    shape = shape_of(name)
    if len(shape) != 4 or shape[2:] != (side, side) or not all(shape):
        raise InputError(
            f"{path} has {name} {shape}; expected (filters, channels, {side}, {side}), or the "
            "model in --config=FILE"
        )
    return shape[0], shape[1]


def check_writable(model: ModelConfig) -> None:
    """Raise InputError unless torchvision's modules compute a model with its tensors.

    Numbers of channels, filters, blocks and classes may differ from those of torchvision's models.
    """
    if isinstance(model, GoogLeNetConfig):
        preset: ModelConfig = presets.torchvision_googlenet().model
        fields = ["stem", "normalization", "large_kernel", "pool4_window", "batch_norm.epsilon"]
        fields += ["aux_pooling"] if model.aux_weight else []
    elif isinstance(model, ResNetConfig):
        preset = presets.torchvision_resnet(model.block, *model.stage_sizes).model
        fields = ["stem", "pool_padding", "shortcut", "batch_norm.epsilon"]
        fields += ["stride_in"] if model.block == "bottleneck" else []
        if len(model.stage_sizes) != 4:
            raise InputError(
                f"the model has {len(model.stage_sizes)} stages; expected 4, as torchvision's "
                f"residual networks have, or {ALTERNATIVES}"
            )
    else:
        raise InputError(
            f"the model is a {type(model).__name__}; expected a residual network or GoogLeNet"
        )
    for name in fields:
        ours, theirs = attrgetter(name)(model), attrgetter(name)(preset)
        if ours != theirs:
            raise InputError(
                f"the model has {name}={ours}, with which torchvision's would compute something "
                f"else; expected {theirs}, or {ALTERNATIVES}"
            )
