"""What the log tells of a week: spans of failure, units on their way, the figures; and the views of it."""

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hubsync.views.page import draw_page
from hubsync.views.story import Story, tell, thin
from hubsync.views.summary import summarize_story

START = datetime(2026, 11, 16, tzinfo=UTC)
HOUR = 3600.0


def entry(event: str, hours: float, level: str = "info", **fields: Any) -> dict[str, Any]:
    when = (START + timedelta(hours=hours)).isoformat()
    return {"timestamp": when, "level": level, "event": event, "message": f"it was {event}", **fields}


def beat(hours: float, state: str = "ok", behind_s: float = 0.0, **fields: Any) -> list[dict[str, Any]]:
    about = {"target": "sft", "behind_s": behind_s, "at_risk_s": behind_s, "backlog_bytes": int(behind_s)}
    target = entry("heartbeat", hours, state="ok" if state == "ok" else "degraded", disk_held_bytes=9, **about, **fields)
    return [target, entry("heartbeat", hours, mirror="hub", state=state, required=True, **about)]


def failed(hours: float, attempt: int, **fields: Any) -> dict[str, Any]:
    about = {"target": "sft", "mirror": "hub", "error": "Connection refused", "error_kind": "network", "hint": "wait"}
    return entry("mirror.failed", hours, "warning", attempt=attempt, **{**about, **fields})


def a_night() -> list[dict[str, Any]]:
    """Return the log of a night in which the Hub was down from ten to two."""
    before = [one for hour in range(10) for part in range(20) for one in beat(hour + part / 20)]
    during = [one for hour in range(10, 14) for part in range(20) for one in beat(hour + part / 20, "failing", 300)]
    saved = entry("unit.completed", 9.1, target="sft", unit="checkpoint-1", files=3, bytes=4_000_000)
    there = {"target": "sft", "mirror": "hub", "unit": "checkpoint-1", "lag_s": 5 * HOUR}
    entries = [
        entry("daemon.started", 0, version="1.2.3"),
        *before,
        saved,
        failed(10, 1),
        failed(10.04, 2),
        *during,
        failed(13.9, 4),
        entry("mirror.published", 14, target="sft", mirror="hub", files=3, bytes=4_000_000),
        entry("unit.published", 14, **there),
        entry("mirror.recovered", 14, target="sft", mirror="hub", failures=7, down_s=4 * HOUR),
        *beat(14),
    ]
    return sorted(entries, key=lambda one: datetime.fromisoformat(one["timestamp"]))


def test_a_night_without_the_hub_is_one_failure_with_a_span() -> None:
    """Many tries are one incident: from the first failure to the first success, with the cause that was said last."""
    (incident,) = tell(a_night()).incidents

    assert ("sft", "hub", "Connection refused", "wait") == (
        incident.target,
        incident.mirror,
        incident.error,
        incident.hint,
    )
    assert incident.end is not None
    assert 4 * HOUR == incident.end - incident.start
    assert 4 == incident.tries


def test_what_is_not_over_is_said_so() -> None:
    """The cure of a failure that goes on stands in the summary, with its length until now."""
    text = summarize_story(
        tell([*beat(0), failed(1, 1), *(one for part in range(60) for one in beat(1 + part / 20, "failing"))])
    )

    assert "sft/hub: Connection refused" in text
    assert "2h57m, not over" in text
    assert "    → wait" in text.splitlines()


@pytest.mark.parametrize(("last", "severe"), [("daemon.stopped", False), ("heartbeat", True)])
def test_a_gap_in_the_log_is_a_failure(last: str, *, severe: bool) -> None:
    """No line for long: the daemon was down; if it did not say that it stops, that is severe."""
    story = tell([entry("heartbeat", 0), entry(last, 0.01), entry("daemon.started", 2)])

    assert [("daemon", severe)] == [(one.what, one.is_severe) for one in story.incidents]


def test_a_unit_is_followed_from_its_last_write_to_each_mirror() -> None:
    """The way of a unit: written, complete, on the mirror."""
    (target,) = tell(a_night()).targets.values()
    unit = target.units["checkpoint-1"]

    began = START.timestamp()
    assert (began + 9 * HOUR, began + 9.1 * HOUR, {"hub": began + 14 * HOUR}) == (
        unit.written,
        unit.completed,
        unit.published,
    )
    assert [5 * HOUR] == target.mirrors["hub"].lags


def test_the_week_is_told_in_twenty_lines() -> None:
    """However many targets and failures there are."""
    entries = [one for number in range(30) for one in _renamed(a_night(), f"target-{number}")]
    lines = summarize_story(tell(sorted(entries, key=lambda one: one["timestamp"]))).splitlines()

    assert 8 < len(lines) <= 20
    assert any("lines more" in line for line in lines)


def test_nothing_logged_is_said_so() -> None:
    """An empty log is a summary and a page, not an error."""
    assert "nothing was logged" in summarize_story(Story())
    assert "Nothing was logged" in draw_page(Story())


def test_a_stretch_shows_its_largest_figure() -> None:
    """A peak is never smoothed away; where nothing was logged there is no figure."""
    assert [2.0, None, 7.0] == thin([(0, 2), (0.5, 1), (2.5, 7)], 0, 3, 3)
    assert [3.0, None, 7.0] == thin([(0, 2), (0.5, 1), (2.5, 7)], 0, 3, 3, add=True)


class Strict(HTMLParser):
    """Remembers open elements, scripts, and everything that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element, and what it would load."""
        if tag in {"meta", "br"}:
            return
        self.open.append(tag)
        given = dict(attrs)
        self.loads += [tag] if tag in {"script", "link", "img", "iframe"} or "src" in given else []
        self.loads += [str(given["href"])] if not str(given.get("href", "#")).startswith("#") else []
        self.loads += [name for name in given if name.startswith("on")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Pass over what opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        """Expect that the innermost element is closed first."""
        assert tag == self.open.pop()


def test_the_page_is_whole_and_loads_nothing() -> None:
    """Every element is closed; whatever stands in the log, nothing runs and nothing is fetched."""
    evil = '"><script src="http://x/"></script><img onerror=x>&\udcff'
    hurt = [failed(15, 1, error=evil, hint=evil, mirror=evil), *beat(15, held=1, waiting=[evil])]
    page = draw_page(tell(_renamed([*a_night(), *hurt], evil)))
    parser = Strict()
    parser.feed(page)

    assert ([], []) == (parser.open, parser.loads)
    assert "default-src 'none'" in page
    assert "Connection refused" in page
    page.encode()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page(tmp_path: Path, width: int) -> None:
    """A real browser takes the policy, draws the charts and finds no mistake to complain of; also as wide as a phone."""
    file = tmp_path / "page.html"
    file.write_text(draw_page(tell(a_night())))
    argv = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    shot = tmp_path / "page.png"
    done = subprocess.run(
        [*argv, "--enable-logging=stderr", f"--window-size={width},2000", f"--screenshot={shot}", file.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert [] == re.findall(r"CONSOLE.*", done.stderr)
    assert shot.stat().st_size > 20_000


def _renamed(entries: list[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    return [{**one, "target": target} if "target" in one else one for one in entries]
