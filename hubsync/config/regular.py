"""Opens files that an operator names, and calls those that hold no content by their kind; it never knows what one is for.

A name may lead to anything. Opening a FIFO waits for who writes to it, opening a device may act on it.
"""

import errno
import os
import stat

_IRREGULAR = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symlink"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)


def kind_of_file(mode: int) -> str:
    """Return what a file that is no regular one is called."""
    return next((name for is_kind, name in _IRREGULAR if is_kind(mode)), "no regular file")


def open_regular(path: str, flags: int) -> int:
    """Open *path*, or what a link there leads to, as an ``opener`` of ``open``.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    _require_regular(path, os.stat(path).st_mode)  # noqa: PTH116 - an opener gets a string
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_regular(path, os.fstat(fd).st_mode)  # it may have been replaced since
    except BaseException:
        os.close(fd)
        raise

    return fd


def _require_regular(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {kind_of_file(mode)}, not a regular file", path)
