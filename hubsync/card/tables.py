"""Puts values into Markdown: tables, escaped text, numbers as people read them. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence

from hubsync.monitor.text import escape_unsafe, format_bytes

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$])")
_INSIDE_WORD = re.compile(r"(?<=\w)\\_(?=\w)")
_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def escape(text: str) -> str:
    """Return *text* so that Markdown shows it as it is."""
    return _INSIDE_WORD.sub("_", _SPECIAL.sub(r"\\\1", escape_unsafe(text)))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 1) -> str:
    """Return a table; columns from *numbers_from* on stand to the right. Cells are Markdown already."""
    lines = [heads, [":--" if column < numbers_from else "--:" for column in range(len(heads))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fact_table(values: Mapping[str, str]) -> str:
    """Return a table of labels and values."""
    return table(("Property", "Value"), ((escape(label), escape(value)) for label, value in values.items()), numbers_from=2)


def format_metric(value: float | None) -> str:
    """Return a measure with as many digits as one compares by."""
    return "" if value is None else f"{value:.6g}"


def format_parameters(count: int) -> str:
    """Return a number of parameters: ``124.4M``."""
    for size, letter in _COUNTS:
        if count >= size:
            return f"{count / size:.4g}{letter}"

    return str(count)


def format_size(count: int) -> str:
    """Return *count* bytes; a space that does not break a table."""
    return format_bytes(count)


def code(text: str) -> str:
    """Return *text* as a piece of code in a line."""
    return f"`{escape_unsafe(text).replace('`', '')}`".replace("|", "\\|")
