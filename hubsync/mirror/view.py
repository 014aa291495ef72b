"""Decides what each branch of a mirror shows of a target's snapshots: which files, at which paths, in which steps.

It reads the store and writes nothing; it must never know what stands on the mirror.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hubsync.config.model import Mirror, Target
from hubsync.mirror.graft import with_prefix
from hubsync.mirror.roles import expand_exclude, expand_include
from hubsync.mirror.selection import Selection, UnitTimes, choose_best, choose_latest, newest_units
from hubsync.store.git import TreeChange, TreeEntry
from hubsync.store.snapshot import Snapshot, Store
from hubsync.units import unit_of
from hubsync.watch.rules import PathRules

_ILLEGAL = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?=/|$)|^[-./@]|[./]$|\udc80-\udcff")

Tree = Mapping[str, TreeEntry]


@dataclass(frozen=True, slots=True)
class Step:
    """A snapshot, and what it changes on the one before it."""

    snapshot: Snapshot
    changes: tuple[TreeChange, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """What one branch is to show, step by step; all paths, also those of *tree*, are those in the repository.

    Attributes:
        base: the snapshot that it shows already.
        tree: returns what it shows of a snapshot as a whole.
        unit: the unit whose own revision it is.
    """

    branch: str
    base: str | None
    steps: tuple[Step, ...]
    tree: Callable[[str], dict[str, TreeEntry]]
    unit: str | None = None


class View:
    """What one mirror shows of one target."""

    def __init__(self, target: Target, mirror: Mirror, store: Store) -> None:
        self._target = target
        self._mirror = mirror
        self._store = store
        self._rules = PathRules(expand_include(mirror.include), expand_exclude(mirror.exclude))
        self._is_whole = mirror.include == ("**",) and not mirror.exclude
        self._shown_files = functools.lru_cache(3)(self._list_shown)

    @property
    def signature(self) -> str:
        """What tells this view from another one of the same snapshots."""
        settings = {
            "include": self._mirror.include,
            "exclude": self._mirror.exclude,
            "keep_latest": self._mirror.keep_latest,
            "path_in_repo": str(self._mirror.path_in_repo),
            "publish": self._target.publish,
            "main": self._target.main if self._target.publish == "revisions" else None,
        }
        return json.dumps(settings, sort_keys=True)

    def shows(self, path: str) -> bool:
        """Tell whether the mirror gets *path* of the source."""
        return self._is_whole or self._rules.verdict(path).taken

    def filter(self, steps: Sequence[Step]) -> list[Step]:
        """Return *steps* with only those changes that the mirror gets, of units that stay there."""
        kept = self._kept(steps)
        return [
            Step(step.snapshot, tuple(change for change in step.changes if self._is_shown(change.path, kept)))
            for step in steps
        ]

    def skipped_units(self, steps: Sequence[Step]) -> list[str]:
        """Return the units of *steps* that are not published because newer ones are."""
        kept = self._kept(steps)
        if kept is None:
            return []
        return sorted({unit for step in steps for unit in step.snapshot.units} - kept)

    def lines(self, base: str | None, steps: Sequence[Step]) -> list[Line]:
        """Return what each branch is to show after *base*."""
        if self._target.publish == "tree" and self._mirror.keep_latest is None:
            placed = [Step(step.snapshot, self._place_all(step.changes)) for step in steps]
            return [Line(self._mirror.branch, base, tuple(placed), self._whole_tree)]
        main = self._main_line(base, steps)
        units = self._unit_lines(base, steps) if self._target.publish == "revisions" else []

        return [*units, main]

    # --- the main branch

    def _main_line(self, base: str | None, steps: Sequence[Step]) -> Line:
        selections = self._selections(base, steps)

        def tree(commit: str) -> dict[str, TreeEntry]:
            return self._main_tree(commit, selections[commit])

        before = tree(base) if base else {}
        placed = []
        for step in steps:
            after = tree(step.snapshot.commit)
            placed.append(Step(step.snapshot, tuple(diff(before, after))))
            before = after

        return Line(self._mirror.branch, base, tuple(placed), tree)

    def _main_tree(self, commit: str, selection: Selection) -> dict[str, TreeEntry]:
        shown: dict[str, TreeEntry] = {}
        chosen: dict[str, TreeEntry] = {}
        for path, entry in self._shown_files(commit).items():
            unit = unit_of(self._target, path)
            if self._target.publish == "tree":
                if selection.keeps(unit):
                    shown[self._place(path)] = entry
            elif unit is None:
                shown[self._place(path)] = entry
            elif unit == selection.chosen:
                chosen[self._place(path[len(unit) + 1 :])] = entry

        return shown | chosen

    def _selections(self, base: str | None, steps: Sequence[Step]) -> dict[str, Selection]:
        """Return what is selected at *base* and after each of *steps*."""
        commits = [*([base] if base else []), *(step.snapshot.commit for step in steps)]
        return {commit: self._select(commit) for commit in commits}

    def _select(self, commit: str) -> Selection:
        times = self._unit_times(commit)
        kept = newest_units(times, self._mirror.keep_latest)
        if self._target.publish == "tree":
            return Selection(kept, None)
        units = {unit for path in self._shown_files(commit) if (unit := unit_of(self._target, path))}
        there = {unit: written_at for unit, written_at in times.items() if unit in units}
        if self._target.main == "best" and (best := choose_best(self._states(commit), there, self._target.best)):
            return Selection(kept, best)

        return Selection(kept, choose_latest(there))

    def _states(self, commit: str) -> dict[str, str]:
        """Return the text of each unit's trainer_state.json."""
        blobs = {
            entry.blob: unit
            for path, entry in self._store.git.list_tree(commit).items()
            if (unit := unit_of(self._target, path)) and path == f"{unit}/trainer_state.json"
        }
        return {blobs[blob]: text.decode("utf-8", "replace") for blob, text in self._store.git.read_blobs(blobs)}

    def _kept(self, steps: Sequence[Step]) -> frozenset[str] | None:
        if self._mirror.keep_latest is None or not steps:
            return None
        return newest_units(self._unit_times(steps[-1].snapshot.commit), self._mirror.keep_latest)

    def _unit_times(self, commit: str) -> UnitTimes:
        return {unit: done.written_at for done in self._store.completed(commit) for unit in done.units}

    # --- a unit's own branch

    def _unit_lines(self, base: str | None, steps: Sequence[Step]) -> list[Line]:
        by_unit: dict[str, list[Step]] = {}
        for step in steps:
            changes: dict[str, list[TreeChange]] = {}
            for change in step.changes:
                if unit := unit_of(self._target, change.path):
                    changes.setdefault(unit, []).append(change)
            for unit, own in changes.items():
                if any(change.after for change in own):  # a removal is no reason to empty a revision
                    by_unit.setdefault(unit, []).append(Step(step.snapshot, self._place_all(own, len(unit) + 1)))

        return [
            Line(revision_of(unit, self._mirror.branch), base, tuple(own), functools.partial(self._unit_tree, unit), unit)
            for unit, own in by_unit.items()
        ]

    def _unit_tree(self, unit: str, commit: str) -> dict[str, TreeEntry]:
        inside = len(unit) + 1
        return {
            self._place(path[inside:]): entry
            for path, entry in self._shown_files(commit).items()
            if path.startswith(f"{unit}/")
        }

    # --- paths

    def _whole_tree(self, commit: str) -> dict[str, TreeEntry]:
        return {self._place(path): entry for path, entry in self._shown_files(commit).items()}

    def _list_shown(self, commit: str) -> dict[str, TreeEntry]:
        return {path: entry for path, entry in self._store.git.list_tree(commit).items() if self.shows(path)}

    def _is_shown(self, path: str, kept: frozenset[str] | None) -> bool:
        if kept is not None and (unit := unit_of(self._target, path)) is not None and unit not in kept:
            return False
        return self.shows(path)

    def _place(self, path: str) -> str:
        return with_prefix(self._mirror.path_in_repo, path)

    def _place_all(self, changes: Iterable[TreeChange], inside: int = 0) -> tuple[TreeChange, ...]:
        return tuple(TreeChange(self._place(each.path[inside:]), each.before, each.after) for each in changes)


def revision_of(unit: str, main: str) -> str:
    """Return the branch of *unit*: its own name where git allows that and it is not in the way of *main*."""
    in_the_way = unit == main or unit.startswith(f"{main}/") or main.startswith(f"{unit}/")
    if not in_the_way and not _ILLEGAL.search(unit):
        return unit
    legal = _ILLEGAL.sub("-", unit)

    return f"{legal.replace('/', '-').strip('-.@')}-{hashlib.sha256(unit.encode()).hexdigest()[:8]}"


def diff(before: Tree, after: Tree) -> list[TreeChange]:
    """Return what differs from *before* to *after*."""
    paths = [path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)]
    return [TreeChange(path, before.get(path), after.get(path)) for path in paths]


def fold(steps: Sequence[Step]) -> Step:
    """Return *steps* as one that leads to the last snapshot."""
    folded: dict[str, TreeChange] = {}
    for change in (change for step in steps for change in step.changes):
        before = folded[change.path].before if change.path in folded else change.before
        folded[change.path] = TreeChange(change.path, before, change.after)

    units = tuple(dict.fromkeys(unit for step in steps for unit in step.snapshot.units))
    return Step(replace(steps[-1].snapshot, units=units), tuple(folded.values()))
