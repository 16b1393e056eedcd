"""Convert weights of GoogLeNet and residual networks between the layout of other programs and ours.

Caffe, ONNX and PyTorch share a layout of arrays, but each names them otherwise. A reader assigns
every array of its file to the variable to which it belongs, by its path here, such as
params/conv2_1/conv1/kernel, and returns a `BranchedModel`. A writer takes the arrays of
`to_foreign` and names them. Both have a table of names, such as `pytorch.torchvision_branched`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.conversion.layout import DataValue, KernelLayout, to_float32, with_stated_data
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.pytree import KeyPath, PyTree, Variables, leaves_by_path, path_name

# Layers whose inputs are activations with pixels, flattened, and the convolutions before them.
FLATTENING = {f"{aux}/fc1": f"{aux}/conv" for aux in ("aux1", "aux2")}


@dataclass
class BranchedModel:
    """A residual network or GoogLeNet with its arrays in the layout of other programs.

    Attributes:
        model: config of the model, with the number of classes.
        arrays: array of every variable by its path, such as params/conv1/kernel or
            batch_stats/bn1/var. Kernels are (outputs, inputs, height, width) or (outputs, inputs);
            a layer that flattens activations has its inputs in the order (channels, height, width).
        sources: names of the arrays in the file by the same paths, for messages.
        data: values of the fields of `config.data` that the file states.
        mean_file: name of the file of the mean image that the file states; "" for none.
    """

    model: ModelConfig
    arrays: Mapping[str, np.ndarray]
    sources: Mapping[str, str]
    data: dict[str, DataValue] = field(default_factory=dict)
    mean_file: str = ""


def make_imported_config(config: Config, foreign: BranchedModel) -> Config:
    """Return the validated config of an imported model.

    Args:
        config: config from which to take other sections, and the fields of `data` that the file
            does not state.
        foreign: the imported model.

    Raises:
        InputError: the config cannot represent the model.
    """
    return with_stated_data(config, foreign.model, foreign.data)


def from_foreign(config: Config, foreign: BranchedModel) -> Variables:
    """Return the variables of an imported model in the layout of this program.

    Args:
        config: config of the model, from `make_imported_config`.
        foreign: the imported model, which has an array for every variable.

    Raises:
        InputError: an array has another shape than its variable, or numbers that are not possible.
    """
    abstract = dict(registry.abstract_variables(config))
    layouts = _kernel_layouts(leaves_by_path(abstract))

    def leaf(path: KeyPath, expected: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path_name(path)
        source, array, layout = foreign.sources[name], foreign.arrays[name], layouts.get(name)
        shape = layout.foreign_shape() if layout else expected.shape
        check_shape(source, array, shape)
        array = to_float32(f"{source} has numbers", array)
        if name.endswith("/var") and (array < 0).any():
            raise InputError(f"{source} is a variance and negative; the file is damaged")
        return layout.from_foreign(array) if layout else array

    variables: dict[str, PyTree] = jax.tree_util.tree_map_with_path(leaf, abstract)
    return variables


def to_foreign(variables: Variables) -> dict[str, np.ndarray]:
    """Return the arrays of a model that is not sequential by their paths.

    They are in the layout of other programs; see `BranchedModel.arrays`.
    """
    arrays = {path: np.asarray(leaf) for path, leaf in leaves_by_path(dict(variables)).items()}
    layouts = _kernel_layouts(arrays)
    return {
        path: layouts[path].to_foreign(array) if path in layouts else array
        for path, array in arrays.items()
    }


def foreign_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of a config's model by its path; see `BranchedModel.arrays`.

    Raises:
        InputError: the model is sequential.
    """
    if isinstance(config.model, SequentialConfig):
        raise InputError("the model is sequential; expected a residual network or GoogLeNet")
    leaves = leaves_by_path(dict(registry.abstract_variables(config)))
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    return shapes | {path: x.foreign_shape() for path, x in _kernel_layouts(leaves).items()}


def _kernel_layouts(
    leaves: Mapping[str, np.ndarray | jax.ShapeDtypeStruct],
) -> dict[str, KernelLayout]:
    """Return the layout of every kernel among the variables by their paths."""
    layouts: dict[str, KernelLayout] = {}
    for path, leaf in leaves.items():
        if path.endswith("/kernel"):
            conv = FLATTENING.get(path.removeprefix("params/").removesuffix("/kernel"))
            channels = leaves[f"params/{conv}/kernel"].shape[-1] if conv else 0
            layouts[path] = KernelLayout(leaf.shape, False, leaf.ndim == 4, True, channels, 1)
    return layouts


def check_shape(source: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    """Raise InputError unless an array of a file has the expected shape.

    Args:
        source: name of the array, for messages.
        array: the array.
        expected: the shape, from `foreign_shapes`.
    """
    if array.shape != expected:
        raise InputError(f"{source} is {array.shape}; expected {expected}")
