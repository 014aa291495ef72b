"""Files that are only in memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def opened(content: bytes) -> Iterator[int]:
    """Give an open file with *content*."""
    fd = os.memfd_create("content")
    try:
        os.pwrite(fd, content, 0)
        yield fd
    finally:
        os.close(fd)
