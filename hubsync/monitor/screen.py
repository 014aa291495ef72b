"""Draws the status document for a terminal, as lines of a given width. Pure; nothing is cut, what is long is folded.

Drawn by hand: a library for tables takes longer to import than ``hubsync status`` may take to answer.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from textwrap import wrap

from hubsync.monitor.status import (
    STALE_AFTER_S,
    LastError,
    MirrorStatus,
    Status,
    TargetStatus,
    Transfer,
    elapsed_s,
    find_troubles,
)
from hubsync.monitor.text import draw_bar, escape_unsafe, format_bytes, format_count, format_duration

_HEAD = ("TARGET / MIRROR", "STATE", "BEHIND", "AT RISK", "BACKLOG", "NEWEST UNIT")
_STATE, _RIGHT = 1, frozenset((2, 3, 4))
_NARROWEST_NAME = len(_HEAD[0])
_BAR_CELLS = 20
_LONGEST_NAME = 160
_SHOWN = 3  # of what is held, for each target
_HOUR_S, _DAY_S = 3_600, 86_400
_FRESH_S = 1.0  # the document is written at most once a second

_STYLES = {
    "ok": "32",
    "publishing": "36",
    "waiting": "36",
    "paused": "33",
    "degraded": "33",
    "failing": "33",
    "halted": "31;1",
    "parked": "31;1",
}
_BOLD, _RED, _DIM = "1", "31", "2"

Row = tuple[str, ...]
Paint = Callable[[str, str], str]


def draw_status(status: Status, now: datetime, *, running: bool, width: int = 80, colour: bool = False) -> str:
    """Return *status*: the daemon, a row for each target and mirror with what goes up, then errors with their cures."""
    paint = _paint if colour else _plain
    lines = [*_headline(status, now, running=running, width=width, paint=paint)]
    if not running:
        lines += _fold("→ start it: hubsync run; under systemd: journalctl -u hubsync says why it ended", width)
    lines.append("")
    lines += _table(status, now, width, paint)
    told: dict[str, str] = {}  # hint → whose it was: one cause may stop many
    for name, error in find_troubles(status):
        lines += ["", *_error(name, error if running else error.at_rest(), now, width, paint)]
        if error.hint:
            cure = f"as for {told[error.hint]}" if error.hint in told else error.hint
            told.setdefault(error.hint, name)
            lines += _fold(escape_unsafe(f"→ {cure}"), width, "    ", "      ")

    return "\n".join(line.rstrip() for line in lines) + "\n"


def _paint(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if text and style else text


def _plain(text: str, _style: str) -> str:
    return text


def _headline(status: Status, now: datetime, *, running: bool, width: int, paint: Paint) -> Iterator[str]:
    daemon = status.daemon
    age_s = elapsed_s(daemon.updated_at, now)
    facts = [
        f"hubsync {daemon.version}",
        f"{daemon.state}, pid {daemon.pid}" if running else f"not running (was {daemon.state}, pid {daemon.pid})",
        f"up {format_duration(elapsed_s(daemon.started_at, now))}" if running else "",
        f"{format_bytes(status.disk_held_bytes)} held on disk{_own_room(status)}",
        f"as of {format_duration(age_s)} ago" if age_s >= _FRESH_S else "",
    ]
    is_well = running and age_s <= STALE_AFTER_S
    for line in _fold("; ".join(fact for fact in facts if fact), width):
        yield paint(line, _BOLD if is_well else f"{_BOLD};{_RED}")


def _own_room(status: Status) -> str:
    """Return how much of what is held costs anything: a hard link takes no room until the source deletes its file."""
    if not status.disk_held_bytes:
        return ""
    return f", {format_bytes(sum(target.disk_own_bytes for target in status.targets))} of it beside the source"


def _table(status: Status, now: datetime, width: int, paint: Paint) -> Iterator[str]:
    groups = [
        (_target_row(target), list(_waiting(target, now)), [(_mirror_row(m), m) for m in target.mirrors])
        for target in status.targets
    ]
    rows = [row for row, _, mirrors in groups for row in (row, *(row for row, _ in mirrors))]
    widths = _widths([_HEAD, *rows], width)
    yield paint("  ".join(_align(_HEAD, widths)), _DIM)
    for target, waiting, mirrors in groups:
        yield from _draw_row(target, widths, paint)
        yield from (paint(line, _DIM) for one in waiting for line in _fold(one, width, "    ", "      "))
        for row, mirror in mirrors:
            yield from _draw_row(row, widths, paint)
            if mirror.transfer is not None:
                yield from (paint(line, _STYLES["publishing"]) for line in _fold(_bar(mirror.transfer), width, "    "))
            yield from (paint(line, _DIM) for one in _notes(mirror, now) for line in _fold(one, width, "    ", "      "))


def _target_row(target: TargetStatus) -> Row:
    settled = f"{target.settled} settled" if target.settled else ""
    return _row(target.name, target.state, (target.behind_s, target.at_risk_s), settled, target.newest_unit_local)


def _waiting(target: TargetStatus, now: datetime) -> Iterator[str]:
    """Yield what is held back, briefly; what needs a person stands below, with its cure."""
    quiet = [one for one in target.waiting if not one.needs_attention]
    if target.busy is not None:
        since = f" for {format_duration(round(elapsed_s(target.busy.since, now)))}" if target.busy.since else ""
        yield escape_unsafe(f"busy{since}: {target.busy.reason}; all else is as it was before that")
    for read in target.being_read[:_SHOWN]:
        yield escape_unsafe(f"reading {_shorten(read.path)}: {read}")
    for one in quiet[:_SHOWN]:
        since = f" for {format_duration(round(elapsed_s(one.since, now)))}" if one.since else ""
        yield escape_unsafe(f"held{since}: {_shorten(one.what)}: {one.reason}")
    if (more := target.held - len(target.waiting) + len(quiet[_SHOWN:])) > 0:
        yield f"{more} more held: hubsync plan shows all"


def _mirror_row(mirror: MirrorStatus) -> Row:
    backlog = ""
    if mirror.backlog_files:
        size = mirror.backlog_bytes
        backlog = format_bytes(size) if size else format_count(mirror.backlog_files, "file")
    name = f"  {mirror.name}{'' if mirror.required else ' (optional)'}"
    return _row(name, mirror.state, (mirror.behind_s, mirror.at_risk_s), backlog, mirror.newest_unit_published)


def _notes(mirror: MirrorStatus, now: datetime) -> Iterator[str]:
    """Yield what is to be known of a mirror that nothing is wrong with."""
    if mirror.waits_for:
        yield escape_unsafe(f"waits for {mirror.waits_for}")
    if mirror.pull_request:
        yield escape_unsafe(f"in a pull request that is not merged yet: {mirror.pull_request}")
    if mirror.proven:
        shown = (f"{one.unit} {format_duration(round(elapsed_s(one.at, now)))} ago" for one in mirror.proven[:_SHOWN])
        more = f" and {len(mirror.proven) - _SHOWN} more" if len(mirror.proven) > _SHOWN else ""
        yield escape_unsafe(f"last proved restorable: {', '.join(shown)}{more}")


def _row(name: str, state: str, figures: tuple[float, float], backlog: str, unit: str | None) -> Row:
    behind, at_risk = (format_duration(round(figure)) if figure >= 1 else "" for figure in figures)
    return tuple(escape_unsafe(cell) for cell in (name, state, behind, at_risk, backlog, unit or ""))


def _widths(rows: Sequence[Row], width: int) -> list[int]:
    """Return the width of each column: as wide as what it holds, and the names take what is left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    widths[-1] = min(widths[-1], max(len(_HEAD[-1]), width - sum(widths[1:-1]) - _NARROWEST_NAME - 2 * len(widths)))
    left = width - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(left, _NARROWEST_NAME))

    return widths


def _draw_row(row: Row, widths: Sequence[int], paint: Paint) -> Iterator[str]:
    name, *cells = row
    width = sum(widths) + 2 * (len(widths) - 1)
    if len(name) > widths[0]:  # a long name has a line of its own
        yield from _fold(name.strip(), width, "  " if name.startswith(" ") else "")
        name = ""
    folded = [
        [cell[at : at + size] for at in range(0, len(cell), size)] for cell, size in zip(cells, widths[1:], strict=True)
    ]
    for index, parts in enumerate(zip_longest(*folded, fillvalue="")):
        aligned = _align((name if index == 0 else "", *parts), widths)
        aligned[_STATE] = paint(aligned[_STATE], _STYLES.get(row[_STATE], ""))
        yield "  ".join(aligned)


def _align(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if column in _RIGHT else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _bar(transfer: Transfer) -> str:
    share = min(1.0, transfer.sent_bytes / transfer.bytes) if transfer.bytes else 1.0
    left = f", {format_duration(transfer.left_s)} left" if transfer.left_s is not None else ""
    return (
        f"{draw_bar(share, _BAR_CELLS)} {share:4.0%}  {format_bytes(transfer.sent_bytes)} of "
        f"{format_bytes(transfer.bytes)}, {format_bytes(transfer.bytes_per_s)}/s{left}"
    )


def _error(name: str, error: LastError, now: datetime, width: int, paint: Paint) -> Iterator[str]:
    since = f" for {_describe_age(error.since, now)}" if error.since else ""
    attempts = f", attempt {error.attempt}" if error.attempt > 1 else ""
    retry = ", trying again now" if error.is_retrying else ""
    if error.next_try_at:
        wait_s = (error.next_try_at - now).total_seconds()
        retry = f", next try in {format_duration(wait_s)}" if wait_s > 0 else ", next try is due"

    what = f"{_shorten(name)}: {'last error: ' if error.is_retrying else ''}"
    for line in error.error.splitlines() or [""]:
        yield from (paint(part, _RED) for part in _fold(escape_unsafe(f"{what}{line}"), width, rest="    "))
    yield from (paint(part, _DIM) for part in _fold(f"{error.error_kind}{since}{attempts}{retry}", width, "    "))


def _shorten(name: str) -> str:
    """Leave out the middle of a very long path; `--json` has all of it."""
    name = escape_unsafe(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]} … {name[-_LONGEST_NAME // 2 :]}"


def _describe_age(since: datetime, now: datetime) -> str:
    """Return how long ago *since* was and, in the reader's zone, when."""
    age_s = elapsed_s(since, now)
    form = "%H:%M:%S" if age_s < _HOUR_S else "%H:%M" if age_s < _DAY_S / 2 else "%Y-%m-%d %H:%M"
    return f"{format_duration(age_s)} (since {since.astimezone().strftime(form)})"


def _fold(text: str, width: int, first: str = "", rest: str | None = None) -> list[str]:
    after = first if rest is None else rest
    return wrap(text, width, initial_indent=first, subsequent_indent=after, break_on_hyphens=False) or [""]
