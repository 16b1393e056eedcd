"""Train a model, then evaluate it.

    python -m alexnet_jax.main --config=configs/alexnet.py:sample [--workdir=DIR]
                               [--seeds=0,1,2,3] [--config.FIELD=VALUE …]

The same command again continues an interrupted run. With --seeds, the config is trained with each
seed, all in one compiled program on one device, which small models leave idle otherwise; the run of
seed 0 is in DIR/seed-0, and so on, or with a DIR such as runs/base-{seed} in runs/base-0. Their
images must be on the device (data.resident).
"""

from contextlib import ExitStack
from pathlib import Path

from absl import flags

from alexnet_jax import cache, command
from alexnet_jax.errors import InputError


def main(_: list[str]) -> int:
    """Run the command."""
    # Imported after the flags have been parsed, since these modules import JAX.
    from alexnet_jax import distributed, finetune, run_config, seeds, train
    from alexnet_jax.config import config_to_text
    from alexnet_jax.data import images
    from alexnet_jax.prepare import prepare
    from alexnet_jax.status import read_status, track_status, write_status
    from alexnet_jax.workdir import check_config, lock_workdir, newest_step, read_source_digest

    cache.keep_compiled()
    images.ignore_pillow_warnings()
    config = command.validated_config()
    directory = Path(flags.FLAGS.workdir or command.default_workdir())
    numbers = seeds.parse_seeds(flags.FLAGS.seeds)
    if numbers and "seed" in command.given_config()[1]:
        raise InputError("--seeds and --config.seed were given; expected one of them")

    def record_loss(message: str) -> None:
        if read_status(directory) is not None:
            write_status(directory, "failed", message)

    with distributed.distributed_runtime(record_loss), ExitStack() as locks:
        run_config.check_devices_and_patterns(config)
        configs = planned = seeds.configs_of_seeds(config, directory, numbers)
        if distributed.is_first():
            for workdir in planned:
                locks.enter_context(lock_workdir(workdir))
        if numbers:
            configs = seeds.without_diverged(planned)
        for workdir, of_run in configs.items():
            check_config(workdir, of_run)
            finetune.check_init_from(of_run, workdir)
        digests = [digest for workdir in configs if (digest := read_source_digest(workdir))]
        pack = prepare(config.data, source_digest=next(iter(digests), None))
        configs = {w: run_config.complete_config(of_run, pack) for w, of_run in configs.items()}
        if numbers:
            seeds.check_images_on_device(config, pack)
        distributed.check_same(
            {
                "config": config_to_text(next(iter(configs.values()))).encode(),
                "training images": pack.mean_image.tobytes(),
                "classes": "\n".join(pack.class_names).encode(),
                "newest checkpoint": b" ".join(b"%d" % newest_step(w) for w in configs),
            }
        )

        def run() -> int:
            if status := train.train(configs, pack):
                return status
            seeds.evaluate_runs(configs)
            return 0

        status = track_status(configs, run) if distributed.is_first() else run()
        if numbers and not status and (diverged := seeds.list_diverged(planned)):
            raise seeds.make_diverged_error(diverged)
        return status


if __name__ == "__main__":
    command.define_config()
    command.define_processes()
    flags.DEFINE_string(
        "workdir", None, "Folder of the run; by default runs/CONFIG-VARIANT in this folder."
    )
    flags.DEFINE_list(
        "seeds", [], "Seeds to train in one program, in seed-N of --workdir or where it has {seed}."
    )
    command.run(main)
