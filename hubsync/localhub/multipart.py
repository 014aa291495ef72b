"""Takes in objects in parts, as the Hub and S3 do it together: parts to the storage, the list of their ETags to the Hub.

What was sent of an upload waits below ``lfs/incoming``; the addresses stay good for an hour, so a client may go on where it
was broken off. An object is made of its parts only if it is what it claims to be.
"""

import hashlib
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hubsync.localhub.calls import Call, JsonResponse
from hubsync.localhub.objects import IncomingObject, holds_object
from hubsync.localhub.receiving import receive
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.repos import Repo, read_repo_name

_PART_NAME = "{:05}"  # git-lfs sends parts in the order of their names
_MAX_PARTS = 10_000  # as S3
_BLOCK_BYTES = 1024 * 1024


def describe_parts(call: Call, repo: Repo, oid: str, size: int) -> dict[str, Any]:
    """Return the action that uploads an object in parts, to be completed at ``href``."""
    part_bytes = max(call.hub.settings.part_bytes, -(-size // _MAX_PARTS))
    upload = uuid.uuid4().hex
    _parts_dir(repo, upload).mkdir(parents=True)
    header = {"chunk_size": str(part_bytes)}
    for number, start in enumerate(range(0, max(size, 1), part_bytes), 1):
        header[_PART_NAME.format(number)] = _part_href(call, repo, oid, upload, number, min(part_bytes, size - start))
    facts = {"repo": f"{repo.name.folder}/{repo.name.repo_id}", "oid": oid, "size": str(size), "uploadId": upload}
    granted = call.hub.signer.sign("complete", *facts.values())

    return {"href": f"{call.base_url}/api/complete_multipart?{urlencode(facts)}&{granted}", "header": header}


def _part_href(call: Call, repo: Repo, oid: str, upload: str, number: int, size: int) -> str:
    path = f"/_lfs/{repo.name.folder}/{repo.name.repo_id}/{oid}"
    facts = {"uploadId": upload, "partNumber": str(number), "size": str(size)}
    granted = call.hub.signer.sign("part", path, *facts.values())

    return f"{call.storage_url}{path}?{urlencode(facts)}&{granted}"


async def put_part(request: Request) -> Response:
    """Take in one part."""
    call = Call(request.app.state.hub, request)
    query = request.query_params
    upload, number, size = query["uploadId"], query.get("partNumber", ""), query.get("size", "")
    call.hub.signer.check(query, "part", request.scope["path"], upload, number, size)
    repo = call.hub.repos.find(call.repo_name())
    home = _parts_dir(repo, upload)
    if not await run_in_threadpool(home.is_dir):
        raise _no_upload()
    part = _IncomingPart(home / f"{number}.{uuid.uuid4().hex}")
    try:
        await receive(request, part.write)
    finally:
        part.close()
    if part.size != int(size):
        raise RefusedError(400, "IncompleteBody: the part does not have the size that was announced")

    return Response(headers={"ETag": f'"{part.keep(int(number))}"'})


class _IncomingPart:
    """A part while it is received; what is never kept goes with its upload."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._hash = hashlib.md5(usedforsecurity=False)  # S3's ETag of a part
        self.size = 0

    def write(self, block: bytearray) -> None:
        """Add *block*."""
        self.size += len(block)
        self._hash.update(block)
        self._file.write(block)

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def keep(self, number: int) -> str:
        """Give the part its name, and return its ETag."""
        self._path.rename(self._path.parent / f"{number}-{self._hash.hexdigest()}")
        return self._hash.hexdigest()


def complete(call: Call) -> Response:
    """Make the object of its parts."""
    query, asked = call.request.query_params, call.json()
    repo_path, oid, size, upload = (query.get(name, "") for name in ("repo", "oid", "size", "uploadId"))
    call.hub.signer.check(query, "complete", repo_path, oid, size, upload)
    repo = call.hub.repos.find(read_repo_name(*repo_path.split("/")))
    if not holds_object(repo.objects_dir, oid, int(size)):  # the answer to the first completion may have been lost
        home = _parts_dir(repo, upload)
        _join(repo, oid, int(size), _find_parts(home, asked.get("parts", [])))
        shutil.rmtree(home, ignore_errors=True)

    return JsonResponse({"success": True})


def _find_parts(home: Path, listed: Sequence[dict[str, Any]]) -> list[Path]:
    if not home.is_dir():
        raise _no_upload()
    parts = []
    for place, part in enumerate(listed, 1):
        etag = str(part.get("etag", "")).strip('"')
        path = home / f"{place}-{etag}"
        if part.get("partNumber") != place or not etag.isalnum() or not path.exists():
            raise RefusedError(400, "InvalidPart: One or more of the specified parts could not be found.")
        parts.append(path)

    return parts


def _join(repo: Repo, oid: str, size: int, parts: Sequence[Path]) -> None:
    incoming = IncomingObject(repo.objects_dir, oid, size)
    try:
        for path in parts:
            with path.open("rb") as part:
                while block := part.read(_BLOCK_BYTES):
                    incoming.write(block)
        incoming.keep()
    finally:
        incoming.close()


def _parts_dir(repo: Repo, upload: str) -> Path:
    return repo.objects_dir.parent / "incoming" / f"parts-{upload}"


def _no_upload() -> RefusedError:
    return RefusedError(404, "NoSuchUpload: The specified multipart upload does not exist.")
