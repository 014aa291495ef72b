"""Owns the demo's two programs, the daemon and the writer: starts them, reads what they say, and ends them.

Each leads a process group of its own: Ctrl-C reaches the demo alone, which then ends both in order.
"""

import contextlib
import json
import os
import queue
import subprocess  # children that speak line by line while they run
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hubsync.store.process import end_group

_GRACE_S = 15.0


class Said(NamedTuple):
    """One line of a child."""

    who: str
    fields: Mapping[str, Any]


class Child:
    """A program whose output, JSON lines on standard output and error, goes to *inbox* and, if wanted, to a file."""

    def __init__(self, who: str, argv: tuple[str, ...], inbox: "queue.SimpleQueue[Said]", log: Path | None = None) -> None:
        self._who = who
        self._argv = argv
        self._inbox = inbox
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._read, name=f"demo-{who}", daemon=True)

    def start(self, variables: Mapping[str, str] | None = None) -> None:
        """Start the program with *variables* added to its environment."""
        self._process = subprocess.Popen(  # noqa: S603 - our own modules
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )
        self._reader.start()

    def tell(self, line: str) -> None:
        """Write *line* to the program's standard input, if it still reads that."""
        assert self._process is not None  # noqa: S101 - started
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def exit_code(self) -> int | None:
        """Return the exit code; ``None`` while the program runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> int | None:
        """End the program and all that it started; return its exit code."""
        if self._process is None:
            return None
        end_group(self._process, _GRACE_S)
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._reader.join()

        return self._process.returncode

    def _read(self) -> None:
        assert self._process is not None  # noqa: S101 - started
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        with self._process.stdout as pipe, open(self._log or os.devnull, "ab") as log:  # noqa: PTH123 - also the null device
            for line in pipe:
                log.write(line)
                log.flush()
                self._inbox.put(Said(self._who, _parse(line)))


def _parse(line: bytes) -> Mapping[str, Any]:
    """Return the fields of a line; what is no JSON object is a message without an event."""
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if isinstance(fields, dict):
        return fields

    return {"level": "warning", "message": line.decode("utf-8", "replace").rstrip()}
