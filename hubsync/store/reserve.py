"""Owns a file that does nothing but take room on the disk of a store, and is given up when that is full.

To publish takes a little room before it frees much: without it, a full disk would stay full.
"""

import contextlib
import os
import shutil
from pathlib import Path

_BYTES = 8 << 20
_SPARE = 4  # so many times as much must be free before it is taken


class Reserve:
    """The room that is held in *directory*."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "reserve"

    def take(self) -> None:
        """Take the room, if that leaves enough; one that cannot be had is no failure."""
        with contextlib.suppress(OSError):
            if self._path.exists() or shutil.disk_usage(self._path.parent).free < _SPARE * _BYTES:
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, _BYTES)
            finally:
                os.close(fd)

    def give_up(self) -> bool:
        """Give the room back; tell whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False

        return True
