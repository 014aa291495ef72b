"""Says how far a restore is: a line that is drawn again on a terminal, plain lines now and then elsewhere."""

import sys
import threading
import time
from collections import deque
from typing import Self, TextIO

from hubsync.monitor.text import escape_unsafe, format_bytes, format_duration

_DRAW_S, _TELL_S = 0.5, 10.0
_RATE_OVER_S = 15.0


class Meter:
    """Counts bytes for all threads."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.got = 0  # that came over the network, also those that were wrong
        self.notes: deque[str] = deque()
        self._present: set[str] = set()
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def expect(self, total: int) -> None:
        """*total* bytes are wanted."""
        self.total = total

    def add(self, count: int) -> None:
        """*count* bytes came; fewer than none were wrong."""
        with self._lock:
            self.done += count
            self.got += max(count, 0)

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


class Teller:
    """Tells what *meter* counts, on *stream*, while the context lasts."""

    def __init__(self, meter: Meter, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._meter = meter
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._over = threading.Event()
        self._seen: deque[tuple[float, int]] = deque()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Say the last of it, and end the line."""
        self._over.set()
        self._thread.join()
        self._tell_notes()
        if self._is_terminal and not self._quiet:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _run(self) -> None:
        told = time.monotonic()
        while not self._over.wait(_DRAW_S):
            self._tell_notes()
            now = time.monotonic()
            self._seen.append((now, self._meter.got))
            while now - self._seen[0][0] > _RATE_OVER_S:
                self._seen.popleft()
            if self._quiet or not self._meter.total:
                continue
            if self._is_terminal:
                self._stream.write(f"\r\x1b[K{self._describe()}")
                self._stream.flush()
            elif now - told >= _TELL_S:
                told = now
                self._stream.write(f"{self._describe()}\n")
                self._stream.flush()

    def _tell_notes(self) -> None:
        while self._meter.notes:
            start = "\r\x1b[K" if self._is_terminal else ""
            self._stream.write(f"{start}{escape_unsafe(self._meter.notes.popleft())}\n")
            self._stream.flush()

    def _describe(self) -> str:
        meter = self._meter
        share = 100 * meter.done // meter.total
        amount = f"{format_bytes(meter.done)} of {format_bytes(meter.total)} ({share} %)"
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        rate = (last - first) / (now - began) if now > began else 0.0
        if rate <= 0:
            return f"restoring: {amount}"
        left_s = (meter.total - meter.done) / rate

        return f"restoring: {amount}, {format_bytes(rate)}/s, {format_duration(left_s)} left"
