"""Owns how fast bytes may move: one allowance, shared by all threads that upload to an endpoint, or that hash.

It is a clock that says when the next byte may leave (the generic cell rate algorithm of ITU-T I.371): to take bytes
is to put the clock forward, and to wait until it was that late. So what was not used is not saved up, but for half a
second. It must never know what is sent, nor to whom.
"""

import threading
import time
from collections.abc import Callable

_CATCH_UP_S = 0.5  # a taker that a busy machine wakes too late, or that waits for the disk, makes up for that much
_PIECES_PER_S = 20  # a taker waits this often in a second: rather even, and quick to follow a new rate


class Throttle:
    """An allowance, unlimited at first; *clock* tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._bytes_per_s = 0
        self._free_at = 0.0  # when the next byte may leave

    def set_rate(self, bytes_per_s: int) -> None:
        """Allow *bytes_per_s* from now on; 0 is unlimited."""
        with self._lock:
            if self._bytes_per_s != bytes_per_s:
                self._bytes_per_s, self._free_at = bytes_per_s, self._clock()

    def take(self, wanted: int) -> int:
        """Wait, then return how many of *wanted* bytes may leave now; at least one."""
        with self._lock:
            if not self._bytes_per_s:
                return wanted
            amount = max(1, min(wanted, self._bytes_per_s // _PIECES_PER_S))
            now = self._clock()
            starts_at = max(now - _CATCH_UP_S, self._free_at)
            self._free_at = starts_at + amount / self._bytes_per_s
        self._sleep(max(0.0, starts_at - now))

        return amount
