"""Measure how much of a model's first convolution responds to color, column by column."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test

from alexnet_jax.trained import TrainedModel
from experiments.figures.predictions import first_conv_kernels

GRAY_TEXT = "The images are gray, so the kernels' response to color cannot be measured."
NUM_ASSIGNMENTS = 9_999  # random assignments of the kernels to columns
GRAY = 0.5  # units of 0…255: a mean image whose channels differ by less is of gray images


@dataclass(frozen=True)
class ColorSpecialization:
    """How much of conv1 responds to color, column by column.

    Attributes:
        columns: the colorfulness of each column; () where the images are gray.
        difference: between the most and the least colorful column; None with one column.
        share: of random assignments of the same kernels to columns of the same size, those
            with at least so large a difference; None with one column.
        text: the same in a sentence or two, or why it is not measured.
    """

    columns: tuple[float, ...]
    difference: float | None
    share: float | None
    text: str


def compute_colorfulness(kernel: np.ndarray) -> np.ndarray:
    """Return the share of each kernel's energy that is not on the gray axis, (columns, kernels).

        1 - Σ (r + g + b)² / 3  /  Σ (r² + g² + b²)    over the kernel's pixels

    (r + g + b) / √3 is the part of a pixel's three weights along (1, 1, 1) / √3, which responds
    to brightness. By Pythagoras the remainder responds to color alone. So 0 is a gray kernel, and 1
    one that no gray image excites. It does not depend on the kernel's size, sign or scale.
    Independent random weights have 2/3 on average, one direction in three being gray: an
    untrained model is colorful too, and only the columns of a trained one are informative.

    Args:
        kernel: (columns, height, width, 3, kernels).
    """
    gray, total = _energies(kernel)
    return 1 - gray / np.maximum(total, 1e-30)


def compute_column_colorfulness(kernel: np.ndarray) -> np.ndarray:
    """Return the same share of each column's energy, (columns,).

    That is the mean of its kernels' colorfulness weighted by their energies. Without the weights
    kernels that were never used, decayed to faint noise, would count as color.
    """
    gray, total = _energies(kernel)
    return 1 - gray.sum(1) / np.maximum(total.sum(1), 1e-30)


def _energies(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each kernel's energy on the gray axis and its total energy, (columns, kernels)."""
    exact = kernel.astype(np.float64)
    return (exact.sum(3) ** 2 / 3).sum((1, 2)), (exact**2).sum((1, 2, 3))


def measure_specialization(model: TrainedModel, seed: int = 0) -> ColorSpecialization:
    """Measure whether the columns of conv1 divide gray and color (figure 3, section 6.1).

    The paper's columns do: "The kernels on GPU 1 are largely color-agnostic, while the kernels
    on GPU 2 are largely color-specific." The measure is the difference of the columns'
    colorfulness, compared with that after random assignments of the same kernels: two columns
    never agree exactly, and a difference that one assignment in three reaches means nothing.

    Args:
        seed: of the random assignments.
    """
    # The mean image of imported weights (step 0) need not be that of any images.
    same = model.step > 0 and np.ptp(model.mean_image, axis=-1).max() < GRAY
    if model.config.model.channels == 1 or same:
        return ColorSpecialization((), None, None, GRAY_TEXT)
    kernel = first_conv_kernels(model)
    columns = tuple(compute_column_colorfulness(kernel).tolist())
    if len(columns) == 1:
        text = f"Colorfulness {columns[0]:.2f}. The model has one column."
        return ColorSpecialization(columns, None, None, text)
    difference, share = compare_with_random_assignments(kernel, seed)
    listed = " and ".join(f"{value:.2f}" for value in columns)
    text = (
        f"Colorfulness {listed}: a difference of {difference:.2f}, which {100 * share:.3g} % of "
        "random assignments of these kernels to columns reach."
    )
    return ColorSpecialization(columns, difference, share, text)


def compare_with_random_assignments(kernel: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Compute the difference between the most and the least colorful column, and test it.

    Args:
        kernel: (columns, height, width, 3, kernels), at least two columns.

    Returns:
        The difference, and the share of random assignments of kernels to columns with one at
        least as large: of NUM_ASSIGNMENTS and the actual one, or of all assignments where there
        are not more.
    """
    gray, total = (energy.ravel() for energy in _energies(kernel))
    numbers = np.arange(len(gray)).reshape(len(kernel), -1)

    def difference(*columns: np.ndarray, axis: int) -> np.ndarray:
        """Return the differences between the most and the least colorful column of assignments.

        Args:
            columns: numbers of the kernels of each column, along `axis`; SciPy adds other axes.
            axis: axis of the kernels.
        """
        values = [1 - gray[c].sum(axis) / np.maximum(total[c].sum(axis), 1e-30) for c in columns]
        return np.max(values, axis=0) - np.min(values, axis=0)

    found = permutation_test(
        tuple(numbers),
        difference,
        vectorized=True,
        n_resamples=NUM_ASSIGNMENTS,
        batch=1000,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)
