"""Saving and restoring, behind one small module: orbax."""

import errno
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array

from alexnet_jax.errors import InputError

T = TypeVar("T")

MOST_PARTS = 256  # that an array is summed in, a power of 2


class Checkpoints:
    """The checkpoints of a workdir, one per step.

    A checkpoint holds the parameters, the rest of the training state, the mean image that the
    network's inputs need, and a JSON object with the config and the class names: enough to go
    on, to evaluate and to predict. Orbax writes it beside its place and moves it there
    when complete, so a killed process leaves no half of one.
    """

    def __init__(self, workdir: str | Path, keep: int | None = None) -> None:
        """Open, without reading anything.

        Args:
            workdir: the checkpoints lie in its folder `checkpoints`.
            keep: how many of the newest to keep; None opens for reading only.
        """
        self.directory = Path(workdir).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=keep is not None,
                step_prefix="step",
            ),
            item_names=("params", "rest", "mean", "about"),
        )

    def steps(self) -> list[int]:
        """The steps that are there, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, params: Any, rest: Any, mean: np.ndarray, about: dict[str, Any]
    ) -> None:
        """Save in the background; `close` waits for it.

        Raises:
            InputError: the disk is full, now or when the step before was saved.
        """
        trees = {"params": params, "rest": rest, "mean": {"image": mean}}
        content = {**about, "checksums": _checksums(trees)}
        args = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()},
            about=ocp.args.JsonSave({"content": content, "crc32": _crc32(content)}),
        )
        with self._watching_the_disk():
            self._manager.save(step, args=args)

    def about(self, step: int) -> dict[str, Any]:
        """The JSON object saved at a step."""
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        saved = self._manager.restore(step, args=args)["about"]
        if saved["crc32"] != _crc32(saved["content"]):
            raise ValueError("another config, other names or checksums were saved than are read")
        return saved["content"]

    def mean(self, step: int) -> np.ndarray:
        """The mean image saved at a step, (side, side, channels)."""
        return np.asarray(self._restore(step, "mean", None)["image"])

    def params(self, step: int, template: Any) -> Any:
        """The parameters saved at a step, with the structure and shardings of a template.

        The template is abstract (`jax.ShapeDtypeStruct`), so nothing is in memory twice, and
        its mesh need not be the one that saved.
        """
        return self._restore(step, "params", template)

    def rest(self, step: int, template: Any) -> Any:
        """The rest of the training state saved at a step, like `params`."""
        return self._restore(step, "rest", template)

    def _restore(self, step: int, item: str, template: Any) -> Any:
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(template)})
        tree = self._manager.restore(step, args=args)[item]
        saved, found = self.about(step)["checksums"], _checksums({item: tree})
        if wrong := [name for name in found if saved[name] != found[name]]:
            raise ValueError(f"other values were saved than are read in {', '.join(wrong)}")
        return tree

    def newest(self, read: Callable[[int], T]) -> tuple[int, T] | None:
        """The newest step that can be read, and what `read` made of it; None without any.

        A damaged checkpoint is reported on stderr, and the one before it is tried. Damage
        shows as any kind of exception (orbax raises even `Exception` itself).

        Of several processes, one alone may meet it, and the others then wait for it in the
        middle of reading: so they end, and leave the search to a single process.

        Raises:
            InputError: checkpoints are there, and every one is damaged, or with several processes
                the newest.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, read(step)
            except (InputError, MemoryError):
                raise
            except Exception as error:
                reason = (str(error).strip() or repr(error)).splitlines()[0][:160]
                damage = (
                    f"checkpoint {self.directory / f'step_{step}'} is damaged "
                    f"({type(error).__name__}: {reason})"
                )
                if jax.process_count() > 1:
                    raise InputError(
                        f"the {damage}; move it away, or start one process alone, which "
                        "passes over it"
                    ) from None
                print(f"The {damage}; trying the one before it.", file=sys.stderr)
        if steps:
            raise InputError(
                f"no checkpoint in {self.directory} can be read (reasons above); "
                "move that folder away to start anew"
            )
        return None

    def set_aside_after(self, step: int) -> None:
        """Rename the damaged checkpoints newer than a step, so that theirs can be saved anew."""
        for newer in self.steps():
            if newer > step:
                damaged = self.directory / f"step_{newer}"
                damaged.rename(_unused(self.directory / f"damaged_step_{newer}"))
        self._manager.reload()

    def __enter__(self) -> "Checkpoints":
        """Leaving closes them, unless it is for an error of one of several processes."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What is being saved may wait for a process that is gone."""
        if kind is None or jax.process_count() == 1:
            self.close()

    def close(self) -> None:
        """Wait for what is being saved.

        Raises:
            InputError: the disk is full.
        """
        with self._watching_the_disk():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextmanager
    def _watching_the_disk(self) -> Iterator[None]:
        """What a full disk raises, from the system or from TensorStore, as an InputError."""
        try:
            yield
        except (OSError, ValueError) as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if not (full or "RESOURCE_EXHAUSTED" in str(error)):
                raise
            raise InputError(
                f"the disk is full: {self.directory}; the checkpoints saved before are kept. "
                "Make room, and run the same command again"
            ) from None


def _unused(path: Path) -> Path:
    number = 0
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.split('.')[0]}.{number}")
    return path


def _crc32(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


@jax.jit
def _sums(tree: Any) -> Any:
    """Of every array a sum of its words times odd weights, modulo 2^32.

    Integers add up to the same in any order, so on any mesh; a changed byte changes the sum.
    A part of an array is taken at a time, along an axis that is never split between devices (the
    first one is, in kernels), so that no copy of it is made.
    """

    def one(array: Array) -> Array:
        first, width = (array.shape[0], array.shape[-1]) if array.ndim > 1 else (1, array.size)
        array = array.reshape(first, -1, width)
        parts = math.gcd(array.shape[1], MOST_PARTS)
        part = (first, array.shape[1] // parts, width)
        a, b, c = (jax.lax.broadcasted_iota(jnp.uint32, part, axis) for axis in range(3))

        def add(number: Array, total: Array) -> Array:
            begin = number * part[1]
            values = jax.lax.dynamic_slice_in_dim(array, begin, part[1], axis=1)
            words = jax.lax.bitcast_convert_type(values, jnp.uint32)
            position = (a * array.shape[1] + begin + b) * width + c
            return total + words * (2 * position + 1)

        zeros = jnp.zeros(part, jnp.uint32)
        return jnp.sum(jax.lax.fori_loop(jnp.uint32(0), jnp.uint32(parts), add, zeros))

    return jax.tree.map(one, tree)


def _checksums(tree: Any) -> dict[str, int]:
    """The sum of every array of a tree of 32-bit arrays, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(_sums(tree))
    return {jax.tree_util.keystr(path): int(value) for path, value in leaves}
