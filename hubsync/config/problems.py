"""One mistake in a config, put so that it can be found and corrected. It never repeats a value it did not check."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from hubsync.config.positions import Loc, Place
from hubsync.errors import ConfigError
from hubsync.monitor.redact import redact
from hubsync.monitor.text import escape_unsafe

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Problem(Struct, frozen=True):
    """What is wrong at *key* of *file*, and the cure."""

    file: Path
    place: Place
    key: Loc
    message: str

    def __str__(self) -> str:
        """Return the line that the operator reads; compilers' format, which editors can follow."""
        said = f"{spell_key(self.key)}: {self.message}" if self.key else self.message
        return escape_unsafe(f"{self.file}:{self.place.line}:{self.place.column}: error: {redact(said)}")

    def as_document(self) -> dict[str, object]:
        """Return the same for machines."""
        return {
            "file": escape_unsafe(str(self.file)),
            "line": self.place.line,
            "column": self.place.column,
            "key": escape_unsafe(redact(spell_key(self.key))),
            "message": escape_unsafe(redact(self.message)),
        }


def spell_key(loc: Loc) -> str:
    """Return *loc* as people write it: ``target[0].mirrors[1].repo``."""
    spelt = ""
    for part in loc:
        if isinstance(part, int):
            spelt += f"[{part}]"
        else:
            spelt += ("." if spelt else "") + (part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False))

    return spelt


def raise_problems(problems: Iterable[Problem], files: Iterable[Path]) -> None:
    """Raise one ConfigError for all *problems*, in the order of *files* and lines, each key once; return if none."""
    first_of_key: dict[tuple[Path, Loc, str], Problem] = {}
    for problem in problems:
        first_of_key.setdefault((problem.file, problem.key, "" if problem.key else problem.message), problem)
    if not first_of_key:
        return

    order = {file: index for index, file in enumerate(files)}
    ordered = sorted(first_of_key.values(), key=lambda problem: (order.get(problem.file, len(order)), problem.place))
    raise ConfigError("\n".join(map(str, ordered)), problems=[problem.as_document() for problem in ordered])
