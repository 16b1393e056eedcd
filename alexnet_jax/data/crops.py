"""Positions of crops in images."""


def center_offset(image_size: int, crop: int) -> int:
    """Return the offset, y and x alike, of the central crop of a square image."""
    return (image_size - crop) // 2
