"""Publishes one target to one mirror: objects first, then our tree grafted on its head, then the record.

Joins the decisions (``graft``) with the adapters (``remote``, ``hub``, the store). It knows nothing of other mirrors and
never retries by itself, except when somebody else pushed between its fetch and its push.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event

import structlog

from hubsync.config.model import Endpoint, Mirror
from hubsync.errors import MirrorError
from hubsync.mirror.attributes import as_entries, attributes_to_publish
from hubsync.mirror.graft import Graft, graft, policy_of, with_prefix
from hubsync.mirror.hub import Hub, Visibility
from hubsync.mirror.remote import HeadMovedError, Remote
from hubsync.mirror.token import Tokens
from hubsync.store.git import FastImport, TreeChange, TreeEntry
from hubsync.store.pointer import Pointer
from hubsync.store.snapshot import Snapshot, Store

_LOST_RACES = 20
_FEW_PATHS = 100  # more are listed with the whole tree, not on a command line

# In the mirror's own repository: its head as last seen, the snapshot that it holds, and the newest graft.
_HEAD, _PUBLISHED, _GRAFT = "refs/mirror/head", "refs/mirror/published", "refs/mirror/graft"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Published:
    """What one publication did; ``commit`` is the mirror's head now."""

    commit: str
    snapshots: tuple[Snapshot, ...]
    files: int
    bytes: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """A snapshot, and what it changes on the one that is published before it."""

    snapshot: Snapshot
    changes: tuple[TreeChange, ...]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a mirror lacks; *since* is when the oldest of it was committed, seconds since the epoch."""

    files: int = 0
    bytes: int = 0
    since: int | None = None


class _MadeAnewError(Exception):
    """The mirror's head holds nothing of what was published: its repository was deleted and made again."""

    def __init__(self, head: str | None) -> None:
        super().__init__(head)
        self.head = head


class Publisher:
    """Keeps one mirror of one target up to date. Not for use by several threads at once."""

    def __init__(
        self, store: Store, mirror: Mirror, endpoint: Endpoint, tokens: Tokens, patterns: tuple[str, ...], stop: Event
    ) -> None:
        self.mirror = mirror
        self._store = store
        self._patterns = patterns
        self._hub = Hub(endpoint, tokens)
        self._git = store.open_mirror(mirror.name)
        self._refs = (self._git.resolve(_HEAD), self._git.resolve(_PUBLISHED))  # only this process moves them
        self._remote = Remote(self._git, store.objects, mirror, endpoint, tokens, stop)
        self._checked = False
        self._agreed = False  # whether the attributes were compared with all paths since the config was read
        self._measured: tuple[tuple[str | None, str | None], Backlog] = ((None, None), Backlog())

    def published(self) -> str | None:
        """Return the newest snapshot that the mirror is known to hold."""
        return self._refs[1]

    def head(self) -> str | None:
        """Return the mirror's head as last seen."""
        return self._refs[0]

    def backlog(self) -> list[Snapshot]:
        """Return the snapshots that the mirror lacks, oldest first."""
        return self._store.backlog(self.published())

    def newest_unit(self) -> str | None:
        """Return the unit that was published last."""
        return self._store.newest_unit(self.published())

    def measure_backlog(self) -> Backlog:
        """Return how much the mirror lacks."""
        published = self.published()
        key = (published, self._store.head())
        if key != self._measured[0]:
            self._measured = (key, self._measure(published))

        return self._measured[1]

    def _measure(self, published: str | None) -> Backlog:
        backlog = self._store.backlog(published)
        if not backlog:
            return Backlog()
        changes = [change for change in self._store.git.diff_trees(published, backlog[-1].commit) if change.after]
        pointers = self._store.pointers({change.after.blob for change in changes if change.after})
        return Backlog(len(changes), sum(pointer.size for pointer in pointers.values()), backlog[0].committed_at)

    def check_repository(self) -> None:
        """Make sure that the repository exists and is as private as declared; done once, and again after a failure.

        Raises:
            MirrorError: it is public although it is declared private, or cannot be seen or made.
        """
        if self._checked:
            return
        visibility = self._hub.look(self.mirror)
        if visibility is Visibility.MISSING and self._hub.create(self.mirror):
            log.info("mirror.created", repo=self.mirror.repo_id, repo_type=self.mirror.repo_type,
                     endpoint=self.mirror.endpoint, branch=self.mirror.branch, private=self.mirror.private)  # fmt: skip
        if visibility is Visibility.PUBLIC and self.mirror.private:
            raise MirrorError(
                f"{self.mirror.repo_id} is public, but the config says private",
                error_kind="forbidden",
                retryable=False,
                hint="make the repository private on the Hub, or set private = false on this mirror",
            )
        self._checked = True

    def upload(self, objects: Mapping[str, Pointer]) -> None:
        """Upload those of *objects* (oid → pointer) that the mirror is not known to have and that are pinned."""
        ledger = self._store.ledger
        known = ledger.uploaded(self.mirror.name, objects)
        missing = [oid for oid in objects if oid not in known and self._store.has_intact(oid)]
        if not missing:
            return
        self.check_repository()
        started = time.monotonic()
        self._remote.upload_objects(missing)
        spoiled = [oid for oid in missing if not self._store.has_intact(oid)]
        sent = [oid for oid in missing if oid not in spoiled]
        ledger.record_uploads(self.mirror.name, sent)
        took_s = round(time.monotonic() - started, 3)
        for oid in sent:
            log.debug("object.uploaded", oid=oid, bytes=objects[oid].size, took_s=took_s)

    def publish(self) -> Published | None:
        """Bring the mirror to the newest snapshot; ``None`` if it was there already or nothing could be published.

        Raises:
            MirrorError: a step failed; what was done before it stays done.
            StoppedError: hubsync is stopping.
        """
        try:
            return self._publish()
        except MirrorError as exc:
            self._checked = False
            if exc.error_kind == "missing_object":
                self._store.ledger.forget_uploads(self.mirror.name)
            raise

    def _publish(self) -> Published | None:
        try:
            return self._publish_backlog()
        except _MadeAnewError as exc:
            log.info("mirror.adopted", repo=self.mirror.repo_id, commit=exc.head, previous=self.head(),
                        reason="nothing of what was published is there: all is published again")  # fmt: skip
            self._store.ledger.forget_uploads(self.mirror.name)
            self._record(exc.head, None)

        return self._publish_backlog()

    def _publish_backlog(self) -> Published | None:
        started = time.monotonic()
        published = self.published()
        backlog = self._store.backlog(published)
        if not backlog:
            return None
        self.check_repository()
        changes = self._store.steps(published, backlog)
        pointers = self._store.pointers({c.after.blob for step in changes for c in step if c.after})
        objects = {pointer.oid: pointer for pointer in pointers.values()}
        self._pin_missing(objects)
        self.upload(objects)
        steps = self._publishable(backlog, changes, pointers)
        if not steps:
            return None  # said when the spoiled object was noticed; the file's next state is published instead

        commit, blobs = self._push_grafted(published, steps)
        self._record(commit, steps[-1].snapshot.commit)
        self._agreed = True
        self._git.repack()
        ready = tuple(step.snapshot for step in steps)
        done = Published(commit, ready, len(blobs), self._measure_blobs(blobs), round(time.monotonic() - started, 3))
        self._report(done)

        return done

    def _measure_blobs(self, blobs: Sequence[str]) -> int:
        """Return the bytes that *blobs* stand for: those of the object behind a pointer, else their own."""
        pointers = self._store.pointers(set(blobs))
        own = self._git.sizes({blob for blob in blobs if blob not in pointers})
        return sum(pointers[blob].size if blob in pointers else own.get(blob, 0) for blob in blobs)

    def _report(self, done: Published) -> None:
        now = time.time()
        units = [(unit, snapshot) for snapshot in done.snapshots for unit in snapshot.units]
        log.info("mirror.published", repo=self.mirror.repo_id, commit=done.commit, files=done.files, bytes=done.bytes,
                 units=[unit for unit, _ in units], took_s=done.took_s)  # fmt: skip
        for unit, snapshot in units:
            log.info("unit.published", unit=unit, repo=self.mirror.repo_id, commit=done.commit,
                     lag_s=round(max(0.0, now - snapshot.written_at), 3))  # fmt: skip

    def _pin_missing(self, objects: Mapping[str, Pointer]) -> None:
        known = self._store.ledger.uploaded(self.mirror.name, objects)
        for oid in objects:
            if oid not in known and not self._store.has_intact(oid):
                self._store.pin_again(oid)

    def _publishable(
        self, backlog: Sequence[Snapshot], changes: Sequence[list[TreeChange]], pointers: Mapping[str, Pointer]
    ) -> list[Step]:
        """Return the steps whose objects the mirror has; a step that lacks one is folded into the next."""
        there = self._store.ledger.uploaded(self.mirror.name, {pointer.oid for pointer in pointers.values()})
        ready: list[Step] = []
        waiting: list[Step] = []
        for snapshot, step in zip(backlog, changes, strict=True):
            waiting.append(Step(snapshot, tuple(step)))
            folded = _fold(waiting)
            blobs = {change.after.blob for change in folded.changes if change.after}
            if all(pointers[blob].oid in there for blob in blobs if blob in pointers):
                ready.append(folded)
                waiting = []

        return ready

    def _push_grafted(self, published: str | None, steps: Sequence[Step]) -> tuple[str, list[str]]:
        """Push *steps* on the mirror's head, as often as somebody else is faster; return (head, blobs written)."""
        head, is_ours = self.head(), True
        # Asked, not assumed: a repository that was deleted and made anew takes our old history, but lacks its objects.
        seen = self._remote.read_head()
        if head is None or published is None or seen != head:
            head, is_ours = self._adopt(seen, head), False
        for _ in range(_LOST_RACES):
            commit, blobs = self._graft(published, steps, head, is_ours=is_ours)
            try:
                if commit != head:
                    self._remote.push(commit)
            except HeadMovedError:
                head, is_ours = self._adopt(self._remote.read_head(), head), False
                continue
            return commit, blobs

        raise MirrorError(
            f"somebody else pushed first, {_LOST_RACES} times in a row", error_kind="conflict", retryable=True
        )

    def _adopt(self, seen: str | None, before: str | None) -> str | None:
        """Fetch the head that was *seen*, if there is one, and remember it instead of *before*."""
        if seen is None:
            self._record(None, self.published())
            return None
        head = self._remote.fetch(_HEAD)
        self._refs = (head, self.published())
        if head != before:
            log.info("mirror.adopted", repo=self.mirror.repo_id, commit=head, previous=before)

        return head

    def _record(self, head: str | None, published: str | None) -> None:
        """Remember the mirror's head and what it holds, both or neither."""
        new = {_HEAD: head, _PUBLISHED: published}
        known = dict(zip(new, self._refs, strict=True))
        self._git.update_refs({ref: commit for ref, commit in new.items() if commit != known[ref]})
        self._refs = (head, published)

    def _graft(
        self, published: str | None, steps: Sequence[Step], head: str | None, *, is_ours: bool
    ) -> tuple[str, list[str]]:
        """Make the commits that put *steps* on *head*; return (the last one, the blobs of changed paths).

        With *is_ours* the head is as we left it, so that only what changed since has to be looked at.
        """
        if head is not None and not is_ours:
            published, steps = self._skip_held(published, steps, head)
        grafts = self._plan(published, steps, head, is_ours=is_ours)
        changed = [(step.snapshot, dict(one.changes)) for step, one in zip(steps, grafts, strict=True) if one.changes]
        if not changed:
            if head is None:
                raise MirrorError("there is nothing to publish", error_kind="internal", retryable=True)
            return head, []

        routes = self._routes(changes for _, changes in changed)
        if any(route is None for route in routes.values()):
            # A path was a pointer in one snapshot and is none in another: no set of attributes suits both.
            return self._graft(published, [_fold(steps)], head, is_ours=is_ours)
        blobs = [entry.blob for _, changes in changed for entry in changes.values() if entry is not None]
        pointers = {path: bool(route) for path, route in routes.items()}
        if head is not None and not (is_ours and self._agreed):
            pointers = self._standing(steps[-1].snapshot, head, changed) | pointers
        attributes = attributes_to_publish(self._git, head, pointers, self._patterns)
        changed[0][1].update(as_entries(self._git, attributes))
        tip = head
        with FastImport(self._git) as writer:
            for snapshot, changes in changed:
                tip = writer.commit(_GRAFT, tip, snapshot.header, changes.items())
        assert tip is not None  # noqa: S101 - a commit was written

        return tip, blobs

    def _skip_held(self, published: str | None, steps: Sequence[Step], head: str) -> tuple[str | None, Sequence[Step]]:
        """Leave out the first of *steps* if *head* has them: they were pushed, and we were killed before the record."""
        theirs = self._git.list_tree(head)
        differing: set[str] = set()
        held = 0
        for number, step in enumerate(steps, 1):
            for change in step.changes:
                is_there = theirs.get(self._place(change.path)) == change.after
                (differing.discard if is_there else differing.add)(change.path)
            held = held if differing else number

        return (steps[held - 1].snapshot.commit, steps[held:]) if held else (published, steps)

    def _plan(self, published: str | None, steps: Sequence[Step], head: str | None, *, is_ours: bool) -> list[Graft]:
        """Return what each of *steps* changes on the one before it, the first one on *head*."""
        overlay: dict[str, TreeEntry | None] = {}
        grafts: list[Graft] = []
        for step in steps:
            if grafts or (is_ours and head):
                one = self._plan_changed(step, head, overlay)
            else:
                one = self._plan_all(published, step.snapshot, head)
            self._report_foreign(one, head)
            overlay.update(one.changes)
            grafts.append(one)

        return grafts

    def _plan_changed(self, step: Step, head: str | None, overlay: Mapping[str, TreeEntry | None]) -> Graft:
        """Plan what *step* changes on a tree that is as we left it, but for paths where others have the say."""
        last = {self._place(change.path): change.before for change in step.changes if change.before}
        ours = {self._place(change.path): change.after for change in step.changes if change.after}
        paths = [self._place(change.path) for change in step.changes]
        theirs = dict(last)
        foreign = [path for path in paths if policy_of(path, self.mirror.on_foreign_edit) != "ours"]
        if foreign and head:
            shown = self._git.list_tree(head, *(foreign if len(foreign) <= _FEW_PATHS else ()))
            shown |= {path: entry for path, entry in overlay.items() if entry}
            theirs = {path: entry for path, entry in theirs.items() if path not in foreign}
            theirs |= {path: shown[path] for path in foreign if path in shown}

        return graft(paths, theirs, last, ours, self.mirror.on_foreign_edit)

    def _plan_all(self, base: str | None, snapshot: Snapshot, head: str | None) -> Graft:
        git = self._git
        ours = {self._place(path): entry for path, entry in git.list_tree(snapshot.commit).items()}
        last = {self._place(path): entry for path, entry in git.list_tree(base).items()} if base else {}
        theirs = git.list_tree(head) if head else {}
        if last and not any(theirs.get(path) == entry for path, entry in last.items()):
            raise _MadeAnewError(head)

        return graft(sorted(ours.keys() | last.keys()), theirs, last, ours, self.mirror.on_foreign_edit)

    def _routes(self, steps: Iterable[Mapping[str, TreeEntry | None]]) -> dict[str, bool | None]:
        """Return of each path that is written whether it is a pointer; ``None`` if that differs from step to step."""
        entries = [(path, entry.blob) for step in steps for path, entry in step.items() if entry is not None]
        pointers = self._store.pointers({blob for _, blob in entries})
        routes: dict[str, bool | None] = {}
        for path, blob in entries:
            is_pointer = blob in pointers
            routes[path] = is_pointer if routes.get(path, is_pointer) == is_pointer else None

        return routes

    def _standing(
        self, snapshot: Snapshot, head: str, changed: Sequence[tuple[Snapshot, Mapping[str, TreeEntry | None]]]
    ) -> dict[str, bool]:
        """Return of each path of ours that will stand on *head* whether it is a pointer.

        Others may have changed the attributes, and the operator the patterns, since it was published.
        """
        there: dict[str, TreeEntry | None] = dict(self._git.list_tree(head))
        for _, changes in changed:
            there |= changes
        ours = {self._place(path): entry for path, entry in self._git.list_tree(snapshot.commit).items()}
        blobs = {path: entry.blob for path, entry in ours.items() if there.get(path) == entry}
        pointers = self._store.pointers(set(blobs.values()))

        return {path: blob in pointers for path, blob in blobs.items()}

    def _report_foreign(self, step: Graft, tip: str | None) -> None:
        for policy in sorted({edit.policy for edit in step.foreign}):
            paths = [edit.path for edit in step.foreign if edit.policy == policy]
            log.warning("mirror.foreign_edit", repo=self.mirror.repo_id, paths=paths, files=len(paths), commit=tip,
                        policy=policy)  # fmt: skip
        if step.halted:
            raise MirrorError(
                f"others changed {step.halted[0]} on the mirror",
                error_kind="conflict",
                retryable=False,
                paths=step.halted,
                hint='decide whose version stays: set on_foreign_edit to "ours" or "theirs"',
            )

    def _place(self, path: str) -> str:
        return with_prefix(self.mirror.path_in_repo, path)


def _fold(steps: Sequence[Step]) -> Step:
    """Return *steps* as one that leads to the last snapshot."""
    folded: dict[str, TreeChange] = {}
    for change in (change for step in steps for change in step.changes):
        before = folded[change.path].before if change.path in folded else change.before
        folded[change.path] = TreeChange(change.path, before, change.after)

    return Step(steps[-1].snapshot, tuple(folded.values()))
