"""The value that every structural check returns, and the one way in which they read."""

import os

from msgspec import Struct


class Verdict(Struct, frozen=True):
    """Whether a file is whole, and why. *rejected*: it never will be, waiting does not help."""

    whole: bool
    reason: str
    rejected: bool = False


def read_exactly(fd: int, length: int, start: int) -> bytes:
    """Return *length* bytes from *start*.

    Raises:
        EOFError: the file is shorter; it may have been truncated since its size was taken.
    """
    content = os.pread(fd, length, start)
    if len(content) < length:
        raise EOFError

    return content
