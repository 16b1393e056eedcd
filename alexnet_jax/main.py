"""Train AlexNet, then evaluate it.

    python -m alexnet_jax.main --config=configs/alexnet.py:sample [--workdir=DIR]
                               [--config.FIELD=VALUE …]

The same command again continues an interrupted run.
"""

from pathlib import Path

from absl import flags

from alexnet_jax import command


def main(_: list[str]) -> int:
    """The command."""
    # Only now, when the flags are right: these load JAX and TensorFlow.
    from alexnet_jax import evaluate, train
    from alexnet_jax.prepare import prepare
    from alexnet_jax.workdir import check_config, claim

    config = flags.FLAGS.config
    directory = Path(flags.FLAGS.workdir or command.default_workdir())
    train.check(config)
    with claim(directory):
        check_config(directory, config)
        pack = prepare(config.data)
        config = train.complete(config, pack)
        if status := train.train(config, pack, directory):
            return status
        evaluate.finish(directory)
    return 0


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_string(
        "workdir", None, "Folder of the run; by default runs/CONFIG-VARIANT below this folder."
    )
    command.run(main)
