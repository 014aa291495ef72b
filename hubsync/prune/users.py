"""Tells whether anybody is at work in a directory: who has a file of it open, mapped, or stands in it.

The kernel tells it of every process by a lease, which is given only for a file that nobody else has open and is broken when
somebody opens it (fcntl(2)). Where a file system has none, or the file is another user's, ``/proc`` has to do: it shows the
processes of this user, and to root all.
"""

import contextlib
import errno
import fcntl
import os
import resource
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from hubsync.errors import HubsyncError
from hubsync.prune.listing import Listing
from hubsync.watch.entry import Identity

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_LEASES = frozenset({errno.EACCES, errno.EINVAL, errno.ENOLCK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_SPARE = 256  # descriptors that the rest of the process may want

Inode = tuple[int, int]


class InUseError(HubsyncError):
    """Somebody is at work in the unit, or was since it was looked at."""

    error_kind = "in_use"
    retryable = True


class Leases:
    """Leases on all files of a directory, as long as the context lasts: nobody else has one of them open, or gets to."""

    def __init__(self, name: str, parent: int, expected: Listing) -> None:
        self._name = name
        self._parent = parent
        self._expected = expected
        self._held: dict[str, int] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Take them all.

        Raises:
            InUseError: somebody has a file open, or one is not what was expected.
        """
        _allow_descriptors(len(self._expected.files) + _SPARE)
        with self._stack:
            for path, identity in self._expected.files.items():
                self._take(path, identity)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def is_broken(self, path: str) -> bool:
        """Tell whether somebody waits to open *path*."""
        fd = self._held.get(path)
        return fd is not None and fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_WRLCK

    def _take(self, path: str, identity: Identity) -> None:
        try:
            if not stat.S_ISREG(os.stat(f"{self._name}/{path}", dir_fd=self._parent, follow_symlinks=False).st_mode):
                return
            fd = os.open(f"{self._name}/{path}", _READ, dir_fd=self._parent)
        except PermissionError:
            return  # it can be removed, but not read: /proc has to do
        except OSError as exc:
            raise InUseError(f"{path} changed meanwhile: {exc.strerror}") from exc
        self._stack.callback(os.close, fd)
        try:
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # which is ignored; by default the kernel ends the process
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            self._held[path] = fd
        except OSError as exc:
            if exc.errno == errno.EAGAIN:
                raise InUseError(f"a process has {path} open") from exc
            if exc.errno not in _NO_LEASES:
                raise
        if Identity.of(os.fstat(fd)) != identity:
            raise InUseError(f"{path} changed meanwhile")


def find_user(listing: Listing) -> int | None:
    """Return the id of another process that has something of *listing* open or mapped, or stands in it."""
    inodes = listing.inodes
    # The device is another one than stat's on some file systems, so that the name has to do.
    mapped = {(identity.ino, path.rpartition("/")[2]) for path, identity in listing.files.items()}
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        if any(each in inodes for each in _opened(process)) or any(each in mapped for each in _mapped(process)):
            return int(process.name)

    return None


def _opened(process: Path) -> Iterator[Inode]:
    for link in (process / "cwd", *_list(process / "fd")):
        with contextlib.suppress(OSError):
            status = link.stat()
            yield status.st_dev, status.st_ino


def _list(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _mapped(process: Path) -> Iterator[tuple[int, str]]:
    """Yield inode and name of each file that a process has mapped."""
    with contextlib.suppress(OSError):
        for line in (process / "maps").read_text(errors="replace").splitlines():
            parts = line.split(maxsplit=5)
            if len(parts) > 5 and parts[5].startswith("/"):  # noqa: PLR2004 - proc(5)
                yield int(parts[4]), parts[5].rpartition("/")[2]


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard)
            )
