"""Reads of a mirror's commits which of their files are links or submodules: the Hub's API shows these as plain files.

From the mirror's repository here, if that has the commit; else from the mirror itself, by git: a commit and its trees, no
contents. Nothing is written but a scratch repository.
"""

import contextlib
import tempfile
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from msgspec import Struct, field

from hubsync.config.model import Endpoint, Mirror
from hubsync.errors import GitError, ToolMissingError
from hubsync.mirror.remote import Remote
from hubsync.mirror.token import Tokens
from hubsync.store.git import REGULAR, Git
from hubsync.store.objects import Objects
from hubsync.store.tools import git_executable

_FEW_PATHS = 400  # more are found by listing the whole commit


class ModeReader(Struct, frozen=True):
    """Reads modes of *mirror*; *known* is its repository on this machine, which may be missing or lack what is asked."""

    mirror: Mirror
    endpoint: Endpoint
    tokens: Tokens
    stop: threading.Event
    known: Path | None = None

    _unusual: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def read(self, branch: str, commit: str, paths: Collection[str]) -> Mapping[str, str]:
        """Return the modes of those of *paths* that are no regular files in *commit*, the head of *branch*.

        Nothing is returned where git may not be used. Of many paths the whole commit is listed, once.

        Raises:
            MirrorError: the mirror cannot be asked, or refuses.
            GitError: its head has moved meanwhile.
        """
        if self.mirror.transport == "http":
            return {}
        try:
            git_executable()
        except ToolMissingError:
            return {}
        if len(paths) <= _FEW_PATHS:
            return self._list(branch, commit, tuple(paths))
        if commit not in self._unusual:
            self._unusual[commit] = self._list(branch, commit, ())

        return self._unusual[commit]

    def _list(self, branch: str, commit: str, paths: tuple[str, ...]) -> Mapping[str, str]:
        if self.known is not None and self.known.exists():
            with contextlib.suppress(GitError):
                return _list_unusual(Git(self.known), commit, paths)
        with tempfile.TemporaryDirectory(prefix="hubsync-modes-") as scratch:
            git = Git(Path(scratch) / "mirror.git")
            git.open()
            patient = self.endpoint.model_copy(update={"stall_s": min(self.endpoint.stall_s, self.endpoint.timeout_s)})
            Remote(git, Objects(git.git_dir), self.mirror, patient, self.tokens, self.stop).fetch_trees(branch)
            return _list_unusual(git, commit, paths)


def _list_unusual(git: Git, commit: str, paths: tuple[str, ...]) -> Mapping[str, str]:
    if paths:
        return {path: entry.mode for path, entry in git.list_tree(commit, *paths).items() if entry.mode != REGULAR}
    every = git.diff_trees(None, commit)  # of 100,000 files hardly any is held
    return {change.path: change.after.mode for change in every if change.after and change.after.mode != REGULAR}
