"""Statistics of the training images."""

import numpy as np


def principal_components(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues and eigenvectors of a covariance matrix.

    The sign of an eigenvector is arbitrary; its largest component is made positive, so that the
    stream of lighting shifts does not depend on the linear algebra library.

    Args:
        covariance: (c, c), symmetric.

    Returns:
        Eigenvalues (c,), largest first and at least 0, and eigenvectors (c, c), of which [:, i]
        belongs to eigenvalue i.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(len(values))])
