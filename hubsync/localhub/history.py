"""Reads a repository's history: commits, refs, and which commit last wrote a path. It changes nothing."""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from msgspec import Struct

from hubsync.localhub.git import run_git

_LOG_FORM = "--format=%H%x00%an%x00%ct%x00%B%x00"
_REF_FORM = "--format=%(refname)%00%(objectname)%00%(*objectname)"


class Commit(Struct, frozen=True):
    """One commit of a history."""

    oid: str
    author: str
    made_at: datetime
    message: str

    @property
    def title(self) -> str:
        """The first line of its message."""
        return self.message.partition("\n")[0]


class Ref(Struct, frozen=True):
    """A branch or tag, and the commit that it names."""

    name: str
    commit: str


def list_commits(git_dir: Path, commit: str, *, skip: int = 0, limit: int = 1000) -> list[Commit]:
    """Return the history of *commit*, the newest first."""
    log = run_git(git_dir, "log", f"--skip={skip}", f"--max-count={limit}", _LOG_FORM, commit, "--")
    facts = log.decode(errors="replace").split("\0")
    return [
        Commit(oid.strip(), author, datetime.fromtimestamp(int(seconds), UTC), message.rstrip("\n"))
        for oid, author, seconds, message in zip(*(iter(facts[:-1]),) * 4, strict=True)
    ]


def list_refs(git_dir: Path, prefix: str) -> list[Ref]:
    """Return the refs below *prefix* (``refs/heads/``), by name; a tag names its commit."""
    listed = run_git(git_dir, "for-each-ref", _REF_FORM, prefix).decode(errors="surrogateescape")
    refs = (line.split("\0") for line in listed.splitlines())

    return [Ref(name.removeprefix(prefix), peeled or oid) for name, oid, peeled in refs]


def find_last_commits(git_dir: Path, commit: str, paths: Sequence[str]) -> dict[str, Commit]:
    """Return, for each of *paths*, the commit that last wrote it, or something in it."""
    history = {made.oid: made for made in list_commits(git_dir, commit)}
    wanted = set(paths)
    found: dict[str, Commit] = {}
    for oid, path in _read_changes(git_dir, list(history)):
        for name in (path, *map(str, PurePosixPath(path).parents)):
            if name in wanted:
                found.setdefault(name, history[oid])

    return found


def _read_changes(git_dir: Path, oids: list[str]) -> Iterator[tuple[str, str]]:
    """Yield what each commit changed; in the listing a commit's own name stands before its paths."""
    form = ("--stdin", "-z", "-r", "--root", "--name-only", "--no-renames", "--diff-merges=first-parent")
    listed = run_git(git_dir, "diff-tree", *form, feed="".join(f"{oid}\n" for oid in oids).encode())
    coming = iter(oids)
    oid, following = "", next(coming, "")
    for token in os.fsdecode(listed).split("\0")[:-1]:
        if token == following:
            oid, following = token, next(coming, "")
        else:
            yield oid, token
