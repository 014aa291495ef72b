"""Where lines go: a stream, a file, the journal. A sink that is slow, full or gone never stops the daemon.

What a sink cannot take in time is dropped and counted; when it takes lines again, ``log.dropped`` says how many were
lost. Nothing here knows what a line means.
"""

import abc
import contextlib
import json
import logging
import os
import select
import socket
import time
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path

from hubsync.monitor.lines import encode_journal, journal_fields
from hubsync.monitor.logger import get_logger

log = get_logger()

JOURNAL_SOCKET = "/run/systemd/journal/socket"

# A reader may pause this long (a pager, a busy journald) before lines are dropped. While lines are being dropped
# no call waits at all.
_PATIENCE_S = 2.0
_MODE = 0o640  # of a log file: no token stands in it, but names and paths do


class PatientHandler(logging.Handler, abc.ABC):
    """Delivers lines with bounded patience."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Deliver the line of *record*, or count it as lost; never raises."""
        if not self._try(record):
            self._lost += 1
        elif self._lost:
            lost, self._lost = self._lost, 0
            log.warning("log.dropped", lines=lost)

    def _try(self, record: logging.LogRecord) -> bool:
        try:
            return self.deliver(self.format(record), patience_s=0.0 if self._lost else _PATIENCE_S)
        except Exception:  # noqa: BLE001 - whatever a value's repr raises, the work that is logged goes on
            return False

    @abc.abstractmethod
    def deliver(self, line: str, *, patience_s: float) -> bool:
        """Deliver *line* and tell whether it went; wait at most *patience_s*."""


class StreamSink(PatientHandler):
    """Writes lines to a file descriptor, mostly standard error.

    A full pipe blocks a plain ``write`` for ever, and O_NONBLOCK would change the terminal for every process that
    shares it. So each write waits for room first, and is no larger than what poll(2) promises to fit.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def deliver(self, line: str, *, patience_s: float) -> bool:
        """Write *line*; a line that went in part is finished before the next one begins."""
        deadline = time.monotonic() + patience_s
        if not self._write_rest(deadline):
            return False

        self._rest = line.encode() + b"\n"
        length = len(self._rest)
        if not self._write_rest(deadline) and len(self._rest) == length:
            self._rest = b""
            return False

        return True

    def _write_rest(self, deadline: float) -> bool:
        try:
            while self._rest and self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                written = os.write(self._descriptor, self._rest[: select.PIPE_BUF])
                self._rest = self._rest[written:]
        except BlockingIOError:  # somebody else made the stream non-blocking
            return False
        except OSError:  # the reader is gone, or the disk is full: half a line is of no use later
            self._rest = b""
            raise

        return not self._rest


class JournalSink(PatientHandler):
    """Sends lines of JSON to the journal, as fields (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/)."""

    def __init__(self, address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def deliver(self, line: str, *, patience_s: float) -> bool:
        """Send the fields of *line* as one datagram; it fits, since lines are bounded."""
        self._socket.settimeout(patience_s)
        self._socket.sendto(encode_journal(journal_fields(json.loads(line))), self._address)
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _open_at_once(path: str, flags: int) -> int:
    """Open *path*; a FIFO that nobody reads is an error, and one that is full loses lines: neither is waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


class FileSink(WatchedFileHandler):
    """Appends lines to a file, and follows when logrotate renames it; a group that may read its directory may read it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        """Open the file; whether it is the first or a later one, the umask of that moment is not what counts."""
        with contextlib.suppress(FileExistsError):
            made = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.fchmod(made, _MODE)
            os.close(made)

        return open(self.baseFilename, "a", encoding="utf-8", opener=_open_at_once)

    def emit(self, record: logging.LogRecord) -> None:
        """Append the line of *record*; unlike the base class, raise nothing if the file cannot be opened again."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        """Close the file; what is left for a FIFO without a reader is lost."""
        with contextlib.suppress(OSError):
            super().close()
