"""Runs a target's pipeline on a copy of what is known, so that nothing is captured, written or sent: what would happen?

It must never decide anything: that is the pipeline's, and what differs here is only what has an effect. Sources are read
as little as a decision needs: headers, small files, and the content of a file that may be the published one.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from msgspec import Struct, field

from hubsync.config.model import Config, Target
from hubsync.pipeline import Pipeline, make_capturer, store_directory
from hubsync.store.capture import Captured, Capturer, Prefix, as_captured
from hubsync.store.git import CommitHeader, FastImport, TreeEntry
from hubsync.store.hashing import Steps, run, shared
from hubsync.store.ledger import Ledger
from hubsync.store.pointer import Pointer
from hubsync.store.pruned import Pruned
from hubsync.store.reserve import Inodes, count_inodes
from hubsync.store.route import Routing
from hubsync.store.snapshot import SnapshotWriter, Store
from hubsync.watch.entry import Entry, Identity

SAME_SIZE = "of the same size as what is published: its content decides"
_HASHED_BYTES = 256 << 20  # a larger file that was only touched is not read for a plan
_ROUNDS = 3


class Rehearsal(Struct):
    """A pipeline on a copy, and what was *published* and *gone* before it ran."""

    pipeline: Pipeline
    store: "RehearsedStore"
    capturer: "RehearsedCapturer"
    published: frozenset[str]
    gone: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Do what ``once`` does after all is quiet."""
        if self.pipeline.take_inventory():
            self._settle()
        self.gone = self.pipeline.removed()
        self.pipeline.commit()

    def run_on(self, path: str) -> None:
        """Do what ``once`` does, for one file (with its unit, or what an index beside it names) or directory only."""
        if not self.pipeline.check_source():
            return
        source = self.pipeline.target.source
        goal = self.pipeline.unit_of(path) or path
        if not goal or (source / goal).is_dir():
            self.pipeline.take_inventory(goal)
        else:
            self.pipeline.note(path)
            for each in _beside(source, path) if path.endswith(".index.json") else ():
                self.pipeline.note(each)
        self._settle()
        self.pipeline.commit()

    def _settle(self) -> None:
        for _ in range(_ROUNDS):
            self.pipeline.settle()
            while self.pipeline.has_early():
                self.pipeline.settle()
            if self.pipeline.next_due() is None:
                return


def _beside(source: Path, path: str) -> list[str]:
    parent = path.rpartition("/")[0]
    names = [entry.name for entry in os.scandir(source / parent) if not entry.is_dir(follow_symlinks=False)]

    return [f"{parent}/{name}" if parent else name for name in names]


@contextmanager
def rehearse(config: Config, target: Target) -> Iterator[Rehearsal]:
    """Open a rehearsal of *target*; what it needs to write lies in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="hubsync-plan-") as scratch:
        store = RehearsedStore(store_directory(target, config.service.state_dir), target.source, Path(scratch))
        store.open()
        try:
            patient = target.model_copy(update={"quiet_s": 0.0})
            capturer = make_capturer(patient, store, RehearsedCapturer)
            assert isinstance(capturer, RehearsedCapturer)  # noqa: S101 - for mypy
            capturer.published_size = store.published_size
            pipeline = Pipeline(patient, store, config.service.min_free_bytes, Event(), capturer)
            yield Rehearsal(pipeline, store, capturer, frozenset(store.ledger.tree_paths()))
        finally:
            store.close()


class RehearsedStore(Store):
    """A store that is only read; what changes is a copy of its ledger."""

    def __init__(self, directory: Path, source: Path, scratch: Path) -> None:
        super().__init__(directory, source)
        self.ledger = Ledger(scratch / "ledger.sqlite")
        self.pruned = Pruned(directory / "pruned.json", read_only=True)
        self.changes: dict[str, TreeEntry | None] = {}
        self._scratch = scratch

    def open(self) -> None:
        """Copy the ledger: a daemon may be writing the original."""
        for suffix in ("", "-wal"):
            part = self.directory / f"ledger.sqlite{suffix}"
            if part.exists():
                shutil.copy(part, self._scratch)
        self.ledger.open()
        if self.git.git_dir.exists():
            self.follow_branch()

    def write(self) -> SnapshotWriter:
        """Return a writer that only remembers."""
        return _Writer(self)

    def has_intact(self, oid: str) -> bool:
        """Tell whether the object is pinned, or would be."""
        return self.objects.has(oid) or bool(self.ledger.paths_of(oid))

    def published_size(self, path: str) -> int | None:
        """Return the size of the object that the newest snapshot has at *path*."""
        entry = self.ledger.in_tree(path)
        pointer = self.pointers([entry.blob]).get(entry.blob) if entry is not None else None

        return pointer.size if pointer else None

    def repack(self) -> None:
        """Leave the repository as it is."""

    def free_bytes(self) -> int:
        """Return how much room there is, or will be."""
        return shutil.disk_usage(self._there()).free

    def inodes(self) -> Inodes | None:
        """Return how many files can be made, or will be."""
        return count_inodes(self._there())

    def _there(self) -> Path:
        return next(path for path in (self.directory, *self.directory.parents) if path.exists())


class RehearsedCapturer(Capturer):
    """Decides what becomes of a file, and remembers its route; it neither pins nor hashes, except to tell sameness."""

    published_size: Callable[[str], int | None]

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type] # the same
        self.routes: dict[str, Routing] = {}

    def recall(self, entry: Entry, pointer: Pointer | None, mode: str, blob: str) -> Captured:
        """Return what capturing gave before; a route that was rehearsed says more."""
        captured = super().recall(entry, pointer, mode, blob)
        self.routes.setdefault(entry.path, captured.routing)

        return captured

    def as_blob(self, entry: Entry, identity: Identity, routing: Routing, content: bytes) -> Captured:
        """Remember the route."""
        captured = super().as_blob(entry, identity, routing, content)
        self.routes[entry.path] = routing

        return captured

    def as_copy(
        self, fd: int, part: Entry, before: Prefix | None, routing: Routing, on_bytes: Callable[[int], None]
    ) -> Captured:
        """Do as with any object: whether a log was only appended to, the next commit will see."""
        del before
        return run(self.as_object(fd, part, part.identity, routing), on_bytes)

    def as_object(self, fd: int, entry: Entry, identity: Identity, routing: Routing) -> Steps[Captured]:
        """Look for secrets, and find an oid without a pin: the true one if it may be what is published."""
        self.find_secret(fd, entry)
        oid = hashlib.sha256(repr((entry.path, identity)).encode("utf-8", "surrogateescape")).hexdigest()
        if self.published_size(entry.path) == identity.size:
            if identity.size <= _HASHED_BYTES:
                oid = yield from shared().digest_steps(fd, None, lambda _: None, identity.size)
            else:
                routing = Routing(routing.route, f"{routing.reason}; {SAME_SIZE}")
        self.routes[entry.path] = routing

        return as_captured(entry, identity, routing, Pointer(oid, identity.size))


class _Writer(SnapshotWriter):
    """A writer without a repository."""

    def __init__(self, store: RehearsedStore) -> None:
        super().__init__(store)
        self._import = _NoImport(store)


class _NoImport(FastImport):
    """What a snapshot would change, and nothing else."""

    def __init__(self, store: RehearsedStore) -> None:
        super().__init__(store.git)
        self._changed = store.changes
        self._number = 0

    def __exit__(self, *_: object) -> None:
        """Nothing was begun."""

    def blob(self, content: bytes) -> None:
        """Drop *content*."""

    def commit(
        self, ref: str, parent: str | None, header: CommitHeader, changes: Iterable[tuple[str, TreeEntry | None]]
    ) -> str:
        """Remember *changes*; return a name that is no commit's."""
        del ref, parent, header
        self._changed.update(changes)
        self._number += 1

        return f"{self._number:040x}"
