"""Holds what was really logged against the catalogue of events."""

from collections.abc import Mapping
from typing import Any

from hubsync.monitor.events import CATALOGUE, COMMON_FIELDS

_NOT_SAID = {"timestamp", "level", "message", "log_level"}  # by whoever is asked before a line is made


def find_strange(entry: Mapping[str, Any]) -> str:
    """Return what is not as the catalogue says: the event, its level, a field, or what a field holds; "" if all is."""
    event = CATALOGUE.get(str(entry.get("event")))
    if event is None:
        return f"{entry.get('event')} is not in the catalogue"
    level = entry.get("level") or entry.get("log_level")
    if event.level not in {"any", level}:
        return f"{event.name} at {level}"
    strange = entry.keys() - set(event.fields) - COMMON_FIELDS - _NOT_SAID
    if strange and event.level != "any":
        return f"{event.name} has {sorted(strange)}"
    wrong = [name for name, value in entry.items() if _is_number(name) and not isinstance(value, (int, float, type(None)))]
    wrong += [
        name
        for name in ("target", "mirror", "unit", "path", "hint")
        if not isinstance(entry.get(name, ""), (str, type(None)))
    ]

    return f"{event.name}: {wrong} hold something else" if wrong else ""


def _is_number(name: str) -> bool:
    return name.endswith(("_s", "_bytes")) or name in {"bytes", "files", "attempt", "failures"}
