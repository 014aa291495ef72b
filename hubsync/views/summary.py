"""Tells a story in about twenty lines. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from statistics import median

from hubsync.monitor.text import escape_unsafe, format_bytes, format_count, format_duration
from hubsync.views.story import Incident, MirrorStory, Point, Story, TargetStory, join_alike

_MOST_LINES = 20
_MOST_INCIDENTS = 6
_MINUTES_S, _DAY_S = 1_200, 86_400


def summarize_story(story: Story) -> str:
    """Return *story* for a person: what was published, how late, what failed and what still does."""
    if not story.entries:
        return "nothing was logged in that time\n"
    lines = [*_headline(story), *(line for target in story.targets.values() for line in _target(target))]
    incidents = list(_incidents(story))
    room = max(_MOST_LINES - len(incidents) - 1, 6)
    if len(lines) > room:
        lines = [*lines[: room - 1], f"… and {len(lines) - room + 1} lines more; --target T or --html FILE shows all"]

    return "\n".join(escape_unsafe(line) for line in [*lines, *incidents]) + "\n"


def format_moment(moment: float, over_s: float | None = None) -> str:
    """Return *moment* in the reader's zone, to the minute; as a tick of an axis of *over_s* seconds, what tells there."""
    form = "%Y-%m-%d %H:%M"
    if over_s is not None:
        form = "%H:%M:%S" if over_s < _MINUTES_S else "%H:%M" if over_s <= _DAY_S else "%m-%d %H:%M"
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime(form)


def most(points: Sequence[Point]) -> float:
    """Return the largest figure of *points*; 0 if there is none."""
    return max((figure for _, figure in points), default=0.0)


def about(incident: Incident) -> str:
    """Return what it is about: a target, with its mirror, or hubsync."""
    return "/".join(part for part in (incident.target, incident.mirror or incident.unit) if part) or "hubsync"


def describe_incident(incident: Incident, end: float) -> str:
    """Return one line: what, since when, for how long, and why."""
    length = format_duration(round((incident.end or end) - incident.start))
    tries = f", {incident.tries} tries" if incident.tries > 1 else ""
    open_since = "" if incident.end else ", not over"
    return f"{format_moment(incident.start)}  {about(incident)}: {incident.error} ({length}{tries}{open_since})"


def _headline(story: Story) -> Iterator[str]:
    span = format_duration(story.end - story.start)
    silent = [one for one in story.incidents if one.what == "daemon"]
    down_s = sum((one.end or story.end) - one.start for one in silent)
    up = 1 - down_s / (story.end - story.start) if story.end > story.start else 1.0
    yield f"{format_moment(story.start)} to {format_moment(story.end)} ({span}), {format_count(story.entries, 'line')}"
    yield f"hubsync {story.version}: up {up:.1%}, started {format_count(story.starts, 'time')}"


def _target(target: TargetStory) -> Iterator[str]:
    whole = [unit for unit in target.units.values() if unit.published]
    lost = sum(1 for unit in target.units.values() if unit.abandoned)
    facts = [
        format_count(len(whole), "unit") + " published",
        f"{lost} left incomplete" if lost else "",
        f"at risk at most {format_duration(round(most(target.at_risk)))}" if most(target.at_risk) else "",
        f"at most {format_bytes(most(target.disk))} held on disk" if most(target.disk) else "",
        f"now {target.state}" if target.state not in {"", "ok"} else "",
    ]
    yield f"{target.name}: {'; '.join(fact for fact in facts if fact)}"
    yield from (f"  held: {one}" for one in target.waiting)
    yield from (f"  {_mirror(mirror)}" for mirror in target.mirrors.values())


def _mirror(mirror: MirrorStory) -> str:
    lags = ""
    if mirror.lags:
        lags = f"a unit's lag {format_duration(median(mirror.lags))}, at most {format_duration(max(mirror.lags))}"
    facts = [
        f"{format_count(mirror.files, 'file')}, {format_bytes(sum(size for _, size in mirror.sent))}",
        lags,
        f"behind at most {format_duration(round(most(mirror.behind)))}" if most(mirror.behind) else "never behind",
        f"now {mirror.state}" if mirror.state not in {"", "ok"} else "",
    ]
    return f"{mirror.name}: {'; '.join(fact for fact in facts if fact)}"


def _incidents(story: Story) -> Iterator[str]:
    """Yield the incidents: those that are not over first, then the longest."""
    groups = join_alike(story.incidents, story.end)
    for incident, *alike in groups[:_MOST_INCIDENTS]:
        yield describe_incident(incident, story.end)
        if alike:
            yield f"    and in the same way: {', '.join(about(one) for one in alike)}"
        if incident.end is None and incident.hint:
            yield f"    → {incident.hint}"
    if (more := sum(len(group) for group in groups[_MOST_INCIDENTS:])) > 0:
        yield f"… and {format_count(more, 'shorter failure')}"
    single = {
        name: count
        for name, count in Counter(story.warnings).most_common()
        if name.partition(".")[0] in {"file", "unit", "secret"}
    }
    if single:
        yield "also: " + ", ".join(f"{count} x {name}" for name, count in single.items())
