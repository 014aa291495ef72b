"""Decides what the demo tells: folds what the writer and the daemon say into rows, and into lines for a reader.

No I/O and no clock; what comes in carries its own time. A line is who speaks, a sentence, and a tone.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from msgspec import Struct, field

from hubsync.demo.record import Record
from hubsync.monitor.text import escape_unsafe, format_bytes, format_count, format_duration

WRITER, DAEMON, DEMO = "trainer", "hubsync", "demo"

_ERROR_CHARS = 120  # of what another program said
_HELD_TOLD = 5  # the others are listed at the end
_LOOSE_BYTES = 1_000_000  # files that are in no unit are told from this size on, so that a growing log is no news
_HELD = frozenset({"file.held", "file.rejected", "file.unreadable"})


class Line(NamedTuple):
    """One thing to tell; *tone* is plain, good, quiet, warn or bad."""

    who: str
    text: str
    tone: str = "plain"


class Row(Struct):
    """What is known of one unit.

    Attributes:
        lag_s: by Hub, how long after the unit's last write it was there.
        deleted_before: the Hubs that did not have it when it was deleted here.
        down_meanwhile: the Hub that was down when it was saved.
    """

    files: int = 0
    bytes: int = 0
    saved_at: float | None = None
    is_deleted: bool = False
    objects: dict[str, int] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    lag_s: dict[str, float] = field(default_factory=dict)
    deleted_before: list[str] = field(default_factory=list)
    down_meanwhile: str | None = None


class Story:
    """What happened so far."""

    def __init__(self, hubs: tuple[str, ...], expected: Mapping[str, Record] | None = None) -> None:
        self.hubs = hubs
        self.records: dict[str, Record] = dict(expected or {})
        self.units: dict[str, Row] = {}
        self.uploaded: dict[str, dict[str, float]] = {hub: {} for hub in hubs}
        self.early_bytes = dict.fromkeys(hubs, 0)
        self.held: dict[str, str] = {}
        self.pins: dict[str, str] = {}
        self.pinned_bytes: dict[str, int] = {}
        self.publications = 0
        self.news = 0
        self.ready_at: float | None = None
        self.published_at = 0.0
        self.is_written = expected is not None
        self.down: str | None = None
        self.failing: set[str] = set()
        self._is_own = expected is not None

    # --- what the writer says

    def feed_writer(self, said: Mapping[str, Any]) -> list[Line]:
        """Take one line of the writer."""
        self.news += 1
        event = said["event"]
        if event == "written":
            return self._note_written(said)
        if event == "saved":
            row = self.units[said["unit"]]
            row.saved_at, row.down_meanwhile = said["at"], self.down
            return [Line(WRITER, f"saved {said['unit']}: {format_count(row.files, 'file')}, {format_bytes(row.bytes)}")]
        if event == "deleted":
            return [self._note_deleted(said["unit"])]
        if event == "saving":
            self.units[said["unit"]] = Row()
            return [Line(WRITER, f"begins to save {said['unit']}", "quiet")]
        if event == "finished":
            self.is_written = True
            return [Line(WRITER, "has finished, and saved the final model beside its checkpoints")]

        return []

    def _note_written(self, said: Mapping[str, Any]) -> list[Line]:
        record = Record(said["size"], said["sha256"], said["blob"])
        self.records[said["path"]] = record
        row = self.units.get(said["path"].partition("/")[0])
        if row is not None:
            row.files += 1
            row.bytes += record.size
            row.objects[record.sha256] = record.size

        return []

    def _note_deleted(self, unit: str) -> Line:
        row = self.units[unit]
        row.is_deleted = True
        row.deleted_before = [hub for hub in self.hubs if hub not in row.published]
        if row.deleted_before:
            return Line(WRITER, f"deletes {unit}, which {_join(row.deleted_before)} does not have yet", "warn")

        return Line(WRITER, f"deletes {unit}; both Hubs keep it")

    # --- what the daemon says

    def feed_daemon(self, said: Mapping[str, Any]) -> list[Line]:
        """Take one entry of the daemon's log."""
        event = str(said.get("event", ""))
        if event not in {"heartbeat", "library.logged", "inventory.taken"}:
            self.news += 1
        take = getattr(self, "_on_" + event.replace(".", "_"), None)
        if take is not None:
            return list(take(said))
        if event in _HELD:
            return self._note_held(said)
        if event == "library.logged" and said.get("level") != "error":  # at debug, the scheduler's about each long run
            return []
        if said.get("level") in {"warning", "error"} or not event:
            return [Line(DAEMON, _words(said), "bad" if said.get("level") == "error" else "warn")]

        return []

    def _on_daemon_ready(self, said: Mapping[str, Any]) -> list[Line]:
        self.ready_at = _time(said)
        return [Line(DAEMON, "is ready and watches")]

    def _on_mirror_created(self, said: Mapping[str, Any]) -> list[Line]:
        visibility = "private " if said.get("private") else ""
        return [Line(str(said["mirror"]), f"has a new {visibility}repository, {said['repo']}", "quiet")]

    def _on_file_captured(self, said: Mapping[str, Any]) -> list[Line]:
        if said.get("oid") and said.get("pin"):
            self.pins[said["oid"]] = said["pin"]
            self.pinned_bytes[said["oid"]] = int(said.get("bytes", 0))

        return []

    def _on_object_uploaded(self, said: Mapping[str, Any]) -> list[Line]:
        hub, oid, at = str(said["mirror"]), str(said["oid"]), _time(said)
        self.uploaded[hub].setdefault(oid, at)
        if any(oid in row.objects and row.saved_at is None for row in self.units.values()):
            self.early_bytes[hub] += int(said.get("bytes", 0))

        return []

    def _on_unit_completed(self, said: Mapping[str, Any]) -> list[Line]:
        row = self.units.setdefault(str(said["unit"]), Row())
        if row.saved_at is None and self._is_own:
            row.files, row.bytes = int(said["files"]), int(said["bytes"])
        files, size = format_count(int(said["files"]), "file"), format_bytes(int(said["bytes"]))
        return [Line(DAEMON, f"{_safe(said['unit'])} is complete ({files}, {size}) and queued", "quiet")]

    def _on_unit_published(self, said: Mapping[str, Any]) -> list[Line]:
        unit, hub = str(said["unit"]), str(said["mirror"])
        row = self.units.setdefault(unit, Row())
        row.published[hub] = _time(said)
        if row.saved_at is None:
            return [Line(hub, f"has all of {_safe(unit)}", "good")]
        row.lag_s[hub] = max(0.0, _time(said) - row.saved_at)
        lag = format_duration(row.lag_s[hub])
        if row.is_deleted:
            return [Line(hub, f"has all of {unit}, too: hubsync had kept the bytes", "good")]

        return [Line(hub, f"has all of {unit}, {lag} after its last byte", "good")]

    def _on_mirror_published(self, said: Mapping[str, Any]) -> list[Line]:
        self.publications += 1
        self.published_at = _time(said)
        if said.get("units") or not (self._is_own or int(said.get("bytes", 0)) >= _LOOSE_BYTES):
            return []
        files, size = format_count(int(said["files"]), "file"), format_bytes(int(said["bytes"]))
        return [Line(str(said["mirror"]), f"has {files} more ({size})", "good")]

    def _on_mirror_failed(self, said: Mapping[str, Any]) -> list[Line]:
        hub = str(said["mirror"])
        is_news = hub not in self.failing
        self.failing.add(hub)
        if not is_news:
            return []
        if hub == self.down:
            return [Line(hub, "cannot be reached; hubsync tries again by itself", "warn")]

        return [Line(hub, f"{_cut(_safe(said.get('error', 'failed')))}; hubsync tries again by itself", "warn")]

    def _on_mirror_recovered(self, said: Mapping[str, Any]) -> list[Line]:
        self.failing.discard(str(said["mirror"]))
        failures = format_count(int(said.get("failures", 1)), "failed try").replace("trys", "tries")
        return [Line(str(said["mirror"]), f"works again, after {failures}", "good")]

    def _on_unit_abandoned(self, said: Mapping[str, Any]) -> list[Line]:
        unit = str(said["unit"])
        if not self._is_own:
            return []
        self.held[f"{unit}/"] = f"incomplete: {said.get('reason', '')}"
        return [Line(DAEMON, f"{_safe(unit)} is incomplete and not published: {_safe(said.get('reason', ''))}", "warn")]

    def _on_control_received(self, _said: Mapping[str, Any]) -> list[Line]:
        return []

    def _note_held(self, said: Mapping[str, Any]) -> list[Line]:
        if not self._is_own:
            return []
        path = str(said["path"])
        is_news = path not in self.held
        self.held[path] = str(said.get("reason") or said.get("error") or said["event"])

        return [Line(DAEMON, _words(said), "warn")] if is_news and len(self.held) <= _HELD_TOLD else []

    # --- what to wait for

    def holder_of(self, path: str) -> str | None:
        """Return what the daemon holds back with *path*: the path itself, or its unit; ``None`` if it holds nothing."""
        if path in self.held:
            return path

        return next((unit for unit in self.held if unit.endswith("/") and path.startswith(unit)), None)

    def expected(self) -> dict[str, Record]:
        """Return what both Hubs will hold when the daemon is done."""
        return {path: record for path, record in self.records.items() if self.holder_of(path) is None}

    def deleted_oids(self) -> set[str]:
        """Return the objects of units that are deleted here."""
        return {oid for row in self.units.values() if row.is_deleted for oid in row.objects}


def _time(said: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(said["timestamp"])).timestamp()


def _words(said: Mapping[str, Any]) -> str:
    text = str(said.get("message") or said.get("event") or "")
    return _safe(text.removeprefix(f"{said.get('target')}: "))


def _safe(text: object) -> str:
    return escape_unsafe(str(text))


def _cut(text: str) -> str:
    return text if len(text) <= _ERROR_CHARS else f"{text[:_ERROR_CHARS]} …"


def _join(names: list[str]) -> str:
    return " and ".join(names)
