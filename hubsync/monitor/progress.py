"""Tells a person how far a long command is: on a terminal as rows that are drawn anew, elsewhere as a line now and then.

It knows amounts, not what they are amounts of. ``draw_amount`` is pure; ``Progress`` owns a thread and a stream. After a
drawing the cursor stands at its first row, so that whoever prints first clears what is below (``clear_below``), and the
next drawing follows what was printed.
"""

import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from msgspec import Struct
from msgspec.structs import replace

from hubsync.monitor.text import draw_bar, escape_unsafe, format_bytes, format_bytes_of, format_count, format_duration

_DRAW_EVERY_S = 0.25
_SAY_AFTER_S, _SAY_AT_MOST_EVERY_S = 10.0, 300.0  # each wait is twice the one before
_RATE_OVER_S = 20.0  # long enough for a figure that can be read, short enough to see a stall
_MOST_ROWS = 8
_MOST_NAME_CHARS = 28
_BAR_CELLS, _WIDE = 10, 100
_CLEAR_BELOW = "\x1b[J"

_drawn = threading.Event()  # set while rows stand below the cursor of standard error


def clear_below() -> str:
    """Return what a line for the terminal must begin with so that no progress row shines through."""
    return _CLEAR_BELOW if _drawn.is_set() else ""


class Amount(Struct, frozen=True):
    """How much of one thing, mostly a mirror, is done; a total that is ``None`` is not known.

    *moved* is what the rate is measured of, where it is not ``bytes``: some may have been there before.
    """

    name: str
    files: int = 0
    all_files: int | None = None
    bytes: int = 0
    all_bytes: int | None = None
    doing: str = ""
    moved: int | None = None

    @property
    def share(self) -> float | None:
        """The part that is done, from 0 to 1, by bytes if there are any."""
        done, total = (self.bytes, self.all_bytes) if self.all_bytes else (self.files, self.all_files)
        return None if not total else min(1.0, done / total)


def describe_amount(amount: Amount, bytes_per_s: float | None) -> str:
    """Return *amount* in words: ``1.2 of 2.4 GB, 85.0 MB/s, 14s left, 12 of 40 files``."""
    return ", ".join(_parts(amount, bytes_per_s))


def draw_amount(
    amount: Amount, bytes_per_s: float | None, *, width: int, name_chars: int = 0, ascii_only: bool = False
) -> str:
    """Return *amount* as one row of at most *width* characters, its name padded to *name_chars*.

    What comes last in words goes first where there is no room, so that the bars stay where they are.
    """
    row = f"{_shorten(escape_unsafe(amount.name), _MOST_NAME_CHARS).ljust(name_chars)}  "
    if amount.share is not None:
        cells = _BAR_CELLS if width < _WIDE else 2 * _BAR_CELLS
        row += f"{draw_bar(amount.share, cells, ascii_only=ascii_only)} {amount.share:4.0%}  "
    parts = _parts(amount, bytes_per_s)
    while len(parts) > 1 and len(row) + len(", ".join(parts)) > width:
        parts.pop()

    return (row + escape_unsafe(", ".join(parts)))[:width].rstrip()


def _parts(amount: Amount, bytes_per_s: float | None) -> list[str]:
    """Return what is known of *amount*, what matters most first."""
    parts = []
    if amount.all_bytes:
        parts.append(format_bytes_of(amount.bytes, amount.all_bytes))
    elif amount.bytes:
        parts.append(format_bytes(amount.bytes))
    if bytes_per_s:
        parts.append(f"{format_bytes(bytes_per_s)}/s")
        if amount.all_bytes and amount.all_bytes > amount.bytes:
            parts.append(f"{format_duration(round((amount.all_bytes - amount.bytes) / bytes_per_s))} left")
    if amount.all_files is not None:
        parts.append(f"{amount.files} of {format_count(amount.all_files, 'file')}")
    elif amount.files:
        parts.append(format_count(amount.files, "file"))

    return [*parts, amount.doing] if amount.doing else parts


def _shorten(name: str, chars: int) -> str:
    half = (chars - 1) // 2
    return name if len(name) <= chars else f"{name[:half]}…{name[-half:]}"


class Progress:
    """Shows amounts while a ``with`` block runs; ``update`` may be called from any thread, as often as one likes."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        look: Callable[[], Iterable[Amount]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show on *stream* (standard error) what ``update`` was told, and what *look* returns when it is drawn."""
        self._stream = sys.stderr if stream is None else stream
        environment = os.environ if environment is None else environment
        self.is_live = self._stream.isatty() and environment.get("TERM", "dumb") != "dumb"
        self._ascii_only = "utf" not in (self._stream.encoding or "").lower()
        self._look = look
        self._clock = clock
        self._amounts: dict[str, Amount] = {}
        self._seen: dict[str, deque[tuple[float, int]]] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_showing, name="hubsync-progress", daemon=True)
        self._say_at = self._say_after_s = 0.0

    def __enter__(self) -> Self:
        self._say_after_s = _SAY_AFTER_S
        self._say_at = self._clock() + _SAY_AFTER_S
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if _drawn.is_set() and self.is_live:
            self._write(_CLEAR_BELOW)
            _drawn.clear()

    def update(
        self,
        name: str,
        *,
        files: int | None = None,
        all_files: int | None = None,
        bytes: int | None = None,  # noqa: A002 - the field's name, as everywhere
        all_bytes: int | None = None,
        doing: str | None = None,
    ) -> None:
        """Set what is named of the row *name*; the rest of it stays."""
        told: dict[str, Any] = {
            "files": files,
            "all_files": all_files,
            "bytes": bytes,
            "all_bytes": all_bytes,
            "doing": doing,
        }
        with self._lock:
            former = self._amounts.get(name, Amount(name))
            self._amounts[name] = replace(former, **{key: value for key, value in told.items() if value is not None})

    def add(self, name: str, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - as in ``update``
        """Count *files* and *bytes* that are done in addition to those of the row *name*."""
        with self._lock:
            former = self._amounts.get(name, Amount(name))
            self._amounts[name] = replace(former, files=former.files + files, bytes=former.bytes + bytes)

    def drop(self, name: str) -> None:
        """Show the row *name* no more."""
        with self._lock:
            self._amounts.pop(name, None)
            self._seen.pop(name, None)

    def show(self) -> None:
        """Draw the rows now, or print them if a line is due; the thread does so by itself."""
        now = self._clock()
        with self._lock:
            amounts = [*self._amounts.values(), *self._look()][:_MOST_ROWS]
            rows = [(amount, self._measure_rate(amount, now)) for amount in amounts]
        if self.is_live:
            self._draw(rows)
        elif now >= self._say_at:
            self._say_after_s = min(2 * self._say_after_s, _SAY_AT_MOST_EVERY_S)
            self._say_at = now + self._say_after_s
            self._write("".join(f"{escape_unsafe(row.name)}: {describe_amount(row, rate)}\n" for row, rate in rows))

    def _keep_showing(self) -> None:
        while not self._over.wait(_DRAW_EVERY_S):
            self.show()

    def _measure_rate(self, amount: Amount, now: float) -> float | None:
        """Return the bytes per second of the last while; ``None`` until two drawings tell."""
        seen, moved = self._seen.setdefault(amount.name, deque()), amount.bytes if amount.moved is None else amount.moved
        if seen and moved < seen[-1][1]:  # it began anew
            seen.clear()
        seen.append((now, moved))
        while len(seen) > 2 and now - seen[1][0] >= _RATE_OVER_S:  # noqa: PLR2004 - the two ends of the while
            seen.popleft()
        (began, first), (ended, last) = seen[0], seen[-1]

        return (last - first) / (ended - began) if ended > began else None

    def _draw(self, rows: list[tuple[Amount, float | None]]) -> None:
        size = shutil.get_terminal_size()
        rows = rows[: max(1, size.lines - 1)]
        name_chars = max((min(len(escape_unsafe(row.name)), _MOST_NAME_CHARS) for row, _ in rows), default=0)
        drawn = "".join(
            draw_amount(row, rate, width=size.columns - 1, name_chars=name_chars, ascii_only=self._ascii_only) + "\x1b[K\n"
            for row, rate in rows
        )
        _drawn.set()
        self._write(f"{drawn}{_CLEAR_BELOW}" + (f"\x1b[{len(rows)}A" if rows else ""))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody looks any more; the work goes on
            self._over.set()
