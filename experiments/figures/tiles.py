"""Prepare arrays to be shown as images: tile them, scale signed values, color values."""

import matplotlib
import numpy as np

SHADES = 64  # of a color map: fewer make smaller files


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


def color_values(values: np.ndarray, low: float, high: float, name: str = "magma") -> np.ndarray:
    """Return values (height, width) in colors, (height, width, 4) uint8, those of NaN transparent.

    Args:
        values: the values.
        low, high: values of the first and of the last color.
        name: name of Matplotlib's color map.
    """
    shares = np.clip((values - low) / max(high - low, 1e-30), 0, 1)
    known = np.isfinite(shares)
    steps = np.round(np.where(known, shares, 0) * (SHADES - 1)) / (SHADES - 1)
    pixels: np.ndarray = (matplotlib.colormaps[name](steps) * 255).round().astype(np.uint8)
    pixels[~known] = 0
    return pixels
