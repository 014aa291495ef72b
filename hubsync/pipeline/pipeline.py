"""Runs one target from its source to its queue: what changed, when it is settled and whole, capture, snapshot.

It joins ``watch`` and ``store`` and knows nothing of mirrors, schedules or threads but its own lock: the caller says
when.
All paths are relative to the source; all times are monotonic seconds unless they are named otherwise.
"""

import heapq
import os
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import structlog

from hubsync.config.model import Target
from hubsync.errors import FileChangedError, FileUnreadableError, HubsyncError, SourceError
from hubsync.monitor.events import CATALOGUE
from hubsync.monitor.status import LastError, Waiting
from hubsync.pipeline.capturing import Capturing
from hubsync.pipeline.files import Files
from hubsync.pipeline.guard import Guard
from hubsync.pipeline.held import Held
from hubsync.pipeline.opening import make_capturer
from hubsync.pipeline.reading import Reading
from hubsync.pipeline.snapshots import Written, tell_written, unit_subject, write_removal, write_snapshot
from hubsync.pipeline.unit import Unit
from hubsync.store.batch import BatchLimits, split_batches
from hubsync.store.capture import HELD_HINT, Captured, Capturer, FileHeldError, FileRefusedError, has_same_content
from hubsync.store.snapshot import Store
from hubsync.units import check_file, read_facts, unit_of
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.inventory import Inventory, look, take_inventory
from hubsync.watch.layout_words import step_of
from hubsync.watch.layouts import judge
from hubsync.watch.logs import is_event_log
from hubsync.watch.names import Kind
from hubsync.watch.rules import PathRules
from hubsync.watch.unit_facts import MARK, UnitFacts

_HASH_THREADS = 2
_NO_ROOM = "capture is paused: there is too little free space"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settled:
    """What settling brought: complete units that wait for ``commit``, objects that may go up before theirs."""

    units: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """Why a file or unit is not committed as it stands. *settled*: the next commit takes it. *final*: waiting is no use."""

    reason: str
    settled: bool = False
    final: bool = False


class Pipeline:
    """One target's way from files to snapshots. Every public method takes the lock."""

    def __init__(
        self, target: Target, store: Store, min_free_bytes: int, stop: threading.Event, capturer: Capturer | None = None
    ) -> None:
        self.target = target
        self.store = store
        self.lock = threading.RLock()
        self._log = log.bind(target=target.name)
        self._rules = PathRules(target.include, target.exclude)
        self._files = Files(target, store)
        self._held = Held(self._log, self.unit_of)
        self._guard = Guard(target, store, min_free_bytes, self._log)
        capturer = capturer or make_capturer(target, store)
        self._capturing = Capturing(capturer, self._files, store, target.quiet_s, stop, self._log)
        self._units: dict[str, Unit] = {}
        self._left: set[str] = set()  # units that a temporary file has left, in or beside them: to be judged again
        self._looks = 0  # counts events and inventories

    @property
    def halted(self) -> HubsyncError | None:
        """Why nothing is done until a person has looked."""
        return self._guard.halted

    @property
    def trouble(self) -> LastError | None:
        """Why nothing is captured now, and since when."""
        return self._guard.trouble()

    @property
    def reading(self) -> Reading:
        """How much was read, of what is not captured yet."""
        return self._capturing.reading

    @property
    def newest_unit(self) -> str | None:
        """The newest unit that was ever committed."""
        return self.store.newest_unit()

    @property
    def first_write(self) -> float:
        """When the first of the files came, seconds since the epoch."""
        return self._files.first_write

    @property
    def last_write(self) -> float:
        """When the newest of the files was written, seconds since the epoch."""
        return self._files.last_write

    # --- what changed

    def take_inventory(self, under: str = "") -> bool:
        """Compare the source (or its directory *under*) with what was captured; return False if that halts the target."""
        with self.lock:
            started = time.monotonic()
            inventory = self._list(under)
            if inventory is None:
                return False
            self._looks += 1
            self._files.note_writes(inventory.entries.values())
            changed = self._files.find_changed(inventory, under)
            if not under:
                self.reading.expect([entry.identity.size for entry in changed])
            for entry in changed:
                self._feed(entry)
            removed = self._files.find_gone(inventory, under)
            for path in removed:
                self._forget(path)
            self._report_skipped(inventory)
            self._held.sum_up()
            for unit in [name for name, state in self._units.items() if not state.completion.complete]:
                self._judge(unit)  # what held it back may have grown old, such as a temporary file
            self._log.debug(
                "inventory.taken", files=len(inventory.entries), changed=len(changed), removed=len(removed),
                skipped=len(inventory.skipped), took_s=round(time.monotonic() - started, 3),
            )  # fmt: skip
            return True

    def check_source(self) -> bool:
        """List the source only to see whether that halts the target; return False if so."""
        with self.lock:
            return self._list("") is not None

    def _list(self, under: str) -> Inventory | None:
        try:
            inventory = take_inventory(self.target.source, self._rules, under)
            if not under:
                self._guard.check(inventory)
        except SourceError as exc:
            self._guard.halt(exc)
            return None
        self._guard.resume()

        return inventory

    def note(self, path: str) -> None:
        """Look at *path*, of which an event said that it changed."""
        with self.lock:
            if self.halted is not None:
                return
            if not self._rules.verdict(path).taken:
                self._note_not_taken(path)
                return
            try:
                entry = look(self.target.source, path)
            except SourceError as exc:
                self._guard.halt(exc)
                return
            if entry is None:
                self._forget(path)
                if (unit := self.unit_of(path)) in self._units:
                    self._judge(unit)
                self._wake_units_beside(path)
                return
            self._looks += 1
            self._files.note_writes([entry])
            self._feed(entry, age_s=0.0)
            if not self._files.grows(path):  # a log is no signal, and changes all the time
                self._wake_units_beside(path)

    def settle(self) -> Settled:
        """Take what is settled by now, capture it where it may go early, and judge units."""
        with self.lock:
            if self.halted is not None:
                return Settled()
            touched = self._left & self._units.keys()
            self._left.clear()
            for path in self._files.take_settled():
                if (unit := self.unit_of(path)) and (unit in self._units or not is_event_log(path)):
                    touched.add(unit)
            early = self._capture_early()
            for unit in touched:
                self._judge(unit)
            self._abandon_late_units()

            return Settled(any(unit.completion.complete for unit in self._units.values()), early)

    def next_due(self) -> float | None:
        """Return when ``settle`` has something to do if nothing changes meanwhile."""
        with self.lock:
            return self._files.settler.next_due()

    def is_excluded_directory(self, path: str) -> bool:
        """Tell whether nothing below the directory *path* is ever taken."""
        return not self._rules.verdict(path, is_dir=True).taken

    # --- what is committed

    def commit(self, *, units_only: bool = False, confirm_deletes: bool = False) -> list[str]:
        """Commit complete units, and with them (unless *units_only*) all else that is settled; return the commits.

        Raises:
            DiskFullError: there is no room for state; all that was settled stays so.
        """
        with self.lock:
            if self.halted is not None and not confirm_deletes:
                return []
            if not self._guard.has_room():
                return []
            commits = [
                commit
                for unit in sorted(self._units, key=lambda unit: (step_of(unit), unit))
                for commit in self._commit_unit(unit)
            ]
            if not units_only:
                for entry in self._files.grown_logs():
                    self._feed(entry)
                    self._files.settle_at_once(entry)
                commits += self._commit_settled()
                commits += self._commit_removed(confirmed=confirm_deletes)
            if commits:
                self.store.repack()

            return commits

    def release(self, published: list[str | None]) -> bool:
        """Drop pins that no mirror needs; return False if the target is busy (then it is done another time)."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            self.store.release(published)
        finally:
            self.lock.release()

        return True

    # --- what waits

    def waiting(self) -> dict[str, float]:
        """Return the paths that are not quiet yet → seconds to go."""
        with self.lock:
            return self._files.waiting()

    def held(self) -> dict[str, str]:
        """Return what is held back and why: files, and units (with a trailing slash)."""
        with self.lock:
            units = {f"{name}/": unit.completion.reason for name, unit in self._units.items()}
            paused = dict.fromkeys(self._files.settled, _NO_ROOM) if self._guard.is_paused else {}
            return {**paused, **self._held.reasons, **units}

    def describe_held(self, most: int) -> list[Waiting]:
        """Return the first *most* of what is held back, with reasons: what needs a person, then units, then files."""
        with self.lock:
            needy = {f"{name}/" for name, unit in self._units.items() if unit.abandoned} | self._held.needy
            order = heapq.nsmallest(most, self.held().items(), key=lambda one: (one[0] not in needy, one[0][-1] != "/"))
            return [self._describe_held(path, reason, needs_attention=path in needy) for path, reason in order]

    def _describe_held(self, path: str, reason: str, *, needs_attention: bool) -> Waiting:
        hint, unit = self._held.hints.get(path, ""), self._units.get(path.removesuffix("/"))
        if unit is None:
            return Waiting(path, reason, self._held.since.get(path), hint, needs_attention)
        since = datetime.now(UTC) - timedelta(seconds=time.monotonic() - unit.since)
        if unit.abandoned:
            hint = hint or CATALOGUE["unit.abandoned"].action

        return Waiting(path, reason, since, hint, needs_attention)

    def hints(self) -> dict[str, str]:
        """Return what the operator can do about what is held back."""
        with self.lock:
            return self._held.hints.copy()

    def settled(self) -> dict[str, Identity]:
        """Return the settled files that are not committed."""
        with self.lock:
            return self._files.settled.copy()

    def removed(self) -> list[str]:
        """Return the published paths that are gone from the source, since the last commit."""
        with self.lock:
            return sorted(self._files.removed)

    def pending(self) -> dict[str, Pending]:
        """Return what is not committed as it stands: files outside of units, and units (with a trailing slash)."""
        with self.lock:
            held, unquiet = self._held.reasons, self._files.settler.waiting(float("-inf"))
            files = {path: Pending(reason, final=True) for path, reason in held.items()}
            files |= {path: Pending(held.get(path, "waits for the schedule"), settled=True) for path in self._files.settled}
            files |= dict.fromkeys(unquiet, Pending("is not quiet yet"))
            loose = {path: one for path, one in files.items() if self._is_loose(path) and not path.endswith("/")}
            return loose | {f"{n}/": Pending(u.completion.reason, final=u.abandoned) for n, u in self._units.items()}

    def count_settled(self) -> int:
        """Return how many settled files wait for a commit."""
        with self.lock:
            return len(self._files.settled)

    def oldest_settled_s(self) -> float:
        """Return for how long the oldest settled file has waited for a commit; 0 if none does.

        What was left of a unit that is reported as abandoned is not waited for.
        """
        with self.lock:
            abandoned = {name for name, unit in self._units.items() if unit.abandoned}
            waiting = (path for path in self._files.settled if not abandoned or self.unit_of(path) not in abandoned)
            return max(map(self._files.waited_s, waiting), default=0.0)

    def unit_of(self, path: str) -> str | None:
        """Return the unit that *path* belongs to."""
        return unit_of(self.target, path)

    def _is_loose(self, path: str) -> bool:
        """Tell whether *path* follows the schedule: it is in no unit, or is the log of one that was published.

        A log goes with its unit and never keeps it waiting. What it grows by after that is nobody's but its own.
        """
        unit = self.unit_of(path)
        return unit is None or (is_event_log(path) and unit not in self._units and self._was_committed(unit))

    def _was_committed(self, unit: str) -> bool:
        return any(self.store.ledger.all_known(unit))

    # --- feeding

    def _feed(self, entry: Entry, age_s: float | None = None) -> None:
        """Let *entry* settle, see ``Files.feed``; its unit waits for it, unless it is a log."""
        unit = self.unit_of(entry.path)
        if not self._files.feed(entry, age_s) or unit is None:
            return
        now = time.monotonic()
        if not is_event_log(entry.path):
            state = self._units.setdefault(unit, Unit(now))
            state.note(entry.path, entry.identity, self._looks)
            state.hold(f"{entry.path} is not settled")
        elif unit not in self._units and not self._was_committed(unit):
            self._units[unit] = Unit(now)

    def _forget(self, path: str) -> None:
        self._files.forget(path)
        self._capturing.forget(path)
        self._held.forget(path)
        for unit in (path, self.unit_of(path)):
            if unit in self._units and not (self.target.source / unit).is_dir():
                del self._units[unit]

    def _report_skipped(self, inventory: Inventory) -> None:
        for path, skip in inventory.skipped.items():
            if skip.kind is Kind.REJECTED:
                self._held.reject(path, skip.reason, skip.hint)
            elif skip.kind is Kind.UNREADABLE:
                self._held.hold_unreadable(path, skip.reason, skip.hint)
        for path in [p for p in self._held.reasons if p not in inventory.skipped and not self._files.is_pending(p)]:
            if look(self.target.source, path) is None and not inventory.hides(path):
                self._held.forget(path)

    # --- units

    def _wake_units_beside(self, path: str) -> None:
        """Judge again the units whose completion a file beside them may signal (``latest``)."""
        for unit in list(self._units):
            if _parent_of(unit) == _parent_of(path):
                self._judge(unit)

    def _note_not_taken(self, path: str) -> None:
        """Judge again the units that wait for a callback's mark that came, or a temporary file that went."""
        parent, _, name = path.rpartition("/")
        if name == MARK and parent in self._units:
            self._judge(parent)
        elif not os.path.lexists(self.target.source / path):
            self._left.update(unit for unit in self._units if unit == self.unit_of(path) or _parent_of(unit) == parent)

    def _judge(self, unit: str) -> None:
        if not (self.target.source / unit).is_dir():
            self._units.pop(unit, None)  # with a directory above it, or no event has told
            return
        state = self._units.setdefault(unit, Unit(time.monotonic()))
        waiting = (path for path in self._files.waiting() if not is_event_log(path))
        held = dict.fromkeys(waiting, "still being written")
        held |= {path: self._held.reasons.get(path, "refused") for path in self._files.refused}
        state.completion = judge(self.read_unit(unit, held))

    def read_unit(self, unit: str, held: Mapping[str, str]) -> UnitFacts:
        """Return what is known of *unit*, also against what was published of it; *held*: paths that wait, and why."""
        facts = read_facts(self.target, self._rules, unit, held)
        inside = len(unit) + 1
        if state := self._units.get(unit):
            for path in {f"{unit}/{name}" for name in facts.held} - held.keys():
                state.note_broken(path)
            facts = replace(facts, changes={path[inside:]: numbers for path, numbers in state.changes().items()})
        before = {name: entry for name in facts.files if (entry := self.store.ledger.in_tree(f"{unit}/{name}"))}
        if not before:
            return facts
        changing = self._files.changing()
        untouched = frozenset(name for name in before if f"{unit}/{name}" not in changing)
        equal = {name for name, entry in before.items() if self._files.was_only_touched(f"{unit}/{name}", entry)}

        return replace(facts, untouched=untouched, renewed=frozenset(facts.files) - untouched - equal)

    def _abandon_late_units(self) -> None:
        now = time.monotonic()
        for name, unit in self._units.items():
            if unit.abandoned or unit.completion.complete or now - unit.since < self.target.unit_timeout_s:
                continue
            unit.abandoned = True
            self._log.warning(
                "unit.abandoned", unit=name, layout=unit.completion.layout, reason=unit.completion.reason,
                missing=list(unit.completion.missing), age_s=round(now - unit.since),
            )  # fmt: skip

    def _commit_unit(self, unit: str) -> list[str]:
        state = self._units[unit]
        if not state.completion.complete:
            return []
        started = time.monotonic()
        inventory = take_inventory(self.target.source, self._rules, unit)
        entries = [entry for entry in inventory.entries.values() if not self._files.is_unchanged(entry)]
        if fresh := [entry for entry in entries if not is_event_log(entry.path) and not self._files.is_settled(entry)]:
            for entry in fresh:  # it came or changed after the unit was judged, and no event has told
                self._feed(entry)
            return []
        try:
            captured = self._capture_all(entries)
            self._expect_still(unit, inventory)
        except FileRefusedError:
            self._judge(unit)  # published whole or not at all
            return []
        except (FileChangedError, FileUnreadableError) as exc:
            state.hold(str(exc))
            self._held.hold(f"{unit}/", str(exc), exc.hint or HELD_HINT)
            self._feed_again(entries)
            return []
        own = [entry for entry in inventory.entries.values() if not is_event_log(entry.path)]
        written_ns = max((entry.identity.mtime_ns for entry in own), default=0)
        subject = unit_subject(unit, inventory.entries.values())
        with self.store.write() as writer:
            written = write_snapshot(writer, captured, subject=subject, units=(unit,), written_ns=written_ns)
        commits = tell_written(written, self._log)
        del self._units[unit]  # not before: a commit that failed is tried again
        self._drop_settled({entry.path for entry in own} | {one.path for one in captured})
        self._held.forget(f"{unit}/")
        if commits:
            self._log.info(
                "unit.completed", unit=unit, files=len(inventory.entries),
                bytes=sum(entry.identity.size for entry in inventory.entries.values()),
                layout=state.completion.layout, reason=state.completion.reason, took_s=round(time.monotonic() - started, 3),
            )  # fmt: skip

        return commits

    def _expect_still(self, unit: str, before: Inventory) -> None:
        """Raise FileChangedError unless the unit is, after it was captured, what it was before."""
        now = take_inventory(self.target.source, self._rules, unit)
        changed = [path for path in sorted(now.entries.keys() ^ before.entries.keys()) if not is_event_log(path)]
        if changed:
            raise FileChangedError(changed[0], "came or went while the unit was captured")
        for path, entry in now.entries.items():
            if is_event_log(path):
                continue
            known = self.store.ledger.known(path)
            if entry.identity not in {before.entries[path].identity, known.identity if known else None}:
                raise FileChangedError(path, "changed while the unit was captured")

    # --- capture

    def _capture_early(self) -> bool:
        """Capture objects before their commit, each path once per commit, so that they are safe and can go up."""
        early = []
        for path, identity in list(self._files.settled.items()):  # a look at one may drop it
            if path not in self._files.early and self._capturing.is_early(path, identity.size):
                entry = self._look_settled(path)
                if entry is not None:
                    early.append(entry)
        if not early or not self._guard.has_room():
            return False
        self._files.early.update(entry.path for entry in early)
        captured = [self._capture_or_hold(entry) for entry in early]

        return any(one is not None for one in captured)

    def _capture_all(self, entries: list[Entry]) -> list[Captured]:
        """Capture *entries*, objects on a few threads; raise the first failure, but tell of all that are refused.

        A log that cannot be captured is left out: no unit waits for one.
        """
        large = [entry for entry in entries if self._capturing.is_object(entry)]
        names = {entry.path for entry in large}
        with ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="hubsync-hash") as pool:
            tried = list(pool.map(self._capture_or_refuse, large))
        tried += [self._capture_or_refuse(entry) for entry in entries if entry.path not in names]
        if refused := next((one for one in tried if isinstance(one, FileRefusedError)), None):
            raise refused

        return [one for one in tried if isinstance(one, Captured)]

    def _capture_or_refuse(self, entry: Entry) -> Captured | FileRefusedError | None:
        try:
            return self._capturing.capture(entry)
        except FileRefusedError as exc:
            self._refuse(entry, exc)
            return exc
        except (FileChangedError, FileUnreadableError):
            if is_event_log(entry.path):
                return None
            raise

    def _refuse(self, entry: Entry, exc: FileRefusedError) -> None:
        """Take *entry* no more until it changes."""
        now = look(self.target.source, entry.path)  # a pin that was dropped again has moved the ctime
        same = now is not None and has_same_content(now.identity, entry.identity)
        self._files.refuse(entry.path, now.identity if now is not None and same else entry.identity)
        self._held.reject(entry.path, exc.reason, exc.hint, exc.secret)

    def _capture_or_hold(self, entry: Entry) -> Captured | None:
        """Capture *entry*; if that fails it is held back alone, and said."""
        try:
            captured = self._capturing.capture(entry)
        except FileHeldError as exc:
            self._held.hold(entry.path, exc.reason, exc.hint)
        except FileChangedError:
            self._feed_again([entry])
        except FileRefusedError as exc:
            self._refuse(entry, exc)
        except FileUnreadableError as exc:
            self._held.hold_unreadable(entry.path, exc.reason, exc.hint)
        else:
            self._held.forget(entry.path)
            return captured

        return None

    def _look_settled(self, path: str) -> Entry | None:
        """Return the entry of a settled path if it still is what settled; else it is fed again or forgotten."""
        entry = look(self.target.source, path)
        if entry is None:
            self._forget(path)
            return None
        if self._files.grows(path):
            return entry
        settled = self._files.settled[path]
        known = self.store.ledger.known(path)
        if entry.identity != settled and not (known is not None and known.identity == entry.identity):
            self._feed(entry)
            return None

        return entry

    def _feed_again(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._files.unsettle(entry.path)
            now = look(self.target.source, entry.path)
            if now is None:
                self._forget(entry.path)
            else:
                self._feed(now)

    # --- snapshots

    def _commit_settled(self) -> list[str]:
        written: list[Written] = []
        loose = [(path, identity.size) for path, identity in self._files.settled.items() if self._is_loose(path)]
        limits = BatchLimits(self.target.batch.max_files, self.target.batch.max_bytes)
        done: list[str] = []
        with self.store.write() as writer:
            for batch in split_batches(loose, limits):
                captured = [c for path in batch if (c := self._capture_settled(path)) is not None]
                done += [c.path for c in captured]
                written += write_snapshot(writer, captured)
        self._drop_settled(done)

        return tell_written(written, self._log)

    def _capture_settled(self, path: str) -> Captured | None:
        entry = self._look_settled(path)
        if entry is None or self._lacks_members(entry):
            return None
        return self._capture_or_hold(entry)

    def _lacks_members(self, entry: Entry) -> bool:
        """Hold back a sharded index until all its shards are there and settled."""
        if not entry.path.endswith(".index.json"):
            return False
        reason, named = check_file(self.target.source, entry)
        waiting = self._files.waiting()
        directory = PurePosixPath(entry.path).parent
        members = [str(directory / member) for member in named or ()]
        held = self._held.reasons
        missing = [m for m in members if m in waiting or m in held or look(self.target.source, m) is None]
        if missing:
            reason = f"shard {PurePosixPath(missing[0]).name} is missing or still being written"
        if reason:
            self._held.hold(entry.path, reason, HELD_HINT)

        return bool(reason)

    def _commit_removed(self, *, confirmed: bool) -> list[str]:
        """Commit the removal of paths that are gone, if deletions are propagated."""
        in_tree = self.store.ledger.in_tree  # a directory may have taken its place; that is not removed
        gone = [
            path for path in self._files.removed if in_tree(path) is not None and look(self.target.source, path) is None
        ]
        self._files.removed.clear()
        if self.target.deletes != "propagate" or not gone:
            return []
        if not confirmed and not self._guard.check_removal(gone):
            self._files.removed.update(gone)
            return []

        return [write_removal(self.store, gone, self._log)]

    def _drop_settled(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._files.unsettle(path)
            self._capturing.forget(path)
            self._held.forget(path)


def _parent_of(path: str) -> str:
    return path.rpartition("/")[0]
