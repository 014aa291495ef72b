"""Says what a publication did: its events, and the value that stands for it."""

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True)
class Published:
    """What one publication did; ``commit`` is the head of the mirror's main branch now."""

    commit: str | None
    snapshots: tuple[Snapshot, ...]
    files: int
    bytes: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Announcer:
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
        snapshots = self._with_news(steps, set(blobs), skipped)
        head = self.remote.public_id(grafted[self._mirror.branch].commit)
        done = Published(head, snapshots, len(blobs), self._measure_blobs(blobs), round(took_s, 3))
        revisions = {line.unit: line.branch for line in lines if line.unit}
        units = [(unit, snapshot) for snapshot in snapshots for unit in snapshot.units if unit not in skipped]
        for branch, each in grafted.items():
            self._tell_foreign(branch, each)
        if any(step.changes for step in steps):  # else it was nothing of this mirror's
            log.info("mirror.published", repo=self._mirror.repo_id, commit=done.commit, files=done.files, bytes=done.bytes,
                     units=[unit for unit, _ in units], pull_request=pull_request, took_s=done.took_s)  # fmt: skip
        written_at = self.place.store.unit_times(snapshots[-1].commit) if units else {}
        for unit, snapshot in units:
            revision = revisions.get(unit)
            log.info("unit.published", unit=unit, repo=self._mirror.repo_id, revision=revision,
                     commit=self.remote.public_id(grafted[revision].commit) if revision else done.commit,
                     lag_s=round(max(0.0, now - written_at.get(unit, snapshot.written_at)), 3))  # fmt: skip
        for unit in skipped:
            log.info("unit.skipped", unit=unit, repo=self._mirror.repo_id,
                     reason=f"keep_latest = {self._mirror.keep_latest}")  # fmt: skip

        return done

    def _with_news(self, steps: Sequence[Step], blobs: Container[str], skipped: Sequence[str]) -> tuple[Snapshot, ...]:
        """Return the snapshots of *steps* without the units that the mirror has had, and of which no blob was written now.

        All is compared after what is known of a mirror was lost, or its rules have changed.
        """
        written = (change.path for step in steps for change in step.changes if change.after and change.after.blob in blobs)
        quiet = {unit for step in steps for unit in step.snapshot.units} - {*skipped}
        quiet -= {unit_of(self.place.target, path) for path in written}
        told = self.place.store.ledger.units_published(self._mirror.name) if quiet else {}

        def is_news(unit: str, snapshot: Snapshot) -> bool:
            return unit not in quiet or told.get(unit, 0.0) < snapshot.committed_at

        return tuple(
            replace(one, units=tuple(unit for unit in one.units if is_news(unit, one)))
            for one in (step.snapshot for step in steps)
        )

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
