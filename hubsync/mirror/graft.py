"""Decides what our tree put on a mirror's head looks like: whole paths, never merged content. No I/O.

Content is never merged: a text merge makes files that nobody wrote, and a pointer with conflict markers is no pointer.
"""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from msgspec import Struct

from hubsync.store.git import TreeEntry

Tree = Mapping[str, TreeEntry]
_TOP = PurePosixPath()


class ForeignEdit(Struct, frozen=True):
    """A path of ours that somebody else changed on the mirror, and what its policy says."""

    path: str
    policy: str


class Graft(Struct, frozen=True):
    """What has to change on the mirror's head (``None`` removes a path), and whose edits that met.

    *is_short*: something is left out that the mirror lacks and nobody can give; its unit stays as it is there.
    """

    changes: Mapping[str, TreeEntry | None]
    foreign: tuple[ForeignEdit, ...]
    is_short: bool = False

    @property
    def halted(self) -> tuple[str, ...]:
        """The paths whose policy is to halt."""
        return tuple(edit.path for edit in self.foreign if edit.policy == "halt")


def graft(paths: Iterable[str], theirs: Tree, last: Tree, ours: Tree, policies: Mapping[str, str]) -> Graft:
    """Put *ours* on *theirs* at *paths*; *last* is what we published there before (empty: nothing yet).

    All paths are those in the repository. A path that they hold as we left it is ours to change; one that they changed
    is a foreign edit, unless it is just what we would put there. So is a directory of theirs where our file goes, and a
    file of theirs where our directory goes.
    """
    edited = {path for path, entry in theirs.items() if entry != last.get(path)}
    above_edited = {parent for path in edited for parent in parents(path)}
    changes: dict[str, TreeEntry | None] = {}
    foreign: list[ForeignEdit] = []
    for path in paths:
        mine, held = ours.get(path), theirs.get(path)
        if mine == held:
            continue
        is_in_the_way = mine is not None and (path in above_edited or any(parent in edited for parent in parents(path)))
        if is_in_the_way or (held != last.get(path) and not (held is None and path not in last)):
            edit = ForeignEdit(path, policy_of(path, policies))
            foreign.append(edit)
            if edit.policy != "ours":
                continue
        changes[path] = mine

    return Graft(changes, tuple(foreign))


def parents(path: str) -> Iterator[str]:
    """Yield the directories above *path*, the nearest first."""
    while (path := path.rpartition("/")[0]) != "":
        yield path


def policy_of(path: str, policies: Mapping[str, str]) -> str:
    """Return the policy for a foreign edit of *path*: its own, that of a pattern, else that of ``*``."""
    name = path.rpartition("/")[2]
    for pattern, policy in policies.items():
        if pattern != "*" and (fnmatchcase(path, pattern) or fnmatchcase(name, pattern)):
            return policy

    return policies.get("*", "ours")


def with_prefix(prefix: PurePosixPath, path: str) -> str:
    """Return where *path* of the source lies in the repository."""
    return path if prefix == _TOP else f"{prefix}/{path}"
