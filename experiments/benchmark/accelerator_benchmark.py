"""Benchmark the training step on an accelerator: images/s, FLOP/s, share of the device's peak.

The cases accelerator_step/TYPE/DEVICES of experiments.benchmark, which --platform chooses. The
operations of the layers alone are counted, two for each multiply-add: forward, for the gradient
of the kernels, and for that of the inputs, which the first layer does not need,

    FLOP of an image = 2 · (3 · multiply-adds of all layers - multiply-adds of the first)

with the multiply-adds of `analysis.summary`. So everything else in the step lowers the share.
"""

import statistics
import sys
import time
from collections.abc import Callable

import jax

from alexnet_jax.analysis.summary import summarize
from alexnet_jax.config import COMPUTE_DTYPES, Config, with_changes
from alexnet_jax.errors import InputError
from configs.alexnet import get_config
from experiments.benchmark.synthetic_step import SyntheticTrainStep
from experiments.benchmark.timing import Result

DEVICES = (1, 2)  # two share the columns, as in the paper
STEPS = 20  # timed together, so that the host's part is hidden as in training

# Dense peaks in TFLOP/s by JAX's name of the device: of bfloat16, and of float32 products as JAX
# computes them by default: TF32 on NVIDIA, one pass of bfloat16 on TPU.
# Sources: NVIDIA's data sheets of the A100 and the H100 (whose figures "with sparsity" are twice
# these) and of the H200; cloud.google.com/tpu/docs/v4, v5e, v5p, v6e.
PEAKS = {
    "NVIDIA A100": (312.0, 156.0),
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA H100": (989.0, 494.5),
    "NVIDIA H200": (989.0, 494.5),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5e": (197.0, 197.0),
    "TPU v5p": (459.0, 459.0),
    "TPU v5": (459.0, 459.0),
    "TPU v6 lite": (918.0, 918.0),
    "TPU v6e": (918.0, 918.0),
}


def select_platform(platform: str) -> None:
    """Make JAX compute on a platform; on CPU simulate two devices.

    Raises:
        InputError: the machine has no such device.
    """
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max(DEVICES))
    elif (backend := jax.default_backend()) != platform:
        package = {"gpu": "cuda13", "tpu": "tpu"}[platform]
        raise InputError(
            f"--platform={platform}: JAX finds only {backend}; on a machine "
            f'that has one, pip install "jax[{package}]=={jax.__version__}"'
        )


def make_cases(batch: int, peak_tflops: float | None) -> dict[str, Callable[[int], Result]]:
    """Return the cases by name: the paper's model in both types on one and two devices.

    Cases that need more devices than there are, are left out with a message on stderr.

    Args:
        batch: images in a step, of all devices together.
        peak_tflops: of one device; None takes it from PEAKS.
    """

    def case(dtype: str, devices: int) -> Callable[[int], Result]:
        changes = {"batch_size": batch, "compute_dtype": dtype, "parallel.columns": devices}
        config = with_changes(get_config(), {"model.num_classes": 1000, **changes})
        return lambda repeats: measure_step(config, repeats, peak_tflops)

    available = len(jax.devices())
    for devices in DEVICES:
        if devices > available:
            print(f"On {devices} devices: not run; {available} available.", file=sys.stderr)
    return {
        f"accelerator_step/{dtype}/{devices}": case(dtype, devices)
        for dtype in COMPUTE_DTYPES
        for devices in DEVICES
        if devices <= available
    }


def measure_step(config: Config, repeats: int, peak_tflops: float | None = None) -> Result:
    """Time the training step of a config whose number of classes is known.

    Args:
        repeats: measurements, of STEPS steps each.
        peak_tflops: of one device; None takes it from PEAKS.

    Returns:
        seconds of a step (median, seconds_low, seconds_high), images_per_second, tflops and
        peak_tflops of all devices, share_of_peak; the last two None where the peak is not known.
    """
    step = SyntheticTrainStep(config)
    for _ in range(2):  # the first one compiles
        step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(STEPS):
            step.dispatch()
        step.finish()
        times.append((time.perf_counter() - start) / STEPS)
    devices = config.parallel.columns * config.parallel.data
    kind = jax.devices()[0].device_kind
    seconds = statistics.median(times)
    tflops = step_flops(config) * config.batch_size / seconds / 1e12
    one = peak_tflops if peak_tflops is not None else peak_tflops_of(kind, config.compute_dtype)
    return {
        "device": kind,
        "devices": devices,
        "compute_dtype": config.compute_dtype,
        "batch_size": config.batch_size,
        "seconds": seconds,
        "seconds_low": min(times),
        "seconds_high": max(times),
        "images_per_second": config.batch_size / seconds,
        "tflops": tflops,
        "peak_tflops": one and one * devices,
        "share_of_peak": one and tflops / (one * devices),
    }


def step_flops(config: Config) -> int:
    """Return the operations of a training step for one image, by the formula above."""
    each = [layer.multiply_adds for layer in summarize(config)]
    return 2 * (3 * sum(each) - each[0])


def peak_tflops_of(kind: str, dtype: str) -> float | None:
    """Return the peak of a kind of device, by the longest of the names that begin its own."""
    names = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(names, key=len)][dtype == "float32"] if names else None


def format_step_result(result: Result) -> str:
    """Return a result as a line of text."""
    share = result["share_of_peak"]
    of = (
        "peak not known: give --peak_tflops"
        if share is None
        else f"{share:.1%} of {result['peak_tflops']:,.0f}"
    )
    return (
        f"{result['name']}: {result['devices']} × {result['device']}, batch "
        f"{result['batch_size']}: {result['images_per_second']:,.0f} images/s, "
        f"{result['tflops']:.3g} TFLOP/s ({of})"
    )
