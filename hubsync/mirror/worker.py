"""Keeps one mirror going: publish, say how it went, and when to try again. One failure never reaches another mirror."""

import random
import time
from datetime import UTC, datetime

from msgspec import Struct, field

from hubsync.config.model import Mirror
from hubsync.errors import HubsyncError, MirrorError, find_known
from hubsync.mirror.announce import Published
from hubsync.mirror.limits import Limits, endpoint_name, repo_name
from hubsync.mirror.publish import Publisher
from hubsync.mirror.retry import left_after_restart_s, next_look_s, next_refused_try_s, next_try_s
from hubsync.mirror.trouble_notes import TroubleNote, TroubleNotes
from hubsync.monitor.logger import bound, get_logger
from hubsync.monitor.streak import is_said
from hubsync.monitor.text import format_duration
from hubsync.store.process import StoppedError
from hubsync.store.proof_rows import Publication
from hubsync.store.snapshot import Store
from hubsync.watch.entry import Identity

_LIMITED = frozenset({"rate_limited", "commit_quota"})
_LOCAL = frozenset({"disk_full", "local_io"})
_OF_TOKENS = frozenset({"auth", "forbidden", "not_found"})  # another token may be the cure

log = get_logger()


class Trouble(Struct):
    """A row of failures that has not ended yet; ``next_try`` is a monotonic time, ``token`` the one that failed."""

    error: HubsyncError
    token: Identity | None = None
    place: str = ""
    since: float = field(default_factory=time.monotonic)
    since_utc: datetime = field(default_factory=lambda: datetime.now(UTC))
    failures: int = 0
    next_try: float = 0.0
    is_news: bool = True  # nothing was logged of it since hubsync started
    next_look: float | None = None  # when to see whether the repository has changed, monotonic
    looks: int = 0
    seen: object = None  # the repository as it was when it failed

    @property
    def is_parked(self) -> bool:
        """Whether waiting does not help."""
        return not self.error.retryable

    @property
    def down_s(self) -> float:
        """For how long it has lasted."""
        return round(time.monotonic() - self.since, 1)

    @property
    def hint(self) -> str:
        """What the operator can do, and how it takes effect."""
        place = f" ({self.place})" if self.place and self.error.hint else ""
        if not self.is_parked:
            return f"{self.error.hint}{place}"
        noticed = "; a replaced token file is noticed without" if self.error.error_kind in _OF_TOKENS else ""
        return f"{self.error.hint or 'mend it'}{place}, then run `hubsync flush`{noticed}"


class MirrorWorker:
    """The life of one mirror of one target. ``run`` is called by one thread at a time."""

    def __init__(self, target: str, store: Store, publisher: Publisher, limits: Limits) -> None:
        self.target = target
        self.publisher = publisher
        self.trouble: Trouble | None = None
        self.last_success: datetime | None = None
        self._began: float | None = None  # the run that goes on, monotonic
        self._is_asked_again = self._makes_again = False
        self._refused_tries = 0
        self._refused_next = 0.0  # when what was refused is sent again, monotonic
        self._limits = limits
        self._store = store
        self._endpoint = endpoint_name(publisher.endpoint)
        self._repo = repo_name(publisher.endpoint, publisher.mirror)
        self._log = log.bind(target=target, mirror=self.mirror.name)
        self._notes = TroubleNotes(store.ledger, self.mirror)
        publisher.on_success = self._end_trouble
        self._go_on_waiting()

    @property
    def mirror(self) -> Mirror:
        """The mirror's declaration."""
        return self.publisher.mirror

    @property
    def is_running(self) -> bool:
        """Whether a run goes on."""
        return self._began is not None

    @property
    def progressed(self) -> float | None:
        """When the run that goes on last got on, in monotonic seconds; ``None`` if none goes on."""
        began = self._began
        return None if began is None else max(began, self.publisher.progressed)

    def run(self, *, now: bool = False, early: bool = True) -> Published | None:
        """Publish what there is, unless a wait is on (*now* ends it), then upload what may go *early*.

        Raises:
            StoppedError: hubsync is stopping.
        """
        is_asked = now or self._is_asked_again
        if not is_asked and self.wait_s() > 0 and not self._has_changed():
            return None
        self._began = time.monotonic()
        try:
            return self._run(is_asked=is_asked, makes_again=now or self._makes_again, early=early)
        finally:
            self._began = None

    def _run(self, *, is_asked: bool, makes_again: bool, early: bool) -> Published | None:
        self._is_asked_again = self._makes_again = False
        if is_asked or self._sends_refused_again():
            self.publisher.refusals.try_again()
        if makes_again:
            self.publisher.make_again()
        head = self.publisher.head()
        token = self.publisher.token_identity()  # before it is read: what is replaced later is new
        try:
            with bound(target=self.target, mirror=self.mirror.name):
                published = self.publisher.publish()
                if early:
                    self.publisher.upload_early()
        except StoppedError:
            raise
        except HubsyncError as exc:
            self._note_failure(exc, token)
            return None
        except Exception as exc:  # noqa: BLE001 - it stops this mirror alone, and is tried again
            known = find_known(exc)
            self._note_failure(known or _unexpected(exc), token)
            if known is None and self.trouble is not None and is_said(self.trouble.failures):  # with its traceback
                self._log.exception("schedule.failed", job="push", error=str(self.trouble.error), retryable=True,
                                    error_kind=self.trouble.error.error_kind, failures=self.trouble.failures)  # fmt: skip
            return None
        self._note_success(is_asked=is_asked)
        if published is not None:
            self._note_published(published, head, is_asked=is_asked)

        return published

    def ask_again(self, *, makes_again: bool = True) -> None:
        """Let the next run try at once, also what the mirror refused; *makes_again*: also what somebody deleted there."""
        self._is_asked_again = True
        self._makes_again |= makes_again
        if self.trouble is not None:
            self.trouble.next_try = 0.0

    # --- when

    def wait_s(self) -> float:
        """Return the seconds until the next try is due; 0 if nothing is wrong here, nor with the Hub's patience."""
        if self._is_asked_again:
            return 0.0
        own = 0.0
        if self.trouble is not None and not self.has_new_token():
            own = max(0.0, self.trouble.next_try - time.monotonic())

        return max(own, self._limits.wait_s(self._endpoint, self._repo))

    def due_s(self) -> float | None:
        """Return in how many seconds a run has something to do that no news tells of; ``None`` if it has not."""
        if (wait_s := self.wait_s()) > 0 or self.trouble is not None:
            look = self.trouble.next_look if self.trouble is not None else None
            return wait_s if look is None else min(wait_s, max(0.0, look - time.monotonic()))
        dues = [self.publisher.due_s()]
        if self.publisher.refusals.reasons():
            dues.append(max(0.0, self._refused_next - time.monotonic()))

        return min((due for due in dues if due is not None), default=None)

    def waits_for(self) -> str:
        """Return what the mirror waits for although nothing is wrong with it, for people to read; else nothing."""
        if self.trouble is None and (wait_s := self._limits.wait_s(self._endpoint, self._repo)) > 0:
            return f"the Hub, which asked for a wait on another mirror: {format_duration(wait_s)} more"
        return self.publisher.waits_for()

    def has_new_token(self) -> bool:
        """Tell whether the token's file was replaced or mended since the last failure."""
        return self.trouble is not None and self.trouble.token != self.publisher.token_identity()

    def _has_changed(self) -> bool:
        """Tell whether a parked mirror's repository or token is another one than when it failed; looks now and then."""
        trouble = self.trouble
        if trouble is None or trouble.next_look is None or time.monotonic() < trouble.next_look:
            return False
        trouble.looks += 1
        trouble.next_look = time.monotonic() + (next_look_s(trouble.error.error_kind, trouble.looks) or 0.0)
        before, trouble.seen = trouble.seen, self.publisher.state(trouble.error.error_kind)

        return before is not None and before != trouble.seen

    def _sends_refused_again(self) -> bool:
        return bool(self.publisher.refusals.reasons()) and time.monotonic() >= self._refused_next

    def _go_on_waiting(self) -> None:
        """Take over a row of failures from before a restart; who restarts hubsync again and again must not hammer a Hub."""
        note = self._notes.read()
        if note is None:
            return
        error = MirrorError(note.error, error_kind=note.error_kind, retryable=note.retryable, hint=note.hint)
        wait_s = left_after_restart_s(note.next_try - time.time(), retryable=note.retryable, is_asked=note.is_asked)
        self.trouble = Trouble(
            error, self.publisher.token_identity(), self.publisher.place_of(note.error_kind),
            since=time.monotonic() - max(0.0, time.time() - note.since), since_utc=datetime.fromtimestamp(note.since, UTC),
            failures=note.failures, next_try=time.monotonic() + wait_s,
        )  # fmt: skip

    # --- how it went

    def _note_failure(self, exc: HubsyncError, token: Identity | None) -> None:
        is_known = self.trouble is not None and self.trouble.is_parked and not self.trouble.is_news
        parked_for = (self.trouble.error.error_kind, self.trouble.error.hint) if self.trouble and is_known else None
        trouble = self.trouble or Trouble(exc)
        self.trouble = trouble
        trouble.error, trouble.token, trouble.place = exc, token, self.publisher.place_of(exc.error_kind)
        trouble.failures += 1
        asked_s = _asked_s(exc)
        # What is full stays so for a while, and each try would send everything again: that has time.
        is_soon = exc.retryable and exc.error_kind != "quota"
        wait_s = next_try_s(trouble.failures, retryable=is_soon, asked_s=asked_s, luck=random.random(),  # noqa: S311 - jitter
                            is_local=exc.error_kind in _LOCAL)  # fmt: skip
        if exc.error_kind == "disk_full" and self._store.reserve.give_up():
            wait_s = 0.0
        trouble.next_try = time.monotonic() + wait_s
        if exc.error_kind in _LIMITED:
            self._limits.defer(self._endpoint if exc.error_kind == "rate_limited" else self._repo, wait_s)
        look_s = next_look_s(exc.error_kind, trouble.looks) if trouble.is_parked else None
        trouble.next_look = None if look_s is None else time.monotonic() + look_s
        trouble.seen = None if look_s is None else self.publisher.state(exc.error_kind)
        is_news, trouble.is_news = trouble.is_news, False
        self._notes.write(TroubleNote(
            str(exc), exc.error_kind, exc.hint, trouble.failures, trouble.since_utc.timestamp(), time.time() + wait_s,
            retryable=exc.retryable, is_asked=asked_s is not None,
        ))  # fmt: skip
        # A long outage must not fill the log: each doubling of the count is said, and so is the cure.
        if exc.retryable and (is_news or is_said(trouble.failures)):
            self._log.warning("mirror.failed", repo=self.mirror.repo_id, error=str(exc), error_kind=exc.error_kind,
                              retryable=True, hint=trouble.hint, attempt=trouble.failures, down_s=trouble.down_s,
                              next_try_s=round(wait_s, 1))  # fmt: skip
        elif not exc.retryable and parked_for != (exc.error_kind, exc.hint):
            self._log.error("mirror.parked", repo=self.mirror.repo_id, error=str(exc), error_kind=exc.error_kind,
                            retryable=False, hint=trouble.hint, attempt=trouble.failures, down_s=trouble.down_s,
                            next_try_s=round(wait_s, 1))  # fmt: skip

    def _note_published(self, published: Published, since: str | None, *, is_asked: bool) -> None:
        """Remember it for `hubsync history`."""
        units = tuple(dict.fromkeys(unit for snapshot in published.snapshots for unit in snapshot.units))
        trigger = "asked" if is_asked else "unit" if units else "schedule"
        self._store.ledger.record_publication(Publication(
            self.mirror.name, time.time(), published.commit or "", units, published.files, published.bytes,
            published.took_s, trigger, since,
        ))  # fmt: skip

    def _note_success(self, *, is_asked: bool) -> None:
        self.last_success = datetime.now(UTC)
        if is_asked:  # it was asked although it had asked for a wait, and answered
            self._limits.allow(self._endpoint, self._repo)
        if not (kinds := self.publisher.refusals.kinds()):
            self._refused_tries = 0
        elif time.monotonic() >= self._refused_next:
            self._refused_tries += 1
            self._refused_next = time.monotonic() + next_refused_try_s(self._refused_tries, kinds)
        self._end_trouble()

    def _end_trouble(self) -> None:
        if self.trouble is not None:
            self._log.info("mirror.recovered", repo=self.mirror.repo_id, failures=self.trouble.failures,
                           down_s=self.trouble.down_s)  # fmt: skip
            self._notes.clear()
            self.trouble = None


def _asked_s(exc: HubsyncError) -> float | None:
    """Return the wait that the Hub asked for, in seconds from now; ``None`` if it asked for none."""
    if not isinstance(exc, MirrorError):
        return None
    if exc.retry_after_s is None and exc.retry_at is not None:
        return max(0.0, exc.retry_at - time.time())

    return exc.retry_after_s


def _unexpected(exc: Exception) -> HubsyncError:
    """Return what nobody foresaw as an error that is tried again."""
    failure = HubsyncError(f"{type(exc).__name__}: {exc}", hint="this is a fault of hubsync; please report it")
    failure.retryable = True
    failure.__cause__ = exc

    return failure
