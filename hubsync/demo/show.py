"""Shows the demo: lines as things happen, a table that keeps up, and the result. It decides nothing.

On a terminal the table stands below the lines and is drawn anew; elsewhere there are plain lines, and the table once.
"""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hubsync.demo.report import Report, Verdict
from hubsync.demo.story import Line, Row, Story
from hubsync.monitor.text import format_bytes, format_count, format_duration

_STYLES = {"plain": "", "good": "green", "quiet": "dim", "warn": "yellow", "bad": "bold red"}
_WIDTH = 80
_ROWS = 8
_LISTED = 10
_REFRESH = 5  # per second


class Screen:
    """What the reader looks at."""

    def __init__(self, environment: Mapping[str, str] | None = None, stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows "?" for a check mark
        self._console = Console(file=stream, highlight=False, _environ=environment)
        if not self._console.is_terminal or self._console.width > _WIDTH:
            self._console.width = _WIDTH
        self._live: Live | None = None
        self._began = time.monotonic()

    def say_intro(self, paragraphs: Iterable[str], facts: Mapping[str, str]) -> None:
        """Tell what will happen, and where."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        for name, value in facts.items():
            table.add_row(name, Text(value))
        self._console.print()
        for paragraph in paragraphs:
            self._print(Text(paragraph))
            self._console.print()
        self._print(table)
        self._console.print()

    def begin(self) -> None:
        """Start the clock that stands before each line."""
        self._began = time.monotonic()
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, refresh_per_second=_REFRESH, auto_refresh=False, transient=True)
            self._live.start()

    def say(self, line: Line) -> None:
        """Tell *line*."""
        seconds = int(time.monotonic() - self._began)
        row = Table.grid(padding=(0, 2))
        row.add_column(justify="right", width=6, style="dim")
        row.add_column(width=8, style="bold" if line.who not in {"hubsync", "demo"} else "", no_wrap=True)
        row.add_column(style=_STYLES[line.tone])
        row.add_row(f"{seconds // 60}:{seconds % 60:02}", Text(line.who), Text(line.text))
        self._put(row)

    def update(self, story: Story, hub_bytes: Mapping[str, int]) -> None:
        """Draw the table anew."""
        if self._live is not None:
            self._live.update(Padding(_progress_table(story, hub_bytes), (1, 0, 0, 2)), refresh=True)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say_result(self, report: Report) -> None:
        """Tell what arrived where."""
        self.stop()
        self._console.print()
        self._print(_result_table(report))
        self._console.print()
        self._print(_facts_table(report.facts))
        if report.problems:
            self._console.print()
            self._print(_problems(report.problems))
        self._console.print()
        self._print(Text(report.conclusion, style="bold green" if report.is_good else "bold red"))
        self._print(Text("To begin with your own: hubsync init", style="dim"))
        self._console.print()

    def say_text(self, text: str) -> None:
        """Tell one paragraph."""
        self._print(Text(text))

    def _print(self, what: RenderableType) -> None:
        self._put(Padding(what, (0, 0, 0, 2)))

    def _put(self, what: RenderableType) -> None:
        """Print *what*; in a file, without the spaces that fill a line."""
        if self._console.is_terminal:
            self._console.print(what)
            return
        with self._console.capture() as captured:
            self._console.print(what)
        self._console.file.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
        self._console.file.flush()


def _progress_table(story: Story, hub_bytes: Mapping[str, int]) -> Table:
    table = _table("", "here", *story.hubs)
    for name, row in list(story.units.items())[-_ROWS:]:
        table.add_row(Text(name), _here(row), *(_there(story, row, hub) for hub in story.hubs))
    size = sum(record.size for record in story.records.values())
    amounts = [Text(format_bytes(hub_bytes.get(hub, 0)), style="dim") for hub in story.hubs]
    table.add_row(Text("all files", style="dim"), Text(format_bytes(size), style="dim"), *amounts)

    return table


def _here(row: Row) -> Text:
    size = format_bytes(row.bytes)
    if row.is_deleted:
        return Text(f"deleted ({size})", style="dim")
    if row.saved_at is None and not row.published:
        return Text(f"saving, {size}", style="cyan")

    return Text(size)


def _there(story: Story, row: Row, hub: str) -> Text:
    if hub in row.published:
        lag = row.lag_s.get(hub)
        return Text("✓" if lag is None else f"✓ after {format_duration(lag)}", style="green")
    if hub == story.down:
        return Text("down", style="yellow")
    arrived = sum(oid in story.uploaded[hub] for oid in row.objects)
    if arrived:
        return Text(f"↑ {arrived} large files", style="cyan") if arrived > 1 else Text("↑ 1 large file", style="cyan")

    return Text("waits", style="dim")


def _result_table(report: Report) -> Table:
    table = _table("", "written", *report.hubs)
    rows = report.rows if len(report.rows) <= _ROWS else report.rows[-_ROWS:]
    for row in rows:
        amount = f"{format_count(row.files, 'file')}, {format_bytes(row.bytes)}"
        table.add_row(Text(row.name), Text(amount), *(_verdict(row.verdicts[hub]) for hub in report.hubs))
    if len(report.rows) > len(rows):
        table.add_row(Text(f"and {len(report.rows) - len(rows)} more", style="dim"))

    return table


def _verdict(verdict: Verdict) -> Text:
    if verdict.wrong:
        return Text(f"✗ {verdict.wrong} wrong", style="bold red")
    if verdict.held:
        return Text(f"✗ {verdict.held} held back", style="yellow")
    lag = "" if verdict.lag_s is None else f" after {format_duration(verdict.lag_s)}"

    return Text(f"✓ same{lag}", style="green")


def _facts_table(facts: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, text in facts:
        table.add_row(name, Text(text))

    return table


def _problems(problems: Sequence[tuple[str, str]]) -> Group:
    shown = [Text(f"✗ {path}: {why}", style="red") for path, why in problems[:_LISTED]]
    if len(problems) > _LISTED:
        shown.append(Text(f"… and {len(problems) - _LISTED} more", style="red"))

    return Group(*shown)


def _table(*headers: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", show_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")

    return table
