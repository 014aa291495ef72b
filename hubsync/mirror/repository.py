"""Sees to it that a mirror's repository exists, is as private as declared, and is the one that the config names."""

import time

from hubsync.config.model import Mirror
from hubsync.errors import MirrorError
from hubsync.mirror.api_remote import ApiRemote
from hubsync.mirror.hub import Hub
from hubsync.mirror.hub_facts import RepoState, Visibility
from hubsync.mirror.record import Record
from hubsync.mirror.remote import Remote
from hubsync.monitor.logger import get_logger

log = get_logger()


class Repository:
    """The repository of *mirror*."""

    def __init__(self, mirror: Mirror, hub: Hub, remote: Remote | ApiRemote, record: Record) -> None:
        self._mirror = mirror
        self._hub = hub
        self._remote = remote
        self._record = record
        self._checked_at: float | None = None  # monotonic
        self._is_told = False  # who may see it: a server that is no Hub does not say
        self._makes_again = False

    def check(self, *, fresh_s: float = 0.0) -> None:
        """Make sure that the repository exists and is as private as declared, unless that was seen *fresh_s* ago.

        One that was there and is gone is not made again unasked: somebody deleted it. A private one is looked at each
        time, since anybody who may can make it public; and through the API any, whose client follows a repository that
        was renamed without a word. Of the others, once is enough, and again after a failure.

        Raises:
            MirrorError: it is public although it is declared private, or cannot be seen or made, or has another name.
        """
        now = time.monotonic()
        if self._checked_at is not None and (not self._may_change or now < self._checked_at + fresh_s):
            return
        mirror = self._mirror
        state = self._hub.look(mirror)
        if state.visibility is Visibility.UNKNOWN and self._is_told:  # it may be public by now
            raise _no_hub()
        self._expect_same_name(state)
        self._expect_there(state)
        if state.visibility is Visibility.MISSING and self._hub.create(mirror):
            self._record.forget_heads()  # that nothing is there is known, and wished
            log.info("mirror.created", repo=mirror.repo_id, repo_type=mirror.repo_type, endpoint=mirror.endpoint,
                     branch=mirror.branch, private=mirror.private)  # fmt: skip
        if state.visibility is Visibility.PUBLIC and mirror.private:
            raise MirrorError(
                f"{mirror.repo_id} is public, but the config says private",
                error_kind="forbidden",
                retryable=False,
                hint="make the repository private on the Hub, or set private = false on this mirror",
            )
        if state.visibility is not Visibility.UNKNOWN:
            self._record.note_there(mirror.repo_id)
        self._makes_again = False
        self._is_told |= state.visibility is not Visibility.UNKNOWN
        self._checked_at = now

    def make_again(self) -> None:
        """Let the repository be made again if it is gone: a person wishes it."""
        self._checked_at, self._makes_again = None, True

    def note_failure(self, exc: MirrorError) -> None:
        """Check again before the next try; git says neither which name a repository has now nor that it is gone.

        Raises:
            MirrorError: it says that.
        """
        self._checked_at = None
        if exc.error_kind == "not_found":
            state = self._hub.look(self._mirror)
            self._expect_same_name(state)
            self._expect_there(state)
            if state.is_page:  # the repository may be there, or would have been made
                raise _no_hub() from exc

    def state(self) -> object:
        """Return what changes when the repository does: its name, who may see it, and its head."""
        try:
            state = self._hub.look(self._mirror)
            return self._remote.read_heads([self._mirror.branch]) if state.visibility is Visibility.UNKNOWN else state
        except MirrorError as exc:
            return exc.error_kind

    @property
    def _may_change(self) -> bool:
        return self._mirror.transport == "http" or (self._mirror.private and self._is_told)

    def _expect_there(self, state: RepoState) -> None:
        was_there = state.visibility is Visibility.MISSING and self._record.was_there(self._mirror.repo_id)
        if was_there and not self._makes_again:
            self._record.note_gone(self._mirror.repo_id)
            raise MirrorError(
                f"{self._mirror.repo_id} is gone from the Hub, or the token may not see it any more",
                error_kind="not_found",
                retryable=False,
                hint="have it restored, or let hubsync make it anew",
            )

    def _expect_same_name(self, state: RepoState) -> None:
        # Reported, not followed: what is written in the config is where its owner wants to find it.
        if state.repo_id.lower() not in {"", self._mirror.repo_id.lower()}:
            raise MirrorError(
                f"{self._mirror.repo_id} is called {state.repo_id} now",
                error_kind="not_found",
                retryable=False,
                hint=f'write "{state.repo_id}" instead of "{self._mirror.repo_id}" in the config',
            )


def _no_hub() -> MirrorError:
    return MirrorError(
        "look at the repository: what answers is no Hub",
        error_kind="server",
        retryable=True,
        hint="perhaps a proxy or a login page answers in its place; hubsync tries again by itself",
    )
