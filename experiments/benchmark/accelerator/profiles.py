"""Read JAX's profiles: the time of each operation of the training step, and of each layer."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jax.profiler import ProfileData

from alexnet_jax.analysis.summary import abstract_activations
from alexnet_jax.config import Config

PROFILED_STEPS = 5
REST = "rest"  # of the step: the update, the loss, copies

Row = dict[str, Any]


def read_profile(folder: Path, text: str, config: Config) -> list[Row]:
    """Return the operations in the profile of PROFILED_STEPS steps, the longest first.

    Args:
        folder: of `jax.profiler.trace`.
        text: the compiled program as text, which holds the layers of operations.
        config: with its number of classes.

    Returns:
        For each operation: operation, kernel, layer, direction, calls (of a step) and microseconds
        (of a step).

    Raises:
        ValueError: the profile has no operations.
    """
    (path,) = folder.glob("plugins/profile/*/*.xplane.pb")
    scopes = parse_scopes(text)
    layers = [*abstract_activations(config, train=True)]
    calls: dict[tuple[str, str], int] = defaultdict(int)
    times: dict[tuple[str, str], float] = defaultdict(float)
    for operation, kernel, nanoseconds in _operations(ProfileData.from_file(str(path))):
        calls[operation, kernel] += 1
        times[operation, kernel] += nanoseconds
    if not times:
        raise ValueError(f"{path} has no operations of a compiled program")
    rows = []
    for (operation, kernel), nanoseconds in sorted(times.items(), key=lambda item: -item[1]):
        layer, direction = find_layer(scopes.get(operation, ""), layers)
        rows.append(
            {
                "operation": operation,
                "kernel": kernel,
                "layer": layer,
                "direction": direction,
                "calls": calls[operation, kernel] / PROFILED_STEPS,
                "microseconds": nanoseconds / PROFILED_STEPS / 1000,
            }
        )
    return rows


def _operations(profile: ProfileData) -> Iterator[tuple[str, str, float]]:
    """Yield operation, kernel and nanoseconds of what a device ran, or of threads on a CPU.

    Planes of GPUs have a line for each stream. Events that are no part of a compiled program, such
    as copies from the host, have no operation: it is "" there.
    """
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        lines = list(plane.lines)
        # TPUs have the same time in several lines, by module, step and operation.
        by_operation = [line for line in lines if line.name == "XLA Ops"]
        for line in by_operation or lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is not None or (devices and not by_operation):
                    yield str(operation or ""), event.name, event.duration_ns


def parse_scopes(text: str) -> dict[str, str]:
    """Return the named scopes of the operations of a compiled program, by operation."""
    pattern = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', re.MULTILINE)
    return dict(pattern.findall(text))


def find_layer(scopes: str, layers: list[str]) -> tuple[str, str]:
    """Return the layer within which an operation was written, and its direction.

    Args:
        scopes: such as "jit(train_step)/transpose(jvp(Sequential))/conv1/add".
        layers: all names of layers, which may have a parent: "conv2_1/conv1".

    Returns:
        The layer and "forward" or "backward"; REST and "" for an operation of no layer.
    """
    within = "/".join(part for part in re.split(r"[/()]", scopes) if part and "." not in part)
    named = [name for name in layers if f"/{name}/" in f"/{within}/"]
    if not named:
        return REST, ""
    return max(named, key=len), "backward" if "transpose(" in scopes else "forward"


def sum_by_layer(rows: list[Row]) -> dict[str, float]:
    """Return the microseconds of a step by layer and direction, the longest first."""
    sums: dict[str, float] = defaultdict(float)
    for row in rows:
        sums[f"{row['layer']} {row['direction']}".strip()] += row["microseconds"]
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
