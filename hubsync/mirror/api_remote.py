"""Publishes through the Hub's HTTP API, for networks that let nothing else through: the same commits, but not by git.

It has the same face as ``remote``. Commits are made in the mirror's own repository as ever, and replayed on the Hub, each
as one commit there, on condition that the branch is where we saw it. The Hub gives them ids of its own: which of ours
each one is, is remembered by a ref. All ids that come and go here are ours, but those of heads that were never fetched.
"""

import time
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from threading import Event

from hubsync.config.model import Mirror
from hubsync.errors import MirrorError
from hubsync.mirror.asking import ask_for
from hubsync.mirror.hub import Hub
from hubsync.mirror.hub_facts import HubCommit
from hubsync.mirror.paced import PacedReader
from hubsync.mirror.remote import HeadMovedError, web_url
from hubsync.mirror.uploads import Gauge, Told, declare_limit, find_limit
from hubsync.store.git import REGULAR, Git, TreeEntry
from hubsync.store.objects import Objects
from hubsync.store.pointer import Pointer, decode_pointer
from hubsync.store.process import StoppedError

_KNOWN = "refs/hub/"  # then the Hub's id; points to ours
_UNSURE = {"network", "timeout", "server", "stalled"}
_WHO = {f"GIT_{who}_{what}": "hub" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
_WHEN = {f"GIT_{who}_DATE": "@0 +0000" for who in ("AUTHOR", "COMMITTER")}


class ApiRemote:
    """One mirror's repository, spoken to through *hub*."""

    def __init__(self, git: Git, objects: Objects, mirror: Mirror, hub: Hub, stop: Event) -> None:
        self._git = git
        self._objects = objects
        self._mirror = mirror
        self._hub = hub
        self._ours = {ref.removeprefix(_KNOWN): commit for ref, commit in git.list_refs(_KNOWN.rstrip("/")).items()}
        self._stop = stop
        self.progressed = 0.0  # when an upload last got on, in monotonic seconds; each request has its own deadline
        self.sending: Gauge | None = None
        self._told = Told()
        self.refs: dict[str, str] = {}  # branch → the ref of a pull request that stands for it
        self._shown: dict[str, str] = {}  # branch → the Hub's id, as last seen
        declare_limit(hub.endpoint)

    def public_id(self, commit: str | None) -> str | None:
        """Return the Hub's id of a commit of ours."""
        return next((theirs for theirs, ours in self._ours.items() if ours == commit), commit)

    def read_heads(self, branches: Iterable[str]) -> dict[str, str | None]:
        """Return the commit that each of *branches* shows on the mirror."""
        self._shown = self._list_heads()
        theirs = {branch: self._shown.get(branch) for branch in branches}
        return {branch: self._ours.get(commit, commit) if commit else None for branch, commit in theirs.items()}

    def fetch(self, branches: Mapping[str, str]) -> dict[str, str]:
        """Rebuild the heads of *branches* (branch → local ref) from what the Hub lists; return our commits."""
        made = {branch: self._rebuild(self._shown[branch]) for branch in branches}
        self._git.update_refs({ref: made[branch] for branch, ref in branches.items()})

        return made

    def upload_objects(
        self,
        oids: Iterable[str],
        *,
        immutable: Container[str] = frozenset(),  # noqa: ARG002 - as Remote's
        on_there: Callable[[str], object] = lambda _: None,  # noqa: ARG002 - as Remote's
    ) -> None:
        """Upload the pinned objects *oids*: through Xet if the mirror says so, else as fast as the endpoint's rate."""
        paths = {oid: self._objects.path(oid) for oid in oids}
        if self._mirror.transfer == "xet":
            self._hub.upload(self._mirror, paths)
            return
        self.sending = gauge = Gauge(len(paths), sum(path.stat().st_size for path in paths.values()), self._told)
        limit = find_limit(self._hub.endpoint)
        sent = 0

        def move(count: int) -> None:
            nonlocal sent
            sent += count
            limit.keep()
            gauge.note(sent)
            self.progressed = time.monotonic()

        def read(path: Path) -> PacedReader:
            return PacedReader(path, limit.throttle, move, self._expect_no_stop)

        try:
            self._hub.upload(self._mirror, paths, read)
            self._told.forget()
        finally:
            self.sending = None

    def ask_for(self, objects: Iterable[Pointer], operation: str = "upload") -> dict[str, bool]:
        """Return of *objects* (by oid) whether the mirror has each; nothing of what it does not take, or give."""
        endpoint = self._hub.endpoint
        lfs_url = f"{web_url(endpoint, self._mirror)}.git/info/lfs"
        return ask_for(lfs_url, endpoint, self._hub.tokens.read(endpoint), objects, operation)

    def delete_branch(self, branch: str, head: str) -> None:  # noqa: ARG002 - the API knows no expected head
        """Delete *branch*."""
        self._hub.delete_branch(self._mirror, branch)
        self._shown.pop(branch, None)

    def _expect_no_stop(self) -> None:
        if self._stop.is_set():
            raise StoppedError("interrupted: hubsync is stopping")

    def fetch_if_there(self, branch: str, ref: str) -> str | None:
        """Rebuild the head of *branch*; ``None`` if there is no such branch (yet)."""
        return self.fetch({branch: ref})[branch] if self.read_heads([branch])[branch] else None

    def push(self, heads: Mapping[str, str]) -> None:
        """Make *heads* (branch → commit) what the mirror shows, one after the other.

        Raises:
            HeadMovedError: somebody else committed first.
        """
        for branch, commit in heads.items():
            try:
                self._replay(branch, commit)
            except MirrorError as exc:
                if exc.error_kind == "conflict":
                    raise HeadMovedError(str(exc), exc.hint) from exc
                raise

    def _list_heads(self) -> dict[str, str]:
        """Return the Hub's commit of each branch; a pull request that stands for one is taken for it."""
        heads = self._hub.list_heads(self._mirror, pulls=bool(self.refs))
        pulled = {branch: heads[ref] for branch, ref in self.refs.items() if ref in heads}

        return {**heads, **pulled}

    # --- commits

    def _replay(self, branch: str, commit: str) -> None:
        """Make on the Hub each commit that leads from the head of *branch* to *commit*."""
        theirs = self._shown.get(branch)
        if theirs is None:
            self._hub.create_branch(self._mirror, branch)
            theirs = self._list_heads()[branch]
        before = self._ours.get(theirs) or self._rebuild(theirs)
        chain = self._git.text("rev-list", "--first-parent", "--reverse", commit, f"^{before}").split()
        for each in chain:
            theirs = self._make(branch, before, each, theirs)
            before = each
        self._remember(theirs, commit, instead_of=self._shown.get(branch))
        self._shown[branch] = theirs

    def _make(self, branch: str, before: str, commit: str, parent: str) -> str:
        """Make one commit on *parent*; an answer that was lost is recognised by what the branch shows then."""
        planned = self._plan(before, commit, parent)
        if not (planned.contents or planned.objects or planned.removed):
            return parent
        try:
            return self._hub.commit(self._mirror, self.refs.get(branch, branch), planned)
        except MirrorError as exc:
            if exc.error_kind not in _UNSURE:
                raise
            theirs = self._list_heads().get(branch)
            if theirs is None or theirs == parent or not self._is_same(self._rebuild(theirs), commit):
                raise
            return theirs

    def _plan(self, before: str, commit: str, parent: str) -> HubCommit:
        changes = list(self._git.diff_trees(before, commit))
        blobs = {change.after.blob for change in changes if change.after}
        texts = dict(self._git.read_blobs(blobs))
        pointers = {blob: pointer for blob, text in texts.items() if (pointer := decode_pointer(text))}
        written = {change.path: change.after.blob for change in changes if change.after}
        message = self._git.text("log", "-1", "--format=%B", commit)

        return HubCommit(
            message,
            parent,
            {path: texts[blob] for path, blob in written.items() if blob not in pointers},
            {path: pointers[blob] for path, blob in written.items() if blob in pointers},
            tuple(change.path for change in changes if change.after is None),
        )

    def _is_same(self, one: str, other: str) -> bool:
        """Tell whether two commits have the same files; the API knows no modes."""
        trees = [{path: entry.blob for path, entry in self._git.list_tree(each).items()} for each in (one, other)]
        return trees[0] == trees[1]

    # --- what others did

    def _rebuild(self, theirs: str) -> str:
        """Return a commit of ours with the files of the Hub's commit *theirs*; contents that we lack are read there."""
        files = self._hub.list_files(self._mirror, theirs)
        there = self._git.sizes({file.blob for file in files.values()})
        entries = {}
        for path, file in files.items():
            blob = file.blob
            if blob not in there:
                blob = self._git.write_blob(
                    Pointer(file.oid, file.size).encode() if file.oid else self._hub.read_file(self._mirror, theirs, path)
                )
            entries[path] = TreeEntry(REGULAR, blob)
        with self._git.scratch_index(entries) as environment:
            tree = self._git.text("write-tree", environment=environment)
        commit = self._git.text("commit-tree", "-m", theirs, tree, environment={**_WHO, **_WHEN})
        self._remember(theirs, commit)

        return commit

    def _remember(self, theirs: str, ours: str, instead_of: str | None = None) -> None:
        self._git.update_refs({_KNOWN + theirs: ours})
        self._ours[theirs] = ours
        if instead_of is not None and instead_of != theirs and instead_of in self._ours:
            self._git.update_refs({_KNOWN + instead_of: None})
            del self._ours[instead_of]
