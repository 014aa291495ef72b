"""Owns a target's store: the branch of snapshots that is the durable queue, and what each mirror still lacks of it.

It must never know how a snapshot travels. A snapshot enters the branch with everything that it names already durable:
pins first, then blobs and pointers, then the ref, then the ledger.
"""

import contextlib
import functools
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote

from msgspec import Struct

from hubsync.errors import SourceError, StateError
from hubsync.monitor.logger import get_logger
from hubsync.store.capture import Captured, has_same_content
from hubsync.store.fingerprint import Fingerprint
from hubsync.store.git import CommitHeader, FastImport, Git, TreeChange, TreeEntry
from hubsync.store.hashing import shared
from hubsync.store.ledger import Ledger
from hubsync.store.mend import is_whole, shows_damage
from hubsync.store.objects import SPOILED_HINTS, Objects, PinKind, state_errors
from hubsync.store.pointer import MAX_BYTES, Pointer, decode_pointer
from hubsync.store.private import expect_no_link, make_private
from hubsync.store.pruned import Pruned
from hubsync.store.recovery import (
    MIRRORS,
    SNAPSHOTS,
    expect_known_format,
    note_closed,
    note_opened,
    recover,
    recover_mirror,
    tell_mended,
    was_left_open,
)
from hubsync.store.reserve import Inodes, Reserve, count_inodes
from hubsync.store.seal import break_seal, seal
from hubsync.watch.beneath import open_entry
from hubsync.watch.entry import Identity
from hubsync.watch.inventory import look
from hubsync.watch.layout_words import choose_newest

AUTHOR = "hubsync <hubsync@localhost>"

_GIT, _LEDGER = "store.git", "ledger.sqlite"
_REMEMBERED = 256  # snapshots, which never change
_FEW_SNAPSHOTS = 8
_FILES_AT_ONCE = 4096
_UNIT_TRAILER = "Hubsync-Unit: "

log = get_logger()


class Snapshot(Struct, frozen=True):
    """A commit in the store: one state of the target.

    Attributes:
        written_at: when the newest of its files was last written, seconds since the epoch.
        units: the units that it completes.
    """

    commit: str
    written_at: int
    committed_at: int
    message: str
    units: tuple[str, ...]

    @property
    def header(self) -> CommitHeader:
        """The header that makes its commit on a mirror the same whenever it is made."""
        return CommitHeader(AUTHOR, f"{self.written_at} +0000", f"{self.committed_at} +0000", self.message)


class Store:
    """A target's private bare repository, its pins and its ledger, below *directory*."""

    def __init__(self, directory: Path, source: Path, *, inherit: tuple[int, ...] = ()) -> None:
        self.directory = directory
        self.source = source
        self._inherit = inherit
        self.git = Git(directory / _GIT, inherit=inherit)
        self.objects = Objects(self.git.git_dir)
        self.ledger = Ledger(directory / _LEDGER)
        self.pruned = Pruned(directory / "pruned.json")
        self.reserve = Reserve(directory)
        # Of a few: all units that ever were stand in each, and most share it with the one before.
        self._unit_times = functools.lru_cache(_FEW_SNAPSHOTS)(self._list_unit_times)
        self._last_unit_times: tuple[str | None, Mapping[str, int]] = None, {}
        self._snapshots: dict[str, Snapshot] = {}
        self._made: dict[str, tuple[str | None, Snapshot]] = {}  # of this process: commit → (the one before it, itself)
        self._is_open = self._was_killed = False
        self._sealed: set[str] = set()  # what lies as it was left when it was closed

    def open(self) -> None:
        """Make or open the store; what a crash left behind is cleaned up (the caller holds the lock)."""
        make_private(self.directory)
        expect_no_link(self.directory.iterdir())
        self.reserve.make_room()  # to open it takes some, too
        with state_errors():
            expect_known_format(self.directory)
            self._sealed = set() if was_left_open(self.directory) else set(break_seal(self.directory))
            leftovers = self.git.open()
            self.objects.open()
            self.ledger.open(is_sealed=_LEDGER in self._sealed)
            if leftovers:
                log.warning(
                    "state.recovered", what="leftovers", path=str(self.git.git_dir), reason="killed", files=leftovers
                )
            if _GIT not in self._sealed or self.ledger.was_rebuilt or shows_damage(self.git):
                self._was_killed = recover(self.directory, self.source, self.git, self.ledger)
            note_opened(self.directory)
            self._is_open = True
            self.follow_branch()
            self.git.repack()

    def close(self) -> None:
        """Close the ledger; git keeps nothing open."""
        self.ledger.close()
        if not self._is_open:  # by a reader
            return
        if not self.is_damaged:
            with contextlib.suppress(OSError):  # a full or lost disk; then it is looked through at the next start
                mirrors = (self.directory / MIRRORS).glob("*.git")
                seal(self.directory, [_GIT, _LEDGER, *(f"{MIRRORS}/{mirror.name}" for mirror in mirrors)])
        note_closed(self.directory)

    @property
    def is_damaged(self) -> bool:
        """Whether git or the ledger met damage since it was opened: to open it again mends what can be mended."""
        return self.git.is_damaged or self.ledger.is_damaged

    def repack(self) -> None:
        """Tidy the repository up."""
        self.git.repack()

    def free_bytes(self) -> int:
        """Return how much room there is."""
        return shutil.disk_usage(self.directory).free

    def inodes(self) -> Inodes | None:
        """Return how many files can be made; ``None`` if there is no limit."""
        return count_inodes(self.directory)

    def head(self) -> str | None:
        """Return the newest snapshot's commit."""
        return self.ledger.meta("snapshot") or None  # follows the branch, see follow_branch and SnapshotWriter

    def open_mirror(self, name: str) -> Git:
        """Open the repository where the commits of one mirror are made; it borrows the store's objects.

        Each mirror has its own, so that a slow fetch for one holds no lock (of refs, of the shallow file) for another.
        """
        git = Git(self.mirror_directory(name), inherit=self._inherit)
        sealed = f"{MIRRORS}/{git.git_dir.name}"
        is_new = not git.git_dir.exists()
        is_whole_or_new = is_new or (sealed in self._sealed and not self._was_killed)
        self._sealed.discard(sealed)  # it is used from now on
        with state_errors():
            git.open(borrow=self.git.git_dir)
            if not is_whole_or_new:
                recover_mirror(git, self.git.git_dir, was_killed=self._was_killed)
            git.repack()
        if is_new and self.ledger.has_published(name):
            tell_mended(git, is_gone=True)

        return git

    def mend_mirror(self, git: Git) -> bool:
        """Put a mirror's repository right that git failed on; return whether it was damaged. Nobody else may use it."""
        if not is_whole(self.git, "--all"):  # what it borrows is
            self.git.mark_damaged()
            return False
        was_there = (git.git_dir / "refs").exists()
        with state_errors():
            leftovers = git.open(borrow=self.git.git_dir)
            is_mended = recover_mirror(git, self.git.git_dir, was_killed=True)
        tell_mended(git, leftovers, is_gone=not was_there)
        return is_mended or not was_there or leftovers > 0

    def mirror_directory(self, name: str) -> Path:
        """Return where the repository of one mirror lies."""
        return self.directory / MIRRORS / f"{quote(name, safe='')}.git"

    def write(self) -> "SnapshotWriter":
        """Return a writer of new snapshots; use it as a context manager."""
        return SnapshotWriter(self)

    def backlog(self, published: str | None) -> list[Snapshot]:
        """Return the snapshots after *published* (``None``: all), oldest first."""
        if self.head() in {None, published}:
            return []
        if (line := self._remembered_line(published, self.head())) is not None:
            return line
        span = f"{published}..{SNAPSHOTS}" if published else SNAPSHOTS
        raw = self.git.text("log", "--first-parent", "--reverse", "-z", "--format=%H %at %ct %B", span)
        return [read_snapshot(record) for record in raw.split("\0") if record]

    def _remembered_line(self, known: str | None, commit: str | None) -> list[Snapshot] | None:
        """Return the snapshots after *known* up to *commit*, oldest first, if this process made all of them lately."""
        line: list[Snapshot] = []
        while commit != known:
            if commit is None or (made := self._made.get(commit)) is None:
                return None
            line.append(made[1])
            commit = made[0]

        return line[::-1]

    def note_made(self, snapshots: Iterable[tuple[str | None, Snapshot]]) -> None:
        """Remember *snapshots* that were made, each with the one before it."""
        self._made |= {snapshot.commit: (parent, snapshot) for parent, snapshot in snapshots}
        for commit in list(self._made)[:-_REMEMBERED]:
            del self._made[commit]

    def completed(self, snapshot: str | None) -> list[Snapshot]:
        """Return those snapshots in the history of *snapshot* that completed units, oldest first."""
        if snapshot is None:
            return []
        by_unit = f"--grep=^{_UNIT_TRAILER}"
        raw = self.git.text("log", "--first-parent", "--reverse", "-z", by_unit, "--format=%H %at %ct %B", snapshot)
        return [read_snapshot(record) for record in raw.split("\0") if record]

    def unit_times(self, snapshot: str | None) -> Mapping[str, int]:
        """Return the units completed in the history of *snapshot*, and when each was last written."""
        return self._unit_times(snapshot)

    def _list_unit_times(self, snapshot: str | None) -> Mapping[str, int]:
        known, times = self._last_unit_times
        line = self._remembered_line(known, snapshot)
        if line is None:
            line, times = self.completed(snapshot), {}
        if news := {sys.intern(unit): done.written_at for done in line for unit in done.units}:
            times = {**times, **news}
        self._last_unit_times = snapshot, times

        return times

    def newest_unit(self) -> str | None:
        """Return the newest unit that was ever completed."""
        return choose_newest(self.unit_times(self.head()))

    def find_unit(self, unit: str) -> str | None:
        """Return the newest snapshot that completes *unit*."""
        named = ("--fixed-strings", f"--grep={_UNIT_TRAILER}{unit}")  # a longer name matches as well
        raw = self.git.text("log", "--first-parent", "-z", *named, "--format=%H %at %ct %B", "--all")
        found = (read_snapshot(record) for record in raw.split("\0") if record)
        return next((snapshot.commit for snapshot in found if unit in snapshot.units), None)

    def is_ancestor(self, commit: str, published: str | None) -> bool:
        """Tell whether what is *published* holds the snapshot *commit*."""
        if published is None or commit == published:
            return commit == published
        return self.git.run("merge-base", "--is-ancestor", commit, published, check=False).returncode == 0

    def read_snapshots(self, commits: Collection[str]) -> list[Snapshot]:
        """Return the snapshots at *commits*."""
        known = {commit: snapshot for commit in commits if (snapshot := self._snapshots.get(commit)) is not None}
        if unknown := [commit for commit in commits if commit not in known]:
            raw = self.git.text("log", "--no-walk=unsorted", "-z", "--format=%H %at %ct %B", *unknown)
            known |= {snapshot.commit: snapshot for snapshot in map(read_snapshot, filter(None, raw.split("\0")))}
            self._snapshots = known

        return [known[commit] for commit in commits]

    def pointers(self, blobs: Iterable[str]) -> dict[str, Pointer]:
        """Return those of *blobs* that are pointers."""
        found: dict[str, Pointer] = {}
        unknown: list[str] = []
        for blob, pointer in self.ledger.pointers(blobs):
            if pointer is None:
                unknown.append(blob)
            elif pointer.oid:
                found[blob] = pointer
        found |= self._learn_pointers(unknown)

        return found

    def measure(self, blobs: Collection[str], git: Git | None = None) -> dict[str, int]:
        """Return the bytes that *blobs* stand for: those of the object behind a pointer, else their own.

        What is not known is looked up in *git*, which may have more than the store.
        """
        known = {
            blob: pointer.size for blob, pointer in self.ledger.pointers(blobs) if pointer and (pointer.size or pointer.oid)
        }
        if len(known) < len(blobs):
            pointers = self.pointers(blob for blob in blobs if blob not in known)
            known |= {blob: pointer.size for blob, pointer in pointers.items()}
            known |= (git or self.git).sizes(blob for blob in blobs if blob not in known)

        return known

    def list_tree(self, commit: str) -> Mapping[str, TreeEntry]:
        """Return what a snapshot holds; of the newest one the ledger knows it."""
        tree = self.ledger.tree(commit)
        return self.git.list_tree(commit) if tree is None else tree

    def each_file(self, commit: str) -> Iterator[tuple[str, TreeEntry]]:
        """Yield what a snapshot holds, in the order of the paths; of the newest one little is held at a time."""
        last = ""
        while files := self.ledger.tree(commit, last, _FILES_AT_ONCE):
            yield from files.items()
            last = next(reversed(files))
        if files is None:  # it is not the newest one, or not any more
            yield from (file for file in sorted(self.git.list_tree(commit).items()) if file[0] > last)

    def steps(self, published: str | None, backlog: Sequence[Snapshot]) -> list[list[TreeChange]]:
        """Return what each snapshot of *backlog* changes on the one before it, the first one on *published*.

        If nothing is published, *backlog* has all snapshots, or the newest one alone.
        """
        if published is None and len(backlog) == 1:
            tree = self.list_tree(backlog[0].commit)
            return [[TreeChange(path, None, entry) for path, entry in tree.items()]]
        return self.git.diff_line([snapshot.commit for snapshot in backlog])

    def wanted_objects(self, published: Sequence[str | None]) -> dict[str, Pointer]:
        """Return the objects (by oid) that some mirror may lack, given what each one has published."""
        if self.head() is None:
            return {}
        if not published or set(published) == {self.head()}:
            return {}
        behind = [] if None in published else [f"^{commit}" for commit in published if commit]
        # What the mirror that is furthest behind lacks, all others lack at most.
        common = self._oldest(behind)
        only_blobs = ("--objects", "--no-object-names", "--filter=object:type=blob", "--filter-provided-objects")
        listed = self.git.text("rev-list", *only_blobs, SNAPSHOTS, *common).split()
        return {pointer.oid: pointer for pointer in self.pointers(listed).values()}

    def release(self, published: Sequence[str | None]) -> int:
        """Drop the pins that no mirror needs; return how many bytes that gives back."""
        wanted = self.wanted_objects(published).keys() | self.ledger.uncommitted_objects().keys() | self.ledger.all_lost()
        freed = 0
        for oid, status in list(self.objects.held()):
            if oid in wanted:
                continue
            freed += status.st_size
            self._unpin(oid)
            log.debug("object.released", oid=oid, bytes=status.st_size)

        return freed

    def disk_held(self) -> tuple[int, int]:
        """Return (bytes of the pinned objects, bytes of them that cost disk space of their own)."""
        total = own = 0
        for _, status in self.objects.held():
            total += status.st_size
            if status.st_nlink == 1:
                own += min(status.st_size, status.st_blocks * 512)

        return total, own

    def has_intact(self, oid: str) -> bool:
        """Tell whether the object is pinned with the bytes that gave it its oid; a spoiled pin is dropped."""
        path = self.objects.path(oid)
        pinned = self.ledger.pin(oid)
        try:
            now = Identity.of(path.stat())
        except FileNotFoundError:
            return False
        if pinned and (pinned[1] == now or (pinned[0] is not PinKind.LINK and pinned[1].size == now.size)):
            return True
        # Another inode or time does not mean other bytes: a state directory that was moved or copied, a touched source.
        if (pinned is None or pinned[1].size == now.size) and self._is_unchanged(path, oid):
            self.ledger.record_pin(oid, pinned[0] if pinned else PinKind.LINK, now)
            return True

        self._drop_spoiled(oid, now.size)
        return False

    def _is_unchanged(self, path: Path, oid: str) -> bool:
        """Read a pin and tell whether it is what it is called, by the fingerprint if this process hashed it."""
        before = self.objects.fingerprint(oid)
        if not before:
            return _hash_file(path) == oid
        now = Fingerprint.begin_like(before)
        with path.open("rb") as file:
            for piece in shared().read_file(file.fileno()):
                now.update(piece)

        return now.text() == before

    def check_pin(self, oid: str) -> bool:
        """Read a pin and tell whether it is what it is called; if it is not, it is dropped."""
        path = self.objects.path(oid)
        if path.exists() and _hash_file(path) != oid:
            self._drop_spoiled(oid, path.stat().st_size)

        return path.exists()

    def _drop_spoiled(self, oid: str, size: int) -> None:
        kind, *_ = self.ledger.pin(oid) or (PinKind.LINK,)
        path = next((name for name, _ in self.ledger.paths_of(oid)), None)
        self._unpin(oid)
        log.warning("object.spoiled", oid=oid, path=path, bytes=size, hint=SPOILED_HINTS[kind])

    def pin_again(self, oid: str) -> bool:
        """Pin *oid* from a source file that still holds it; return whether that worked."""
        for path, identity in self.ledger.paths_of(oid):
            try:
                entry = look(self.source, path)
            except SourceError:  # it may be back later; until then all else goes on
                return False
            if entry is None or entry.identity != identity:
                continue
            fd = open_entry(self.source, entry)
            try:
                pin = self.objects.pin(fd, "link")
                self.objects.keep(pin, oid)
                after = Identity.of(os.fstat(fd))
            except (OSError, StateError):
                continue
            finally:
                os.close(fd)
            if has_same_content(after, identity):
                self.ledger.move_ctime(after)
                self.ledger.record_pin(oid, PinKind.LINK, after)
                return True
            self.objects.release(oid)

        return False

    def keep_download(self, oid: str) -> bool:
        """Take over the object that git-lfs has put, and checked, where its pin belongs; tell whether it is there."""
        path = self.objects.path(oid)
        if not path.exists():
            return False
        self.ledger.record_pin(oid, PinKind.COPY, Identity.of(path.stat()))

        return True

    def drop_download(self, oid: str) -> None:
        """Drop the pin of an object that was downloaded for one mirror."""
        self._unpin(oid)

    def _unpin(self, oid: str) -> None:
        """Drop a pin; if it was a link, follow the ctime of the file that shares its inode, wherever that is now."""
        pinned = self.ledger.pin(oid)
        linked = pinned[1] if pinned and any(known == pinned[1] for _, known in self.ledger.paths_of(oid)) else None
        try:
            inode = os.open(self.objects.path(oid), os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:  # another thread was faster
            self.ledger.forget_pin(oid)
            return
        try:
            before = Identity.of(os.fstat(inode))
            self.objects.release(oid)
            self.ledger.forget_pin(oid)
            now = Identity.of(os.fstat(inode))
        finally:
            os.close(inode)
        if before == linked and has_same_content(now, before):
            self.ledger.move_ctime(now)

    def _oldest(self, exclusions: list[str]) -> list[str]:
        if len(set(exclusions)) <= 1:
            return exclusions[:1]
        # Published snapshots lie on one line, so their common ancestor is the oldest of them.
        return ["^" + self.git.text("merge-base", "--octopus", *(commit[1:] for commit in set(exclusions)))]

    def _learn_pointers(self, blobs: Sequence[str]) -> dict[str, Pointer]:
        if not blobs:
            return {}
        sizes = self.git.sizes(blobs)
        small = [blob for blob, size in sizes.items() if size < MAX_BYTES]
        found = {blob: pointer for blob, content in self.git.read_blobs(small) if (pointer := decode_pointer(content))}
        self.ledger.record_pointers((blob, found.get(blob) or Pointer("", sizes.get(blob, 0))) for blob in blobs)

        return found

    def follow_branch(self) -> None:
        """Bring the ledger to the branch's newest snapshot, whatever a crash came between."""
        head = self.git.read_ref(SNAPSHOTS)
        if head != self.head():
            self.ledger.replace_tree(head or "", self.git.list_tree(head) if head else {})


class SnapshotWriter:
    """Writes snapshots through one git process, started when the first blob comes; all refs move when it is left."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._import: FastImport | None = None
        self._tip = store.head()
        self._is_first = self._tip is None
        self._changes: dict[str, TreeEntry | None] = {}
        self._captured: list[Captured] = []
        self._made: list[tuple[str | None, Snapshot]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._import is not None:
            self._import.__exit__(kind, *rest)
        if kind is not None:
            return
        ledger = self._store.ledger
        with ledger.transaction():
            ledger.record_files(self._captured)
            if self._tip is not None and self._changes:
                ledger.change_tree(self._tip, self._changes.items())
        self._store.note_made(self._made)

    def add(self, captured: Captured) -> TreeEntry | None:
        """Add a captured file's blob; return its entry if that differs from the newest snapshot's."""
        if captured.pointer is None:
            # Ordinary content is known only once it is in git; its bytes must not stay in memory until then.
            now = (captured.path, captured.identity, captured.mode, captured.routing, captured.blob, b"")
            self._captured.append(Captured(*now))
        else:
            self._store.ledger.record(captured)
        entry = TreeEntry(captured.mode, captured.blob)
        if self._entry_now(captured.path) == entry:
            return None
        self._fast_import.blob(captured.content)

        return entry

    def add_blob(self, content: bytes) -> None:
        """Add content that no file of the source has; it is named by its git object id."""
        self._fast_import.blob(content)

    def commit(
        self, changes: dict[str, TreeEntry | None], subject: str, *, units: tuple[str, ...], written_at: int, now: int
    ) -> str:
        """Commit *changes* (``None`` removes a path) as one snapshot; times in seconds since the epoch."""
        trailers = "".join(f"{_UNIT_TRAILER}{_on_one_line(unit)}\n" for unit in units)
        message = f"{subject}\n" + (f"\n{trailers}" if trailers else "")
        header = CommitHeader(AUTHOR, f"{max(written_at, 0)} +0000", f"{max(now, 0)} +0000", message)
        before, self._tip = self._tip, self._fast_import.commit(SNAPSHOTS, self._tip, header, changes.items())
        self._made.append((before, Snapshot(self._tip, max(written_at, 0), max(now, 0), message, units)))
        self._changes.update(changes)

        return self._tip

    def _entry_now(self, path: str) -> TreeEntry | None:
        if path in self._changes:
            return self._changes[path]
        return None if self._is_first else self._store.ledger.in_tree(path)

    @property
    def _fast_import(self) -> FastImport:
        if self._import is None:
            self._import = FastImport(self._store.git).__enter__()
        return self._import


def read_snapshot(record: str) -> Snapshot:
    """Return what git says of a commit in the form ``%H %at %ct %B``."""
    commit, written_at, committed_at, message = record.lstrip("\n").split(" ", 3)
    units = tuple(unquote(unit) for unit in re.findall(rf"^{_UNIT_TRAILER}(.+)$", message, re.MULTILINE))
    return Snapshot(commit, int(written_at), int(committed_at), message.rstrip("\n") + "\n", units)


def _on_one_line(unit: str) -> str:
    return unit.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return shared().digest_file(file.fileno())
