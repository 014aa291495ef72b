"""Runs the real program on a terminal of a given size, and says what it wrote there."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence
from typing import Any, Self

from support.running import PATIENCE_S, ROOT


class Terminal:
    """``hubsync ARGS`` with standard output and error on a terminal."""

    def __init__(self, argv: Sequence[str], *, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self._written = b""
        self._parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        settings: dict[str, Any] = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hubsync", *argv],
            cwd=ROOT, env={**settings, "TERM": "xterm", **environment}, stdin=child, stdout=child, stderr=child,
            start_new_session=True,
        )  # fmt: skip
        os.close(child)
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._parent)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while piece := os.read(self._parent, 1 << 16):
                with self._grown:
                    self._written += piece
                    self._grown.notify_all()

    @property
    def text(self) -> str:
        """All that was written until now."""
        return self._written.decode(errors="replace")

    def wait_for(self, words: str) -> str:
        """Return what was written once *words* are in it."""
        with self._grown:
            seen = self._grown.wait_for(lambda: words in self.text, PATIENCE_S)
        assert seen, self.text[-2000:]

        return self.text

    def wait(self) -> tuple[int, str]:
        """Return the exit code and what was written."""
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(self.text[-2000:]) from exc
        self._reader.join(PATIENCE_S)
        return code, self.text
