"""Save and restore the training state with orbax, with checksums and a format version."""

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from alexnet_jax.checksums import compute_checksums, compute_crc32, list_shapes
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Json, differences
from alexnet_jax.files import find_errno, unused_path, write_errors_as_input_errors
from alexnet_jax.orbax_failures import finish_event_loops, hide_logged_errors, join_threads
from alexnet_jax.pytree import PyTree
from alexnet_jax.workdir import is_in_use, saved_steps

T = TypeVar("T")

FORMAT_VERSION = 2  # version of a checkpoint's content; raise it if older readers would misread it
ITEMS = ("variables", "train_state", "mean", "metadata")
RETRY_SECONDS = 5.0  # time to retry while another process saves and deletes checkpoints
PAUSE_SECONDS = 0.1  # time between two tries
# Errors that damage itself causes: files are missing, or damaged content names impossible ones.
DAMAGE_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG)
DISK_FULL = "the checkpoints saved before are kept. Make room, and run the same command again"


class DamagedCheckpointError(Exception):
    """The files of a checkpoint are missing, unreadable, or differ from those that were saved."""


class Checkpoints:
    """The checkpoints of a workdir, one per step.

    A checkpoint has four items: "variables", the parameters and other arrays that evaluation needs;
    "train_state", the arrays that only training needs; "mean", the mean image of the training
    split; and "metadata", a JSON object with the config and the class names. Orbax writes a
    checkpoint to a temporary folder and renames that when it is complete, so that a killed process
    leaves no incomplete checkpoint.
    """

    def __init__(self, workdir: str | Path, keep: int | None = None) -> None:
        """Open the checkpoints without reading them.

        Args:
            workdir: folder of the run; the checkpoints are in its folder `checkpoints`.
            keep: number of checkpoints to keep, the newest ones; None opens for reading only.
        """
        self.workdir = Path(workdir).absolute()
        self.directory = self.workdir / "checkpoints"
        finish_event_loops()
        # A manager lists the checkpoints, which fails while another process deletes some.
        self._reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler(*ITEMS))
        self._manager: ocp.CheckpointManager | None = None
        self._open = ExitStack()  # of what lasts until `close`
        if keep is None:
            return
        with write_errors_as_input_errors(self.directory, DISK_FULL):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    create=False,
                    cleanup_tmp_directories=True,
                    step_prefix="step",
                    # Orbax's threads wait 20 minutes for a folder that another one cannot create.
                    async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
                ),
                item_names=ITEMS,
            )
        self._open.enter_context(hide_logged_errors())  # saves fail in the background

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint now, oldest first; see `saved_steps`."""
        return saved_steps(self.workdir)

    def save(
        self, step: int, variables: PyTree, train_state: PyTree, mean: np.ndarray, metadata: Json
    ) -> None:
        """Save a checkpoint in the background; `close` waits until it is complete.

        Args:
            step: step of the checkpoint.
            variables: tree of arrays of 32-bit numbers.
            train_state: tree of arrays that only training needs, of the same types.
            mean: mean image, (side, side, channels).
            metadata: a JSON object.

        Raises:
            InputError: the disk is full or cannot be written to, now or while the previous
                checkpoint was saved.
        """
        assert self._manager is not None, "opened for reading only"
        trees = {"variables": variables, "train_state": train_state, "mean": {"image": mean}}
        content = {
            **metadata,
            "format_version": FORMAT_VERSION,
            "collections": list(variables),
            "shapes": list_shapes(trees),
            "checksums": compute_checksums(trees),
        }
        args = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()},
            metadata=ocp.args.JsonSave({"content": content, "crc32": compute_crc32(content)}),
        )
        with self._writing():
            self._manager.save(step, args=args)

    def wait(self) -> None:
        """Wait until the last checkpoint is saved.

        Raises:
            InputError: see `save`.
        """
        assert self._manager is not None, "opened for reading only"
        with self._writing():
            self._manager.wait_until_finished()

    def delete(self, step: int) -> None:
        """Delete the checkpoint of a step, which can then be saved again.

        Raises:
            InputError: the folder cannot be written to.
        """
        assert self._manager is not None, "opened for reading only"
        with self._writing():
            self._manager.delete(step)

    def metadata(self, step: int) -> Json:
        """Return the JSON object saved at a step.

        Raises:
            InputError: the checkpoint has another format version.
            DamagedCheckpointError: the object cannot be read, or differs from what was saved.
        """
        path = self._path(step)
        # Version 1 had other names. Unlike Path.exists, this is False where the system refuses.
        if os.path.exists(path / "about") and not os.path.exists(path / "metadata"):
            raise self._other_version(step, "an earlier")
        saved = self._read_item(step, "metadata", ocp.args.JsonRestore())
        if not isinstance(saved, dict) or saved.get("crc32") != compute_crc32(saved.get("content")):
            raise DamagedCheckpointError("the metadata differ from those that were saved")
        content: Json = saved["content"]
        version = content.get("format_version", 1)
        if version != FORMAT_VERSION:
            raise self._other_version(step, "an earlier" if version < FORMAT_VERSION else "a later")
        return content

    def mean(self, step: int) -> np.ndarray:
        """Return the mean image saved at a step, (side, side, channels).

        Raises:
            InputError, DamagedCheckpointError: see `variables`.
        """
        return np.asarray(self._restore(step, "mean", None)["image"])

    def variables(self, step: int, template: PyTree) -> PyTree:
        """Return the variables saved at a step, with the shardings of a template.

        Args:
            step: step of the checkpoint.
            template: tree of `jax.ShapeDtypeStruct` with shardings, on any mesh.

        Raises:
            InputError: the checkpoint has another format version, or other arrays than the
                template.
            DamagedCheckpointError: files cannot be read, or differ from those that were saved.
        """
        return self._restore(step, "variables", template)

    def train_state(self, step: int, template: PyTree) -> PyTree:
        """Return the arrays that only training needs, saved at a step; see `variables`."""
        return self._restore(step, "train_state", template)

    def _restore(self, step: int, item: str, template: PyTree) -> PyTree:
        """Return an item after a check of its shapes and checksums; see `variables`."""
        metadata, prefix = self.metadata(step), f"['{item}']"
        shapes, sums = (
            {name: value for name, value in metadata[kind].items() if name.startswith(prefix)}
            for kind in ("shapes", "checksums")
        )
        if template is not None:
            # Checked here, since orbax raises the same exceptions for damaged files.
            for name, *pair in differences(shapes, list_shapes({item: template})):
                saved, wanted = ("nothing" if shape is None else shape for shape in pair)
                raise InputError(
                    f"checkpoint {self._path(step)} has {saved} for {name}, but the config needs "
                    f"{wanted}; give the config it was made with"
                )
        tree = self._read_item(step, item, ocp.args.StandardRestore(template))
        if wrong := [name for name, *_ in differences(sums, compute_checksums({item: tree}))]:
            raise DamagedCheckpointError(
                f"{', '.join(wrong)} differ from the arrays that were saved"
            )
        return tree

    def _read_item(self, step: int, item: str, args: ocp.args.CheckpointArgs) -> PyTree:
        """Return an item as orbax reads it.

        Raises:
            InputError: this user may not read the files, or the system or a missing package
                prevents it, such as too many open files.
            DamagedCheckpointError: the files are missing, or their content cannot be read.
        """
        path = self._path(step)
        try:
            os.stat(path / item)  # orbax takes a folder that it may not enter for a missing one
            with hide_logged_errors():
                return self._reader.restore(path, args=ocp.args.Composite(**{item: args}))[item]
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # caused by the machine, not by the files
        except Exception as error:  # for damaged files, orbax raises exceptions of many types
            reason = (str(error).strip() or repr(error)).splitlines()[0][:160]
            # TensorStore raises ValueError.
            if isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error):
                raise InputError(
                    f"checkpoint {path} cannot be read ({reason}); "
                    "allow this user to read it, or run as its owner"
                ) from None
            if isinstance(error, ImportError):
                raise InputError(
                    f"checkpoint {path} cannot be read ({reason}); install what requirements.txt "
                    "lists"
                ) from None
            number = find_errno(error)
            if number is not None and number not in DAMAGE_ERRNOS:
                raise InputError(
                    f"checkpoint {path} cannot be read ({os.strerror(number)}); try again, or, if "
                    "that does not help, move that folder away to use the checkpoint before it"
                ) from None
            raise DamagedCheckpointError(f"{type(error).__name__}: {reason}") from error

    def newest(self, read: Callable[[int], T]) -> tuple[int, T] | None:
        """Return the newest step that can be read, and the result of `read` for it.

        A damaged checkpoint is reported on stderr, and the previous one is tried. If the
        checkpoints are open for reading only, another process may save and delete some meanwhile;
        then they are listed and tried again for up to `RETRY_SECONDS`.

        With several processes a damaged checkpoint is an error, since one process may find the
        damage while the others wait for it. A process that is started alone can search for an older
        checkpoint.

        Args:
            read: function from a step, which calls `variables`, `train_state`, `mean` or
                `metadata` with that step.

        Returns:
            The step and the result; None if there is no checkpoint.

        Raises:
            InputError: all checkpoints are damaged, or with several processes the newest one is;
                or `read` raises it.
        """
        end = time.monotonic() + RETRY_SECONDS
        while True:
            steps = self.steps()
            found, damage = self._try_newest(steps, read)
            if not damage or not self._may_change(steps) or time.monotonic() > end:
                break
            time.sleep(PAUSE_SECONDS)
        for step in damage.keys() & {*self.steps()}:
            print(
                f"The checkpoint {self._path(step)} is damaged ({damage[step]}); "
                "trying the one before it.",
                file=sys.stderr,
            )
        if found is None and steps:
            raise self._none_readable()
        return found

    def _try_newest(
        self, steps: list[int], read: Callable[[int], T]
    ) -> tuple[tuple[int, T] | None, dict[int, str]]:
        """Return the newest of some steps that can be read, with the result of `read`.

        Returns:
            The step and the result, None if no step can be read; and what is wrong with each newer
            step.
        """
        damage: dict[int, str] = {}
        for step in reversed(steps):
            try:
                return (step, read(step)), damage
            except DamagedCheckpointError as error:
                damage[step] = str(error)
                if jax.process_count() > 1:
                    raise InputError(
                        f"the checkpoint {self._path(step)} is damaged ({error}); move it away, or "
                        "start one process alone, which passes over it"
                    ) from None
        return None, damage

    def _may_change(self, steps: list[int]) -> bool:
        """Return whether another process may be saving or deleting checkpoints.

        Args:
            steps: steps that were listed before.
        """
        return self._manager is None and (steps != self.steps() or is_in_use(self.workdir))

    def _none_readable(self) -> InputError:
        """Return the error for checkpoints none of which can be read."""
        if self._may_change(self.steps()):
            return InputError(
                f"no checkpoint in {self.directory} could be read for {RETRY_SECONDS:.0f} s while "
                "another process saves and deletes them; try again"
            )
        return InputError(
            f"no checkpoint in {self.directory} can be read (reasons above); "
            "move that folder away to start anew"
        )

    def set_aside_after(self, step: int) -> None:
        """Rename the damaged checkpoints after a step, so that their steps can be saved again."""
        assert self._manager is not None, "opened for reading only"
        for newer in self.steps():
            if newer > step:
                self._path(newer).rename(unused_path(self.directory / f"damaged_step_{newer}"))
        self._manager.reload()

    def __enter__(self) -> "Checkpoints":
        """Return the checkpoints, which leaving the context closes."""
        return self

    def __exit__(self, _: object, raised: BaseException | None, __: object) -> None:
        """Close, unless there was an exception and closing might wait for other processes.

        The failure of a save is printed if there was another exception, which it must not hide.
        """
        if raised is None:
            self.close()
        elif jax.process_count() == 1:
            try:
                self.close()
            except InputError as error:
                if str(error) != str(raised):
                    print(error, file=sys.stderr)

    def close(self) -> None:
        """Wait until the last checkpoint is saved.

        Raises:
            InputError: the disk is full or cannot be written to.
        """
        self._reader.close()
        if self._manager is None:
            return
        with self._open, self._writing():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Within the context, turn errors of the disk into InputErrors, and clean up after one."""
        try:
            with write_errors_as_input_errors(self.directory, DISK_FULL):
                yield
        except InputError:
            join_threads()
            if jax.process_count() == 1:
                for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(path, ignore_errors=True)
            raise

    def _path(self, step: int) -> Path:
        """Return the folder of a checkpoint."""
        return self.directory / f"step_{step}"

    def _other_version(self, step: int, which: str) -> InputError:
        """Return the error for a checkpoint of another format version."""
        return InputError(
            f"checkpoint {self._path(step)} was made by {which} version of alexnet_jax, whose "
            "checkpoints this version cannot read; train again in another --workdir"
        )
