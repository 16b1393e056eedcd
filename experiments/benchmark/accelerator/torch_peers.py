"""Time PyTorch's training step on an accelerator as its users would set it up for speed."""

import time

import torch
from torch import nn

from alexnet_jax.config import Config
from experiments.benchmark.accelerator.measure import STEPS, time_steps
from experiments.benchmark.memory import resident_mib
from experiments.benchmark.timing import Result
from experiments.benchmark.torch_reference import TorchTrainStep

# Modes of torch.compile: one tries several kernels; the other replays the steps of small models,
# whose time is that of the launches, as CUDA graphs.
LARGE_MODE, SMALL_MODE = "max-autotune-no-cudagraphs", "reduce-overhead"
SMALL = 64  # side in pixels of the images of small models


class ShiftedLRN(nn.Module):
    """Response normalization by sums of shifted squares, which the compiler fuses."""

    def __init__(self, lrn: nn.LocalResponseNorm) -> None:
        """Take the hyperparameters of PyTorch's own layer."""
        super().__init__()
        self.size, self.k, self.beta = lrn.size, lrn.k, lrn.beta
        self.coefficient = lrn.alpha / lrn.size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (batch, channels, height, width) in float32; return the type of x."""
        radius, channels = self.size // 2, x.shape[1]
        wide = x.float()
        squares = nn.functional.pad(wide * wide, (0, 0, 0, 0, radius, radius))
        total = squares[:, :channels]
        for shift in range(1, self.size):
            total = total + squares[:, shift : shift + channels]
        base = self.k + self.coefficient * total
        if self.beta == 0.75:
            root = torch.rsqrt(base)
            return (wide * root * torch.sqrt(root)).to(x.dtype)
        return (wide * base**-self.beta).to(x.dtype)


def replace_lrn(model: nn.Module) -> None:
    """Replace the layers nn.LocalResponseNorm of a model by ShiftedLRN.

    Raises:
        ValueError: there are none.
    """
    found = [name for name, one in model.named_modules() if isinstance(one, nn.LocalResponseNorm)]
    if not found:
        raise ValueError("a model without nn.LocalResponseNorm")
    for name in found:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.LocalResponseNorm)
        model.set_submodule(name, ShiftedLRN(layer))


def _choose_mode(config: Config, kind: str) -> str | None:
    """Return the mode of torch.compile; None for a step that is not compiled."""
    if kind == "torch_eager":
        return None
    return SMALL_MODE if config.data.crop <= SMALL else LARGE_MODE


def _make_step(config: Config, kind: str, device: str, mode: str | None) -> TorchTrainStep:
    """Return the step of `measure_peer`; let PyTorch choose fast kernels, in TF32 as well."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    return TorchTrainStep(
        config,
        torch.channels_last,
        compiled=kind != "torch_eager",
        mode=mode,
        device=device,
        mixed=config.compute_dtype == "bfloat16",
        prepare=replace_lrn if kind == "torch_compile_shifted_lrn" else None,
    )


def measure_peer(
    config: Config,
    kind: str,
    device: str,
    repeats: int,
    started: float,
    *,
    steps: int = STEPS,
) -> Result:
    """Time PyTorch's step of a config with its number of classes, images and labels on the device.

    Weights and images are in the layout channels_last. The arithmetic is autocast's in bfloat16, or
    float32 with TF32 in products, as JAX has it.

    Args:
        kind: one of PEERS.
        device: "cuda" or "cpu".
        repeats, started, steps: see `measure.measure_step`.

    Returns:
        What describes the work, and reference, reference_seconds with low and high, clocks,
        first_step_seconds, peak_mib and memory as in `measure.measure_step`.
    """
    mode = _choose_mode(config, kind)
    step = _make_step(config, kind, device, mode)
    is_cuda = device == "cuda"

    def finish() -> None:
        if is_cuda:
            torch.cuda.synchronize()

    step()
    finish()
    first = time.perf_counter() - started
    for _ in range(2):  # the second one of a CUDA graph records it
        step()
    finish()
    timed = time_steps(step, finish, repeats, steps)
    peak = torch.cuda.max_memory_allocated() / 2**20 if is_cuda else resident_mib()
    return {
        "device": torch.cuda.get_device_name() if is_cuda else device,
        "compute_dtype": config.compute_dtype,
        "batch_size": config.batch_size,
        "reference": f"PyTorch {torch.__version__}, {kind}{f', {mode}' if mode else ''}",
        "reference_seconds": timed["seconds"],
        "reference_seconds_low": timed["seconds_low"],
        "reference_seconds_high": timed["seconds_high"],
        "steps_per_second": timed["steps_per_second"],
        "clocks": timed["clocks"],
        "first_step_seconds": first,
        "peak_mib": peak,
        "memory": "device" if is_cuda else "process",
    }
