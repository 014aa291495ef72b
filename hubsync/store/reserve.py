"""Owns files that do nothing but take room and inodes on the disk of a store, and are given up when that is full.

To publish takes a little room before it frees much: without it, a full disk would stay full.
"""

import contextlib
import os
import shutil
from pathlib import Path

from msgspec import Struct

_BYTES = 8 << 20
_FILES = 32  # inodes: those of a push, most of which are git's temporary files
_FULL_BYTES, _FULL_INODES = 1 << 20, 16
_SPARE = 4  # so many times as much must be free before it is taken


class Reserve:
    """The room that is held in *directory*."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "reserve"
        self._files = directory / "reserve.d"

    def take(self) -> None:
        """Take the room, if that leaves enough; what cannot be had is no failure."""
        with contextlib.suppress(OSError):
            self._take_bytes()
        with contextlib.suppress(OSError):
            self._take_files()

    def make_room(self) -> None:
        """Give the room back if there is hardly any other."""
        inodes = count_inodes(self._path.parent)
        if shutil.disk_usage(self._path.parent).free < _FULL_BYTES or (inodes is not None and inodes.free < _FULL_INODES):
            self.give_up()

    def give_up(self) -> bool:
        """Give the room back; tell whether there was any."""
        given = False
        with contextlib.suppress(OSError):
            self._path.unlink()
            given = True
        with contextlib.suppress(OSError):
            shutil.rmtree(self._files)
            given = True

        return given

    def _take_bytes(self) -> None:
        if self._path.exists() or shutil.disk_usage(self._path.parent).free < _SPARE * _BYTES:
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, _BYTES)
        finally:
            os.close(fd)

    def _take_files(self) -> None:
        inodes = count_inodes(self._path.parent)
        if self._files.exists() or inodes is None or inodes.free < _SPARE * _FILES:
            return
        self._files.mkdir(mode=0o700)
        for number in range(_FILES):
            (self._files / str(number)).touch(mode=0o600)


class Inodes(Struct, frozen=True):
    """How many more files a file system can hold, and how many in all."""

    free: int
    total: int


def count_inodes(directory: Path) -> Inodes | None:
    """Return how many inodes there are on the file system of *directory*; ``None`` if it makes them as it needs them."""
    status = os.statvfs(directory)
    return Inodes(status.f_favail, status.f_files) if status.f_files else None
