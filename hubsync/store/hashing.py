"""Owns what hashing may cost: how many threads, and how many bytes a second, over all threads and processes of ours.

Each block of a file waits for its allowance, is read, and is hashed in one of a few turns. Turns are locks that belong to
open files, in memory that children inherit: what is killed gives its turn back. While the machine is pressed for what it
has (``/proc/pressure``), the allowance is small, but never nothing: a busy machine is published too.
It must never know what is hashed, nor why.
"""

import contextlib
import fcntl
import hashlib
import itertools
import os
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from errno import EIO
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hubsync.store.buffer import new_buffer, read_into
from hubsync.store.throttle import Throttle, open_allowance

if TYPE_CHECKING:
    from hubsync.config.model import Service
    from hubsync.config.rates import Rate

BLOCK_BYTES = 4 << 20  # whoever hashes waits for the interpreter after each: the larger, the less of what else runs is felt
MOST_THREADS = 64
UNLIMITED = 0
PRESSURE = Path("/proc/pressure")
PRESSED_BYTES_PER_S = 10_000_000

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2): type, whence, start, length, pid
_THREADS_AT, _TURNS_AT = 64, 4096  # in the allowance's memory, behind the throttle's part
_THREADS = struct.Struct("=q")
_LOOK_EVERY_S = 1.0

_T = TypeVar("_T")
Steps = Generator[int, None, _T]
"""Yields how many bytes each step has read; in between it may be left alone, or closed."""


def run(steps: Steps[_T], on_bytes: Callable[[int], object] = lambda _: None) -> _T:
    """Go through all *steps* and return what comes of them; *on_bytes* hears of each."""
    while True:
        try:
            count = next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return] # typed by Steps
        on_bytes(count)


class Costs(NamedTuple):
    """What is allowed: threads that hash at a time, bytes a second (by timetable), and how pressed the machine may be.

    Attributes:
        pressure: cpu, io or memory → the percentage of the last ten seconds in which something waited for it.
    """

    threads: int = 2
    rate: "Rate | None" = None
    pressure: Mapping[str, float] = MappingProxyType({})


@cache
def shared() -> "Hashing":
    """Return the allowance of this process, for all targets together."""
    return Hashing()


def declare_costs(service: "Service") -> None:
    """Allow this process and its children what the config says."""
    shared().declare(Costs(service.hash_threads, service.read_rate, service.pressure.limits()))


class Hashing:
    """Hashes within an allowance: a new one, or the one behind *fd*, which was inherited."""

    def __init__(self, costs: Costs | None = None, *, fd: int | None = None) -> None:
        self.fd = open_allowance() if fd is None else fd
        self._throttle = Throttle(self.fd)
        self._locks = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        self._among_threads = [threading.Lock() for _ in range(MOST_THREADS)]
        self._first = itertools.count()
        self._costs = costs or Costs()
        self._is_inherited = fd is not None
        self._looked_at = 0.0
        if fd is None:
            self.declare(self._costs)

    @property
    def threads(self) -> int:
        """How many threads may hash at a time."""
        threads, *_ = _THREADS.unpack(os.pread(self._locks, _THREADS.size, _THREADS_AT))
        return int(threads)

    def declare(self, costs: Costs) -> None:
        """Allow *costs* from now on; who hashes now follows with the next block."""
        self._costs = costs
        os.pwrite(self._locks, _THREADS.pack(min(MOST_THREADS, max(1, costs.threads))), _THREADS_AT)
        self._looked_at = 0.0
        self.keep()

    def keep(self) -> None:
        """Follow the machine's pressure; to be called now and then while children hash."""
        now = time.monotonic()
        if self._is_inherited or (self._looked_at and now - self._looked_at < _LOOK_EVERY_S):
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
        slot = self._begin_turn()
        try:
            yield
        finally:
            self._lock(slot, fcntl.F_UNLCK)
            self._among_threads[slot].release()

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
        return run(self.digest_steps(fd, copy_fd, take, end))

    def digest_steps(
        self, fd: int, copy_fd: int | None, take: Callable[[memoryview], object], end: int | None = None
    ) -> Steps[str]:
        """Do as ``digest_file``, in steps."""
        sha = hashlib.sha256()
        for piece in self.read_file(fd, end):
            with self.turn():
                sha.update(piece)
            if copy_fd is not None:
                _write_all(copy_fd, piece)
            take(piece)
            yield len(piece)

        return sha.hexdigest()

    def read_file(self, fd: int, end: int | None = None) -> Iterator[memoryview]:
        """Yield an open file, or what it holds up to *end*, in pieces; each is good until the next.

        Raises:
            OSError: it ends before *end*.
        """
        view = new_buffer(BLOCK_BYTES)
        at = 0
        while end is None or at < end:
            allowed = self.take(BLOCK_BYTES if end is None else min(BLOCK_BYTES, end - at))
            count = read_into(view[:allowed], fd, at)
            if not count:
                break
            at += count
            yield view[:count]
        if end is not None and at < end:
            raise OSError(EIO, "it was cut short while it was read")

    def _begin_turn(self) -> int:
        """Return the turn that was waited for: any that is free, else the next."""
        threads, first = self.threads, next(self._first)
        slots = [(first + n) % threads for n in range(threads)]
        for slot in slots:
            if self._among_threads[slot].acquire(blocking=False):
                with contextlib.suppress(BlockingIOError):
                    self._lock(slot, fcntl.F_WRLCK, fcntl.F_OFD_SETLK)
                    return slot
                self._among_threads[slot].release()
        self._among_threads[slots[0]].acquire()
        self._lock(slots[0], fcntl.F_WRLCK)

        return slots[0]

    def _lock(self, slot: int, kind: int, command: int = fcntl.F_OFD_SETLKW) -> None:
        fcntl.fcntl(self._locks, command, _FLOCK.pack(kind, os.SEEK_SET, _TURNS_AT + slot, 1, 0))


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
