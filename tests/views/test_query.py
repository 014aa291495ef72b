from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from hubsync.errors import UsageError
from hubsync.views.query import Query, parse_moment

ZONE = timezone(timedelta(hours=2))
NOW = datetime(2026, 11, 24, 3, 30, tzinfo=ZONE)


def entry(**fields: Any) -> dict[str, Any]:
    return {"timestamp": "2026-11-24T01:00:00Z", "level": "info", "event": "mirror.published", "message": "m", **fields}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-11-24T03:30:00+02:00"),
        ("today", "2026-11-24T00:00:00+02:00"),
        ("yesterday", "2026-11-23T00:00:00+02:00"),
        ("2h", "2026-11-24T01:30:00+02:00"),
        ("1h30m ago", "2026-11-24T02:00:00+02:00"),
        ("7d", "2026-11-17T03:30:00+02:00"),
        ("03:00", "2026-11-24T03:00:00+02:00"),
        ("23:59:30", "2026-11-23T23:59:30+02:00"),
        ("2026-11-23", "2026-11-23T00:00:00+02:00"),
        ("2026-11-23 22:15", "2026-11-23T22:15:00+02:00"),
        ("2026-11-23T22:15:00Z", "2026-11-23T22:15:00+00:00"),
    ],
)
def test_a_time_is_what_a_person_means_by_it(text: str, expected: str) -> None:
    """Ages, times of day that have passed, days and RFC 3339 are all understood, in the reader's own zone."""
    assert datetime.fromisoformat(expected) == parse_moment(text, NOW)


@pytest.mark.parametrize("text", ["", "soon", "2 hours", "25:00", "2026-13-01", "10"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    """A time that nobody can read is an error that shows what can be written."""
    with pytest.raises(UsageError, match="is not a time") as caught:
        parse_moment(text, NOW)

    assert "2h" in caught.value.hint


@pytest.mark.parametrize(
    ("query", "fields", "expected"),
    [
        (Query(), {}, True),
        (Query(targets=("sft",)), {"target": "sft"}, True),
        (Query(targets=("sft",)), {"target": "rl"}, False),
        (Query(targets=("sft",)), {}, False),
        (Query(targets=("sft", "rl*")), {"target": "rl-ppo"}, True),
        (Query(mirrors=("onprem",)), {"mirror": "onprem"}, True),
        (Query(mirrors=("onprem",)), {"mirror": "hub"}, False),
        (Query(events=("mirror.*",)), {}, True),
        (Query(events=("unit.*",)), {}, False),
        (Query(events=("!mirror.*",)), {}, False),
        (Query(events=("!heartbeat",)), {}, True),
        (Query(events=("mirror.*", "!mirror.published")), {}, False),
        (Query(level="warning"), {}, False),
        (Query(level="warning"), {"level": "error"}, True),
        (Query(level="warning"), {"level": "fatal"}, True),
        (Query(since=NOW - timedelta(hours=1)), {}, True),  # 03:00 in this zone
        (Query(since=NOW - timedelta(minutes=29)), {}, False),
        (Query(until=NOW - timedelta(minutes=29)), {}, True),
        (Query(until=NOW - timedelta(minutes=31)), {}, False),
        (Query(since=NOW), {"timestamp": "torn"}, False),
    ],
)
def test_an_entry_is_shown_if_all_conditions_hold(query: Query, fields: dict[str, Any], *, expected: bool) -> None:
    """Names may be patterns, "!" leaves out, times are compared across zones."""
    assert expected is query.matches(entry(**fields))
