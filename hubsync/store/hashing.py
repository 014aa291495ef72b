"""Owns what hashing may cost: how many threads, and how many bytes a second, over all targets and mirrors.

Each block of a file waits for its allowance, is read, and is hashed in one of a few turns. While the machine is pressed for
what it has (``/proc/pressure``), the allowance is small, but never nothing: a busy machine is published too.
It must never know what is hashed, nor why.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from errno import EIO
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hubsync.store.throttle import Throttle

if TYPE_CHECKING:
    from hubsync.config.model import Service
    from hubsync.config.rates import Rate

BLOCK_BYTES = 4 << 20  # whoever hashes waits for the interpreter after each: the larger, the less of what else runs is felt
UNLIMITED = 0
PRESSURE = Path("/proc/pressure")
PRESSED_BYTES_PER_S = 10_000_000

_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What is allowed: threads that hash at a time, bytes a second (by timetable), and how pressed the machine may be.

    Attributes:
        pressure: cpu, io or memory → the percentage of the last ten seconds in which something waited for it.
    """

    threads: int = 2
    rate: "Rate | None" = None
    pressure: Mapping[str, float] = field(default_factory=dict)


@cache
def shared() -> "Hashing":
    """Return the allowance of this process, for all targets together."""
    return Hashing()


def declare_costs(service: "Service") -> None:
    """Allow this process what the config says."""
    shared().declare(Costs(service.hash_threads, service.read_rate, service.pressure.limits()))


class Hashing:
    """Hashes within an allowance."""

    def __init__(self, costs: Costs | None = None) -> None:
        self._throttle = Throttle()
        self._turns = threading.Condition()
        self._taken = 0
        self._looked_at = 0.0
        self.declare(costs or Costs())

    @property
    def threads(self) -> int:
        """How many threads may hash at a time."""
        return max(1, self._costs.threads)

    def declare(self, costs: Costs) -> None:
        """Allow *costs* from now on; who hashes now follows with the next block."""
        self._costs = costs
        self._looked_at = 0.0
        with self._turns:
            self._turns.notify_all()
        self.keep()

    def keep(self) -> None:
        """Follow the machine's pressure, and the timetable."""
        now = time.monotonic()
        if self._looked_at and now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        at = time.localtime()
        rate = self._costs.rate.rate_at(at.tm_wday, at.tm_hour * 60 + at.tm_min) if self._costs.rate else UNLIMITED
        if is_pressed(self._costs.pressure):
            rate = min(rate or PRESSED_BYTES_PER_S, PRESSED_BYTES_PER_S)
        self._throttle.set_rate(rate)

    def take(self, wanted: int) -> int:
        """Wait, then return how many of *wanted* bytes may be read now; at least one."""
        self.keep()
        return self._throttle.take(wanted)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn to hash, and have it; nothing is waited for meanwhile."""
        with self._turns:
            self._turns.wait_for(lambda: self._taken < self.threads)
            self._taken += 1
        try:
            yield
        finally:
            with self._turns:
                self._taken -= 1
                self._turns.notify()

    def digest_file(
        self,
        fd: int,
        copy_fd: int | None = None,
        take: Callable[[memoryview], object] = lambda _: None,
        end: int | None = None,
    ) -> str:
        """Return the SHA-256 of an open file, or of what it holds up to *end*; *take* gets each piece, *copy_fd* a copy.

        Raises:
            OSError: it ends before *end*.
        """
        sha = hashlib.sha256()
        for piece in self.read_file(fd, end):
            with self.turn():
                sha.update(piece)
            if copy_fd is not None:
                _write_all(copy_fd, piece)
            take(piece)

        return sha.hexdigest()

    def read_file(self, fd: int, end: int | None = None) -> Iterator[memoryview]:
        """Yield an open file, or what it holds up to *end*, in pieces; each is good until the next.

        Raises:
            OSError: it ends before *end*.
        """
        view = memoryview(bytearray(BLOCK_BYTES))
        at = 0
        while end is None or at < end:
            allowed = self.take(BLOCK_BYTES if end is None else min(BLOCK_BYTES, end - at))
            count = os.preadv(fd, [view[:allowed]], at)
            if not count:
                break
            at += count
            yield view[:count]
        if end is not None and at < end:
            raise OSError(EIO, "it was cut short while it was read")


def is_pressed(limits: Mapping[str, float], directory: Path = PRESSURE) -> bool:
    """Tell whether something waited for one of *limits* (cpu, io, memory) for more than so many per cent of the time."""
    return any((read_pressure(directory / name) or 0.0) > limit for name, limit in limits.items())


def read_pressure(path: Path) -> float | None:
    """Return for how many per cent of the last ten seconds some task waited; ``None`` if the kernel does not say."""
    try:
        some = path.read_text().partition("\n")[0].split()
        return float(dict(pair.split("=") for pair in some[1:])["avg10"])
    except (OSError, ValueError, KeyError):
        return None


def _write_all(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]
