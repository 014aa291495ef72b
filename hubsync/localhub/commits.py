"""Writes commits, branches and tags, by git plumbing; a ref moves only if it is still what the writer saw."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from hubsync.localhub.access import User
from hubsync.localhub.attributes import NAME as ATTRIBUTES
from hubsync.localhub.attributes import add_lfs_lines, find_lfs_paths, quote
from hubsync.localhub.changes import Change, Delete, Point, Summary, Write, read_changes, summarize
from hubsync.localhub.git import ask_git, feeding_git, run_git
from hubsync.localhub.refusals import ENTRY_NOT_FOUND, RefusedError
from hubsync.localhub.repos import HIDDEN_REFS, Repo
from hubsync.localhub.rules import refusal_text
from hubsync.localhub.trees import find_commit, find_entries, read_file

_ABSENT = "0" * 40
_ATTEMPTS = 10  # while others commit on the same branch
_PARENT_MIN_LENGTH = 7
_STALE = "A commit has happened since. Please refresh and try again."


def branch_ref(revision: str) -> str:
    """Return the ref of a branch or of a pull request (``refs/pr/1``)."""
    return revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"


def check_protection(repo: Repo, ref: str) -> None:
    """Raise RefusedError if *ref* takes nothing but merged pull requests."""
    if ref.removeprefix("refs/heads/") in repo.protected:
        raise RefusedError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")


def commit_changes(repo: Repo, revision: str, user: User, lines: IO[bytes]) -> str:
    """Make the commit that *lines* (ndjson, read twice) ask for on a branch or pull request; raises RefusedError."""
    ref = branch_ref(revision)
    check_protection(repo, ref)
    find_commit(repo.git_dir, ref)
    wanted = summarize(repo, ref, lines)
    if wanted.offences:
        raise RefusedError(400, refusal_text(wanted.offences))
    for _ in range(_ATTEMPTS):
        head = find_commit(repo.git_dir, ref)
        if wanted.parent and not (len(wanted.parent) >= _PARENT_MIN_LENGTH and head.startswith(wanted.parent)):
            break
        _check_deleted(repo, head, wanted.deleted)
        commit = _write_commit(repo, head, user, wanted, lines)
        if move_ref(repo, ref, commit, head):
            return commit

    raise RefusedError(412, _STALE)


def _write_commit(repo: Repo, head: str, user: User, wanted: Summary, lines: IO[bytes]) -> str:
    """Write the commit on *head*; no ref names it yet."""
    attributes = _complete_attributes(repo.git_dir, head, wanted)
    with _scratch_ref(repo.git_dir) as scratch:
        with feeding_git(repo.git_dir, "fast-import", "--quiet", "--depth=0") as importer:
            importer.write(_commit_head(scratch, user, wanted.message, head))
            for change in chain(read_changes(repo, lines), attributes):
                importer.write(_encode(change))
        return find_commit(repo.git_dir, scratch)


def squash(repo: Repo, branch: str, user: User, message: str) -> str:
    """Replace the history of *branch* by one commit that holds the same files."""
    ref = f"refs/heads/{branch}"
    check_protection(repo, ref)
    head = find_commit(repo.git_dir, ref)
    commit = commit_tree(repo, f"{head}^{{tree}}", user, message)
    if not move_ref(repo, ref, commit, head):
        raise RefusedError(412, _STALE)

    return commit


def commit_tree(repo: Repo, tree: str, user: User, message: str, *, parent: str = "") -> str:
    """Write a commit of *tree*; no ref names it yet."""
    parents = ("-p", parent) if parent else ()
    made = run_git(repo.git_dir, "commit-tree", tree, *parents, "-m", message, extra=_identity(user))

    return made.decode().strip()


def make_ref(repo: Repo, ref: str, target: str) -> None:
    """Make a branch or tag; raises RefusedError if its name cannot be one, or is taken."""
    if ask_git(repo.git_dir, "check-ref-format", ref) is None:
        raise RefusedError(400, f"Invalid reference name: {ref}")
    if not move_ref(repo, ref, target, _ABSENT):
        raise RefusedError(409, "Reference already exists")


def make_tag(repo: Repo, tag: str, target: str, user: User, message: str) -> None:
    """Make a tag, annotated if it has a *message*."""
    if not message:
        make_ref(repo, f"refs/tags/{tag}", target)
        return
    tagger = f"{user.name} <{user.email}> {int(time.time())} +0000"
    content = f"object {target}\ntype commit\ntag {tag}\ntagger {tagger}\n\n{message}\n".encode()
    made = run_git(repo.git_dir, "hash-object", "-t", "tag", "-w", "--stdin", feed=content)
    make_ref(repo, f"refs/tags/{tag}", made.decode().strip())


def delete_ref(repo: Repo, ref: str) -> None:
    """Take a branch or tag away; raises RefusedError if it is not there, or the one that must stay."""
    find_commit(repo.git_dir, ref)
    check_protection(repo, ref)
    if ref == run_git(repo.git_dir, "symbolic-ref", "HEAD").decode().strip():
        raise RefusedError(403, "Cannot delete the default branch")
    run_git(repo.git_dir, "update-ref", "-d", ref)


def move_ref(repo: Repo, ref: str, new: str, old: str) -> bool:
    """Let *ref* name *new* if it still names *old*; whether it did."""
    return ask_git(repo.git_dir, "update-ref", ref, new, old) is not None


def _check_deleted(repo: Repo, head: str, deleted: list[str]) -> None:
    there = {entry.path for entry in find_entries(repo.git_dir, head, deleted)}
    if missing := [path for path in deleted if path not in there]:
        raise RefusedError(404, f'A file with this name doesn\'t exist: "{missing[0]}"', code=ENTRY_NOT_FOUND)


def _complete_attributes(git_dir: Path, head: str, wanted: Summary) -> list[Write]:
    """Return the root's attributes, if the commit holds pointers at paths that they do not cover."""
    covered = find_lfs_paths(git_dir, head, wanted.objects, wanted.attributes)
    uncovered = [path for path in wanted.objects if path not in covered]
    if not uncovered:
        return []
    root = wanted.attributes.get(ATTRIBUTES)
    if root is None:
        root = read_file(git_dir, head, ATTRIBUTES) or b""

    return [Write(ATTRIBUTES, add_lfs_lines(root, uncovered))]


@contextlib.contextmanager
def _scratch_ref(git_dir: Path) -> Iterator[str]:
    ref = f"{HIDDEN_REFS}/{uuid.uuid4().hex}"
    try:
        yield ref
    finally:
        ask_git(git_dir, "update-ref", "-d", ref)


def _identity(user: User) -> dict[str, str]:
    return {
        "GIT_AUTHOR_NAME": user.name,
        "GIT_AUTHOR_EMAIL": user.email,
        "GIT_COMMITTER_NAME": user.name,
        "GIT_COMMITTER_EMAIL": user.email,
    }


def _commit_head(ref: str, user: User, message: str, parent: str) -> bytes:
    words = (message or "Update").encode()
    committer = f"{user.name} <{user.email}> {int(time.time())} +0000"
    opening = f"commit {ref}\ncommitter {committer}\ndata {len(words)}\n".encode()

    return opening + words + f"\nfrom {parent}\n".encode()


def _encode(change: Change) -> bytes:
    """Return *change* as ``git fast-import`` reads it."""
    match change:
        case Write():
            return _modify(change.path, change.content)
        case Point():
            return _modify(change.path, change.pointer.encode())
        case Delete():
            return b"D %s\n" % quote(os.fsencode(change.path))
        case _:
            return b""


def _modify(path: str, content: bytes) -> bytes:
    return b"M 100644 inline %s\ndata %d\n%s\n" % (quote(os.fsencode(path)), len(content), content)
