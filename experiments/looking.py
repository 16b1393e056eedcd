"""What a trained net does with images, as numbers: no pictures, no files.

`experiments/plots.py` draws them, `experiments/figures.py` does both for a workdir.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import permutation_test

from alexnet_jax import evaluate, parallel
from alexnet_jax.data.augment import permutation
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import Net
from alexnet_jax.inputs import mean_of, normalise
from alexnet_jax.models import alexnet
from alexnet_jax.models.alexnet import ModelConfig
from alexnet_jax.network import make_model

GREY_TEXT = "The images are grey: whether a column specialises in colour cannot be shown."
DEALS = 9_999  # random ways of dealing out the kernels to columns
GREY = 0.5  # units of 0…255: a mean image whose channels differ by less is of grey images


@dataclass(frozen=True)
class Look:
    """What a net makes of images of a split, each seen in its centre view.

    Attributes:
        split: its name.
        index: (n,) places of the images in the split.
        labels: (n,) class numbers.
        log_probabilities: (n, classes), natural logarithms.
        features: (n, units) what the last layer sees, fc7's activations; None if not asked for.
    """

    split: str
    index: np.ndarray
    labels: np.ndarray
    log_probabilities: np.ndarray
    features: np.ndarray | None

    @property
    def probabilities(self) -> np.ndarray:
        """(n, classes)."""
        return np.exp(self.log_probabilities)

    @property
    def predictions(self) -> np.ndarray:
        """(n,) the most probable class; of equals the lower number, as `metrics.sums` counts."""
        return self.log_probabilities.argmax(1)

    @property
    def right(self) -> np.ndarray:
        """(n,) whether the prediction is the label."""
        return self.predictions == self.labels

    def at(self, rows: np.ndarray) -> "Look":
        """Some of the images, by their rows here, in the order given."""
        features = None if self.features is None else self.features[rows]
        parts = self.index[rows], self.labels[rows], self.log_probabilities[rows], features
        return Look(self.split, *parts)


def look(
    net: Net,
    split: str | None = None,
    *,
    index: Sequence[int] | np.ndarray | None = None,
    features: bool = False,
) -> Look:
    """Let a net look at images of its data, with a progress bar.

    Args:
        split: None takes test, and validation where there is no labelled test.
        index: (n,) which images of the split, in that order; None for all.
        features: keep what the last layer sees, units × 4 bytes an image.

    Raises:
        InputError: as `evaluate.open_split`; an image that the split does not have; features of
            a net without a hidden layer.
    """
    pack, split = evaluate.open_split(net, split)
    count = pack.splits[split].count
    index = np.arange(count) if index is None else np.asarray(index)
    if len(wrong := index[(index < 0) | (index >= count)]):
        raise InputError(
            f"image {wrong[0]} of {split} does not exist; {net.config.data.name} has {count} "
            f"there, 0 to {count - 1}"
        )
    mesh = parallel.data_mesh(net.config.batch_size)
    batches = evaluate.split_batches(net, pack, split, mesh, index=index)
    predict = net.predict(mesh)
    function = net.features(mesh) if features else lambda batch: (predict(batch), None)
    logs, kept = [], []
    for truth, ((view,),) in evaluate.over_views([function], batches, mesh):
        mask = np.asarray(truth["mask"])
        log_probabilities, units = jax.device_get(view)
        logs.append(log_probabilities[mask])
        if features:
            kept.append(units[mask])
    return Look(
        split,
        index,
        pack.splits[split].labels[index],
        np.concatenate(logs),
        np.concatenate(kept) if features else None,
    )


def pictures(net: Net, split: str, index: Sequence[int] | np.ndarray) -> np.ndarray:
    """What the net sees of images of a split: centre crops in true colours.

    Args:
        index: (n,) places in the split.

    Returns:
        (n, crop, crop, channels) uint8; three channels are red, green, blue whatever the order
        that the net wants them in.

    Raises:
        InputError: as `evaluate.open_split`.
    """
    pack, split = evaluate.open_split(net, split)
    mesh = parallel.data_mesh(1)
    batches = evaluate.split_batches(net, pack, split, mesh, index=np.asarray(index))
    return np.concatenate([batch["image"][batch["mask"], 0] for batch in batches])


def activations(net: Net, picture: np.ndarray) -> dict[str, np.ndarray]:
    """Every activation for one picture.

    Args:
        picture: (crop, crop, channels) uint8, one of `pictures`.

    Returns:
        {"conv1": (columns, height, width, maps), "conv1_relu": …, …, "fc7_relu": (columns,
        units), …} in the order of the network, and last the logits, {"fc8": (classes,)}.
    """
    data = net.config.data
    start = (net.mean_image.shape[0] - len(picture)) // 2
    batch = {
        "image": jax.numpy.asarray(picture[None]),
        "offset": jax.numpy.full((1, 2), start),
        "flip": jax.numpy.zeros(1, bool),
    }
    mean = mean_of(net.mean_image, data, net.config.model.channels)
    images = normalise(batch, jax.numpy.asarray(mean), data)
    *hidden, (last, logits) = alexnet.activations(
        make_model(net.config), net.params, images
    ).items()
    kept = {name: np.asarray(columns[:, 0]) for name, columns in hidden}
    return {**kept, last: np.asarray(logits[0])}


def neighbours(query: np.ndarray, among: np.ndarray, k: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """The nearest vectors by Euclidean distance, as section 6.1 compares images by fc7.

    Args:
        query: (q, units); among: (n, units).

    Returns:
        Rows of `among` (q, min(k, n)), the nearest first and of equals the lower row, and their
        distances, float64.
    """
    distances = cdist(query, among)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(distances, rows, axis=1)


def some(count: int, wanted: int) -> np.ndarray:
    """`wanted` of `count` places, ascending, all if there are not more; always the same ones."""
    return np.sort(permutation(0, count)[:wanted])


def choose(look: Look, right: int, wrong: int) -> np.ndarray:
    """Rows of a look to show: some that the net has right, then some that it has wrong.

    Each kind is taken in an order drawn once for all, a class for the second time only when
    every other class had its turn: nothing is picked by how it looks or how sure the net is.
    """
    order = permutation(0, len(look.labels))

    def first(rows: np.ndarray, wanted: int) -> np.ndarray:
        labels = look.labels[rows]
        turn = [np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)]
        return rows[np.argsort(turn, kind="stable")[:wanted]]

    return np.concatenate(
        [first(order[look.right[order]], right), first(order[~look.right[order]], wrong)]
    )


def worst(look: Look, n: int) -> np.ndarray:
    """Rows of the up to n mistakes that the net was surest of, the surest first."""
    sure = look.log_probabilities.max(1)
    rows = np.argsort(-sure, kind="stable")
    return rows[~look.right[rows]][:n]


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) how many images of the row's class were taken for the column's."""
    flat = np.bincount(labels.astype(np.int64) * classes + predictions, minlength=classes**2)
    return flat.reshape(classes, classes)


def mix_ups(counts: np.ndarray, n: int) -> list[tuple[int, int, int]]:
    """Up to n pairs of classes most often confused: (true, taken for, images), most first.

    Args:
        counts: as `confusion` gives them.
    """
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:n]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(a), int(b), int(wrong[a, b])) for a, b in pairs if wrong[a, b]]


def conv1(net: Net) -> np.ndarray:
    """The kernels of the first convolution, as they weigh an image's pixels.

    Returns:
        (columns, height, width, channels, maps); three channels are red, green, blue, and what
        `data.std` divides a channel by is taken into its weights.

    Raises:
        InputError: the net has no convolution.
    """
    first = ModelConfig.from_dict(net.config.model).layers[0]
    kernel = np.asarray(net.params[first.name]["kernel"])
    if kernel.ndim != 5:
        raise InputError("the net has no convolution, and so no kernels to show")
    if net.config.data.channel_order == "bgr":
        kernel = kernel[:, :, :, ::-1]
    return kernel / np.asarray(net.config.data.std, kernel.dtype)[:, None]


@dataclass(frozen=True)
class Colour:
    """How much of conv1 is about colour, column by column.

    Attributes:
        columns: each column's `colourfulness`; () where colour cannot be shown.
        difference: between the most and the least colourful column; None with one column.
        share: of random ways to deal out the same kernels to columns of the same size, those
            with at least so large a difference; None with one column.
        text: the same in a sentence or two, or why it cannot be shown.
    """

    columns: tuple[float, ...]
    difference: float | None
    share: float | None
    text: str


def colourfulness(kernel: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy that is not on the grey axis, (columns, maps).

        1 - Σ (r + g + b)² / 3  /  Σ (r² + g² + b²)    over the kernel's pixels

    (r + g + b) / √3 is the part of a pixel's three weights along (1, 1, 1) / √3: what the kernel
    says of brightness. By Pythagoras the rest answers to colour alone. So 0 is a grey kernel,
    1 one that no grey image moves. It does not depend on the kernel's size, sign or scale.
    Independent random weights have 2/3 on average, one direction in three being grey: a net that
    has not learnt is colourful too, and only the columns of a trained net say something.

    Args:
        kernel: (columns, height, width, 3, maps).
    """
    grey, whole = _energies(kernel)
    return 1 - grey / np.maximum(whole, 1e-30)


def of_columns(kernel: np.ndarray) -> np.ndarray:
    """The same share of each column's energy, (columns,).

    That is the mean of its kernels' colourfulness weighted by their energies. Without the weights
    kernels that were never used, decayed to faint noise, would pass for colour.
    """
    grey, whole = _energies(kernel)
    return 1 - grey.sum(1) / np.maximum(whole.sum(1), 1e-30)


def _energies(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each kernel the energy on the grey axis and that of the whole, (columns, maps)."""
    exact = kernel.astype(np.float64)
    return (exact.sum(3) ** 2 / 3).sum((1, 2)), (exact**2).sum((1, 2, 3))


def specialisation(net: Net, seed: int = 0) -> Colour:
    """Whether the columns of conv1 share out grey and colour (figure 3, section 6.1).

    The paper's columns do: "The kernels on GPU 1 are largely color-agnostic, while the kernels
    on GPU 2 are largely color-specific." Here that is the difference of the columns'
    `colourfulness`, judged beside what dealing out the same kernels at random gives: two columns
    never agree exactly, and a difference that one deal in three shows too means nothing.

    Args:
        seed: of the deals.
    """
    # The mean image of imported weights (step 0) need not be that of any images.
    same = net.step > 0 and np.ptp(net.mean_image, axis=-1).max() < GREY
    if net.config.model.channels == 1 or same:
        return Colour((), None, None, GREY_TEXT)
    kernel = conv1(net)
    columns = tuple(of_columns(kernel).tolist())
    if len(columns) == 1:
        return Colour(columns, None, None, f"Colourfulness {columns[0]:.2f}; one column.")
    difference, share = difference_by_chance(kernel, seed)
    listed = " and ".join(f"{value:.2f}" for value in columns)
    text = (
        f"Colourfulness {listed}: a difference of {difference:.2f}, which {100 * share:.3g} % of "
        "random deals of these kernels reach."
    )
    return Colour(columns, difference, share, text)


def difference_by_chance(kernel: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The difference between the most and the least colourful column, and a permutation test.

    Args:
        kernel: (columns, height, width, 3, maps), at least two columns.

    Returns:
        The difference, and the share of random deals with one at least as large: of DEALS, the
        deal that is there counted with them, or of all deals where there are not more.
    """
    grey, whole = (energy.ravel() for energy in _energies(kernel))
    numbers = np.arange(len(grey)).reshape(len(kernel), -1)

    def difference(*columns: np.ndarray, axis: int) -> np.ndarray:
        values = [1 - grey[c].sum(axis) / np.maximum(whole[c].sum(axis), 1e-30) for c in columns]
        return np.max(values, axis=0) - np.min(values, axis=0)

    found = permutation_test(
        tuple(numbers),
        difference,
        vectorized=True,
        n_resamples=DEALS,
        batch=1000,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)


def layers(activations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of every hidden layer its activity after the nonlinearity, before normalising or pooling.

    Args:
        activations: as `activations` gives them.
    """
    *hidden, _ = activations
    found = {}
    for name in hidden:
        layer, _, step = name.partition("_")
        if step in ("", "relu", "tanh"):
            found[layer] = activations[name]
    return found
