"""Finds processes that may still write to files: those that have them open, or mapped into memory, for writing.

Of other users' processes this can be told by root only; those that cannot be looked at are left out.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR
Inode = tuple[int, int]


def find_writers(inodes: Collection[Inode]) -> dict[Inode, int]:
    """Return those of *inodes* (device, inode) that some process may write to, and the process's id."""
    if not inodes:
        return {}
    numbers = {inode: (device, inode) for device, inode in inodes}
    found: dict[Inode, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        for inode in (*_open_for_writing(process, frozenset(inodes)), *_mapped_for_writing(process, numbers)):
            found.setdefault(inode, pid)

    return found


def _open_for_writing(process: Path, inodes: Collection[Inode]) -> Iterator[Inode]:
    try:
        opened = os.listdir(process / "fd")  # noqa: PTH208 - a hundred thousand names on a large machine
    except OSError:
        return
    for fd in opened:
        try:
            status = os.stat(f"{process}/fd/{fd}")  # noqa: PTH116 - Path takes thrice as long
            inode = (status.st_dev, status.st_ino)
            if inode in inodes and _flags(process, fd) & _WRITING:
                yield inode
        except (OSError, ValueError):
            continue


def _flags(process: Path, fd: str) -> int:
    lines = (process / "fdinfo" / fd).read_text().splitlines()
    return next((int(line.split()[1], 8) for line in lines if line.startswith("flags:")), 0)


def _mapped_for_writing(process: Path, numbers: dict[int, Inode]) -> Iterator[Inode]:
    try:
        lines = (process / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, rights, _, _, number, *_ = line.split(maxsplit=5)
        # The device is another one than stat's on some file systems, so the inode's number alone has to do.
        if rights.startswith("rw") and rights.endswith("s") and int(number) in numbers:
            yield numbers[int(number)]
