"""Train a model, then evaluate it.

    python -m alexnet_jax.main --config=configs/alexnet.py:sample [--workdir=DIR]
                               [--config.FIELD=VALUE …]

The same command again continues an interrupted run.
"""

from contextlib import nullcontext
from pathlib import Path

from absl import flags

from alexnet_jax import cache, command


def main(_: list[str]) -> int:
    """Run the command."""
    # Imported after the flags have been parsed, since these modules import JAX.
    from alexnet_jax import distributed, evaluate, finetune, sharding, train
    from alexnet_jax.config import config_to_text
    from alexnet_jax.data import images
    from alexnet_jax.prepare import prepare
    from alexnet_jax.status import read_status, track_status, write_status
    from alexnet_jax.workdir import check_config, lock_workdir, read_source_digest

    cache.keep_compiled()
    images.ignore_pillow_warnings()
    config = command.validated_config()
    directory = Path(flags.FLAGS.workdir or command.default_workdir())

    def record_loss(message: str) -> None:
        if read_status(directory) is not None:
            write_status(directory, "failed", message)

    with distributed.distributed_runtime(record_loss):
        train.check_devices_and_patterns(config)
        with lock_workdir(directory) if distributed.is_first() else nullcontext():
            check_config(directory, config)
            finetune.check_init_from(config, directory)
            pack = prepare(config.data, source_digest=read_source_digest(directory))
            config = train.complete_config(config, pack)
            distributed.check_same(
                {
                    "config": config_to_text(config).encode(),
                    "training images": pack.mean_image.tobytes(),
                    "classes": "\n".join(pack.class_names).encode(),
                }
            )

            def run() -> int:
                if status := train.train(config, pack, directory):
                    return status
                evaluate.final_evaluation(directory, sharding.make_mesh(config.parallel))
                return 0

            return track_status(directory, run) if distributed.is_first() else run()


if __name__ == "__main__":
    command.define_config()
    command.define_processes()
    flags.DEFINE_string(
        "workdir", None, "Folder of the run; by default runs/CONFIG-VARIANT in this folder."
    )
    command.run(main)
