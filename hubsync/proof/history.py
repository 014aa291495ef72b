"""Tells what was published to each mirror of a target: from the ledger, and where that says nothing, from our commits.

The commits are those of the mirror's repository here, so no mirror is asked. What only the ledger knows (how long it took,
what triggered it) is left open for the rest.
"""

from msgspec import Struct

from hubsync.config.model import Mirror, Target
from hubsync.mirror.record import LEFT
from hubsync.proof.stores import ReadStore
from hubsync.store.git import Git
from hubsync.store.proof_rows import Publication
from hubsync.store.snapshot import AUTHOR, Snapshot, read_snapshot


class _Commits(Struct, frozen=True):
    """Our commits in the repository of one mirror."""

    git: Git
    store: ReadStore

    def read(self, mirror: Mirror, first: Publication | None) -> list[Publication]:
        """Return those before the *first* publication that the ledger knows, as publications; all if it knows none."""
        if not self.git.git_dir.exists():
            return []
        if first is None:
            tips = list(self.git.list_refs(LEFT.rstrip("/")))
        else:
            tips = [first.since] if first.since and self.git.resolve(first.since) else []
        named = ("--first-parent", "--reverse", f"--author=^{AUTHOR.partition(' ')[0]} <", "-z")
        raw = self.git.text("log", *named, "--format=%H %at %ct %B", *tips) if tips else ""
        ours = [read_snapshot(record) for record in raw.split("\0") if record]

        return [self._describe(mirror, one) for one in ours]

    def _describe(self, mirror: Mirror, one: Snapshot) -> Publication:
        [changes] = self.git.diff_line([one.commit])
        blobs = [change.after.blob for change in changes if change.after]
        pointers = self.store.pointers(set(blobs))
        sizes = self.git.sizes({blob for blob in blobs if blob not in pointers})
        size = sum(pointers[blob].size if blob in pointers else sizes.get(blob, 0) for blob in blobs)

        return Publication(mirror.name, one.committed_at, one.commit, one.units, len(blobs), size)


def read_history(target: Target, store: ReadStore) -> list[Publication]:
    """Return what was published to the mirrors of *target*, oldest first."""
    noted = store.ledger.publications()
    first = {each.mirror: each for each in reversed(noted)}
    rest = [
        publication
        for mirror in target.mirrors
        for publication in _Commits(Git(store.mirror_directory(mirror.name)), store).read(mirror, first.get(mirror.name))
    ]

    return sorted([*noted, *rest], key=lambda each: (each.at, each.mirror))
