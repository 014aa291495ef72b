"""Describes units as they enter a snapshot, for those targets that publish where each unit comes from."""

import hashlib
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from hubsync.config.model import Target
from hubsync.store.capture import Captured
from hubsync.store.git import REGULAR, TreeEntry, blob_id
from hubsync.store.ledger import Ledger
from hubsync.store.provenance import NAMES, RECORD, Described, Origin, decode_origin, encode_provenance
from hubsync.store.snapshot import SnapshotWriter, Store
from hubsync.units import unit_of

Describe = Callable[[SnapshotWriter, Sequence[Captured]], Mapping[str, TreeEntry | None]]


def is_own(target: Target, ledger: Ledger, path: str) -> bool:
    """Tell whether *path* was never in the source: it was published beside what was."""
    parent, _, name = path.rpartition("/")
    is_named = name in NAMES and unit_of(target, path) == parent

    return is_named and (target.provenance or ledger.known(path) is None)


class Provenance:
    """The descriptions of one target's units."""

    def __init__(self, target: Target, store: Store) -> None:
        self._target = target
        self._store = store

    def is_own(self, path: str) -> bool:
        """Tell whether *path* was never in the source: it was published beside what was."""
        return is_own(self._target, self._store.ledger, path)

    def describer(self, unit: str, layout: str, replaced: frozenset[str]) -> Describe:
        """Return what writes what a snapshot of captured files is to say of *unit*, and returns what that changes.

        The paths *replaced* are removed.
        """
        origin = Origin(self._target.name, unit, socket.gethostname(), layout)

        def describe(writer: SnapshotWriter, captured: Sequence[Captured]) -> dict[str, TreeEntry | None]:
            written = self._write(origin, replaced, writer, captured) if self._target.provenance else {}
            return {**dict.fromkeys(replaced), **written}  # first: a file may take the place of a directory

        return describe

    def describe_again(self, writer: SnapshotWriter, captured: Sequence[Captured]) -> dict[str, TreeEntry]:
        """Follow what changes in units that are published: their logs. Return what changes with that."""
        changed: dict[str, TreeEntry] = {}
        for unit in {unit for one in captured if (unit := unit_of(self._target, one.path))}:
            changed |= self._follow(unit, frozenset(), writer, [one for one in captured if one.path.startswith(f"{unit}/")])

        return changed

    def without(self, writer: SnapshotWriter, gone: Iterable[str]) -> dict[str, TreeEntry | None]:
        """Follow the removal of the paths *gone*; what described a unit goes with the last of it."""
        changed: dict[str, TreeEntry | None] = {}
        gone = frozenset(gone)
        for unit in {unit for path in gone if (unit := unit_of(self._target, path))}:
            left = self._store.ledger.tree_below(unit).keys() - gone
            own = {path for path in left if self.is_own(path)}
            if left == own:
                changed |= dict.fromkeys(own)
            else:
                changed |= self._follow(unit, gone, writer, ())

        return changed

    def _follow(
        self, unit: str, gone: frozenset[str], writer: SnapshotWriter, captured: Sequence[Captured]
    ) -> Mapping[str, TreeEntry]:
        record = self._store.ledger.in_tree(f"{unit}/{RECORD}")
        if not self._target.provenance or record is None:
            return {}
        [(_, content)] = self._store.git.read_blobs([record.blob])
        return self._write(decode_origin(content, self._target.name, unit), gone, writer, captured)

    def _write(
        self, origin: Origin, gone: frozenset[str], writer: SnapshotWriter, captured: Sequence[Captured]
    ) -> Mapping[str, TreeEntry]:
        inside = len(origin.unit) + 1
        new = {one.path: _describe(one) for one in captured}
        before = self._store.ledger.tree_below(origin.unit)
        kept = {path: entry for path, entry in before.items() if path not in new and path not in gone}
        files = self._describe_committed({path: entry for path, entry in kept.items() if not self.is_own(path)}) | new
        written = encode_provenance(origin, {path[inside:]: file for path, file in sorted(files.items())})
        entries = {}
        for name, content in written.items():
            path = str(PurePosixPath(origin.unit) / name)
            entry = TreeEntry(REGULAR, blob_id(content))
            if before.get(path) != entry:
                writer.add_blob(content)
                entries[path] = entry

        return entries

    def _describe_committed(self, entries: Mapping[str, TreeEntry]) -> dict[str, Described]:
        """Describe what the newest snapshot has."""
        blobs = {entry.blob for entry in entries.values()}
        pointers = self._store.pointers(blobs)
        contents = {
            blob: (hashlib.sha256(content).hexdigest(), len(content))
            for blob, content in self._store.git.read_blobs(blobs - pointers.keys())
        }
        described = {}
        for path, entry in entries.items():
            known = self._store.ledger.known(path)
            mtime_ns = known.identity.mtime_ns if known is not None and known.blob == entry.blob else None
            pointer = pointers.get(entry.blob)
            sha256, size = (pointer.oid, pointer.size) if pointer else contents[entry.blob]
            described[path] = Described(sha256, size, mtime_ns)

        return described


def _describe(captured: Captured) -> Described:
    pointer = captured.pointer
    sha256 = pointer.oid if pointer else hashlib.sha256(captured.content).hexdigest()
    return Described(sha256, pointer.size if pointer else len(captured.content), captured.identity.mtime_ns)
