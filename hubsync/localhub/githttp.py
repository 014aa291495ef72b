"""Git's smart HTTP: the real ``git http-backend``, fed as a request arrives and read as it answers.

https://git-scm.com/docs/git-http-backend. It decides who may pass; all else (gzip, protocol version 2, the hook's words)
is git's own.
"""

import asyncio
import contextlib
from asyncio import StreamReader
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from hubsync.localhub.access import User
from hubsync.localhub.calls import Call
from hubsync.localhub.git import end_process, start_http_backend
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.repos import Repo, drop_half_pushed

_SERVICES = frozenset({"git-upload-pack", "git-receive-pack"})
_PROBE_LENGTH = "4"  # git asks whether it may, before it sends a large pack
_CHUNK_BYTES = 256 * 1024


class GitHttp:
    """Answers git's three requests; *hooks* are git settings and variables that every backend gets."""

    def __init__(self, hooks: Mapping[str, str]) -> None:
        self._hooks = hooks
        self._running: Counter[Path] = Counter()  # backends, by what they work on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope)
        try:
            environment = self._admit(request)
        except RefusedError as refused:  # in plain text, which git shows to its user
            response = PlainTextResponse(f"{refused}\n", refused.status, refused.headers)
            await response(scope, receive, send)
            return
        place = Path(environment["PATH_TRANSLATED"])
        process = await start_http_backend({**environment, **self._hooks})
        self._running[place] += 1
        try:
            await _relay(process, receive, send)
        finally:
            await end_process(process)
            self._running -= Counter([place])
            if place.name == "git-receive-pack" and place not in self._running:  # a client may have left in the middle
                drop_half_pushed(place.parent)

    def _admit(self, request: Request) -> dict[str, str]:
        """Return the CGI variables of a request that may pass; raises RefusedError."""
        call = Call(request.app.state.hub, request)
        step = request.url.path.rpartition("/")[2]
        service = request.query_params.get("service", "") if step == "refs" else step
        if service not in _SERVICES:
            raise RefusedError(403, "Only git's smart protocol is spoken here")
        if service == "git-receive-pack":
            repo = call.writable()
            if step != "refs" and request.headers.get("content-length") != _PROBE_LENGTH:
                call.hub.count_commit(repo)
            return _cgi(request, repo, step, call.user())

        return _cgi(request, call.readable(), step, call.hub.access.user_of(call.authorization))


def _cgi(request: Request, repo: Repo, step: str, user: User | None) -> dict[str, str]:
    """Return the request's CGI variables.

    Without a length the backend reads to the end of its input. With one it reads for ever when the body ends early: it
    takes an end of file for no bytes yet.
    """
    headers = request.headers
    variables = {
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_TRANSLATED": str(repo.git_dir / ("info/refs" if step == "refs" else step)),
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.url.query,
        "CONTENT_TYPE": headers.get("content-type", ""),
        "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
        "GIT_PROTOCOL": headers.get("git-protocol", ""),
        "REMOTE_USER": user.name if user else "",
        "REMOTE_ADDR": request.client.host if request.client else "",
    }
    return {name: value for name, value in variables.items() if value}


async def _relay(process: Process, receive: Receive, send: Send) -> None:
    """Feed the request to the backend and its answer to the client, both at once."""
    feeding = asyncio.create_task(_feed(process, receive))
    try:
        await _answer(process, send)
    finally:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding


async def _feed(process: Process, receive: Receive) -> None:
    """Write the body to the backend; end it if the client leaves before it has its answer."""
    stdin = process.stdin
    assert stdin is not None  # noqa: S101 - it was started with a pipe
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            await end_process(process)
            return
        with contextlib.suppress(ConnectionError):  # the backend has read enough; the rest of the body is dropped
            stdin.write(message.get("body", b""))
            await stdin.drain()
        more = message.get("more_body", False)
    stdin.close()
    await receive()  # nothing but the client's leaving is left to come
    await end_process(process)


async def _answer(process: Process, send: Send) -> None:
    stdout = process.stdout
    assert stdout is not None  # noqa: S101 - it was started with a pipe
    status, headers = await _read_head(stdout)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    while chunk := await stdout.read(_CHUNK_BYTES):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await process.wait()
    await send({"type": "http.response.body", "body": b""})


async def _read_head(stdout: StreamReader) -> tuple[int, list[tuple[bytes, bytes]]]:
    status = 200
    headers = []
    while line := (await stdout.readline()).strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"status":
            status = int(value.split()[0])
        else:
            headers.append((name.lower(), value.strip()))

    return (status, headers) if headers else (500, [(b"content-type", b"text/plain")])
