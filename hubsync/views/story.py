"""What the log tells of a stretch of time: figures over time, units on their way, and failures as spans. Pure.

It is made of entries alone, so that it can be told of a log from another machine, long after.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from hubsync.views.query import moment_of

_SILENCE_S = 300.0  # without any line; a heartbeat comes each minute unless it is told otherwise
_WELL = frozenset(("ok", "publishing"))

# What begins a span, and what ends it; both are about the same target, and mirror or unit.
_BEGINS = {
    "mirror.failed": "mirror",
    "mirror.parked": "mirror",
    "target.halted": "target",
    "capture.paused": "disk",
    "watch.degraded": "watch",
    "unit.abandoned": "unit",
    "config.rejected": "config",
}
_ENDS = {
    "mirror.recovered": "mirror",
    "mirror.published": "mirror",
    "target.resumed": "target",
    "capture.resumed": "disk",
    "watch.recovered": "watch",
    "unit.completed": "unit",
    "daemon.reloaded": "config",
}

# What a daemon that starts says again if it is still so.
_SAID_AGAIN = frozenset(("target", "disk", "watch", "config"))

Point = tuple[float, float]
"""A moment (seconds since the epoch) and a figure."""


class Incident(Struct):
    """A stretch of time in which something did not work; *end* is ``None`` while it still does not."""

    what: str
    start: float
    error: str
    error_kind: str = ""
    hint: str = ""
    target: str = ""
    mirror: str = ""
    unit: str = ""
    is_severe: bool = False
    tries: int = 1
    end: float | None = None

    def rank(self, now: float) -> tuple[bool, bool, float]:
        """Return what sorts incidents: those that are not over first, then severe ones, then the longest."""
        return self.end is not None, not self.is_severe, self.start - (self.end or now)


class UnitStory(Struct):
    """One unit on its way: when it was last written, when complete, when it was on each mirror; moments or ``None``."""

    name: str
    files: int = 0
    bytes: int = 0
    written: float | None = None
    completed: float | None = None
    abandoned: float | None = None
    published: dict[str, float] = field(default_factory=dict)


class MirrorStory(Struct):
    """One mirror over time."""

    name: str
    repo: str = ""
    is_required: bool = True
    state: str = ""
    behind: list[Point] = field(default_factory=list)
    backlog: list[Point] = field(default_factory=list)
    sent: list[Point] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    files: int = 0


class TargetStory(Struct):
    """One target over time."""

    name: str
    state: str = ""
    held: int = 0
    waiting: tuple[str, ...] = ()
    """The first of what is held back now, with reasons."""
    disk: list[Point] = field(default_factory=list)
    at_risk: list[Point] = field(default_factory=list)
    mirrors: dict[str, MirrorStory] = field(default_factory=dict)
    units: dict[str, UnitStory] = field(default_factory=dict)


class Story(Struct):
    """All that the log tells."""

    start: float = 0.0
    end: float = 0.0
    entries: int = 0
    version: str = ""
    starts: int = 0
    targets: dict[str, TargetStory] = field(default_factory=dict)
    incidents: list[Incident] = field(default_factory=list)
    warnings: dict[str, int] = field(default_factory=dict)
    """How often each event was a warning or an error."""
    last_said: dict[str, str] = field(default_factory=dict)
    """The newest sentence of each event that was a warning or an error."""


def tell(entries: Iterable[Mapping[str, Any]]) -> Story:
    """Return the story that *entries*, oldest first, tell."""
    teller = _Teller()
    for entry in entries:
        if (moment := moment_of(entry)) is not None:
            teller.take(entry, moment.timestamp())

    return teller.story


def join_alike(incidents: Iterable[Incident], now: float) -> list[list[Incident]]:
    """Return *incidents* in order of rank; those that have one cause and one cure, and are not over, as one group."""
    groups: dict[object, list[Incident]] = {}
    for incident in sorted(incidents, key=lambda one: one.rank(now)):
        is_alike = incident.end is None and incident.hint
        groups.setdefault((incident.what, incident.hint) if is_alike else id(incident), []).append(incident)

    return list(groups.values())


def thin(points: Iterable[Point], start: float, end: float, count: int, *, add: bool = False) -> list[float | None]:
    """Return *count* figures from *start* to *end*: the largest of each stretch (or, with *add*, the sum), or ``None``."""
    figures: list[float | None] = [None] * count
    length = max(end - start, 1e-9) / count
    for moment, figure in points:
        index = min(count - 1, max(0, int((moment - start) / length)))
        known = figures[index]
        figures[index] = figure if known is None else known + figure if add else max(known, figure)

    return figures


class _Teller:
    """Takes entries in order and keeps what is open."""

    def __init__(self) -> None:
        self.story = Story()
        self._open: dict[tuple[str, str, str], Incident] = {}
        self._over: dict[tuple[str, str, str], Incident] = {}  # the last one of each
        self._is_stopped = False

    def take(self, entry: Mapping[str, Any], now: float) -> None:
        """Take the next entry."""
        event = str(entry.get("event"))
        story = self.story
        self._note_silence(event, now)
        story.start = story.start or now
        story.end = max(story.end, now)
        story.entries += 1
        story.version = str(entry.get("version", story.version))
        if entry.get("level") in {"warning", "error"}:
            story.warnings[event] = story.warnings.get(event, 0) + 1
            story.last_said[event] = str(entry.get("message", ""))
        self._note_incident(event, entry, now)
        if entry.get("target") is None:
            return
        name = str(entry["target"])
        target = story.targets.setdefault(name, TargetStory(name))
        if (take := _TAKERS.get(event)) is not None:
            take(target, entry, now)

    def _note_silence(self, event: str, now: float) -> None:
        """A daemon that ended in order and one that was cut off are told apart by what it said last."""
        story = self.story
        if story.entries and now - story.end > _SILENCE_S:
            error = "stopped" if self._is_stopped else "no line was written: not running, or not answering"
            gap = Incident("daemon", story.end, error, "stopped" if self._is_stopped else "silent", end=now)
            gap.is_severe = not self._is_stopped
            story.incidents.append(gap)
        self._is_stopped = event == "daemon.stopped"
        story.starts += event == "daemon.started"

    def _note_incident(self, event: str, entry: Mapping[str, Any], now: float) -> None:
        target, mirror = str(entry.get("target") or ""), str(entry.get("mirror") or "")
        unit = str(entry.get("unit") or "") if event.startswith("unit.") else ""
        about = (target, mirror or unit)
        if event == "daemon.started":
            for key in [key for key in self._open if key[0] in _SAID_AGAIN]:
                self._open.pop(key).end = now
        ends = _ENDS.get(event)
        is_well = entry.get("state") in _WELL and not entry.get("error_kind")  # an upload after failures may fail too
        if event == "heartbeat" and mirror and is_well:
            ends = "mirror"
        if ends is not None:
            if (over := self._open.pop((ends, *about), None)) is not None:
                over.end = now
                self._over[ends, *about] = over
            if (last := self._over.get((ends, *about))) is not None:  # the count is said after the first success
                last.tries = max(last.tries, int(entry.get("failures") or 0))
        if event == "heartbeat" and not mirror:
            self._note_no_longer_held(target, entry, now)
        if (what := _BEGINS.get(event)) is None:
            return
        incident = self._open.get((what, *about))
        if incident is None:
            incident = self._open[what, *about] = Incident(what, now, "", target=target, mirror=mirror, unit=unit)
            self.story.incidents.append(incident)
        incident.error = str(entry.get("error") or entry.get("reason") or entry.get("message", ""))
        incident.error_kind, incident.hint = str(entry.get("error_kind") or ""), str(entry.get("hint") or "")
        incident.is_severe |= entry.get("level") == "error"
        incident.tries = max(incident.tries, int(entry.get("attempt") or 1))

    def _note_no_longer_held(self, target: str, entry: Mapping[str, Any], now: float) -> None:
        """End what was said of units that are gone: nothing else tells of it."""
        waiting = tuple(map(str, entry.get("waiting") or ()))
        if int(entry.get("held") or 0) > len(waiting):
            return  # not all of it is told
        for key in [key for key in self._open if key[:2] == ("unit", target)]:
            if not any(one.startswith(f"{key[2]}/:") for one in waiting):
                self._open.pop(key).end = now


def _take_heartbeat(target: TargetStory, entry: Mapping[str, Any], now: float) -> None:
    if entry.get("mirror") is None:
        target.state = str(entry.get("state", ""))
        target.held, target.waiting = int(entry.get("held") or 0), tuple(map(str, entry.get("waiting") or ()))
        target.disk.append((now, float(entry.get("disk_held_bytes") or 0)))
        target.at_risk.append((now, float(entry.get("at_risk_s") or 0)))
        return
    mirror = _mirror(target, entry)
    mirror.state, mirror.is_required = str(entry.get("state", "")), bool(entry.get("required", True))
    mirror.behind.append((now, float(entry.get("behind_s") or 0)))
    mirror.backlog.append((now, float(entry.get("backlog_bytes") or 0)))


def _take_published(target: TargetStory, entry: Mapping[str, Any], now: float) -> None:
    mirror = _mirror(target, entry)
    mirror.sent.append((now, float(entry.get("bytes") or 0)))
    mirror.files += int(entry.get("files") or 0)


def _take_completed(target: TargetStory, entry: Mapping[str, Any], now: float) -> None:
    unit = _unit(target, entry)
    unit.completed, unit.abandoned = now, None
    unit.files, unit.bytes = int(entry.get("files") or 0), int(entry.get("bytes") or 0)


def _take_abandoned(target: TargetStory, entry: Mapping[str, Any], now: float) -> None:
    _unit(target, entry).abandoned = now


def _take_unit_published(target: TargetStory, entry: Mapping[str, Any], now: float) -> None:
    unit, mirror = _unit(target, entry), _mirror(target, entry)
    unit.published.setdefault(mirror.name, now)
    if entry.get("lag_s") is not None:
        lag_s = float(entry["lag_s"])
        unit.written = unit.written or now - lag_s
        mirror.lags.append(lag_s)


_TAKERS = {
    "heartbeat": _take_heartbeat,
    "mirror.published": _take_published,
    "unit.completed": _take_completed,
    "unit.abandoned": _take_abandoned,
    "unit.published": _take_unit_published,
}


def _mirror(target: TargetStory, entry: Mapping[str, Any]) -> MirrorStory:
    name = str(entry.get("mirror") or "?")
    mirror = target.mirrors.setdefault(name, MirrorStory(name))
    mirror.repo = str(entry.get("repo") or mirror.repo)
    return mirror


def _unit(target: TargetStory, entry: Mapping[str, Any]) -> UnitStory:
    name = str(entry.get("unit") or "?")
    return target.units.setdefault(name, UnitStory(name))
