"""One piece of a restore: the bytes that a hash names, as they come in parts, and the check that they are those.

The parts of a large object come at the same time. Its bytes are hashed in their order, as they come where that is so and
read back where they came early. How far each part is, is written beside the bytes, so that a killed restore goes on.
"""

import contextlib
import hashlib
import os
import struct
import threading

from msgspec import Struct

from hubsync.restore.get import Span
from hubsync.restore.staging import Staging, write_all
from hubsync.store.buffer import new_buffer

PART_BYTES = 32 << 20
_COUNT = struct.Struct("<Q")
_BLOCK_BYTES = 1 << 20


class Piece(Struct, frozen=True):
    """Bytes by their hash: an LFS object by its SHA-256, or what lies in git by the name that git gives it."""

    name: str
    size: int
    is_object: bool


class Incoming:
    """What came of one piece, in *staging*. Parts are written by several threads, each part by one."""

    def __init__(self, piece: Piece, staging: Staging) -> None:
        self.piece = piece
        self.mirrors: set[str] = set()  # those that gave bytes since it was begun
        self._staging = staging
        self._lock = threading.Lock()
        self._fd = self._journal = -1
        self._hash = self._new_hash()
        self._hashed = 0
        self._part_bytes = PART_BYTES
        self.parts = max(1, -(-piece.size // PART_BYTES))
        self._done = [0] * self.parts
        self.is_resumed = False

    def open(self) -> int:
        """Open the files; return how many bytes are here already."""
        with self._lock:
            if self._fd < 0:
                self._fd = self._staging.open_piece(self.piece.name)
                if self.parts > 1:
                    self._journal = self._staging.open_piece(f"{self.piece.name}.parts")
                self._done = self._read_done()
                self.is_resumed = any(self._done)
            return sum(self._done)

    def _read_done(self) -> list[int]:
        size = os.fstat(self._fd).st_size
        if self.parts == 1:
            if size > self.piece.size:
                os.ftruncate(self._fd, 0)
                size = 0
            return [size]
        noted = os.pread(self._journal, self.parts * _COUNT.size, 0).ljust(self.parts * _COUNT.size, b"\0")
        counts = [count for (count,) in _COUNT.iter_unpack(noted)]
        return [min(count, self._length(n), max(0, size - n * PART_BYTES)) for n, count in enumerate(counts)]

    def _length(self, part: int) -> int:
        return min(self._part_bytes, self.piece.size - part * self._part_bytes)

    def join_parts(self) -> None:
        """Let it come in one part, since the server gives no ranges; only its first part was begun."""
        with self._lock:
            self._part_bytes, self.parts, self._done = self.piece.size, 1, self._done[:1]
        self._close_journal()
        self._staging.drop_piece(f"{self.piece.name}.parts")

    def lacking(self, part: int) -> Span | None:
        """Return what is still to come of *part*; ``None`` if nothing is."""
        start = part * self._part_bytes
        first, end = start + self._done[part], start + self._length(part)
        return Span(first, end, self.piece.size) if first < end else None

    def write(self, part: int, block: memoryview) -> None:
        """Take the next bytes of *part*."""
        at = part * self._part_bytes + self._done[part]
        write_all(self._fd, block, at)
        if at == self._hashed and self._lock.acquire(blocking=False):
            try:
                if at == self._hashed:
                    self._hash.update(block)
                    self._hashed += len(block)
            finally:
                self._lock.release()
        self._done[part] += len(block)
        if self._journal >= 0:
            os.pwrite(self._journal, _COUNT.pack(self._done[part]), part * _COUNT.size)

    def catch_up(self) -> bool:
        """Hash what came and was not hashed yet; tell whether the piece is complete."""
        with self._lock:
            buffer = new_buffer(_BLOCK_BYTES)
            while (left := self._reached() - self._hashed) > 0:
                count = os.preadv(self._fd, [buffer[: min(left, _BLOCK_BYTES)]], self._hashed)
                if not count:
                    break  # somebody has cut the file: the hash will be wrong
                self._hash.update(buffer[:count])
                self._hashed += count
            return self._hashed == self.piece.size and self._fd >= 0

    def _reached(self) -> int:
        reached = 0
        for part, done in enumerate(self._done):
            reached += done
            if done < self._length(part):
                break

        return reached

    def is_right(self) -> bool:
        """Tell whether the bytes are those that the name stands for."""
        return self._hash.hexdigest() == self.piece.name

    def keep(self) -> bool:
        """Make the bytes durable and close the files; return False if that was done already."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd < 0:
            return False
        os.fsync(fd)
        os.close(fd)
        self._close_journal()
        self._staging.drop_piece(f"{self.piece.name}.parts")

        return True

    def begin_anew(self) -> int:
        """Forget what came, since it is wrong; return how many bytes that were."""
        with self._lock:
            forgotten = sum(self._done)
            os.ftruncate(self._fd, 0)
            if self._journal >= 0:
                os.ftruncate(self._journal, 0)
            self._done = [0] * self.parts
            self._hash, self._hashed = self._new_hash(), 0
            self.is_resumed = False
            self.mirrors.clear()

        return forgotten

    def close(self) -> None:
        """Close the files; what came stays."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._close_journal()

    def _close_journal(self) -> None:
        journal, self._journal = self._journal, -1
        if journal >= 0:
            with contextlib.suppress(OSError):
                os.close(journal)

    def _new_hash(self) -> "hashlib._Hash":
        if self.piece.is_object:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.piece.size, usedforsecurity=False)
