"""Detect a process of a run that no longer answers, such as one stopped by SIGSTOP.

JAX notices such a process, too, but ends the others with a dump of its stack. Here each process
counts up a number in the key-value store of JAX's coordination service, which is in process 0, and
reads the numbers of the others.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

POLL_SECONDS = 1.0  # time between two counts of a process
SILENT_SECONDS = 45.0  # time without a count after which a process counts as lost
_FOLDER = "alexnet_jax/peers"
_DONE = "done"  # in place of the number of a process that has ended in order


class SilenceDetector:
    """Find the process whose number has not changed for too long.

    If another process than 0 cannot read back even its own number, process 0 does not answer.
    """

    def __init__(self, process: int, count: int, limit: float, now: float) -> None:
        """Begin at a time.

        Args:
            process: index of this process.
            count: number of processes.
            limit: seconds without a change after which a process is silent.
            now: time in seconds, of any clock.
        """
        self._process, self._limit = process, limit
        self._values: dict[int, str] = {}
        self._changed = dict.fromkeys(range(count), now)
        self._checked = now

    def observe(self, values: Mapping[int, str], now: float) -> None:
        """Take note of the numbers that the processes have at a time."""
        for process, value in values.items():
            if value == _DONE or self._values.get(process) != value:
                self._changed[process] = now
        self._values = dict(values)

    def find_silent(self, now: float) -> int | None:
        """Return the index of a silent process, or None; call this more often than the limit."""
        if now - self._checked > self._limit / 2:  # this process itself was stopped
            self._changed = dict.fromkeys(self._changed, now)
        self._checked = now
        silent = [i for i, then in self._changed.items() if now - then > self._limit]
        if self._process in silent and self._process != 0:
            return 0
        others = [i for i in silent if i != self._process and self._values.get(i) != _DONE]
        return others[0] if others else None


class PeerWatch:
    """Threads that count for the other processes, and call a function once one is silent."""

    def __init__(self, client: Any, on_silence: Callable[[int], None]) -> None:
        """Start to watch.

        Args:
            client: client of JAX's coordination service.
            on_silence: function of the index of the silent process; called from a thread.
        """
        self._client, self._on_silence = client, on_silence
        self._key = f"{_FOLDER}/{jax.process_index()}"
        now = time.monotonic()
        self._detector = SilenceDetector(
            jax.process_index(), jax.process_count(), SILENT_SECONDS, now
        )
        self._stopped = threading.Event()
        for target in (self._count, self._judge):
            threading.Thread(target=target, daemon=True).start()

    def stop(self) -> None:
        """Tell the other processes that this one has ended in order, and stop to watch."""
        self._stopped.set()
        self._client.key_value_set(self._key, _DONE, allow_overwrite=True)

    def _count(self) -> None:
        """Count up, and read the numbers of the others; blocks while process 0 does not answer."""
        number = 0
        while not self._stopped.is_set():
            number += 1
            try:
                self._client.key_value_set(self._key, str(number), allow_overwrite=True)
                entries = self._client.key_value_dir_get(_FOLDER)
            except jax.errors.JaxRuntimeError:
                return  # process 0 has died, as other threads notice, too
            values = {int(key.rpartition("/")[2]): value for key, value in entries}
            self._detector.observe(values, time.monotonic())
            self._stopped.wait(POLL_SECONDS)

    def _judge(self) -> None:
        """Call the function once a process is silent."""
        while not self._stopped.wait(POLL_SECONDS / 2):
            silent = self._detector.find_silent(time.monotonic())
            if silent is not None:
                self._on_silence(silent)
                return
