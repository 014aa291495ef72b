"""Takes in what ``huggingface_hub`` uploads through Xet, its default way, and makes LFS objects of it.

https://huggingface.co/docs/xet/api. There is no second storage: packed chunks wait below the repository's ``lfs/incoming``
until the shard says which files they make, and stay there until the Hub ends, since a client does not send again what it
remembers to have sent. The address tells one run of the Hub and one life of the repository from the next, so a client never
remembers too much. Downloads take the plain way, which needs no Xet.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hubsync.localhub.calls import Call, JsonResponse
from hubsync.localhub.lfs import check_room
from hubsync.localhub.objects import IncomingObject, holds_object
from hubsync.localhub.receiving import receive
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.repos import Repo
from hubsync.localhub.rules import is_oid
from hubsync.localhub.trees import find_commit
from hubsync.localhub.xorbs import SharedFile, read_chunks, read_shard

_TOKEN_S = 3600
_SCHEME = "Bearer "


def write_token(call: Call) -> Response:
    """Give out the address and the token of an upload."""
    repo = call.writable()
    if call.request.query_params.get("create_pr") != "1":
        find_commit(repo.git_dir, call.param("revision"))
    address = f"{call.storage_url}{_path(call, repo)}"
    token = call.hub.signer.sign("xet", _path(call, repo))
    expires = str(int(time.time()) + _TOKEN_S)
    headers = {"X-Xet-Cas-Url": address, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": expires}

    return JsonResponse({"casUrl": address, "accessToken": token, "exp": int(expires)}, headers=headers)


def find_chunk(_: Call) -> Response:
    """Say that no chunk is known; the client finds out itself what it has sent before."""
    raise RefusedError(404, "Chunk is not known")


async def put_xorb(request: Request) -> Response:
    """Take in a pack of chunks."""
    call = Call(request.app.state.hub, request)
    repo, name = _granted(call), call.param("xorb")
    if not is_oid(name):
        raise RefusedError(400, "Invalid hash")
    with _new_file(_xorb_path(repo, name)) as file:
        await receive(request, file.write)

    return JsonResponse({"was_inserted": True})


async def put_shard(request: Request) -> Response:
    """Make an object of each file that the shard describes."""
    call = Call(request.app.state.hub, request)
    repo = _granted(call)
    with tempfile.TemporaryFile() as shard:
        await receive(request, shard.write)
        shard.seek(0)
        await run_in_threadpool(_keep_files, call, repo, shard)

    return JsonResponse({"result": 1})


def _keep_files(call: Call, repo: Repo, shard: IO[bytes]) -> None:
    files = list(read_shard(shard))
    check_room(call, repo, {file.oid: file.size for file in files})
    for file in files:
        if not holds_object(repo.objects_dir, file.oid, file.size):
            _keep_file(repo, file)


def _keep_file(repo: Repo, file: SharedFile) -> None:
    incoming = IncomingObject(repo.objects_dir, file.oid, file.size)
    try:
        for segment in file.segments:
            try:
                xorb = _xorb_path(repo, segment.xorb).open("rb")
            except FileNotFoundError:
                raise RefusedError(400, f"The shard names a xorb that is not here: {segment.xorb}") from None
            with xorb:
                for chunk in read_chunks(xorb, segment):
                    incoming.write(chunk)
        incoming.keep()
    finally:
        incoming.close()


@contextlib.contextmanager
def _new_file(goal: Path) -> Iterator[IO[bytes]]:
    """Give a file that gets its name only when all went well."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=goal.parent, delete=False) as file:
        try:
            yield file
            file.flush()
            Path(file.name).rename(goal)
        except BaseException:
            Path(file.name).unlink()
            raise


def _granted(call: Call) -> Repo:
    """Return the repository that the client's token opens; raises RefusedError."""
    repo = call.hub.repos.find(call.repo_name())
    authorization = call.authorization or ""
    query = dict(parse_qsl(authorization.removeprefix(_SCHEME)))
    call.hub.signer.check(query, "xet", _path(call, repo))

    return repo


def _path(call: Call, repo: Repo) -> str:
    life = call.hub.signer.mark("xet", repo.created_at.isoformat())
    return f"/_xet/{repo.name.folder}/{repo.name.repo_id}/{life}"


def _xorb_path(repo: Repo, name: str) -> Path:
    return repo.objects_dir.parent / "incoming" / "xorbs" / name
