"""Owns the ledger: a SQLite cache of facts that saves work. Deleted, it is rebuilt from the source and the store.

It must never be the only place where something is known: the queue is git's, the bytes are the pins'.
"""

import contextlib
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import Struct

from hubsync.errors import FULL_HINT, DiskFullError, StateError
from hubsync.store.capture import Captured
from hubsync.store.git import TreeEntry
from hubsync.store.objects import PinKind
from hubsync.store.pointer import Pointer
from hubsync.store.proof_rows import LAST, PROOF_TABLES, ProofRows
from hubsync.store.trouble import DAMAGE_HINT
from hubsync.watch.entry import Identity

_ROWS_AT_ONCE = 4096
_FETCHED_AT_ONCE = 256
_CACHE_KIB = 512  # of its pages in the process: the file only grows, and the system keeps what is used of it
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
-- what a file's content was when it had this identity
CREATE TABLE files (
  path TEXT PRIMARY KEY, dev INTEGER, ino INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
  mode TEXT, blob TEXT, oid TEXT) WITHOUT ROWID;
CREATE INDEX files_by_inode ON files (dev, ino);
CREATE INDEX files_by_oid ON files (oid) WHERE oid IS NOT NULL;
-- the tree of the newest snapshot
CREATE TABLE tree (path TEXT PRIMARY KEY, mode TEXT, blob TEXT) WITHOUT ROWID;
-- which blobs are pointers, and to what
CREATE TABLE pointers (blob TEXT PRIMARY KEY, oid TEXT, size INTEGER) WITHOUT ROWID;
-- pins, with the identity that their bytes were hashed at
CREATE TABLE pins (
  oid TEXT PRIMARY KEY, kind TEXT, dev INTEGER, ino INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER
) WITHOUT ROWID;
-- objects that a mirror is known to have
CREATE TABLE uploads (mirror TEXT, oid TEXT, PRIMARY KEY (mirror, oid)) WITHOUT ROWID;
"""

_KIND = 0xFF  # of an error code; what is above says more
_OUTSIDE = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_LOCKED,
})  # fmt: skip
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Known(Struct, frozen=True):
    """What the ledger knows of one path."""

    identity: Identity
    mode: str
    blob: str
    oid: str | None


class Ledger(ProofRows):
    """The facts of one target; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self.was_rebuilt = False
        self._is_damaged = False
        self._file: os.stat_result | None = None

    @property
    def is_damaged(self) -> bool:
        """Whether it was found to be, or its file was taken away: it is begun anew when it is opened next."""
        try:
            return self._is_damaged or (self._file is not None and not os.path.samestat(self._path.stat(), self._file))
        except OSError as exc:
            return isinstance(exc, FileNotFoundError)

    def open(self, *, is_sealed: bool = False) -> None:
        """Open the ledger; one that is missing, damaged or of another version is begun anew.

        One that *is_sealed*, whose file nobody touched since it was closed, is not read whole to find that out.

        Raises:
            StateError: it cannot be opened for a reason that lies outside of it, such as a full disk.
        """
        with self._known_errors():
            try:
                self._db = self._connect(is_sealed=is_sealed)
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & _KIND in _OUTSIDE:
                    raise
                self._begin_anew()
            except sqlite3.DatabaseError:
                self._begin_anew()

    def open_existing(self) -> None:
        """Open a ledger as it is; ``open_beside`` says what may be wrong with it."""
        self._db = self._connect()

    def close(self) -> None:
        """Close the ledger."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the writes inside one transaction; nested ones join the outer."""
        with self._lock, self._known_errors():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite may have ended it, for want of room
                    self._connection.execute("ROLLBACK")
                raise

    def meta(self, name: str) -> str | None:
        """Return a remembered value."""
        row = self._one("SELECT value FROM meta WHERE name = ?", name)
        return row[0] if row else None

    def set_meta(self, name: str, value: str) -> None:
        """Remember a value."""
        self._do("INSERT OR REPLACE INTO meta VALUES (?, ?)", name, value)

    def known(self, path: str) -> Known | None:
        """Return what is known of *path*."""
        row = self._one("SELECT dev, ino, size, mtime_ns, ctime_ns, mode, blob, oid FROM files WHERE path = ?", path)
        return _known(row) if row else None

    def all_known(self, under: str = "") -> Iterator[tuple[str, Identity]]:
        """Yield the committed paths (below *under*) with the identity that their content was captured at."""
        uncommitted = self.uncommitted_paths(under)
        return ((row[0], Identity(*row[1:])) for row in self.states(under) if row[0] not in uncommitted)

    def states(self, under: str = "") -> Iterator[tuple[Any, ...]]:
        """Yield all captured paths (below *under*), in the order of their bytes, and the identity of what was captured.

        They are flat rows, ``(path, *identity)``: most of 100,000 are only compared.
        """
        query = "SELECT path, dev, ino, size, mtime_ns, ctime_ns FROM files WHERE path < ? AND path > ?"
        return self._each(query, f"{under}0" if under else LAST, after=f"{under}/" if under else "")

    def uncommitted_paths(self, under: str = "") -> set[str]:
        """Return the captured paths (below *under*) that the newest snapshot does not have as they were captured."""
        same = "t.path = f.path AND t.blob = f.blob AND t.mode = f.mode"
        query = f"SELECT f.path FROM files f LEFT JOIN tree t ON {same} WHERE t.path IS NULL"  # noqa: S608 - a constant
        return {row[0] for row in self._all(*_below(under, query))}

    def record_files(self, captured: Collection[Captured]) -> None:
        """Remember captured files and whether they are pointers."""
        rows = ((one.path, *one.identity, one.mode, one.blob, one.pointer.oid if one.pointer else None) for one in captured)
        with self.transaction():
            self._many("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?,?,?)", rows)
            self.record_pointers((one.blob, one.pointer or Pointer("", one.identity.size)) for one in captured)

    def record(self, captured: Captured) -> None:
        """Remember a captured file, its pointer and its pin."""
        identity = captured.identity
        with self.transaction():
            if captured.kind is PinKind.LINK:
                self._refresh_inode(identity)
            self.record_files([captured])
            if captured.pointer is not None and captured.kind is not None:
                pin = self.pin(captured.pointer.oid)
                if captured.is_new:
                    self.record_pin(captured.pointer.oid, captured.kind, identity)
                elif pin is not None and pin[1][:2] == identity[:2]:  # touched, or written again with the same bytes
                    self.record_pin(captured.pointer.oid, pin[0], identity)

    def record_pin(self, oid: str, kind: PinKind, identity: Identity) -> None:
        """Remember how *oid* is pinned."""
        self._do("INSERT OR REPLACE INTO pins VALUES (?,?,?,?,?,?,?)", oid, kind.value, *identity)

    def pin(self, oid: str) -> tuple[PinKind, Identity] | None:
        """Return how *oid* is pinned and at which identity its bytes were hashed."""
        row = self._one("SELECT kind, dev, ino, size, mtime_ns, ctime_ns FROM pins WHERE oid = ?", oid)
        return (PinKind(row[0]), Identity(*row[1:6])) if row else None

    def forget_pin(self, oid: str) -> None:
        """Forget a pin that was released."""
        self._do("DELETE FROM pins WHERE oid = ?", oid)

    def move_ctime(self, identity: Identity) -> None:
        """Follow a ctime that moved because we linked or unlinked the inode of *identity*."""
        with self.transaction():
            self._refresh_inode(identity)

    def paths_of(self, oid: str) -> list[tuple[str, Identity]]:
        """Return the paths whose content is *oid*."""
        rows = self._all("SELECT path, dev, ino, size, mtime_ns, ctime_ns FROM files WHERE oid = ?", oid)
        return [(row[0], Identity(*row[1:6])) for row in rows]

    def paths_of_blobs(self, blobs: Collection[str]) -> list[str]:
        """Return the paths that were captured as one of *blobs*."""
        return [path for path, blob in self._all("SELECT path, blob FROM files") if blob in blobs]

    def forget_files(self, paths: Iterable[str]) -> None:
        """Forget files that are gone from the source."""
        self._many("DELETE FROM files WHERE path = ?", ((path,) for path in paths))

    def uncommitted_objects(self) -> dict[str, Pointer]:
        """Return the objects of files that are captured and not (as they are) in the newest snapshot."""
        rows = self._all(
            "SELECT DISTINCT f.oid, f.size FROM files f LEFT JOIN tree t ON t.path = f.path "
            "WHERE f.oid IS NOT NULL AND (t.blob IS NULL OR t.blob != f.blob)"
        )
        return {row[0]: Pointer(*row) for row in rows}

    def in_tree(self, path: str) -> TreeEntry | None:
        """Return what the newest snapshot holds at *path*."""
        row = self._one("SELECT mode, blob FROM tree WHERE path = ?", path)
        return TreeEntry(*row) if row else None

    def uncaptured_paths(self) -> set[str]:
        """Return the paths of the newest snapshot that no captured file has."""
        rows = self._all("SELECT t.path FROM tree t LEFT JOIN files f ON f.path = t.path WHERE f.path IS NULL")
        return {row[0] for row in rows}

    def tree_paths(self) -> set[str]:
        """Return all paths of the newest snapshot."""
        return {row[0] for row in self._all("SELECT path FROM tree")}

    def tree_below(self, directory: str) -> dict[str, TreeEntry]:
        """Return what the newest snapshot holds below *directory*."""
        rows = self._all(*_below(directory, "SELECT f.path, mode, blob FROM tree f WHERE true"))
        return {row[0]: TreeEntry(row[1], row[2]) for row in rows}

    def tree(self, commit: str, after: str = "", most: int = -1) -> dict[str, TreeEntry] | None:
        """Return what the newest snapshot holds if that is *commit*: of the files *after* one, so many at *most*."""
        with self._lock, self._known_errors():
            if self.meta("snapshot") != commit:
                return None
            query = "SELECT path, mode, blob FROM tree WHERE path > ? ORDER BY path LIMIT ?"
            rows = self._connection.execute(query, (after, most))
            return {path: TreeEntry(sys.intern(mode), blob) for path, mode, blob in rows}

    def count_tree(self) -> int:
        """Return how many paths the newest snapshot holds."""
        row = self._one("SELECT count(*) FROM tree")
        return int(row[0]) if row else 0

    def replace_tree(self, commit: str, tree: Mapping[str, TreeEntry]) -> None:
        """Take *tree* as that of the newest snapshot, *commit*."""
        with self.transaction():
            self._do("DELETE FROM tree")
            self._many("INSERT INTO tree VALUES (?,?,?)", ((path, e.mode, e.blob) for path, e in tree.items()))
            self.set_meta("snapshot", commit)

    def change_tree(self, commit: str, changes: Iterable[tuple[str, TreeEntry | None]]) -> None:
        """Follow the newest snapshot to *commit*."""
        changes = list(changes)
        with self.transaction():
            written = [path for path, entry in changes if entry is not None]
            gone = {path for path, entry in changes if entry is None}
            # As git does: a file takes the place of a directory of its name, and the other way round.
            gone |= _parents(written)
            self._many("DELETE FROM tree WHERE path = ?", ((path,) for path in gone))
            self._many("DELETE FROM tree WHERE path > ? AND path < ?", ((f"{path}/", f"{path}0") for path in written))
            self._many(
                "INSERT OR REPLACE INTO tree VALUES (?,?,?)",
                ((path, entry.mode, entry.blob) for path, entry in changes if entry is not None),
            )
            self.set_meta("snapshot", commit)

    def record_pointers(self, pointers: Iterable[tuple[str, Pointer]]) -> None:
        """Remember of blobs to what they point: without an oid, they are ordinary content of that size."""
        rows = sorted((blob, pointer.oid, pointer.size) for blob, pointer in pointers)
        self._many("INSERT OR IGNORE INTO pointers VALUES (?,?,?)", rows)

    def pointers(self, objects: Iterable[str]) -> Iterator[tuple[str, Pointer | None]]:
        """Yield the pointer that each git object is known to be: one without an oid for other content, else ``None``.

        The size of other content is 0 where it is not known.
        """
        query = "SELECT blob, oid, size FROM json_each(?) CROSS JOIN pointers ON blob = value"
        names = iter(objects)
        while some := sorted(islice(names, _ROWS_AT_ONCE)):  # neighbours lie on one page
            known = {row[0]: Pointer(row[1], row[2]) for row in self._all(query, json.dumps(some))}
            yield from ((name, known.get(name)) for name in some)

    def _refresh_inode(self, identity: Identity) -> None:
        inode = (identity.ctime_ns, identity.dev, identity.ino, identity.size, identity.mtime_ns)
        for table in ("files", "pins"):
            self._do(
                f"UPDATE {table} SET ctime_ns = ? WHERE dev = ? AND ino = ? AND size = ? AND mtime_ns = ?",  # noqa: S608 - two constants
                *inode,
            )

    @property
    def _connection(self) -> sqlite3.Connection:
        assert self._db is not None, "the ledger is not open"  # noqa: S101 - a programming error
        return self._db

    def _connect(self, *, is_sealed: bool = False) -> sqlite3.Connection:
        is_new = not self._path.exists()
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # a lost last transaction costs one read of a file, no more
            db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if is_new:
                db.executescript(_SCHEMA)
                db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif db.execute("PRAGMA user_version").fetchone()[0] != _SCHEMA_VERSION:
                raise sqlite3.DatabaseError("another version")  # noqa: TRY301 - handled as damage is
            elif not is_sealed and db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("damaged")  # noqa: TRY301
            db.executescript(PROOF_TABLES)
        except BaseException:
            db.close()
            raise
        self.was_rebuilt, self._file = self.was_rebuilt or is_new, self._path.stat()

        return db

    def _begin_anew(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._db = self._connect()

    def _one(self, query: str, *values: object) -> Any:  # noqa: ANN401 - a row
        with self._lock:  # asked for each file, so that it has no context of its own to enter
            try:
                return self._connection.execute(query, values).fetchone()
            except UnicodeEncodeError:  # a name that is not UTF-8: nothing is ever recorded of it
                return None
            except sqlite3.Error as exc:
                raise self._read_error(exc) from exc

    def _all(self, query: str, *values: object) -> list[Any]:
        with self._lock, self._known_errors():
            return self._connection.execute(query, values).fetchall()

    def _each(self, query: str, *values: object, after: str) -> Iterator[Any]:
        """Yield rows by path, which comes first in them and last in *query*; what is written meanwhile may be among them.

        Some at a time: beside an open cursor nothing could be written any more once another process has.
        """
        while rows := self._all(f"{query} ORDER BY path LIMIT {_FETCHED_AT_ONCE}", *values, after):
            yield from rows
            after = rows[-1][0]

    def _do(self, query: str, *values: object) -> None:
        with self._lock, self._known_errors():
            self._connection.execute(query, values)

    def _many(self, query: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self._lock, self.transaction():
            self._connection.executemany(query, rows)

    @contextlib.contextmanager
    def _known_errors(self) -> Iterator[None]:
        """Turn what SQLite says into an error with a cure."""
        try:
            yield
        except sqlite3.Error as exc:
            raise self._read_error(exc) from exc

    def _read_error(self, exc: sqlite3.Error) -> DiskFullError | StateError:
        kind = getattr(exc, "sqlite_errorcode", 0) & _KIND
        if kind == sqlite3.SQLITE_FULL:
            return DiskFullError(f"ledger: {exc}", hint=FULL_HINT)
        self._is_damaged = self._is_damaged or kind in _DAMAGE
        hint = "see whose it is, and its disk; it may be moved away: it is made again" if kind in _OUTSIDE else DAMAGE_HINT

        error = StateError(f"ledger {self._path}: {exc}", hint=hint)
        error.retryable = kind in _OUTSIDE

        return error


@contextlib.contextmanager
def open_beside(path: Path) -> Iterator[Ledger]:
    """Open the ledger at *path*, which a daemon may have open; it is neither made nor begun anew.

    Raises:
        StateError: there is none, or it cannot be read and written.
    """
    if not path.exists():
        raise StateError(f"there is no ledger at {path}")
    ledger = Ledger(path)
    try:
        ledger.open_existing()
        yield ledger
    except (sqlite3.Error, OSError) as exc:
        raise StateError(f"{path}: {exc}") from exc
    finally:
        ledger.close()


def copy_ledger(path: Path, to: Path) -> None:
    """Copy the ledger at *path*, which this process or another one may be writing, to the new file *to*.

    Through SQLite itself: closing a plain file of it would drop all locks that this process holds on it.
    """
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with (
            contextlib.closing(sqlite3.connect(address, uri=True, timeout=30)) as original,
            contextlib.closing(sqlite3.connect(to)) as copy,
        ):
            original.backup(copy)
    except sqlite3.Error as exc:
        raise StateError(f"{path}: {exc}") from exc


def _parents(paths: Iterable[str]) -> set[str]:
    """Return all directories above *paths*."""
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]

    return found


def _below(directory: str, query: str) -> tuple[str, ...]:
    """Return *query*, for what lies below *directory* (an empty one has all), and its values; "0" follows "/" in ASCII."""
    if not directory:
        return (query,)
    return f"{query} AND f.path > ? AND f.path < ?", f"{directory}/", f"{directory}0"


def _known(row: tuple[Any, ...]) -> Known:
    return Known(Identity(*row[:5]), row[5], row[6], row[7])
