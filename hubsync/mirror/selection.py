"""Decides which units a mirror keeps, and which one its main branch shows: the newest, or the best. Pure."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from hubsync.config.model import Best

# unit → (when the newest of its files was written, seconds since the epoch; its place among the snapshots of that second)
UnitTimes = dict[str, tuple[int, int]]


def newest_units(times: UnitTimes, count: int | None) -> frozenset[str] | None:
    """Return the *count* units that were written last; ``None`` stands for all."""
    if count is None:
        return None
    return frozenset(sorted(times, key=lambda unit: times[unit], reverse=True)[:count])


def choose_latest(times: UnitTimes) -> str | None:
    """Return the unit that was written last."""
    return max(times, key=lambda unit: times[unit], default=None)


def choose_best(states: Mapping[str, str], times: UnitTimes, best: Best | None) -> str | None:
    """Return the best of the units in *times*, or ``None`` if nothing tells.

    *states* has the text of each unit's ``trainer_state.json``. Without a metric in *best*, the newest state that names
    the Trainer's own best checkpoint decides.
    """
    read = {unit: state for unit in times if (state := _read_state(states.get(unit, "")))}
    if best is not None:
        scores = {unit: score for unit, state in read.items() if (score := _last_score(state, best.metric)) is not None}
        choose = max if best.direction == "max" else min
        return choose(sorted(scores), key=lambda unit: scores[unit], default=None)
    for unit in sorted(read, key=lambda unit: times[unit], reverse=True):
        named = read[unit].get("best_model_checkpoint")
        if isinstance(named, str) and named:
            beside = _beside(unit, named)
            return beside if beside in times else None

    return None


def rank_best(states: Mapping[str, str], times: UnitTimes, best: Best | None) -> list[str]:
    """Return those of the units in *times* of which something tells how good they are, the best first; see above.

    Without a metric, it is the Trainer's own best checkpoint, then the one that was it before, and so on.
    """
    read = {unit: state for unit in times if (state := _read_state(states.get(unit, "")))}
    if best is not None:
        scores = {unit: score for unit, state in read.items() if (score := _last_score(state, best.metric)) is not None}
        sign = -1 if best.direction == "max" else 1
        return sorted(scores, key=lambda unit: (sign * scores[unit], unit))
    newest_first = sorted(read, key=lambda unit: times[unit], reverse=True)
    named = (_beside(unit, read[unit].get("best_model_checkpoint")) for unit in newest_first)

    return [unit for unit in dict.fromkeys(named) if unit in times]


def _beside(unit: str, named: object) -> str:
    """Return the unit that the state of *unit* calls the best one; the path there is that of the training machine."""
    return str(PurePosixPath(unit).parent / PurePosixPath(named).name) if isinstance(named, str) and named else ""


def _read_state(text: str) -> dict[str, Any]:
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        return {}

    return state if isinstance(state, dict) else {}


def _last_score(state: Mapping[str, Any], metric: str) -> float | None:
    """Return the newest value of *metric* in the log history; the Trainer writes ``eval_`` before its name."""
    history = state.get("log_history")
    for record in reversed(history if isinstance(history, list) else []):
        for name in (metric, f"eval_{metric}"):
            value = record.get(name) if isinstance(record, dict) else None
            if isinstance(value, (int, float)) and value == value:  # noqa: PLR0124 - NaN is no score
                return float(value)

    return None
