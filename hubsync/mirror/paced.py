"""Reads an object for huggingface_hub to send: as fast as the endpoint may be uploaded to, and counted."""

import io
import os
from collections.abc import Callable
from pathlib import Path

from hubsync.store.throttle import Throttle

_PIECE_BYTES = 1 << 20


class PacedReader(io.BufferedIOBase):
    """The bytes of the file at *path*; *moved* is told of each piece, with its size, that is read to be sent.

    The library looks at its length and moves about in it before it sends; only what is read counts. ``stop`` may raise,
    which ends the upload.
    """

    def __init__(self, path: Path, throttle: Throttle, moved: Callable[[int], None], stop: Callable[[], None]) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size
        self._throttle = throttle
        self._moved = moved
        self._stop = stop
        self._at = 0

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._fd)
        super().close()

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to *offset* from the beginning, from here, or from the end; return where that is."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return up to *size* bytes, or all that is left, when they may leave."""
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        pieces = []
        while wanted:
            self._stop()
            piece = os.pread(self._fd, self._throttle.take(min(wanted, _PIECE_BYTES)), self._at)
            if not piece:
                break  # it was cut shorter: the server misses bytes
            pieces.append(piece)
            self._at += len(piece)
            wanted -= len(piece)
            self._moved(len(piece))

        return b"".join(pieces)
