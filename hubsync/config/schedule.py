"""When a batch is committed and pushed: every so often, by a crontab line, or only when asked. Pure.

Weekdays are crontab's: 0 and 7 are Sunday (https://man7.org/linux/man-pages/man5/crontab.5.html).
"""

import re
from difflib import get_close_matches
from typing import Literal

from msgspec import Struct

from hubsync.config.units import parse_duration

MANUAL = "manual"
NICKNAMES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0"}

_LONGEST_MONTHS = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}  # the others have 31 days
_ITEM = re.compile(r"(?:(?P<all>\*)|(?P<first>[a-z0-9]{1,3})(?:-(?P<last>[a-z0-9]{1,3}))?)(?:/(?P<step>[0-9]{1,2}))?")


class Schedule(Struct, frozen=True):
    """When a batch is committed and pushed.

    Attributes:
        kind: ``interval`` has ``every_s``, ``cron`` has ``cron``, ``manual`` has neither.
        every_s: seconds from one batch to the next.
        cron: five crontab fields, or ``@hourly``, ``@daily``, ``@weekly``.
    """

    kind: Literal["interval", "cron", "manual"]
    every_s: float | None = None
    cron: str | None = None


class CronTimes(Struct, frozen=True):
    """The times of a crontab line, spelt out; ``weekdays`` are crontab's, 0 (Sunday) to 6.

    If both ``days`` and ``weekdays`` are restricted, either is enough: that is crontab's rule.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]


class _Field(Struct, frozen=True):
    """What one field of a crontab line may hold; *names* stand for *low*, *low* + 1 and so on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def expand(self, text: str) -> frozenset[int]:
        """Return the numbers that *text* stands for."""
        return frozenset().union(*(self._expand_item(item) for item in text.split(",")))

    def _expand_item(self, text: str) -> range:
        match = _ITEM.fullmatch(text)
        if match is None:
            raise ValueError(f'has a {self.name} that is not a number, range, list or step; write e.g. "*/15" or "1-5"')

        first = self.low if match["all"] else self._read(match["first"])
        last = self.high
        if match["last"]:
            last = self._read(match["last"])
            if self.names[:1] == ("sun",) and last == 0 < first:
                last = self.high  # "sat-sun": at the end of a range, Sunday is 7
        elif match["first"] and not match["step"]:
            last = first
        if last < first or match["step"] in {"0", "00"}:
            raise ValueError(f"has a {self.name} that runs backwards or stands still; write the smaller end first")

        return range(first, last + 1, int(match["step"] or 1))

    def _read(self, text: str) -> int:
        number = self.names.index(text) + self.low if text in self.names else int(text) if text.isdigit() else -1
        if not self.low <= number <= self.high:
            raise ValueError(f"has a {self.name} outside {self.low}-{self.high}")

        return number


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    _Field("weekday", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)


def parse_schedule(value: object) -> Schedule:
    """Return the schedule that *value* describes; raise ValueError with the cure."""
    if value == MANUAL:
        return Schedule("manual")
    if isinstance(value, str) and value.startswith("@"):
        return Schedule("cron", cron=_check_nickname(value))
    if isinstance(value, str) and len(value.split()) > 1:
        expand_cron(value)
        return Schedule("cron", cron=" ".join(value.split()))

    return Schedule("interval", every_s=_parse_interval(value))


def expand_cron(cron: str) -> CronTimes:
    """Return the times of *cron*, five fields or a nickname; raise ValueError with the cure."""
    fields = NICKNAMES.get(cron, cron).lower().split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f'has {len(fields)} fields; crontab has five, e.g. "*/15 * * * *" (minute hour day month weekday)')

    minutes, hours, days, months, weekdays = (field.expand(text) for field, text in zip(_FIELDS, fields, strict=True))
    if fields[4] == "*" and all(min(days) > _LONGEST_MONTHS.get(month, 31) for month in months):
        raise ValueError("names a day that none of its months has, so it would never run; correct the day or the month")

    by_number = (minutes, hours, days, months, {day % 7 for day in weekdays})
    return CronTimes(*(tuple(sorted(numbers)) for numbers in by_number))


def _check_nickname(text: str) -> str:
    if text in NICKNAMES:
        return text

    close = get_close_matches(text, NICKNAMES, n=1) or list(NICKNAMES)
    raise ValueError(f"is no known schedule; write {' or '.join(close)}")


def _parse_interval(value: object) -> float:
    try:
        every_s = parse_duration(value)
    except ValueError as exc:
        raise ValueError(f'{exc} (or five crontab fields, "@hourly", "@daily", "@weekly", "manual")') from None
    if every_s < 1:
        raise ValueError('must be at least "1s"; write "manual" to publish only when asked')

    return every_s
