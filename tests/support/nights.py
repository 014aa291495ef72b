"""A log as a night without a Hub leaves it: what tests of the report are made from."""

from datetime import UTC, datetime, timedelta
from typing import Any

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
