"""Shows the log: chooses where it is read, keeps what is asked for, prints it for a person or as JSON lines."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from msgspec import Struct

from hubsync.monitor.lines import format_console
from hubsync.views.history import LogUnreadableError, follow_file, read_file, read_journal, read_parts
from hubsync.views.query import Query, moment_of

_REQUIRED = ("timestamp", "level", "event", "message")


class Place(Struct, frozen=True):
    """Where the log is read: a file that was named, else the configured one with its rotated parts, else the journal."""

    named: Path | None = None
    configured: Path | None = None

    def read(self, since: datetime | None) -> Iterator[dict[str, Any]]:
        """Yield what was logged, oldest first. Raises LogUnreadableError."""
        if self.named is not None:
            return read_file(self.named, since) if str(self.named) == "-" else read_parts(self.named, since)
        if self.configured is not None:
            return read_parts(self.configured, since)

        return read_journal(since)

    def follow(self) -> Iterator[dict[str, Any] | None]:
        """Yield what is logged from now on; ``None`` says that there is nothing new. Raises LogUnreadableError."""
        path = self.named or self.configured
        if str(path) == "-":
            raise LogUnreadableError("standard input cannot be followed", hint="leave out --follow")

        return read_journal(follow=True) if path is None else follow_file(path)


class Printer:
    """Prints entries on *stream*: lines of JSON, or sentences under a heading for each day."""

    def __init__(self, stream: TextIO, *, as_json: bool, colour: bool) -> None:
        self._stream = stream
        self._as_json = as_json
        self._colour = colour
        self._day = ""

    def show(self, entry: Mapping[str, Any]) -> None:
        """Print one entry."""
        if self._as_json:
            self._stream.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n")
            return
        moment = moment_of(entry)
        if moment is None or not all(name in entry for name in _REQUIRED):
            return
        if (day := moment.astimezone().strftime("%A, %Y-%m-%d")) != self._day:
            self._day = day
            self._stream.write(f"--- {day}\n")
        self._stream.write(format_console(entry, colour=self._colour) + "\n")


def show_log(place: Place, query: Query, printer: Printer, *, last: int | None = None, follow: bool = False) -> int:
    """Print what *query* wants of the log, at most the *last* entries, and what comes then if *follow* says so.

    Returns:
        0, or 1 if nothing was found.

    Raises:
        LogUnreadableError: there is no log here.
    """
    to_come = place.follow() if follow else iter(())
    if follow:
        next(to_come, None)  # opens the end of the file before its beginning is read, so that no entry falls between
    found = 0
    for entry in _select(place, query, last):
        printer.show(entry)
        found += 1
    sys.stdout.flush()
    for coming in to_come:
        if coming is None:
            sys.stdout.flush()
        elif query.matches(coming):
            printer.show(coming)

    return 0 if found or follow else 1


def _select(place: Place, query: Query, last: int | None) -> Iterable[dict[str, Any]]:
    entries = query.select(place.read(query.since))
    return entries if last is None else deque(entries, maxlen=last)
