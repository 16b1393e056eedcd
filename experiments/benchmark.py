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
from experiments import growth_benchmarks, input_benchmarks
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
    "input_pipeline/decoder": input_benchmarks.decoder,
    "input_pipeline/torch_dataloader": input_benchmarks.torch_dataloader,
    "prepare/decode_resize": input_benchmarks.preparation,
    "prepare_memory": growth_benchmarks.memory,
    "evaluate_growth": growth_benchmarks.evaluation,
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
    if "summary" in result:
        parts.append(result["summary"])
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
