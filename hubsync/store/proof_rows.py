"""Reads and writes the rows of a ledger that tell what mirrors were sent, were proved to hold, and what was published.

It must never know how a ledger is opened: that is ``ledger``'s.
"""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from msgspec import Struct

from hubsync.store.pointer import Pointer

# Added later: a ledger of the same version that lacks a table is given it.
PROOF_TABLES = """
CREATE TABLE IF NOT EXISTS receipts (
  mirror TEXT, path TEXT, branch TEXT, place TEXT, size INTEGER, oid TEXT, blob TEXT, commit_id TEXT, proven_at REAL,
  PRIMARY KEY (mirror, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (mirror TEXT, oid TEXT, size INTEGER, PRIMARY KEY (mirror, oid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS damaged (mirror TEXT, oid TEXT, PRIMARY KEY (mirror, oid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS publications (
  mirror TEXT, at REAL, commit_id TEXT, units TEXT, files INTEGER, bytes INTEGER, took_s REAL, trigger TEXT, since TEXT,
  PRIMARY KEY (mirror, commit_id)) WITHOUT ROWID;
"""

LAST = "\U0010ffff"  # after every path


class Receipt(Struct, frozen=True):
    """That a mirror held, at its *commit*, the content of *path* (of the source) at *place* of *branch*.

    *size* is in bytes, *oid* and *blob* are the names that LFS and git give to the content, so far as they are known;
    *proven_at* is in seconds since the epoch.
    """

    path: str
    branch: str
    place: str
    size: int
    oid: str | None
    blob: str | None
    commit: str
    proven_at: float


class Publication(Struct, frozen=True):
    """What was published to a mirror, at which time (seconds since the epoch), and what triggered it.

    *since* is the mirror's head before.
    """

    mirror: str
    at: float
    commit: str
    units: tuple[str, ...] = ()
    files: int = 0
    bytes: int = 0
    took_s: float | None = None
    trigger: str = ""
    since: str | None = None


class ProofRows(ABC):
    """Uploads, receipts and publications, as a ledger has them."""

    def record_uploads(self, mirror: str, oids: Iterable[str]) -> None:
        """Remember that *mirror* has the objects *oids*."""
        with self.transaction():
            rows = [(mirror, oid) for oid in oids]
            self._many("INSERT OR IGNORE INTO uploads VALUES (?,?)", rows)
            self._many("DELETE FROM lost WHERE mirror = ? AND oid = ?", rows)

    def uploaded(self, mirror: str, oids: Iterable[str]) -> set[str]:
        """Return those of *oids* that *mirror* is known to have."""
        query = "SELECT oid FROM uploads WHERE mirror = ? AND oid = ?"
        return {oid for oid in oids if self._one(query, mirror, oid)}

    def forget_uploads(self, mirror: str, oids: Iterable[str] | None = None) -> None:
        """Forget which of *oids* *mirror* has; by default of all (its repository was made anew)."""
        if oids is None:
            self._do("DELETE FROM uploads WHERE mirror = ?", mirror)
        else:
            self._many("DELETE FROM uploads WHERE mirror = ? AND oid = ?", ((mirror, oid) for oid in oids))

    def record_lost(self, mirror: str, oids: Iterable[str]) -> None:
        """Remember that *mirror* has lost those of *oids* that are ours; what was proved of any of them counts no more."""
        if not (oids := list(oids)):
            return
        given = json.dumps(oids)
        these = "oid IN (SELECT value FROM json_each(?))"
        with self.transaction():
            self._do(f"INSERT OR REPLACE INTO lost SELECT ?, oid, size FROM pointers WHERE {these}", mirror, given)  # noqa: S608
            for table in ("uploads", "receipts"):
                self._do(f"DELETE FROM {table} WHERE mirror = ? AND {these}", mirror, given)  # noqa: S608 - constants
            self.note_proved(mirror, "")

    def lost_objects(self, mirror: str) -> dict[str, Pointer]:
        """Return the objects that *mirror* has lost and was not sent again, by oid."""
        rows = self._all("SELECT oid, size FROM lost WHERE mirror = ?", mirror)
        return {row[0]: Pointer(*row) for row in rows}

    def all_lost(self) -> set[str]:
        """Return the objects that any mirror has lost and was not sent again."""
        return {row[0] for row in self._all("SELECT oid FROM lost")}

    def keep_mirrors(self, mirrors: Iterable[str]) -> None:
        """Forget what others than *mirrors*, which are all there are, have lost."""
        self._do("DELETE FROM lost WHERE mirror NOT IN (SELECT value FROM json_each(?))", json.dumps(list(mirrors)))

    def receipts(self, mirror: str, after: str = "", until: str | None = None) -> dict[str, Receipt]:
        """Return what *mirror* was proved to hold, by path of the source: of those *after* one *until* another one."""
        return {receipt.path: receipt for receipt in self.each_receipt(mirror, after, until)}

    def each_receipt(self, mirror: str, after: str = "", until: str | None = None) -> Iterator[Receipt]:
        """Yield what *mirror* was proved to hold, without holding it all."""
        query = (
            "SELECT path, branch, place, size, oid, blob, commit_id, proven_at FROM receipts "
            "WHERE mirror = ? AND path <= ? AND path > ?"
        )
        rows = self._each(query, mirror, LAST if until is None else until, after=after)
        for path, branch, place, size, oid, blob, commit, at in rows:
            same = path if place == path else place  # of 100,000 receipts, equal strings are one
            yield Receipt(path, sys.intern(branch), same, size, oid, blob, sys.intern(commit), at)

    def receipt(self, mirror: str, path: str) -> Receipt | None:
        """Return what *mirror* was proved to hold of *path*."""
        query = (
            "SELECT path, branch, place, size, oid, blob, commit_id, proven_at FROM receipts WHERE mirror = ? AND path = ?"
        )
        row = self._one(query, mirror, path)
        return Receipt(*row) if row else None

    def record_receipts(self, mirror: str, receipts: Iterable[Receipt]) -> None:
        """Remember what *mirror* was proved to hold."""
        self._many(
            "INSERT OR REPLACE INTO receipts VALUES (?,?,?,?,?,?,?,?,?)",
            ((mirror, r.path, r.branch, r.place, r.size, r.oid, r.blob, r.commit, r.proven_at) for r in receipts),
        )

    def forget_receipts(self, mirror: str, paths: Iterable[str]) -> None:
        """Forget receipts that are stale."""
        if stale := [(mirror, path) for path in paths]:
            self._many("DELETE FROM receipts WHERE mirror = ? AND path = ?", stale)
            self.note_proved(mirror, "")

    def count_receipts(self, mirror: str) -> int:
        """Return how many receipts there are of *mirror*."""
        return int(self._one("SELECT count(*) FROM receipts WHERE mirror = ?", mirror)[0])

    def proved(self, mirror: str) -> str:
        """Return the state that *mirror* was in when there was a receipt for all that it should hold; else nothing."""
        row = self._one("SELECT value FROM meta WHERE name = ?", f"proved {mirror}")
        return row[0] if row else ""

    def note_proved(self, mirror: str, state: str) -> None:
        """Remember that there is a receipt for all that *mirror* should hold in this *state*."""
        self._do("INSERT OR REPLACE INTO meta VALUES (?,?)", f"proved {mirror}", state)

    def damaged(self, mirror: str) -> set[str]:
        """Return the objects (oids) that *mirror* gave other bytes for when they were last read whole."""
        return {row[0] for row in self._all("SELECT oid FROM damaged WHERE mirror = ?", mirror)}

    def record_read(self, mirror: str, read: Iterable[str], damaged: Iterable[str]) -> None:
        """Remember what reading objects of *mirror* whole showed; *damaged* are among those *read*."""
        self._many("DELETE FROM damaged WHERE mirror = ? AND oid = ?", ((mirror, oid) for oid in read))
        self._many("INSERT OR REPLACE INTO damaged VALUES (?,?)", ((mirror, oid) for oid in damaged))

    def record_publication(self, made: Publication) -> None:
        """Remember a publication; one that brought nothing to a commit that is known takes nothing from it."""
        columns = "INTO publications VALUES (?,?,?,?,?,?,?,?,?)"
        self._do(
            f"INSERT OR REPLACE {columns}" if made.units or made.files else f"INSERT OR IGNORE {columns}",
            made.mirror, made.at, made.commit, json.dumps(made.units), made.files, made.bytes, made.took_s, made.trigger,
            made.since,
        )  # fmt: skip

    def publications(self) -> list[Publication]:
        """Return all publications that are remembered, oldest first."""
        columns = "mirror, at, commit_id, units, files, bytes, took_s, trigger, since"
        rows = self._all(f"SELECT {columns} FROM publications ORDER BY at")  # noqa: S608 - a constant
        return [Publication(row[0], row[1], row[2], tuple(json.loads(row[3])), *row[4:]) for row in rows]

    def has_published(self, mirror: str) -> bool:
        """Tell whether a publication to *mirror* is remembered."""
        return self._one("SELECT 1 FROM publications WHERE mirror = ?", mirror) is not None

    def units_published(self, mirror: str) -> dict[str, float]:
        """Return the units that were published to *mirror* → when that was last, in seconds since the epoch."""
        rows = self._all("SELECT units, at FROM publications WHERE mirror = ? ORDER BY at", mirror)
        return {unit: at for units, at in rows for unit in json.loads(units)}

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """Keep all that is written meanwhile, or nothing."""

    @abstractmethod
    def _one(self, query: str, *values: object) -> Any:  # noqa: ANN401 - a row
        """Return the first row of an answer."""

    @abstractmethod
    def _all(self, query: str, *values: object) -> list[Any]:
        """Return all rows of an answer."""

    @abstractmethod
    def _each(self, query: str, *values: object, after: str) -> Iterator[Any]:
        """Yield rows by path, some at a time."""

    @abstractmethod
    def _do(self, query: str, *values: object) -> None:
        """Change rows."""

    @abstractmethod
    def _many(self, query: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Change many rows."""
