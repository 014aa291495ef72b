"""Which entries of the log somebody wants. Pure: ``now`` is an argument; it knows no file and no journal."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, time, timedelta
from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct

from hubsync.config.units import parse_duration
from hubsync.errors import UsageError

Entry = Mapping[str, object]

LEVELS = ("debug", "info", "warning", "error")

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


class Query(Struct, frozen=True):
    """What to show; an empty condition holds for every entry.

    Attributes:
        events: patterns such as ``mirror.*``; one that begins with ``!`` leaves out what it matches.
        level: the least severe level that is shown.
    """

    since: datetime | None = None
    until: datetime | None = None
    targets: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    level: str = "debug"

    def matches(self, entry: Entry) -> bool:
        """Tell whether *entry* is wanted."""
        return (
            _is_at_least(entry.get("level"), self.level)
            and _is_named(entry.get("target"), self.targets)
            and _is_named(entry.get("mirror"), self.mirrors)
            and _matches_event(str(entry.get("event", "")), self.events)
            and self._is_in_time(entry)
        )

    def select(self, entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield those of *entries* that are wanted."""
        return filter(self.matches, entries)

    def _is_in_time(self, entry: Entry) -> bool:
        if self.since is None and self.until is None:
            return True
        moment = moment_of(entry)
        if moment is None:
            return False
        return (self.since is None or moment >= self.since) and (self.until is None or moment <= self.until)


def moment_of(entry: Entry) -> datetime | None:
    """Return when *entry* was written, if it says so."""
    try:
        moment = datetime.fromisoformat(str(entry.get("timestamp")))
    except ValueError:
        return None

    return moment if moment.tzinfo else moment.astimezone()


def parse_moment(text: str, now: datetime) -> datetime:
    """Return the time that *text* means: ``2h`` (ago), ``03:00``, ``yesterday``, ``2026-11-23``, or RFC 3339.

    *now* is aware; a time without a zone is one of *now*'s zone, a time of day the last one that has passed.

    Raises:
        UsageError: it is none of these.
    """
    midnight = datetime.combine(now.date(), time(), now.tzinfo)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if text in named:
        return named[text]
    if clock := _CLOCK.fullmatch(text):
        hour, minute, second = (int(part or 0) for part in clock.groups())
        moment = midnight.replace(hour=hour, minute=minute, second=second)
        return moment if moment <= now else moment - timedelta(days=1)
    try:
        return now - timedelta(seconds=parse_duration(text.removesuffix(" ago")))
    except ValueError:
        return _parse_date(text, now)


def _parse_date(text: str, now: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        hint = "write 2h, 03:00, yesterday, 2026-11-23 or 2026-11-23T03:00"
        raise UsageError(f"{text!r} is not a time", hint=hint) from exc

    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


def _is_at_least(level: object, least: str) -> bool:
    return level not in LEVELS or LEVELS.index(str(level)) >= LEVELS.index(least)


def _is_named(name: object, wanted: tuple[str, ...]) -> bool:
    return not wanted or any(fnmatchcase(str(name), pattern) for pattern in wanted if name is not None)


def _matches_event(event: str, patterns: tuple[str, ...]) -> bool:
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    refused = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    if any(fnmatchcase(event, pattern) for pattern in refused):
        return False

    return not wanted or any(fnmatchcase(event, pattern) for pattern in wanted)
