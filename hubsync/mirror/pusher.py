"""Puts lines of steps on a mirror's heads, as often as somebody else is faster: read, fetch, graft, push; never with force.

What is to be shown is ``view``'s, and what is remembered of it ``record``'s.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

from hubsync.errors import MirrorError
from hubsync.mirror.api_remote import ApiRemote
from hubsync.mirror.branch import Branch, Grafted, Head, Lacked
from hubsync.mirror.cards import Cards
from hubsync.mirror.place import Place
from hubsync.mirror.pulls import Pulls
from hubsync.mirror.record import Record
from hubsync.mirror.remote import HeadMovedError, Remote
from hubsync.mirror.repository import Repository
from hubsync.mirror.view import Line
from hubsync.monitor.logger import get_logger

_LOST_RACES = 30
_FRESH_S = 5.0  # a push of what was shown before that may meet another repository under the same name
_TAKEN_BACK = "the branch was taken back to an earlier commit"
_REFUSED_UNMOVED = 3  # a head that did not move is no race: a lock, or a server that refuses for its own reasons

log = get_logger()


class Pusher:
    """Moves the heads of one mirror."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it works on, and what the mirror is asked
        self, place: Place, repository: Repository, remote: Remote | ApiRemote, record: Record, cards: Cards,
        lacked: Lacked, pulls: Pulls | None = None,
    ) -> None:  # fmt: skip
        self._place = place
        self._repository = repository
        self._pulls = pulls
        self._remote = remote
        self._record = record
        self._cards = cards
        self._lacked = lacked
        self._branches: dict[str, Branch] = {}
        self._ahead: Future[str | None] | None = None  # what the main branch showed, asked beside an upload
        self._asked_ahead = 0.0  # monotonic

    @contextlib.contextmanager
    def asking_ahead(self) -> Iterator[None]:
        """Ask beside an upload what the main branch shows; ``push`` asks again unless that is fresh."""
        is_one_branch = self._place.target.publish == "tree" and self._pulls is None
        if not is_one_branch or not isinstance(self._remote, Remote):  # the API's client keeps what it is told
            yield
            return
        with ThreadPoolExecutor(1) as pool:
            self._asked_ahead = time.monotonic()
            self._ahead = pool.submit(copy_context().run, self._ask_one, self._place.mirror.branch)
            yield

    def push(self, lines: Sequence[Line], *, is_new_view: bool) -> dict[str, Grafted]:
        """Push *lines* on the mirror's heads; return what was made of each.

        Raises:
            MadeAnewError: nothing of what we published is there.
            MirrorError: others changed what the policy says to halt for, the repository is public now, or a step failed.
        """
        self._record.note_left_out()
        names = [line.branch for line in lines]
        seen: list[Mapping[str, Head]] = []
        while len(seen) < _LOST_RACES:
            # Asked, not assumed: a repository that was deleted and made anew takes our old history, without its objects.
            heads = self._adopt(self._ask(names))
            seen.append(heads)
            grafted = {
                line.branch: self._branch(line.branch).graft(line, heads[line.branch], is_new_view=is_new_view)
                for line in lines
            }
            moved = {name: new.commit for name, new in grafted.items() if new.commit and new.commit != heads[name].commit}
            if moved:
                self._repository.check(fresh_s=_FRESH_S)  # an upload may have taken hours
            if self._opens_pull(moved):
                continue
            try:
                self._remote.push(moved)
            except HeadMovedError:
                if seen.count(heads) >= _REFUSED_UNMOVED:
                    raise
                continue
            if self._pulls is not None:
                self._pulls.show()
            return grafted

        raise MirrorError(
            f"somebody else pushed first, {_LOST_RACES} times in a row", error_kind="conflict", retryable=True
        )

    def _opens_pull(self, moved: Mapping[str, str]) -> bool:
        """Open a pull request if *moved* needs one; then its head is to be read."""
        if self._pulls is None or self._pulls.current is not None or self._place.mirror.branch not in moved:
            return False
        self._pulls.open()

        return True

    def note_published(self, branches: Mapping[str, Grafted]) -> None:
        """Remember that the mirror shows what was grafted, attributes included."""
        for name, grafted in branches.items():
            self._branch(name).note_published(grafted)

    def _ask(self, names: Sequence[str]) -> Mapping[str, str | None]:
        """Return the commits that the branches *names* show."""
        ahead, self._ahead = self._ahead, None  # who asks twice has met something else
        is_fresh = time.monotonic() < self._asked_ahead + _FRESH_S
        if ahead is not None and is_fresh and ahead.exception() is None and names == [self._place.mirror.branch]:
            return {names[0]: ahead.result()}
        return self._remote.read_heads(names) if len(names) > 1 else {names[0]: self._ask_one(names[0])}

    def _ask_one(self, name: str) -> str | None:
        """Return the commit that one branch shows; one that was never seen is fetched without being asked for."""
        record = self._record
        if record.left(name) or record.seen(name):
            return self._remote.read_heads([name])[name]
        commit = self._remote.fetch_if_there(name, record.seen_ref(name))
        if commit is not None:
            self._note_seen({name: commit})

        return commit

    def _adopt(self, shown: Mapping[str, str | None]) -> dict[str, Head]:
        """Fetch those of the heads *shown* (branch → commit) that are not as we left them."""
        heads = {branch: Head(commit, self._record.left(branch)) for branch, commit in shown.items()}
        news = [
            branch
            for branch, head in heads.items()
            if head.commit and not head.is_ours and head.commit != self._record.seen(branch)
        ]
        if news:
            fetched = self._remote.fetch({branch: self._record.seen_ref(branch) for branch in news})
            self._note_seen(fetched)
            heads |= {branch: Head(commit, heads[branch].left) for branch, commit in fetched.items()}

        return heads

    def _note_seen(self, fetched: Mapping[str, str]) -> None:
        self._record.note_seen(fetched)
        for branch, commit in fetched.items():
            left = self._record.left(branch)
            log.info("mirror.adopted", repo=self._place.mirror.repo_id, commit=self._remote.public_id(commit),
                     previous=self._remote.public_id(left), branch=branch,
                     reason=_TAKEN_BACK if left and self._is_ancestor(commit, left) else None)  # fmt: skip

    def _is_ancestor(self, commit: str, left: str) -> bool:
        return self._place.git.run("merge-base", "--is-ancestor", commit, left, check=False).returncode == 0

    def _branch(self, name: str) -> Branch:
        if name not in self._branches:
            place = self._place
            self._branches[name] = Branch(
                name, place.git, place.store, place.mirror.on_foreign_edit, place.target.lfs.patterns, self._cards,
                self._lacked,
            )  # fmt: skip
        return self._branches[name]
