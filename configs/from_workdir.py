"""The config of an existing run, to train its model further, on its data or on other images.

    python -m alexnet_jax.main --config=configs/from_workdir.py:runs/zoo --workdir=runs/mine
                               --config.data.name=folder --config.data.dir=DIR

The part after the colon is the workdir of that run, made by training or by `alexnet_jax.convert`.
Its model, preprocessing and recipe are kept, since its parameters were trained with them. The
number of classes is taken from the data; a classifier of another size is initialized anew.
"""

from pathlib import Path

from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.workdir import read_config


def get_config(workdir: str = "") -> Config:
    """Return the config recorded in a workdir, with `init_from` set to that workdir.

    Raises:
        InputError: the folder is not the workdir of a run.
    """
    if not workdir:
        raise InputError(
            "configs/from_workdir.py needs the workdir of a run, as in "
            "configs/from_workdir.py:runs/zoo"
        )
    recorded = read_config(Path(workdir), "configs/from_workdir.py: WORKDIR")
    return fields.replace(
        recorded, {"model.num_classes": 0, "init_from": workdir, "init_layers": ()}
    )
