"""The status document: what the daemon writes down about itself, and what ``hubsync status`` shows.

It is a file, so that it can be read when the daemon is dead. It is a picture, never a source of truth: nothing in
hubsync decides by it.
"""

import contextlib
import errno
import glob
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, to_builtins
from msgspec.structs import replace

from hubsync.errors import DiskFullError, HubsyncError, NotRunningError, StateError
from hubsync.monitor.lines import clean_value
from hubsync.monitor.redact import redact
from hubsync.monitor.text import format_bytes

SCHEMA_VERSION = 1

# A daemon that runs but wrote nothing for this long hangs.
STALE_AFTER_S = 300.0

_WRITE_EVERY_S = 1.0

DaemonState = Literal["starting", "running", "stopping", "stopped", "dead"]
TargetState = Literal["ok", "degraded", "halted", "paused"]
MirrorState = Literal["ok", "publishing", "waiting", "degraded", "failing", "parked"]


class LastError(Struct, frozen=True):
    """The failure that something is in now; *is_retrying*: it is tried again at this moment."""

    error: str
    error_kind: str = "internal"
    hint: str = ""
    since: datetime | None = None
    attempt: int = 1
    next_try_at: datetime | None = None
    is_retrying: bool = False

    def at_rest(self) -> "LastError":
        """Return it as it is while nothing runs that would try again."""
        return replace(self, next_try_at=None, is_retrying=False)


class Waiting(Struct, frozen=True):
    """A file, or a unit (with a slash at its end), that is held back; *since* when, if somebody counts."""

    what: str
    reason: str
    since: datetime | None = None
    hint: str = ""
    needs_attention: bool = False


class BeingRead(Struct, frozen=True):
    """How far a large file of a source is read."""

    path: str
    read_bytes: int
    bytes: int

    def __str__(self) -> str:
        share = f"{self.read_bytes / self.bytes:.0%}, " if self.bytes else ""
        return f"{share}{format_bytes(self.read_bytes)} of {format_bytes(self.bytes)}"


class Transfer(Struct, frozen=True):
    """How far an upload is that goes on now; ``left_s`` is ``None`` until its rate is known."""

    files: int
    bytes: int
    sent_bytes: int
    bytes_per_s: float
    left_s: float | None = None


class ProvenUnit(Struct, frozen=True):
    """When all of a *unit* was last proved to be on a mirror, and so could be restored from it."""

    unit: str
    at: datetime


class MirrorStatus(Struct, frozen=True):
    """How far one mirror is.

    Attributes:
        state: "publishing" with a ``last_error`` says that bytes arrive again, after failures; nothing is published yet.
            "degraded" says that its last verification failed, and nothing has shown since that this is over.
        behind_s: the age of the oldest settled thing that it lacks; 0 when it lacks nothing.
        at_risk_s: the training time that would be lost with this machine if only this mirror were left.
        waits_for: what it waits for although nothing is wrong: the Hub's patience, or its next commit.
        pull_request: the address of the open pull request that what was published is in.
        proven: the units that were proved last, the newest proof first.
    """

    name: str
    repo: str
    state: MirrorState = "ok"
    required: bool = True
    published_commit: str | None = None
    newest_unit_published: str | None = None
    backlog_files: int = 0
    backlog_bytes: int = 0
    behind_s: float = 0.0
    at_risk_s: float = 0.0
    last_success: datetime | None = None
    transfer: Transfer | None = None
    waits_for: str = ""
    pull_request: str | None = None
    last_error: LastError | None = None
    proven: tuple[ProvenUnit, ...] = ()


class TargetStatus(Struct, frozen=True):
    """How one target is, with its mirrors; the two figures are those of the required mirror that is worst off.

    Attributes:
        state: "degraded" says that a required mirror fails, or that something is held until a person acts.
        waiting: the first of what is ``held``, those that need a person before others.
        disk_own_bytes: how much of what is held on disk takes room beside the source: what that has no more, and copies.
        busy: what its store has been at work on for long; all else is as it was before that.
        being_read: large files of its source, and how far each is read.
    """

    name: str
    source: str
    state: TargetState = "ok"
    watch_mode: str = "events"
    settled: int = 0
    held: int = 0
    waiting: tuple[Waiting, ...] = ()
    behind_s: float = 0.0
    at_risk_s: float = 0.0
    newest_unit_local: str | None = None
    disk_held_bytes: int = 0
    disk_own_bytes: int = 0
    last_error: LastError | None = None
    busy: Waiting | None = None
    being_read: tuple[BeingRead, ...] = ()
    mirrors: tuple[MirrorStatus, ...] = ()


class DaemonStatus(Struct, frozen=True):
    """Which daemon wrote the document, and when.

    Attributes:
        state: "dead" is said by who reads it, of one that ended without a word.
        config_error: why a newer config is not in force.
        config_mark: the mark of the config that is in force.
        is_outdated: the daemon could not write a newer one, as it said in the file's time.
        stalled: its own parts that do not get on, such as the watch of a target.
    """

    pid: int
    version: str
    started_at: datetime
    updated_at: datetime
    state: DaemonState = "running"
    config_error: LastError | None = None
    config_mark: str = ""
    stalled: tuple[Waiting, ...] = ()
    is_outdated: bool = False


class Status(Struct, frozen=True):
    """The whole document."""

    daemon: DaemonStatus
    targets: tuple[TargetStatus, ...] = ()
    disk_held_bytes: int = 0
    schema_version: int = SCHEMA_VERSION


class StatusFile:
    """Replaces the status file, at most once a second; while nothing but the time changes, only the file's time moves."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._written_at: float | None = None
        self._written: tuple[Status, os.stat_result] | None = None
        self._newest: Status | None = None
        self._lock = threading.Lock()  # a heartbeat and a change may come at once

    def write(self, status: Status, *, force: bool = False) -> bool:
        """Write *status* and return whether it was; one that comes too early is left out unless *force*."""
        self._newest = status
        with self._lock:
            now = self._clock()
            if not force and self._written_at is not None and now - self._written_at < _WRITE_EVERY_S:
                return False

            timeless = _without_times(status)
            if not self._touch(timeless, status.daemon.updated_at):
                try:
                    write_status(self._path, status)
                except StateError:
                    _mark_outdated(self._path)
                    self._written = None
                    raise
                self._written = timeless, self._path.stat()
            self._written_at = now
            return True

    def newest(self) -> str:
        """Return the document that was to be written last, also if it could not be; nothing if there was none."""
        return encode_status(self._newest) if self._newest is not None else ""

    def _touch(self, timeless: Status, updated_at: datetime) -> bool:
        """Say that the document still holds, if it does and is as it was written; nothing is written to a disk for that."""
        if self._written is None or self._written[0] != timeless:
            return False
        try:
            is_ours = _state_of(self._path.stat()) == _state_of(self._written[1])
            if is_ours:
                _set_time(self._path, updated_at)
        except OSError:
            return False

        return is_ours


def _state_of(file: os.stat_result) -> tuple[int, int, int]:
    return file.st_ino, file.st_size, file.st_mode


def _set_time(path: Path, updated_at: datetime) -> None:
    ns = round(updated_at.timestamp() * 1e6) * 1000
    os.utime(path, ns=(ns, ns))


def _mark_outdated(path: Path) -> None:
    """Say of a document that could not be replaced that it does not hold any more; this needs no room on the disk."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(0, 0))


def _without_times(status: Status) -> Status:
    """Return *status* without what changes as time goes by although nothing happens."""
    targets = tuple(
        replace(target, mirrors=tuple(replace(mirror, last_success=None) for mirror in target.mirrors))
        for target in status.targets
    )
    return replace(status, daemon=replace(status.daemon, updated_at=status.daemon.started_at), targets=targets)


def write_status(path: Path, status: Status) -> None:
    """Replace the file at *path*, so that a reader sees the former document or this one. Raises StateError."""
    replace_file(path, encode_status(status), 0o600, status.daemon.updated_at)


def replace_file(path: Path, text: str, mode: int, at: datetime | None = None) -> None:
    """Replace the file at *path* as a whole by *text*, written *at* some time (else now). Raises StateError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # by one that was killed, or by us
            if left == beside or not Path("/proc", left.name.split(".")[-2]).exists():
                left.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, for its mode
            os.fchmod(descriptor, mode)  # whatever the umask is
            file.write(text)
        if at is not None:
            _set_time(beside, at)
        beside.replace(path)
    except OSError as error:
        kind = DiskFullError if error.errno in {errno.ENOSPC, errno.EDQUOT} else StateError
        raise kind(f"cannot write {path}: {error.strerror}", hint="make room, or make it writable") from error


def read_status(path: Path) -> Status:
    """Return the document at *path*. Raises NotRunningError if there is none, StateError if it cannot be read.

    It holds at least until the file's own time, see ``StatusFile``.
    """
    try:
        with path.open("rb") as file:
            status = decode_status(file.read())
            held_at = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime_ns / 1e9, UTC)
        is_outdated = held_at == datetime.fromtimestamp(0, UTC)  # see _mark_outdated
        daemon = replace(status.daemon, updated_at=max(status.daemon.updated_at, held_at), is_outdated=is_outdated)
        return replace(status, daemon=daemon)
    except FileNotFoundError as error:
        raise NotRunningError(f"no daemon has run here: {path} is missing", hint="start it: hubsync run") from error
    except OSError as error:
        raise StateError(
            f"cannot read {path}: {error.strerror}", hint="see who owns it; hubsync runs as another user"
        ) from error
    except (ValueError, RecursionError) as error:
        hint = "a running daemon of this version writes it anew at its next heartbeat"
        raise StateError(f"cannot read {path}: it is damaged, or of another version", hint=hint) from error


def decode_status(document: str | bytes) -> Status:
    """Return what a *document* of ``encode_status`` says. Raises ValueError or RecursionError if it is none."""
    return msgspec.json.decode(document, type=Status)


def encode_status(status: Status) -> str:
    """Return *status* as one JSON document, without credentials."""
    plain = clean_value(to_builtins(status, builtin_types=(datetime,)))
    return redact(json.dumps(plain, ensure_ascii=False, indent=2)) + "\n"


def describe_rejected(error: HubsyncError, since: datetime | None = None) -> LastError:
    """Return how a config is shown that a running daemon does not take over."""
    hint = error.hint or "correct it, then run `hubsync reload`; the former one is in force"
    return LastError(str(error), error.error_kind, hint, since)


def elapsed_s(since: datetime, now: datetime) -> float:
    """Return the seconds from *since* to *now*: none, if the system clock was set back between the two."""
    return max(0.0, (now - since).total_seconds())


def find_troubles(status: Status) -> Iterator[tuple[str, LastError]]:
    """Yield what needs attention, by name, with its error."""
    if status.daemon.config_error:
        yield "config", status.daemon.config_error
    for part in status.daemon.stalled:
        yield part.what, LastError(part.reason, "stalled", part.hint, part.since)
    for target in status.targets:
        if target.state == "halted" or target.last_error:
            yield target.name, target.last_error or LastError(target.state)
        for one in target.waiting:
            if one.needs_attention:
                yield f"{target.name}: {one.what}", LastError(one.reason, "held", one.hint, one.since)
        for mirror in target.mirrors:
            if mirror.last_error:
                yield f"{target.name} → {mirror.name}", mirror.last_error


def choose_exit_code(status: Status, now: datetime, *, running: bool) -> int:
    """Return 0 if all is well, 1 if something needs attention or the daemon hangs, 3 if it does not run."""
    if not running:
        return 3

    is_stale = (now - status.daemon.updated_at).total_seconds() > STALE_AFTER_S
    return int(is_stale or any(True for _ in find_troubles(status)))
