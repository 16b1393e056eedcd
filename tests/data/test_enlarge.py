"""Images of one small size, which are enlarged on request."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import idx_data

from alexnet_jax import run_config
from alexnet_jax.config import Config, with_changes
from alexnet_jax.data import images
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare
from configs.alexnet import get_config


def full_config(folder: Path, **changes: Any) -> Config:
    """Return the paper's config for a tiny set of gray images of 28 pixels."""
    data = idx_data(folder, image_size=256, pack_dir="")
    first = {"data.name": data.name, "data.dir": data.dir, "data.lighting": "none"}
    return with_changes(get_config(), first | {"model.channels": 1} | changes)


@pytest.mark.parametrize(
    ("image_size", "advice"),
    [
        (256, r"larger images with --config\.data\.enlarge=True$"),
        (100, r"with --config\.data\.enlarge=True and --config\.data\.image_size=224 or more$"),
        (20, r"with --config\.data\.image_size=224 or more$"),
    ],
)
def test_advice_for_small_images_works(tmp_path: Path, image_size: int, advice: str) -> None:
    """Catches: "prepare larger images with image_size" where these images keep their size."""
    config = full_config(tmp_path, **{"data.image_size": image_size})
    with pytest.raises(InputError, match=advice):
        run_config.complete_config(config, prepare(config.data, progress=False))


def test_the_full_model_accepts_enlarged_images(tmp_path: Path) -> None:
    """Catches: a field that changes nothing, or a pack of small images used for it."""
    small = prepare(full_config(tmp_path).data, progress=False)
    config = full_config(tmp_path, **{"data.enlarge": True})
    pack = prepare(config.data, progress=False)
    assert (small.side, pack.side, pack.encoding) == (28, 256, "jpeg")
    assert run_config.complete_config(config, pack).model.num_classes == 5
    (record,) = small.splits["test"].read(np.array([3]))
    pixels = np.frombuffer(record, np.uint8).reshape(28, 28, 1)
    enlarged = images.load(pixels, side=256, channels=1)
    (jpeg,) = pack.splits["test"].read(np.array([3]))
    assert jpeg == images.to_jpeg(enlarged, 95, "4:4:4")


def test_padding_of_images_that_keep_their_size(tmp_path: Path) -> None:
    """Catches: padding looked for around data.image_size pixels where the images have fewer, and
    an advice that does not help."""
    data = idx_data(tmp_path, image_size=32, pack_dir="", crop=24, padding=4)
    config = with_changes(get_config("sample"), {"data": data})
    advice = r"28 pixels; set --config\.data\.image_size=28, or --config\.data\.enlarge=True$"
    with pytest.raises(InputError, match=advice):
        run_config.complete_config(config, prepare(config.data, progress=False))
    for name, value in (("data.image_size", 28), ("data.enlarge", True)):
        changed = with_changes(config, {name: value})
        run_config.complete_config(changed, prepare(changed.data, progress=False))


def test_larger_images_are_scaled_as_before(tmp_path: Path) -> None:
    """Catches: images left at a size above image_size, once they may be enlarged."""
    data = full_config(tmp_path, **{"data.enlarge": True, "data.image_size": 20}).data
    assert prepare(data, progress=False).side == 20
