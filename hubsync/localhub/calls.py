"""What every endpoint shares: the Hub that answers, who asks for which repository, and how an answer is made.

Endpoints are plain functions of a ``Call``; they run in a worker thread, because they wait for git.
"""

import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hubsync.localhub.access import Access, Signer, User
from hubsync.localhub.faults import Faults
from hubsync.localhub.limits import CommitCounter
from hubsync.localhub.refusals import MovedError, RefusedError
from hubsync.localhub.repos import Repo, RepoName, Repos, read_repo_name
from hubsync.localhub.settings import Settings
from hubsync.localhub.traffic import Traffic

log = logging.getLogger("hubsync.localhub")

_BODY_MAX_BYTES = 64 * 1024 * 1024  # of a JSON request; files travel by other ways
_OTHER_LOOPBACK = {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}


class Hub(Struct):
    """What a running Hub consists of; *settings* may be replaced while it runs."""

    repos: Repos
    access: Access
    signer: Signer
    traffic: Traffic
    faults: Faults
    settings: Settings
    commits: CommitCounter = field(default_factory=CommitCounter)

    def count_commit(self, repo: Repo) -> None:
        """Count a commit or push; raises RefusedError if it is one too many this hour."""
        self.commits.count(repo.name.web_path, self.settings.commits_per_hour)


class JsonResponse(Response):
    """JSON that holds any path: what is not UTF-8 is escaped, not an error."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Return *content* as ASCII."""
        return json.dumps(content, separators=(",", ":"), default=str).encode()


class Call(Struct, frozen=True):
    """One request, its body read."""

    hub: Hub
    request: Request
    body: bytes = b""

    @property
    def authorization(self) -> str | None:
        """What the client says to be let in."""
        return self.request.headers.get("authorization")

    @property
    def base_url(self) -> str:
        """The Hub's address, as the client knows it."""
        return f"{self.request.url.scheme}://{self.request.url.netloc}"

    @property
    def storage_url(self) -> str:
        """The address of the LFS storage: on loopback a host of another name, so that no client sends it a token."""
        return other_loopback(self.base_url)

    def param(self, name: str) -> str:
        """Return a part of the path, decoded; empty if the route has none of that name."""
        return unquote(self.request.path_params.get(name, ""), errors="surrogateescape")

    def json(self) -> dict[str, Any]:
        """Return the body, an object; raises RefusedError."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as exc:
            raise RefusedError(400, f"Invalid JSON: {exc}") from exc
        if not isinstance(value, dict):
            raise RefusedError(400, "Invalid JSON: not an object")

        return value

    def user(self) -> User:
        """Return who asks; raises RefusedError if nobody did."""
        return self.hub.access.known_user(self.authorization)

    def repo_name(self) -> RepoName:
        """Return the repository that the path names."""
        return read_repo_name(self.param("folder") or "models", self.param("namespace"), self.param("name"))

    def readable(self) -> Repo:
        """Return the repository that the path names, if the client may read it."""
        with self._directing():
            return self.hub.access.readable(self.hub.repos, self.repo_name(), self.authorization)

    def writable(self) -> Repo:
        """Return the repository that the path names, if the client may write it."""
        with self._directing():
            return self.hub.access.writable(self.hub.repos, self.repo_name(), self.authorization)

    @contextlib.contextmanager
    def _directing(self) -> Iterator[None]:
        try:
            yield
        except MovedError as moved:
            moved.direct(self.request.scope["path"], self.request.url.query)
            raise


def other_loopback(url: str) -> str:
    """Return *url* with the other name of this machine; as it is, if it has none."""
    parts = urlsplit(url)
    other = _OTHER_LOOPBACK.get(parts.hostname or "")
    return f"{parts.scheme}://{other}:{parts.port}" if other and parts.port else url


def threaded(answer: Callable[[Call], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint of a function that may block."""

    async def endpoint(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY_MAX_BYTES:
                raise RefusedError(413, "Request body is too large")

        return await run_in_threadpool(answer, Call(request.app.state.hub, request, bytes(body)))

    return endpoint


def answer_failure(_: Request, failed: Exception) -> Response:
    """Answer for a failure of the Hub itself, and say so where its owner looks."""
    log.error("%s", failed)
    return JsonResponse({"error": "Internal Error - We're working hard to fix this as soon as possible!"}, 500)


def answer_nobody(_: Request, __: Exception) -> Response:
    """Answer a client that left while it was sending; it will not read this."""
    return Response(status_code=400)


def answer_refusal(_: Request, refused: Exception) -> Response:
    """Say no as the Hub does: in JSON and in the headers that its client reads."""
    if not isinstance(refused, RefusedError):
        raise refused
    words = str(refused)
    headers = {**refused.headers, "X-Error-Message": " ".join(words.encode("ascii", "backslashreplace").decode().split())}
    if refused.code:
        headers["X-Error-Code"] = refused.code

    return JsonResponse({"error": words, "message": words, **refused.body}, refused.status, headers)
