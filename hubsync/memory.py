"""Keeps the memory that one large step took from staying with the process for good.

The C library grows its heaps for a step over 100,000 files, one heap for each thread, and would keep them. Where it is
not glibc, nothing is done.
"""

import ctypes
import functools
import gc

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_LARGE_BYTES = 1 << 18  # blocks from this size on go back to the system as soon as they are free
_ARENAS = 2


def bound_heaps() -> None:
    """Share two heaps among all threads, and keep large blocks out of them; to be called before threads are started."""
    if (mallopt := getattr(_c_library(), "mallopt", None)) is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_TRIM_THRESHOLD, _LARGE_BYTES)
        mallopt(_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Give what is free to the system, and first what hangs in circles, which is hardly ever looked for else.

    The first time sets aside what the imports made: it stays, and to look through it took most of each later time.
    """
    gc.collect()
    _freeze()
    if (trim := getattr(_c_library(), "malloc_trim", None)) is not None:
        trim(0)


@functools.cache  # once; to ask whether it was done counts all that is frozen
def _freeze() -> None:
    gc.freeze()


@functools.cache  # each one is a class of its own, and garbage in a circle
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
