"""Train in the tests' own process, by the calls that alexnet_jax.main makes."""

from pathlib import Path

from alexnet_jax import config as configs
from alexnet_jax import finetune, train
from alexnet_jax.config import Config
from alexnet_jax.prepare import prepare
from alexnet_jax.workdir import check_config, lock_workdir


def train_here(config: Config, workdir: Path) -> int:
    """Train a copy of the config, which need not be validated, and return the exit status."""
    config = configs.with_changes(config, {})
    train.check(config)
    with lock_workdir(workdir):
        check_config(workdir, config)
        finetune.check(config, workdir)
        pack = prepare(config.data, progress=False)
        return train.train(train.complete(config, pack), pack, workdir)
