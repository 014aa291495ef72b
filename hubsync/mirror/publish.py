"""Publishes one target to one mirror: objects first, then our tree grafted on its head, then the record.

Joins the decisions (``view``, ``graft``) with the adapters (``remote``, ``hub``, the store). Of other mirrors it knows only
that an object may be had there. It never retries by itself, except when somebody else pushed between its fetch and its
push.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event

from msgspec import Struct
from msgspec.structs import replace

from hubsync.config.model import Config, Endpoint, Mirror, Target
from hubsync.errors import GitError, MirrorError, StateError
from hubsync.mirror.ahead import Ahead
from hubsync.mirror.announce import Announcer, Published, sum_up
from hubsync.mirror.api_remote import ApiRemote
from hubsync.mirror.branch import Grafted, MadeAnewError
from hubsync.mirror.budget import Budget
from hubsync.mirror.cards import open_cards
from hubsync.mirror.failures import is_of_content, is_of_damage
from hubsync.mirror.hub import Hub
from hubsync.mirror.hub_facts import Pull
from hubsync.mirror.limits import Limits
from hubsync.mirror.place import Place
from hubsync.mirror.pulls import Pulls
from hubsync.mirror.pusher import Pusher
from hubsync.mirror.record import Record
from hubsync.mirror.refusals import Refusals
from hubsync.mirror.remote import Remote
from hubsync.mirror.repository import Repository
from hubsync.mirror.retain import Retainer
from hubsync.mirror.supply import Backlog, Supply, newest_first
from hubsync.mirror.token import Tokens
from hubsync.mirror.uploader import Uploader
from hubsync.mirror.view import Step, View, fold
from hubsync.monitor.logger import get_logger
from hubsync.monitor.status import Transfer
from hubsync.store.snapshot import Snapshot, Store
from hubsync.watch.entry import Identity

_UNREACHABLE = {"network", "tls"}
_NOT_LET_IN = {"auth", "forbidden"}
_MOST_AHEAD = 8  # units in a row: where they come faster than they are published, the others would never have a turn

log = get_logger()


class Means(Struct, frozen=True):
    """What mirrors need beside their declaration; all of a process share *tokens* and *limits*."""

    config: Config
    tokens: Tokens
    limits: Limits
    stop: Event


class Publisher:
    """Keeps one mirror of one target up to date. Not for use by several threads at once.

    Attributes:
        refusals: what the mirror refuses.
        retainer: what lets units go from it that its rules do not keep.
        supply: what brings objects to it.
    """

    def __init__(self, store: Store, target: Target, mirror: Mirror, means: Means) -> None:
        endpoints, tokens, stop = means.config.endpoints, means.tokens, means.stop
        endpoint = endpoints[mirror.endpoint]
        self.mirror = mirror
        self._target = target
        self._store = store
        self._view = View(target, mirror, store)
        self._hub = Hub(endpoint, tokens)
        self._budget = Budget(means.limits, endpoint, mirror)
        self._git = store.open_mirror(mirror.name)
        cards = open_cards(target, mirror, endpoint, self._view, store, self._git)
        self._record = Record(self._git, store, mirror, self._view)
        self.refusals = Refusals(target, store, self._view, cards, self._record)
        self._remote = (
            ApiRemote(self._git, store.objects, mirror, self._hub, stop)
            if mirror.transport == "http"
            else Remote(self._git, store.objects, mirror, endpoint, tokens, stop)
        )
        others = {
            other.name: Remote(self._git, store.objects, other, endpoints[other.endpoint], tokens, stop)
            for other in target.mirrors
            if other.name != mirror.name
        }
        uploader = Uploader(store, mirror.name, self._remote, others, means.config.service.min_free_bytes)
        place = Place(target, mirror, store, self._git)
        self._pulls = Pulls(place, self._hub, self._remote, self._record) if mirror.pull_request else None
        self._repository = Repository(mirror, self._hub, self._remote, self._record)
        self.supply = Supply(store, uploader, self.refusals)
        self._pusher = Pusher(place, self._repository, self._remote, self._record, cards, self.supply.lacked, self._pulls)
        self.retainer = Retainer(place, self._view, self._record, self._remote, self._pusher)
        self._announcer = Announcer(place, self._view, self._remote)
        self.on_success: Callable[[], None] = lambda: None  # called after each push, of which a publication may have two
        self._measured: tuple[object, Backlog] = (None, Backlog())

    def published(self) -> str | None:
        """Return the newest snapshot that the mirror is known to hold."""
        return self._record.published

    @property
    def transfer(self) -> Transfer | None:
        """How far the upload is that goes on now."""
        sending = self._remote.sending
        return sending.seen if sending is not None else None

    @property
    def progressed(self) -> float:
        """When a command or an upload last got on, in monotonic seconds."""
        return self._remote.progressed

    def holds(self, snapshot: str, unit: str | None) -> bool:
        """Tell whether the mirror shows *unit*, or with ``None`` everything, as it is at *snapshot* or later."""
        if unit is None:
            return not self.refusals.reasons() and self._store.is_ancestor(snapshot, self._record.there)
        if self._view.refuses_unit(unit):
            return False
        shown = [self._record.there, self._record.ahead(self._store.backlog(self.published())).units.get(unit)]
        return any(self._store.is_ancestor(snapshot, commit) for commit in shown if commit)

    def head(self) -> str | None:
        """Return the head of the mirror's main branch as we left it, as the mirror names it."""
        return None if self._record.is_gone else self._remote.public_id(self._record.left(self.mirror.branch))

    @property
    def endpoint(self) -> Endpoint:
        """The Hub that the mirror is on."""
        return self._hub.endpoint

    @property
    def pull_request(self) -> Pull | None:
        """The pull request that what was published waits in, if it does."""
        return self._pulls.current if self._pulls is not None else None

    def due_s(self) -> float | None:
        """Return in how many seconds ``publish`` has something to do that no news tells of; ``None`` if it has not."""
        dues = [self._budget.due_s(), self._pulls.due_s() if self._pulls is not None else None]
        return min((due for due in dues if due is not None), default=None)

    def waits_for(self) -> str:
        """Return what the backlog waits for although nothing is wrong, for people to read; else nothing."""
        return self._budget.waits_for()

    def state(self, error_kind: str) -> object:
        """Return what changes when the cause of such an error is mended: the token, the repository, the pull request.

        A token that was refused is not sent again for that.
        """
        token = self._hub.tokens.mark(self._hub.endpoint)
        if error_kind == "auth":
            return token
        return token, self._repository.state(), self._pulls.state() if self._pulls is not None else None

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
        backlog = self._store.backlog(self.published())
        if not self._record.is_new_view():
            return backlog
        newest = self._store.backlog(None)[-1:]  # all is compared with it, and so it brings whatever was completed
        units = dict.fromkeys(unit for snapshot in (*newest, *backlog) for unit in snapshot.units)
        return [replace(snapshot, units=tuple(units)) for snapshot in newest]

    def unit_times(self) -> Mapping[str, int]:
        """Return the units that the mirror holds, and when each was last written."""
        times = self._store.unit_times(self._record.there)
        ahead = self._store.read_snapshots(self._record.commits_ahead())
        times = {**times, **{unit: shown.written_at for shown in ahead for unit in shown.units}}
        frozen = self._view.frozen()
        return {unit: written_at for unit, written_at in times.items() if unit not in frozen}

    def measure_backlog(self) -> Backlog:
        """Return how much the mirror lacks."""
        published = self._record.there
        key = (published, self._store.head(), self._record.commits_ahead())
        if key != self._measured[0]:
            self._measured = (key, self._measure(published))
        return self._measured[1]

    def _measure(self, published: str | None) -> Backlog:
        backlog = self._store.backlog(published)
        if not backlog:
            return Backlog()
        ahead = self._record.ahead(backlog)
        if ahead.units:  # each is there as of a snapshot of its own
            return self.supply.measure([fold(self._lacking(published, backlog, ahead))], backlog[0].committed_at)
        changes = self._store.git.diff_trees(published, backlog[-1].commit)
        parts = self._view.filter_each(published, backlog[-1], changes, ahead)

        return self.supply.measure(parts, backlog[0].committed_at)

    def upload_early(self) -> None:
        """Upload what is captured of files that no snapshot has yet, and again what the mirror has lost."""
        early = self.supply.find_early(self._view.gets)
        if early or self.supply.is_owed():
            self._repository.check()
            try:
                self.supply.send_early(early)
                self.supply.heal()
            except MirrorError as exc:
                self._repository.note_failure(exc)
                raise

    def publish(self) -> Published | None:
        """Bring the mirror to the newest snapshot; ``None`` if it was there already or nothing could be published.

        Raises:
            MirrorError: a step failed; what was done before it stays done.
            StoppedError: hubsync is stopping.
        """
        if self._git.is_damaged and self._store.mend_mirror(self._git):  # all of it is gone, such as by a hand
            self._record.read()
        try:
            return self._publish_and_retain()
        except (GitError, StateError, MirrorError) as exc:
            if not is_of_damage(exc) or not self._store.mend_mirror(self._git):
                raise
        self._record.read()
        return self._publish_and_retain()

    def _publish_and_retain(self) -> Published | None:
        self.refusals.forget_mended()
        self.refusals.refuse_unseen(self.waiting)
        with self._git.remember_trees(), self._store.git.remember_trees():
            while True:
                try:
                    done = self._publish()
                    self._retain()
                except MirrorError as exc:
                    if not self._hold_back(exc):
                        self._note_failure(exc)
                        raise
                else:
                    return done
                finally:
                    self._view.forget_listed()

    def _note_failure(self, exc: MirrorError) -> None:
        if exc.lacks_object:
            self.supply.forget(self.waiting())
        if exc.error_kind == "conflict" and exc.paths:
            self._announcer.tell_halted(exc.paths)
        self._repository.note_failure(exc)

    # --- what the mirror refuses

    def make_again(self) -> None:
        """Let a repository be made again that is gone, and a pull request that was closed without being merged."""
        self._repository.make_again()
        self.supply.heal_again()
        if self._pulls is not None:
            self._pulls.open_again()

    def _hold_back(self, exc: MirrorError) -> bool:
        """Hold back the files that *exc* names, so that all others get through; tell whether that changes anything."""
        if not is_of_content(exc):
            return False
        if not self.refusals.name_files(exc, steps := self.waiting()):
            return False
        if self.refusals.refuse_card(exc):
            return True
        if not self.refusals.folds:  # a version that is not the newest one any more may be what was refused
            self.refusals.folds = True
            return True

        return self.refusals.refuse_places(exc, steps)

    # --- the backlog

    def _publish(self) -> Published | None:
        done = [self._publish_once()]
        if self._record.is_short():  # what cannot be had is known by now, and is held back as what it is
            done.append(self._publish_once())

        return sum_up([each for each in done if each is not None])

    def _publish_once(self) -> Published | None:
        try:
            return self._publish_backlog()
        except MadeAnewError as exc:
            log.info("mirror.adopted", repo=self.mirror.repo_id, commit=self._remote.public_id(exc.head),
                     previous=self.head(), reason=f"{exc}: all is published again")  # fmt: skip
            self.forget_uploads()
            self._record.forget()

        return self._publish_backlog()

    def _publish_backlog(self) -> Published | None:
        if self._pulls is not None:
            self._pulls.follow(has_news=bool(self.backlog()))
        backlog = self.backlog()
        self._budget.is_awaited = False
        if not backlog:
            return None
        self._repository.check()
        done: list[Published] = []
        while len(done) < _MOST_AHEAD and not self.refusals.folds and len(backlog) > 1:
            if (newest := self._publish_newest_unit(backlog)) is None:
                break
            done.append(newest)
            backlog = self.backlog()
        started = time.monotonic()
        is_new_view = self._record.is_new_view()
        ahead = Ahead() if is_new_view else self._record.ahead(backlog)
        base = None if is_new_view else self.published()
        steps = self._lacking(base, backlog, ahead)
        if self.supply.bring(steps, self._pusher.asking_ahead) | self.supply.hold_back_lost(steps):
            steps = self._lacking(base, backlog, ahead)
        if steps and self.refusals.folds:
            steps = [fold(steps)]
        if steps := self._budget.fit(self.supply.publishable(steps), with_revisions=self._target.publish == "revisions"):
            *others, main = self._view.lines(base, steps, ahead)
            lines = [*others, replace(main, ours_before=self._record.shown(backlog)) if is_new_view else main]
            grafted = self._pusher.push(lines, is_new_view=is_new_view)
            self.supply.note_published(steps)
            self._note_published(grafted, steps[-1].snapshot.commit, ahead)
            done.append(self._announcer.tell(steps, lines, grafted, time.monotonic() - started))
        self.refusals.folds = False
        self._git.repack()

        return sum_up(done)

    # --- retention

    def forget_uploads(self) -> None:
        """Forget which objects the mirror has; it is asked again."""
        self._store.ledger.forget_uploads(self.mirror.name)

    def _retain(self) -> None:
        if self.mirror.retention.remote is None or self.backlog():
            return
        chosen = self.retainer.choose()
        if not chosen and not self.retainer.dropped.pending:
            return
        if self._budget.is_spent():
            self._budget.is_awaited = True
            return
        self._budget.count(self.retainer.drop(chosen))

    # --- the newest unit first

    def _publish_newest_unit(self, backlog: Sequence[Snapshot]) -> Published | None:
        """Publish the newest unit by itself if the mirror would wait for other objects before it gets that."""
        of_others = 1 + (self._target.publish == "revisions") if self._record.commits_ahead() else 0  # have waited already
        if self._budget.is_spent(reserved=of_others) or not any(snapshot.units for snapshot in backlog):
            return None
        started = time.monotonic()
        base = self.published()
        ahead = self._record.ahead(backlog)
        newest = self._newest_waiting(self._lacking(base, backlog, ahead))
        if newest is None:
            return None
        step = self._view.unit_step(base, newest, ahead)
        if self.supply.bring([step], self._pusher.asking_ahead):
            return None
        if not self.supply.publishable([step]):
            self.supply.hold_back_lost([step])
            return None
        commit = newest.commit
        after = Ahead({**ahead.units, **dict.fromkeys(newest.units, commit)}, ahead.order)
        lines = self._view.lines_ahead(base, step, ahead, after)
        grafted = self._pusher.push(lines, is_new_view=False)
        self.supply.note_published([step])
        self._note_published(grafted, base, ahead, ahead_of=commit)

        return self._announcer.tell([step], lines, grafted, time.monotonic() - started)

    def _note_published(
        self, grafted: Mapping[str, Grafted], published: str | None, ahead: Ahead, *, ahead_of: str | None = None
    ) -> None:
        self._budget.count(sum(each.commits for each in grafted.values()))
        heads = {name: each.commit for name, each in grafted.items()}
        is_short = any(each.is_short for each in grafted.values())
        self._record.note_published(heads, published, ahead, ahead_of=ahead_of, is_short=is_short)
        self._pusher.note_published(grafted)
        self.on_success()

    def _newest_waiting(self, steps: Sequence[Step]) -> Snapshot | None:
        """Return the newest snapshot of *steps* that completes units, if another one has objects to send."""
        skipped = set(self._view.skipped_units(steps))
        of_units = [step for step in newest_first(steps) if step.changes and set(step.snapshot.units) - skipped]
        if not of_units:
            return None
        newest = of_units[0].snapshot
        others = [step for step in steps if step.snapshot.commit != newest.commit]

        return newest if self.supply.lacks_for(others) else None

    def waiting(self) -> list[Step]:
        """Return all that the mirror lacks."""
        return self._lacking(None if self._record.is_new_view() else self.published(), self.backlog(), Ahead())

    def _lacking(self, base: str | None, backlog: Sequence[Snapshot], ahead: Ahead) -> list[Step]:
        changes = self._store.steps(base, backlog)
        steps = [Step(snapshot, tuple(step)) for snapshot, step in zip(backlog, changes, strict=True)]
        return self._view.filter(base, steps, ahead)
