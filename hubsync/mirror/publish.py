"""Publishes one target to one mirror: objects first, then our tree grafted on its head, then the record.

Joins the decisions (``view``, ``graft``) with the adapters (``remote``, ``hub``, the store). Of other mirrors it knows only
that an object may be had there. It never retries by itself, except when somebody else pushed between its fetch and its
push.
"""

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from threading import Event

import structlog

from hubsync.config.model import Config, Mirror, Target
from hubsync.errors import MirrorError
from hubsync.mirror.api_remote import ApiRemote
from hubsync.mirror.branch import Branch, Grafted, Head, MadeAnewError
from hubsync.mirror.cards import Cards
from hubsync.mirror.hub import Hub, Visibility
from hubsync.mirror.remote import HeadMovedError, Remote
from hubsync.mirror.roles import expand_include
from hubsync.mirror.token import Tokens
from hubsync.mirror.uploader import Uploader
from hubsync.mirror.view import Ahead, Line, Refusal, Step, View, fold
from hubsync.monitor.status import Transfer
from hubsync.store.git import Git, blob_id
from hubsync.store.pointer import Pointer
from hubsync.store.snapshot import Snapshot, Store
from hubsync.units import unit_of
from hubsync.watch.entry import Identity
from hubsync.watch.rules import PathRules

_LOST_RACES = 20

# In the mirror's own repository. What a branch showed when we last left it is remembered together with the snapshot
# that it showed then; what was only seen there is kept apart, so that a failed push leaves nothing half known.
_PUBLISHED = "refs/mirror/published"
LEFT = "refs/mirror/left/"
_SEEN = "refs/mirror/seen/"
_AHEAD = "refs/mirror/ahead/"  # and the snapshots after it whose units it shows already

_UNREACHABLE = {"network", "tls"}
_NOT_LET_IN = {"auth", "forbidden"}
_REFUSALS = {"rejected", "too_large"}
_LOADS_A_MODEL = PathRules(expand_include(("weights",)))

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Published:
    """What one publication did; ``commit`` is the head of the mirror's main branch now."""

    commit: str | None
    snapshots: tuple[Snapshot, ...]
    files: int
    bytes: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a mirror lacks; *since* is when the oldest of it was committed, seconds since the epoch."""

    files: int = 0
    bytes: int = 0
    since: int | None = None


def read_published(store: Store, mirror: str) -> str | None:
    """Return the snapshot that *mirror* is known to hold, without opening anything for writing."""
    directory = store.mirror_directory(mirror)
    return Git(directory).resolve(_PUBLISHED) if directory.exists() else None


class Publisher:
    """Keeps one mirror of one target up to date. Not for use by several threads at once."""

    def __init__(self, store: Store, target: Target, mirror: Mirror, config: Config, tokens: Tokens, stop: Event) -> None:
        endpoints = config.endpoints
        endpoint = endpoints[mirror.endpoint]
        self.mirror = mirror
        self._target = target
        self._store = store
        self._view = View(target, mirror, store)
        self._hub = Hub(endpoint, tokens)
        self._git = store.open_mirror(mirror.name)
        self._cards = Cards(target, mirror, endpoint, self._view, store, self._git)
        self._refs = self._git.list_refs("refs/mirror")  # only this process moves them
        self._remote = (
            ApiRemote(self._git, store.objects, mirror, self._hub)
            if mirror.transport == "http"
            else Remote(self._git, store.objects, mirror, endpoint, tokens, stop)
        )
        others = {
            other.name: Remote(self._git, store.objects, other, endpoints[other.endpoint], tokens, stop)
            for other in target.mirrors
            if other.name != mirror.name
        }
        self._uploader = Uploader(store, mirror.name, self._remote, others, config.service.min_free_bytes)
        self._branches: dict[str, Branch] = {}
        self._began = 0.0
        self._checked = False
        self._folds = False  # whether the backlog goes as one commit, because one of them was refused
        self._measured: tuple[tuple[str | None, str | None], Backlog] = ((None, None), Backlog())

    def published(self) -> str | None:
        """Return the newest snapshot that the mirror is known to hold."""
        return self._refs.get(_PUBLISHED)

    @property
    def transfer(self) -> Transfer | None:
        """How far the upload is that goes on now."""
        sending = self._remote.sending
        return sending.seen if sending is not None else None

    @property
    def progressed(self) -> float:
        """When a publication last got on, in monotonic seconds."""
        return max(self._began, self._remote.progressed)

    def holds(self, snapshot: str, unit: str | None) -> bool:
        """Tell whether the mirror shows *unit*, or with ``None`` everything, as it is at *snapshot* or later."""
        if unit is None:
            return not self._view.refused and self._store.is_ancestor(snapshot, self.published())
        if self._view.refuses_unit(unit):
            return False
        shown = [self.published(), self._ahead(self._store.backlog(self.published())).units.get(unit)]
        return any(self._store.is_ancestor(snapshot, commit) for commit in shown if commit)

    def head(self) -> str | None:
        """Return the head of the mirror's main branch as we left it, as the mirror names it."""
        return self._remote.public_id(self._refs.get(LEFT + self.mirror.branch))

    def token_identity(self) -> Identity | None:
        """Return what changes when the mirror's token is replaced or mended."""
        return self._hub.tokens.identity(self._hub.endpoint)

    def place_of(self, error_kind: str) -> str:
        """Return where a person looks for the cause of such an error: the endpoint's address or its token."""
        endpoint = self._hub.endpoint
        if error_kind in _UNREACHABLE:
            return f"endpoint {endpoint.name}: {endpoint.url}"

        return self._hub.tokens.describe(endpoint) if error_kind in _NOT_LET_IN else ""

    def backlog(self) -> list[Snapshot]:
        """Return the snapshots that the mirror lacks, oldest first."""
        if self._is_new_view():
            return self._store.backlog(None)[-1:]
        return self._store.backlog(self.published())

    def unit_times(self) -> Mapping[str, int]:
        """Return the units that the mirror holds, and when each was last written."""
        times = self._store.unit_times(self.published())
        ahead = self._store.read_snapshots([ref.removeprefix(_AHEAD) for ref in self._refs if ref.startswith(_AHEAD)])
        return {**times, **{unit: shown.written_at for shown in ahead for unit in shown.units}}

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
        whole = Step(backlog[-1], tuple(self._store.git.diff_trees(published, backlog[-1].commit)))
        [step] = self._view.filter(published, [whole], self._ahead(backlog))
        blobs = [change.after.blob for change in step.changes if change.after]
        pointers = self._store.pointers(set(blobs))
        return Backlog(len(step.changes), sum(pointer.size for pointer in pointers.values()), backlog[0].committed_at)

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

    def upload_early(self) -> None:
        """Upload what is captured of files that no snapshot has yet, so far as the mirror gets them."""
        ledger = self._store.ledger
        wanted = {
            oid: pointer
            for oid, pointer in self._uploader.lacks(ledger.uncommitted_objects()).items()
            if any(self._view.shows(path) for path, _ in ledger.paths_of(oid))
        }
        if wanted:
            self.check_repository()
            self._uploader.upload(wanted)  # what is refused is said when its file is to be published

    def publish(self) -> Published | None:
        """Bring the mirror to the newest snapshot; ``None`` if it was there already or nothing could be published.

        Raises:
            MirrorError: a step failed; what was done before it stays done.
            StoppedError: hubsync is stopping.
        """
        self._began = time.monotonic()
        self._forget_mended()
        with self._git.remember_trees(), self._store.git.remember_trees():
            while True:
                try:
                    return self._publish()
                except MirrorError as exc:
                    if not self._hold_back(exc):
                        self._note_failure(exc)
                        raise

    def _note_failure(self, exc: MirrorError) -> None:
        self._checked = False
        if exc.lacks_object:
            self._store.ledger.forget_uploads(self.mirror.name)
        if exc.error_kind == "conflict" and exc.paths:
            log.warning("mirror.foreign_edit", repo=self.mirror.repo_id, paths=exc.paths, files=len(exc.paths),
                        policy="halt")  # fmt: skip

    # --- what the mirror refuses

    def refused(self) -> dict[str, str]:
        """Return the files that the mirror refuses as they are, and why."""
        return {path: refusal.reason for path, refusal in self._view.refused.items()}

    def try_refused_again(self) -> None:
        """Forget what the mirror refused: it may take it now."""
        self._view.refused = {}
        self._cards.is_refused = False

    def _forget_mended(self) -> None:
        """Forget the refusal of files that are not any more what was refused."""
        in_tree = self._store.ledger.in_tree
        self._view.refused = {
            path: refusal
            for path, refusal in self._view.refused.items()
            if (entry := in_tree(path)) is not None and entry.blob == refusal.blob
        }

    def _hold_back(self, exc: MirrorError) -> bool:
        """Hold back the files that *exc* names, so that all others get through; tell whether that changes anything."""
        if exc.error_kind not in _REFUSALS or not exc.paths:
            return False
        if self._cards.refuse(exc.paths, str(exc)):
            return True
        if not self._folds:  # a version that is not the newest one any more may be what was refused
            self._folds = True
            return True
        steps = self._lacking(None if self._is_new_view() else self.published(), self.backlog(), Ahead())
        return self._refuse(self._view.sources(exc.paths, steps), str(exc), exc.hint)

    def _hold_back_lost(self, steps: Sequence[Step]) -> bool:
        """Hold back the files whose content is nowhere any more; tell whether there are such."""
        lost = self._lacked_blobs(steps)
        newest = {change.path: change.after for step in steps for change in step.changes}
        paths = [path for path, entry in newest.items() if entry is not None and entry.blob in lost]
        return self._refuse(paths, "it was changed or deleted here before it was uploaded, and no other mirror has it",
                            "nothing: its next version is published")  # fmt: skip

    def _refuse(self, paths: Sequence[str], reason: str, hint: str) -> bool:
        """Leave *paths*, as they are now, out of what is published; tell whether that changes anything."""
        was_new_view = self._is_new_view()
        entries = {path: self._store.ledger.in_tree(path) for path in paths if path not in self._view.refused}
        refused = {path: Refusal(entry.blob, reason) for path, entry in entries.items() if entry is not None}
        for path in refused:
            log.warning("file.rejected", path=path, unit=unit_of(self._target, path), reason=reason, hint=hint)
        self._view.refused = {**self._view.refused, **refused}
        if refused and not was_new_view and self.published() is not None:
            self._store.ledger.set_meta(self._view_key, self._view.signature)

        return bool(refused)

    def _publish(self) -> Published | None:
        try:
            return self._publish_backlog()
        except MadeAnewError:
            log.info("mirror.adopted", repo=self.mirror.repo_id, commit=self._refs.get(_SEEN + self.mirror.branch),
                     previous=self.head(), reason="nothing published is there as it was: all is compared")  # fmt: skip
            self._store.ledger.forget_uploads(self.mirror.name)
            self._move({ref: None for ref in self._refs if ref == _PUBLISHED or ref.startswith((LEFT, _AHEAD))})

        return self._publish_backlog()

    def _publish_backlog(self) -> Published | None:
        backlog = self.backlog()
        if not backlog:
            return None
        self.check_repository()
        done: list[Published] = []
        while not self._folds and len(backlog) > 1 and (newest := self._publish_newest_unit(backlog)) is not None:
            done.append(newest)
            backlog = self.backlog()
        started = time.monotonic()
        is_new_view = self._is_new_view()
        ahead = Ahead() if is_new_view else self._ahead(backlog)
        base = None if is_new_view else self.published()
        steps = self._lacking(base, backlog, ahead)
        if self._upload_for(steps) | self._hold_back_lost(steps):
            steps = self._lacking(base, backlog, ahead)
        if steps and self._folds:
            steps = [fold(steps)]
        if steps := self._publishable(steps):
            lines = self._view.lines(base, steps, ahead)
            grafted = self._push_grafted(lines, is_new_view=is_new_view)
            self._record(grafted, steps[-1].snapshot.commit, ahead)
            done.append(self._report(steps, lines, grafted, time.monotonic() - started))
        self._folds = False
        self._git.repack()

        return _sum_up(done)

    # --- the newest unit first

    def _publish_newest_unit(self, backlog: Sequence[Snapshot]) -> Published | None:
        """Publish the newest unit by itself if the mirror would wait for other objects before it gets that."""
        started = time.monotonic()
        base = self.published()
        ahead = self._ahead(backlog)
        newest = self._newest_waiting(self._lacking(base, backlog, ahead))
        if newest is None:
            return None
        step = self._view.unit_step(base, newest, ahead)
        if self._upload_for([step]):
            return None
        if not self._publishable([step]):
            self._hold_back_lost([step])
            return None
        commit = newest.commit
        after = Ahead({**ahead.units, **dict.fromkeys(newest.units, commit)}, ahead.order)
        lines = self._view.lines_ahead(base, step, ahead, after)
        grafted = self._push_grafted(lines, is_new_view=False)
        self._record(grafted, base, ahead, ahead_of=commit)

        return self._report([step], lines, grafted, time.monotonic() - started)

    def _newest_waiting(self, steps: Sequence[Step]) -> Snapshot | None:
        """Return the newest snapshot of *steps* that completes units, if another one has objects to send."""
        skipped = set(self._view.skipped_units(steps))
        of_units = [step.snapshot for step in steps if set(step.snapshot.units) - skipped]
        if not of_units:
            return None
        newest = max(of_units, key=lambda snapshot: snapshot.written_at)
        others = [step for step in steps if step.snapshot.commit != newest.commit]

        return newest if self._uploader.lacks(self._objects(others)) else None

    def _ahead(self, backlog: Sequence[Snapshot]) -> Ahead:
        shown = [snapshot for snapshot in backlog if _AHEAD + snapshot.commit in self._refs]
        return Ahead(
            {unit: snapshot.commit for snapshot in shown for unit in snapshot.units},
            {snapshot.commit: number for number, snapshot in enumerate(backlog)},
        )

    # --- objects

    def _lacking(self, base: str | None, backlog: Sequence[Snapshot], ahead: Ahead) -> list[Step]:
        changes = self._store.steps(base, backlog)
        steps = [Step(snapshot, tuple(step)) for snapshot, step in zip(backlog, changes, strict=True)]
        return self._view.filter(base, steps, ahead)

    def _objects(self, steps: Sequence[Step]) -> dict[str, Pointer]:
        """Return the objects (by oid) that *steps* need, those that are wanted most first."""
        blobs = {change.after.blob for step in steps for change in step.changes if change.after}
        pointers = self._store.pointers(blobs)
        wanted = [pointers[blob] for step in _newest_first(steps) for blob in _pointers_of(step, pointers)]
        return {pointer.oid: pointer for pointer in wanted}

    def _upload_for(self, steps: Sequence[Step]) -> bool:
        """Upload what *steps* need; tell whether the mirror refused something, which is held back from now on."""
        objects = self._objects(steps)
        refused = self._uploader.upload_from_anywhere(objects)
        blobs = {blob_id(objects[oid].encode()): failure for oid, failure in refused.items()}
        by_path = {c.path: blobs[c.after.blob] for step in steps for c in step.changes if c.after and c.after.blob in blobs}
        held = [self._refuse([path], str(failure), failure.hint) for path, failure in by_path.items()]

        return any(held)

    def _lacked_blobs(self, steps: Sequence[Step]) -> set[str]:
        """Return the pointers of *steps* whose objects the mirror lacks."""
        return {blob_id(pointer.encode()) for pointer in self._uploader.lacks(self._objects(steps)).values()}

    def _publishable(self, steps: Sequence[Step]) -> list[Step]:
        """Return the steps whose objects the mirror has; a step that lacks one is folded into the next."""
        lacked = self._lacked_blobs(steps)
        ready: list[Step] = []
        waiting: list[Step] = []
        for step in steps:
            waiting.append(step)
            folded = fold(waiting)
            if lacked.isdisjoint(change.after.blob for change in folded.changes if change.after):
                ready.append(folded)
                waiting = []

        return ready

    # --- branches

    def _push_grafted(self, lines: Sequence[Line], *, is_new_view: bool) -> dict[str, Grafted]:
        """Push *lines* on the mirror's heads, as often as somebody else is faster; return what was made of each."""
        names = [line.branch for line in lines]
        for _ in range(_LOST_RACES):
            # Asked, not assumed: a repository that was deleted and made anew takes our old history, without its objects.
            heads = self._adopt(self._remote.read_heads(names))
            grafted = {
                line.branch: self._branch(line.branch).graft(line, heads[line.branch], is_new_view=is_new_view)
                for line in lines
            }
            moved = {name: new.commit for name, new in grafted.items() if new.commit and new.commit != heads[name].commit}
            try:
                self._remote.push(moved)
            except HeadMovedError:
                continue
            return grafted

        raise MirrorError(
            f"somebody else pushed first, {_LOST_RACES} times in a row", error_kind="conflict", retryable=True
        )

    def _adopt(self, shown: Mapping[str, str | None]) -> dict[str, Head]:
        """Fetch those of the heads *shown* (branch → commit) that are not as we left them."""
        heads = {branch: Head(commit, self._refs.get(LEFT + branch)) for branch, commit in shown.items()}
        news = {
            branch: head.commit
            for branch, head in heads.items()
            if head.commit and not head.is_ours and head.commit != self._refs.get(_SEEN + branch)
        }
        if news:
            fetched = self._remote.fetch({branch: _SEEN + branch for branch in news})
            self._refs |= {_SEEN + branch: commit for branch, commit in fetched.items()}
            for branch, commit in fetched.items():
                log.info("mirror.adopted", repo=self.mirror.repo_id, commit=commit, previous=heads[branch].left,
                         branch=branch)  # fmt: skip
                heads[branch] = Head(commit, heads[branch].left)

        return heads

    def _branch(self, name: str) -> Branch:
        if name not in self._branches:
            self._branches[name] = Branch(
                name, self._git, self._store, self.mirror.on_foreign_edit, self._target.lfs.patterns, self._cards
            )
        return self._branches[name]

    def _record(
        self, grafted: Mapping[str, Grafted], published: str | None, ahead: Ahead, *, ahead_of: str | None = None
    ) -> None:
        """Remember the mirror's heads and what they show, all or none: *published*, and units that are *ahead_of* it."""
        moved: dict[str, str | None] = {LEFT + name: each.commit for name, each in grafted.items()}
        moved |= dict.fromkeys(ref for name in grafted if (ref := _SEEN + name) in self._refs)
        if ahead_of is None:
            reached = ahead.order.get(published or "", 0)
            passed = [ref for ref in self._refs if ref.startswith(_AHEAD)]
            moved |= dict.fromkeys(ref for ref in passed if ahead.order.get(ref.removeprefix(_AHEAD), 0) <= reached)
        else:
            moved[_AHEAD + ahead_of] = ahead_of
        self._move({**moved, _PUBLISHED: published})
        self._store.ledger.set_meta(self._view_key, self._view.signature)
        for name in grafted:
            self._branch(name).note_published()

    def _move(self, refs: Mapping[str, str | None]) -> None:
        moved = {ref: commit for ref, commit in refs.items() if commit != self._refs.get(ref)}
        if moved:
            self._git.update_refs(moved)
        self._refs = {ref: commit for ref, commit in {**self._refs, **refs}.items() if commit is not None}

    @property
    def _view_key(self) -> str:
        return f"view {self.mirror.name}"

    def _is_new_view(self) -> bool:
        """Tell whether the config showed something else of the snapshots when the mirror was published to."""
        known = self._store.ledger.meta(self._view_key)
        return self.published() is not None and known is not None and known != self._view.signature

    # --- what is said

    def _written(self, grafted: Mapping[str, Grafted]) -> list[str]:
        """Return the blobs that were written; those of a unit are not counted again on the main branch."""
        of_units = [blob for name, each in grafted.items() if name != self.mirror.branch for blob in each.blobs]
        known = set(of_units)
        return of_units + [blob for blob in grafted[self.mirror.branch].blobs if blob not in known]

    def _measure_blobs(self, blobs: Sequence[str]) -> int:
        """Return the bytes that *blobs* stand for: those of the object behind a pointer, else their own."""
        pointers = self._store.pointers(set(blobs))
        own = self._git.sizes({blob for blob in blobs if blob not in pointers})
        return sum(pointers[blob].size if blob in pointers else own.get(blob, 0) for blob in blobs)

    def _report(
        self, steps: Sequence[Step], lines: Sequence[Line], grafted: Mapping[str, Grafted], took_s: float
    ) -> Published:
        now = time.time()
        blobs = self._written(grafted)
        snapshots = tuple(step.snapshot for step in steps)
        done = Published(self.head(), snapshots, len(blobs), self._measure_blobs(blobs), round(took_s, 3))
        revisions = {line.unit: line.branch for line in lines if line.unit}
        skipped = self._view.skipped_units(steps)
        units = [(unit, snapshot) for snapshot in snapshots for unit in snapshot.units if unit not in skipped]
        for branch, each in grafted.items():
            self._report_foreign(branch, each)
        if any(step.changes for step in steps):  # else it was nothing of this mirror's
            log.info("mirror.published", repo=self.mirror.repo_id, commit=done.commit, files=done.files, bytes=done.bytes,
                     units=[unit for unit, _ in units], took_s=done.took_s)  # fmt: skip
        for unit, snapshot in units:
            revision = revisions.get(unit)
            log.info("unit.published", unit=unit, repo=self.mirror.repo_id, revision=revision,
                     commit=self._remote.public_id(grafted[revision].commit) if revision else done.commit,
                     lag_s=round(max(0.0, now - snapshot.written_at), 3))  # fmt: skip
        for unit in skipped:
            log.info("unit.skipped", unit=unit, repo=self.mirror.repo_id, reason=f"keep_latest = {self.mirror.keep_latest}")

        return done

    def _report_foreign(self, branch: str, grafted: Grafted) -> None:
        for policy in sorted({edit.policy for edit in grafted.foreign}):
            paths = [edit.path for edit in grafted.foreign if edit.policy == policy]
            log.warning("mirror.foreign_edit", repo=self.mirror.repo_id, paths=paths, files=len(paths),
                        commit=grafted.commit, policy=policy, branch=branch)  # fmt: skip


def _sum_up(done: Sequence[Published]) -> Published | None:
    """Return several publications as one; ``None`` if there was none."""
    if not done:
        return None
    snapshots = tuple(snapshot for each in done for snapshot in each.snapshots)
    return Published(
        done[-1].commit, snapshots, sum(each.files for each in done), sum(each.bytes for each in done),
        round(sum(each.took_s for each in done), 3),
    )  # fmt: skip


def _newest_first(steps: Sequence[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: (bool(step.snapshot.units), step.snapshot.written_at), reverse=True)


def _pointers_of(step: Step, pointers: Container[str]) -> list[str]:
    """Return the *pointers* that *step* writes: what loads the model before what resumes the run."""
    written = [(c.path, c.after.blob) for c in step.changes if c.after and c.after.blob in pointers]
    return [blob for _, blob in sorted(written, key=lambda one: not _LOADS_A_MODEL.verdict(one[0]).taken)]
