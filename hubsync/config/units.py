"""Sizes and durations as people write them: ``"16MiB"``, ``"1h30m"``. Pure; it knows no key and no file.

A bare number is refused, because nobody can tell seconds from minutes by looking at ``30``.
"""

import re
from decimal import Decimal

SECONDS_PER_UNIT = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}  # largest first: the order in which they may be written
BYTES_PER_UNIT = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", start=1)},
    "KB": 1000,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", start=1)},
}

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
DURATION_PATTERN = "^(?=.)" + "".join(f"(?:{_NUMBER}{unit})?" for unit in (*SECONDS_PER_UNIT, "ms")) + "$"
SIZE_PATTERN = f"^(?:0|{_NUMBER} ?(?:{'|'.join(BYTES_PER_UNIT)}))$"

_DURATION = re.compile(DURATION_PATTERN.replace(_NUMBER, f"({_NUMBER})"))
_DURATION_SCALES = (*map(Decimal, SECONDS_PER_UNIT.values()), Decimal("0.001"))
_SIZE = re.compile(rf"({_NUMBER}) ?({'|'.join(BYTES_PER_UNIT)})")

SHARE_PATTERN = f"^{_NUMBER} ?%$"
_SHARE = re.compile(rf"({_NUMBER}) ?%")

_LONGEST_S = 3650 * SECONDS_PER_UNIT["d"]  # far below what threading accepts as a timeout, far above any use
_LARGEST_BYTES = 2**63 - 1  # SQLite's integer
_LARGEST_ECHOED = 10**15


def parse_duration(value: object) -> float:
    """Return the seconds that *value*, such as ``"1h30m"``, stands for; raise ValueError with the cure."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"must be a duration with its unit, in quotes; write {_suggest_duration(value)}")

    seconds = sum(Decimal(count) * scale for count, scale in zip(match.groups("0"), _DURATION_SCALES, strict=True))
    if seconds > _LONGEST_S:
        raise ValueError('is longer than ten years; write "0s" to "3650d"')

    return float(seconds)


def parse_size(value: object) -> int:
    """Return the bytes that *value*, such as ``"16MiB"``, stands for; raise ValueError with the cure."""
    if value == "0":
        return 0

    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"must be a size with its unit, in quotes; write {_suggest_size(value)}")

    size = int(Decimal(match[1]) * BYTES_PER_UNIT[match[2]])
    if size > _LARGEST_BYTES:
        raise ValueError('is larger than any disk; write at most "9000PB"')

    return size


def parse_share(value: object) -> float:
    """Return the part, from 0 to 1, that *value*, such as ``"5%"``, stands for; raise ValueError with the cure."""
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:  # noqa: PLR2004 - percent
        raise ValueError('must be a percentage in quotes; write "0%" to "100%"')

    return float(match[1]) / 100


def spell_duration(seconds: float) -> str:
    """Return whole *seconds* as the config takes them; ``parse_duration`` reads them back."""
    rest, words = int(seconds), ""
    for unit, length in SECONDS_PER_UNIT.items():
        count, rest = divmod(rest, length)
        words += f"{count}{unit}" if count else ""

    return words or "0s"


def spell_size(size: int) -> str:
    """Return *size* bytes exactly, in the largest unit that divides it; ``parse_size`` reads it back."""
    largest_first = sorted(BYTES_PER_UNIT.items(), key=lambda item: -item[1])
    return next((f"{size // length}{unit}" for unit, length in largest_first if size and size % length == 0), "0")


def bare_number(value: object) -> int | float | None:
    """Return *value* if it is a number without a unit that fits a message, also one in quotes."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value):
        return int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _LARGEST_ECHOED:  # not NaN
        return value

    return None


def _suggest_duration(value: object) -> str:
    number = bare_number(value)
    if number is None:
        return '"30s", "5m" or "1h30m"'

    return f'"{number:g}s"' if number < SECONDS_PER_UNIT["m"] else f'"{spell_duration(number)}"'


def _suggest_size(value: object) -> str:
    number = bare_number(value)
    return '"10MB" or "16MiB"' if number is None else f'"{spell_size(int(number))}"'
