"""Reads config files: finds them, decodes them, remembers where each key stands. It never knows what a key means."""

import glob
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hubsync.config.context import FileContext
from hubsync.config.positions import Loc, Place, Places, find_places
from hubsync.config.problems import Problem
from hubsync.config.regular import open_regular
from hubsync.errors import ConfigError

FILE_NAME = "hubsync.toml"
_SYSTEM_FILE = Path("/etc/hubsync") / FILE_NAME
_LARGEST_BYTES = 16 * 1024 * 1024  # somebody named a checkpoint instead of a config
_WHERE = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
_CURES = {  # by what tomllib says, whose words are kept
    "Invalid value": "text stands in quotes, true and false in lower case",
    "Cannot overwrite a value": "the key stands here twice; remove one of them",
    "Cannot declare": "the table stands here twice; join the two",
    "Expected newline or end of document": "one key = value to a line, and text in quotes",
    "Expected '=' after a key": "write key = value",
    "Unclosed array": 'close the list with "]"',
}


class Document(Struct, frozen=True):
    """One file, as TOML: its *data*, where its keys stand, what its paths depend on, and a *mark* that an edit changes."""

    path: Path
    data: dict[str, Any]
    places: Places
    context: FileContext
    mark: str = ""

    def problem(self, loc: Loc, message: str) -> Problem:
        """Return the problem that stands at *loc*."""
        return Problem(self.path, self.places.find(loc), loc, message)

    def where(self, loc: Loc) -> str:
        """Return the file and line of *loc*, to be named in a message about another place."""
        return f"{self.path}:{self.places.find(loc).line}"

    def with_table(self, name: str, table: dict[str, Any]) -> "Document":
        """Return the document with *table* under *name*, as if it had stood in the file."""
        return replace(self, data={**self.data, name: table})

    def table(self, name: str) -> dict[str, Any]:
        """Return the table called *name*; an empty one if it is missing or something else."""
        table = self.data.get(name)
        return table if isinstance(table, dict) else {}

    def targets(self) -> Iterator[tuple[Loc, dict[str, Any]]]:
        """Return every [[target]] that is a table, with its place."""
        targets = self.data.get("target")
        for index, target in enumerate(targets if isinstance(targets, list) else ()):
            if isinstance(target, dict):
                yield ("target", index), target


def find_config(path: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the config file to use: *path*, else $HUBSYNC_CONFIG, else the first that exists in the usual places."""
    named = str(path) if path is not None else environment.get("HUBSYNC_CONFIG", "")
    home = environment.get("HOME")
    if named:
        return (Path(home, named[2:]) if home and named.startswith("~/") else Path(named)).absolute()

    usual = [Path(FILE_NAME).absolute(), *([Path(home, ".config/hubsync", FILE_NAME)] if home else []), _SYSTEM_FILE]
    found = next((candidate for candidate in usual if os.path.lexists(candidate)), None)
    if found is None:
        looked = "".join(f"\n  {candidate}" for candidate in usual)
        raise ConfigError(f"no config found; looked for{looked}", hint="run `hubsync init`, or name one with --config")

    return found


def read_document(path: Path, home: str | None) -> Document | Problem:
    """Return what stands in *path*, or the reason why that cannot be said."""
    try:
        with open(path, "rb", opener=None if _is_handed_over(path) else open_regular) as file:
            mark = mark_of(os.fstat(file.fileno()))
            raw = file.read(_LARGEST_BYTES + 1)
        text = raw[:_LARGEST_BYTES].decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as exc:
        return _whole(path, f"cannot be read: {exc.strerror or exc}; name a readable TOML file, or run `hubsync init`")
    except UnicodeDecodeError as exc:
        before = raw[: exc.start].rpartition(b"\n")
        place = Place(raw.count(b"\n", 0, exc.start) + 1, len(before[2].decode()) + 1)
        return Problem(path, place, (), "is not UTF-8 here; save the file as UTF-8")
    if len(raw) > _LARGEST_BYTES:
        return _whole(path, "is too large for a config; name a TOML file")

    try:
        return Document(path, tomllib.loads(text), find_places(text), FileContext(path.parent, home), mark)
    except RecursionError:
        return _whole(path, "is nested too deeply; a config needs no more than four levels")
    except ValueError as exc:  # TOMLDecodeError, and what int() says of thousands of digits
        return _explain_syntax(path, text, str(exc))


def _is_handed_over(path: Path) -> bool:
    """Tell whether *path* names a pipe that is open already, as a shell hands over ``<(...)``: it has a writer."""
    return os.path.realpath(path).startswith("/proc/")


def mark_of(status: os.stat_result) -> str:
    """Return what changes when a file is edited or replaced."""
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def find_included(main: Document) -> Iterator[Path | Problem]:
    """Return the files that *main* includes, each once, and a problem for each name that stands for none."""
    seen = {os.path.realpath(main.path)}
    patterns = main.data.get("include")
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else ()):
        try:
            located = str(main.context.locate(pattern)) if isinstance(pattern, str) else ""
        except ValueError as exc:
            yield main.problem(("include", index), str(exc))
            continue

        found = sorted(glob.glob(located)) if located else []  # noqa: PTH207 - Path.glob takes no absolute pattern
        if located and not found and not glob.has_magic(located):
            yield main.problem(("include", index), "names a file that does not exist; correct it, or write a glob")
        yield from (Path(name) for name in found if _add(seen, os.path.realpath(name)))


def _add(seen: set[str], name: str) -> bool:
    is_new = name not in seen
    seen.add(name)

    return is_new


def _whole(path: Path, message: str) -> Problem:
    return Problem(path, Place(1, 1), (), message)


def _explain_syntax(path: Path, text: str, said: str) -> Problem:
    match = _WHERE.fullmatch(said)
    what = match["what"] if match else "a number is too long"
    if match and match["line"]:
        place = Place(int(match["line"]), int(match["column"]))
    else:
        lines = text.rstrip("\n").split("\n")
        place = Place(len(lines), len(lines[-1]) + 1) if match else Place(1, 1)

    cure = next((cure for start, cure in _CURES.items() if what.startswith(start)), "correct it here")
    return Problem(path, place, (), f"is not TOML: {what[:1].lower()}{what[1:]}; {cure}")
