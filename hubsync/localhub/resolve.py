"""Downloads as ``huggingface_hub`` wants them: content or a redirect to the storage, and the headers it relies on."""

from starlette.responses import RedirectResponse, Response

from hubsync.localhub.calls import Call
from hubsync.localhub.lfs import storage_href, stored_file
from hubsync.localhub.objects import holds_object
from hubsync.localhub.refusals import RefusedError, entry_not_found
from hubsync.localhub.repos import Repo
from hubsync.localhub.rules import Pointer
from hubsync.localhub.trees import find_commit, find_file, read_blob

_TEXT = "text/plain; charset=utf-8"


def resolve(call: Call) -> Response:
    """Answer with a file: at once if it is in git, from the storage if it is in LFS."""
    repo = call.readable()
    commit = find_commit(repo.git_dir, call.param("revision"))
    entry = find_file(repo.git_dir, commit, call.param("path"))
    if entry.pointer:
        return _resolve_object(call, repo, commit, entry.pointer)

    headers = {"X-Repo-Commit": commit, "ETag": f'"{entry.blob}"'}
    return ranged(call, b"" if call.request.method == "HEAD" else read_blob(repo.git_dir, entry.blob), entry.size, headers)


def raw(call: Call) -> Response:
    """Answer with what git holds: a pointer's own text."""
    repo = call.readable()
    commit = find_commit(repo.git_dir, call.param("revision"))
    entry = find_file(repo.git_dir, commit, call.param("path"))

    return Response(read_blob(repo.git_dir, entry.blob), media_type=_TEXT, headers={"X-Repo-Commit": commit})


def _resolve_object(call: Call, repo: Repo, commit: str, pointer: Pointer) -> Response:
    headers = {
        "X-Repo-Commit": commit,
        "X-Linked-Etag": f'"{pointer.oid}"',
        "X-Linked-Size": str(pointer.size),
        "Accept-Ranges": "bytes",
    }
    if not holds_object(repo.objects_dir, pointer.oid, pointer.size):
        raise entry_not_found(commit)
    if call.storage_url == call.base_url:  # a client follows such a redirect and would miss the headers
        return stored_file(repo, pointer.oid, headers)

    href = storage_href(call, repo, "GET", pointer.oid, pointer.size)
    return RedirectResponse(href, 302, headers={**headers, "ETag": f'"{pointer.oid}"'})


def ranged(call: Call, content: bytes, size: int, headers: dict[str, str]) -> Response:
    """Return *content* or the range of it that is asked for; a ``HEAD`` learns the whole *size*."""
    headers = {**headers, "Accept-Ranges": "bytes"}
    if call.request.method == "HEAD":
        return Response(status_code=200, media_type=_TEXT, headers={**headers, "Content-Length": str(size)})
    asked = call.request.headers.get("range", "")
    if not asked.startswith("bytes=") or "," in asked:
        return Response(content, media_type=_TEXT, headers=headers)

    first, last = _read_range(asked.removeprefix("bytes="), size)
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Response(content[first : last + 1], 206, media_type=_TEXT, headers=headers)


def _read_range(asked: str, size: int) -> tuple[int, int]:
    start, _, end = asked.partition("-")
    try:
        first = int(start) if start else max(size - int(end), 0)
        last = min(int(end), size - 1) if start and end else size - 1
    except ValueError:
        first, last = size, 0
    if first > last:
        raise RefusedError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})

    return first, last
