"""Owns signals: they become numbers in a pipe, so that a waiting thread hears of them at once.

Python runs signal handlers in the main thread only, and the kernel may interrupt another one: then a main thread that
waits hears nothing. The wake-up descriptor is written by the C handler itself, in whatever thread.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterable


class Bell:
    """A pipe that signals, and other threads, ring."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def catch(self, numbers: Iterable[signal.Signals]) -> None:
        """Ring for these signals from now on; to be called by the main thread."""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)

    def ring(self, number: int) -> None:
        """Pass on *number* as if it were a signal."""
        with contextlib.suppress(BlockingIOError):  # thousands wait already
            os.write(self._write, bytes([number]))

    def wait(self, timeout_s: float | None) -> bytes:
        """Return the numbers that were rung, in order; none after *timeout_s*."""
        ready, _, _ = select.select([self._read], [], [], timeout_s)
        return os.read(self._read, 64) if ready else b""


def stop_on_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set."""
    bell, stop = Bell(), threading.Event()
    bell.catch((signal.SIGINT, signal.SIGTERM))

    def listen() -> None:
        bell.wait(None)
        stop.set()

    threading.Thread(target=listen, name="hubsync-signals", daemon=True).start()
    return stop
