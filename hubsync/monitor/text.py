"""How numbers and names are put for a person. No clock, no locale, no I/O."""

import re

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_DURATION_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))

# What must not reach a terminal raw: C0 and C1 controls, line and paragraph separators, the marks that reorder text
# (https://trojansource.codes), and lone surrogates, which stand for bytes of a path that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_LISTED_MAX = 5
_SHORT_NAMES = {"commit": 9, "oid": 12}


def format_bytes(count: float) -> str:
    """Return *count* bytes in decimal units, as the config takes them: ``12.4 GB``."""
    size, unit = _scale(count)
    return f"{size:.{_digits(unit)}f} {unit}"


def format_bytes_of(part: float, total: float) -> str:
    """Return *part* and *total* bytes in the unit that suits the total: ``1.2 of 12.4 GB``."""
    size, unit = _scale(total)
    share = part * size / total if total else part
    return f"{share:.{_digits(unit)}f} of {size:.{_digits(unit)}f} {unit}"


def _scale(count: float) -> tuple[float, str]:
    size = float(count)
    for unit in _BYTE_UNITS[:-1]:
        if round(abs(size), _digits(unit)) < 1000:  # noqa: PLR2004 - the step between decimal units
            return size, unit

        size /= 1000

    return size, _BYTE_UNITS[-1]


def _digits(unit: str) -> int:
    return 0 if unit == "B" else 1


def format_duration(seconds: float) -> str:
    """Return *seconds* in its two largest units: ``2m10s``; tenths below ten seconds: ``0.4s``."""
    if round(abs(seconds), 1) < 10:  # noqa: PLR2004 - below it, tenths tell something
        return f"{seconds:.1f}s".replace(".0s", "s")

    rest = round(abs(seconds))
    first = next(index for index, (_, length) in enumerate(_DURATION_UNITS) if rest >= length)
    parts = []
    for name, length in _DURATION_UNITS[first : first + 2]:
        count, rest = divmod(rest, length)
        parts += [f"{count}{name}"] if count else []

    return ("-" if seconds < 0 else "") + "".join(parts)


def draw_bar(share: float, cells: int, *, ascii_only: bool = False) -> str:
    """Return a bar of *cells* characters of which *share*, from 0 to 1, is full."""
    full = int(share * cells)
    filled, empty = "#-" if ascii_only else "█░"

    return filled * full + empty * (cells - full)


def format_count(count: int, noun: str) -> str:
    """Return *count* with *noun* in the right number: ``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_field(name: str, value: object) -> str:
    """Return the *value* of the field *name* as its unit, which stands in the name, asks for."""
    if isinstance(value, (list, tuple)):
        rest = len(value) - _LISTED_MAX
        return ", ".join(str(item) for item in value[:_LISTED_MAX]) + (f" and {rest} more" if rest > 0 else "")

    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name == "bytes" or name.endswith("_bytes"):
            return format_bytes(value)
        if name == "bytes_per_s":
            return f"{format_bytes(value)}/s"
        if name.endswith("_s"):
            return format_duration(value)

    return str(value)[: _SHORT_NAMES.get(name)]


def escape_unsafe(text: str) -> str:
    r"""Return *text* with everything that could disturb a terminal or an encoder as ``\x1b`` or ``\u2028``."""
    return _UNSAFE.sub(_escape, text)


def escape_surrogates(text: str) -> str:
    r"""Return *text* as valid Unicode; a byte of a path that is not UTF-8 becomes ``\xff``."""
    if text.isascii():
        return text

    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that no path can hold
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - the range of surrogateescape, https://peps.python.org/pep-0383/
        code -= 0xDC00

    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004 - one byte
