"""Draws a story as one page of HTML: no script, no request; light or dark as the reader's system is."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from importlib import resources
from statistics import median

from hubsync.monitor.events import CATALOGUE
from hubsync.monitor.text import escape_surrogates, format_bytes, format_count, format_duration
from hubsync.views.chart import Span, draw_area, draw_bars
from hubsync.views.story import Incident, MirrorStory, Story, TargetStory, UnitStory, join_alike
from hubsync.views.summary import format_moment, most

_OPEN_UNITS, _OPEN_INCIDENTS = 12, 12  # longer tables are folded
_KINDS = {
    "ok": "good",
    "publishing": "good",
    "waiting": "good",
    "paused": "warn",
    "failing": "warn",
    "degraded": "warn",
    "": "warn",
}

# What an incident that is not over is called, by what it is of.
_TITLES = {
    "mirror": "{} gets nothing",
    "target": "{} is halted",
    "disk": "{}: nothing is captured",
    "unit": "{} is incomplete",
    "watch": "{}: changes are noticed late",
    "config": "The new config is not in force",
}

# The page may load nothing, whatever stands in it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def draw_page(story: Story) -> str:
    """Return the page."""
    span = Span(story.start, story.end, partial(format_moment, over_s=story.end - story.start))
    style = resources.files("hubsync.views").joinpath("page.css").read_text("utf-8")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>hubsync report</title><style>\n{style}</style></head><body>\n"
    )
    body = "\n".join((*_top(story), *(_target(target, story, span) for target in story.targets.values()), *_rest(story)))
    return escape_surrogates(f"{head}{body}\n</body></html>\n")


def _top(story: Story) -> Iterator[str]:
    span = format_duration(story.end - story.start)
    yield "<header><h1>hubsync report</h1>"
    yield f'<p class="soft">{format_moment(story.start)} to {format_moment(story.end)} ({span})'
    yield f" · hubsync {escape(story.version)} · {format_count(story.entries, 'line')} of log</p></header>"
    trouble = [one for one in story.incidents if one.end is None]
    if not story.entries:
        yield '<div class="card mild"><h3>Nothing was logged in that time</h3></div>'
    elif not trouble:
        said = "Nothing that failed is still failing."
        yield f'<div class="card well"><h3>All is well now</h3><p class="soft">{said}</p></div>'
    for incident, *alike in join_alike(trouble, story.end):
        yield _trouble(incident, alike, story.end)
    links = "".join(f'<a href="#{_anchor(target.name)}">{_text(target.name)}</a>' for target in story.targets.values())
    yield f'<nav>{links}<a href="#failures">failures</a><a href="#warnings">warnings</a></nav>'


def _trouble(incident: Incident, alike: Sequence[Incident], end: float) -> str:
    kind = "severe" if incident.is_severe else "mild"
    cure = f"<p>→ {_text(incident.hint)}</p>" if incident.hint else ""
    since = f"since {format_moment(incident.start)}, {format_duration(round(end - incident.start))}"
    tries = f", {incident.tries} tries" if incident.tries > 1 else ""
    others = f'<p class="soft">and in the same way: {_text(", ".join(map(_about, alike)))}</p>' if alike else ""
    title = _TITLES.get(incident.what, "{} does not work").format(_about(incident))
    return (
        f'<div class="card {kind}"><h3>{_text(title)}</h3><p>{_text(incident.error)}</p>{cure}'
        f'{others}<p class="soft">{since}{tries}</p></div>'
    )


def _target(target: TargetStory, story: Story, span: Span) -> str:
    published = sum(1 for unit in target.units.values() if unit.published)
    facts = [
        (str(published), "units published"),
        (str(sum(1 for unit in target.units.values() if unit.abandoned)), "units left incomplete"),
        (format_duration(round(target.at_risk[-1][1])) if target.at_risk else "-", "training time at risk now"),
        (format_bytes(most(target.disk)), "held on disk at most"),
    ]
    own = [one for one in story.incidents if (one.target == target.name and not one.mirror) or one.what == "daemon"]
    charts = [
        draw_area("Training time at risk", target.at_risk, span, _seconds, own),
        draw_area("Held on disk", target.disk, span, format_bytes, own),
    ]
    mirrors = "".join(_mirror(mirror, target, story, span) for mirror in target.mirrors.values())
    return (
        f'<section id="{_anchor(target.name)}"><h2>{_text(target.name)} {_badge(target.state)}</h2>'
        f'<div class="card">{_held(target)}{_facts(facts)}{"".join(charts)}</div>{mirrors}{_units(target)}</section>'
    )


def _held(target: TargetStory) -> str:
    if not target.held:
        return ""
    items = "".join(f"<li>{_text(one)}</li>" for one in target.waiting)
    return f"<p>{format_count(target.held, 'path')} held back, that is not published as it stands:</p><ul>{items}</ul>"


def _mirror(mirror: MirrorStory, target: TargetStory, story: Story, span: Span) -> str:
    failures = [one for one in story.incidents if (one.target, one.mirror) == (target.name, mirror.name)]
    facts = [
        (format_duration(median(mirror.lags)) if mirror.lags else "-", "a unit's lag, median"),
        (format_duration(max(mirror.lags)) if mirror.lags else "-", "a unit's lag, most"),
        (format_duration(round(mirror.behind[-1][1])) if mirror.behind else "-", "behind now"),
        (format_duration(round(sum((one.end or story.end) - one.start for one in failures))), "failing in all"),
    ]
    charts = [
        draw_area("Behind", mirror.behind, span, _seconds, failures),
        draw_area("Backlog", mirror.backlog, span, format_bytes, failures),
        draw_bars("Published", mirror.sent, span, format_bytes, failures),
    ]
    optional = "" if mirror.is_required else " <small>optional</small>"
    return (
        f'<div class="card"><h3>{_text(mirror.name)}{optional} {_badge(mirror.state)}</h3>'
        f"{_facts(facts)}{''.join(charts)}</div>"
    )


def _units(target: TargetStory) -> str:
    if not target.units:
        return ""
    mirrors = list(target.mirrors)
    newest = list(target.units.values())[::-1]
    slowest = max((_length(unit) for unit in newest), default=0.0)
    head = "".join(f"<th>{_text(name)}</th>" for name in ("unit", "files", "size", "complete", *mirrors, "way"))
    rows = "".join(_unit(unit, mirrors, slowest) for unit in newest)
    table = f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
    is_open = " open" if len(newest) <= _OPEN_UNITS else ""
    return f'<details class="card"{is_open}><summary>{format_count(len(newest), "unit")}</summary>{table}</details>'


def _unit(unit: UnitStory, mirrors: Sequence[str], slowest: float) -> str:
    complete = format_moment(unit.completed)[5:] if unit.completed else "left incomplete" if unit.abandoned else "not yet"
    began = unit.written or unit.completed
    lags = [
        f"+{format_duration(round(unit.published[name] - began))}" if began and name in unit.published else "-"
        for name in mirrors
    ]
    size = format_bytes(unit.bytes) if unit.bytes else ""
    cells = (_text(unit.name), str(unit.files or ""), size, complete, *lags, _way(unit, slowest))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _way(unit: UnitStory, slowest: float) -> str:
    """Return a bar: from the last write until it was complete, then until the last mirror had it."""
    if not (unit.written and unit.published and slowest):
        return ""
    until_complete = max(0.0, (unit.completed or unit.written) - unit.written)
    rest = max(0.0, _length(unit) - until_complete)
    return (
        f'<div class="way" title="complete after {format_duration(until_complete)}, everywhere after '
        f'{format_duration(_length(unit))}"><i style="width:{until_complete / slowest:.1%}"></i>'
        f'<b style="width:{rest / slowest:.1%}"></b></div>'
    )


def _length(unit: UnitStory) -> float:
    return max(unit.published.values()) - unit.written if unit.written and unit.published else 0.0


def _rest(story: Story) -> Iterator[str]:
    rows = "".join(_incident(incident, story.end) for incident in sorted(story.incidents, key=lambda one: -one.start))
    head = "<tr><th>from</th><th>for</th><th>what</th><th>why</th></tr>"
    table = f'<div class="scroll"><table class="told">{head}{rows}</table></div>' if rows else '<p class="soft">None.</p>'
    is_open = " open" if len(story.incidents) <= _OPEN_INCIDENTS else ""
    count = format_count(len(story.incidents), "failure")
    yield f'<details class="card" id="failures"{is_open}><summary>{count}</summary>{table}</details>'
    rows = "".join(_warning(name, count, story.last_said[name]) for name, count in Counter(story.warnings).most_common())
    head = "<tr><th>event</th><th>times</th><th>said last, and what to do</th></tr>"
    table = f'<div class="scroll"><table class="told">{head}{rows}</table></div>' if rows else '<p class="soft">None.</p>'
    yield f'<details class="card" id="warnings" open><summary>Warnings and errors</summary>{table}</details>'


def _incident(incident: Incident, end: float) -> str:
    length = format_duration(round((incident.end or end) - incident.start))
    still = " <small>and on</small>" if incident.end is None else ""
    cure = f"<br>→ {_text(incident.hint)}" if incident.hint else ""
    tries = f" <small>{incident.tries} tries</small>" if incident.tries > 1 else ""
    return (
        f"<tr><td>{format_moment(incident.start)}</td><td>{length}{still}</td><td>{_text(_about(incident))}</td>"
        f'<td class="text">{_text(incident.error)}{tries}{cure}</td></tr>'
    )


def _warning(name: str, count: int, said: str) -> str:
    event = CATALOGUE.get(name)
    cure = f"<br>→ {_text(event.action)}" if event is not None and event.action else ""
    return f'<tr><td>{_text(name)}</td><td>{count}</td><td class="text">{_text(said)}{cure}</td></tr>'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return '<div class="facts">' + "".join(f"<div><b>{_text(b)}</b><span>{a}</span></div>" for b, a in facts) + "</div>"


def _badge(state: str) -> str:
    return f'<span class="badge {_KINDS.get(state, "bad")}">{_text(state or "unknown")}</span>'


def _about(incident: Incident) -> str:
    return " → ".join(part for part in (incident.target, incident.mirror or incident.unit) if part) or "hubsync"


def _anchor(name: str) -> str:
    return "target-" + "".join(letter if letter.isalnum() else "-" for letter in name)


def _seconds(figure: float) -> str:
    return format_duration(round(figure))


def _text(text: str) -> str:
    return escape(escape_surrogates(text))
