"""How fast it is, beside a peer measured in the same run.

    python -m experiments.benchmark [--only=NAME] [--json] [--repeats=N]
    python -m experiments.benchmark --platform=gpu [--batch=128] [--peak_tflops=N]

Ours and the peer take turns, so that a machine whose speed drifts slows both. A ratio above 1
means that ours is faster; it is the median over the pairs, with the lowest and the highest.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from alexnet_jax import command
from alexnet_jax.data.pack import cores
from alexnet_jax.errors import InputError
from configs.alexnet import get_config
from experiments.race import Result, race

ROOT = Path(__file__).parents[1]


def train_step(config: ConfigDict, repeats: int) -> Result:
    """The whole training step on random images against PyTorch eager, its better layout."""
    try:
        import torch
    except ImportError:
        raise InputError(
            "the peer of train_step is PyTorch, which is not installed; pip install -r "
            "requirements-test.txt, or name other cases with --only"
        ) from None
    from experiments.peers import TrainStep

    torch.set_num_threads(cores())
    peers: dict[str, Callable[[], None]] = {
        "contiguous": TrainStep(config, torch.contiguous_format),
        "channels_last": TrainStep(config, torch.channels_last),
    }
    result = race(_our_step(config), peers, repeats)
    rate, peer = (config.batch_size / result[k] for k in ("seconds", "peer_seconds"))
    return {"images_per_second": rate, "peer_images_per_second": peer, **result}


def _our_step(config: ConfigDict) -> Callable[[], None]:
    from experiments.steps import TrainStep  # JAX loads only where it is timed

    return TrainStep(config)


def input_pipeline(repeats: int) -> Result:
    """From a 256×256 JPEG pack to batches, against a bare loop of the same decoder.

    The bare loop is tf.data over the same records in memory, decoding crops of the same size
    on the same cores and throwing them away.
    """
    import tensorflow as tf

    from alexnet_jax.data import pipeline
    from alexnet_jax.prepare import prepare

    config = get_config()
    count = 2048
    with tempfile.TemporaryDirectory() as folder:
        _make_folder(Path(folder, "images"), count)
        config.data.name, config.data.dir = "folder", os.path.join(folder, "images")
        config.data.pack_dir = os.path.join(folder, "pack")
        pack = prepare(config.data)
        split = pack.splits["train"]
        steps = split.count // config.batch_size
        records = split.read(np.arange(steps * config.batch_size))

        def ours() -> None:
            for _ in pipeline.train_batches(
                pack,
                config.data,
                seed=0,
                batch_size=config.batch_size,
                first_step=0,
                last_step=steps,
                channels=3,
            ):
                pass

        bare = tf.data.Dataset.from_tensor_slices(records).map(
            lambda record: tf.io.decode_and_crop_jpeg(
                record, [16, 16, 224, 224], channels=3, dct_method="INTEGER_ACCURATE"
            ),
            num_parallel_calls=cores(),
        )
        options = tf.data.Options()
        options.threading.private_threadpool_size = cores()
        options.autotune.enabled = False
        bare = bare.with_options(options)

        def peer() -> None:
            bare.reduce(np.int64(0), lambda total, _: total + 1)

        result = race(ours, {"decoder": peer}, repeats)
    images = steps * config.batch_size
    rate, peer_rate = (images / result[k] for k in ("seconds", "peer_seconds"))
    return {"images_per_second": rate, "peer_images_per_second": peer_rate, **result}


def _make_folder(folder: Path, count: int) -> None:
    """Two class folders of smooth random pictures, 256×256 JPEG files."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
        fine = np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC), np.int16)
        noisy = fine + random.normal(0, 8, fine.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=95)


@contextmanager
def _sample_run(cache: str, *overrides: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The sample command in a new process that caches in a folder of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder, "run")
        arguments = ["--config=configs/alexnet.py:sample", f"--workdir={workdir}", *overrides]
        with subprocess.Popen(
            [sys.executable, "-m", "alexnet_jax.main", *arguments],
            cwd=ROOT,
            env={**environment, "XDG_CACHE_HOME": cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            yield process, workdir


def sample(repeats: int) -> Result:
    """The sample command from nothing to its final error, once; errors are fractions."""
    del repeats
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache, _sample_run(cache) as (process, workdir):
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the sample run failed:\n{output}")
        records = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    center, ten = (r for r in records if r["split"] == "test")
    return {
        "seconds": time.perf_counter() - start,
        "top1_error": center["top1_error"],
        "top1_error_ten_views": ten["top1_error"],
        "count": center["count"],
    }


def startup(repeats: int) -> Result:
    """From the start of the sample command to the end of its first training step.

    Cold, with nothing prepared or compiled, and once more with what the first start left.
    """
    cold, second = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_first_step(cache))
            second.append(_first_step(cache))
    return {
        "seconds": statistics.median(cold),
        "seconds_high": max(cold),
        "second_start_seconds": statistics.median(second),
        "second_start_seconds_high": max(second),
    }


def _first_step(cache: str) -> float:
    """Seconds from the start of the sample command to its word of the first step."""
    start = time.perf_counter()
    with _sample_run(cache, "--config.log_every=1", "--config.max_steps=2") as (process, _):
        assert process.stdout
        for line in process.stdout:
            if line.startswith("step 1/"):
                seconds = time.perf_counter() - start
                process.kill()
                return seconds
    raise RuntimeError("the sample run ended before its first step")


def _paper(repeats: int) -> Result:
    config = get_config()
    config.model.classes = 1000
    return train_step(config, repeats)


def _small(repeats: int) -> Result:
    config = get_config("sample")
    config.model.classes = 10
    return train_step(config, 5 * repeats)


CASES: dict[str, Callable[[int], Result]] = {
    "train_step/torch_eager": _paper,
    "sample_train_step/torch_eager": _small,
    "input_pipeline/decoder": input_pipeline,
    "startup": startup,
    "sample": sample,
}


def text(result: Result) -> str:
    """A result as a line to read."""
    parts = [f"{result['name']}: {result['seconds']:.3g} s"]
    if "second_start_seconds" in result:
        parts.append(f"a second start {result['second_start_seconds']:.3g} s")
    if "ratio" in result:
        parts = [
            f"{result['name']}: {result['images_per_second']:,.0f} images/s",
            f"peer ({result['peer']}) {result['peer_images_per_second']:,.0f}",
            f"ratio {result['ratio']:.2f} ({result['ratio_low']:.2f}–{result['ratio_high']:.2f})",
        ]
    if "top1_error" in result:
        parts.append(
            f"top-1 test error {result['top1_error']:.2%}, ten views "
            f"{result['top1_error_ten_views']:.2%}, {result['count']} images"
        )
    return ", ".join(parts)


def main(_: list[str]) -> None:
    """The command."""
    only, repeats, platform = flags.FLAGS.only, flags.FLAGS.repeats, flags.FLAGS.platform
    chosen, say = CASES, text
    if platform:
        from experiments import accelerator_benchmark  # with --platform alone: it loads JAX

        accelerator_benchmark.choose(platform)
        chosen = accelerator_benchmark.cases(flags.FLAGS.batch, flags.FLAGS.peak_tflops)
        say = accelerator_benchmark.text
    if only and only not in chosen:
        raise InputError(f"--only={only}; expected one of {', '.join(chosen)}")
    for name in [only] if only else chosen:
        print(f"{name} …", file=sys.stderr)
        result = {"name": name, **chosen[name](repeats)}
        print(json.dumps(result) if flags.FLAGS.json else say(result), flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("only", None, f"One of {', '.join(CASES)}; by default all.")
    flags.DEFINE_bool("json", False, "One JSON object a line instead of text.")
    flags.DEFINE_integer("repeats", 5, "Measurements of each, after warming up.", lower_bound=1)
    flags.DEFINE_enum(
        "platform",
        None,
        ["cpu", "gpu", "tpu"],
        "In place of the other cases, the paper's step on one and two devices of a platform in "
        "both types (accelerator_step/TYPE/DEVICES), with its share of their peak.",
    )
    flags.DEFINE_integer("batch", 128, "With --platform: images in a step.", lower_bound=1)
    flags.DEFINE_float("peak_tflops", None, "With --platform: of one device, if it is not known.")
    command.run(main)
