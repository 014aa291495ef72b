"""Counts what a restore gets, from which mirror, and says how far it is and what went wrong on the way."""

import sys
import threading
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

from hubsync.monitor.progress import Amount, Progress, clear_below
from hubsync.monitor.text import escape_unsafe


class Meter:
    """Counts pieces and bytes for all threads."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.got = 0  # that came over the network, also those that were wrong
        self.pieces = self.all_pieces = 0
        self.notes: deque[str] = deque()
        self._by_mirror: dict[str, int] = {}
        self._present: set[str] = set()
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def expect(self, total: int, pieces: int = 0) -> None:
        """*total* bytes are wanted, in so many *pieces*: contents, each of one file or of several equal ones."""
        self.total, self.all_pieces = total, pieces

    def add(self, count: int, mirror: str = "") -> None:
        """*count* bytes came from *mirror*; fewer than none were wrong."""
        with self._lock:
            self.done += count
            self.got += max(count, 0)
            if mirror:
                self._by_mirror[mirror] = self._by_mirror.get(mirror, 0) + count

    def add_piece(self) -> None:
        """A piece is whole, and its hash is right."""
        with self._lock:
            self.pieces += 1

    def note_present(self, name: str, count: int) -> None:
        """*count* bytes of the piece *name* were here before; said once."""
        with self._lock:
            if name not in self._present:
                self._present.add(name)
                self.done += count

    def note(self, what: str) -> None:
        """Something went wrong and is made good; each thing is said once."""
        with self._lock:
            if what not in self._said:
                self._said.add(what)
                self.notes.append(what)

    def by_mirror(self) -> Mapping[str, int]:
        """Return how many bytes came from each mirror."""
        with self._lock:
            return dict(self._by_mirror)

    def amounts(self) -> list[Amount]:
        """Return how far it is: all of it, and what each mirror gave if there are several."""
        if not self.total:
            return []
        whole = Amount("restoring", self.pieces, self.all_pieces or None, max(0, self.done), self.total, moved=self.got)
        mirrors = self.by_mirror()
        return [whole, *(Amount(f"from {name}", bytes=got) for name, got in mirrors.items() if len(mirrors) > 1)]


class Teller:
    """Tells what *meter* counts, on *stream* (standard error), while the context lasts; *quiet*: only what went wrong."""

    def __init__(self, meter: Meter, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._meter = meter
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._progress = Progress(self._stream, look=self._look)

    def __enter__(self) -> Self:
        """Begin."""
        self._progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Say the last of it."""
        self._progress.__exit__(kind, error, trace)
        self._tell_notes()

    def _look(self) -> list[Amount]:
        self._tell_notes()
        return [] if self._quiet else self._meter.amounts()

    def _tell_notes(self) -> None:
        while self._meter.notes:
            self._stream.write(f"{clear_below()}{escape_unsafe(self._meter.notes.popleft())}\n")
            self._stream.flush()
