"""Turns what trainers log into one history: step by step, the values under the names that they were logged with. Pure."""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from msgspec import Struct

_EVAL = re.compile(r"(?:eval|val|valid|validation|test)[_/](?P<metric>.+)")
_LEARNING_RATE = re.compile(r"(?:train/)?(?:learning_rate|lr)(?:[-/_].*)?|lr-.*")
_TRAIN_LOSS = re.compile(r"(?:train(?:ing)?[_/])?loss(?:_(?:epoch|step))?")
_NO_METRIC = re.compile(  # how long it took, and what is no measure of the model
    r".*(?:runtime|samples_per_second|steps_per_second|tokens_per_second|_time|total_flos|num_tokens|grad_norm|epoch|step)"
)


class Point(Struct, frozen=True):
    """What was logged at one step."""

    step: int
    epoch: float | None
    values: Mapping[str, float]

    @property
    def evaluation(self) -> dict[str, float]:
        """The metrics of an evaluation."""
        return {name: value for name, value in self.values.items() if is_evaluation(name)}


History = tuple[Point, ...]


def is_evaluation(name: str) -> bool:
    """Tell whether *name* is a metric on data that was not trained on."""
    return _EVAL.fullmatch(name) is not None and not _NO_METRIC.fullmatch(name)


def is_learning_rate(name: str) -> bool:
    """Tell whether *name* is a learning rate."""
    return _LEARNING_RATE.fullmatch(name) is not None


def is_train_loss(name: str) -> bool:
    """Tell whether *name* is the loss that is trained on."""
    return _TRAIN_LOSS.fullmatch(name) is not None


def metric_of(name: str) -> str:
    """Return the metric that *name* measures: ``eval_accuracy`` → ``accuracy``."""
    found = _EVAL.fullmatch(name)
    return found["metric"] if found else name


def read_trainer_log(state: Mapping[str, Any]) -> History:
    """Return the log history of a ``trainer_state.json``."""
    rows = state.get("log_history")
    return _collect(row for row in (rows if isinstance(rows, list) else []) if isinstance(row, dict))


def read_metrics_csv(text: str) -> History:
    """Return the history in a ``metrics.csv`` of Lightning's CSVLogger."""
    reader = csv.DictReader(text.splitlines())
    try:
        return _collect({name: _number(value) for name, value in row.items() if name} for row in reader)
    except csv.Error:
        return ()


def read_scalars(scalars: Mapping[str, Iterable[tuple[int, float]]]) -> History:
    """Return the history in TensorBoard's scalars."""
    epochs = dict(scalars.get("train/epoch", scalars.get("epoch", ())))
    return _collect(
        {"step": step, "epoch": epochs.get(step), tag: value} for tag, points in scalars.items() for step, value in points
    )


def latest_evaluation(history: History, until: int | None = None) -> Point | None:
    """Return the last point with an evaluation, at step *until* at most."""
    for point in reversed(history):
        if point.evaluation and (until is None or point.step <= until):
            return point

    return None


def read_json(text: str | None) -> dict[str, Any]:
    """Return the JSON object in *text*, or an empty one."""
    try:
        loaded = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}

    return loaded if isinstance(loaded, dict) else {}


def _collect(rows: Iterable[Mapping[str, Any]]) -> History:
    """Join rows of the same step; what is no finite number, or no measure of the model, is left out."""
    epochs: dict[int, float] = {}
    values: dict[int, dict[str, float]] = {}
    for row in rows:
        step = row.get("step")
        if not _is_finite(step):
            continue
        at = int(step)
        if _is_finite(epoch := row.get("epoch")):
            epochs[at] = float(epoch)
        kept = {name: float(value) for name, value in row.items() if _is_measure(name) and _is_finite(value)}
        if kept:
            values.setdefault(at, {}).update(kept)

    return tuple(Point(step, epochs.get(step), values[step]) for step in sorted(values))


def _is_measure(name: object) -> bool:
    if not isinstance(name, str):
        return False
    return is_evaluation(name) or is_learning_rate(name) or is_train_loss(name)


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(text: object) -> float | None:
    try:
        return float(text) if isinstance(text, str) and text else None
    except ValueError:
        return None
