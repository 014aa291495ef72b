"""Drops the units from a mirror that its ``retention.remote`` does not keep: in an ordinary commit, or with their branch.

What was decided is noted before it is done, so that a killed hubsync ends it, and nothing of it is published again.
"""

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from hubsync.config.model import KeepRules
from hubsync.mirror.ahead import Ahead
from hubsync.mirror.api_remote import ApiRemote
from hubsync.mirror.dropped import Drop, Dropped
from hubsync.mirror.graft import with_prefix
from hubsync.mirror.place import Place
from hubsync.mirror.pusher import Pusher
from hubsync.mirror.record import Record
from hubsync.mirror.remote import Remote
from hubsync.mirror.selection import rank_best
from hubsync.mirror.view import Line, Step, View, diff, revision_of
from hubsync.monitor.logger import get_logger
from hubsync.retention import UnitFact, Verdict, decide, describe, has_keep_rule
from hubsync.store.git import TreeEntry
from hubsync.store.pointer import Pointer
from hubsync.units import unit_of

log = get_logger()


class Retainer:
    """Keeps one mirror to the units that its rules keep."""

    def __init__(self, place: Place, view: View, record: Record, remote: Remote | ApiRemote, pusher: Pusher) -> None:
        self._place = place
        self._view = view
        self._record = record
        self._remote = remote
        self._pusher = pusher
        self.dropped = Dropped(place.store, place.mirror.name)

    def choose(self) -> dict[str, str]:
        """Return the units that are to go (→ why) from what the mirror shows now."""
        rules = self._place.mirror.retention.remote
        published = self._record.published
        if rules is None or published is None:
            return {}
        units = self._shown(published)
        gone = [one for one in self._decide(rules, published, units) if not one.kept]
        if not gone:
            return {}
        waiting = self._waits_for_prune(published, units) | self._on_main(published)

        return {one.unit: one.reason for one in gone if one.unit not in waiting}

    def unit_files(self, unit: str) -> dict[str, tuple[str, Pointer | None]]:
        """Return what the newest snapshot has of *unit*, dropped or not: path → (blob, the pointer that it is)."""
        store = self._place.store
        listed = store.ledger.tree_below(unit)
        pointers = store.pointers({entry.blob for entry in listed.values()})
        return {path: (e.blob, pointers.get(e.blob)) for path, e in listed.items() if self._view.shows(path)}

    def needed_objects(self) -> set[str]:
        """Return the objects that the mirror shows, or that are on their way to it."""
        store = self._place.store
        head = store.head()
        blobs = {entry.blob for entry in self._view.files(head).values()} if head else set()
        return {pointer.oid for pointer in store.pointers(blobs).values()} | set(store.ledger.uncommitted_objects())

    def drop(self, chosen: Mapping[str, str]) -> int:
        """Let the units *chosen* go, and those that were chosen before; return how many commits that made.

        Raises:
            MirrorError: a step failed; it is done the next time.
        """
        published = self._record.published
        if published is None:
            return 0
        if chosen:
            times = self._place.store.unit_times(published)
            self.dropped.add({unit: Drop(times[unit], objects=self._objects(published, unit)) for unit in chosen})
        going = self.dropped.pending
        if not going:
            return 0
        if self._place.target.publish == "revisions":
            made, gone = 0, {unit: drop for unit, drop in going.items() if self._delete_branch(unit)}
        else:
            made, gone = self._commit(published, going), going
        self.dropped.note_gone(gone)
        self._view.dropped = self.dropped.written_at
        rules = self._place.mirror.retention.remote
        for unit in gone:
            log.info("unit.dropped", unit=unit, repo=self._place.mirror.repo_id,
                     reason=chosen.get(unit) or f"no rule keeps it: {describe(rules) if rules else ''}")  # fmt: skip

        return made

    # --- what goes

    def _shown(self, published: str) -> dict[str, UnitFact]:
        files = {unit_of(self._place.target, path) for path in self._view.files(published)} - self._view.frozen()
        times = self._place.store.unit_times(published)
        return {unit: UnitFact(written_at) for unit, written_at in times.items() if unit in files}

    def _decide(self, rules: KeepRules, published: str, units: Mapping[str, UnitFact]) -> list[Verdict]:
        best_first: list[str] = []
        if rules.keep_best:
            times = {unit: (fact.written_at, number) for number, (unit, fact) in enumerate(units.items())}
            states = self._view.states(published, Ahead(), units)
            best_first = rank_best(states, times, self._place.target.best)

        return decide(units, best_first, rules)

    def _waits_for_prune(self, published: str, units: Mapping[str, UnitFact]) -> set[str]:
        """Return those that are to go here as well, and have not gone: that takes this mirror's proof."""
        target = self._place.target
        rules = target.retention.local
        if rules is None or not has_keep_rule(rules):
            return set()
        here = {unit: fact for unit, fact in units.items() if (target.source / unit).is_dir()}
        return {one.unit for one in self._decide(rules, published, here) if not one.kept}

    def _on_main(self, published: str) -> set[str]:
        """Return the unit that the main branch shows at its root."""
        if self._place.target.publish != "revisions":
            return set()
        chosen = self._view.chosen(published)
        return {chosen} if chosen else set()

    def _objects(self, published: str, unit: str) -> dict[str, int]:
        store = self._place.store
        blobs = [entry.blob for path, entry in store.git.list_tree(published).items() if path.startswith(f"{unit}/")]
        return {pointer.oid: pointer.size for pointer in store.pointers(set(blobs)).values()}

    # --- how it goes

    def _commit(self, published: str, units: Collection[str]) -> int:
        """Remove the paths of *units* from the main branch, in one commit on whatever is there."""
        [snapshot] = self._place.store.read_snapshots([published])
        self._view.dropped = self.dropped.written_at
        after = self._main(published, units)
        self._view.dropped = {unit: at for unit, at in self.dropped.written_at.items() if unit not in units}
        before = self._main(published, units)
        self._view.dropped = self.dropped.written_at
        names = ", ".join(sorted(units))
        header = replace(snapshot, units=(), message=f"Remove {names}: retention.remote does not keep it\n")
        step = Step(header, tuple(diff(before, after)))
        line = Line(self._place.mirror.branch, None, (step,), lambda commit: before if commit is None else after)
        grafted = self._pusher.push([line], is_new_view=False)
        self._record.note_published({name: each.commit for name, each in grafted.items()}, published, Ahead())
        self._pusher.note_published(grafted)

        return sum(each.commits for each in grafted.values())

    def _main(self, commit: str, going: Collection[str]) -> dict[str, TreeEntry]:
        """Return what the main branch shows, of what is left out by now only that of the units that are *going*."""
        prefix, target, left_out = self._place.mirror.path_in_repo, self._place.target, self._view.left_out
        files = self._view.files(commit).items()
        return {with_prefix(prefix, p): e for p, e in files if unit_of(target, p) in going or not left_out.has(p)}

    def _delete_branch(self, unit: str) -> bool:
        """Delete the branch of *unit*, unless somebody else has committed to it; tell whether it is gone."""
        branch = revision_of(unit, self._place.mirror.branch)
        head = self._remote.read_heads([branch])[branch]
        if head is None:
            return True
        if head != self._record.left(branch):
            log.warning("mirror.foreign_edit", repo=self._place.mirror.repo_id, paths=[], files=0, commit=head,
                        policy="theirs", branch=branch)  # fmt: skip
            return True
        self._remote.delete_branch(branch, head)
        self._record.forget_branch(branch)

        return True
