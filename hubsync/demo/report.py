"""Draws the demo's conclusions: what arrived where, how soon, and what it cost. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from msgspec import Struct

from hubsync.demo.compare import Comparison
from hubsync.demo.disk import DiskUse
from hubsync.demo.record import Record
from hubsync.demo.story import Row, Story
from hubsync.monitor.text import escape_unsafe, format_bytes, format_count, format_duration


class Verdict(Struct, frozen=True):
    """How one unit is on one Hub: the number of files that are wrong or missing, or held back, and how late it came."""

    wrong: int
    held: int
    lag_s: float | None


class ReportRow(Struct, frozen=True):
    """One unit, or all files that are in none."""

    name: str
    files: int
    bytes: int
    verdicts: Mapping[str, Verdict]


class Report(Struct, frozen=True):
    """What is told at the end."""

    hubs: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    facts: tuple[tuple[str, str], ...]
    problems: tuple[tuple[str, str], ...]
    conclusion: str
    is_good: bool


class Outcome(Struct, frozen=True):
    """All that the demo learned.

    Attributes:
        comparisons: by Hub.
        left_out: what no rule of hubsync takes, and why.
        down_s: how long one Hub was down, 0 if none was.
        quiet_s: how long the config lets a file rest before it is looked at.
    """

    story: Story
    comparisons: Mapping[str, Comparison]
    disk: DiskUse
    quiet_s: float
    down_s: float = 0.0
    left_out: Mapping[str, str] | None = None


def make_report(outcome: Outcome) -> Report:
    """Return what to tell."""
    story = outcome.story
    problems = tuple(_find_problems(outcome))
    total = sum(record.size for record in story.records.values())
    rows = tuple(_make_rows(outcome))

    return Report(
        story.hubs, rows, tuple(_make_facts(outcome, total)), problems, _conclude(outcome, rows, total), not problems
    )


def _conclude(outcome: Outcome, rows: Sequence[ReportRow], total: int) -> str:
    files = format_count(len(outcome.story.records), "file")
    verdicts = [verdict for row in rows for verdict in row.verdicts.values()]
    if any(verdict.wrong for verdict in verdicts):
        return f"Not everything matched: of {files}, those above did not arrive as they were written."
    if any(verdict.held for verdict in verdicts):
        return f"What was published matched; of {files}, those above were held back."

    return f"Everything matched: {files}, {format_bytes(total)}, on both Hubs."


def _make_rows(outcome: Outcome) -> Iterator[ReportRow]:
    story = outcome.story
    held_units = [path.removesuffix("/") for path in story.held if path.endswith("/")]
    groups: dict[str, dict[str, Record]] = {unit: {} for unit in (*story.units, *held_units)}
    loose: dict[str, Record] = {}
    for path, record in story.records.items():
        groups.get(_unit_of(path, groups), loose)[path] = record
    for unit, records in groups.items():
        yield _make_row(escape_unsafe(unit), records, outcome, story.units.get(unit))
    if loose:
        yield _make_row("other files" if groups else "all files", loose, outcome, None)


def _make_row(name: str, records: Mapping[str, Record], outcome: Outcome, row: Row | None) -> ReportRow:
    verdicts = {}
    for hub, comparison in outcome.comparisons.items():
        wrong = {*comparison.different, *comparison.missing} & records.keys()
        held = sum(outcome.story.holder_of(path) is not None for path in wrong)
        verdicts[hub] = Verdict(len(wrong) - held, held, row.lag_s.get(hub) if row else None)

    return ReportRow(name, len(records), sum(record.size for record in records.values()), verdicts)


def _unit_of(path: str, units: Mapping[str, object]) -> str:
    parts = path.split("/")
    prefixes = ("/".join(parts[:depth]) for depth in range(1, len(parts)))

    return next((prefix for prefix in prefixes if prefix in units), "")


def _make_facts(outcome: Outcome, total: int) -> Iterator[tuple[str, str]]:
    story = outcome.story
    yield "compared", _tell_compared(outcome)
    lags = [lag for row in story.units.values() for hub, lag in row.lag_s.items() if hub != row.down_meanwhile]
    if lags:
        yield "delay", _tell_delay(lags, outcome.quiet_s)
    else:
        took_s = story.published_at - (story.ready_at or story.published_at)
        yield "time", f"{format_duration(max(0.0, took_s))} from the start of hubsync to the last commit on a Hub"
    yield from _tell_outage(outcome)
    yield from _tell_early(story)
    yield "disk", _tell_disk(outcome, total)
    yield from _tell_added(outcome)
    for path, why in sorted((outcome.left_out or {}).items())[:3]:
        yield "left out", f"{escape_unsafe(path)}: {escape_unsafe(why)}"


def _tell_delay(lags: Sequence[float], quiet_s: float) -> str:
    return (
        f"a checkpoint was on a Hub {format_duration(median(lags))} after its last byte was written (median; the slowest"
        f" {format_duration(max(lags))}); {format_duration(quiet_s)} of that is `quiet`, to be sure that a file is finished"
    )


def _tell_compared(outcome: Outcome) -> str:
    count = len(outcome.story.records)
    parts = [f"{len(comparison.same)} of {count} files on {hub}" for hub, comparison in outcome.comparisons.items()]
    return f"{' and '.join(parts)} have the SHA-256 that was written (downloaded with huggingface_hub)"


def _tell_outage(outcome: Outcome) -> Iterator[tuple[str, str]]:
    units = outcome.story.units
    met = [row for row in units.values() if row.down_meanwhile]
    if not met:
        return
    down = met[0].down_meanwhile
    slowest = max((lag for row in met for hub, lag in row.lag_s.items() if hub != down), default=0.0)
    late = [unit for unit, row in units.items() if row.deleted_before]
    text = f"{down} was down for {format_duration(outcome.down_s)}; meanwhile {_other(outcome, down)} was at most"
    text += f" {format_duration(slowest)} behind"
    if late:
        text += f". {' and '.join(late)} had been deleted here before {down} came back, and arrived"
    yield "outage", text


def _other(outcome: Outcome, down: str | None) -> str:
    return " and ".join(hub for hub in outcome.story.hubs if hub != down)


def _tell_early(story: Story) -> Iterator[tuple[str, str]]:
    size = sum(row.bytes for row in story.units.values())
    hub, early = max(story.early_bytes.items(), key=lambda item: item[1])
    if early and size:
        yield "ahead", f"{early / size:.0%} of the checkpoints' bytes were on {hub} before their checkpoint was complete"


def _tell_disk(outcome: Outcome, total: int) -> str:
    disk, pins = outcome.disk, set(outcome.story.pins.values())
    share = f" ({disk.extra / total:.1%})" if total > disk.extra else ""
    ways = {"link": "hard links", "reflink": "reflinks", "copy": "copies"}
    how = " and ".join(ways[pin] for pin in sorted(pins) if pin in ways)
    text = f"{format_bytes(disk.extra)} extra at most, for {format_bytes(total)}{share}"
    if how:
        text += f": captured files are {how}"
    if disk.kept:
        text += f"; for a time {format_bytes(disk.kept)} more, of a checkpoint that was deleted but still owed to a Hub"

    return text


def _tell_added(outcome: Outcome) -> Iterator[tuple[str, str]]:
    added = sorted({path for comparison in outcome.comparisons.values() for path in comparison.added})
    if added:
        yield "added", f"{', '.join(map(escape_unsafe, added[:4]))}{' …' if len(added) > 4 else ''} (by hubsync)"  # noqa: PLR2004 - a line's worth


def _find_problems(outcome: Outcome) -> Iterator[tuple[str, str]]:
    story = outcome.story
    held: dict[str, int] = {}
    for hub, comparison in outcome.comparisons.items():
        for path in comparison.missing:
            if holder := story.holder_of(path):
                held[holder] = held.get(holder, 0) + 1
            else:
                yield escape_unsafe(path), f"did not arrive on {hub}"
        for path in comparison.different:
            yield escape_unsafe(path), f"is not the same on {hub}"
    for holder in held:
        yield escape_unsafe(holder), f"held back by hubsync, {escape_unsafe(story.held[holder])}"
