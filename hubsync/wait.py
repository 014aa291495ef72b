"""Decides whether what somebody waits for is published: a unit, or everything that was there when the wait began.

It looks at one target's pipeline and mirrors and changes nothing; who waits, and for how long, the caller knows.
"""

import threading
from collections.abc import Collection
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from hubsync.config.model import Target
from hubsync.errors import UsageError
from hubsync.mirror.worker import MirrorWorker
from hubsync.service import TargetWork
from hubsync.store.git import TreeEntry, blob_id
from hubsync.store.snapshot import Store

MirrorProgress = Literal["published", "waiting", "failing", "parked"]


class Wish(Struct, frozen=True):
    """What is waited for: *unit*, else all; on *mirror*, else on all that are required."""

    target: str
    unit: str | None = None
    mirror: str | None = None


class Answer(Struct, frozen=True):
    """How far it is. *final*: waiting longer changes nothing. *hasten*: something new can be committed."""

    published: bool
    reason: str
    hint: str = ""
    final: bool = False
    hasten: bool = False
    mirrors: dict[str, MirrorProgress] = field(default_factory=dict)


class News:
    """Wakes everybody who waits for something to happen; what happens before they wait is not lost on them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    def tell(self) -> None:
        """Say that something happened."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def count(self) -> int:
        """Return how much has happened so far."""
        return self._count

    def wait_after(self, count: int, timeout_s: float) -> None:
        """Return as soon as more than *count* has happened, or after *timeout_s*."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > count, timeout_s)


class Wait:
    """One wait. ``look`` is called whenever something may have changed, by one thread."""

    def __init__(self, work: TargetWork, wish: Wish) -> None:
        self._work = work
        self._wish = wish
        chosen = choose_mirrors(work.target, wish.mirror)
        self._workers = [worker for worker in work.workers if worker.mirror.name in chosen]
        # Without a unit: what was there at first and is not committed yet, and what stood in its place.
        self._remaining: dict[str, TreeEntry | None] | None = None
        self._goal: str | None = None
        self._offered: set[str] = set()

    def begin(self) -> None:
        """See what is there now, whatever events are still on their way."""
        pipeline, unit = self._work.pipeline, self._wish.unit
        with pipeline.lock:
            pipeline.take_inventory(unit or "")
            if unit is None:
                self._remaining = {path: pipeline.store.ledger.in_tree(path) for path in pipeline.pending()}

    def look(self) -> Answer:
        """Return how far it is now."""
        halted = self._work.pipeline.halted
        if halted is not None:
            return Answer(False, f"{self._wish.target} is halted: {halted}", halted.hint, final=True)
        waiting = self._look_unit(self._wish.unit) if self._wish.unit is not None else self._look_all()
        if waiting is not None and not waiting.hint and (trouble := self._work.pipeline.trouble) is not None:
            return replace(waiting, hint=trouble.hint)

        return waiting or self._look_mirrors()

    # --- here: is it committed?

    def _look_unit(self, unit: str) -> Answer | None:
        pipeline, store = self._work.pipeline, self._work.pipeline.store
        if pipeline.unit_of(f"{unit}/x") != unit:
            units = ", ".join(self._work.target.units) or "none"
            return Answer(False, f"{unit} is no unit of {self._wish.target}", f"its units are: {units}", final=True)
        pending = pipeline.pending().get(f"{unit}/")
        if pending is not None:
            if pending.final:
                hint = "it goes up if it completes later"
                return Answer(False, f"{unit} was abandoned: {pending.reason}", hint, final=True)
            return Answer(False, f"{unit}: {pending.reason}", pending.hint)
        self._goal = store.find_unit(unit)
        if self._goal is None and any(store.ledger.all_known(unit)):
            self._goal = store.head()  # its files were published before it was declared a unit
        if self._goal is None:
            there = (self._work.target.source / unit).is_dir()
            reason = "holds no file that is taken" if there else "is neither in the source nor was it ever published"
            return Answer(False, f"{unit} {reason}", "see the name, and include/exclude", final=True)

        return None

    def _look_all(self) -> Answer | None:
        if self._remaining is None or self._goal is not None:
            return None
        pending, in_tree = self._work.pipeline.pending(), self._work.pipeline.store.ledger.in_tree
        # What changes again after it was committed is another state, as a log always does.
        self._remaining = {p: was for p, was in self._remaining.items() if p in pending and in_tree(p) == was}
        left = {path: pending[path] for path in sorted(self._remaining)}
        settled = {path for path, one in left.items() if one.settled}
        hasten, self._offered = bool(settled - self._offered), settled
        if not left:
            self._goal = self._work.pipeline.store.head()
            return None if self._goal else Answer(True, "there is nothing to publish", final=True)
        path = next((path for path, one in left.items() if not one.final), "")
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        if path:
            return Answer(False, f"{path}: {left[path].reason}{more}", left[path].hint, hasten=hasten)
        path = next(iter(left))
        return Answer(False, f"{path} is held back: {left[path].reason}{more}", "exclude it, or mend it", final=True)

    # --- there: is it published?

    def _look_mirrors(self) -> Answer:
        goal = self._goal
        assert goal is not None  # noqa: S101 - it is committed
        mirrors: dict[str, MirrorProgress] = {
            worker.mirror.name: "published" if self._is_on(worker, goal) else _progress(worker) for worker in self._workers
        }
        lacking = [worker for worker in self._workers if mirrors[worker.mirror.name] != "published"]
        what = self._wish.unit or "everything"
        if not lacking:
            return Answer(True, f"{what} is on {_names(mirrors)}{self._unmerged()}", final=True, mirrors=mirrors)
        parked = next((worker for worker in lacking if mirrors[worker.mirror.name] == "parked"), None)
        worst = parked or max(lacking, key=lambda worker: worker.trouble is not None)
        trouble = worst.trouble
        reason = f"{what} is not yet on {_names([worker.mirror.name for worker in lacking])}"
        refusals, unit = worst.publisher.refusals, self._wish.unit
        refused = refusals.reasons() if unit is None else refusals.reasons_in(unit)
        if trouble is None and refused:
            path, why = next(iter(refused.items()))
            return Answer(False, f"{reason}; {worst.mirror.name} refuses {path}: {why}", final=True, mirrors=mirrors)
        if trouble is None and (lost := find_lost(self._work.pipeline.store, worst.mirror.name, goal, unit)):
            return self._tell_lost(worst.mirror.name, lost, mirrors)
        if trouble is None:
            waits_for = worst.waits_for()
            return Answer(False, f"{reason}, which waits for {waits_for}" if waits_for else reason, mirrors=mirrors)
        reason = f"{reason}; {worst.mirror.name}: {trouble.error}"
        hint = "; ".join(filter(None, [trouble.error.hint, "then: hubsync flush" if parked else ""]))

        return Answer(False, reason, hint, final=parked is not None, mirrors=mirrors)

    def _is_on(self, worker: MirrorWorker, goal: str) -> bool:
        unit, store = self._wish.unit, self._work.pipeline.store
        return worker.publisher.holds(goal, unit) and not find_lost(store, worker.mirror.name, goal, unit)

    def _tell_lost(self, mirror: str, lost: Collection[str], mirrors: dict[str, MirrorProgress]) -> Answer:
        """Say that *mirror* shows files whose objects it has *lost*; who waits for one that is nowhere waits in vain."""
        ledger, has_intact = self._work.pipeline.store.ledger, self._work.pipeline.store.has_intact
        there = {oid for one in self._work.target.mirrors if one.name != mirror for oid in ledger.uploaded(one.name, lost)}
        gone = [oid for oid in lost if oid not in there and not has_intact(oid) and not ledger.paths_of(oid)]
        fate = "is nowhere else" if gone else "is sent again"
        reason = f"{mirror} shows {self._wish.unit or 'everything'}, but has lost content of it, which {fate}"

        return Answer(False, reason, "`hubsync verify` tells of which files", final=bool(gone), mirrors=mirrors)

    def _unmerged(self) -> str:
        """Say which pull requests it is in that are not merged yet."""
        pulls = [pull for worker in self._workers if (pull := worker.publisher.pull_request)]
        return "".join(f"; in pull request #{pull.number}, not merged yet: {pull.url}" for pull in pulls)


def find_lost(store: Store, mirror: str, snapshot: str, unit: str | None) -> list[str]:
    """Return the objects that *mirror* has lost of *unit* at *snapshot*, or with ``None`` of everything."""
    lost = {blob_id(pointer.encode()): oid for oid, pointer in store.ledger.lost_objects(mirror).items()}
    shown = store.git.list_tree(snapshot).items() if lost else ()
    blobs = {entry.blob for path, entry in shown if unit is None or path.startswith(f"{unit}/")}

    return [oid for blob, oid in lost.items() if blob in blobs]


def choose_mirrors(target: Target, mirror: str | None) -> list[str]:
    """Return the names of the mirrors that count: *mirror*, else all that are required, else all.

    Raises:
        UsageError: there is no such mirror.
    """
    names = [one.name for one in target.mirrors]
    if mirror is None:
        return [one.name for one in target.mirrors if one.required] or names
    if mirror not in names:
        raise UsageError(f"{target.name} has no mirror {mirror!r}", hint=f"its mirrors are: {', '.join(names)}")

    return [mirror]


def _progress(worker: MirrorWorker) -> MirrorProgress:
    if worker.trouble is None:
        return "waiting"
    return "parked" if worker.trouble.is_parked else "failing"


def _names(names: Collection[str]) -> str:
    return ", ".join(names)
