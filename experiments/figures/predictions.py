"""Compute predictions, activations, neighbors and kernels of a trained model, as arrays.

`plots.py` plots them, and `workdir_figures.py` does both for a workdir.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.spatial.distance import cdist

from alexnet_jax import evaluate, model_data, sharding
from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import permutation
from alexnet_jax.data.batch import Batch
from alexnet_jax.data.pack import Pack
from alexnet_jax.diagnostics import check_outputs
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.trained import TrainedModel


@dataclass(frozen=True)
class Predictions:
    """The outputs of a model for the center crops of images of a split.

    Attributes:
        split: its name.
        index: (n,) indices of the images in the split.
        labels: (n,) class numbers.
        log_probabilities: (n, classes), natural logarithms.
        features: (n, units) the input of the classifier, such as fc7's activations; None if not
            asked for.
    """

    split: str
    index: np.ndarray
    labels: np.ndarray
    log_probabilities: np.ndarray
    features: np.ndarray | None

    @property
    def probabilities(self) -> np.ndarray:
        """The probabilities (n, classes)."""
        return np.exp(self.log_probabilities)

    @property
    def classes(self) -> np.ndarray:
        """The most probable classes (n,); of equals the lower number, as in `metrics`."""
        return self.log_probabilities.argmax(1)

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is the label (n,)."""
        return self.classes == self.labels

    def select(self, rows: np.ndarray) -> "Predictions":
        """Return the predictions of some rows, in the order given."""
        features = None if self.features is None else self.features[rows]
        parts = self.index[rows], self.labels[rows], self.log_probabilities[rows], features
        return Predictions(self.split, *parts)


def predict_split(
    model: TrainedModel,
    pack: Pack,
    split: str | None = None,
    *,
    index: Sequence[int] | np.ndarray | None = None,
    features: bool = False,
) -> Predictions:
    """Compute a model's predictions for images of its data, with a progress bar.

    Args:
        model: the model.
        pack: its data set, from `model_data.open_data`.
        split: None takes test, and validation where there is no labeled test.
        index: (n,) which images of the split, in that order; None for all.
        features: keep the input of the classifier, units × 4 bytes an image.

    Raises:
        InputError: as `model_data.choose_split`; an image that the split does not have; features of
            a model without a hidden layer.
        DivergedError: a probability is not finite.
    """
    split = model_data.choose_split(model, pack, split)
    count = pack.splits[split].count
    index = np.arange(count) if index is None else np.asarray(index)
    if len(wrong := index[(index < 0) | (index >= count)]):
        raise InputError(
            f"image {wrong[0]} of {split} does not exist; {model.config.data.name} has {count} "
            f"there, 0 to {count - 1}"
        )
    mesh = sharding.make_data_mesh(model.config.batch_size)
    batches = evaluate.split_batches(model, pack, split, mesh, index=index)
    predict = model.make_features_fn(mesh) if features else model.make_predict_fn(mesh)
    functions: list[Callable[[Batch], Any]] = [predict]
    logs, kept = [], []
    for labels, ((view,),) in evaluate.apply_to_views(functions, batches, mesh):
        mask = np.asarray(labels.mask)
        log_probabilities, units = jax.device_get(view if features else (view, None))
        logs.append(log_probabilities[mask])
        if features:
            kept.append(units[mask])
    predictions = Predictions(
        split,
        index,
        pack.splits[split].labels[index],
        np.concatenate(logs),
        np.concatenate(kept) if features else None,
    )
    check_outputs("probabilities", predictions.probabilities)
    return predictions


def load_crops(
    model: TrainedModel, pack: Pack, split: str, index: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Load the center crops of images of a split in true colors.

    Args:
        model: the model.
        pack: its data set, from `model_data.open_data`.
        split: name of the split.
        index: (n,) indices in the split.

    Returns:
        (n, crop, crop, channels) uint8; three channels are red, green, blue whatever the
        channel order of the model's inputs.
    """
    mesh = sharding.make_data_mesh(1)
    batches = evaluate.split_batches(model, pack, split, mesh, index=np.asarray(index))
    return np.concatenate([np.asarray(batch.image)[batch.mask, 0] for batch in batches])


def compute_image_activations(model: TrainedModel, image: np.ndarray) -> dict[str, np.ndarray]:
    """Compute every activation for one image, as float32 whatever the model computes in.

    Args:
        image: (crop, crop, channels) uint8, a center crop as from `load_crops`.

    Returns:
        {"conv1": (height, width, channels), "relu1": …, …, "relu7": (units,), …} by the name of
        the op, in order, the channels of all columns side by side; last the logits,
        {"fc8": (classes,)}.
    """
    activations = registry.compute_activations(
        registry.make_model(model.config), model.variables, model.normalize_crops(image[None])
    )
    # NumPy sums bfloat16 in bfloat16, where 256 + 1 is 256.
    return {name: np.asarray(activation[0], np.float32) for name, activation in activations.items()}


def hidden_ops(config: Config) -> dict[str, str]:
    """Return the op whose activations are those of each hidden layer, by the layer's name.

    Normalization and pooling after it are left out; see `HiddenLayer`. Of a model that is not
    sequential the layers are the first convolutions and the residual blocks or Inception modules.

    Returns:
        {"conv1": "relu1", …, "fc7": "relu7"}.
    """
    layers = registry.family_of(config.model).hidden_layers(config.model)
    return {layer.name: layer.op for layer in layers}


def layer_activations(
    config: Config, activations: dict[str, np.ndarray], count: int
) -> dict[str, np.ndarray]:
    """Return the activations of hidden layers, of `hidden_ops`, their columns apart.

    Args:
        config: config of the model.
        activations: from `compute_image_activations`.
        count: number of layers, evenly distributed where the model has more.

    Returns:
        {"conv1": (columns, height, width, channels), …, "fc7": (columns, units)}.
    """
    columns, ops = config.model.columns(), hidden_ops(config)
    return {
        layer: np.stack(np.split(activations[ops[layer]], columns, axis=-1))
        for layer in choose_evenly([*ops], count)
    }


def nearest_neighbors(
    query: np.ndarray, candidates: np.ndarray, k: int = 6, excluded: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest vectors by Euclidean distance, as section 6.1 compares images by fc7.

    Args:
        query: (q, units); candidates: (n, units).
        k: number of neighbors; fewer for all queries if one has fewer candidates.
        excluded: (q, n) the candidates that are not compared with a query; None for none.

    Returns:
        Rows of `candidates` (q, up to k), nearest first, the lower row first where they are
        equally near, and their distances, float64.
    """
    distances = cdist(query, candidates)
    if excluded is not None:
        distances[excluded] = np.inf
        k = min(k, int((~excluded).sum(1).min()))
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(distances, rows, axis=1)


@dataclass(frozen=True)
class Neighbors:
    """The training images nearest to some images, nearest first.

    Attributes:
        index: (q, k) indices in the training split.
        labels: (q, k) class numbers.
        distances: (q, k) Euclidean, in units of the features.
        text: which images and features were compared, as a caption has it.
    """

    index: np.ndarray
    labels: np.ndarray
    distances: np.ndarray
    text: str


def find_neighbors(
    model: TrainedModel, pack: Pack, shown: Predictions, candidates: int, k: int = 6
) -> Neighbors:
    """Find the training images nearest to some images by the input of the classifier.

    A training image is not among its own neighbors.

    Args:
        model: the model.
        pack: its data set.
        shown: the predictions for the images; their features are not needed.
        candidates: number of training images to search; all, if there are fewer.
        k: number of neighbors of each image.

    Raises:
        InputError: the model has no hidden layer, or there is no other image to search.
    """
    features = describe_features(model.config)
    index = sample_index(pack.splits["train"].count, candidates)
    queries = predict_split(model, pack, shown.split, index=shown.index, features=True)
    train = predict_split(model, pack, "train", index=index, features=True)
    assert queries.features is not None
    assert train.features is not None
    is_itself = (shown.index[:, None] == index) & (shown.split == "train")
    rows, distances = nearest_neighbors(queries.features, train.features, k, is_itself)
    if not rows.size:
        raise InputError(
            f"the only training image of {len(index)} that is searched for neighbors is the image "
            "itself; expected 2 or more"
        )
    text = f"the nearest of {len(index):,} training images by {features}"
    return Neighbors(train.index[rows], train.labels[rows], distances, text)


def describe_features(config: Config) -> str:
    """Return what the input of the classifier is, such as "fc7's activations".

    Raises:
        InputError: the model has no hidden layer.
    """
    layers = registry.family_of(config.model).hidden_layers(config.model)
    if not layers:
        raise InputError("the model has no hidden layer, and so no features of images")
    last = layers[-1]
    if "mean" in last.followers:
        return f"{last.name}'s activations, averaged over all pixels"
    return f"{last.name}'s activations{' after pooling' if 'pool' in last.followers else ''}"


def choose_evenly(names: Sequence[str], count: int) -> list[str]:
    """Return at most `count` names, evenly distributed, with the first and the last."""
    indices = np.linspace(0, len(names) - 1, min(len(names), count)).round().astype(int)
    return [names[index] for index in indices]


def sample_index(count: int, wanted: int) -> np.ndarray:
    """Return `wanted` of `count` indices, ascending, all if there are not more; never random."""
    return np.sort(permutation(0, count)[:wanted])


def choose_rows(predictions: Predictions, correct: int, wrong: int) -> np.ndarray:
    """Choose rows to show: some correct predictions, then some wrong ones.

    Each kind is taken in one fixed random order, a class for the second time only after every
    other class: images are not selected by content or by the model's confidence.
    """
    order = permutation(0, len(predictions.labels))

    def first(rows: np.ndarray, wanted: int) -> np.ndarray:
        """Return up to `wanted` rows: the first of every class, then the second ones, and so on."""
        seen, repeats = Counter[int](), []
        for label in predictions.labels[rows].tolist():
            repeats.append(seen[label])
            seen[label] += 1
        return rows[np.argsort(repeats, kind="stable")[:wanted]]

    is_correct = predictions.correct[order]
    return np.concatenate([first(order[is_correct], correct), first(order[~is_correct], wrong)])


def worst_mistakes(predictions: Predictions, n: int) -> np.ndarray:
    """Return the rows of up to n mistakes made with the highest confidence, highest first."""
    confidence = predictions.log_probabilities.max(1)
    rows = np.argsort(-confidence, kind="stable")
    return rows[~predictions.correct[rows]][:n]


def confusion_matrix(labels: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how many images of the row's class were predicted as the column's.

    Args:
        labels: (n,); classes: (n,) predicted.

    Returns:
        (num_classes, num_classes).
    """
    flat = np.bincount(labels.astype(np.int64) * num_classes + classes, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def most_confused(counts: np.ndarray, n: int) -> list[tuple[int, int, int]]:
    """Return up to n pairs of classes most often confused: (true, predicted, images), most first.

    Args:
        counts: from `confusion_matrix`.
    """
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:n]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(a), int(b), int(wrong[a, b])) for a, b in pairs if wrong[a, b]]


def split_columns(config: Config, kernel: np.ndarray) -> np.ndarray:
    """Return a kernel with a leading axis of columns, of which a model without groups has one."""
    model = config.model
    has_columns = isinstance(model, SequentialConfig) and model.num_columns > 1
    return kernel if has_columns else kernel[None]


def first_conv_name(config: Config) -> str | None:
    """Return the name of the first convolution; None without one."""
    name: str | None = registry.family_of(config.model).first_conv(config.model)
    return name


def first_conv_kernels(model: TrainedModel) -> np.ndarray:
    """Return the kernels of the first convolution, as they weight an image's pixels.

    Returns:
        (columns, height, width, channels, kernels), one column for a model without groups; three
        channels are red, green, blue, and the weights are divided by `data.std`.

    Raises:
        InputError: the model has no convolution.
    """
    config = model.config
    name = first_conv_name(config)
    if name is None:
        raise InputError("the model has no convolution, and so no kernels to plot")
    kernel = split_columns(config, np.asarray(leaves_by_path(model.params)[f"{name}/kernel"]))
    if config.data.channel_order == "bgr":
        kernel = kernel[:, :, :, ::-1]
    return kernel / np.asarray(config.data.std, kernel.dtype)[:, None]
