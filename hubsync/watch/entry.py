"""The two values that stand for a file of a source."""

import os
from typing import NamedTuple

_OVER = 1 << 63

# Tuples, not data classes: an inventory makes 100,000 of each, and a frozen data class takes three times as long.


class Identity(NamedTuple):
    """What tells one state of a file from another; any write, replacement or forged time changes it."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        """Return the identity in *status*."""
        return tuple.__new__(cls, _facts(status))  # a third of what the constructor takes


class Entry(NamedTuple):
    """A regular file. With *link*, *path* is a symbolic link, and the rest is its target's, which lies in the source."""

    path: str
    identity: Identity
    mode: int
    link: bool = False

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> "Entry":
        """Return the entry of a regular file that is no link."""
        return tuple.__new__(cls, (path, tuple.__new__(Identity, _facts(status)), status.st_mode, False))


def _facts(status: os.stat_result) -> tuple[int, ...]:
    """Return what makes an identity, each number in the 64 bits with a sign that SQLite has room for.

    Inode numbers have none (overlayfs uses the highest bit), and times may lie outside of the years 1677 to 2262.
    """
    facts = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    dev, ino, _, mtime_ns, ctime_ns = facts
    if ino < _OVER and -_OVER <= mtime_ns < _OVER and ctime_ns < _OVER and dev < _OVER:
        return facts

    return tuple((fact + _OVER) % (2 * _OVER) - _OVER for fact in facts)
