"""How far each file of a target is: not quiet yet, settled, refused as it is, captured early, gone.

All times are monotonic seconds unless they are named otherwise.
"""

import time
from collections.abc import Callable

from hubsync.config.model import Target
from hubsync.pipeline.comparison import Comparison
from hubsync.pipeline.oldest import Oldest
from hubsync.pipeline.provenance import Provenance
from hubsync.store.capture import has_same_content
from hubsync.store.git import TreeEntry
from hubsync.store.snapshot import Store
from hubsync.units import age_s as age_of
from hubsync.units import unit_of
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.inventory import Inventory, look, take_inventory
from hubsync.watch.logs import is_event_log, is_text_log, may_be_log
from hubsync.watch.rules import PathRules
from hubsync.watch.settle import Settler


class Files:
    """The files of one target on their way to a snapshot.

    Attributes:
        settled: files that wait for a commit, as they were when they settled.
        refused: files that are not taken as they are.
        removed: published paths that are gone from the source, since the last commit.
        early: settled files that were captured before their commit.
        first_write: when the first of the files came (seconds since the epoch).
        last_write: when the newest of them was written (seconds since the epoch).
        oldest: since when something settled waits, over restarts.
    """

    def __init__(self, target: Target, store: Store, provenance: Provenance) -> None:
        self.settled: dict[str, Identity] = {}
        self.refused: dict[str, Identity] = {}
        self.removed: set[str] = set()
        self.early: set[str] = set()
        self.first_write = self.last_write = 0.0
        self.settler = Settler(target.quiet_s)
        self._target = target
        self._ledger = store.ledger
        self._pruned = store.pruned
        self._provenance = provenance
        self._settled_at: dict[str, float] = {}
        self.oldest = Oldest(store.ledger)
        self._logs: set[str] = set()

    # --- what is known of one

    def grows(self, path: str) -> bool:
        """Tell whether *path* is a log: it may never be quiet. In a unit only event files are, which prove themselves."""
        return may_be_log(path) and (is_event_log(path) or (is_text_log(path) and unit_of(self._target, path) is None))

    def is_committed(self, path: str, mode: str, blob: str) -> bool:
        """Tell whether the newest snapshot has *path* so."""
        return self._ledger.in_tree(path) == TreeEntry(mode, blob)

    def is_unchanged(self, entry: Entry) -> bool:
        """Tell whether *entry* is what the newest snapshot has."""
        known = self._ledger.known(entry.path)
        is_known = known is not None and known.identity == entry.identity
        return known is not None and is_known and self.is_committed(entry.path, known.mode, known.blob)

    def is_settled(self, entry: Entry) -> bool:
        """Tell whether *entry* is as it was when it settled; our own pins may have moved its ctime."""
        path, identity = entry.path, entry.identity
        if identity in (self.settled.get(path), self.refused.get(path)):
            return True
        return path in self.settled and (known := self._ledger.known(path)) is not None and known.identity == identity

    def was_only_touched(self, path: str, published: TreeEntry) -> bool:
        """Tell whether the settled *path* was captured already, and is what was *published*."""
        settled, known = self.settled.get(path), self._ledger.known(path)
        if settled is None or known is None:
            return False
        return known.blob == published.blob and has_same_content(known.identity, settled)

    def is_pending(self, path: str) -> bool:
        """Tell whether *path* is settled, or refused as it is."""
        return path in self.settled or path in self.refused

    def waiting(self) -> dict[str, float]:
        """Return the paths that are not quiet yet → seconds to go."""
        return self.settler.waiting(time.monotonic())

    def changing(self) -> set[str]:
        """Return the paths that are not what the newest snapshot has, or may not be."""
        return self.settled.keys() | self.refused.keys() | self.waiting().keys()

    def waited_s(self, path: str) -> float:
        """Return for how long the settled *path* has waited for a commit."""
        return time.monotonic() - self._settled_at.get(path, time.monotonic())

    # --- what happens to them

    def note_writes(self, first_ns: int, last_ns: int) -> None:
        """Follow when the first file came (its ctime: a copy may keep an old mtime) and when the newest was written."""
        now = time.time()  # a clock that is ahead of ours is not believed
        self.first_write = min(self.first_write or now, first_ns / 1e9)
        self.last_write = max(self.last_write, min(now, last_ns / 1e9))

    def compare(
        self, rules: PathRules, under: str, on_directory: Callable[[], None], on_change: Callable[[Entry], None]
    ) -> tuple[Inventory, Comparison]:
        """List what lies below *under*, and compare it with what was captured of it; raises as ``take_inventory`` does.

        *on_change* is told of each file that is not what the newest snapshot has, while it goes on: a list of very many
        would take much room.
        """

        def tell(entry: Entry, was_captured: bool) -> None:  # noqa: FBT001 - a callback
            if not was_captured or not self.is_unchanged(entry):  # another thread may have captured it by now
                comparison.sizes.append(entry.identity.size)
                on_change(entry)

        prefix = f"{under}/" if under else ""
        missed = {*self.settled, *self.refused, *self.settler.waiting(float("-inf"))}
        if self._target.deletes == "propagate":  # what was committed and is gone since before a restart
            missed |= self._ledger.uncaptured_paths() - self._pruned.paths()
        missed = {path for path in missed if path.startswith(prefix)}
        states, uncommitted = self._ledger.states(under), self._ledger.uncommitted_paths(under)
        comparison = Comparison(states, uncommitted, self._pruned.paths(), missed, tell)
        inventory = take_inventory(self._target.source, rules, under, on_directory, comparison.look_at)
        comparison.finish()

        return inventory, comparison

    def note_compared(self, inventory: Inventory, comparison: Comparison) -> list[str]:
        """Take in what a comparison found of all files; return the paths that were known and are gone."""
        if comparison.files:
            self.note_writes(comparison.first_ns, comparison.last_ns)
        self._logs.update(filter(self.grows, comparison.logs))
        self._pruned.discard(comparison.back)

        return [path for path in comparison.gone if not inventory.hides(path) and not self._provenance.is_own(path)]

    def feed(self, entry: Entry, age_s: float | None = None, *, is_changed: bool = False) -> bool:
        """Let *entry* settle; tell whether it has to. With *is_changed* it is known not to be in the newest snapshot.

        Its age is what its times say, or *age_s*: after an event a server's slow clock may lie.
        """
        path, identity = entry.path, entry.identity
        if self.settled.get(path) == identity or self.refused.get(path) == identity:
            return False
        if not is_changed and self.is_unchanged(entry):
            return False
        self.refused.pop(path, None)
        self.removed.discard(path)
        self._pruned.discard([path])
        grows = self.grows(path)
        if grows:
            self._logs.add(path)
        if grows and path in self.settled:  # the next commit takes what is there then
            self.settled[path] = identity
            return False
        settled = self.settled.pop(path, None)
        if settled is not None and not has_same_content(identity, settled):  # our own pins move the ctime
            self._settled_at.pop(path, None)
        now = time.monotonic()
        self.settler.feed(path, identity, now, now - (age_of(identity) if age_s is None else age_s), grows=grows)

        return True

    def take_settled(self) -> list[str]:
        """Return what has settled since it was asked last."""
        now = time.monotonic()
        settled = self.settler.take_settled(now)
        for path, identity in settled:
            self._settle(path, identity, now)

        return [path for path, _ in settled]

    def grown_logs(self) -> list[Entry]:
        """Return the logs that were captured before, as they are now: no event tells of a file that stays open."""
        known = [path for path in sorted(self._logs) if self._ledger.in_tree(path) is not None]
        return [entry for path in known if (entry := look(self._target.source, path)) is not None]

    def settle_at_once(self, entry: Entry) -> None:
        """Wait no longer until *entry*, a log, is quiet."""
        if entry.path in self.settler:
            self.settler.forget(entry.path)
            self._settle(entry.path, entry.identity, time.monotonic())

    def _settle(self, path: str, identity: Identity, now: float) -> None:
        self.settled[path] = identity
        if path not in self._settled_at:
            waited_s = self.oldest.waited_s(identity.mtime_ns / 1e9, grows=self.grows(path))
            self._settled_at[path] = now - waited_s if waited_s else now  # one number for all that settle at once

    def refuse(self, path: str, identity: Identity) -> None:
        """Take *path* no more until it changes."""
        self.refused[path] = identity
        self.settled.pop(path, None)
        self._settled_at.pop(path, None)

    def unsettle(self, path: str) -> None:
        """Have *path* settle and be captured anew."""
        self.settled.pop(path, None)
        self._settled_at.pop(path, None)
        self.early.discard(path)

    def shrink(self) -> None:
        """Give back the room that settled files took: a table that was emptied one by one keeps all of it."""
        for table in (self.settled, self._settled_at, self.early):
            if not table:
                table.clear()

    def forget(self, path: str) -> None:
        """Follow the disappearance of *path*: what was captured of it and not committed is dropped as well."""
        self.settler.forget(path)
        self.unsettle(path)
        self.refused.pop(path, None)
        self._logs.discard(path)
        if self._ledger.known(path) is not None:
            self._ledger.forget_files([path])
        if self._ledger.in_tree(path) is not None and path not in self._pruned.paths():
            self.removed.add(path)
