"""A run on a few color images for the tests of the page to look inside a model."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_jax import fields
from alexnet_jax.models.model_config import ModelConfig
from helpers.image_sets import write_folder
from helpers.in_process import train_here
from helpers.tiny_model import tiny_config

CLASSES = ("<script>", "b & c", "d")


def make_explored_run(directory: Path, model: ModelConfig | None = None, **changes: Any) -> Path:
    """Train for a step on a folder of noise, and return the workdir.

    Args:
        directory: an empty folder.
        model: config of the model; None for the tiny one of `processes`.
        changes: other values of the model's fields.
    """
    write_folder(directory / "images" / "train", dict.fromkeys(CLASSES, 10))
    write_folder(directory / "images" / "test", dict(zip(CLASSES, (4, 5, 4), strict=True)), seed=7)
    first = {} if model is None else {"model": model}
    config = tiny_config(
        directory / "images", max_steps=1, checkpoint_every=1, **{"data.name": "folder", **first}
    )
    changed = {f"model.{name}": value for name, value in ({"channels": 3} | changes).items()}
    assert train_here(fields.replace(config, changed), directory / "run") == 0
    return directory / "run"


def decode_picture(source: str) -> np.ndarray:
    """Return the pixels of a data URI of the page."""
    kind, _, text = source.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
