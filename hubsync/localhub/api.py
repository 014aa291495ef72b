"""The Hub's JSON API, as far as ``huggingface_hub`` needs it. Each function answers one route."""

import base64
import binascii
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

import pathspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hubsync.localhub.attributes import find_lfs_paths
from hubsync.localhub.calls import Call, JsonResponse
from hubsync.localhub.commits import commit_changes, delete_ref, make_ref, make_tag, squash
from hubsync.localhub.history import find_last_commits, list_commits, list_refs
from hubsync.localhub.objects import list_objects, object_path
from hubsync.localhub.pulls_api import commit_to_pull
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.repos import FOLDERS, Repo, RepoName, default_branch, read_repo_name
from hubsync.localhub.rules import CARD, REGULAR_MAX_BYTES, card_errors, card_metadata, is_binary, is_oid
from hubsync.localhub.trees import (
    Entry,
    find_commit,
    find_entries,
    find_pointed_paths,
    list_entries,
    read_file,
    read_pointers,
)

_PAGE = 1000  # entries, as the Hub pages them
_EXPANDED_PAGE = 50


def whoami(call: Call) -> Response:
    """Say whose token this is."""
    user = call.user()
    return JsonResponse(
        {
            "type": "user",
            "id": user.name,
            "name": user.name,
            "fullname": user.name,
            "email": user.email,
            "emailVerified": True,
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": {"displayName": "localhub", "role": "write"}},
        }
    )


def create_repo(call: Call) -> Response:
    """Make a repository, with the Hub's first commit."""
    user, asked = call.user(), call.json()
    name = _named(asked, user.name)
    private = asked.get("visibility") == "private" or asked.get("private") is True
    url = f"{call.base_url}/{name.web_path}"
    try:
        call.hub.repos.create(name, private=private)
    except FileExistsError:
        words = f"You already created this {name.repo_type} repo: {name.repo_id}"
        raise RefusedError(409, words, body={"url": url}) from None

    return JsonResponse({"url": url, "name": name.repo_id, "id": name.repo_id})


def delete_repo(call: Call) -> Response:
    """Take a repository away."""
    user = call.user()
    call.hub.repos.delete(call.hub.repos.find(_named(call.json(), user.name)))

    return JsonResponse({})


def move_repo(call: Call) -> Response:
    """Call a repository by another name."""
    asked = call.json()
    call.user()
    old, new = (_named({"type": asked.get("type"), "name": asked.get(side)}, "") for side in ("fromRepo", "toRepo"))
    try:
        call.hub.repos.move(call.hub.repos.find(old), new)
    except FileExistsError:
        raise RefusedError(409, f"You already created this {new.repo_type} repo: {new.repo_id}") from None

    return JsonResponse({})


def update_settings(call: Call) -> Response:
    """Close or open a repository."""
    repo, asked = call.writable(), call.json()
    if "visibility" in asked or "private" in asked:
        private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
        call.hub.repos.set_private(repo, private=private)

    return JsonResponse({"private": call.hub.repos.find(repo.name).private})


def list_repos(call: Call) -> Response:
    """List the repositories of one type that the client may see."""
    user = call.hub.access.user_of(call.authorization)
    author = call.request.query_params.get("author")
    shown = [
        _summary(repo)
        for repo in call.hub.repos.list()
        if repo.name.folder == call.param("folder")
        and (user or not repo.private)
        and (not author or repo.name.repo_id.startswith(f"{author}/"))
    ]

    return JsonResponse(shown)


def repo_info(call: Call) -> Response:
    """Describe a repository at a revision, with all its files."""
    repo = call.readable()
    commit = find_commit(repo.git_dir, call.param("revision") or default_branch(repo.git_dir))
    files = [entry for entry in list_entries(repo.git_dir, commit, recursive=True) if not entry.is_directory]
    if _is_true(call.request.query_params.get("blobs")):
        siblings = [_sibling(entry) for entry in read_pointers(repo.git_dir, files)]
    else:
        siblings = [{"rfilename": entry.path} for entry in files]
    card = read_file(repo.git_dir, commit, CARD)
    facts = {
        "sha": commit,
        "lastModified": hub_date(list_commits(repo.git_dir, commit, limit=1)[0].made_at),
        "siblings": siblings,
        "cardData": card_metadata(card.decode(errors="replace")) if card else {},
    }

    return JsonResponse({**_summary(repo), **facts})


def list_tree(call: Call) -> Response:
    """List a directory, page by page."""
    repo, query = call.readable(), call.request.query_params
    start, commit = _read_cursor(query.get("cursor"))
    commit = commit or find_commit(repo.git_dir, call.param("revision"))
    directory = call.param("path").strip("/")
    entries = list_entries(repo.git_dir, commit, directory, recursive=_is_true(query.get("recursive")))
    expand = _is_true(query.get("expand"))
    size = min(int(query.get("limit", _PAGE)), _EXPANDED_PAGE if expand else _PAGE)
    page = read_pointers(repo.git_dir, entries[start : start + size])
    headers = {"X-Repo-Commit": commit}
    if start + size < len(entries):
        headers["Link"] = _next_link(call, cursor=f"{commit}.{start + size}")

    return JsonResponse(_described(repo, commit, page, expand=expand), headers=headers)


def paths_info(call: Call) -> Response:
    """Describe some paths; those that do not exist are left out."""
    repo = call.readable()
    commit = find_commit(repo.git_dir, call.param("revision"))
    if call.request.headers.get("content-type", "").startswith("application/json"):
        asked = call.json()
        paths, expand = [str(path) for path in asked.get("paths", [])], bool(asked.get("expand"))
    else:
        form = parse_qs(call.body.decode(), errors="surrogateescape")
        paths, expand = form.get("paths", []), _is_true(form.get("expand", [""])[0])
    entries = find_entries(repo.git_dir, commit, [path.strip("/") for path in paths])

    return JsonResponse(_described(repo, commit, entries, expand=expand))


def refs(call: Call) -> Response:
    """List branches and tags."""
    repo = call.readable()
    kinds = {"branches": ("refs/heads/", ""), "tags": ("refs/tags/", "")}
    if _is_true(call.request.query_params.get("include_prs")):
        kinds["pullRequests"] = ("refs/pr/", "refs/pr/")  # these are called by their whole names
    found = {
        kind: [
            {"name": f"{shown}{ref.name}", "ref": f"{prefix}{ref.name}", "targetCommit": ref.commit}
            for ref in list_refs(repo.git_dir, prefix)
        ]
        for kind, (prefix, shown) in kinds.items()
    }

    return JsonResponse({**found, "converts": []})


def commits(call: Call) -> Response:
    """List a history, the newest first."""
    repo = call.readable()
    start, commit = _read_cursor(call.request.query_params.get("cursor"))
    commit = commit or find_commit(repo.git_dir, call.param("revision"))
    history = list_commits(repo.git_dir, commit, skip=start, limit=_PAGE + 1)
    headers = {"Link": _next_link(call, cursor=f"{commit}.{start + _PAGE}")} if len(history) > _PAGE else {}
    listed = [
        {
            "id": made.oid,
            "title": made.title,
            "message": made.message.partition("\n")[2].lstrip("\n"),
            "date": hub_date(made.made_at),
            "authors": [{"user": made.author}],
        }
        for made in history[:_PAGE]
    ]

    return JsonResponse(listed, headers=headers)


def preupload(call: Call) -> Response:
    """Say of each file whether it goes to LFS or into the commit, and whether it is wanted at all."""
    repo, asked = call.writable(), call.json()
    commit = find_commit(repo.git_dir, call.param("revision"))
    files = {str(file.get("path", "")): file for file in asked.get("files", [])}
    ignore = asked.get("gitIgnore")
    if ignore is None:
        ignore = (read_file(repo.git_dir, commit, ".gitignore") or b"").decode(errors="replace")
    ignored = pathspec.GitIgnoreSpec.from_lines(ignore.splitlines())
    there = {entry.path: entry for entry in find_entries(repo.git_dir, commit, list(files))}
    by_rule = find_lfs_paths(repo.git_dir, commit, files)
    answers = []
    for path, file in files.items():
        lfs = path in by_rule or file.get("size", 0) > REGULAR_MAX_BYTES or is_binary(_sample(file))
        answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": ignored.match_file(path)}
        if (entry := there.get(path)) and not entry.is_directory:
            answer["oid"] = entry.pointer.oid if entry.pointer else entry.blob
        answers.append(answer)

    return JsonResponse({"files": answers})


async def commit(request: Request) -> Response:
    """Make one commit of a stream of operations, which may be a gigabyte: it waits on disk, not in memory."""
    call = Call(request.app.state.hub, request)
    repo, user = call.writable(), call.user()
    call.hub.count_commit(repo)
    with tempfile.TemporaryFile() as lines:
        async for chunk in request.stream():
            lines.write(chunk)
        if _is_true(request.query_params.get("create_pr")):
            oid, pull_url = await run_in_threadpool(commit_to_pull, call, repo, user, lines)
            more = {"pullRequestUrl": pull_url}
        else:
            oid, more = await run_in_threadpool(commit_changes, repo, call.param("revision"), user, lines), {}
    url = f"{call.base_url}/{repo.name.web_path}/commit/{oid}"

    return JsonResponse({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": "", **more})


def create_branch(call: Call) -> Response:
    """Make a branch."""
    repo = call.writable()
    start = find_commit(repo.git_dir, call.json().get("startingPoint") or default_branch(repo.git_dir))
    make_ref(repo, f"refs/heads/{call.param('revision')}", start)

    return JsonResponse({})


def delete_branch(call: Call) -> Response:
    """Take a branch away."""
    delete_ref(call.writable(), f"refs/heads/{call.param('revision')}")
    return JsonResponse({})


def create_tag(call: Call) -> Response:
    """Make a tag."""
    repo, user, asked = call.writable(), call.user(), call.json()
    target = find_commit(repo.git_dir, call.param("revision"))
    make_tag(repo, str(asked.get("tag", "")), target, user, asked.get("message") or "")

    return JsonResponse({})


def delete_tag(call: Call) -> Response:
    """Take a tag away."""
    delete_ref(call.writable(), f"refs/tags/{call.param('revision')}")
    return JsonResponse({})


def super_squash(call: Call) -> Response:
    """Replace a branch's history by one commit."""
    repo, user, branch = call.writable(), call.user(), call.param("revision")
    squash(repo, branch, user, call.json().get("message") or f"Super-squash branch '{branch}'")

    return JsonResponse({})


def list_lfs_files(call: Call) -> Response:
    """List the objects, each with a path that points to it."""
    repo = call.readable()
    paths = find_pointed_paths(repo.git_dir)
    listed = [
        {
            "fileOid": path.name,
            "oid": path.name,
            "filename": paths.get(path.name, ""),
            "size": path.stat().st_size,
            "pushedAt": hub_date(datetime.fromtimestamp(path.stat().st_mtime, UTC)),
        }
        for path in list_objects(repo.objects_dir)
    ]

    return JsonResponse(listed)


def delete_lfs_files(call: Call) -> Response:
    """Delete objects for good; the pointers to them stay."""
    repo, asked = call.writable(), call.json().get("deletions", {})
    if asked.get("rewriteHistory"):
        raise RefusedError(400, "This Hub does not rewrite history; ask with rewrite_history=False")
    for oid in filter(is_oid, asked.get("sha", [])):
        object_path(repo.objects_dir, oid).unlink(missing_ok=True)

    return JsonResponse({})


def validate_yaml(call: Call) -> Response:
    """Judge a card's metadata before it is uploaded."""
    errors = [{"message": error} for error in card_errors(str(call.json().get("content", "")))]
    return JsonResponse({"errors": errors, "warnings": []}, 400 if errors else 200)


def not_found(_: Call) -> Response:
    """Answer a route that this Hub does not have."""
    raise RefusedError(404, "Sorry, we can't find the page you are looking for.")


def hub_date(moment: datetime) -> str:
    """Return a time as the Hub writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _named(asked: dict[str, Any], user: str) -> RepoName:
    name = str(asked.get("name", ""))
    namespace, _, name = name.rpartition("/")
    folder = FOLDERS.get(asked.get("type") or "model", "")

    return read_repo_name(folder, asked.get("organization") or namespace or user, name)


def _summary(repo: Repo) -> dict[str, Any]:
    return {
        "_id": repo.name.repo_id,
        "id": repo.name.repo_id,
        "modelId": repo.name.repo_id,
        "author": repo.name.repo_id.partition("/")[0],
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": hub_date(repo.created_at),
    }


def _sibling(entry: Entry) -> dict[str, Any]:
    return {"rfilename": entry.path, "size": entry.size, "blobId": entry.blob, **_lfs_facts(entry, "sha256")}


def _described(repo: Repo, commit: str, entries: Sequence[Entry], *, expand: bool) -> list[dict[str, Any]]:
    described = [_describe(entry) for entry in entries]
    if expand:
        made_by = find_last_commits(repo.git_dir, commit, [entry.path for entry in entries])
        for facts in described:
            if made := made_by.get(facts["path"]):
                facts["lastCommit"] = {"id": made.oid, "title": made.title, "date": hub_date(made.made_at)}

    return described


def _describe(entry: Entry) -> dict[str, Any]:
    kind = "directory" if entry.is_directory else "file"
    return {"type": kind, "oid": entry.blob, "size": entry.size, "path": entry.path, **_lfs_facts(entry, "oid")}


def _lfs_facts(entry: Entry, name_of_oid: str) -> dict[str, Any]:
    if not entry.pointer:
        return {}
    return {"lfs": {name_of_oid: entry.pointer.oid, "size": entry.size, "pointerSize": entry.blob_size}}


def _sample(file: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(str(file.get("sample", "")))
    except binascii.Error:
        return b""


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("true", "1")


def _read_cursor(cursor: str | None) -> tuple[int, str]:
    commit, _, start = (cursor or ".0").partition(".")
    return int(start), commit


def _next_link(call: Call, cursor: str) -> str:
    query = urlencode({**call.request.query_params, "cursor": cursor})
    return f'<{call.base_url}{call.request.scope["path"]}?{query}>; rel="next"'
