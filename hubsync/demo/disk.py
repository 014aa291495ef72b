"""Measures what hubsync's state really costs on disk: blocks of files that share theirs with no file of the source."""

import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from msgspec import Struct

_BLOCK = 512  # st_blocks counts these, stat(2)
_OID_LENGTH = 64


class DiskUse(Struct):
    """The most that was ever used, in bytes: *extra* beside the source, *kept* for files that are deleted there."""

    extra: int = 0
    kept: int = 0

    def sample(self, state: Path, pins: Mapping[str, str], deleted: AbstractSet[str]) -> None:
        """Measure now; *pins* says of each oid how it is pinned, *deleted* are the oids whose files are gone."""
        extra = kept = 0
        for entry in _walk(state):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if status.st_nlink > 1:
                continue  # a hard link: the blocks are those of the source
            pin = pins.get(entry.name) if len(entry.name) == _OID_LENGTH else None
            if pin == "copy" or pin is None:
                extra += status.st_blocks * _BLOCK
            elif pin == "link" or entry.name in deleted:
                kept += status.st_blocks * _BLOCK
        self.extra = max(self.extra, extra)
        self.kept = max(self.kept, kept)


def measure_files(directory: Path) -> int:
    """Return the bytes of all files below *directory*, as far as they are there at this moment."""
    total = 0
    for entry in _walk(directory):
        try:
            total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue

    return total


def _walk(directory: Path) -> "Iterator[os.DirEntry[str]]":
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield entry
