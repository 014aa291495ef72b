"""Keeps one mirror going: publish, say how it went, and when to try again. One failure never reaches another mirror."""

import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from hubsync.config.model import Mirror
from hubsync.errors import HubsyncError, MirrorError
from hubsync.mirror.announce import Published
from hubsync.mirror.publish import Publisher
from hubsync.mirror.retry import left_after_restart_s, next_try_s
from hubsync.mirror.trouble_notes import TroubleNote, TroubleNotes
from hubsync.monitor.streak import is_said
from hubsync.store.process import StoppedError
from hubsync.store.snapshot import Store
from hubsync.watch.entry import Identity

log = structlog.get_logger()


@dataclass(slots=True)
class Trouble:
    """A row of failures that has not ended yet; ``next_try`` is a monotonic time, ``token`` the one that failed."""

    error: HubsyncError
    token: Identity | None = None
    place: str = ""
    since: float = field(default_factory=time.monotonic)
    since_utc: datetime = field(default_factory=lambda: datetime.now(UTC))
    failures: int = 0
    next_try: float = 0.0
    is_news: bool = True  # nothing was logged of it since hubsync started

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
        return f"{self.error.hint or 'mend it'}{place}, then run `hubsync flush`; a replaced token file is noticed without"


class MirrorWorker:
    """The life of one mirror of one target. ``run`` is called by one thread at a time."""

    def __init__(self, target: str, store: Store, publisher: Publisher) -> None:
        self.target = target
        self.publisher = publisher
        self.trouble: Trouble | None = None
        self.last_success: datetime | None = None
        self.is_running = False
        self._is_asked_again = False
        self._store = store
        self._log = log.bind(target=target, mirror=self.mirror.name)
        self._notes = TroubleNotes(store.ledger, self.mirror)
        self._go_on_waiting()

    @property
    def mirror(self) -> Mirror:
        """The mirror's declaration."""
        return self.publisher.mirror

    def run(self, *, now: bool = False) -> Published | None:
        """Publish what there is, unless a wait is on (*now* ends it).

        Raises:
            StoppedError: hubsync is stopping.
        """
        if not now and self.wait_s() > 0:
            return None
        self.is_running = True
        if now or self._is_asked_again:
            self._is_asked_again = False
            self.publisher.try_refused_again()
        token = self.publisher.token_identity()  # before it is read: what is replaced later is new
        try:
            with structlog.contextvars.bound_contextvars(target=self.target, mirror=self.mirror.name):
                published = self.publisher.publish()
                self.publisher.upload_early()
        except StoppedError:
            raise
        except HubsyncError as exc:
            self._note_failure(exc, token)
            return None
        finally:
            self.is_running = False
        self._note_success()

        return published

    def ask_again(self) -> None:
        """Let the next run try at once, also what the mirror refused."""
        self._is_asked_again = True
        if self.trouble is not None:
            self.trouble.next_try = 0.0

    def wait_s(self) -> float:
        """Return the seconds until the next try is due; 0 if nothing is wrong."""
        if self.trouble is None or self.has_new_token():
            return 0.0
        return max(0.0, self.trouble.next_try - time.monotonic())

    def has_new_token(self) -> bool:
        """Tell whether the token's file was replaced or mended since the last failure."""
        return self.trouble is not None and self.trouble.token != self.publisher.token_identity()

    def _go_on_waiting(self) -> None:
        """Take over a row of failures from before a restart; who restarts hubsync again and again must not hammer a Hub."""
        note = self._notes.read()
        if note is None:
            return
        error = MirrorError(note.error, error_kind=note.error_kind, retryable=note.retryable, hint=note.hint)
        wait_s = left_after_restart_s(note.next_try - time.time(), retryable=note.retryable, is_asked=note.is_asked)
        self.trouble = Trouble(
            error, self.publisher.token_identity(), self.publisher.place_of(note.error_kind),
            since=time.monotonic() - (time.time() - note.since), since_utc=datetime.fromtimestamp(note.since, UTC),
            failures=note.failures, next_try=time.monotonic() + wait_s,
        )  # fmt: skip

    def _note_failure(self, exc: HubsyncError, token: Identity | None) -> None:
        is_known = self.trouble is not None and self.trouble.is_parked and not self.trouble.is_news
        parked_for = self.trouble.error.error_kind if self.trouble is not None and is_known else None
        trouble = self.trouble or Trouble(exc)
        self.trouble = trouble
        trouble.error, trouble.token, trouble.place = exc, token, self.publisher.place_of(exc.error_kind)
        trouble.failures += 1
        asked_s = exc.retry_after_s if isinstance(exc, MirrorError) else None
        wait_s = next_try_s(trouble.failures, retryable=exc.retryable, asked_s=asked_s, luck=random.random())  # noqa: S311 - jitter
        trouble.next_try = time.monotonic() + wait_s
        is_news, trouble.is_news = trouble.is_news, False
        self._notes.write(TroubleNote(
            str(exc), exc.error_kind, exc.hint, trouble.failures, trouble.since_utc.timestamp(), time.time() + wait_s,
            retryable=exc.retryable, is_asked=asked_s is not None,
        ))  # fmt: skip
        if exc.retryable:
            # A long outage must not fill the log: each doubling of the count is said, and so is the cure.
            if is_news or is_said(trouble.failures):
                self._log.warning("mirror.failed", repo=self.mirror.repo_id, error=str(exc), error_kind=exc.error_kind,
                                  retryable=True, hint=trouble.hint, attempt=trouble.failures, down_s=trouble.down_s,
                                  next_try_s=round(wait_s, 1))  # fmt: skip
        elif parked_for != exc.error_kind:
            self._log.error("mirror.parked", repo=self.mirror.repo_id, error=str(exc), error_kind=exc.error_kind,
                            retryable=False, hint=trouble.hint, attempt=trouble.failures, down_s=trouble.down_s,
                            next_try_s=round(wait_s, 1))  # fmt: skip

    def _note_success(self) -> None:
        self.last_success = datetime.now(UTC)
        if self.trouble is not None:
            self._log.info("mirror.recovered", repo=self.mirror.repo_id, failures=self.trouble.failures,
                           down_s=self.trouble.down_s)  # fmt: skip
            self._notes.clear()
            self.trouble = None
