"""Decides what each branch of a mirror shows of a target's snapshots: which files, at which paths, in which steps.

It reads the store and writes nothing; it must never know what stands on the mirror.
"""

import copy
import functools
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from hubsync.config.model import Mirror, Target
from hubsync.mirror.ahead import Ahead
from hubsync.mirror.dropped import Dropped
from hubsync.mirror.graft import Tree, with_prefix
from hubsync.mirror.left_out import LeftOut
from hubsync.mirror.lost import Lost
from hubsync.mirror.roles import mirror_rules
from hubsync.mirror.selection import UnitTimes, choose_best, choose_latest, newest_units
from hubsync.store.git import TreeChange, TreeEntry
from hubsync.store.snapshot import Snapshot, Store
from hubsync.units import unit_of

_ILLEGAL = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?=/|$)|^[-./@]|[./]$|\udc80-\udcff")

_STATE = "trainer_state.json"
_CHANGES_AT_ONCE = 4096

_Lister = Callable[[str | None], Tree]


class Step(Struct, frozen=True):
    """A snapshot, and what it changes on the one before it."""

    snapshot: Snapshot
    changes: tuple[TreeChange, ...]


class Line(Struct, frozen=True):
    """What one branch is to show, step by step; all paths, also those of *tree*, are those in the repository.

    Attributes:
        base: the snapshot that it shows already.
        tree: returns what it shows of a snapshot (``None``: of none) as a whole.
        unit: the unit whose own revision it is.
        is_frozen: tells of a path whether it stays as it is there, whatever the snapshots say.
        ours_before: the paths of ours there, in a view of which nothing else is known any more.
        unit_at: returns which unit a path may belong to, if any; what belongs to one is shown whole or not at all.
    """

    branch: str
    base: str | None
    steps: tuple[Step, ...]
    tree: _Lister
    unit: str | None = None
    is_frozen: Callable[[str], bool] = lambda _: False
    ours_before: AbstractSet[str] = frozenset()
    unit_at: Callable[[str], str | None] = lambda _: None


_ALONE = " alone"
LOST = "lost"  # the kind of what no mirror refuses: there is nothing to send
WHY_LOST = "this version is lost: it was changed or taken away before it was uploaded, and is deleted here"


class Refusal(NamedTuple):
    """The blob of a file that a mirror refuses, and why it does; *alone*: the rest of its unit is published without it."""

    blob: str
    reason: str
    error_kind: str = "rejected"
    alone: bool = False


class View:
    """What one mirror shows of one target.

    Attributes:
        refused: files that the mirror refuses as they are, or that are lost; they, and whole their units, stay as they are
            there.
        is_whole: whether the mirror gets all files.
        lost: what is known to be lost.
        left_out: what the target's rules leave out by now; of it nothing more is written.
        dropped: units that go from it, and when those that went had been written; saved again, a unit is another one.
    """

    def __init__(self, target: Target, mirror: Mirror, store: Store) -> None:
        self._target = target
        self._mirror = mirror
        self._store = store
        self._rules = mirror_rules(mirror)
        self._prefix = with_prefix(mirror.path_in_repo, "")
        self.is_whole = mirror.include == ("**",) and not mirror.exclude
        self._listed = functools.lru_cache(3)(self._list_shown)
        self.list_whole = functools.lru_cache(1)(store.list_tree)  # all files of a snapshot, until ``forget_listed``
        self.lost = Lost(target, store)
        self.left_out = LeftOut(target, store)
        self.refused: Mapping[str, Refusal] = self.refuse_lost()
        self.dropped: Mapping[str, int] = Dropped(store, mirror.name).written_at

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
            "refused": {path: f"{refusal.blob}{_ALONE * refusal.alone}" for path, refusal in self.refused.items()},
        }
        return json.dumps(settings, sort_keys=True)

    def refuse_lost(self) -> dict[str, Refusal]:
        """Return what is lost, as if the mirror refused it."""
        return {path: Refusal(blob, WHY_LOST, LOST, alone) for path, (blob, alone) in self.lost.current().items()}

    def shows(self, path: str) -> bool:
        """Tell whether the mirror gets *path* of the source."""
        return self.is_whole or self._rules.verdict(path).taken

    def gets(self, path: str) -> bool:
        """Tell whether the mirror gets *path* of the source as it is by now."""
        return self.shows(path) and not self.left_out.has(path)

    def refuses_unit(self, unit: str) -> bool:
        """Tell whether the mirror refuses a file of *unit*."""
        return unit in self.frozen()

    def filter(self, base: str | None, steps: Sequence[Step], ahead: Ahead) -> list[Step]:
        """Return *steps* with only what a mirror that holds *base* is to get: of units that stay, and are not *ahead*."""
        kept = self._kept_after(steps)
        frozen = self.frozen()

        def is_lacking(commit: str, change: TreeChange) -> bool:
            path = change.path
            unit = unit_of(self._target, path)
            if path in frozen or unit in frozen:
                return False
            if unit is not None and ((kept is not None and unit not in kept) or ahead.shown_at(unit, commit)):
                return False
            if self._hides(unit, commit):
                return False
            return self.shows(path) if change.after is None else self.gets(path)

        filtered = []
        for step in steps:
            commit = step.snapshot.commit
            units = tuple(u for u in step.snapshot.units if u not in frozen and not ahead.shown_at(u, commit))
            changes = tuple(change for change in step.changes if is_lacking(commit, change))
            filtered.append(Step(replace(step.snapshot, units=units), changes))

        if self.dropped:
            filtered = self._revive(base, filtered)

        return filtered if kept is None else self._complete(base, filtered, kept, ahead)

    def filter_each(
        self, base: str | None, snapshot: Snapshot, changes: Iterator[TreeChange], ahead: Ahead
    ) -> Iterator[Step]:
        """Yield what ``filter`` makes of one step to *snapshot*, in parts, so that of many *changes* few are held."""
        # What comes back, of units that were skipped or dropped, is found from all changes at once.
        most = _CHANGES_AT_ONCE if self._mirror.keep_latest is None and not self.dropped else None
        while some := tuple(islice(changes, most)):
            yield from self.filter(base, [Step(snapshot, some)], ahead)

    def _hides(self, unit: str | None, commit: str | None) -> bool:
        """Tell whether *unit*, as it is at *commit*, was dropped."""
        if unit is None or unit not in self.dropped:
            return False
        return self._store.unit_times(commit).get(unit, 0) <= self.dropped[unit]

    def _revive(self, base: str | None, steps: Sequence[Step]) -> list[Step]:
        """Return *steps* with all files of the units that were dropped, and are saved again."""
        revived = []
        before = base
        for step in steps:
            commit = step.snapshot.commit
            units = {unit for unit in self.dropped if self._hides(unit, before) and not self._hides(unit, commit)}
            revived.append(self._with_units(step, units))
            before = commit

        return revived

    def _with_units(self, step: Step, units: Collection[str]) -> Step:
        """Return *step* with all files of *units*."""
        if not units:
            return step
        changed = {change.path for change in step.changes}
        files = self._listed(step.snapshot.commit).items()
        rest = {p: e for p, e in files if p not in changed and unit_of(self._target, p) in units and self.gets(p)}

        return Step(step.snapshot, (*step.changes, *diff({}, rest)))

    def files(self, commit: str) -> Tree:
        """Return what the mirror gets of a snapshot, by path in the source."""
        return self._files(commit, Ahead())

    def chosen(self, commit: str) -> str | None:
        """Return the unit that the main branch shows at its root."""
        return self._choose(commit, Ahead(), self._unit_times(commit, Ahead()))

    def _complete(self, base: str | None, steps: Sequence[Step], kept: Collection[str], ahead: Ahead) -> list[Step]:
        """Return *steps* with all files of the units that were skipped before and now count among those *kept*."""
        revived = set(kept) - self._kept_at(base) - ahead.units.keys()
        completed = []
        for step in steps:
            units = revived if step is steps[-1] else revived & self._changed_units([step])
            completed.append(self._with_units(step, units))
            revived = revived - units

        return completed

    def places(self, steps: Sequence[Step]) -> dict[str, set[str]]:
        """Return where in the repository *steps* put files, and which paths of the source are put there."""
        placed: dict[str, set[str]] = {}
        for path in {change.path for step in steps for change in step.changes if change.after}:
            placed.setdefault(self._place_inside(path), set()).add(path)

        return placed

    def _place_inside(self, path: str) -> str:
        """Return where a branch that shows *path* has it: with revisions, the files of a unit are at the top."""
        unit = unit_of(self._target, path) if self._target.publish == "revisions" else None
        return self.place(path[len(unit) + 1 :] if unit else path)

    def frozen(self) -> frozenset[str]:
        """Return the files and units that stay as they are on the mirror."""
        return frozenset(
            path if refusal.alone else unit_of(self._target, path) or path for path, refusal in self.refused.items()
        )

    def skipped_units(self, steps: Sequence[Step]) -> list[str]:
        """Return the units of *steps* that are not published because newer ones are."""
        kept = self._kept_after(steps)
        if kept is None:
            return []
        return sorted({unit for step in steps for unit in step.snapshot.units} - kept)

    def unit_step(self, base: str | None, snapshot: Snapshot, ahead: Ahead) -> Step:
        """Return what publishes the units of *snapshot* whole on a mirror that holds *base*, and nothing else."""
        before = self._files(base, ahead)
        after = self._listed(snapshot.commit)
        mine = {path for path in before.keys() | after.keys() if unit_of(self._target, path) in snapshot.units}
        changes = diff({p: before[p] for p in mine if p in before}, {p: after[p] for p in mine if p in after})

        return Step(snapshot, tuple(c for c in changes if c.after is None or self.gets(c.path)))

    def lines(self, base: str | None, steps: Sequence[Step], ahead: Ahead) -> list[Line]:
        """Return what each branch is to show after *base*."""
        uploaded = self._uploaded(base, steps, ahead)

        def tree(commit: str | None) -> Tree:
            return self._main_tree(commit, ahead, uploaded, is_base=commit == base)

        if self._target.publish == "tree" and self._mirror.keep_latest is None:
            placed = tuple(Step(step.snapshot, self._place_all(step.changes)) for step in steps)
            return [self._make_main(base, placed, tree)]
        units = self._unit_lines(base, steps, ahead) if self._target.publish == "revisions" else []

        return [*units, self._main_line(base, steps, tree)]

    def places_shown(self, signature: str, commit: str | None, ahead: Ahead) -> AbstractSet[str]:
        """Return the paths that the main branch shows of *commit* in a view of *signature*; none if other places are shown.

        What is refused tells two views apart, too. It changes no place, so that what was ours is known.
        """
        before, now = json.loads(signature), json.loads(self.signature)
        refused = before.pop("refused", {})
        now.pop("refused")
        if before != now:
            return frozenset()
        then = copy.copy(self)
        then.refused = {
            path: Refusal(said.removesuffix(_ALONE), "", alone=said.endswith(_ALONE)) for path, said in refused.items()
        }
        return then._main_tree(commit, ahead, None, is_base=True).keys()  # noqa: SLF001 - of another view, for itself

    def lines_ahead(self, base: str | None, step: Step, before: Ahead, after: Ahead) -> list[Line]:
        """Return what each branch is to show for a ``unit_step`` that turns what is ahead from *before* to *after*."""
        uploaded = self._uploaded(base, [step], before)

        def tree(commit: str | None) -> Tree:
            is_base = commit != step.snapshot.commit
            return self._main_tree(base, before if is_base else after, uploaded, is_base=is_base)

        units = self._unit_lines(base, [step], before) if self._target.publish == "revisions" else []

        return [*units, self._main_line(base, [step], tree)]

    # --- the main branch

    def _main_line(self, base: str | None, steps: Sequence[Step], tree: _Lister) -> Line:
        before = tree(base)
        placed = []
        for step in steps:
            after = tree(step.snapshot.commit)
            changes = (change for change in diff(before, after) if not self._is_frozen_place(change.path))
            placed.append(Step(step.snapshot, tuple(changes)))
            before = after

        return self._make_main(base, tuple(placed), tree)

    def _make_main(self, base: str | None, steps: tuple[Step, ...], tree: _Lister) -> Line:
        return Line(self._mirror.branch, base, steps, tree, is_frozen=self._is_frozen_place, unit_at=self._unit_at_place)

    def _unit_at_place(self, place: str) -> str | None:
        """Return the unit of a place on the main branch; with revisions, any may be of the one that it shows."""
        return (
            self._mirror.branch
            if self._target.publish == "revisions"
            else unit_of(self._target, place.removeprefix(self._prefix))
        )

    def _main_tree(self, commit: str | None, ahead: Ahead, uploaded: Collection[str] | None, *, is_base: bool) -> Tree:
        """Return what the main branch shows at a snapshot (``None``: of nothing but what is *ahead*)."""
        files = self.left_out.drop_from(self._files(commit, ahead), is_base=is_base)
        is_tree = self._target.publish == "tree"
        if is_tree and self._mirror.keep_latest is None:
            return {self.place(path): entry for path, entry in files.items()} if self._prefix else files
        times = self._unit_times(commit, ahead)
        if uploaded is not None:
            times = {unit: time for unit, time in times.items() if unit in uploaded}
        kept = newest_units(times, self._mirror.keep_latest)
        chosen = None if is_tree else self._choose(commit, ahead, times)
        shown: dict[str, TreeEntry] = {}
        at_root: dict[str, TreeEntry] = {}
        for path, entry in files.items():
            unit = unit_of(self._target, path)
            if unit is None or (is_tree and (kept is None or unit in kept)):
                shown[self.place(path)] = entry
            elif unit == chosen:
                at_root[self.place(path[len(unit) + 1 :])] = entry

        return shown | at_root

    def _choose(self, commit: str | None, ahead: Ahead, times: UnitTimes) -> str | None:
        """Return the unit of *times* that the main branch shows, if it shows one."""
        units = {unit_of(self._target, path) for path in self._files(commit, ahead)} - self.frozen()
        there = {unit: written_at for unit, written_at in times.items() if unit in units}
        if self._target.main == "best" and (
            best := choose_best(self.states(commit, ahead, there), there, self._target.best)
        ):
            return best

        return choose_latest(there)

    def states(self, commit: str | None, ahead: Ahead, units: Iterable[str]) -> dict[str, str]:
        """Return the text of each unit's trainer_state.json, whether the mirror gets that file or not."""
        paths: dict[str, list[str]] = {}
        for unit in units:
            if snapshot := ahead.shown_at(unit, commit or "") or commit:
                paths.setdefault(snapshot, []).append(f"{unit}/{_STATE}")
        blobs: dict[str, list[str]] = {}
        for snapshot, wanted in paths.items():
            for path, entry in self._store.git.list_tree(snapshot, *wanted).items():
                blobs.setdefault(entry.blob, []).append(path.removesuffix(f"/{_STATE}"))

        return {
            unit: text.decode("utf-8", "replace")
            for blob, text in self._store.git.read_blobs(blobs)
            for unit in blobs[blob]
        }

    # --- keep_latest

    def _kept_at(self, commit: str | None) -> frozenset[str]:
        """Return the units that ``keep_latest`` keeps, and the best one if the main branch shows that."""
        times = self._without_frozen(self._unit_times(commit, Ahead()))
        kept = newest_units(times, self._mirror.keep_latest) or frozenset()
        if self._target.publish == "revisions" and (chosen := self._choose(commit, Ahead(), times)):
            kept |= {chosen}

        return kept

    def _without_frozen(self, times: UnitTimes) -> UnitTimes:
        """Return *times* without units that stay as they are: the mirror may have nothing of them."""
        frozen = self.frozen()
        return {unit: time for unit, time in times.items() if unit not in frozen}

    def _kept_after(self, steps: Sequence[Step]) -> frozenset[str] | None:
        """Return the units that the mirror keeps after *steps*; ``None`` stands for all."""
        if self._mirror.keep_latest is None or not steps:
            return None
        return self._kept_at(steps[-1].snapshot.commit)

    def _uploaded(self, base: str | None, steps: Sequence[Step], ahead: Ahead) -> frozenset[str] | None:
        """Return the units whose objects a mirror that holds *base* has while it goes through *steps*; ``None``: all."""
        if self._mirror.keep_latest is None:
            return None
        changed = self._changed_units(steps)
        skipped = {unit for step in steps for unit in step.snapshot.units} - changed

        return (self._kept_at(base) | ahead.units.keys() | changed) - skipped

    def _changed_units(self, steps: Sequence[Step]) -> frozenset[str]:
        changed = (change.path for step in steps for change in step.changes if change.after)
        return frozenset(unit for path in changed if (unit := unit_of(self._target, path)))

    def _unit_times(self, commit: str | None, ahead: Ahead) -> UnitTimes:
        completed = enumerate(self._store.completed(commit))
        times = {unit: (done.written_at, place) for place, done in completed for unit in done.units}
        for unit in ahead.units:
            if (shown := ahead.shown_at(unit, commit or "")) is not None:
                completed_then = self._store.completed(shown)
                times[unit] = (completed_then[-1].written_at, len(completed_then) - 1)

        return times

    # --- a unit's own branch

    def _unit_lines(self, base: str | None, steps: Sequence[Step], ahead: Ahead) -> list[Line]:
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
            Line(
                revision_of(unit, self._mirror.branch),
                base,
                tuple(own),
                functools.partial(self._unit_tree, unit, ahead, base),
                unit,
                unit_at=functools.partial(_always, unit),
            )
            for unit, own in by_unit.items()
        ]

    def _unit_tree(self, unit: str, ahead: Ahead, base: str | None, commit: str | None) -> dict[str, TreeEntry]:
        inside = len(unit) + 1
        files = {path: entry for path, entry in self._files(commit, ahead).items() if path.startswith(f"{unit}/")}
        left = self.left_out.drop_from(files, is_base=commit == base)
        return {self.place(path[inside:]): entry for path, entry in left.items()}

    # --- files

    def _files(self, commit: str | None, ahead: Ahead) -> Tree:
        """Return what the mirror gets of a snapshot, the units that are *ahead* as they are there."""
        own = self._without_dropped(commit, self._listed(commit)) if commit else {}
        later: dict[str, set[str]] = {}
        for unit in ahead.units:
            if (shown := ahead.shown_at(unit, commit or "")) is not None and shown != commit:
                later.setdefault(shown, set()).add(unit)
        if not later:
            return own
        hidden = {unit for units in later.values() for unit in units}
        files = {path: entry for path, entry in own.items() if unit_of(self._target, path) not in hidden}
        for shown, units in later.items():
            listed = self._without_dropped(shown, self._listed(shown))
            files |= {p: entry for p, entry in listed.items() if unit_of(self._target, p) in units}

        return files

    def _without_dropped(self, commit: str, files: Tree) -> Tree:
        hidden = {unit for unit in self.dropped if self._hides(unit, commit)}
        return files if not hidden else {p: e for p, e in files.items() if unit_of(self._target, p) not in hidden}

    def forget_listed(self) -> None:
        """Forget what was listed of snapshots: of 100,000 files each takes 30 MB."""
        self._listed.cache_clear()
        self.list_whole.cache_clear()

    def _list_shown(self, commit: str) -> Tree:
        listed = self.list_whole(commit)
        return listed if self.is_whole else {path: entry for path, entry in listed.items() if self.shows(path)}

    def _is_frozen_place(self, place: str) -> bool:
        return self.is_frozen(place.removeprefix(self._prefix))

    def is_frozen(self, path: str) -> bool:
        """Tell whether *path* of the source stays as it is on the mirror, which may have nothing of it."""
        return bool(self.refused) and not {path, unit_of(self._target, path)}.isdisjoint(self.frozen())

    def place(self, path: str) -> str:
        """Return where *path* of the source lies in the repository."""
        return self._prefix + path

    def _place_all(self, changes: Iterable[TreeChange], inside: int = 0) -> tuple[TreeChange, ...]:
        if not inside and not self._prefix:
            return tuple(changes)
        return tuple(TreeChange(self.place(each.path[inside:]), each.before, each.after) for each in changes)


def _always(unit: str, _: str) -> str:
    return unit


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
    if len(steps) == 1:
        return steps[0]
    folded: dict[str, TreeChange] = {}
    for change in (change for step in steps for change in step.changes):
        before = folded[change.path].before if change.path in folded else change.before
        folded[change.path] = TreeChange(change.path, before, change.after)

    units = tuple(dict.fromkeys(unit for step in steps for unit in step.snapshot.units))
    return Step(replace(steps[-1].snapshot, units=units), tuple(folded.values()))
