"""Upload rates: one for always, or a timetable. Pure; the clock that asks is somebody else's.

A timetable is a list of rows, and the first row that matches wins: ``["mon-fri 09:00-18:00 20MB/s", "0"]``.
Where no row matches, the rate is unlimited.
"""

import re

from msgspec import Struct

from hubsync.config.units import SIZE_PATTERN, bare_number, parse_size, spell_size

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")  # the index is datetime.weekday()
EVERY_DAY = frozenset(range(7))
MINUTES_PER_DAY = 24 * 60
UNLIMITED = 0

_BYTES_PER_S = f"(?:0|{SIZE_PATTERN[1:-1]}/s)"
_DAYS = f"(?:{'|'.join(WEEKDAYS)})(?:[-,](?:{'|'.join(WEEKDAYS)}))*"
_HOURS = "[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]"
RATE_PATTERN = f"^{_BYTES_PER_S}$"
ROW_PATTERN = f"^(?:{_DAYS} )?(?:{_HOURS} )?{_BYTES_PER_S}$"

_EXAMPLES = '"80MB/s", "0" for unlimited, or ["mon-fri 09:00-18:00 20MB/s", "0"]'
_ROW = re.compile(f"(?:(?P<days>{_DAYS}) )?(?:(?P<hours>{_HOURS}) )?(?P<rate>{_BYTES_PER_S})")


class RateRow(Struct, frozen=True):
    """One row: on *days*, from minute *start* up to minute *end* of the day, *bytes_per_s*; 0 is unlimited.

    A row that ends before it starts reaches over midnight, and belongs to the day on which it starts.
    """

    days: frozenset[int]
    start: int
    end: int
    bytes_per_s: int

    def covers(self, weekday: int, minute: int) -> bool:
        """Tell whether the row holds at *minute* of the day *weekday* (0 is Monday)."""
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end

        is_evening = weekday in self.days and minute >= self.start
        return is_evening or ((weekday - 1) % len(WEEKDAYS) in self.days and minute < self.end)


class Rate(Struct, frozen=True):
    """How fast uploads may be, by weekday and time of day."""

    rows: tuple[RateRow, ...] = ()

    def rate_at(self, weekday: int, minute: int) -> int:
        """Return the bytes per second allowed at *minute* of the day *weekday* (0 is Monday); 0 is unlimited."""
        return next((row.bytes_per_s for row in self.rows if row.covers(weekday, minute)), UNLIMITED)


def parse_rate(value: object) -> Rate:
    """Return what *value*, a rate or a list of timetable rows, allows; raise ValueError with the cure."""
    if isinstance(value, str) and re.fullmatch(_BYTES_PER_S, value):
        return Rate((RateRow(EVERY_DAY, 0, MINUTES_PER_DAY, _parse_bytes_per_s(value)),))
    if isinstance(value, (list, tuple)) and value:
        return Rate(tuple(_parse_row(row, place) for place, row in enumerate(value, start=1)))

    raise ValueError(f"must be a rate, in quotes; write {_suggest(value)}")


def _suggest(value: object) -> str:
    number = bare_number(value)
    if not number:
        return _EXAMPLES

    is_in_megabytes = number < 1000  # noqa: PLR2004 - nobody means less than a kilobyte per second
    return f'"{number:g}MB/s"' if is_in_megabytes else f'"{spell_size(int(number))}/s"'


def _parse_bytes_per_s(text: str) -> int:
    if text == "0":
        return UNLIMITED

    rate = parse_size(text.removesuffix("/s"))
    if rate < 1:
        raise ValueError('is slower than a byte per second; write "0" for unlimited')

    return rate


def _parse_row(row: object, place: int) -> RateRow:
    match = _ROW.fullmatch(row) if isinstance(row, str) else None
    if match is None:
        raise ValueError(f'row {place} is not "[DAYS] [HH:MM-HH:MM] RATE"; write e.g. "mon-fri 09:00-18:00 20MB/s"')

    start, end = (_parse_minute(text, place) for text in (match["hours"] or "00:00-24:00").split("-"))
    if start == end:
        raise ValueError(f"row {place} starts when it ends; leave the hours out for the whole day")

    return RateRow(_parse_days(match["days"]), start, end, _parse_bytes_per_s(match["rate"]))


def _parse_minute(text: str, place: int) -> int:
    hour, minute = map(int, text.split(":"))
    if hour * 60 + minute > MINUTES_PER_DAY:
        raise ValueError(f"row {place} has a time after 24:00; the day ends there")

    return hour * 60 + minute


def _parse_days(text: str | None) -> frozenset[int]:
    if text is None:
        return EVERY_DAY

    days: set[int] = set()
    for item in text.split(","):
        ends = [WEEKDAYS.index(day) for day in item.split("-")]
        length = (ends[-1] - ends[0]) % len(WEEKDAYS)  # "sat-mon" goes over the end of the week
        days |= {(ends[0] + step) % len(WEEKDAYS) for step in range(length + 1)}

    return frozenset(days)
