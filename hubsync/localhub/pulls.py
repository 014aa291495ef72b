"""Owns discussions and pull requests: what was said is kept in ``discussions.json``, commits are at ``refs/pr/N``.

A pull request is merged as the Hub does it: one commit on the default branch that names the request and its commits.
"""

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hubsync.localhub.access import User
from hubsync.localhub.commits import commit_tree, move_ref
from hubsync.localhub.git import ask_git, run_git
from hubsync.localhub.history import list_commits
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.repos import Repo, default_branch
from hubsync.localhub.trees import find_commit

_ABSENT = "0" * 40
_CLOSED = frozenset({"merged", "closed"})
_LOCK = threading.Lock()  # one writer of discussions.json at a time


class Event(Struct, frozen=True):
    """Something that happened in a discussion; *data* is as the API shows it."""

    type: str
    author: str
    created_at: str
    id: str
    data: dict[str, Any]


class Discussion(Struct, frozen=True):
    """A discussion, or a pull request with its ref."""

    num: int
    title: str
    author: str
    created_at: str
    status: str
    is_pull: bool
    events: tuple[Event, ...] = ()
    merge_commit: str = ""

    @property
    def ref(self) -> str:
        """Where the commits of a pull request are."""
        return f"refs/pr/{self.num}"


def list_discussions(repo: Repo) -> list[Discussion]:
    """Return all, the oldest first."""
    try:
        return msgspec.json.decode(_path(repo).read_bytes(), type=list[Discussion])
    except FileNotFoundError:
        return []


def find_discussion(repo: Repo, num: int) -> Discussion:
    """Return one; raises RefusedError if it is not there."""
    for one in list_discussions(repo):
        if one.num == num:
            return one

    raise RefusedError(404, "Discussion not found")


def open_discussion(repo: Repo, user: User, title: str, status: str, *, start: str = "") -> Discussion:
    """Begin a discussion, or with *start* a pull request from that commit."""
    with _LOCK:
        there = list_discussions(repo)
        opened = Discussion(len(there) + 1, title, user.name, _now(), status, is_pull=bool(start))
        if start and not move_ref(repo, opened.ref, start, _ABSENT):
            raise RefusedError(409, "Reference already exists")
        _save(repo, [*there, opened])

    return opened


def withdraw(repo: Repo, opened: Discussion) -> None:
    """Take back a pull request whose first commit was refused."""
    with _LOCK:
        _save(repo, [one for one in list_discussions(repo) if one.num != opened.num])
    run_git(repo.git_dir, "update-ref", "-d", opened.ref)


def update(repo: Repo, num: int, change: Callable[[Discussion], Discussion]) -> Discussion:
    """Replace one by what *change* makes of it."""
    with _LOCK:
        changed = change(find_discussion(repo, num))
        _save(repo, [changed if one.num == num else one for one in list_discussions(repo)])

    return changed


def add_event(repo: Repo, num: int, user: User, kind: str, data: dict[str, Any]) -> Event:
    """Note that something happened; a new status or title is also taken over."""
    event = Event(kind, user.name, _now(), uuid.uuid4().hex, data)

    def take(one: Discussion) -> Discussion:
        status = data["status"] if kind == "status-change" else one.status
        title = data["to"] if kind == "title-change" else one.title
        return replace(one, events=(*one.events, event), status=status, title=title)

    update(repo, num, take)

    return event


def find_conflicts(repo: Repo, pull: Discussion) -> bool:
    """Whether an open pull request cannot be merged as it is."""
    return pull.status not in _CLOSED and _merged_tree(repo, pull, _base(repo)) is None


def merge(repo: Repo, pull: Discussion, user: User) -> str:
    """Put a pull request's changes on the default branch, as one commit; raises RefusedError."""
    if not pull.is_pull or pull.status in _CLOSED:
        raise RefusedError(400, "This pull request is not open")
    head = _base(repo)
    tree = _merged_tree(repo, pull, head)
    if tree is None:
        raise RefusedError(409, "Merge conflicts must be resolved first")
    commits = list_commits(repo.git_dir, f"{head}..{pull.ref}")
    message = f"{pull.title} (#{pull.num})\n\n" + "\n".join(f"- {made.title} ({made.oid})" for made in commits)
    commit = commit_tree(repo, tree, user, message, parent=head)
    if not move_ref(repo, f"refs/heads/{default_branch(repo.git_dir)}", commit, head):
        raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
    update(repo, pull.num, lambda one: replace(one, merge_commit=commit))
    add_event(repo, pull.num, user, "status-change", {"status": "merged"})

    return commit


def _base(repo: Repo) -> str:
    return find_commit(repo.git_dir, f"refs/heads/{default_branch(repo.git_dir)}")


def _merged_tree(repo: Repo, pull: Discussion, head: str) -> str | None:
    made = ask_git(repo.git_dir, "merge-tree", "--write-tree", "--allow-unrelated-histories", head, pull.ref)
    return made.decode().split("\n")[0] if made else None


def _save(repo: Repo, discussions: list[Discussion]) -> None:
    new = _path(repo).with_suffix(".new")
    new.write_bytes(msgspec.json.encode(discussions))
    new.replace(_path(repo))


def _path(repo: Repo) -> Path:
    return repo.git_dir / "discussions.json"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
