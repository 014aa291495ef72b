"""Looks at the units of a source as they stand, and lets the rules decide which of them stay. It changes nothing."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from msgspec import Struct, field

from hubsync.config.model import LocalRetention, Target
from hubsync.errors import HubsyncError, SourceError
from hubsync.mirror.selection import rank_best
from hubsync.pipeline import store_directory
from hubsync.retention import UnitFact, Verdict, decide
from hubsync.store.git import Git
from hubsync.store.recovery import SNAPSHOTS
from hubsync.store.snapshot import Store
from hubsync.units import read_facts, target_rules
from hubsync.watch.beneath import SOURCE_HINT
from hubsync.watch.layouts import judge

STATE = "trainer_state.json"
_STATE_BYTES = 64 << 20


class Units(Struct):
    """The units of a source that were published once: those that are *complete* as they stand, and why others are not."""

    complete: dict[str, UnitFact] = field(default_factory=dict)
    incomplete: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)


def read_units(target: Target, state_dir: Path) -> Units:
    """Read the units of *target* that are in its source now and in its store; without a store there are none."""
    directory = store_directory(target, state_dir)
    units = Units()
    if not (directory / "store.git").exists():
        return units
    head = Git(directory / "store.git").resolve(SNAPSHOTS)
    times = Store(directory, target.source).unit_times(head)
    rules = target_rules(target)
    for unit, written_at in times.items():
        place = target.source / unit
        if place.is_symlink() or not place.is_dir():
            continue
        try:
            completion = judge(read_facts(target, rules, unit, {}))
        except HubsyncError as exc:
            units.incomplete[unit] = str(exc)
            continue
        if completion.complete:
            units.complete[unit] = UnitFact(written_at, _size_of(place))
            units.states[unit] = _read_state(place)
        else:
            units.incomplete[unit] = completion.reason

    return units


def choose(target: Target, rules: LocalRetention, units: Units, without: Collection[str] = ()) -> list[Verdict]:
    """Return which of *units*, as if those *without* were not there, stay and go; the newest first."""
    left = {unit: fact for unit, fact in units.complete.items() if unit not in without}
    times = {unit: (fact.written_at, number) for number, (unit, fact) in enumerate(left.items())}
    best_first = rank_best(units.states, times, target.best) if rules.keep_best else []

    return decide(left, best_first, rules, free_bytes(target.source))


def is_best_unknown(target: Target, rules: LocalRetention, units: Units) -> bool:
    """Tell whether the rules ask for the best units, and nothing tells which they are."""
    times: Mapping[str, tuple[int, int]] = {unit: (fact.written_at, 0) for unit, fact in units.complete.items()}
    return bool(rules.keep_best and times) and not rank_best(units.states, dict(times), target.best)


def free_bytes(source: Path) -> int:
    """Return how much room is left to this user on the disk of *source*. Raises SourceError if that is not there."""
    try:
        status = os.statvfs(source)
    except OSError as exc:
        raise SourceError(f"{source}: {exc.strerror}", hint=SOURCE_HINT) from exc
    return status.f_bavail * status.f_frsize


def _size_of(directory: Path) -> int:
    """Return the disk space that the files below *directory* take."""
    return sum(
        path.lstat().st_blocks * 512
        for place, _, names in os.walk(directory)
        for name in names
        if os.path.lexists(path := Path(place, name))
    )


def _read_state(unit: Path) -> str:
    try:
        with (unit / STATE).open("rb") as file:
            return file.read(_STATE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
