"""Train in the tests' own process, by the calls that alexnet_jax.main makes."""

from pathlib import Path

from alexnet_jax import finetune, train
from alexnet_jax.config import Config, with_changes
from alexnet_jax.prepare import prepare
from alexnet_jax.workdir import check_config, lock_workdir, read_source_digest


def train_here(config: Config, workdir: Path) -> int:
    """Train a copy of the config, which need not be validated, and return the exit status."""
    config = with_changes(config, {})
    train.check_devices_and_patterns(config)
    with lock_workdir(workdir):
        check_config(workdir, config)
        finetune.check_init_from(config, workdir)
        digest = read_source_digest(workdir)
        pack = prepare(config.data, progress=False, source_digest=digest)
        return train.train(train.complete_config(config, pack), pack, workdir)
