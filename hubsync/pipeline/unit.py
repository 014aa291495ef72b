"""What a pipeline knows of the units that are not published as they stand, and whether each is complete."""

import os
import time
from collections.abc import Container, Iterable, Mapping
from collections.abc import Set as AbstractSet

from msgspec import Struct, field
from msgspec.structs import replace

from hubsync.config.model import Target
from hubsync.monitor.logger import FilteringBoundLogger
from hubsync.pipeline.files import Files
from hubsync.pipeline.held import Held
from hubsync.store.capture import has_same_content
from hubsync.store.ledger import Ledger
from hubsync.units import read_facts, unit_of
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.layout_words import step_of
from hubsync.watch.layouts import Completion, judge
from hubsync.watch.logs import is_event_log
from hubsync.watch.rules import PathRules
from hubsync.watch.unit_facts import MARK, UnitFacts

_NEXT = "it is complete, and is committed next"


class Unit(Struct):
    """One unit; *since* is when its first change was seen. Paths are those of the source.

    Attributes:
        judged: its files as they were at the last judgment.
        lost_at: when one of its files was found to be gone, monotonic seconds; ``None`` if that is long ago.
        is_judged: whether its completion says what a judgment found, and nothing came between.
    """

    since: float
    completion: Completion = field(default_factory=lambda: Completion(False, "not judged yet", ""))
    abandoned: bool = False
    judged: AbstractSet[str] = frozenset()
    lost_at: float | None = None
    is_judged: bool = False
    _seen: dict[str, tuple[Identity, int, int]] = field(default_factory=dict)

    def note(self, path: str, identity: Identity, number: int) -> None:
        """Note that the look of this *number* saw *path*, if its content is another one."""
        before, first, _ = self._seen.get(path, (None, number, 0))
        if before is None or not has_same_content(identity, before):
            self._seen[path] = identity, first, number

    def note_broken(self, path: str) -> None:
        """Note that *path* is not whole: to mend it is not to save it again."""
        self._seen.pop(path, None)

    def changes(self) -> Mapping[str, tuple[int, int]]:
        """Return file → numbers of the first and of the last look that saw it change."""
        return {path: (first, last) for path, (_, first, last) in self._seen.items()}

    def hold(self, reason: str) -> None:
        """Be incomplete until the next judgment."""
        self.completion, self.is_judged = Completion(False, reason, self.completion.layout), False


def unit_hint(target: Target, name: str) -> str:
    """Return what to do about a unit that was left incomplete."""
    mark = target.source / name / MARK
    return f"if it is complete all the same, touch {mark}; if its writer died, remove it or exclude it"


class Units:
    """The units of one target that are not committed as they stand; ``by_name`` has them."""

    def __init__(
        self, target: Target, rules: PathRules, files: Files, held: Held, ledger: Ledger, log: FilteringBoundLogger
    ) -> None:
        self.by_name: dict[str, Unit] = {}
        self._target = target
        self._rules = rules
        self._files = files
        self._held = held
        self._ledger = ledger
        self._log = log
        self._left: set[str] = set()  # to be judged again when something settles

    def unit_of(self, path: str) -> str | None:
        """Return the unit that *path* belongs to."""
        return unit_of(self._target, path)

    def in_order(self, *, newest_first: bool) -> list[str]:
        """Return their names, by step."""
        return sorted(self.by_name, key=lambda unit: (step_of(unit), unit), reverse=newest_first)

    def abandoned(self) -> set[str]:
        """Return those that were given up."""
        return {name for name, unit in self.by_name.items() if unit.abandoned}

    def reasons(self) -> dict[str, str]:
        """Return why each (with a trailing slash) is not committed."""
        last = self._held.reasons  # why a complete one could not be committed when that was tried
        return {
            f"{name}/": last.get(f"{name}/", _NEXT) if unit.completion.complete else unit.completion.reason
            for name, unit in self.by_name.items()
        }

    def ready(self) -> list[str]:
        """Return those (with a trailing slash) that wait for nothing of their writers, as far as they are judged."""
        unquiet = {self.unit_of(path) for path in self._files.waiting() if not is_event_log(path)}
        return [
            f"{name}/"
            for name, unit in self.by_name.items()
            if unit.completion.complete or not (unit.is_judged or unit.abandoned or unit.lost_at or name in unquiet)
        ]

    def is_loose(self, path: str) -> bool:
        """Tell whether *path* follows the schedule: it is in no unit, or is the log of one that was published.

        A log goes with its unit and never keeps it waiting. What it grows by after that is nobody's but its own.
        """
        unit = self.unit_of(path)
        return unit is None or (is_event_log(path) and unit not in self.by_name and self._was_committed(unit))

    def _was_committed(self, unit: str) -> bool:
        return any(self._ledger.all_known(unit))

    # --- what changed

    def note(self, unit: str, entry: Entry, look: int) -> None:
        """Note that the look of this number saw *entry*, of *unit*, change; the unit waits for it, unless it is a log."""
        now = time.monotonic()
        if not is_event_log(entry.path):
            state = self.by_name.setdefault(unit, Unit(now))
            state.note(entry.path, entry.identity, look)
            state.hold(f"{entry.path} is not settled")
        elif unit not in self.by_name and not self._was_committed(unit):
            self.by_name[unit] = Unit(now)

    def note_gone(self, path: str) -> None:
        """Forget the units that went with *path*. One that lost a file may be on its way out: it has to be quiet anew."""
        own = self.unit_of(path)
        if own and path in self._files.removed and self._target.deletes == "propagate":  # it is judged without it
            self.by_name.setdefault(own, Unit(time.monotonic())).lost_at = time.monotonic()
            self._left.add(own)
        for unit in (path, own):
            if unit is None or (state := self.by_name.get(unit)) is None:
                continue
            if not (self._target.source / unit).is_dir():
                del self.by_name[unit]
            elif not is_event_log(path):
                state.lost_at = time.monotonic()
                self._hold_lossy(unit, state)

    def forget(self, unit: str) -> None:
        """Forget *unit*, of which nothing is left."""
        self.by_name.pop(unit, None)
        self._held.forget(f"{unit}/")

    def lost(self, unit: str, there: Container[str]) -> list[str]:
        """Return which files *unit* was judged complete with, and are not *there* now."""
        return [path for path in self.by_name[unit].judged if path not in there]

    def next_due(self) -> float | None:
        """Return when a unit that lost a file has been quiet, monotonic; ``None`` if there is none."""
        lost = [state.lost_at for state in self.by_name.values() if state.lost_at is not None]
        return min(lost) + self._target.quiet_s if lost else None

    def _hold_lossy(self, unit: str, state: Unit) -> bool:
        """Hold *unit* while files may still go from it; tell whether that is so."""
        if state.lost_at is not None and time.monotonic() < state.lost_at + self._target.quiet_s:
            state.hold("a file of it was just deleted")
            self._left.add(unit)
            return True
        state.lost_at = None

        return False

    def note_not_taken(self, path: str) -> None:
        """Judge again the units that wait for a callback's mark that came, or (soon) for a temporary file that went."""
        parent, _, name = path.rpartition("/")
        if name == MARK and parent in self.by_name:
            self.judge(parent)
        elif not os.path.lexists(self._target.source / path):
            self._left.update(unit for unit in self.by_name if unit == self.unit_of(path) or _parent_of(unit) == parent)

    # --- judgment

    def judge_beside(self, path: str) -> None:
        """Judge again the units whose completion a file beside them may signal (``latest``)."""
        for unit in list(self.by_name):
            if _parent_of(unit) == _parent_of(path):
                self.judge(unit)

    def judge_incomplete(self) -> None:
        """Judge again all that wait: what held one back may have grown old, such as a temporary file."""
        for unit in [name for name, state in self.by_name.items() if not state.completion.complete]:
            self.judge(unit)

    def touch(self, settled: Iterable[str]) -> None:
        """Note that the units of the paths *settled* are to be judged."""
        for path in settled:
            if (unit := self.unit_of(path)) and (unit in self.by_name or not is_event_log(path)):
                self.by_name.setdefault(unit, Unit(time.monotonic()))
                self._left.add(unit)

    def take_touched(self, waiting: AbstractSet[str]) -> set[str]:
        """Return the units to be judged now; those that are *waiting*, another time."""
        touched = self._left & self.by_name.keys()
        self._left = touched & waiting

        return touched - waiting

    def await_capture(self, waiting: AbstractSet[str]) -> None:
        """Have the units *waiting*, whose files are settled, say that these are read first; they are judged after that."""
        for unit in self.by_name.keys() & waiting:
            self.by_name[unit].hold("its large files have yet to be read")
            self._left.add(unit)  # it may have been judged before: while nothing was captured for lack of room

    def judge(self, unit: str) -> None:
        """Decide whether *unit* is complete."""
        if not (self._target.source / unit).is_dir():
            self.by_name.pop(unit, None)  # with a directory above it, or no event has told
            return
        state = self.by_name.setdefault(unit, Unit(time.monotonic()))
        if self._hold_lossy(unit, state):
            return
        waiting = (path for path in self._files.waiting() if not is_event_log(path))
        held = dict.fromkeys(waiting, "still being written")
        held |= {path: self._held.reasons.get(path, "refused") for path in self._files.refused}
        facts = self.read(unit, held)
        for name, hint in facts.unreadable.items():
            self._held.hold_unreadable(f"{unit}/{name}", facts.held[name], hint)
        state.completion, state.is_judged = judge(facts), True
        state.judged = {f"{unit}/{name}" for name in facts.files}

    def read(self, unit: str, held: Mapping[str, str]) -> UnitFacts:
        """Return what is known of *unit*, also against what was published of it; *held*: paths that wait, and why."""
        facts = read_facts(self._target, self._rules, unit, held)
        inside = len(unit) + 1
        if state := self.by_name.get(unit):
            for path in {f"{unit}/{name}" for name in facts.held} - held.keys():
                state.note_broken(path)
            facts = replace(facts, changes={path[inside:]: numbers for path, numbers in state.changes().items()})
        before = {name: entry for name in facts.files if (entry := self._ledger.in_tree(f"{unit}/{name}"))}
        if not before:
            return facts
        changing = self._files.changing()
        untouched = frozenset(name for name in before if f"{unit}/{name}" not in changing)
        equal = {name for name, entry in before.items() if self._files.was_only_touched(f"{unit}/{name}", entry)}

        return replace(facts, untouched=untouched, renewed=frozenset(facts.files) - untouched - equal)

    def abandon_late(self) -> None:
        """Give up those that have waited for too long, and say so."""
        now = time.monotonic()
        for name, unit in self.by_name.items():
            if unit.abandoned or unit.completion.complete or now - unit.since < self._target.unit_timeout_s:
                continue
            unit.abandoned = True
            self._log.warning(
                "unit.abandoned", unit=name, layout=unit.completion.layout, reason=unit.completion.reason,
                missing=list(unit.completion.missing), age_s=round(now - unit.since), hint=unit_hint(self._target, name),
            )  # fmt: skip


def _parent_of(path: str) -> str:
    return path.rpartition("/")[0]
