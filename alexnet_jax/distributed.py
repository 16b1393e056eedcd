"""Run several processes as one program, on JAX's distributed runtime.

Each process has its own devices; the devices of all processes form one mesh. Under SLURM, Open MPI
and on Cloud TPU the processes detect each other (`--distributed`); otherwise they need an address
(`--coordinator_address`, `--num_processes`, `--process_id`). `command.define_processes` defines
these flags.
"""

import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import multihost

from alexnet_jax import peers, streams
from alexnet_jax.errors import DivergedError, InputError, print_error
from alexnet_jax.preemption import PreemptionSignal, interrupt_status, stop_signals

START_SECONDS = 300  # timeout for the connection of all processes at the start
ABORT_SECONDS = 60  # that JAX waits beyond START_SECONDS; it then aborts with a C++ stack
HEARTBEAT_SECONDS = 120  # after which JAX aborts if a process is silent; longer than `peers` waits
LEAVE_SECONDS = 3  # that the first process waits; JAX would abort the others if it were gone
SHUTDOWN_SECONDS = 60  # timeout for the other processes at the end

# Text of exceptions for a lost connection to another process. Their types, ValueError and
# JaxRuntimeError, do not distinguish them from others.
_LOST = re.compile(r"Gloo|NCCL|coordination service|Connection (closed|reset)")


@contextmanager
def distributed_runtime(on_lost: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within the context, be connected to the other processes, if the flags state any.

    A process that fails exits without waiting for the others. These exit, too, when a collective
    fails or a process no longer answers. All can be started again to continue from the newest
    checkpoint.

    Args:
        on_lost: called in the first process, with a message, before it exits since another one
            no longer answers.

    Raises:
        InputError: the flags are inconsistent, or no other processes are found.
    """
    if not _join():
        yield
        return
    with _stdout_for_results(), _exit_at_once(), _watch_peers(on_lost):
        yield


@contextmanager
def _exit_at_once() -> Iterator[None]:
    """Exit on an exception, with its message and without waiting for the other processes."""
    name = f"process {jax.process_index()} of {jax.process_count()}"
    try:
        yield
    except (InputError, DivergedError) as error:
        print_error(f"{name}: {error}")
        _leave(3 if isinstance(error, DivergedError) else 2)
    except KeyboardInterrupt as error:
        print_error(f"{name}: interrupted")
        _leave(interrupt_status(error))
    except Exception as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if _LOST.search(str(error)):
            print_error(
                f"{name} lost another one ({text}); see the messages of that one, and start "
                "all processes again to continue from the newest checkpoint"
            )
        else:
            traceback.print_exc()
            print_error(f"{name} failed, and the others will end too")
        _leave(1)


@contextmanager
def _watch_peers(on_lost: Callable[[str], None] | None) -> Iterator[None]:
    """Within the context, exit with a message once another process no longer answers."""

    def leave(silent: int) -> None:
        message = (
            f"process {silent} of {jax.process_count()} has not answered for "
            f"{peers.SILENT_SECONDS:.0f} s: stopped, out of memory, or cut off from the network. "
            "End it, and start all processes again to continue from the newest checkpoint"
        )
        print_error(f"process {jax.process_index()} of {jax.process_count()}: {message}")
        if is_first():
            if on_lost is not None:
                on_lost(message)
            time.sleep(LEAVE_SECONDS)
        _leave(1)

    if jax.process_count() == 1:
        yield
        return
    watch = peers.PeerWatch(multihost.get_jax_distributed_client(), leave)
    yield
    watch.stop()


@contextmanager
def _stdout_for_results() -> Iterator[None]:
    """Within the context, redirect the output of native libraries from stdout to stderr.

    Gloo, the library for communication between CPUs, prints messages on file descriptor 1.
    `sys.stdout` still writes to the original file.
    """
    original = sys.stdout
    original.flush()
    with (
        os.fdopen(os.dup(1), "w", buffering=1) as file,
        streams.open_output(file) as results,  # closed first, with a last line without its end
    ):
        os.dup2(2, 1)
        sys.stdout = results
        try:
            yield
        finally:
            sys.stdout = original
            os.dup2(results.fileno(), 1)


def _leave(status: int) -> None:
    """Exit at once, without cleanup."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # sys.exit would wait for the other processes, which wait for this one


def _join() -> bool:
    """Connect to the other processes; return False if the flags state none."""
    address, count, number = (
        flags.FLAGS[name].value for name in ("coordinator_address", "num_processes", "process_id")
    )
    given = [value is not None for value in (address, count, number)]
    if not flags.FLAGS.distributed and not any(given):
        return False
    if any(given) and not all(given) and not flags.FLAGS.distributed:
        raise InputError(
            f"--coordinator_address={address} --num_processes={count} --process_id={number}: give "
            "all three, or --distributed under SLURM, Open MPI or on Cloud TPU"
        )
    if number is not None and count is not None and number >= count:
        raise InputError(f"--process_id={number}; expected 0 to {count - 1}")
    if address is not None:
        _reach(address, number)
    # Python's handlers of signals do not run while JAX waits for the other processes.
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in stop_signals()}
    watchdog = threading.Timer(START_SECONDS, _exit_without_others)
    watchdog.daemon = True
    watchdog.start()
    try:
        jax.distributed.initialize(
            address,
            count,
            number,
            initialization_timeout=START_SECONDS + ABORT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError:
        raise InputError(
            "--distributed finds no other processes; start this under srun or mpirun, or give "
            "--coordinator_address, --num_processes and --process_id"
        ) from None
    finally:
        watchdog.cancel()
        for stop_signal, handler in handlers.items():
            signal.signal(stop_signal, handler)
    devices = f"{len(jax.local_devices())} of {len(jax.devices())} devices"
    process = f"Process {jax.process_index()} of {jax.process_count()}"
    print(f"{process}, with {devices}.", file=sys.stderr)
    return True


def _exit_without_others() -> None:
    """Exit with a message, since other processes have not connected."""
    print_error(
        f"after {START_SECONDS} s not all other processes have connected; check that each of them "
        "runs and can reach process 0"
    )
    _leave(2)


def _reach(address: str, number: int | None) -> None:
    """Check that process 0 can listen at the address, or wait until process 0 answers.

    JAX would crash if the port were in use, and abort if process 0 did not answer.

    Args:
        address: value of --coordinator_address.
        number: number of this process; None if JAX detects it later, so that only the form of the
            address can be checked.

    Raises:
        InputError: the address is not HOST:PORT, or cannot be used.
    """
    if not (found := re.fullmatch(r"(\S+):(\d+)", address)):
        raise InputError(f"--coordinator_address={address}; expected HOST:PORT of process 0")
    if number is None:
        return
    host, port = found[1], int(found[2])
    flag = f"--coordinator_address={address}"
    if number == 0:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"{flag}: cannot listen there ({error}); choose another port"
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
            raise InputError(f"{flag}: no such host ({error})") from None
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(
                    f"{flag}: process 0 has not answered for {START_SECONDS} s ({error}); see that "
                    "it runs, and that this machine can reach it"
                ) from None
        time.sleep(0.2)


def is_first() -> bool:
    """Return whether this is the first process, which writes files and prints."""
    return jax.process_index() == 0


def broadcast_bool(value: bool) -> bool:
    """Return the value of the first process in all processes."""
    return bool(broadcast_int(value))


def broadcast_int(value: int) -> int:
    """Return the value of the first process in all processes, an int32."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_same(contents: dict[str, bytes]) -> None:
    """Raise InputError in all processes if the contents differ between processes.

    Args:
        contents: contents by a name for the message.
    """
    if jax.process_count() == 1:
        return
    local_sums = np.array([zlib.crc32(content) for content in contents.values()], np.uint32)
    sums = np.asarray(multihost_utils.process_allgather(local_sums))
    for i, name in enumerate(contents):
        if others := np.flatnonzero(sums[:, i] != sums[0, i]).tolist():
            raise InputError(
                f"the {name} of the processes {', '.join(map(str, others))} is not that of process "
                "0; start all of them with the same command and the same data, and check that all "
                "see the same workdir"
            )


class SharedPreemptionSignal:
    """A signal received by any process, which all processes report after the same step."""

    def __init__(self, local: PreemptionSignal, mesh: Mesh) -> None:
        """Share the signal of this process over a mesh of the devices of all processes."""
        self._local = local
        self._pending: Array | None = None
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._max = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def signal(self) -> int | None:
        """Return the signal's number or None; call this once per step, after dispatching it.

        With several processes, the result is that of the exchange at the previous step, which is
        complete, so that no device waits.
        """
        if jax.process_count() == 1:
            return self._local.signal
        previous, self._pending = self._pending, self._exchange()
        return None if previous is None else int(previous) or None

    def last(self) -> int | None:
        """Return the signal's number after the last step; wait for the other processes."""
        if jax.process_count() == 1:
            return self._local.signal
        return int(self._exchange()) or None

    def _exchange(self) -> Array:
        """Return the largest signal number of all processes, 0 for none, without waiting for it."""
        count = len(self._sharding.addressable_devices)
        local = np.full(count, self._local.signal or 0, np.int32)
        signals = jax.make_array_from_process_local_data(self._sharding, local)
        largest: Array = self._max(signals)
        return largest
