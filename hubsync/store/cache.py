"""Lets files that were read in bulk leave the page cache: what lies there is to be the training's data set.

A page that is read twice, to hash it and to send it, is one that the kernel keeps at the cost of others. It can be dropped
once it is on the disk, where the kernel brings it half a minute after the trainer has written it; sooner if it is asked to.
"""

import contextlib
import ctypes
import functools
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from hubsync.priority import stand_back_further

_MOST_WAITING = 64
_WAIT_WRITE_WAIT = 7  # all flags of sync_file_range(2): returns when what is in the cache is on the disk


def let_go(path: Path) -> None:
    """Have the pages of *path* dropped when they are on the disk; nothing is waited for. What cannot be opened stays."""
    with contextlib.suppress(OSError):
        _leaving.add(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))


class _Leaving:
    """Open files whose pages are dropped, one file after the other, by a thread that lives as long as there are any."""

    def __init__(self) -> None:
        self._files: deque[int] = deque()
        self._lock = threading.Lock()

    def add(self, fd: int) -> None:
        with self._lock:
            is_waited_for = len(self._files) < _MOST_WAITING
            if is_waited_for:
                self._files.append(fd)
                if len(self._files) == 1 and not self._start():
                    self._files.clear()
                    is_waited_for = False
        if not is_waited_for:  # of very many, the small ones
            _drop(fd)

    def _start(self) -> bool:
        try:
            threading.Thread(target=self._run, name="hubsync-cache", daemon=True).start()
        except RuntimeError:  # there are too many of them
            return False

        return True

    def _run(self) -> None:
        stand_back_further()
        while True:
            with contextlib.suppress(OSError):
                if os.fstat(self._files[0]).st_nlink:  # else the pages go with the file
                    _write_out(self._files[0])
            _drop(self._files[0])
            with self._lock:
                self._files.popleft()
                if not self._files:
                    return


_leaving = _Leaving()


def _drop(fd: int) -> None:
    """Drop what is on the disk, and close *fd*; a disk that fails is said where its files are read."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    with contextlib.suppress(OSError):
        os.close(fd)


def _write_out(fd: int) -> None:
    """Wait until what was written to *fd* is on the disk, which makes no journal wait, unlike fsync(2)."""
    _sync_file_range()(fd, 0, 0, _WAIT_WRITE_WAIT)


@functools.cache
def _sync_file_range() -> Callable[..., object]:
    """Return the C library's call; one that does nothing where it has none."""
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is None:
        return lambda *_: None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    return call  # type: ignore[no-any-return]
