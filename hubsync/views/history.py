"""Reads what was logged: the file with its rotated and compressed parts, or the journal. It never writes.

A line that is torn (by a crash, a full disk, a copy under way) is passed over. Nothing here knows what an entry means.
"""

import bz2
import contextlib
import gzip
import json
import lzma
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from hubsync.errors import HubsyncError
from hubsync.monitor.lines import format_time
from hubsync.store.process import stream_command

Entries = Iterator[dict[str, Any]]

_OPENERS: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UNPACK = {".zst": ("zstd", "-dcq", "--")}
_PACKED = "|".join(re.escape(suffix) for suffix in (*_OPENERS, *_UNPACK))
_AS_USER = "read it as the service's user, or as root"
_POLL_S = 0.25
_SECOND = slice(14, 33)  # {"timestamp":"2026-11-23T12:43:42.050388Z": the digits down to the second

# Fields of the journal that hold text even if they look like a number, as a commit of digits does.
_TEXT = frozenset(
    ("target", "mirror", "unit", "path", "commit", "snapshot", "oid", "repo", "branch", "revision", "version")
)


class LogUnreadableError(HubsyncError):
    """There is no log to read, or it cannot be read."""

    error_kind = "local_io"


def find_parts(path: Path) -> list[Path]:
    """Return the log file *path* and what logrotate made of it, oldest first: ``.1``, ``.2.gz``, ``-20261123.zst`` ..."""
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    turned = re.compile(rf"{stem}(?:{suffix}[.-][\w.-]+?|[.-][\w.-]+?{suffix})(?:{_PACKED})?")
    try:
        beside = [one for one in path.parent.iterdir() if turned.fullmatch(one.name) and one.is_file()]
    except OSError as exc:
        raise LogUnreadableError(f"cannot read {path.parent}: {exc.strerror}", hint=_AS_USER) from exc
    # Compressing keeps the time of the last write; the name says nothing certain (.10 follows .9, -20261123 follows both).
    beside.sort(key=lambda one: one.stat().st_mtime)

    return [*beside, *([path] if path.exists() else [])]


def read_file(path: Path, since: datetime | None = None) -> Entries:
    """Yield the entries of one log file, packed or not, from *since* on; ``-`` is standard input.

    Raises:
        LogUnreadableError: it cannot be read.
    """
    first = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S").encode() if since else b""
    try:
        for line in _lines(path):
            if first and line.startswith(b'{"timestamp":"') and line[_SECOND] < first:
                continue  # without reading the rest of it: most of a long log is of no interest
            if (entry := decode_line(line)) is not None:
                yield entry
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as exc:
        raise LogUnreadableError(f"cannot read {path}: {exc}", hint=_AS_USER) from exc


def read_parts(path: Path, since: datetime | None = None) -> Entries:
    """Yield the entries of the log file *path* and its rotated parts, from *since* on.

    Raises:
        LogUnreadableError: there is none, or one cannot be read.
    """
    parts = find_parts(path)
    if not parts:
        raise LogUnreadableError(f"there is no log file {path}", hint="has the daemon run with this config?")
    for part in parts:
        if since is None or part.stat().st_mtime >= since.timestamp():
            yield from read_file(part, since)


def follow_file(path: Path, pause: Callable[[float], object] = time.sleep) -> Iterator[dict[str, Any] | None]:
    """Yield what is appended to *path* from now on, also after it was rotated; ``None`` when there is nothing new."""
    file = _open_end(path)
    rest = b""
    try:
        while True:
            is_turned = _is_turned(path, file)  # asked first: what came before it is read before the file is left
            while data := file.read(1 << 16) if file else b"":
                *lines, rest = (rest + data).split(b"\n")
                yield from (entry for line in lines if (entry := decode_line(line)) is not None)
            if is_turned:
                file, rest = _open_start(path, file), b""
            else:
                yield None
                pause(_POLL_S)
    finally:
        if file is not None:
            file.close()


def read_journal(since: datetime | None = None, *, follow: bool = False) -> Entries:
    """Yield the journal's entries of hubsync, from *since* on.

    Raises:
        LogUnreadableError: there is no journal here.
    """
    if shutil.which("journalctl") is None:
        raise LogUnreadableError("there is no journal here", hint="set [log] file, or name a file: hubsync log --file PATH")
    argv = ["journalctl", "--output=json", "--all", "--quiet", "--no-pager", "SYSLOG_IDENTIFIER=hubsync"]
    argv += [f"--since=@{since.timestamp():.0f}"] if since else []
    argv += ["--follow", "--lines=0"] if follow else []
    for line in stream_command(tuple(argv)):
        if (entry := decode_journal(line)) is not None:
            yield entry


def decode_line(line: bytes) -> dict[str, Any] | None:
    """Return the entry on *line*; ``None`` if it is torn or not one of ours."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None

    return entry if isinstance(entry, dict) and "event" in entry and "timestamp" in entry else None


def decode_journal(line: bytes) -> dict[str, Any] | None:
    """Return the entry that a line of ``journalctl -o json`` stands for; ``None`` if it is not one of ours."""
    try:
        record = {name: _journal_text(value) for name, value in json.loads(line).items()}
        moment = datetime.fromtimestamp(int(record["__REALTIME_TIMESTAMP"]) / 1_000_000, UTC)
    except (ValueError, KeyError, AttributeError):
        return None
    if "HUBSYNC_EVENT" not in record:  # [log] format = "json" under systemd: the line is the message
        return decode_line(record.get("MESSAGE", "").encode())
    fields = {name[8:].lower(): value for name, value in record.items() if name.startswith("HUBSYNC_")}
    head = {"timestamp": format_time(moment), "level": fields.pop("level", "info"), "event": fields.pop("event")}

    trace = len(fields.get("exception", "").splitlines())  # the journal's message ends with it
    said = record.get("MESSAGE", "").splitlines()
    message = "\n".join(said[: len(said) - trace])

    return {**head, "message": message, **{name: _typed(name, text) for name, text in fields.items()}}


def _journal_text(value: object) -> str:
    """Return a field's text: journalctl gives bytes as a list of numbers, and a repeated field as a list of texts."""
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return bytes(value).decode("utf-8", "backslashreplace")
        return _journal_text(value[-1])

    return str(value)


def _typed(name: str, text: str) -> object:
    """Return a field as it was before the journal made text of it."""
    if name in _TEXT or not text or text[0] not in "-0123456789[{tfn":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _lines(path: Path) -> Iterator[bytes]:
    if str(path) == "-":
        yield from sys.stdin.buffer
    elif unpack := _UNPACK.get(path.suffix):
        yield from stream_command((*unpack, str(path)))
    else:
        with _OPENERS.get(path.suffix, open)(path, "rb") as file:
            yield from file


def _open_end(path: Path) -> IO[bytes] | None:
    with contextlib.suppress(FileNotFoundError):
        file = path.open("rb")
        file.seek(0, os.SEEK_END)
        return file

    return None


def _open_start(path: Path, former: IO[bytes] | None) -> IO[bytes] | None:
    if former is not None:
        former.close()
    with contextlib.suppress(FileNotFoundError):
        return path.open("rb")

    return None


def _is_turned(path: Path, file: IO[bytes] | None) -> bool:
    """Tell whether the file at *path* is another one than *file*, or was cut (logrotate's copytruncate)."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    if file is None:
        return True
    ours = os.fstat(file.fileno())

    return (status.st_dev, status.st_ino) != (ours.st_dev, ours.st_ino) or status.st_size < file.tell()
