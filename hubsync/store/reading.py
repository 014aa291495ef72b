"""Reads open files piece by piece, from the beginning, without moving their own place."""

import errno
import hashlib
import os
from collections.abc import Callable

_CHUNK = 1 << 20


def digest_file(
    fd: int, copy_fd: int | None = None, take: Callable[[memoryview], object] = lambda _: None, end: int | None = None
) -> str:
    """Return the SHA-256 of an open file, or of what it holds up to *end*; *take* gets each piece, *copy_fd* a copy.

    Raises:
        OSError: it ends before *end*.
    """
    sha = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    at = 0
    while count := os.preadv(fd, [view if end is None else view[: end - at]], at):
        sha.update(view[:count])
        if copy_fd is not None:
            _write_all(copy_fd, view[:count])
        at += count
        take(view[:count])
    if end is not None and at < end:
        raise OSError(errno.EIO, "it was cut short while it was read")

    return sha.hexdigest()


def _write_all(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]


def read_all(fd: int, size: int, on_bytes: Callable[[int], None]) -> bytes:
    """Return what an open file of *size* bytes holds; one byte more if it has grown."""
    pieces = []
    at = 0
    while at <= size:
        piece = os.pread(fd, min(_CHUNK, size + 1 - at), at)
        if not piece:
            break
        pieces.append(piece)
        at += len(piece)
    on_bytes(at)

    return b"".join(pieces)
