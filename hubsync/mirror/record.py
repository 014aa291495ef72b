"""Remembers what a mirror is known to show: the snapshot, how each branch was left, and by which rules it was chosen.

It is kept in the mirror's own repository, which needs no server; what of it a person changes there is the truth from then
on. It must never know what a server shows now.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from hubsync.config.model import Mirror
from hubsync.mirror.ahead import Ahead
from hubsync.mirror.view import View
from hubsync.store.git import Git
from hubsync.store.snapshot import Snapshot, Store

# What a branch showed when we last left it is remembered together with the snapshot that it showed then; what was only
# seen there is kept apart, so that a failed push leaves nothing half known.
_PUBLISHED = "refs/mirror/published"
LEFT = "refs/mirror/left/"
_SEEN = "refs/mirror/seen/"
_GONE = "gone "  # in the ledger
_AHEAD = "refs/mirror/ahead/"  # and the snapshots after it whose units it shows already


def read_published(store: Store, mirror: Mirror) -> str | None:
    """Return the snapshot that *mirror* is known to hold, without opening anything for writing."""
    directory = store.mirror_directory(mirror.name)
    return Git(directory).resolve(_PUBLISHED) if directory.exists() and not is_gone(store, mirror) else None


def is_gone(store: Store, mirror: Mirror) -> bool:
    """Tell whether the repository of *mirror* was found to be gone, and not to be there again since."""
    return store.ledger.meta(f"{_GONE}{mirror.name}") == mirror.repo_id


class Record:
    """What *mirror* is known to show, kept in *git*; *view* is what it is to show now."""

    def __init__(self, git: Git, store: Store, mirror: Mirror, view: View) -> None:
        self._git = git
        self._store = store
        self._mirror = mirror
        self._ledger = store.ledger
        self._view = view
        self._view_key = f"view {mirror.name}"
        self._left_out_key = f"left out {mirror.name}"
        self._short_key = f"short {mirror.name}"
        self._there_key = f"there {mirror.name}"
        self._gone_key = f"{_GONE}{mirror.name}"
        self._refs: dict[str, str] = {}
        self.read()

    def read(self) -> None:
        """Read what is remembered; from then on only this process moves it."""
        self._refs = self._git.list_refs("refs/mirror")

    @property
    def published(self) -> str | None:
        """The newest snapshot that the mirror is known to hold."""
        return self._refs.get(_PUBLISHED)

    @property
    def there(self) -> str | None:
        """The newest snapshot that the mirror is known to hold, unless its repository is gone."""
        return None if self.is_gone else self.published

    def was_there(self, repo_id: str) -> bool:
        """Tell whether the mirror's repository is known to have been there, be it empty."""
        return self.published is not None or self._ledger.meta(self._there_key) == repo_id

    def note_there(self, repo_id: str) -> None:
        """Remember that the mirror's repository is there."""
        if not self.was_there(repo_id):
            self._ledger.set_meta(self._there_key, repo_id)
        if self._ledger.meta(self._gone_key):
            self._ledger.set_meta(self._gone_key, "")

    @property
    def is_gone(self) -> bool:
        """Whether the repository was found to be gone: then the mirror shows nothing of what was published."""
        return is_gone(self._store, self._mirror)

    def note_gone(self, repo_id: str) -> None:
        """Remember that the mirror's repository, which was there, is gone: nothing is shown, until it is restored."""
        self._ledger.set_meta(self._gone_key, repo_id)

    def left(self, branch: str) -> str | None:
        """Return the head of *branch* as we left it."""
        return self._refs.get(LEFT + branch)

    def seen(self, branch: str) -> str | None:
        """Return the head of *branch* as it was fetched, if somebody else moved it."""
        return self._refs.get(_SEEN + branch)

    def ahead(self, backlog: Sequence[Snapshot]) -> Ahead:
        """Return the units that the mirror shows before all that was committed earlier."""
        is_gone = self.is_gone
        shown = [snapshot for snapshot in backlog if not is_gone and _AHEAD + snapshot.commit in self._refs]
        return Ahead(
            {unit: snapshot.commit for snapshot in shown for unit in snapshot.units},
            {snapshot.commit: number for number, snapshot in enumerate(backlog)},
        )

    def commits_ahead(self) -> list[str]:
        """Return the snapshots whose units the mirror shows before all that was committed earlier."""
        return [ref.removeprefix(_AHEAD) for ref in self._refs if ref.startswith(_AHEAD) and not self.is_gone]

    def is_new_view(self) -> bool:
        """Tell whether the config showed something else of the snapshots when the mirror was published to.

        Other rules of the target are a new view if something was left out by the former ones, which may be wanted now.
        So is the same view, if something of it could not be had then.
        """
        known = self._ledger.meta(self._view_key)
        if self.published is None or known is None:
            return False
        if self.is_short():
            return True
        return known != self._view.signature or self._left_out_by() not in {"", self._view.left_out.rules}

    def is_short(self) -> bool:
        """Tell whether what the mirror was published last lacks something that could not be had."""
        return bool(self._ledger.meta(self._short_key))

    def shown(self, backlog: Sequence[Snapshot]) -> AbstractSet[str]:
        """Return the paths of ours that the main branch shows, as far as they are known."""
        return self._view.places_shown(self._ledger.meta(self._view_key) or "{}", self.published, self.ahead(backlog))

    def note_view(self) -> None:
        """Remember that the mirror shows what the view says."""
        self._ledger.set_meta(self._view_key, self._view.signature)
        left_out = self._view.left_out
        if self._left_out_by() not in {"", left_out.rules}:
            self._ledger.set_meta(self._left_out_key, left_out.rules if left_out.is_any else "")

    def note_left_out(self) -> None:
        """Remember, before it is passed, that something is left out by the present rules."""
        if self._view.left_out.is_any and not self._left_out_by():
            self._ledger.set_meta(self._left_out_key, self._view.left_out.rules)

    def _left_out_by(self) -> str:
        """Return the rules by which something was left out that the mirror lacks; none if nothing was."""
        return self._ledger.meta(self._left_out_key) or ""

    def seen_ref(self, branch: str) -> str:
        """Return where the head of *branch* is fetched to."""
        return _SEEN + branch

    def note_seen(self, fetched: Mapping[str, str]) -> None:
        """Remember the heads that were *fetched* (branch → commit)."""
        self._refs |= {_SEEN + branch: commit for branch, commit in fetched.items()}

    def note_published(
        self, heads: Mapping[str, str | None], published: str | None, ahead: Ahead, *,
        ahead_of: str | None = None, is_short: bool = False,
    ) -> None:  # fmt: skip
        """Remember the mirror's *heads* and what they show, all or none: *published*, and units that are *ahead_of* it.

        *is_short*: something that these show could not be had.
        """
        if is_short:  # first: what a kill leaves is compared once more
            self._ledger.set_meta(self._short_key, "1")
        moved: dict[str, str | None] = {LEFT + name: commit for name, commit in heads.items()}
        moved |= dict.fromkeys(ref for name in heads if (ref := _SEEN + name) in self._refs)
        if ahead_of is None:
            reached = ahead.order.get(published or "", 0)
            passed = [ref for ref in self._refs if ref.startswith(_AHEAD)]
            moved |= dict.fromkeys(ref for ref in passed if ahead.order.get(ref.removeprefix(_AHEAD), 0) <= reached)
        else:
            moved[_AHEAD + ahead_of] = ahead_of
        self._move({**moved, _PUBLISHED: published})
        self.note_view()
        if not is_short and self.is_short():
            self._ledger.set_meta(self._short_key, "")

    def forget_branch(self, branch: str) -> None:
        """Forget how *branch* was left: it was deleted."""
        self._move({ref: None for ref in (LEFT + branch, _SEEN + branch) if ref in self._refs})

    def forget_heads(self) -> None:
        """Forget how all branches were left: the repository is a new one."""
        self._move({ref: None for ref in self._refs if ref.startswith(LEFT)})

    def forget(self) -> None:
        """Forget what the mirror showed: it was made anew."""
        self._move({ref: None for ref in self._refs if ref == _PUBLISHED or ref.startswith((LEFT, _AHEAD))})

    def _move(self, refs: Mapping[str, str | None]) -> None:
        moved = {ref: commit for ref, commit in refs.items() if commit != self._refs.get(ref)}
        if moved:
            self._git.update_refs(moved)
        self._refs = {ref: commit for ref, commit in {**self._refs, **refs}.items() if commit is not None}
