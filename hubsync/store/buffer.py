"""Reads files in bulk: into buffers that cost the kernel least, and without a claim to the page cache.

The C library puts a large block 16 bytes behind the start of a page, and there the kernel's copy takes four times as long
on processors of AMD's Zen 3 (``rep movsb``: 0.63 s for each GiB, and 0.15 s at the start).
"""

import contextlib
import mmap
import os
import re

_DONTCACHE = 0x80  # RWF_DONTCACHE of preadv2(2)
_SOUND_SINCE = (6, 16)  # Linux has it since 6.14, where pages could be freed twice
_IS_SOUND = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2]) >= _SOUND_SINCE


def new_buffer(size: int) -> memoryview:
    """Return a new buffer of *size* bytes, which goes back to the system with the last view of it."""
    return memoryview(mmap.mmap(-1, max(1, size)))[:size]


def read_into(buffer: memoryview, fd: int, at: int) -> int:
    """Fill *buffer* with what the file *fd* holds from *at* on, and return how many bytes that are, as preadv(2) does.

    What lies in the page cache is taken from there; what does not is not kept there. A page that is read like any other, to
    hash it and to send it, is one that the kernel keeps at the cost of the training's data set.
    """
    if _IS_SOUND:
        with contextlib.suppress(OSError):  # not every file system has it; and what else is wrong, the other read says
            return os.preadv(fd, [buffer], at, _DONTCACHE)

    return os.preadv(fd, [buffer], at)
