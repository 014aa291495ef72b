"""Owns how fast bytes may leave: one allowance in memory, shared by all processes and threads that upload to an endpoint.

It is a clock that says when the next byte may leave (the generic cell rate algorithm of ITU-T I.371): to take bytes
is to put the clock forward, and to wait until it was that late. So a taker that is killed leaves nothing behind, and what
was not used is not saved up, but for half a second. It must never know what is sent, nor to whom.
"""

import contextlib
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator

_STATE = struct.Struct("=qd")  # bytes per second, 0 for unlimited; when the next byte may leave (CLOCK_MONOTONIC)
_CATCH_UP_S = 0.5  # a taker that a busy machine wakes too late, or that waits for the disk, makes up for that much
_PIECES_PER_S = 20  # a taker waits this often in a second: rather even, and quick to follow a new rate


class Throttle:
    """The allowance behind *fd*, which may be inherited; *clock* is the same for all who share it, in seconds."""

    def __init__(
        self, fd: int, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        # A lock belongs to an open file, and what is inherited is open once for all: so each process opens it anew.
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self._among_threads = threading.Lock()

    def close(self) -> None:
        """Let go of the memory; others may go on with it."""
        os.close(self._fd)

    def set_rate(self, bytes_per_s: int) -> None:
        """Allow *bytes_per_s* from now on; 0 is unlimited."""
        with self._locked():
            if self._read()[0] != bytes_per_s:
                self._write(bytes_per_s, self._clock())

    def take(self, wanted: int) -> int:
        """Wait, then return how many of *wanted* bytes may leave now; at least one."""
        if not self._read()[0]:
            return wanted
        with self._locked():
            bytes_per_s, free_at = self._read()
            amount = max(1, min(wanted, bytes_per_s // _PIECES_PER_S)) if bytes_per_s else wanted
            now = self._clock()
            starts_at = max(now - _CATCH_UP_S, free_at)
            if bytes_per_s:
                self._write(bytes_per_s, starts_at + amount / bytes_per_s)
        self._sleep(max(0.0, starts_at - now))

        return amount

    def _read(self) -> tuple[int, float]:
        bytes_per_s, free_at = _STATE.unpack(os.pread(self._fd, _STATE.size, 0))
        return int(bytes_per_s), float(free_at)

    def _write(self, bytes_per_s: int, free_at: float) -> None:
        os.pwrite(self._fd, _STATE.pack(bytes_per_s, free_at), 0)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._among_threads:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)


def open_allowance() -> int:
    """Return the descriptor of a new allowance, unlimited at first, to make a ``Throttle`` of and to hand to children."""
    fd = os.memfd_create("hubsync-throttle")
    os.pwrite(fd, _STATE.pack(0, 0.0), 0)

    return fd
