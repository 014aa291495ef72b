"""Checks that a mirror's objects are what their names say, before the only other copy may go.

That an object is there and has its size tells nothing of its bytes. Small ones are read whole and hashed; of a large one
the start, the end and a spot that nobody can guess are compared with the file here, unless all is to be read. Nothing is
kept.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from hubsync.mirror.agent_client import TransferError
from hubsync.proof.reading import DAMAGED, Reader, Wanted
from hubsync.restore.get import Getter, Span
from hubsync.restore.sources import ApiSource, GitSource

WHOLE_BYTES = 8 << 20  # an object up to this size is read whole
_SPOT = 64 << 10
_THREADS = 4
_TRIES = 3
_PAUSE_S = 0.5


class Depth(Struct, frozen=True):
    """How deep is looked: *all* is read, or besides what is small only the objects that are *suspect* (by oid)."""

    all: bool = False
    suspect: Collection[str] = ()

    def is_whole(self, oid: str, size: int) -> bool:
        """Tell whether the object is to be read whole."""
        return self.all or size <= WHOLE_BYTES or oid in self.suspect


class Sounder(Struct, frozen=True):
    """Checks objects of the mirror behind *source*; *root* is where the files lie here, if they do."""

    source: ApiSource | GitSource
    timeout_s: float
    stop: threading.Event
    root: Path | None
    depth: Depth

    def find_damaged(self, objects: Mapping[str, tuple[int, str]]) -> dict[str, str]:
        """Return those of *objects* (oid → size in bytes, path here) that are not what they should be, and why.

        ``DAMAGED`` is what the mirror's bytes say; anything else is that they could not be had.
        """
        whole = {
            oid: Wanted(oid, size, is_object=True) for oid, (size, _) in objects.items() if self.depth.is_whole(oid, size)
        }
        reader = Reader(self.source, self.timeout_s, 0, self.stop, lambda _: None)
        bad = reader.read(whole) if whole else {}
        large = {oid: each for oid, each in objects.items() if oid not in whole} if self.root else {}
        with ThreadPoolExecutor(_THREADS) as pool:
            said = pool.map(lambda oid: self._compare(oid, *large[oid]), large)
            bad |= {oid: reason for oid, reason in zip(large, said, strict=True) if reason}

        return bad

    def _compare(self, oid: str, size: int, path: str) -> str:
        assert self.root is not None  # noqa: S101 - see above
        spots = (0, size - _SPOT, secrets.randbelow(size - _SPOT))
        with contextlib.closing(Getter(connect_s=min(10.0, self.timeout_s), stall_s=self.timeout_s)) as getter:
            for spot in spots:
                try:
                    here = _read_here(self.root / path, spot)
                    there = self._read_there(oid, Span(spot, spot + _SPOT, size), getter)
                except (TransferError, OSError) as exc:
                    return f"it cannot be read: {exc}"
                if here != there:
                    return DAMAGED

        return ""

    def _read_there(self, oid: str, span: Span, getter: Getter) -> bytes:
        for attempt in range(1, _TRIES + 1):
            try:
                return self._get(oid, span, getter)
            except TransferError as exc:
                if not exc.retryable or attempt == _TRIES or self.stop.wait(_PAUSE_S * attempt):
                    raise
        raise AssertionError

    def _get(self, oid: str, span: Span, getter: Getter) -> bytes:
        action = self.source.address(oid, span.size).download
        if action is None:
            raise TransferError("the LFS Batch API names no address for it", status=404)
        return b"".join(bytes(block) for block in getter.read(action, span, memoryview(bytearray(_SPOT))))


def _read_here(path: Path, spot: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.pread(fd, _SPOT, spot)
    finally:
        os.close(fd)
