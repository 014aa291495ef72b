"""Remembers which versions of files are nowhere any more: changed in place before they were sent, and deleted since.

They stay in the history of snapshots, and no mirror is owed them. What is remembered is a cache in the ledger: what it
forgets is found, and said, again.
"""

import json
from typing import NamedTuple

from hubsync.config.model import Target
from hubsync.store.snapshot import Store
from hubsync.units import unit_of

_KEY = "lost"
SPOILED_HINT = (
    "its next version is published; in a unit, when that is saved again (if not, `hubsync explain` says what to touch)"
)


class LostVersion(NamedTuple):
    """The blob of a file whose content is lost, and when its unit had been written by then (seconds since the epoch)."""

    blob: str
    written_at: int | None


class Lost:
    """The versions of a target's files that are lost; they are so for all of its mirrors."""

    def __init__(self, target: Target, store: Store) -> None:
        self._target = target
        self._store = store

    def current(self) -> dict[str, tuple[str, bool]]:
        """Return those files that the newest snapshot has as they were lost: path → (blob, *alone*).

        *alone*: its unit was saved again without it, and so can be published.
        """
        versions = self._current().items()
        return {path: (lost.blob, lost.written_at != self._unit_written_at(path)) for path, lost in versions}

    def add(self, path: str, blob: str) -> bool:
        """Note that *blob*, which the newest snapshot has at *path*, is lost; tell whether that is news."""
        with self._store.ledger.transaction():  # several mirrors may find something
            known = self._current()
            if path in known:
                return False
            known[path] = LostVersion(blob, self._unit_written_at(path))
            self._store.ledger.set_meta(_KEY, json.dumps(known))

        return True

    def forget_found(self) -> None:
        """Forget what came back: when the mirrors have it, it is here no more, and must not be taken for lost again."""
        with self._store.ledger.transaction():
            known = self._current()
            if known.keys() != self._noted().keys():
                self._store.ledger.set_meta(_KEY, json.dumps(known))

    def find_spoiled(self, path: str, mirror: str) -> str | None:
        """Return which file, of what is published with *path*, was changed before *mirror* had it; ``None`` if none was."""
        ledger, unit = self._store.ledger, unit_of(self._target, path)
        paths = [path] if unit is None else ledger.tree_below(unit)
        blobs = {name: entry.blob for name in paths if (entry := ledger.in_tree(name)) is not None}
        pointers = self._store.pointers(blobs.values())
        oids = {name: pointers[blob].oid for name, blob in blobs.items() if blob in pointers}
        gone = {oid for oid in oids.values() if not (self._store.objects.has(oid) or ledger.paths_of(oid))}
        gone -= ledger.uploaded(mirror, gone) | ledger.lost_objects(mirror).keys()
        return min((name for name, oid in oids.items() if oid in gone), default=None)

    def _noted(self) -> dict[str, LostVersion]:
        noted = json.loads(self._store.ledger.meta(_KEY) or "{}")
        return {path: LostVersion(*fields) for path, fields in noted.items()}

    def _current(self) -> dict[str, LostVersion]:
        in_tree = self._store.ledger.in_tree
        return {
            path: version
            for path, version in self._noted().items()
            if (entry := in_tree(path)) is not None and entry.blob == version.blob and not self._is_here(version.blob)
        }

    def _is_here(self, blob: str) -> bool:
        """Tell whether the content came back: the same file was saved again."""
        return any(self._store.objects.has(pointer.oid) for pointer in self._store.pointers([blob]).values())

    def _unit_written_at(self, path: str) -> int | None:
        unit = unit_of(self._target, path)
        return None if unit is None else self._store.unit_times(self._store.head()).get(unit)
