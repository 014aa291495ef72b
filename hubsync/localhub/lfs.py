"""The LFS API: batches of the ``basic`` and the Hub's ``multipart`` transfer, and the storage that their addresses lead to.

https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from hubsync.localhub.calls import Call, JsonResponse
from hubsync.localhub.limits import check_storage
from hubsync.localhub.multipart import describe_parts, put_part
from hubsync.localhub.objects import IncomingObject, holds_object, list_objects, object_path
from hubsync.localhub.receiving import receive
from hubsync.localhub.refusals import RefusedError, entry_not_found
from hubsync.localhub.repos import Repo
from hubsync.localhub.rules import is_oid

MEDIA_TYPE = "application/vnd.git-lfs+json"
_NO_LARGE_FILES = (
    "You need to configure your repository to enable upload of files > 5GB.\n"
    'Run "hf lfs-enable-largefiles ./path/to/your/repo" and try again.'
)
_FOUND, _MISSING, _INVALID = 200, 404, 422


class StoredFile(FileResponse):
    """An object on its way to a client, in blocks that keep the threads' overhead small."""

    chunk_size = 1024 * 1024


def lfs_json(content: object) -> Response:
    """Return *content* as LFS answers it."""
    return JsonResponse(content, media_type=MEDIA_TYPE)


def batch(call: Call) -> Response:
    """Say of each object whether it is there, or where it goes."""
    asked = call.json()
    upload = asked.get("operation") == "upload"
    repo = call.writable() if upload else call.readable()
    offered = asked.get("transfers", ["basic"])
    if "basic" not in offered or asked.get("hash_algo", "sha256") != "sha256":
        raise RefusedError(409, "Only the basic transfer of SHA-256 objects is offered")
    things = asked.get("objects", [])
    sizes = [thing["size"] for thing in things if _is_sound(thing)]
    transfer = _choose_transfer(call, offered, max(sizes, default=0)) if upload else "basic"
    describe = {"basic": _upload, "multipart": _upload_in_parts}[transfer] if upload else _download
    if upload:
        check_room(call, repo, {thing["oid"]: thing["size"] for thing in things if _is_sound(thing)})
    objects = [describe(call, repo, thing) if _is_sound(thing) else _unsound(thing) for thing in things]

    return lfs_json({"transfer": transfer, "objects": objects, "hash_algo": "sha256"})


def _choose_transfer(call: Call, offered: list[str], largest: int) -> str:
    if largest <= call.hub.settings.single_max_bytes:
        return "basic"
    if "multipart" not in offered:
        raise RefusedError(400, _NO_LARGE_FILES)

    return "multipart"


def check_room(call: Call, repo: Repo, sizes: Mapping[str, int]) -> None:
    """Raise RefusedError if objects of these *sizes*, by oid, are more than the namespace may hold."""
    limit = call.hub.settings.storage_bytes
    if limit is None:
        return
    added = sum(size for oid, size in sizes.items() if not holds_object(repo.objects_dir, oid, size))
    held = (path.stat().st_size for one in call.hub.repos.list_beside(repo) for path in list_objects(one.objects_dir))
    check_storage(held, added, limit, private=repo.private)


def verify(call: Call) -> Response:
    """Tell a client that has uploaded an object whether it is there."""
    thing = call.json()
    if not _is_sound(thing):
        raise RefusedError(422, "oid and size are wanted")
    repo = call.hub.repos.find(call.repo_name())
    if not call.authorization:
        call.hub.signer.check(call.request.query_params, "verify", repo.name.web_path, thing["oid"], str(thing["size"]))
    else:
        repo = call.writable()
    if not holds_object(repo.objects_dir, thing["oid"], thing["size"]):
        raise RefusedError(404, "Object does not exist")

    return lfs_json({})


def no_locks(call: Call) -> Response:
    """Answer as the Hub does: it knows no locks, and git-lfs goes on without."""
    call.writable()
    raise RefusedError(404, "Locks are not supported")


def _is_sound(thing: Any) -> bool:  # noqa: ANN401 - a client may send anything
    if not isinstance(thing, dict):
        return False
    size = thing.get("size")

    return is_oid(thing.get("oid")) and isinstance(size, int) and size >= 0


def _unsound(thing: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    known = thing if isinstance(thing, dict) else {}
    return {"oid": known.get("oid"), "size": known.get("size"), "error": {"code": _INVALID, "message": "Invalid object"}}


def _upload(call: Call, repo: Repo, thing: dict[str, Any]) -> dict[str, Any]:
    oid, size = thing["oid"], thing["size"]
    if holds_object(repo.objects_dir, oid, size):
        return {"oid": oid, "size": size}
    return _actions(call, repo, thing, {"href": storage_href(call, repo, "PUT", oid, size), "expires_in": 3600})


def _upload_in_parts(call: Call, repo: Repo, thing: dict[str, Any]) -> dict[str, Any]:
    oid, size = thing["oid"], thing["size"]
    if holds_object(repo.objects_dir, oid, size):
        return {"oid": oid, "size": size}

    return _actions(call, repo, thing, {**describe_parts(call, repo, oid, size), "expires_in": 3600})


def _actions(call: Call, repo: Repo, thing: dict[str, Any], upload: dict[str, Any]) -> dict[str, Any]:
    oid, size = thing["oid"], thing["size"]
    verified = call.hub.signer.sign("verify", repo.name.web_path, oid, str(size))
    href = f"{call.base_url}/{repo.name.web_path}.git/info/lfs/verify?{verified}"
    actions = {"upload": upload, "verify": {"href": href, "expires_in": 3600}}

    return {"oid": oid, "size": size, "authenticated": True, "actions": actions}


def _download(call: Call, repo: Repo, thing: dict[str, Any]) -> dict[str, Any]:
    oid, size = thing["oid"], thing["size"]
    if not holds_object(repo.objects_dir, oid, size):
        return {"oid": oid, "size": size, "error": {"code": _MISSING, "message": "Object does not exist"}}
    actions = {"download": {"href": storage_href(call, repo, "GET", oid, size), "expires_in": 3600}}

    return {"oid": oid, "size": size, "authenticated": True, "actions": actions}


def storage_href(call: Call, repo: Repo, method: str, oid: str, size: int) -> str:
    """Return the address at which one object may be put or got, for an hour, by anybody who knows it."""
    path = f"/_lfs/{repo.name.folder}/{repo.name.repo_id}/{oid}"
    granted = call.hub.signer.sign(method, path, str(size))

    return f"{call.storage_url}{path}?size={size}&{granted}"


async def put_object(request: Request) -> Response:
    """Take in one object, or a part of one."""
    if "uploadId" in request.query_params:
        return await put_part(request)
    repo, oid, size = _granted(Call(request.app.state.hub, request), "PUT")
    if holds_object(repo.objects_dir, oid, size):
        async for _ in request.stream():  # a client that still sends would not read the answer
            pass
        return Response(status_code=_FOUND)
    incoming = IncomingObject(repo.objects_dir, oid, size)
    try:
        await receive(request, incoming.write)
        incoming.keep()
    finally:
        incoming.close()

    return Response(status_code=_FOUND)


def get_object(call: Call) -> Response:
    """Give out one object, or a range of it."""
    repo, oid, size = _granted(call, "GET")
    if not holds_object(repo.objects_dir, oid, size):
        raise entry_not_found()

    return stored_file(repo, oid, {})


def stored_file(repo: Repo, oid: str, headers: dict[str, str]) -> Response:
    """Return an object's content; the answer minds ``Range`` and ``HEAD``."""
    return StoredFile(
        object_path(repo.objects_dir, oid),
        media_type="application/octet-stream",
        headers={"ETag": f'"{oid}"', **headers},
    )


def _granted(call: Call, method: str) -> tuple[Repo, str, int]:
    query = call.request.query_params
    size = query.get("size", "")
    call.hub.signer.check(query, method, call.request.scope["path"], size)

    return call.hub.repos.find(call.repo_name()), call.param("oid"), int(size)
