"""Runs one target from its source to its queue: what changed, when it is settled and whole, capture, snapshot.

It joins ``watch`` and ``store`` and knows nothing of mirrors, schedules or threads but its own lock: the caller says
when.
All paths are relative to the source; all times are monotonic seconds unless they are named otherwise.
"""

import os
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import structlog

from hubsync.config.model import Target
from hubsync.errors import FileChangedError, FileUnreadableError, HubsyncError, SourceError
from hubsync.monitor.status import Waiting
from hubsync.monitor.text import format_bytes, format_count
from hubsync.store.batch import BatchLimits, split_batches
from hubsync.store.capture import (
    HELD_HINT,
    Captured,
    Capturer,
    FileHeldError,
    FileRefusedError,
    Prefix,
    has_grown,
    has_same_content,
)
from hubsync.store.git import TreeEntry
from hubsync.store.ledger import Known
from hubsync.store.pointer import Pointer
from hubsync.store.process import StoppedError
from hubsync.store.route import RouteRules
from hubsync.store.secrets import HINT as SECRET_HINT
from hubsync.store.secrets import Secret, SecretRules
from hubsync.store.snapshot import SnapshotWriter, Store
from hubsync.units import age_s as age_of
from hubsync.units import check_file, read_facts, unit_of
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.inventory import Inventory, look, take_inventory
from hubsync.watch.layout_words import step_of
from hubsync.watch.layouts import Completion, judge
from hubsync.watch.logs import is_event_log, is_text_log
from hubsync.watch.names import Kind
from hubsync.watch.rules import PathRules
from hubsync.watch.settle import Settler
from hubsync.watch.unit_facts import MARK, UnitFacts

_HASH_THREADS = 2
_NO_ROOM = "capture is paused: there is too little free space"
_MOST_LOST = 0.5  # of the published paths at once; more is an accident until a person says otherwise

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


@dataclass(slots=True)
class _Unit:
    """What is known of a unit that is not published as it stands."""

    since: float
    completion: Completion = field(default_factory=lambda: Completion(False, "not judged yet", ""))
    abandoned: bool = False


@dataclass(slots=True)
class _Held:
    """Paths that wait, and why; each reason is logged once."""

    reasons: dict[str, str] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
    needy: set[str] = field(default_factory=set)

    def is_news(self, path: str, reason: str, hint: str, *, needs_attention: bool = False) -> bool:
        """Remember *reason* and *hint*; tell whether that was not known."""
        known = self.reasons.get(path) == reason
        self.reasons[path], self.hints[path] = reason, hint
        (self.needy.add if needs_attention else self.needy.discard)(path)

        return not known

    def forget(self, path: str) -> None:
        """Wait for *path* no longer."""
        self.reasons.pop(path, None)
        self.hints.pop(path, None)
        self.needy.discard(path)


class Pipeline:
    """One target's way from files to snapshots. Every public method takes the lock."""

    def __init__(
        self, target: Target, store: Store, min_free_bytes: int, stop: threading.Event, capturer: Capturer | None = None
    ) -> None:
        self.target = target
        self.store = store
        self.lock = threading.RLock()
        self.halted: HubsyncError | None = None
        self.newest_unit = store.newest_unit()
        self._log = log.bind(target=target.name)
        self._min_free_bytes = min_free_bytes
        self._stop = stop
        self._rules = PathRules(target.include, target.exclude)
        self._capturer = capturer or make_capturer(target, store)
        self._settler = Settler(target.quiet_s)
        self.first_write = self.last_write = 0.0
        """When the first of the files came, and when the newest was written: seconds since the epoch."""
        self._settled: dict[str, Identity] = {}
        self._settled_at: dict[str, float] = {}
        self._refused: dict[str, Identity] = {}
        self._removed: set[str] = set()
        self._early: set[str] = set()
        self._looked_at: set[str] = set()  # captured by this process: under the present rules for secrets
        self._units: dict[str, _Unit] = {}
        self._left: set[str] = set()  # units that a temporary file has left, in or beside them: to be judged again
        self._held = _Held()
        self._paused = False
        self._release_due = False

    # --- what changed

    def take_inventory(self, under: str = "") -> bool:
        """Compare the source (or its directory *under*) with what was captured; return False if that halts the target."""
        with self.lock:
            started = time.monotonic()
            inventory = self._list(under)
            if inventory is None:
                return False
            self._note_writes(inventory.entries.values())
            changed = self._feed_changed(inventory, under)
            removed = self._note_removed(inventory, under)
            self._report_skipped(inventory)
            for unit in [name for name, state in self._units.items() if not state.completion.complete]:
                self._judge(unit)  # what held it back may have grown old, such as a temporary file
            self._log.debug(
                "inventory.taken", files=len(inventory.entries), changed=changed, removed=removed,
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
                self._guard(inventory)
        except SourceError as exc:
            self._halt(exc)
            return None
        self._resume()

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
                self._halt(exc)
                return
            if entry is None:
                self._forget(path)
                if (unit := self.unit_of(path)) in self._units:
                    self._judge(unit)
                self._wake_units_beside(path)
                return
            self._note_writes([entry])
            self._feed(entry, age_s=0.0)
            if not self._grows(path):  # a log is no signal, and changes all the time
                self._wake_units_beside(path)

    def settle(self) -> Settled:
        """Take what is settled by now, capture it where it may go early, and judge units."""
        with self.lock:
            if self.halted is not None:
                return Settled()
            touched = self._left & self._units.keys()
            self._left.clear()
            self._settled_at = {path: at for path, at in self._settled_at.items() if path in self._settled}
            for path, identity in self._settler.take_settled(time.monotonic()):
                self._settled[path] = identity
                self._settled_at.setdefault(path, time.monotonic())
                if (unit := self.unit_of(path)) and not is_event_log(path):
                    touched.add(unit)
            early = self._capture_early()
            for unit in touched:
                self._judge(unit)
            self._abandon_late_units()

            return Settled(any(unit.completion.complete for unit in self._units.values()), early)

    def next_due(self) -> float | None:
        """Return when ``settle`` has something to do if nothing changes meanwhile."""
        with self.lock:
            return self._settler.next_due()

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
            if not self._has_room():
                return []
            commits = [
                commit
                for unit in sorted(self._units, key=lambda unit: (step_of(unit), unit))
                for commit in self._commit_unit(unit)
            ]
            if not units_only:
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
            return self._settler.waiting(time.monotonic())

    def held(self) -> dict[str, str]:
        """Return what is held back and why: files, and units (with a trailing slash)."""
        with self.lock:
            units = {f"{name}/": unit.completion.reason for name, unit in self._units.items()}
            paused = dict.fromkeys(self._settled, _NO_ROOM) if self._paused else {}
            return {**paused, **self._held.reasons, **units}

    def describe_held(self) -> list[Waiting]:
        """Return what is held back and why, what needs a person first, then the oldest; it is part of the status."""
        with self.lock:
            now = time.monotonic()
            units = [
                Waiting(f"{name}/", unit.completion.reason, round(now - unit.since), self._held.hints.get(f"{name}/", ""),
                        needs_attention=unit.abandoned)
                for name, unit in self._units.items()
            ]  # fmt: skip
            files = [
                Waiting(path, reason, hint=self._held.hints.get(path, ""), needs_attention=path in self._held.needy)
                for path, reason in self._held.reasons.items()
                if not path.endswith("/")
            ]
            return sorted([*units, *files], key=lambda one: (not one.needs_attention, -one.since_s, one.what))

    def hints(self) -> dict[str, str]:
        """Return what the operator can do about what is held back."""
        with self.lock:
            return self._held.hints.copy()

    def settled(self) -> dict[str, Identity]:
        """Return the settled files that are not committed."""
        with self.lock:
            return self._settled.copy()

    def removed(self) -> list[str]:
        """Return the published paths that are gone from the source, since the last commit."""
        with self.lock:
            return sorted(self._removed)

    def pending(self) -> dict[str, Pending]:
        """Return what is not committed as it stands: files outside of units, and units (with a trailing slash)."""
        with self.lock:
            held, unquiet = self._held.reasons, self._settler.waiting(float("-inf"))
            files = {path: Pending(reason, final=True) for path, reason in held.items()}
            files |= {path: Pending(held.get(path, "waits for the schedule"), settled=True) for path in self._settled}
            files |= dict.fromkeys(unquiet, Pending("is not quiet yet"))
            loose = {path: one for path, one in files.items() if self._is_loose(path) and not path.endswith("/")}
            return loose | {f"{n}/": Pending(u.completion.reason, final=u.abandoned) for n, u in self._units.items()}

    def count_settled(self) -> int:
        """Return how many settled files wait for a commit."""
        with self.lock:
            return len(self._settled)

    def oldest_settled_s(self) -> float:
        """Return for how long the oldest settled file has waited for a commit; 0 if none does.

        What was left of a unit that is reported as abandoned is not waited for.
        """
        with self.lock:
            abandoned = {name for name, unit in self._units.items() if unit.abandoned}
            waiting = {path: at for path, at in self._settled_at.items() if path in self._settled}
            since = [at for path, at in waiting.items() if not abandoned or self.unit_of(path) not in abandoned]
            return time.monotonic() - min(since) if since else 0.0

    def unit_of(self, path: str) -> str | None:
        """Return the unit that *path* belongs to."""
        return unit_of(self.target, path)

    def _grows(self, path: str) -> bool:
        """Tell whether *path* is a log: it may never be quiet. In a unit only event files are, which prove themselves."""
        return is_event_log(path) or (is_text_log(path) and self.unit_of(path) is None)

    def _is_loose(self, path: str) -> bool:
        """Tell whether *path* follows the schedule: it is in no unit, or is a log of one that is not on its way.

        A log goes with its unit and never keeps it waiting. What it grows by after that is nobody's but its own. As a
        unit's own revision must not begin with a log alone, it waits for the unit there.
        """
        unit = self.unit_of(path)
        if unit is None:
            return True
        if not is_event_log(path) or unit in self._units:
            return False

        return self.target.publish == "tree" or any(self.store.ledger.all_known(unit))

    # --- feeding

    def _note_writes(self, entries: Iterable[Entry]) -> None:
        """Follow when the first file came (its ctime: a copy may keep an old mtime) and when the newest was written."""
        now = time.time()  # a clock that is ahead of ours is not believed
        for entry in entries:
            self.first_write = min(self.first_write or now, entry.identity.ctime_ns / 1e9)
            self.last_write = max(self.last_write, min(now, entry.identity.mtime_ns / 1e9))

    def _feed_changed(self, inventory: Inventory, under: str) -> int:
        changed = dict(inventory.entries)
        for path, identity in self.store.ledger.all_known(under):
            entry = changed.get(path)
            if entry is not None and entry.identity == identity:
                del changed[path]
        for entry in changed.values():
            self._feed(entry)

        return len(changed)

    def _feed(self, entry: Entry, age_s: float | None = None) -> None:
        """Let *entry* settle. Its age is what its times say, or *age_s*: after an event a server's slow clock may lie."""
        path, identity = entry.path, entry.identity
        if self._settled.get(path) == identity or self._refused.get(path) == identity:
            return
        known = self.store.ledger.known(path)
        if known is not None and known.identity == identity and self._is_committed(path, known.mode, known.blob):
            return
        self._refused.pop(path, None)
        self._removed.discard(path)
        grows = self._grows(path)
        if grows and path in self._settled:  # the next commit takes what is there then
            self._settled[path] = identity
            return
        self._settled.pop(path, None)
        now = time.monotonic()
        self._settler.feed(path, identity, now, now - (age_of(identity) if age_s is None else age_s), grows=grows)
        if (unit := self.unit_of(path)) and not is_event_log(path):
            state = self._units.setdefault(unit, _Unit(now))
            state.completion = Completion(False, f"{path} is not settled", state.completion.layout)

    def _is_committed(self, path: str, mode: str, blob: str) -> bool:
        return self.store.ledger.in_tree(path) == TreeEntry(mode, blob)

    def _note_removed(self, inventory: Inventory, under: str) -> int:
        prefix = f"{under}/" if under else ""
        seen = [*self._settled, *self._refused, *self._settler.waiting(float("-inf"))]
        pending = [path for path in seen if path.startswith(prefix)]
        known = [path for path, _ in self.store.ledger.all_files(under)]
        if self.target.deletes == "propagate":  # also what was seen to be gone before a restart
            known += [path for path in self.store.ledger.tree_paths() if path.startswith(prefix)]
        gone = {path for path in [*pending, *known] if path not in inventory.entries and not inventory.hides(path)}
        for path in gone:
            self._forget(path)

        return len(gone)

    def _forget(self, path: str) -> None:
        """Follow the disappearance of *path*: what was captured of it and not committed is dropped as well."""
        self._settler.forget(path)
        self._settled.pop(path, None)
        self._refused.pop(path, None)
        self._early.discard(path)
        self._looked_at.discard(path)
        self._held.forget(path)
        if self.store.ledger.known(path) is not None:
            self.store.ledger.forget_files([path])
            self._release_due = True
        if self.store.ledger.in_tree(path) is not None:
            self._removed.add(path)
        for unit in (path, self.unit_of(path)):
            if unit in self._units and not (self.target.source / unit).is_dir():
                del self._units[unit]

    def _report_skipped(self, inventory: Inventory) -> None:
        for path, skip in inventory.skipped.items():
            if skip.kind is Kind.REJECTED:
                self._tell_rejected(path, skip.reason, skip.hint)
            elif skip.kind is Kind.UNREADABLE:
                self._tell_unreadable(path, skip.reason, skip.hint)
        for path in [p for p in self._held.reasons if p not in inventory.skipped and not self._is_pending(p)]:
            if look(self.target.source, path) is None and not inventory.hides(path):
                self._held.forget(path)

    def _is_pending(self, path: str) -> bool:
        return path in self._settled or path in self._refused

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
        state = self._units.setdefault(unit, _Unit(time.monotonic()))
        waiting = (path for path in self._settler.waiting(time.monotonic()) if not is_event_log(path))
        held = dict.fromkeys(waiting, "still being written")
        held |= {path: self._held.reasons.get(path, "refused") for path in self._refused}
        state.completion = judge(self.read_unit(unit, held))

    def read_unit(self, unit: str, held: Mapping[str, str]) -> UnitFacts:
        """Return what is known of *unit*, also against what was published of it; *held*: paths that wait, and why."""
        facts = read_facts(self.target, self._rules, unit, held)
        before = {name: entry for name in facts.files if (entry := self.store.ledger.in_tree(f"{unit}/{name}"))}
        if not before:
            return facts
        changing = self._settled.keys() | self._refused.keys() | self._settler.waiting(time.monotonic()).keys()
        untouched = frozenset(name for name in before if f"{unit}/{name}" not in changing)
        equal = {name for name, entry in before.items() if self._has_content(f"{unit}/{name}", entry)}

        return replace(facts, untouched=untouched, renewed=frozenset(facts.files) - untouched - equal)

    def _has_content(self, path: str, published: TreeEntry) -> bool:
        """Tell whether the settled *path* was captured already, and is what was published: it was only touched."""
        settled, known = self._settled.get(path), self.store.ledger.known(path)
        if settled is None or known is None:
            return False
        return known.blob == published.blob and has_same_content(known.identity, settled)

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
        entries = [entry for entry in inventory.entries.values() if not self._is_unchanged(entry)]
        if fresh := [entry for entry in entries if not is_event_log(entry.path) and not self._is_settled(entry)]:
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
            state.completion = Completion(False, str(exc), state.completion.layout)
            self._tell_held(f"{unit}/", str(exc), exc.hint or HELD_HINT)
            self._feed_again(entries)
            return []
        size = sum(entry.identity.size for entry in inventory.entries.values())
        subject = f"{_one_line(unit)}: {_step(unit)}{format_count(len(inventory.entries), 'file')}, {format_bytes(size)}"
        own = [entry for entry in inventory.entries.values() if not is_event_log(entry.path)]
        written_ns = max((entry.identity.mtime_ns for entry in own), default=0)
        with self.store.write() as writer:
            commits = self._write(writer, captured, subject, (unit,), written_ns)
        del self._units[unit]  # not before: a commit that failed is tried again
        self._drop_settled({entry.path for entry in own} | {one.path for one in captured})
        self._held.forget(f"{unit}/")
        if commits:
            self.newest_unit = self.store.newest_unit()
            self._log.info(
                "unit.completed", unit=unit, files=len(inventory.entries), bytes=size, layout=state.completion.layout,
                reason=state.completion.reason, took_s=round(time.monotonic() - started, 3),
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

    def _is_settled(self, entry: Entry) -> bool:
        path, known = entry.path, self.store.ledger.known(entry.path)
        if entry.identity in {self._settled.get(path), self._refused.get(path)}:
            return True
        return path in self._settled and known is not None and known.identity == entry.identity

    def _is_unchanged(self, entry: Entry) -> bool:
        known = self.store.ledger.known(entry.path)
        return (
            known is not None
            and known.identity == entry.identity
            and self._is_committed(entry.path, known.mode, known.blob)
        )

    # --- capture

    def _capture_early(self) -> bool:
        """Capture objects before their commit, each path once per commit, so that they are safe and can go up."""
        early = []
        for path, identity in self._settled.items():
            if path not in self._early and not self._grows(path) and self._capturer.is_early(path, identity.size):
                entry = self._look_settled(path)
                if entry is not None:
                    early.append(entry)
        if not early or not self._has_room():
            return False
        self._early.update(entry.path for entry in early)
        captured = [self._capture_or_hold(entry) for entry in early]

        return any(one is not None for one in captured)

    def _capture_all(self, entries: list[Entry]) -> list[Captured]:
        """Capture *entries*, objects on a few threads; raise the first failure, but tell of all that are refused.

        A log that cannot be captured is left out: no unit waits for one.
        """
        large = [entry for entry in entries if self._capturer.is_early(entry.path, entry.identity.size)]
        names = {entry.path for entry in large}
        with ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="hubsync-hash") as pool:
            tried = list(pool.map(self._capture_or_refuse, large))
        tried += [self._capture_or_refuse(entry) for entry in entries if entry.path not in names]
        if refused := next((one for one in tried if isinstance(one, FileRefusedError)), None):
            raise refused

        return [one for one in tried if isinstance(one, Captured)]

    def _capture_or_refuse(self, entry: Entry) -> Captured | FileRefusedError | None:
        try:
            return self._capture(entry)
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
        self._refused[entry.path] = now.identity if now is not None and same else entry.identity
        self._settled.pop(entry.path, None)
        self._tell_rejected(entry.path, exc.reason, exc.hint, exc.secret)

    def _capture(self, entry: Entry) -> Captured:
        """Capture *entry*, or return what was captured of just this state before."""
        known = self.store.ledger.known(entry.path)
        if known is not None and known.oid is not None and known.identity == entry.identity:
            pointer = Pointer(known.oid, known.identity.size)
            if self.store.has_intact(known.oid) or self._is_committed(entry.path, known.mode, known.blob):
                if entry.path not in self._looked_at:
                    self._capturer.check_again(entry)
                return self._capturer.recall(entry, pointer, known.mode, known.blob)
        started = time.monotonic()
        if self._grows(entry.path):
            captured = self._capture_log(entry, known)
        else:
            captured = self._capturer.capture(entry, self._check_stop)
        if captured.pointer is not None:
            self.store.ledger.record(captured)
            self._looked_at.add(entry.path)
        if captured.secret is not None:
            self._tell_secret(entry.path, captured.secret)
        self._log.debug(
            "file.captured", path=entry.path, oid=captured.pointer.oid if captured.pointer else None,
            bytes=captured.identity.size, route=captured.routing.route.value, reason=captured.routing.reason,
            pin=captured.kind.value if captured.kind else None, took_s=round(time.monotonic() - started, 3),
        )  # fmt: skip

        return captured

    def _capture_log(self, entry: Entry, known: Known | None) -> Captured:
        """Capture what a log holds by now; what was captured before, if no whole record came since."""
        before = None
        if known and has_grown(entry.identity, known.identity) and self._is_committed(entry.path, known.mode, known.blob):
            before = Prefix(known.identity.size, known.blob, known.oid)
        is_quiet = age_of(entry.identity) >= self.target.quiet_s
        captured = self._capturer.capture_log(entry, before, self._check_stop, is_quiet=is_quiet)
        if captured is None:
            assert known is not None  # noqa: S101 - it was grown from
            pointer = Pointer(known.oid, known.identity.size) if known.oid else None
            same = entry._replace(identity=known.identity)
            captured = self._capturer.recall(same, pointer, known.mode, known.blob)
        if not is_quiet and is_text_log(entry.path) and captured.identity.size < entry.identity.size:
            self._settler.feed(entry.path, entry.identity, time.monotonic())  # a last line without its end, once quiet

        return captured

    def _check_stop(self, _read_bytes: int) -> None:
        if self._stop.is_set():
            raise StoppedError("interrupted: hubsync is stopping")

    def _capture_or_hold(self, entry: Entry) -> Captured | None:
        """Capture *entry*; if that fails it is held back alone, and said."""
        try:
            captured = self._capture(entry)
        except FileHeldError as exc:
            self._tell_held(entry.path, exc.reason, exc.hint)
        except FileChangedError:
            self._feed_again([entry])
        except FileRefusedError as exc:
            self._refuse(entry, exc)
        except FileUnreadableError as exc:
            self._tell_unreadable(entry.path, exc.reason, exc.hint)
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
        if self._grows(path):
            return entry
        settled = self._settled[path]
        known = self.store.ledger.known(path)
        if entry.identity != settled and not (known is not None and known.identity == entry.identity):
            self._feed(entry)
            return None

        return entry

    def _feed_again(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._settled.pop(entry.path, None)
            self._early.discard(entry.path)
            now = look(self.target.source, entry.path)
            if now is None:
                self._forget(entry.path)
            else:
                self._feed(now)

    # --- snapshots

    def _commit_settled(self) -> list[str]:
        commits: list[str] = []
        loose = [(path, identity.size) for path, identity in self._settled.items() if self._is_loose(path)]
        limits = BatchLimits(self.target.batch.max_files, self.target.batch.max_bytes)
        done: list[str] = []
        with self.store.write() as writer:
            for batch in split_batches(loose, limits):
                captured = [c for path in batch if (c := self._capture_settled(path)) is not None]
                done += [c.path for c in captured]
                written_ns = max((c.identity.mtime_ns for c in captured), default=0)
                commits += self._write(writer, captured, "", (), written_ns)
        self._drop_settled(done)

        return commits

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
        waiting = self._settler.waiting(time.monotonic())
        directory = PurePosixPath(entry.path).parent
        members = [str(directory / member) for member in named or ()]
        held = self._held.reasons
        missing = [m for m in members if m in waiting or m in held or look(self.target.source, m) is None]
        if missing:
            reason = f"shard {PurePosixPath(missing[0]).name} is missing or still being written"
        if reason:
            self._tell_held(entry.path, reason, HELD_HINT)

        return bool(reason)

    def _write(
        self, writer: SnapshotWriter, captured: list[Captured], subject: str, units: tuple[str, ...], written_ns: int
    ) -> list[str]:
        """Write one snapshot of *captured*; none if nothing differs from the newest one."""
        changes = {c.path: entry for c in captured if (entry := writer.add(c)) is not None}
        if not changes:
            return []
        size = sum(c.identity.size for c in captured if c.path in changes)
        if not subject:
            named = next(iter(changes)) if len(changes) == 1 else format_count(len(changes), "file")
            subject = f"{_one_line(named)}, {format_bytes(size)}"
        commit = writer.commit(
            dict(changes), subject, units=units, written_at=written_ns // 1_000_000_000, now=int(time.time())
        )
        self._log.info(
            "snapshot.committed", commit=commit, files=len(changes), bytes=size, units=list(units),
            lfs_files=sum(1 for c in captured if c.pointer is not None and c.path in changes),
        )  # fmt: skip

        return [commit]

    def _commit_removed(self, *, confirmed: bool) -> list[str]:
        """Commit the removal of paths that are gone, if deletions are propagated."""
        in_tree = self.store.ledger.in_tree  # a directory may have taken its place; that is not removed
        gone = [path for path in self._removed if in_tree(path) is not None and look(self.target.source, path) is None]
        self._removed.clear()
        if self.target.deletes != "propagate" or not gone:
            return []
        if len(gone) > _MOST_LOST * self.store.ledger.count_tree() and not confirmed:
            self._removed.update(gone)
            self._halt(
                SourceError(
                    f"{len(gone)} of {self.store.ledger.count_tree()} published paths are gone from {self.target.source}",
                    hint=f"if they were meant to go, run: hubsync once {self.target.name} --confirm-deletes",
                )
            )
            return []
        with self.store.write() as writer:
            commit = writer.commit(
                dict.fromkeys(gone), f"Remove {format_count(len(gone), 'file')}", units=(), written_at=int(time.time()),
                now=int(time.time()),
            )  # fmt: skip
        self._log.info("snapshot.committed", commit=commit, files=0, bytes=0, removed=len(gone))

        return [commit]

    def _drop_settled(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._settled.pop(path, None)
            self._early.discard(path)
            self._looked_at.discard(path)
            self._held.forget(path)

    # --- guards

    def _guard(self, inventory: Inventory) -> None:
        """Raise SourceError if the listing looks like an accident: an unmounted disk is an empty directory."""
        count = self.store.ledger.count_tree()
        if count and not inventory.entries and not inventory.unreadable:
            raise SourceError(
                f"{self.target.source} is empty, but {format_count(count, 'path')} of it were published",
                hint="see whether its disk is mounted; nothing is deleted on the mirrors",
            )
        if self.target.deletes == "propagate" and self.halted is not None:
            gone = sum(1 for path in self.store.ledger.tree_paths() if path not in inventory.entries)
            if gone > _MOST_LOST * count:
                raise self.halted

    def _halt(self, exc: HubsyncError) -> None:
        if self.halted is None or str(self.halted) != str(exc):
            self._log.error("target.halted", source=str(self.target.source), error=str(exc), error_kind=exc.error_kind,
                            hint=exc.hint)  # fmt: skip
        self.halted = exc

    def _resume(self) -> None:
        if self.halted is not None:
            self.halted = None
            self._log.info("target.resumed", source=str(self.target.source))

    def _has_room(self) -> bool:
        """Tell whether the disk of the store has room; pause and resume are said once."""
        free = self.store.free_bytes()
        if free < self._min_free_bytes and not self._paused:
            self._log.warning("capture.paused", path=str(self.store.directory), free_bytes=free,
                              min_free_bytes=self._min_free_bytes, reason="too little free space")  # fmt: skip
        elif free >= self._min_free_bytes and self._paused:
            self._log.info("capture.resumed", path=str(self.store.directory), free_bytes=free)
        self._paused = free < self._min_free_bytes

        return not self._paused

    # --- what is said

    def _tell_held(self, path: str, reason: str, hint: str = "") -> None:
        if self._held.is_news(path, reason, hint):
            self._log.info("file.held", path=path, reason=reason, hint=hint)

    def _tell_rejected(self, path: str, reason: str, hint: str, secret: Secret | None = None) -> None:
        unit = self.unit_of(path)
        if unit:
            hint = f"{hint}; until then {unit} is not published" if hint else ""
        if not self._held.is_news(path, reason, hint, needs_attention=True):
            return
        rule, line, member, offset = (secret.rule, secret.line, secret.member, secret.offset) if secret else (None,) * 4
        self._log.warning("file.rejected", path=path, unit=unit, reason=reason, rule=rule, line=line, member=member,
                          offset=offset, hint=hint)  # fmt: skip

    def _tell_secret(self, path: str, secret: Secret) -> None:
        self._log.warning("secret.found", path=path, rule=secret.rule, line=secret.line, member=secret.member,
                          offset=secret.offset, hint=SECRET_HINT)  # fmt: skip

    def _tell_unreadable(self, path: str, reason: str, hint: str = "") -> None:
        if self._held.is_news(path, reason, hint, needs_attention=True):
            self._log.warning("file.unreadable", path=path, reason=reason, hint=hint)


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _parent_of(path: str) -> str:
    return path.rpartition("/")[0]


def _step(unit: str) -> str:
    step = step_of(unit)
    return "" if step == float("-inf") else f"step {step}, "


def make_capturer(target: Target, store: Store, kind: type[Capturer] = Capturer) -> Capturer:
    """Return what captures the files of *target*, by its rules."""
    routes = RouteRules(target.lfs.patterns, target.lfs.threshold_bytes)
    secrets = SecretRules(target.secrets, target.secrets_allow)

    return kind(target.source, store.objects, routes, target.capture, secrets)


def store_directory(target: Target, state_dir: Path) -> Path:
    """Return where the store of *target* lies."""
    return (target.store_dir or state_dir / "targets") / target.name


def open_store(target: Target, state_dir: Path, *, inherit: tuple[int, ...] = ()) -> Store:
    """Open the store of *target*: in its ``store_dir``, else below the state directory."""
    store = Store(store_directory(target, state_dir), target.source, inherit=inherit)
    store.open()

    return store
