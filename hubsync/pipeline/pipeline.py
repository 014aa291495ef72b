"""Runs one target from its source to its queue: what changed, when it is settled and whole, capture, snapshot.

It joins ``watch`` and ``store`` and knows nothing of mirrors, schedules or threads but its own lock: the caller says
when.
All paths are relative to the source; all times are monotonic seconds unless they are named otherwise.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain

from msgspec import Struct

from hubsync.config.model import Target
from hubsync.errors import FileChangedError, FileUnreadableError, HubsyncError, SourceError
from hubsync.monitor.logger import get_logger
from hubsync.monitor.status import BeingRead, LastError, Waiting
from hubsync.pipeline.capturing import Capturing
from hubsync.pipeline.comparison import Comparison
from hubsync.pipeline.files import Files
from hubsync.pipeline.guard import Guard
from hubsync.pipeline.held import Held, Pending
from hubsync.pipeline.intake import Intake
from hubsync.pipeline.opening import make_capturer
from hubsync.pipeline.provenance import Provenance
from hubsync.pipeline.reading import Reading
from hubsync.pipeline.recheck import Root, expect_still
from hubsync.pipeline.removals import Removals
from hubsync.pipeline.snapshots import Written, tell_written, unit_subject, write_removal, write_snapshot
from hubsync.pipeline.unit import Units
from hubsync.pipeline.waits import Waits
from hubsync.store.batch import BatchLimits, split_batches
from hubsync.store.capture import HELD_HINT, Capturer, FileRefusedError
from hubsync.store.snapshot import Store
from hubsync.units import target_rules
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.inventory import Inventory, look, take_inventory, why_unseen
from hubsync.watch.logs import is_event_log
from hubsync.watch.names import Kind, find_collisions, judge_names
from hubsync.watch.unit_facts import UnitFacts

_WRITTEN_AT_ONCE = 10_000  # files; twice as many if that is all, since each writer is a program more
_BREATH_S = 0.001  # a lock goes to those that wait for it only if it is left for a moment

log = get_logger()


class Settled(Struct, frozen=True):
    """What settling brought: complete units, objects that may go up before them, the *rest* of what was to be committed."""

    units: bool = False
    early: bool = False
    rest: bool = False  # all that ``commit`` left out, since it had yet to be read


class Pipeline:
    """One target's way from files to snapshots. Every public method takes the lock.

    Who captures or commits has ``_turn`` as well, and leaves the lock as often as it can: others want to look.
    """

    def __init__(
        self, target: Target, store: Store, min_free_bytes: int, stop: threading.Event, capturer: Capturer | None = None
    ) -> None:
        self.target = target
        self.store = store
        self.lock = threading.RLock()
        self._turn = threading.RLock()  # taken before the lock
        self._log = log.bind(target=target.name)
        self._rules = target_rules(target)
        self._provenance = Provenance(target, store)
        self._files = Files(target, store, self._provenance)
        self._held = Held(self._log, self.unit_of)
        self._units = Units(target, self._rules, self._files, self._held, store.ledger, self._log)
        self._removals = Removals(target, store, self._rules, self._files, self._units, self._provenance)
        self._guard = Guard(target, store, min_free_bytes, self._log)
        capturer = capturer or make_capturer(target, store)
        capturer.min_free_bytes = min_free_bytes
        self._capturing = Capturing(capturer, self._files, store, target.quiet_s, stop, self._log)
        self._intake = Intake(target, self._files, self._held, self._capturing, self._feed, self._forget)
        self._waits = Waits(target, self._files, self._held, self._units, self._guard, self._intake)
        self._root = Root(target.source)
        self._looks = 0  # counts events and inventories
        self.newest_first = False  # what is settled is captured and committed so: there may be no time for all
        self._is_listed = False  # the whole source was, since the start
        self._left_out: set[str] = set()  # by the last commit, since it had yet to be read

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

    def being_read(self) -> tuple[BeingRead, ...]:
        """Return the large files that are being read, and how far they are."""
        return self._intake.being_read()

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
        if under and judge_names(under, is_dir=True) is not None:  # nothing below it is taken
            return True
        with self.lock:
            started = time.monotonic()
            self._looks += 1
            if (listed := self._list(under, partial(self._feed, is_changed=True))) is None:
                return False
            inventory, comparison = listed
            removed = self._files.note_compared(inventory, comparison)
            if not under:
                self._is_listed = True
                self.reading.expect(comparison.sizes)
                self._held.tell_collisions(find_collisions(inventory.alike))
            for path in removed:
                self._let_go(path)
            self._report_skipped(inventory, under)
            self._held.sum_up()
            self._units.judge_incomplete()
            self._log.debug(
                "inventory.taken", files=comparison.files, changed=len(comparison.sizes), removed=len(removed),
                skipped=len(inventory.skipped), took_s=round(time.monotonic() - started, 3),
            )  # fmt: skip
            return True

    def check_source(self) -> bool:
        """List the source only to see whether that halts the target; return False if so."""
        with self.lock:
            return self._list("", lambda _: None) is not None

    def _list(self, under: str, feed: Callable[[Entry], None]) -> tuple[Inventory, Comparison] | None:
        try:
            self._root.check()
            inventory, comparison = self._files.compare(self._rules, under, self.reading.note_directory, feed)
            self._guard.mounts.note()
            if not under:
                self._guard.check(comparison.files, comparison.gone, is_all=not inventory.unreadable)
        except SourceError as exc:
            self._guard.halt(exc)
            return None

        return inventory, comparison

    def note(self, path: str) -> None:
        """Look at *path*, of which an event said that it changed."""
        with self.lock:
            if self.halted is not None:
                return
            if judge_names(path) is not None:
                if self._rules.verdict(path).taken:
                    self._held.note_name(self.target.source, path)
                return
            if not self._rules.verdict(path).taken:
                self._units.note_not_taken(path)
                return
            try:
                entry = look(self.target.source, path)
            except SourceError as exc:
                self._guard.halt(exc)
                return
            if entry is None:
                self._forget(path)
                if (unit := self.unit_of(path)) in self._units.by_name:
                    self._units.judge(unit)
                self._units.judge_beside(path)
                return
            self._looks += 1
            self._files.note_writes(entry.identity.ctime_ns, entry.identity.mtime_ns)
            self._feed(entry, age_s=0.0)
            if not self._files.grows(path):  # a log is no signal, and changes all the time
                self._units.judge_beside(path)

    def settle(self) -> Settled:
        """Take what is settled by now, capture it where it may go early, and judge units."""
        with self._turn:
            with self.lock:
                if not self._is_there():
                    self._capturing.keep_begun(())
                    return Settled()
                self._units.touch(self._files.take_settled())
                self._intake.find_early(newest_first=self.newest_first)
                is_news = self._judge_touched()  # what is complete waits for no other file
                if self._intake.early and not self._guard.has_room():
                    self._capturing.keep_begun(())  # half a copy takes room, too
                first = [] if is_news or self._guard.is_paused else self._intake.take_early()
            with self._guard.note_failure("capture"):
                early = self._capture_early(first)
            with self.lock:
                self._guard.end_failure("capture")
                self._judge_touched()
                self._units.abandon_late()
                self._note_oldest(all_seen=not self._files.settler)
                is_rest = bool(self._left_out) and not self._left_out & self._intake.unread()
                return Settled(any(unit.completion.complete for unit in self._units.by_name.values()), early, is_rest)

    def _is_there(self) -> bool:
        """Tell whether the target may go on with its source; one that was unmounted since halts it."""
        try:
            self._root.check()
        except SourceError as exc:
            self._guard.halt(exc)

        return self.halted is None

    def _judge_touched(self) -> bool:
        """Judge the units whose files have settled and wait for no capture; tell whether one of them is complete."""
        waiting = self._waiting_units()
        self._units.await_capture(waiting)
        touched = self._units.take_touched(waiting)
        for unit in touched:
            self._units.judge(unit)

        return any(self._units.by_name[unit].completion.complete for unit in touched if unit in self._units.by_name)

    def _capture_early(self, first: list[Entry]) -> bool:
        try:
            outcomes = self._intake.capture_early(first)
        except BaseException:  # a full disk: they are tried again
            with self.lock:
                self._intake.leave_early(first)
            raise
        with self.lock:
            return self._intake.sort_early(first, outcomes)

    def _waiting_units(self) -> set[str]:
        """Return the units of which objects wait to be captured; they would be captured all at once else."""
        if self._guard.is_paused:
            return set()
        return {unit for entry in self._intake.early if (unit := self.unit_of(entry.path))}

    def next_due(self) -> float | None:
        """Return when ``settle`` has something to do if nothing changes meanwhile."""
        with self.lock:
            if self.halted is not None:
                return None
            if self.has_early():
                return time.monotonic()
            dues = (self._files.settler.next_due(), self._units.next_due())
            return min((due for due in dues if due is not None), default=None)

    def has_early(self) -> bool:
        """Tell whether there are more files that ``settle`` would capture now."""
        with self.lock:
            return bool(self._intake.early) and not self._guard.is_paused and self.halted is None

    def is_excluded_directory(self, path: str) -> bool:
        """Tell whether nothing below the directory *path* is ever taken."""
        return not self._rules.verdict(path, is_dir=True).taken

    # --- what is committed

    def commit(self, *, units_only: bool = False, confirm_deletes: bool = False) -> list[str]:
        """Commit complete units, and with them (unless *units_only*) all else that is settled; return the commits.

        Raises:
            DiskFullError: there is no room for state; all that was settled stays so.
        """
        with self._turn:
            with self.lock:
                if not self._guard.lets_commit(confirmed=confirm_deletes):
                    return []
            with self._guard.note_failure("commit"):
                try:
                    commits = self._commit(units_only=units_only, confirm_deletes=confirm_deletes)
                except SourceError as exc:  # gone or unmounted since
                    self._guard.halt(exc)
                    return []
            with self.lock:
                if commits or not units_only:
                    self._guard.end_failure("commit")
                    self._note_oldest(all_seen=True)

            return commits

    def _commit(self, *, units_only: bool, confirm_deletes: bool) -> list[str]:
        with self.lock:
            units = self._units.in_order(newest_first=self.newest_first)
        commits: list[str] = []
        for unit in units:
            with self.lock:
                commits += self._commit_unit(unit)
            time.sleep(_BREATH_S)
        if not units_only:
            with self.lock:
                for entry in self._files.grown_logs():
                    self._feed(entry)
                    self._files.settle_at_once(entry)
            commits += self._commit_settled()
            with self.lock:
                commits += self._commit_removed(confirmed=confirm_deletes)
        if commits:
            self.store.repack()

        return commits

    def release(self, published: list[str | None]) -> bool:
        """Drop pins that no mirror needs; return False if the target is busy (then it is done another time)."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            with self.lock:
                self.store.release(published)
        finally:
            self._turn.release()

        return True

    def close(self) -> None:
        """Give up what is being read, and close the store."""
        if self._turn.acquire(blocking=False):  # else something hangs
            self._capturing.keep_begun(())
            self._turn.release()
        self.store.close()

    # --- what waits

    def waiting(self) -> dict[str, float]:
        """Return the paths that are not quiet yet → seconds to go."""
        with self.lock:
            return self._files.waiting()

    def held(self) -> dict[str, str]:
        """Return what is held back and why: files, and units (with a trailing slash)."""
        with self.lock:
            return self._waits.held()

    def describe_held(self, most: int) -> list[Waiting]:
        """Return the first *most* of what is held back, and why: what needs a person, then units by step, then files."""
        with self.lock:
            return self._waits.describe_held(most)

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
            return self._waits.pending()

    def unread(self) -> dict[str, str]:
        """Return the settled files that have yet to be read → how far that is."""
        with self.lock:
            return self._waits.unread()

    def count_settled(self) -> int:
        """Return how many settled files wait for a commit."""
        with self.lock:
            return len(self._files.settled)

    def oldest_settled_s(self) -> float:
        """Return for how long the oldest settled file has waited for a commit; 0 if none does.

        What was left of a unit that is reported as abandoned is not waited for.
        """
        with self.lock:
            abandoned = self._units.abandoned()
            waiting = (path for path in self._files.settled if not abandoned or self.unit_of(path) not in abandoned)
            return max(map(self._files.waited_s, waiting), default=0.0)

    def _note_oldest(self, *, all_seen: bool) -> None:
        self._files.oldest.note(self.oldest_settled_s(), all_seen=all_seen and self._is_listed)

    def unit_of(self, path: str) -> str | None:
        """Return the unit that *path* belongs to."""
        return self._units.unit_of(path)

    def read_unit(self, unit: str, held: Mapping[str, str]) -> UnitFacts:
        """Return what is known of *unit*, also against what was published of it; *held*: paths that wait, and why."""
        return self._units.read(unit, held)

    # --- feeding

    def _feed(self, entry: Entry, age_s: float | None = None, *, is_changed: bool = False) -> None:
        """Let *entry* settle, see ``Files.feed``; its unit waits for it."""
        unit = self.unit_of(entry.path)
        if entry.path in self._files.settled and self._capturing.is_only_pinned(entry.path, entry.identity):
            return
        if self._files.feed(entry, age_s, is_changed=is_changed) and unit is not None:
            self._units.note(unit, entry, self._looks)

    def _forget(self, path: str) -> None:
        """Follow the disappearance of *path*; what cannot be seen any more is held, it may be there still."""
        if unseen := why_unseen(self.target.source, path):
            self._held.hold_unreadable(path, unseen.reason, unseen.hint)
        else:
            self._let_go(path)

    def _let_go(self, path: str) -> None:
        is_news = path not in self._files.removed
        self._files.forget(path)
        self._capturing.forget(path)
        self._held.forget(path)
        if is_news:
            self._units.note_gone(path)

    def _report_skipped(self, inventory: Inventory, under: str) -> None:
        for path, skip in inventory.skipped.items():
            if skip.kind is Kind.REJECTED:
                self._held.reject(path, skip.reason, skip.hint)
            elif skip.kind is Kind.UNREADABLE:
                self._held.hold_unreadable(path, skip.reason, skip.hint)
        listed = [path for path in self._held.reasons if not under or path.startswith(f"{under}/")]
        for path in [p for p in listed if p not in inventory.skipped and not self._files.is_pending(p)]:
            if look(self.target.source, path) is None and not inventory.hides(path):
                self._held.forget(path)

    # --- snapshots

    def _commit_unit(self, unit: str) -> list[str]:
        state = self._units.by_name.get(unit)
        if state is None or not state.completion.complete:
            return []
        started = time.monotonic()
        inventory = take_inventory(self.target.source, self._rules, unit)
        if lost := self._units.lost(unit, inventory.entries):
            for path in lost:
                self._forget(path)
            return []
        entries = [entry for entry in inventory.entries.values() if not self._files.is_unchanged(entry)]
        if fresh := [entry for entry in entries if not is_event_log(entry.path) and not self._files.is_settled(entry)]:
            for entry in fresh:  # it came or changed after the unit was judged, and no event has told
                self._feed(entry)
            return []
        try:
            captured = self._intake.capture_unit(entries)
            self._root.check()
            expect_still(self.target.source, self._rules, self.store.ledger, unit, inventory)
            self._guard.expect_mounted(replaced := self._removals.replaced(unit, inventory))
        except FileRefusedError:
            self._units.judge(unit)  # published whole or not at all
            return []
        except (FileChangedError, FileUnreadableError) as exc:
            if not (is_full := exc.error_kind == "disk_full"):  # else its files are well, and it stays complete
                self._intake.feed_again(entries)
                state.hold(str(exc))
            self._held.hold(f"{unit}/", str(exc), exc.hint or HELD_HINT, needs_attention=is_full)
            return []
        own = [entry for entry in inventory.entries.values() if not is_event_log(entry.path)]
        written_ns = max((entry.identity.mtime_ns for entry in own), default=0)
        subject = unit_subject(unit, inventory.entries.values())
        with self.store.write() as writer:
            written = write_snapshot(
                writer, captured, subject=subject, units=(unit,), written_ns=written_ns,
                describe=self._provenance.describer(unit, state.completion.layout, replaced),
            )  # fmt: skip
        commits = tell_written(written, self._log)
        del self._units.by_name[unit]  # not before: a commit that failed is tried again
        self._drop_settled({entry.path for entry in own} | {one.path for one in captured})
        self._held.forget(f"{unit}/")
        if commits:
            self._log.info(
                "unit.completed", unit=unit, files=len(inventory.entries),
                bytes=sum(entry.identity.size for entry in inventory.entries.values()),
                layout=state.completion.layout, reason=state.completion.reason, took_s=round(time.monotonic() - started, 3),
            )  # fmt: skip

        return commits

    def _commit_settled(self) -> list[str]:
        with self.lock:
            loose = {path: one.size for path, one in self._files.settled.items() if self._units.is_loose(path)}
            self._left_out = self._intake.unread() & loose.keys()
            for path in self._left_out | self._intake.unfitting():
                loose.pop(path, None)
        batches = split_batches(loose.items(), BatchLimits(self.target.batch.max_files, self.target.batch.max_bytes))
        at_once = len(loose) if len(loose) <= 2 * _WRITTEN_AT_ONCE else _WRITTEN_AT_ONCE
        written: list[Written] = []
        try:
            while some := next(batches, None):
                with self.lock:
                    written += self._commit_batches(chain([some], batches), at_once)
                time.sleep(_BREATH_S)
        finally:  # if one of the later ones fails, the earlier ones are in the store all the same
            commits = tell_written(written, self._log)

        return commits

    def _commit_batches(self, batches: Iterator[list[str]], at_once: int) -> list[Written]:
        """Commit *batches* until they are *at_once* files, for one writer holds what it wrote until it is left."""
        written: list[Written] = []
        done: list[str] = []
        with self.store.write() as writer:
            for batch in batches:
                captured = self._intake.capture_settled(batch)
                self._root.check()
                done += [c.path for c in captured]
                written += write_snapshot(writer, captured, describe=self._provenance.describe_again)
                if len(done) >= at_once:
                    break
        self._drop_settled(done)

        return written

    def _commit_removed(self, *, confirmed: bool) -> list[str]:
        """Commit the removal of paths that are gone, if deletions are propagated; those of a unit all at once."""
        if not (gone := self._removals.take()):
            return []
        if not confirmed and not self._guard.check_removal(gone):
            self._files.removed.update(gone)
            return []

        return [write_removal(self.store, gone, self._provenance, self._log)]

    def _drop_settled(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._files.unsettle(path)
            self._capturing.forget(path)
            self._held.forget(path)
        self._files.shrink()
