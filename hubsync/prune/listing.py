"""Lists all that lies in a directory, also what is never published, so that two looks at it can be compared."""

import errno
import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from hubsync.watch.entry import Identity


class Directory(NamedTuple):
    """What tells one state of a directory from another: any name that comes or goes moves its mtime."""

    dev: int
    ino: int
    mtime_ns: int


class Listing(Struct, frozen=True):
    """All files (links are not followed) and directories below one, by path relative to it; itself is the empty path."""

    files: Mapping[str, Identity]
    directories: Mapping[str, Directory]
    size: int

    @property
    def inodes(self) -> frozenset[tuple[int, int]]:
        """The device and inode of everything."""
        everything: tuple[Identity | Directory, ...] = (*self.files.values(), *self.directories.values())
        return frozenset((each.dev, each.ino) for each in everything)

    def difference(self, now: "Listing") -> str:
        """Return a path that is not as it was, for people; empty if there is none."""
        for path in sorted(self.files.keys() | now.files.keys()):
            if self.files.get(path) != now.files.get(path):
                return path
        changed = (path for path in sorted(self.directories) if self.directories[path] != now.directories.get(path))
        return next((path or "the directory itself" for path in changed), "")


def list_directory(name: str, parent: int) -> Listing:
    """List the directory *name* in the directory that the descriptor *parent* has open. Raises OSError."""
    files: dict[str, Identity] = {}
    directories: dict[str, Directory] = {}
    size = 0
    for place, _, names, fd in os.fwalk(name, dir_fd=parent, follow_symlinks=False, onerror=_raise):
        inside = place[len(name) + 1 :]
        status = os.fstat(fd)
        directories[inside] = Directory(status.st_dev, status.st_ino, status.st_mtime_ns)
        for each in names:
            status = os.stat(each, dir_fd=fd, follow_symlinks=False)
            files[f"{inside}/{each}" if inside else each] = Identity.of(status)
            if stat.S_ISREG(status.st_mode):
                size += status.st_blocks * 512

    if not directories:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)

    return Listing(files, directories, size)


def _raise(exc: OSError) -> None:
    raise exc
