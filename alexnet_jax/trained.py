"""Load trained models from workdirs, and apply them on a mesh of devices."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax import sharding
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, config_from_json, with_changes
from alexnet_jax.data.batch import Batch
from alexnet_jax.data.crops import center_offset
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import mean_of, normalize
from alexnet_jax.losses import log_probabilities
from alexnet_jax.models import registry
from alexnet_jax.pytree import PyTree, Variables
from alexnet_jax.workdir import is_in_use, read_config, read_source_digest

T = TypeVar("T")

# (variables, mean, batch with one view of each image) to log-probabilities (batch, classes)
PredictOnMesh = Callable[[Variables, Array, Batch], Array]
Predict = Callable[[Batch], Array]


def make_predict_on_mesh(config: Config, mesh: Mesh) -> PredictOnMesh:
    """Return the jitted (variables, mean, batch) → log-probabilities (batch, classes), float32.

    Args:
        config: config with the number of classes.
        mesh: mesh whose axis "data" splits the batch, and whose axis "column" splits the columns.
    """

    def predict(model: nn.Module, variables: Variables, images: Array) -> Array:
        outputs, _ = registry.apply_model(model, variables, images)
        return log_probabilities(outputs.logits)

    return _on_mesh(config, mesh, predict)


def make_features_on_mesh(
    config: Config, mesh: Mesh
) -> Callable[[Variables, Array, Batch], tuple[Array, Array]]:
    """Return the jitted (variables, mean, batch) → (log-probabilities, features).

    The features are the activations of the last hidden layer (fc7, section 6.1), (batch, units)
    float32.

    Args:
        config: config with the number of classes.
        mesh: mesh whose axis "data" splits the batch, and whose axis "column" has one device.

    Raises:
        InputError: the model has no hidden layer.
    """
    layer = registry.feature_layer(config)

    def features(model: nn.Module, variables: Variables, images: Array) -> tuple[Array, Array]:
        activations = registry.compute_activations(model, variables, images)
        *_, logits = activations.values()
        units = activations[layer].reshape(len(images), -1)
        return log_probabilities(logits), units.astype(jnp.float32)

    return _on_mesh(config, mesh, features)


def make_dense_predict_on_mesh(config: Config, mesh: Mesh) -> PredictOnMesh:
    """Return the jitted function of whole images to log-probabilities (batch, classes).

    The model is applied to all positions of the images, and its logits are averaged over them
    (section 3.2 of Simonyan and Zisserman 2014).

    Args:
        config: config with the number of classes.
        mesh: mesh whose axis "data" splits the batch, and whose axis "column" has one device.

    Raises:
        InputError: see `registry.make_dense_model`.
    """

    def predict(model: nn.Module, variables: Variables, images: Array) -> Array:
        outputs, _ = registry.apply_model(model, variables, images)
        *_, classes = outputs.logits.shape
        logits = outputs.logits.reshape(len(images), -1, classes)
        return log_probabilities(logits.mean(1))

    return _on_mesh(config, mesh, predict, registry.make_dense_model(config))


def _on_mesh(
    config: Config,
    mesh: Mesh,
    forward: Callable[[nn.Module, Variables, Array], T],
    model: nn.Module | None = None,
) -> Callable[[Variables, Array, Batch], T]:
    """Return the jitted (variables, mean, batch) → forward(model, variables, images).

    Args:
        model: the module; None builds that of the config on the mesh.
    """
    model = model or registry.make_model(config, sharding.make_layout(config, mesh))
    data = with_changes(config, {"data.padding": 0}).data  # only training images are padded

    def normalized(variables: Variables, mean: Array, batch: Batch) -> T:
        return forward(model, variables, normalize(batch, mean, data))

    boxed = registry.abstract_boxed_variables(config)
    variables_specs = sharding.partition_specs(boxed, mesh)

    @jax.jit
    def sharded(variables: Variables, mean: Array, batch: Batch) -> T:
        in_specs = (variables_specs, P(), sharding.batch_specs(batch, ("data",)))
        forward_fn = jax.shard_map(normalized, mesh=mesh, in_specs=in_specs, out_specs=P("data"))
        result: T = forward_fn(variables, mean, batch)
        return result

    return sharded


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, or a model with imported weights.

    Attributes:
        config: config of the run, with the number of classes.
        step: step of the checkpoint; 0 for imported weights.
        variables: variables of all columns, {"params": {"conv1": {"kernel": …, "bias": …}, …}, …},
            with averaged parameters if the run has them.
        mean_image: mean image of the training split, (side, side, channels of the data), 0…255.
        class_names: names of the classes in the order of the labels.
        source_digest: digest of the images on which the model was trained, see `data.pack.Pack`;
            None if it is unknown.
        num_images: number of training images; 0 for imported weights.
    """

    config: Config
    step: int
    variables: Variables
    mean_image: np.ndarray
    class_names: tuple[str, ...]
    source_digest: str | None = None
    num_images: int = 0

    @property
    def params(self) -> PyTree:
        """The parameters, {"conv1": {"kernel": …, "bias": …}, …}."""
        return self.variables["params"]

    def make_predict_fn(self, mesh: Mesh) -> Predict:
        """Return the function from a batch with one view per image to log-probabilities."""
        return self._bind(make_predict_on_mesh(self.config, mesh), mesh)

    def make_dense_predict_fn(self, mesh: Mesh) -> Predict:
        """Return the function from whole images; see `make_dense_predict_on_mesh`."""
        whole = self
        if self.config.data.mean == "center":  # the center of whole images is all of them
            whole = replace(self, config=with_changes(self.config, {"data.mean": "image"}))
        return whole._bind(make_dense_predict_on_mesh(whole.config, mesh), mesh)

    def make_features_fn(self, mesh: Mesh) -> Callable[[Batch], tuple[Array, Array]]:
        """Return the function to log-probabilities and features; see `make_features_on_mesh`."""
        return self._bind(make_features_on_mesh(self.config, mesh), mesh)

    def make_forward_fn(
        self, mesh: Mesh, forward: Callable[[nn.Module, Variables, Array], T]
    ) -> Callable[[Variables], Callable[[Batch], T]]:
        """Return a function from variables to the function from a batch to what `forward` returns.

        It is compiled once, also for the variables of several checkpoints.

        Args:
            mesh: mesh whose axis "data" splits the batch, and whose axis "column" has one device.
            forward: function of the model, its variables and the preprocessed images of a device;
                its results have the images as first axis.
        """
        function = _on_mesh(self.config, mesh, forward)
        return lambda variables: self._bind(function, mesh, variables)

    def batch_of_crops(self, crops: np.ndarray | Array) -> Batch:
        """Return central crops as a batch with one view per image, without labels.

        Args:
            crops: (n, crop, crop, channels), 0…255 of any type, in the channel order of the data.
        """
        start = center_offset(self.mean_image.shape[0], self.config.data.crop)
        offset = np.full((len(crops), 2), start, np.int32)
        return Batch(crops, offset, np.zeros(len(crops), bool))

    def normalize_crops(self, crops: np.ndarray | Array) -> Array:
        """Return central crops as inputs of the model, (n, crop, crop, channels) float32.

        Args:
            crops: see `batch_of_crops`.
        """
        data = self.config.data
        mean = jnp.asarray(mean_of(self.mean_image, data, self.config.model.channels))
        return normalize(self.batch_of_crops(crops), mean, data)

    def _bind(
        self,
        function: Callable[[Variables, Array, Batch], T],
        mesh: Mesh,
        variables: Variables | None = None,
    ) -> Callable[[Batch], T]:
        """Bind variables, by default this model's, and the mean, placed on the mesh."""
        mean = jnp.asarray(mean_of(self.mean_image, self.config.data, self.config.model.channels))
        boxed = registry.abstract_boxed_variables(self.config)
        placed = jax.device_put(
            self.variables if variables is None else variables, sharding.shardings(boxed, mesh)
        )
        return lambda batch: function(placed, mean, batch)


def load_trained(workdir: str | Path, mesh: Mesh | None = None) -> TrainedModel:
    """Load the newest readable checkpoint of a run.

    Args:
        workdir: folder of the run.
        mesh: mesh on which to place the parameters; None for the first device.

    Raises:
        InputError: the folder is not that of a run, or has no readable checkpoint.
    """
    workdir = Path(workdir)
    recorded = read_config(workdir)
    mesh = mesh or sharding.make_data_mesh(1)
    with Checkpoints(workdir) as checkpoints:

        def read(step: int) -> TrainedModel:
            metadata = checkpoints.metadata(step)
            config = config_from_json(metadata["config"])
            # The data may have been moved since the checkpoint was saved.
            paths = {f"data.{name}": getattr(recorded.data, name) for name in ("dir", "pack_dir")}
            config = with_changes(config, paths)
            variables = load_variables(
                checkpoints, step, config, mesh or sharding.make_data_mesh(1)
            )
            return TrainedModel(
                config=config,
                step=step,
                variables=variables,
                mean_image=checkpoints.mean(step),
                class_names=tuple(metadata["class_names"]),
                source_digest=read_source_digest(workdir),
                num_images=metadata["images"],
            )

        found = checkpoints.newest(read)
    if found is None:
        advice = "wait for its first one" if is_in_use(workdir) else "train it first"
        raise InputError(f"--workdir={workdir} has no checkpoint yet; {advice}")
    return found[1]


def load_variables(
    checkpoints: Checkpoints, step: int, config: Config, mesh: Mesh
) -> dict[str, PyTree]:
    """Return the variables of a checkpoint for evaluation, placed on a mesh.

    Args:
        checkpoints: the checkpoints of the run.
        step: step of the checkpoint.
        config: config of the checkpoint.
        mesh: the mesh of devices.
    """
    template = dict(sharding.with_shardings(registry.abstract_boxed_variables(config), mesh))
    return restore_variables(checkpoints, step, template)


def restore_variables(
    checkpoints: Checkpoints, step: int, template: dict[str, PyTree]
) -> dict[str, PyTree]:
    """Return the variables of a checkpoint, with averaged parameters if it has them.

    Args:
        checkpoints: the checkpoints of the run.
        step: step of the checkpoint.
        template: abstract variables with their shardings.
    """
    wanted = {name: part for name, part in template.items() if jax.tree.leaves(part)}
    if "ema_params" in checkpoints.metadata(step)["collections"]:
        wanted["ema_params"] = template["params"]
    variables: dict[str, PyTree] = checkpoints.variables(step, wanted)
    averaged = variables.pop("ema_params", None)
    return variables if averaged is None else {**variables, "params": averaged}
