"""Several processes as one run, on JAX's own distributed runtime.

Each process drives its own devices; together they form one mesh. They find each other by
themselves under SLURM, Open MPI and on Cloud TPU (`--distributed`), or by an address
(`--coordinator_address`, `--num_processes`, `--process_id`). Flags: `command.define_processes`.
"""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import command
from alexnet_jax.errors import InputError
from alexnet_jax.watch import Interrupt

HEARTBEAT_SECONDS = 60  # a process not heard of for so long is taken for dead
SHUTDOWN_SECONDS = 60  # that processes wait for each other at the end


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes if the flags say so; leave at once where this one fails.

    A process that fails ends without waiting for the others, whose next exchange with it then
    fails too: all of them end, and the run can be started again from its newest checkpoint.

    Raises:
        InputError: flags that do not belong together, or no other processes to be found.
    """
    if not _join():
        yield
        return
    try:
        yield
    except InputError as error:
        command.complain(str(error))
        _leave(2)
    except KeyboardInterrupt:
        command.complain("interrupted")
        _leave(130)
    except Exception as error:
        text = str(error).strip().splitlines()
        if not re.search(r"Gloo|NCCL|collective|coordination|[Cc]onnection", str(error)):
            traceback.print_exc()
        command.complain(
            f"process {jax.process_index()} of {jax.process_count()} stops: "
            f"{type(error).__name__}: {text[0][:200] if text else ''}. Another process of this run "
            "may have ended; start all of them again to go on from the newest checkpoint"
        )
        _leave(1)


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # sys.exit would wait for processes that wait for this one


def _join() -> bool:
    """Whether this is one of several processes."""
    address, count, number = (
        flags.FLAGS[name].value for name in ("coordinator_address", "num_processes", "process_id")
    )
    given = [value is not None for value in (address, count, number)]
    if not flags.FLAGS.distributed and not any(given):
        return False
    if any(given) and not all(given) and not flags.FLAGS.distributed:
        raise InputError(
            f"--coordinator_address={address} --num_processes={count} --process_id={number}: give "
            "all three, or --distributed where SLURM, Open MPI or Cloud TPU tells them"
        )
    if address is not None and not re.fullmatch(r"\S+:\d+", address):
        raise InputError(f"--coordinator_address={address}; expected HOST:PORT of process 0")
    if number is not None and count is not None and number >= count:
        raise InputError(f"--process_id={number}; expected 0 to {count - 1}")
    try:
        jax.distributed.initialize(
            address,
            count,
            number,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        raise InputError(
            f"--distributed finds no other processes ({error}). Start this under srun or mpirun, "
            "or give --coordinator_address, --num_processes and --process_id"
        ) from None
    # Gloo, which connects CPUs, reports that on stdout, which is for results.
    results = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(results, "w", buffering=1)
    if jax.process_count() > 1:
        where = f"{len(jax.local_devices())} of {len(jax.devices())} devices"
        print(
            f"Process {jax.process_index()} of {jax.process_count()}, with {where}.",
            file=sys.stderr,
        )
    return True


def is_first() -> bool:
    """Whether this process writes and speaks for all."""
    return jax.process_index() == 0


def everywhere(value: bool) -> bool:
    """Whether something is so in every process; each has to ask."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).all())


class SharedInterrupt:
    """A signal that came to any process, seen by all of them after the same step."""

    def __init__(self, interrupt: Interrupt, mesh: Mesh) -> None:
        """`interrupt` is this process's; the processes' devices form the mesh."""
        self._own = interrupt
        self._asked: Array | None = None
        self._places = NamedSharding(mesh, P(mesh.axis_names))
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def signal(self) -> int | None:
        """The signal's number; to be called once a step, after the step is dispatched.

        Of several processes it is what they had received one step before, whose exchange is
        done by now, so that no device waits.
        """
        if jax.process_count() == 1:
            return self._own.signal
        here = np.full(len(self._places.addressable_devices), self._own.signal or 0, np.int32)
        before = self._asked
        self._asked = self._largest(jax.make_array_from_process_local_data(self._places, here))
        return None if before is None else int(before) or None
