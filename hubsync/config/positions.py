"""Says where in a TOML text each key stands, since tomllib does not.

It reads only what tomllib has accepted, so it checks nothing, and it never knows what a key means.
"""

import re
import tomllib
from bisect import bisect_right
from typing import NamedTuple

Loc = tuple[str | int, ...]

_SKIPPED = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:\\.|[^"\\])*"|' r"'[^']*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")


class Place(NamedTuple):
    """A place in a text; both count from 1, columns in characters."""

    line: int
    column: int


class Places:
    """Where the keys and list items of one text stand."""

    def __init__(self, offsets: dict[Loc, int], text: str) -> None:
        self._offsets = offsets
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def find(self, loc: Loc) -> Place:
        """Return where *loc* stands, or the nearest thing around it that stands somewhere."""
        known = next((loc[:length] for length in range(len(loc), 0, -1) if loc[:length] in self._offsets), ())
        offset = self._offsets.get(known, 0)
        line = bisect_right(self._line_starts, offset)

        return Place(line, offset - self._line_starts[line - 1] + 1)


def find_places(text: str) -> Places:
    """Return the places of all keys and list items of *text*, which tomllib has accepted."""
    scanner = _Scanner(text)
    scanner.read_document()

    return Places(scanner.offsets, text)


class _Scanner:
    """Walks over the text once; ``at`` is the offset of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.offsets: dict[Loc, int] = {}
        self._table_counts: dict[Loc, int] = {}  # of each [[array of tables]], so far

    def read_document(self) -> None:
        table: Loc = ()
        self._skip(_SKIPPED)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._read_header()
            else:
                self._read_pair(table)
            self._skip(_SKIPPED)

    def _read_header(self) -> Loc:
        start = self.at
        brackets = 2 if self.text.startswith("[[", start) else 1
        self.at += brackets
        loc: Loc = ()
        for name, _ in self._read_key():
            loc = (*self._enter_last(loc), name)
            self.offsets.setdefault(loc, start)
        self._skip(_BLANK)
        self.at += brackets
        if brackets == 2:  # noqa: PLR2004 - [[ ]]
            self._table_counts[loc] = self._table_counts.get(loc, 0) + 1
            loc = self._enter_last(loc)
        self.offsets[loc] = start  # over what [a.b] before [a] has left

        return loc

    def _enter_last(self, loc: Loc) -> Loc:
        return (*loc, self._table_counts[loc] - 1) if loc in self._table_counts else loc

    def _read_pair(self, table: Loc) -> None:
        loc = table
        for name, offset in self._read_key():
            loc = (*loc, name)
            self.offsets.setdefault(loc, offset)
        self._skip(_BLANK)
        self.at += len("=")
        self._skip(_BLANK)
        self._read_value(loc)

    def _read_key(self) -> list[tuple[str, int]]:
        parts: list[tuple[str, int]] = []
        while not parts or self.text[self.at] == ".":
            self.at += len(".") if parts else 0
            self._skip(_BLANK)
            start = self.at
            self._skip(_STRING if self.text[start] in "\"'" else _BARE_KEY)
            parts.append((_unquote(self.text[start : self.at]), start))
            self._skip(_BLANK)

        return parts

    def _read_value(self, loc: Loc) -> None:
        first = self.text[self.at]
        if first == "[":
            self._read_list(loc)
        elif first == "{":
            self._read_inline_table(loc)
        else:
            self._skip(_STRING if first in "\"'" else _SCALAR)

    def _read_list(self, loc: Loc) -> None:
        index = 0
        self._step_over("[")
        while self.text[self.at] != "]":
            self.offsets[*loc, index] = self.at
            self._read_value((*loc, index))
            self._step_over(",")
            index += 1
        self.at += len("]")

    def _read_inline_table(self, loc: Loc) -> None:
        self._step_over("{")
        while self.text[self.at] != "}":
            self._read_pair(loc)
            self._step_over(",")
        self.at += len("}")

    def _step_over(self, mark: str) -> None:
        """Step over *mark*, if it comes next, and over the space and comments around it."""
        self._skip(_SKIPPED)
        if self.text[self.at] == mark:
            self.at += len(mark)
            self._skip(_SKIPPED)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at


def _unquote(key: str) -> str:
    return next(iter(tomllib.loads(f"{key}=0"))) if key[0] in "\"'" else key
