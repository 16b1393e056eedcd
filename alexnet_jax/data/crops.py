"""Positions of crops in images."""

import numpy as np


def center_offset(image_size: int, crop: int) -> int:
    """Return the offset, y and x alike, of the central crop of a square image."""
    return (image_size - crop) // 2


def five_offsets(image_size: int, crop: int) -> np.ndarray:
    """Return the offsets (5, 2) int32 of the crops of section 4.1 in a square image.

    They are top left, top right, bottom left, bottom right and center.
    """
    center, margin = center_offset(image_size, crop), image_size - crop
    corners = [[0, 0], [0, margin], [margin, 0], [margin, margin]]
    return np.array([*corners, [center, center]], np.int32)
