"""The Hub's API of discussions and pull requests, as far as ``huggingface_hub`` reads it; a function for each route."""

from collections.abc import Callable
from typing import IO, Any

from msgspec.structs import replace
from starlette.responses import Response

from hubsync.localhub.access import User
from hubsync.localhub.calls import Call, JsonResponse
from hubsync.localhub.commits import commit_changes
from hubsync.localhub.git import run_git
from hubsync.localhub.history import list_commits
from hubsync.localhub.pulls import (
    Discussion,
    Event,
    add_event,
    find_conflicts,
    find_discussion,
    list_discussions,
    merge,
    open_discussion,
    update,
    withdraw,
)
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.repos import Repo, default_branch
from hubsync.localhub.trees import find_commit

_PAGE = 50
_TITLE_MIN = 3


def discussions(call: Call) -> Response:
    """List discussions and pull requests, the newest first, page by page."""
    repo, query = call.readable(), call.request.query_params
    wanted = {"pull_request": True, "discussion": False}.get(query.get("type", ""))
    status, author = query.get("status", ""), query.get("author", "")
    shown = [
        one
        for one in reversed(list_discussions(repo))
        if wanted in (None, one.is_pull) and author in ("", one.author) and _has_status(one, status)
    ]
    start = int(query.get("p", 0)) * _PAGE
    page = [_summary(repo, one) for one in shown[start : start + _PAGE]]

    return JsonResponse({"discussions": page, "count": len(shown), "start": start})


def create(call: Call) -> Response:
    """Begin a discussion, or a pull request that still has no commit."""
    repo, user, asked = call.writable(), call.user(), call.json()
    title = str(asked.get("title", "")).strip()
    if len(title) < _TITLE_MIN:
        raise RefusedError(400, "Title must be at least 3 characters long")
    is_pull = bool(asked.get("pullRequest"))
    start = find_commit(repo.git_dir, default_branch(repo.git_dir)) if is_pull else ""
    opened = open_discussion(repo, user, title, "draft" if is_pull else "open", start=start)
    _say(repo, opened.num, user, str(asked.get("description", "")))

    return JsonResponse({**_summary(repo, opened), "url": _url(call, repo, opened), "pullRequest": is_pull})


def details(call: Call) -> Response:
    """Show one, with all that happened."""
    repo = call.readable()
    one = find_discussion(repo, _num(call))
    shown = {**_summary(repo, one), "events": [_event(event) for event in [*one.events, *_commit_events(repo, one)]]}
    if one.is_pull:
        base = default_branch(repo.git_dir)
        shown["changes"] = {"base": f"refs/heads/{base}", "mergeCommitId": one.merge_commit or None}
        shown["filesWithConflicts"] = find_conflicts(repo, one)
        if call.request.query_params.get("diff") and not one.merge_commit:
            shown["diff"] = run_git(repo.git_dir, "diff", f"refs/heads/{base}...{one.ref}").decode(errors="replace")

    return JsonResponse(shown)


def comment(call: Call) -> Response:
    """Say something."""
    repo, user, num = call.writable(), call.user(), _num(call)
    find_discussion(repo, num)
    return JsonResponse({"newMessage": _event(_say(repo, num, user, str(call.json().get("comment", ""))))})


def change_status(call: Call) -> Response:
    """Open or close."""
    asked = call.json()
    if asked.get("status") not in ("open", "closed"):
        raise RefusedError(400, '"status" must be one of [open, closed]')
    if asked.get("comment"):
        _say(call.writable(), _num(call), call.user(), str(asked["comment"]))

    return _change(call, "status-change", lambda _: {"status": asked["status"]}, "newStatus")


def change_title(call: Call) -> Response:
    """Give another title."""
    title = str(call.json().get("title", ""))
    return _change(call, "title-change", lambda one: {"from": one.title, "to": title}, "newTitle")


def merge_pull(call: Call) -> Response:
    """Merge a pull request."""
    repo, user = call.writable(), call.user()
    pull = find_discussion(repo, _num(call))
    if words := call.json().get("comment"):
        _say(repo, pull.num, user, str(words))

    return JsonResponse({"mergeCommitId": merge(repo, pull, user)})


def commit_to_pull(call: Call, repo: Repo, user: User, lines: IO[bytes]) -> tuple[str, str]:
    """Make a pull request of a commit; returns the commit and the request's address."""
    start = find_commit(repo.git_dir, call.param("revision"))
    opened = open_discussion(repo, user, "", "open", start=start)
    try:
        oid = commit_changes(repo, opened.ref, user, lines)
    except BaseException:
        withdraw(repo, opened)
        raise
    made = list_commits(repo.git_dir, oid, limit=1)[0]
    update(repo, opened.num, lambda one: replace(one, title=made.title))
    if words := made.message.partition("\n")[2].strip():
        _say(repo, opened.num, user, words)

    return oid, _url(call, repo, opened)


def _change(call: Call, kind: str, read: Callable[[Discussion], dict[str, Any]], answer: str) -> Response:
    repo, user, num = call.writable(), call.user(), _num(call)
    return JsonResponse({answer: _event(add_event(repo, num, user, kind, read(find_discussion(repo, num))))})


def _say(repo: Repo, num: int, user: User, words: str) -> Event:
    data = {"edited": False, "hidden": False, "latest": {"raw": words}}
    return add_event(repo, num, user, "comment", data)


def _has_status(one: Discussion, status: str) -> bool:
    is_open = one.status in ("open", "draft")
    return status in ("", "all") or is_open == (status == "open")


def _summary(repo: Repo, one: Discussion) -> dict[str, Any]:
    return {
        "num": one.num,
        "title": one.title,
        "author": {"name": one.author},
        "createdAt": one.created_at,
        "status": one.status,
        "isPullRequest": one.is_pull,
        "repo": {"name": repo.name.repo_id, "type": repo.name.repo_type},
    }


def _event(event: Event) -> dict[str, Any]:
    author = {"name": event.author}
    return {"id": event.id, "type": event.type, "createdAt": event.created_at, "author": author, "data": event.data}


def _commit_events(repo: Repo, one: Discussion) -> list[Event]:
    if not one.is_pull or one.merge_commit:
        return []
    base = default_branch(repo.git_dir)
    commits = list_commits(repo.git_dir, f"refs/heads/{base}..{one.ref}")
    return [
        Event("commit", made.author, one.created_at, made.oid, {"subject": made.title, "oid": made.oid})
        for made in reversed(commits)
    ]


def _url(call: Call, repo: Repo, one: Discussion) -> str:
    return f"{call.base_url}/{repo.name.web_path}/discussions/{one.num}"


def _num(call: Call) -> int:
    num = call.param("num")
    if not num.isdecimal():
        raise RefusedError(404, "Discussion not found")

    return int(num)
