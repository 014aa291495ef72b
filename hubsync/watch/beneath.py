"""Owns the way into a source: opens and stats what lies beneath it, and never anything else.

No symbolic link is followed on the way: each part of a path is opened relative to its parent with ``O_NOFOLLOW``, so that a
directory swapped for a link between two calls leads nowhere. Nothing but regular files is opened for reading, since
opening a FIFO waits and opening a device may act on it.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hubsync.config.regular import kind_of_file
from hubsync.errors import FileChangedError, FileUnreadableError, HubsyncError, SourceError, is_limit, read_os_error
from hubsync.watch.entry import Entry

GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # what opening says of a path that is there no more
SOURCE_HINT = "create the directory, mount it, or correct `source`; nothing is deleted on any mirror meanwhile"
READ_HINT = "run hubsync as the user that writes the files; safetensors 0.8 and later lets only that user read"

_T = TypeVar("_T")

_SOURCE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC  # may be a symbolic link itself: the operator named it
_PASSAGE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # needs no right to list
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO swapped in must not make us wait


@contextmanager
def opened_source(source: Path) -> Iterator[int]:
    """Hold *source* open as a place to start from.

    Raises:
        SourceError: it is missing or no directory.
        StateError: a limit of the system does not allow it now.
    """
    try:
        root = os.open(source, _SOURCE)
    except OSError as exc:
        raise source_error(exc, f"{source}: {words(exc)}") from exc
    try:
        yield root
    finally:
        os.close(root)


@contextmanager
def opened_parent(root: int, path: str) -> Iterator[tuple[int, str]]:
    """Walk from *root* to the directory that holds *path*; give its descriptor and the last name."""
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


def open_directory(parent: int, name: str) -> int:
    """Open the directory *name* of the open directory *parent* for listing."""
    return os.open(name, _DIRECTORY, dir_fd=parent)


class _Held(threading.local):
    """The directory that this thread holds open, if it is inside ``held_directories``."""

    depth = 0
    place: tuple[Path, str] | None = None
    fd = -1

    def close(self) -> None:
        if self.place is not None:
            os.close(self.fd)
            self.place = None


_held = _Held()


@contextmanager
def held_directories() -> Iterator[None]:
    """Inside, this thread keeps the directory open that it was led to last: the files of a batch lie side by side.

    What is moved away meanwhile is still seen where it was.
    """
    _held.depth += 1
    try:
        yield
    finally:
        _held.depth -= 1
        if not _held.depth:
            _held.close()


def _act_beneath(source: Path, path: str, act: Callable[[int, str], _T]) -> _T:
    """Return what *act* does with the open directory of *path* and the last name of it."""
    directory, _, name = path.rpartition("/")
    if not _held.depth:
        with opened_source(source) as root, opened_parent(root, path) as (parent, _):
            return act(parent, _plain(name))
    if _held.place != (source, directory):
        _held.close()
        with opened_source(source) as root, opened_parent(root, path) as (parent, _):
            _held.fd = os.dup(parent)
        _held.place = (source, directory)

    return act(_held.fd, _plain(name))


def stat_beneath(source: Path, path: str) -> os.stat_result:
    """Return the status of what *path* is, not of what it may link to.

    Raises:
        OSError: it is gone, or on the way there is no directory.
        SourceError: *source* is missing or no directory.
    """
    return _act_beneath(source, path, _stat)


def _stat(parent: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=parent, follow_symlinks=False)


def resolve_link(source: Path, path: str) -> str | None:
    """Return where the link *path* leads, relative to *source* and empty for itself; ``None`` if that is outside of it."""
    top = os.path.realpath(source)
    target = os.path.realpath(f"{top}/{path}", strict=True)
    if target == top:
        return ""
    prefix = top.rstrip("/") + "/"

    return target[len(prefix) :] if target.startswith(prefix) else None


def open_beneath(source: Path, path: str) -> int:
    """Open the regular file at *path*, following no symbolic link on the way, and return its descriptor.

    Raises:
        FileChangedError: it is gone, or is no regular file (any more).
        FileUnreadableError: it may not be read, or opening fails.
        SourceError: *source* is missing or no directory.
    """
    try:
        return _act_beneath(source, path, lambda parent, name: _open_regular(parent, name, path))
    except OSError as exc:
        raise _open_error(path, exc) from exc


def open_entry(source: Path, entry: Entry) -> int:
    """Open the file of *entry*: as :func:`open_beneath`, for a link at its target inside the source."""
    if not entry.link:
        return open_beneath(source, entry.path)
    try:
        target = resolve_link(source, entry.path)
    except OSError as exc:
        raise _open_error(entry.path, exc) from exc
    if not target:
        raise FileChangedError(entry.path, "the symlink now leads out of the source")

    return open_beneath(source, target)


def source_error(exc: OSError, message: str) -> HubsyncError:
    """Return what a failure on a source itself means: a limit of ours says nothing of the source."""
    return read_os_error(exc) if is_limit(exc) else SourceError(message, hint=SOURCE_HINT)


def read_hint(exc: OSError) -> str:
    """Return what the operator can do about a file or directory that cannot be read."""
    return read_os_error(exc).hint if is_limit(exc) else READ_HINT


def words(exc: OSError) -> str:
    """Return what the system calls a failure."""
    return exc.strerror or str(exc)


def _open_regular(parent: int, name: str, path: str) -> int:
    _require_regular(path, _stat(parent, name))
    opened = os.open(name, _FILE, dir_fd=parent)
    try:
        _require_regular(path, os.fstat(opened))  # it may have been replaced since
    except BaseException:
        os.close(opened)
        raise

    return opened


def _plain(part: str) -> str:
    """Return one part of a path; a part that would lead elsewhere does not exist for us."""
    if part in {"", ".", ".."}:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), part)

    return part


def _require_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileChangedError(path, f"is {kind_of_file(status.st_mode)}")


def _open_error(path: str, exc: OSError) -> FileChangedError | FileUnreadableError:
    if exc.errno in GONE or exc.errno == errno.ENXIO:
        return FileChangedError(path, words(exc))

    return FileUnreadableError(path, words(exc), hint=read_hint(exc))
