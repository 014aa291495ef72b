"""Counts what a pipeline has read, for who shows how far it is and who watches that it gets on."""

import threading
import time


class Reading:
    """How much was read, of how much; several threads read.

    Attributes:
        files: files that were read to their end.
        bytes: bytes that were read.
        all_files: ``files``, and those that are known and were not read.
        all_bytes: as ``all_files``.
        progressed: when the last piece, or directory, was read, in monotonic seconds.
    """

    def __init__(self) -> None:
        self.files = self.bytes = self.all_files = self.all_bytes = 0
        self.progressed = 0.0
        self._lock = threading.Lock()

    def expect(self, sizes: list[int]) -> None:
        """Note that files of these *sizes* are still to be read."""
        with self._lock:
            self.all_files, self.all_bytes = self.files + len(sizes), self.bytes + sum(sizes)

    def note_directory(self) -> None:
        """Note that a directory was listed."""
        self.progressed = time.monotonic()

    def add_bytes(self, count: int) -> None:
        """Count a piece that was read."""
        with self._lock:
            self.bytes += count
            self.all_bytes = max(self.all_bytes, self.bytes)
            self.progressed = time.monotonic()

    def add_file(self) -> None:
        """Count a file that was read to its end."""
        with self._lock:
            self.files += 1
            self.all_files = max(self.all_files, self.files)
            self.progressed = time.monotonic()
