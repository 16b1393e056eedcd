"""Prepare arrays to be shown as images: tile them, and scale signed values."""

import numpy as np


def scale_signed(signal: np.ndarray) -> np.ndarray:
    """Return a signal in 0…1, so that zero is mid-gray and its largest value is black or white."""
    return 0.5 + 0.5 * signal / max(float(np.abs(signal).max()), 1e-30)


def tile_channels(channels: np.ndarray, across: int, gap: int = 1) -> np.ndarray:
    """Return channels (height, width, n) as one array (height, width), with NaN between them.

    Args:
        channels: the channels.
        across: the number of channels in a row.
        gap: pixels between them.
    """
    height, width, count = channels.shape
    across = min(across, count)
    down = -(-count // across)
    tiles = np.full((down, height + gap, across, width + gap), np.nan, np.float32)
    for number in range(count):
        row, column = divmod(number, across)
        tiles[row, :height, column, :width] = channels[..., number]
    tiled = tiles.reshape(down * (height + gap), across * (width + gap))
    return tiled[:-gap, :-gap]


def tile_units(units: np.ndarray, across: int) -> np.ndarray:
    """Return units (n,) as one array with `across` in a row, with NaN at the end."""
    across = min(across, len(units))
    tiled = np.full((-(-len(units) // across), across), np.nan, np.float32)
    tiled.flat[: len(units)] = units
    return tiled
