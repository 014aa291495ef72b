"""Owns the listing of a source: all of it, the part below one directory, or one path.

Decides by :mod:`hubsync.watch.rules` and :mod:`hubsync.watch.names`; knows nothing of content, time, or what was published.
An inventory is the truth that events only hint at, so whatever it could not look at is told apart from what is gone.
"""

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from msgspec import Struct, field

from hubsync.config.regular import kind_of_file
from hubsync.errors import is_limit, read_os_error
from hubsync.watch.beneath import (
    GONE,
    open_beneath,
    open_directory,
    open_entry,
    opened_parent,
    opened_source,
    read_hint,
    resolve_link,
    source_error,
    stat_beneath,
    words,
)
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.mounts import network_file_system
from hubsync.watch.names import Kind, Skip, are_plain, fold, is_plain, judge_length, judge_name, judge_names
from hubsync.watch.rules import DEEPEST, PathRules, temporary_reason

__all__ = [
    "Entry",
    "Identity",
    "Inventory",
    "Kind",
    "Skip",
    "examine",
    "look",
    "network_file_system",
    "open_beneath",
    "open_entry",
    "take_inventory",
]

_LOOKED_AT = 1000  # files of a temporary directory, to see when it was last written
_COPY_HINT = "put what it leads to in its place, or exclude it"
_TOO_DEEP = Skip(f"deeper than {DEEPEST} directories", Kind.REJECTED, "move it up, or exclude it")
_LINKED_DIRECTORY = Skip("symlink to a directory is not followed", Kind.REJECTED, _COPY_HINT)


class Inventory(Struct, frozen=True):
    """A listing of a source, or of the part below one directory. All paths are relative to the source.

    Attributes:
        entries: the files that the rules take; none if they were handed over one by one.
        skipped: what is not taken though no rule excludes it, and why.
        temporary: files and directories under a temporary name: a writer may still be at work there.
        unreadable: what could not be looked at. What was known of it, or below it, is not gone; see :meth:`hides`.
        alike: the files that are called as another one is, or lie in such a directory, if case and Unicode
            are folded.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    skipped: dict[str, Skip] = field(default_factory=dict)
    temporary: dict[str, Identity] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    alike: list[str] = field(default_factory=list)

    def hides(self, path: str) -> bool:
        """Return whether *path* may still exist although no entry says so: it, or a parent, could not be read."""
        return bool(self.unreadable) and any(part in self.unreadable for part in _self_and_parents(path))


def take_inventory(
    source: Path,
    rules: PathRules,
    under: str = "",
    on_directory: Callable[[], None] = lambda: None,
    on_file: Callable[[Entry], None] | None = None,
) -> Inventory:
    """List *source*, or what lies below its directory *under*; empty if *under* is no directory that is taken.

    *on_directory* is called for each directory, so that who waits sees that it gets on. *on_file* is handed each file that
    is taken, in the order of their paths, instead of a listing of very many.

    Raises:
        SourceError: *source* is missing, is no directory, or cannot be listed.
    """
    inventory = Inventory()
    walk = _Walk(source, rules, inventory, on_directory, on_file)
    with opened_source(source) as root:
        if not under:
            walk.list_directory(root, "", ".")
        elif not judge_names(under, is_dir=True) and rules.verdict(under, is_dir=True).taken:
            try:
                with opened_parent(root, under) as (parent, name):
                    walk.list_directory(parent, under, name)
            except OSError as exc:
                walk.note_failure(under, exc)

    return inventory


def look(source: Path, path: str) -> Entry | None:
    """Return the file that is at *path* now; ``None`` if there is none that could be taken (an inventory says why).

    Raises:
        SourceError: *source* is missing or no directory.
    """
    found = examine(source, path)
    return found if isinstance(found, Entry) else None


def examine(source: Path, path: str) -> Entry | Skip | None:
    """Return the file that is at *path* now, or why it is not taken; ``None`` if nothing is there.

    Raises:
        SourceError: *source* is missing or no directory.
        StateError: too many files are open to look.
    """
    if skip := judge_names(path):
        return skip
    try:
        return _judge_status(source, path, stat_beneath(source, path))
    except OSError as exc:
        if is_limit(exc):  # nothing would tell when there are fewer
            raise read_os_error(exc) from exc
        return None if exc.errno in GONE else _unreadable(exc)


def why_unseen(source: Path, path: str) -> Skip | None:
    """Return why it cannot be seen whether anything is at *path*, which so may not be taken for gone; else ``None``."""
    found = examine(source, path)
    return found if isinstance(found, Skip) and found.kind is Kind.UNREADABLE else None


class _Walk:
    """One listing in progress; *inventory* is filled as it goes."""

    def __init__(
        self,
        source: Path,
        rules: PathRules,
        inventory: Inventory,
        on_directory: Callable[[], None],
        on_file: Callable[[Entry], None] | None,
    ) -> None:
        self._source = source
        self._rules = rules
        self._inventory = inventory
        self._on_directory = on_directory
        self._on_file = on_file

    def list_directory(self, parent: int, path: str, name: str, depth: int = 0, *, is_alike: bool = False) -> None:
        """List the directory *name* of the open directory *parent*, which is *path*, and all below it.

        *is_alike*: it, or one above it, is called as another one is.
        """
        self._on_directory()
        try:
            opened = open_directory(parent, name)
        except OSError as exc:
            self.note_failure(path, exc)
            return
        try:
            self._list_items(opened, path + "/" if path else "", depth, is_alike=is_alike)
        except OSError as exc:
            self.note_failure(path, exc)
        finally:
            os.close(opened)

    def note_failure(self, path: str, exc: OSError) -> None:
        """Note what could not be looked at; what is simply gone needs no note.

        Raises:
            SourceError: *path* is the source itself.
        """
        if not path:
            raise source_error(exc, f"{self._source}: cannot be listed: {words(exc)}") from exc
        if exc.errno in GONE:
            return
        self._inventory.skipped[path] = _unreadable(exc)
        self._inventory.unreadable.add(path)

    def _list_items(self, opened: int, prefix: str, depth: int, *, is_alike: bool) -> None:
        """Note all that is in an open directory, and below it, in the order of its paths."""
        with os.scandir(opened) as found:
            items = sorted(found, key=_place)
        names = "/".join([item.name for item in items])  # asked of all at once: nearly always nothing is the matter
        alike = _find_alike(names)
        are_usual = are_plain(prefix, names) and self._rules.are_ordinary(names)
        for item in items:
            name = item.name
            path = prefix + name
            is_dir = item.is_dir(follow_symlinks=False)
            if not is_dir and (are_usual or (is_plain(path, name) and self._rules.is_ordinary(path, name))):
                self._note_file(path, item, is_alike or name in alike)
            elif not self._rules.verdict_below_taken(path, name, is_dir=is_dir).taken:
                self._note_temporary(opened, path, item, is_dir=is_dir)
            elif skip := judge_name(name, is_dir=is_dir) or judge_length(path):
                self._inventory.skipped[path] = skip
            elif not is_dir:
                self._note_file(path, item, is_alike or name in alike)
            elif depth < DEEPEST:
                self.list_directory(opened, path, name, depth + 1, is_alike=is_alike or name in alike)
            else:
                self._inventory.skipped[path] = _TOO_DEEP

    def _note_file(self, path: str, item: os.DirEntry[str], is_alike: bool) -> None:  # noqa: FBT001 - called for each file
        try:
            status = item.stat(follow_symlinks=False)
            is_regular = stat.S_ISREG(status.st_mode)
            found = Entry.of(path, status) if is_regular else _judge_status(self._source, path, status)
        except OSError as exc:
            self.note_failure(path, exc)
            return
        if not isinstance(found, Entry):
            self._inventory.skipped[path] = found
            return
        if is_alike:
            self._inventory.alike.append(path)
        if self._on_file is None:
            self._inventory.entries[path] = found
        else:
            self._on_file(found)

    def _note_temporary(self, opened: int, path: str, item: os.DirEntry[str], *, is_dir: bool) -> None:
        """Note what only a temporary name keeps out; a directory by what was last written in it."""
        if not temporary_reason(item.name) or self._rules.exclusion(path, item.name, is_dir=is_dir):
            return  # a directory such as __pycache__ is no writer's, and is asked for as a file on purpose
        try:
            states = [item.stat(follow_symlinks=False)]
            if is_dir:
                states += islice(_states_below(opened, item.name), _LOOKED_AT)
            self._inventory.temporary[path] = Identity.of(max(states, key=lambda state: state.st_ctime_ns))
        except FileNotFoundError:
            return  # as temporary files do
        except OSError as exc:
            self.note_failure(path, exc)


def _states_below(parent: int, name: str) -> Iterator[os.stat_result]:
    """Yield the status of every file below the directory *name* of the open one *parent*, without what goes meanwhile."""
    for _, _, files, directory in os.fwalk(name, dir_fd=parent):
        for file in files:
            with contextlib.suppress(OSError):
                yield os.stat(file, dir_fd=directory, follow_symlinks=False)


def _place(item: os.DirEntry[str]) -> str:
    """Return what puts the items of a directory into the order of the paths below it, which is that of their bytes."""
    return item.name + "/" if item.is_dir(follow_symlinks=False) else item.name


def _find_alike(names: str) -> frozenset[str]:
    """Return those of *names*, which a slash divides, that are another one of them if case and Unicode are folded."""
    folded = fold(names).split("/")
    if len(set(folded)) == len(folded):
        return frozenset()
    count = Counter(folded)
    return frozenset(name for name, one in zip(names.split("/"), folded, strict=True) if count[one] > 1)


def _unreadable(exc: OSError) -> Skip:
    return Skip(f"unreadable: {words(exc)}", Kind.UNREADABLE, read_hint(exc))


def _judge_status(source: Path, path: str, status: os.stat_result) -> Entry | Skip:
    """Return the entry of what is at *path*, or why there is none."""
    if stat.S_ISREG(status.st_mode):
        return Entry.of(path, status)
    if stat.S_ISLNK(status.st_mode):
        return _follow_link(source, path)

    return Skip(f"{kind_of_file(status.st_mode)} holds no content to publish", Kind.REJECTED, "exclude it")


def _follow_link(source: Path, path: str) -> Entry | Skip:
    """Return the entry of a symbolic link to a file inside the source, or why there is none."""
    try:
        target = resolve_link(source, path)
    except OSError as exc:
        if exc.errno in GONE:
            return Skip(f"symlink that leads nowhere: {words(exc)}", Kind.REJECTED, _COPY_HINT)
        raise
    if target is None:
        return Skip("symlink leaves the source", Kind.REJECTED, _COPY_HINT)
    if not target:
        return _LINKED_DIRECTORY
    if judge_names(target):
        return Skip("symlink to a reserved name", Kind.REJECTED, _COPY_HINT)
    status = stat_beneath(source, target)
    if stat.S_ISREG(status.st_mode):
        return Entry(path, Identity.of(status), status.st_mode, link=True)

    return (
        _LINKED_DIRECTORY
        if stat.S_ISDIR(status.st_mode)
        else Skip(f"symlink to {kind_of_file(status.st_mode)}", Kind.REJECTED, "exclude it")
    )


def _self_and_parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]
