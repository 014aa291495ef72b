"""What the log tells of a week: spans of failure, units on their way, the figures; and the views of it."""

from html.parser import HTMLParser
from typing import Any

import pytest
from support.nights import HOUR, START, a_night, beat, entry, failed

from hubsync.views.page import draw_page
from hubsync.views.story import Story, tell, thin
from hubsync.views.summary import summarize_story


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
    assert 7 == incident.tries


def test_what_is_not_over_is_said_so() -> None:
    """The cure of a failure that goes on stands in the summary, with its length until now."""
    text = summarize_story(
        tell([*beat(0), failed(1, 1), *(one for part in range(60) for one in beat(1 + part / 20, "failing"))])
    )

    assert "sft/hub: Connection refused" in text
    assert "2h57m, not over" in text
    assert "    → wait" in text.splitlines()


def test_an_upload_after_failures_does_not_end_them() -> None:
    """It may fail as well: the first success ends them."""
    sending = [{**one, "error_kind": "network"} for one in beat(1.05, "publishing")]
    log = [*beat(1), failed(1, 1), *sending]
    (still,), (over,) = tell(log).incidents, tell([*log, *beat(1.1)]).incidents

    assert (True, False) == (still.end is None, over.end is None)


def test_one_cause_is_told_once() -> None:
    """A limit that stops three targets is one item with three names and one cure; what is worse comes before it."""
    late = {"reason": "inotify watch limit reached", "hint": "raise it"}
    log = [entry("watch.degraded", 1, "warning", target=name, **late) for name in ("a", "b", "c")]
    parked = {**failed(2, 1, target="a", hint="a new token"), "event": "mirror.parked", "level": "error"}
    text = summarize_story(tell([*log, parked, *beat(3)]))

    assert text.index("a new token") < text.index("inotify watch limit reached")
    assert 1 == text.count("inotify watch limit reached")
    assert "    and in the same way: b, c" in text.splitlines()


def test_half_a_unit_is_a_failure_until_it_is_whole_or_gone() -> None:
    """From when it was given up, with the cure; a heartbeat that holds nothing back any more ends it."""
    given_up = {"target": "sft", "reason": "trainer_state.json is missing", "hint": "touch the mark"}
    log = [entry("unit.abandoned", hour, "warning", unit=f"checkpoint-{hour}", **given_up) for hour in (1, 2, 3)]
    log += beat(3.1, held=3, waiting=[f"checkpoint-{hour}/: it waits" for hour in (1, 2, 3)])
    log += [entry("unit.completed", 4, target="sft", unit="checkpoint-1")]
    log += beat(5, held=1, waiting=["checkpoint-3/: it waits"])
    story = tell(log)

    assert {"checkpoint-1": 4, "checkpoint-2": 5, "checkpoint-3": None} == {
        one.unit: one.end and (one.end - START.timestamp()) / HOUR for one in story.incidents if one.unit
    }
    assert "sft/checkpoint-3: trainer_state.json is missing" in summarize_story(story)


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


def test_what_a_new_daemon_does_not_say_again_is_over() -> None:
    """A daemon that was ended in the middle of it never says that there is room again; the next one just goes on."""
    paused = entry("capture.paused", 0, target="sft", reason="too little free space")
    started = entry("daemon.started", 2)
    [over] = [one for one in tell([paused, started, entry("heartbeat", 3, target="sft")]).incidents if one.what == "disk"]
    again = [
        one for one in tell([paused, started, paused | {"timestamp": started["timestamp"]}]).incidents if one.what == "disk"
    ]

    assert 2 * HOUR == (over.end or 0) - over.start
    assert [False, True] == [one.end is None for one in again]


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


def _renamed(entries: list[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    return [{**one, "target": target} if "target" in one else one for one in entries]
