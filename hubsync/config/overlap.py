"""Tells whether two paths lead to the same files, whatever they are called: symbolic links, bind mounts, parents."""

import os
from pathlib import Path

from msgspec import Struct


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
        inodes = [_inode(member) for member in family]

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


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None

    return status.st_dev, status.st_ino
