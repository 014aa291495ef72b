"""Tells whether two paths lead to the same files, whatever they are called: symbolic links, bind mounts, parents."""

import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

_TABLE = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)
_OCTAL = re.compile(r"\\([0-7]{3})")


class _Mount(NamedTuple):
    """A directory *root* of a file system, which is shown at *point*."""

    device: str
    root: Path
    point: Path


class Lineage(Struct, frozen=True):
    """What a path leads to, by name and by inode, and all that it lies in. A path need not exist."""

    name: str
    names: frozenset[str]
    inode: tuple[int, int] | None
    inodes: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, path: Path) -> "Lineage":
        """Return the lineage of *path* as the file system is now."""
        real = Path(os.path.realpath(path))
        family = [real, *real.parents]
        elsewhere = [parent for name in _other_names(family) for parent in name.parents]
        inodes = [_inode(member) for member in (*family, *elsewhere)]

        return cls(str(real), frozenset(map(str, family)), inodes[0], frozenset(inode for inode in inodes if inode))

    def lies_in(self, other: "Lineage") -> bool:
        """Tell whether this is *other*, or something below it."""
        return other.name in self.names or other.inode in self.inodes

    def overlaps(self, other: "Lineage") -> bool:
        """Tell whether one of the two lies in the other."""
        return self.lies_in(other) or other.lies_in(self)

    def is_file(self) -> bool:
        """Tell whether there is something here, and it is no directory."""
        return self.inode is not None and not os.path.isdir(self.name)  # noqa: PTH112 - Path's raises on odd names


def _other_names(family: Sequence[Path]) -> Iterator[Path]:
    """Yield where else is shown what is mounted on the innermost mount point of *family*: the origins of a bind mount."""
    try:
        mounts = _read_table(_TABLE.read_bytes())
    except OSError:
        return
    on_top = {mount.point: mount for mount in mounts}  # the last of several on one point
    here = next((on_top[member] for member in family if member in on_top), None)
    for other in mounts:
        if here is not None and other.device == here.device and here.root.is_relative_to(other.root):
            name = other.point / here.root.relative_to(other.root)
            if name != here.point and _inode(name) == _inode(here.point):
                yield name


@functools.lru_cache(1)
def _read_table(table: bytes) -> list[_Mount]:
    rows = map(str.split, os.fsdecode(table).splitlines())
    return [_Mount(device, Path(_read(root)), Path(_read(point))) for _, _, device, root, point, *_ in rows]


def _read(word: str) -> str:
    """Return a word of the table as it is: a space, a tab, a line's end and a backslash stand there as octal numbers."""
    return _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), word)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None

    return status.st_dev, status.st_ino
