"""The config of the tiny model of `processes`, for tests that train in their own process."""

from pathlib import Path
from typing import Any

from alexnet_jax import command, fields
from alexnet_jax.config import Config
from helpers import processes


def tiny_config(data: Path, **changes: Any) -> Config:
    """Return the config for the images in a folder, three steps long, with some fields changed."""
    config = command.load_config(str(processes.write_config(data, data)))
    return fields.replace(config, {"max_steps": 3, "checkpoint_every": 3} | changes)
