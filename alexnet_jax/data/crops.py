"""Where crops lie in their images."""


def center_offset(image_size: int, crop: int) -> int:
    """Return the first row, and column, of the central crop of a square image."""
    return (image_size - crop) // 2
