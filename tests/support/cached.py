"""Asks the kernel what of a file lies in the page cache. To look at its bytes, even without waiting, would read it in."""

import ctypes
import mmap
import os
from pathlib import Path

_C = ctypes.CDLL(None, use_errno=True)
_C.mmap.restype = ctypes.c_void_p
_C.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_C.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_C.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


def cached_share(path: Path) -> float:
    """Return how much of *path*, which is not empty, lies in the page cache, by mincore(2)."""
    size = path.stat().st_size
    pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    fd = os.open(path, os.O_RDONLY)
    address = _C.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    os.close(fd)
    failed = _C.mincore(address, size, pages)
    _C.munmap(address, size)
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")

    return sum(page & 1 for page in pages.raw) / len(pages)
