"""Read state dicts of PyTorch models: arrays by the names of the model's modules.

A family of models has a table of names such as TORCHVISION_ALEXNET. Training programs put more
before those names, such as "module." or "model.", which is removed.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion import pytorch
from alexnet_jax.conversion.layout import ForeignModel, Weights, layer_names
from alexnet_jax.conversion.safetensors import read_arrays
from alexnet_jax.conversion.weights_by_name import make_foreign_model, shown
from alexnet_jax.errors import InputError

# torchvision/models/alexnet.py: names of the layers with weights.
TORCHVISION_ALEXNET = {
    **dict(conv1="features.0", conv2="features.3", conv3="features.6", conv4="features.8"),
    **dict(conv5="features.10", fc6="classifier.1", fc7="classifier.4", fc8="classifier.6"),
}
# Parts of names that wrappers of modules add anywhere: DataParallel and torch.compile.
WRAPPERS = ("module", "_orig_mod")
# Attributes for the model in classes around it (Lightning), in the order in which they are taken.
USUAL_PREFIXES = ("", "model.", "net.", "network.", "backbone.")


def read_state_dict(path: Path, config: Config) -> ForeignModel:
    """Read a state dict of a model with the ops of a config, a PyTorch or `.safetensors` file.

    Raises:
        InputError: the file is damaged or no state dict, or its names or shapes are not those of
            the model.
    """
    layers = layer_names(sequential_model(config))
    if unknown := [name for name in layers if name not in TORCHVISION_ALEXNET]:
        raise InputError(
            f"the config has {unknown[0]}; expected torchvision's {', '.join(TORCHVISION_ALEXNET)}"
        )
    wanted = [
        f"{TORCHVISION_ALEXNET[name]}.{part}" for name in layers for part in ("weight", "bias")
    ]
    if path.suffix == ".safetensors":
        arrays = read_arrays(path)[1]
        keys = match_names(path, arrays, wanted)
        found = {name: arrays[key] for name, key in keys.items()}
    else:
        tensors = pytorch.read_tensors(path)
        keys = match_names(path, tensors, wanted)
        found = {name: pytorch.to_numpy(path, key, tensors[key]) for name, key in keys.items()}
    weights = {
        name: Weights(*(found[f"{TORCHVISION_ALEXNET[name]}.{p}"] for p in ("weight", "bias")))
        for name in layers
    }
    return make_foreign_model(path, config, weights)


def match_names(path: Path, keys: Collection[str], wanted: Collection[str]) -> Mapping[str, str]:
    """Return the key in the file of every wanted name.

    Keys without the prefix of the wanted ones are left out: they belong to other modules.

    Args:
        path: the file, for messages.
        keys: the names in the file.
        wanted: the names of the model's arrays.

    Raises:
        InputError: a wanted name is missing or ambiguous, or a key with the same prefix is not
            wanted.
    """
    by_name: dict[str, str] = {}
    for key in keys:
        name = ".".join(part for part in key.split(".") if part not in WRAPPERS)
        if by_name.setdefault(name, key) != key:
            raise InputError(f"{path} has both {by_name[name]} and {key}; expected one of them")
    first = next(iter(wanted))
    prefixes = [n.removesuffix(first) for n in by_name if n == first or n.endswith(f".{first}")]
    usual = [prefix for prefix in USUAL_PREFIXES if prefix in prefixes]
    if not usual and len(prefixes) > 1:
        raise InputError(
            f"{path} has several models, with {first} after {', '.join(prefixes)}; expected one"
        )
    prefix = [*usual, *prefixes, ""][0]
    found = {n.removeprefix(prefix): key for n, key in by_name.items() if n.startswith(prefix)}
    for name in (*wanted, *found):
        if (name in found) != (name in wanted):
            have = f"a tensor {found[name]}" if name in found else f"no tensor {prefix}{name}"
            raise InputError(
                f"{path} has {have}; it has {shown(keys)}; expected torchvision's {shown(wanted)}"
            )
    return found
