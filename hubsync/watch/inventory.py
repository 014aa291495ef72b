"""Owns the reading of a source: one listing of all of it, one look at one path, one safe way to open a file.

No symbolic link is ever followed on the way: each part of a path is opened relative to its parent with ``O_NOFOLLOW``, so
that a directory swapped for a link between two calls leads nowhere. Nothing but regular files is opened. Decides by
:mod:`hubsync.watch.rules` and :mod:`hubsync.watch.names`; knows nothing of content, time, or what was published.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hubsync.errors import FileChangedError, FileUnreadableError, SourceError
from hubsync.watch.names import Kind, Skip, judge_name, judge_names
from hubsync.watch.rules import PathRules, temporary_reason

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PASSAGE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # needs no right to list
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO swapped in must not make us wait
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_DEEPEST = 100  # one descriptor is open for each directory on the way down; the default limit is 1,024 for a process

_IRREGULAR = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)


class Identity(NamedTuple):  # not a dataclass: an inventory makes 100,000 of them, and a tuple takes a third of the time
    """What tells one state of a file from another; any write, replacement or forged time changes it."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        """Return the identity in *status*."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Entry(NamedTuple):
    """A regular file. With *link*, *path* is a symbolic link, and the rest is its target's, which lies in the source."""

    path: str
    identity: Identity
    mode: int
    link: bool = False


@dataclass(frozen=True, slots=True)
class Inventory:
    """A listing of a source, or of the part below one directory. All paths are relative to the source.

    Attributes:
        entries: the files that the rules take.
        skipped: what is not taken though no rule excludes it, and why.
        temporary: files under a temporary name: a writer may still be at work beside them.
        unreadable: directories (and files) that could not be looked at. What was known of them or below them is not
            gone; see :meth:`hides`.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    skipped: dict[str, Skip] = field(default_factory=dict)
    temporary: dict[str, Identity] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)

    def hides(self, path: str) -> bool:
        """Return whether *path* may still exist although no entry says so: it, or a parent, could not be read."""
        return bool(self.unreadable) and any(parent in self.unreadable for parent in _self_and_parents(path))


def take_inventory(source: Path, rules: PathRules, under: str = "") -> Inventory:
    """List *source*, or what lies below its directory *under*; empty if *under* is no directory that is taken.

    Raises:
        SourceError: *source* is missing, is no directory, or cannot be listed.
    """
    inventory = Inventory()
    with _opened_source(source) as root:
        if under and (judge_names(under) or not rules.verdict(under, is_dir=True).taken):
            return inventory
        try:
            _Walk(root, source, rules, inventory).list_directory(root, under, name=under or ".")
        except _SourceLostError as exc:
            raise SourceError(f"{source}: cannot be listed: {_words(exc.cause)}", hint=_SOURCE_HINT) from exc.cause

    return inventory


def look(source: Path, path: str) -> Entry | None:
    """Return the file that is at *path* now; ``None`` if there is none that could be taken (an inventory says why).

    Raises:
        SourceError: *source* is missing or no directory.
    """
    if judge_names(path):
        return None
    with _opened_source(source) as root:
        try:
            status = _stat_beneath(root, path)
            if stat.S_ISLNK(status.st_mode):
                found = _follow_link(root, source, path)
                return found if isinstance(found, Entry) else None
        except OSError:
            return None

    return Entry(path, Identity.of(status), status.st_mode) if stat.S_ISREG(status.st_mode) else None


def open_beneath(source: Path, path: str) -> int:
    """Open the regular file at *path*, following no symbolic link on the way, and return its descriptor.

    Raises:
        FileChangedError: it is gone, or is no regular file (any more).
        FileUnreadableError: it may not be read, or reading fails.
        SourceError: *source* is missing or no directory.
    """
    with _opened_source(source) as root:
        return _open_regular(root, path)


def open_entry(source: Path, entry: Entry) -> int:
    """Open the file that *entry* stands for: as :func:`open_beneath`, at the target inside the source if it is a link."""
    with _opened_source(source) as root:
        if not entry.link:
            return _open_regular(root, entry.path)
        try:
            target = _resolve_link(source, entry.path)
        except OSError as exc:
            raise _open_error(entry.path, exc) from exc
        if target is None:
            raise FileChangedError(f"{entry.path}: now leads out of the source")

        return _open_regular(root, target)


class _SourceLostError(Exception):
    """Carries the failure to list the source itself, which is no failure of a path in it."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Walk:
    """One listing in progress; *inventory* is filled as it goes."""

    def __init__(self, root: int, source: Path, rules: PathRules, inventory: Inventory) -> None:
        self._root = root
        self._source = source
        self._rules = rules
        self._inventory = inventory

    def list_directory(self, parent: int, path: str, *, name: str, depth: int = 0) -> None:
        """List the directory *name* of *parent*, which is *path*, and all below it."""
        try:
            opened = _open_directory(parent, name)
        except OSError as exc:
            self._note_failure(path, exc, is_dir=True)
            return
        try:
            for below, below_name in self._list_files(opened, path + "/" if path else ""):
                if depth < _DEEPEST:
                    self.list_directory(opened, below, name=below_name, depth=depth + 1)
                else:
                    self._inventory.skipped[below] = Skip(f"deeper than {_DEEPEST} directories", Kind.REJECTED)
        except OSError as exc:
            self._note_failure(path, exc, is_dir=True)
        finally:
            os.close(opened)

    def _list_files(self, opened: int, prefix: str) -> list[tuple[str, str]]:
        """Note the files of an open directory; return the directories in it that are to be entered."""
        directories = []
        with os.scandir(opened) as found:
            for item in found:
                name = item.name
                path = prefix + name
                is_dir = item.is_dir(follow_symlinks=False)
                if not self._rules.verdict_below_taken(path, name, is_dir=is_dir).taken:
                    if not is_dir:
                        self._note_temporary(path, item)
                elif skip := judge_name(name):
                    self._inventory.skipped[path] = skip
                elif is_dir:
                    directories.append((path, name))
                else:
                    self._note_file(path, item)

        return directories

    def _note_file(self, path: str, item: os.DirEntry[str]) -> None:
        try:
            status = item.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                self._inventory.entries[path] = Entry(path, Identity.of(status), status.st_mode)
                return
            found = (
                _follow_link(self._root, self._source, path)
                if stat.S_ISLNK(status.st_mode)
                else Skip(f"{_kind_of_file(status.st_mode)} is not a file", Kind.REJECTED)
            )
        except OSError as exc:
            self._note_failure(path, exc, is_dir=False)
            return
        if isinstance(found, Entry):
            self._inventory.entries[path] = found
        else:
            self._inventory.skipped[path] = found

    def _note_temporary(self, path: str, item: os.DirEntry[str]) -> None:
        """Note a file that only its temporary name keeps out; it is expected to vanish at any moment."""
        if not temporary_reason(item.name) or self._rules.exclusion(path, item.name):
            return
        try:
            self._inventory.temporary[path] = Identity.of(item.stat(follow_symlinks=False))
        except FileNotFoundError:
            return
        except OSError as exc:
            self._note_failure(path, exc, is_dir=False)

    def _note_failure(self, path: str, exc: OSError, *, is_dir: bool) -> None:
        """Note what could not be looked at; what is simply gone needs no note."""
        if path == "":
            raise _SourceLostError(exc) from exc
        if exc.errno in _GONE:
            return
        what = "directory" if is_dir else "file"
        self._inventory.skipped[path] = Skip(f"unreadable {what}: {_words(exc)}", Kind.UNREADABLE)
        self._inventory.unreadable.add(path)


_SOURCE_HINT = "create the directory, mount it, or correct `source`; nothing is deleted on any mirror meanwhile"


@contextmanager
def _opened_source(source: Path) -> Iterator[int]:
    """Hold the source open. The source itself may be a symbolic link: the operator named it."""
    try:
        root = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise SourceError(f"{source}: {_words(exc)}", hint=_SOURCE_HINT) from exc
    try:
        yield root
    finally:
        os.close(root)


@contextmanager
def _opened_parent(root: int, path: str) -> Iterator[tuple[int, str]]:
    """Walk to the directory that holds *path*; give its descriptor and the last name."""
    *parents, name = path.split("/")
    current = os.dup(root)
    try:
        for part in parents:
            below = os.open(_plain(part), _PASSAGE, dir_fd=current)
            os.close(current)
            current = below
        yield current, _plain(name)
    finally:
        os.close(current)


def _plain(part: str) -> str:
    """Return one part of a path; a part that would lead elsewhere does not exist for us."""
    if part in {"", ".", ".."}:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), part)

    return part


def _stat_beneath(root: int, path: str) -> os.stat_result:
    with _opened_parent(root, path) as (parent, name):
        return os.stat(name, dir_fd=parent, follow_symlinks=False)


def _open_directory(parent: int, path: str) -> int:
    if path == ".":
        return os.open(".", _DIRECTORY, dir_fd=parent)
    with _opened_parent(parent, path) as (directory, name):
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)


def _open_regular(root: int, path: str) -> int:
    try:
        with _opened_parent(root, path) as (parent, name):
            _require_regular(path, os.stat(name, dir_fd=parent, follow_symlinks=False))  # opening a device may act on it
            opened = os.open(name, _FILE, dir_fd=parent)
    except OSError as exc:
        raise _open_error(path, exc) from exc
    try:
        _require_regular(path, os.fstat(opened))
    except BaseException:
        os.close(opened)
        raise

    return opened


def _require_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileChangedError(f"{path}: {_kind_of_file(status.st_mode)} is not a regular file")


def _open_error(path: str, exc: OSError) -> FileChangedError | FileUnreadableError:
    if exc.errno in _GONE or exc.errno == errno.ENXIO:
        return FileChangedError(f"{path}: {_words(exc)}")

    return FileUnreadableError(
        f"{path}: {_words(exc)}", hint="run hubsync as the user that writes the files, or give that user's files a mode it can read"
    )


def _follow_link(root: int, source: Path, path: str) -> Entry | Skip:
    """Return the entry of a symbolic link to a file inside the source, or why there is none."""
    try:
        target = _resolve_link(source, path)
    except OSError as exc:
        why = "a loop" if exc.errno == errno.ELOOP else "nothing" if exc.errno in _GONE else _words(exc)
        return Skip(f"symlink to {why}", Kind.REJECTED if exc.errno in _GONE else Kind.UNREADABLE)
    if target is None:
        return Skip("symlink leaves the source", Kind.REJECTED)
    if target == "":
        return Skip("symlink to a directory is not followed", Kind.REJECTED)
    if judge_names(target):
        return Skip("symlink to a reserved name", Kind.REJECTED)
    status = _stat_beneath(root, target)
    if stat.S_ISDIR(status.st_mode):
        return Skip("symlink to a directory is not followed", Kind.REJECTED)
    if not stat.S_ISREG(status.st_mode):
        return Skip(f"symlink to {_kind_of_file(status.st_mode)}", Kind.REJECTED)

    return Entry(path, Identity.of(status), status.st_mode, link=True)


def _resolve_link(source: Path, path: str) -> str | None:
    """Return where *path* leads, relative to the source; ``None`` if that is outside of it."""
    top = os.path.realpath(source)
    target = os.path.realpath(os.path.join(top, path), strict=True)  # noqa: PTH118  surrogates and speed; no Path needed
    if target == top:
        return ""

    return target[len(top) :].lstrip("/") if target.startswith(top.rstrip("/") + "/") else None


def _kind_of_file(mode: int) -> str:
    return next((words for is_kind, words in _IRREGULAR if is_kind(mode)), "a directory or link")


def _self_and_parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]


def _words(exc: OSError) -> str:
    return exc.strerror or str(exc)
