"""The config of another run, to train on from its parameters, on its data or on other images.

    python -m alexnet_jax.main --config=configs/like.py:runs/zoo --workdir=runs/mine
                               --config.data.name=folder --config.data.dir=DIR

The part after the colon is that run's workdir, made by training or by `alexnet_jax.convert`.
Its preprocessing, its net and its recipe are kept, so that its parameters find what they are used
to; the number of classes is the data's, and a classifier that does not fit is initialised anew.
"""

from pathlib import Path

from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.workdir import read_config


def get_config(workdir: str = "") -> Config:
    """The config recorded in a workdir, with `init_from` as that workdir.

    Raises:
        InputError: no run there.
    """
    if not workdir:
        raise InputError("configs/like.py needs a run's folder, as configs/like.py:runs/zoo")
    recorded = read_config(Path(workdir), "configs/like.py: WORKDIR")
    return fields.replace(
        recorded, {"model.num_classes": 0, "init_from": workdir, "init_layers": ()}
    )
