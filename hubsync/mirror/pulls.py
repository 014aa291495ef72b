"""Follows the pull request that a mirror is published as: one that is open is added to; the next one begins where it ended.

Commits are put on its ref as on any branch, by the mirror's transport. It must never know what is published.
"""

import time

from hubsync.errors import MirrorError
from hubsync.mirror.api_remote import ApiRemote
from hubsync.mirror.hub import Hub
from hubsync.mirror.hub_facts import Pull
from hubsync.mirror.place import Place
from hubsync.mirror.record import Record
from hubsync.mirror.remote import Remote
from hubsync.monitor.logger import get_logger

_LOOK_S = 300.0  # how often an open one is looked at while there is nothing to publish

log = get_logger()


class Pulls:
    """The pull requests of one mirror.

    Attributes:
        current: the one that is open, as it was when it was looked at last.
    """

    def __init__(self, place: Place, hub: Hub, remote: Remote | ApiRemote, record: Record) -> None:
        self._place = place
        self._hub = hub
        self._remote = remote
        self._record = record
        self._key = f"pull request {place.mirror.name} {place.mirror.repo_type}/{place.mirror.repo_id}"
        self._looked_at = float("-inf")
        self._opens_again = False
        self.current: Pull | None = None

    @property
    def _known(self) -> int | None:
        """The number of the one that was opened last, and not merged as far as is known."""
        text = self._place.store.ledger.meta(self._key) or ""
        return int(text) if text.isdecimal() else None

    def due_s(self) -> float | None:
        """Return in how many seconds the open one is to be looked at; ``None`` if there is none."""
        return None if self._known is None else max(0.0, self._looked_at + _LOOK_S - time.monotonic())

    def state(self) -> str | None:
        """Return what became of the last one, as the Hub says now; ``None`` if there is none."""
        known = self._known
        pull = None if known is None else self._hub.read_pull(self._place.mirror, known)

        return pull.status if pull is not None else None

    def open_again(self) -> None:
        """Let the next one be opened although the last one was closed: a person wishes it."""
        self._opens_again = True

    def follow(self, *, has_news: bool) -> None:
        """See what became of the last one: what comes next goes there while it is open, else on the branch's head.

        Raises:
            MirrorError: it was closed without being merged.
        """
        asked, self._opens_again = self._opens_again, False
        known = self._known
        if not has_news and not asked and (known is None or (self.due_s() or 0.0) > 0):
            return
        pull = self._find(known, has_news=has_news)
        self._looked_at = time.monotonic()
        if pull is not None and pull.is_open:
            self._use(pull)
            return
        self._use(None)
        if pull is None:
            return
        if pull.status == "merged":
            log.info("pull.merged", repo=self._place.mirror.repo_id, number=pull.number, url=pull.url)
        elif not asked:
            self._remember(pull.number)
            raise MirrorError(
                f"pull request #{pull.number} was closed without being merged: {pull.url}",
                error_kind="rejected",
                retryable=False,
                hint="reopen it, or have a new one opened",
            )
        else:
            self._record.forget()  # the branch has nothing of what was put there

    def open(self) -> None:
        """Open one, from the branch's head."""
        target, mirror = self._place.target, self._place.mirror
        said = f"hubsync publishes {target.name} here. Commits are added until this is merged or closed."
        pull = self._hub.open_pull(mirror, self._title, said)
        self._use(pull)
        self._looked_at = time.monotonic()
        log.info("pull.opened", repo=mirror.repo_id, number=pull.number, url=pull.url)

    def show(self) -> None:
        """Show it to those who review: it is a draft until its first commit is there."""
        if self.current is not None and self.current.status == "draft":
            self._use(self._hub.show_pull(self._place.mirror, self.current))

    @property
    def _title(self) -> str:
        inside = self._place.mirror.path_in_repo
        return f"hubsync: {self._place.target.name}" + (f" in {inside}" if inside.parts else "")

    def _find(self, known: int | None, *, has_news: bool) -> Pull | None:
        if known is not None:
            return self._hub.read_pull(self._place.mirror, known)
        return self._hub.find_pull(self._place.mirror, self._title) if has_news else None

    def _use(self, pull: Pull | None) -> None:
        """Let *pull* stand for the mirror's branch, from now on."""
        self.current = pull
        self._remote.refs.clear()
        if pull is not None:
            self._remote.refs[self._place.mirror.branch] = pull.ref
        self._remember(None if pull is None else pull.number)

    def _remember(self, number: int | None) -> None:
        if number != self._known:
            self._place.store.ledger.set_meta(self._key, "" if number is None else str(number))
