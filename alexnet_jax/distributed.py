"""Run several processes as one, on JAX's distributed runtime.

Each process drives its own devices; together they form one mesh. They find each other without
help under SLURM, Open MPI and on Cloud TPU (`--distributed`), or by an address
(`--coordinator_address`, `--num_processes`, `--process_id`). Flags: `command.define_processes`.
"""

import os
import re
import signal
import socket
import sys
import time
import traceback
import zlib
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

from alexnet_jax.errors import DivergedError, InputError, print_error
from alexnet_jax.preemption import PreemptionSignal

START_SECONDS = 300  # how long processes wait for each other at the start
HEARTBEAT_SECONDS = 60  # how long a process may be silent before it counts as dead
SHUTDOWN_SECONDS = 60  # how long processes wait for each other at the end

# Only its text tells an exception of a failed exchange with another process: JAX raises ValueError
# or JaxRuntimeError for it, depending on where it fails, and both for much else.
_LOST = re.compile(r"Gloo|NCCL|coordination service|Connection (closed|reset)")


@contextmanager
def distributed_runtime() -> Iterator[None]:
    """Join the other processes if the flags ask for it; exit at once if this one fails.

    A process that fails does not wait for the others at its end. Their next exchange with it
    fails, or its heartbeat is missed: all of them end, and can be started again to continue from
    the newest checkpoint.

    Raises:
        InputError: flags that do not belong together, or no other processes found.
    """
    if not _join():
        yield
        return
    with _stdout_for_results(), _exit_at_once():
        yield


@contextmanager
def _exit_at_once() -> Iterator[None]:
    """Exit on an exception, with its message and without waiting for the other processes."""
    this = f"process {jax.process_index()} of {jax.process_count()}"
    try:
        yield
    except (InputError, DivergedError) as error:
        print_error(f"{this}: {error}")
        _leave(3 if isinstance(error, DivergedError) else 2)
    except KeyboardInterrupt:
        print_error(f"{this}: interrupted")
        _leave(130)
    except Exception as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if _LOST.search(str(error)):
            print_error(
                f"{this} lost another one ({text}); see the messages of that one, and start all "
                "of them again to continue from the newest checkpoint"
            )
        else:
            traceback.print_exc()
            print_error(f"{this} failed, and the others will end too")
        _leave(1)


@contextmanager
def _stdout_for_results() -> Iterator[None]:
    """Within the context, send to stderr what native libraries print on stdout.

    Gloo, which connects CPUs, reports its connections on descriptor 1. `sys.stdout` keeps writing
    to where descriptor 1 led.
    """
    before = sys.stdout
    before.flush()
    with os.fdopen(os.dup(1), "w", buffering=1) as results:
        os.dup2(2, 1)
        sys.stdout = results
        try:
            yield
        finally:
            sys.stdout = before
            os.dup2(results.fileno(), 1)


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # sys.exit would wait for processes that wait for this one


def _join() -> bool:
    """Join the other processes; return False if the flags ask for none."""
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
    if number is not None and count is not None and number >= count:
        raise InputError(f"--process_id={number}; expected 0 to {count - 1}")
    if address is not None:
        _reach(address, first=number == 0)
    # JAX waits for the others without letting Python's handler of Ctrl-C run.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            address,
            count,
            number,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError:
        raise InputError(
            "--distributed finds no other processes; start this under srun or mpirun, or give "
            "--coordinator_address, --num_processes and --process_id"
        ) from None
    finally:
        signal.signal(signal.SIGINT, handler)
    here = f"{len(jax.local_devices())} of {len(jax.devices())} devices"
    print(f"Process {jax.process_index()} of {jax.process_count()}, with {here}.", file=sys.stderr)
    return True


def _reach(address: str, first: bool) -> None:
    """Check that process 0 can listen at the address, or wait until it answers there.

    JAX itself crashes if the port is taken, and aborts if no process answers.
    """
    if not (found := re.fullmatch(r"(\S+):(\d+)", address)):
        raise InputError(f"--coordinator_address={address}; expected HOST:PORT of process 0")
    host, port = found[1], int(found[2])
    said = f"--coordinator_address={address}"
    if first:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"{said}: cannot listen there ({error}); choose another port"
            ) from None
        print(f"Waiting for the other processes at {address} …", file=sys.stderr)
        return
    print(f"Waiting for process 0 at {address} …", file=sys.stderr)
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except (socket.gaierror, OverflowError) as error:
            raise InputError(f"{said}: no such host ({error})") from None
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(
                    f"{said}: process 0 has not answered for {START_SECONDS} s ({error}); see that "
                    "it runs, and that this machine can reach it"
                ) from None
        time.sleep(0.2)


def is_first() -> bool:
    """Return whether this is the process that writes files and prints for all."""
    return jax.process_index() == 0


def broadcast_bool(value: bool) -> bool:
    """Return, in every process, the value of the first process."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def check_same(what: dict[str, bytes]) -> None:
    """Raise InputError, in every process, if one has other contents than the first.

    Args:
        what: name, for the message, to contents.
    """
    if jax.process_count() == 1:
        return
    own = np.array([zlib.crc32(content) for content in what.values()], np.uint32)
    everyone = np.asarray(multihost_utils.process_allgather(own))
    for i, name in enumerate(what):
        if others := np.flatnonzero(everyone[:, i] != everyone[0, i]).tolist():
            raise InputError(
                f"the {name} of the processes {', '.join(map(str, others))} is not that of process "
                "0; start all of them with the same command and the same data"
            )


class SharedPreemptionSignal:
    """Report a signal that any process has received to all of them after the same step."""

    def __init__(self, own: PreemptionSignal, mesh: Mesh) -> None:
        """Share this process's `own` signal over a mesh of all processes' devices."""
        self._own = own
        self._asked: Array | None = None
        self._places = NamedSharding(mesh, P(mesh.axis_names))
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def signal(self) -> int | None:
        """Return the signal's number or None; call it once a step, after dispatching the step.

        With several processes this is what they had received one step before: that exchange is
        done by now, so that no device waits.
        """
        if jax.process_count() == 1:
            return self._own.signal
        before, self._asked = self._asked, self._ask()
        return None if before is None else int(before) or None

    def last(self) -> int | None:
        """Return the signal's number after the last step; wait for the other processes."""
        if jax.process_count() == 1:
            return self._own.signal
        return int(self._ask()) or None

    def _ask(self) -> Array:
        here = np.full(len(self._places.addressable_devices), self._own.signal or 0, np.int32)
        everyone = jax.make_array_from_process_local_data(self._places, here)
        largest: Array = self._largest(everyone)
        return largest
