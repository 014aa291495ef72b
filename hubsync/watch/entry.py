"""The two values that stand for a file of a source."""

import os
from typing import NamedTuple

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
        facts = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return tuple.__new__(cls, facts)  # a third of what the constructor takes


class Entry(NamedTuple):
    """A regular file. With *link*, *path* is a symbolic link, and the rest is its target's, which lies in the source."""

    path: str
    identity: Identity
    mode: int
    link: bool = False

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> "Entry":
        """Return the entry of a regular file that is no link."""
        facts = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return tuple.__new__(cls, (path, tuple.__new__(Identity, facts), status.st_mode, False))
