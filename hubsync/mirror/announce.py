"""Says what a publication did: its events, and the value that stands for it."""

import os
import time
from collections.abc import Container, Mapping, Sequence
from collections.abc import Set as AbstractSet

from msgspec import Struct
from msgspec.structs import replace

from hubsync.config.model import Mirror
from hubsync.mirror.api_remote import ApiRemote
from hubsync.mirror.branch import Grafted
from hubsync.mirror.place import Place
from hubsync.mirror.remote import Remote
from hubsync.mirror.view import Line, Step, View
from hubsync.monitor.logger import get_logger
from hubsync.store.snapshot import Snapshot
from hubsync.units import unit_of

_AT_ONCE = 10_000  # blobs that are measured

log = get_logger()


class Published(Struct, frozen=True):
    """What one publication did; ``commit`` is the head of the mirror's main branch now."""

    commit: str | None
    snapshots: tuple[Snapshot, ...]
    files: int
    bytes: int
    took_s: float


class Announcer(Struct, frozen=True):
    """Says what was done on one mirror."""

    place: Place
    view: View
    remote: Remote | ApiRemote

    @property
    def _mirror(self) -> Mirror:
        return self.place.mirror

    def tell(
        self, steps: Sequence[Step], lines: Sequence[Line], grafted: Mapping[str, Grafted], took_s: float
    ) -> Published:
        """Say that *steps* are on the mirror now, on each branch as *grafted*."""
        pull_request = next(iter(self.remote.refs.values()), None)
        now = time.time()
        blobs = self._written(grafted)
        skipped = self.view.skipped_units(steps)
        snapshots = self._with_news(steps, lines, grafted, skipped)
        head = self.remote.public_id(grafted[self._mirror.branch].commit)
        done = Published(head, snapshots, len(blobs), self._measure_blobs(blobs), round(took_s, 3))
        revisions = {line.unit: line.branch for line in lines if line.unit}
        # Saved several times, a unit is told once: as it was saved last.
        units = {unit: snapshot for snapshot in snapshots for unit in snapshot.units if unit not in skipped}
        for branch, each in grafted.items():
            self._tell_foreign(branch, each)
        if any(step.changes for step in steps):  # else it was nothing of this mirror's
            log.info("mirror.published", repo=self._mirror.repo_id, commit=done.commit, files=done.files, bytes=done.bytes,
                     units=[*units], pull_request=pull_request, took_s=done.took_s)  # fmt: skip
        written_at = self.place.store.unit_times(snapshots[-1].commit) if units else {}
        for unit, snapshot in units.items():
            revision = revisions.get(unit)
            log.info("unit.published", unit=unit, repo=self._mirror.repo_id, revision=revision,
                     commit=self.remote.public_id(grafted[revision].commit) if revision else done.commit,
                     lag_s=round(max(0.0, now - written_at.get(unit, snapshot.written_at)), 3))  # fmt: skip
        for unit in skipped:
            log.info("unit.skipped", unit=unit, repo=self._mirror.repo_id,
                     reason=f"keep_latest = {self._mirror.keep_latest}")  # fmt: skip

        return done

    def _with_news(
        self, steps: Sequence[Step], lines: Sequence[Line], grafted: Mapping[str, Grafted], skipped: Container[str]
    ) -> tuple[Snapshot, ...]:
        """Return the snapshots of *steps* without the units that were told before and not written now, or are gone.

        All is compared after what is known of a mirror was lost, or its rules have changed.
        """
        units = {unit for step in steps for unit in step.snapshot.units if unit not in skipped}
        news = self._units_written(units, lines, grafted)
        removed = {unit_of(self.place.target, change.path) for step in steps for change in step.changes if not change.after}
        doubtful = news & removed
        if quiet := units - news:
            store = self.place.store
            told = store.ledger.units_published(self._mirror.name)
            completed = store.completed(steps[-1].snapshot.commit)
            untold = {unit for one in completed for unit in one.units if told.get(unit, 0.0) < one.committed_at}
            doubtful |= quiet & untold
        news = (news - doubtful) | self._units_there(doubtful, grafted)

        return tuple(
            replace(one, units=tuple(unit for unit in one.units if unit in news or unit in skipped))
            for one in (step.snapshot for step in steps)
        )

    def _units_written(self, units: AbstractSet[str], lines: Sequence[Line], grafted: Mapping[str, Grafted]) -> set[str]:
        """Return those of *units* of which a file was written now."""
        if self.place.target.publish == "revisions":
            return {line.unit for line in lines if line.unit is not None and grafted[line.branch].blobs}
        directories = grafted[self._mirror.branch].directories
        return {unit for unit in units if self.view.place(unit) in directories}

    def _units_there(self, units: AbstractSet[str], grafted: Mapping[str, Grafted]) -> AbstractSet[str]:
        """Return those of *units* that the mirror shows."""
        head = grafted[self._mirror.branch].commit
        if not units or head is None or self.place.target.publish == "revisions":  # which stay
            return units
        places = {self.view.place(unit): unit for unit in units}
        listed = self.place.git.run("ls-tree", "-d", "-z", "--name-only", head, "--", *places).stdout
        return {places[place] for place in os.fsdecode(listed).split("\0") if place in places}

    def tell_halted(self, paths: Sequence[str]) -> None:
        """Say that others changed *paths*, which the policy says to halt for."""
        log.warning("mirror.foreign_edit", repo=self._mirror.repo_id, paths=paths, files=len(paths), policy="halt")

    def _tell_foreign(self, branch: str, grafted: Grafted) -> None:
        for policy in sorted({edit.policy for edit in grafted.foreign}):
            paths = [edit.path for edit in grafted.foreign if edit.policy == policy]
            log.warning("mirror.foreign_edit", repo=self._mirror.repo_id, paths=paths, files=len(paths),
                        commit=self.remote.public_id(grafted.commit), policy=policy, branch=branch)  # fmt: skip

    def _written(self, grafted: Mapping[str, Grafted]) -> list[str]:
        """Return the blobs that were written; those of a unit are not counted again on the main branch."""
        of_units = [blob for name, each in grafted.items() if name != self._mirror.branch for blob in each.blobs]
        known = set(of_units)
        return of_units + [blob for blob in grafted[self._mirror.branch].blobs if blob not in known]

    def _measure_blobs(self, blobs: Sequence[str]) -> int:
        """Return the bytes that *blobs* stand for: those of the object behind a pointer, else their own."""
        total = 0
        for start in range(0, len(blobs), _AT_ONCE):
            some = blobs[start : start + _AT_ONCE]
            sizes = self.place.store.measure(set(some), self.place.git)
            total += sum(sizes.get(blob, 0) for blob in some)

        return total


def sum_up(done: Sequence[Published]) -> Published | None:
    """Return several publications as one; ``None`` if there was none."""
    if not done:
        return None
    snapshots = tuple(snapshot for each in done for snapshot in each.snapshots)
    return Published(
        done[-1].commit, snapshots, sum(each.files for each in done), sum(each.bytes for each in done),
        round(sum(each.took_s for each in done), 3),
    )  # fmt: skip
