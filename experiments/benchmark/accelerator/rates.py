"""The rates of accelerators: peaks of the data sheets, and rates that large operations reach."""

from dataclasses import dataclass

# Dense peaks in TFLOP/s by JAX's name of the device: of bfloat16, and of float32 products as JAX
# computes them by default: TF32 on NVIDIA, one pass of bfloat16 on TPU.
# Sources: NVIDIA's data sheets of the A100 and the H100 (whose figures "with sparsity" are twice
# these) and of the H200; cloud.google.com/tpu/docs/v4, v5e, v5p, v6e.
PEAKS = {
    "NVIDIA A100": (312.0, 156.0),
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA H100 NVL": (835.5, 417.5),
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


@dataclass(frozen=True)
class Rates:
    """What a device reaches in large operations.

    Attributes:
        operations: operations per second in matrix products, two for a multiply-add.
        bytes: bytes per second that are read and written.
    """

    operations: float
    bytes: float


# TFLOP/s of products of 8192 × 8192 bfloat16 matrices, and TB/s of copies, bytes read and written
# together. They are assumed, by what others report; the case `device` measures them.
# The rate of float32 products, TF32, is taken to be half as high, as in the data sheets.
REACHED = {"NVIDIA H100": (800.0, 3.0), "NVIDIA H200": (790.0, 4.3)}
# Their names begin like the H100's, but its rates are not theirs.
WITHOUT_RATES = ("NVIDIA H100 PCIe", "NVIDIA H100 NVL")


def find_peak_tflops(kind: str, dtype: str) -> float | None:
    """Return the peak of a kind of device in the data sheet, or None if it is not known."""
    peaks = _find_longest(PEAKS, kind)
    return peaks and peaks[dtype == "float32"]


def find_rates(kind: str, dtype: str) -> Rates | None:
    """Return what a kind of device reaches in a type, or None if it is not known."""
    if (reached := _find_longest(REACHED, kind)) is None or kind.startswith(WITHOUT_RATES):
        return None
    tflops, terabytes = reached
    return Rates(tflops * 1e12 / (2 if dtype == "float32" else 1), terabytes * 1e12)


def _find_longest(table: dict[str, tuple[float, float]], kind: str) -> tuple[float, float] | None:
    """Return the row whose name is the longest of those that begin the name of a device."""
    names = [name for name in table if kind.startswith(name)]
    return table[max(names, key=len)] if names else None
