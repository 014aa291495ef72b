"""Owns the transfer agent's HTTP: requests that have a deadline for progress, and refusals as one kind of error.

What is not the LFS API is sent nothing but the headers that came with its address: the token never goes to another host,
with a redirect or without. It must never know what the bytes are. Only the standard library is used: an agent is started
for each upload, and another client takes longer to import than a small upload takes.
"""

import base64
import http.client
import json
import re
import select
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from hubsync.errors import HubsyncError

LFS_TYPE = "application/vnd.git-lfs+json"
_REDIRECTS = frozenset({301, 302, 307, 308})  # 303 asks for a GET, which stores nothing
_MOST_REDIRECTS = 5
_SAID_CHARS = 400  # of what a server says; a captive portal's page is no news
_ANSWER_BYTES = 32 << 20  # of a hostile server; a hundred objects in parts take a few megabytes
_REFUSED = 422  # by us, as a server would
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_USED_UP = re.compile(r";r=0;t=(\d+)")  # in how many seconds there will be requests left, as the Hub says it
_URL_SAFE = "%/:;=&?@+,$!*'()~[]"  # what an address may hold as it is (RFC 3986), so that signed ones stay as they are

Body = Callable[[], Iterator[bytes | memoryview]]  # called again for each time that the bytes have to be sent


class TransferError(HubsyncError):
    """A request failed. ``status`` is 0 if there was no answer; ``retry_after`` is what the server asks for, as it came."""

    def __init__(self, message: str, *, status: int = 0, retry_after: str = "", is_general: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.is_general = is_general
        self.retryable = status in _TRY_AGAIN or not status


class Action(NamedTuple):
    """Where to send something, with which headers."""

    href: str
    headers: Mapping[str, str] = MappingProxyType({})


class _Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004 - HTTP's own

    @property
    def words(self) -> str:
        """What it says to a person."""
        try:
            content = json.loads(self.content)
            return str(content.get("message") or content.get("error") or content)
        except (ValueError, AttributeError, RecursionError):
            return self.content.decode("utf-8", "replace")


class _NoConnectionError(Exception):
    """No connection came about in time."""


class Client:
    """Sends to whatever an LFS API at *lfs_url* names; *authorization* is for that API's own host only."""

    def __init__(self, lfs_url: str, authorization: str | None, *, stall_s: float, connect_s: float) -> None:
        self._origin = _origin(lfs_url)
        self._authorization = authorization
        self._stall_s = stall_s
        self._connect_s = connect_s
        self.moved = 0  # bytes that any server took, requests and all; a figure that grows while anything gets on
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._tls: ssl.SSLContext | None = None

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def signed_in(self, action: Action) -> Action:
        """Return *action* with the token, if it leads to the LFS API's host and brings no credentials of its own."""
        is_signed = any(name.lower() == "authorization" for name in action.headers)
        if self._authorization is None or is_signed or _origin(action.href) != self._origin:
            return action
        return Action(action.href, {**action.headers, "Authorization": self._authorization})

    def post(self, action: Action, content: object) -> Any:  # noqa: ANN401 - JSON
        """Post *content* as LFS wants it and return the answer's.

        Raises:
            TransferError: it was refused, or there is no answer.
        """
        body = json.dumps(content).encode()
        headers = {"Accept": LFS_TYPE, "Content-Type": LFS_TYPE, **action.headers}
        answer = self._request("POST", Action(action.href, headers), lambda: iter((body,)), len(body))
        try:
            return json.loads(answer.content) if answer.content else {}
        except (ValueError, RecursionError):
            return {}

    def post_bytes(self, action: Action, content: bytes) -> None:
        """Post *content* as it is; no redirect is followed.

        Raises:
            TransferError: it was refused, or there is no answer.
        """
        self._request("POST", action, lambda: iter((content,)), len(content))

    def put(self, action: Action, body: Body, size: int) -> str:
        """Put the *size* bytes of *body*; follow redirects; return the answer's ETag.

        Raises:
            TransferError: it was refused, or there is no answer.
        """
        action = Action(action.href, {"Content-Type": "application/octet-stream", **action.headers})
        for _ in range(_MOST_REDIRECTS):
            answer = self._request("PUT", action, body, size, allow=_REDIRECTS)
            if answer.is_success:
                return answer.headers.get("etag", "")
            action = _redirect(action, answer)

        raise TransferError("redirected without end", status=answer.status)

    def _request(self, method: str, action: Action, body: Body, size: int, allow: frozenset[int] = frozenset()) -> _Answer:
        try:
            answer = self._exchange(method, action, body, size)
        except _NoConnectionError as exc:
            raise TransferError("timed out: no connection") from exc
        except TimeoutError as exc:
            raise TransferError(f"stalled: no progress for {self._stall_s:.0f} s") from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise TransferError(f"connection error: {str(exc)[:_SAID_CHARS] or type(exc).__name__}") from exc
        if answer.is_success or answer.status in allow:
            return answer

        raise _read_refusal(answer)

    def _exchange(self, method: str, action: Action, body: Body, size: int) -> _Answer:
        url = urlsplit(action.href)
        if self._origin[0] == "https" and url.scheme == "http":
            raise TransferError(
                "without encryption: the server names a plain http address", status=_REFUSED, is_general=True
            )
        path = quote(f"{url.path or '/'}{'?' if url.query else ''}{url.query}", safe=_URL_SAFE)
        headers = {**_sign_in(url), **action.headers, "Content-Length": str(size)}
        connection = self._connect(url)
        try:
            try:
                connection.request(method, path, body(), headers)
            except (BrokenPipeError, ConnectionResetError):
                # A server may refuse before it has read all; what it says stands before the end of the connection.
                answer = _read_answer(connection)
                connection.close()
            else:
                answer = _read_answer(connection)
        except BaseException:
            connection.close()
            raise
        self._keep(url, connection)

        return answer

    # --- connections

    def _connect(self, url: SplitResult) -> http.client.HTTPConnection:
        with self._lock:
            idle = self._idle.get((url.scheme, url.netloc), [])
            while idle:
                connection = idle.pop()
                if _is_open(connection):
                    return connection
                connection.close()
        connection = self._open(url)
        try:
            connection.connect()
        except TimeoutError as exc:
            raise _NoConnectionError from exc
        if connection.sock is not None:
            connection.sock.settimeout(self._stall_s)

        return connection

    def _open(self, url: SplitResult) -> http.client.HTTPConnection:
        if not url.hostname or url.scheme not in {"http", "https"}:
            raise http.client.InvalidURL(f"no address of a server: {url.scheme}://{url.hostname or ''}")
        if url.scheme == "http":
            return _Connection(url.hostname, url.port, timeout=self._connect_s, client=self)
        with self._lock:  # the system's certificates, as git and git-lfs use them; they take a while to read
            self._tls = self._tls or ssl.create_default_context()

        return _TlsConnection(url.hostname, url.port, timeout=self._connect_s, client=self, context=self._tls)

    def _keep(self, url: SplitResult, connection: http.client.HTTPConnection) -> None:
        if connection.sock is not None:  # the server did not close it
            with self._lock:
                self._idle.setdefault((url.scheme, url.netloc), []).append(connection)


class _Connection(http.client.HTTPConnection):
    """Sends piece by piece: ``sendall`` would take the deadline for progress as one for the whole piece."""

    def __init__(self, *args: Any, client: Client, **options: Any) -> None:  # noqa: ANN401 - http.client's
        super().__init__(*args, **options)
        self._client = client

    def send(self, data: Any) -> None:  # noqa: ANN401 - bytes or a view
        """Send *data*."""
        left = memoryview(data)
        while left:
            count = self.sock.send(left)
            self._client.moved += count
            left = left[count:]


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    """The same, encrypted."""


def _is_open(connection: http.client.HTTPConnection) -> bool:
    """Tell whether an idle connection may still be used: the server has neither closed it nor said anything."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN | select.POLLHUP)

    return not poll.poll(0)


def _read_answer(connection: http.client.HTTPConnection) -> _Answer:
    with connection.getresponse() as response:
        headers = {name.lower(): value for name, value in response.getheaders()}
        content = response.read(_ANSWER_BYTES)
        if not response.isclosed() and response.read(1):
            raise TransferError("server error: an answer without end")
        return _Answer(response.status, headers, content)


def _sign_in(url: SplitResult) -> dict[str, str]:
    """Return the header for the name and password that an address holds."""
    if url.username is None:
        return {}
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _redirect(action: Action, answer: _Answer) -> Action:
    goal = urljoin(action.href, answer.headers.get("location", ""))
    if urlsplit(goal).scheme not in {"https", urlsplit(action.href).scheme}:
        raise TransferError(f"redirected to {urlsplit(goal).scheme or 'nowhere'}", status=answer.status)
    if _origin(goal) == _origin(action.href):
        return Action(goal, action.headers)
    return Action(goal, {"Content-Type": "application/octet-stream"})


def _read_refusal(answer: _Answer) -> TransferError:
    """Return what was refused: status, the wait that was asked for, and the answer's own words, in this order."""
    limit = _USED_UP.search(answer.headers.get("ratelimit", ""))
    retry_after = answer.headers.get("retry-after", "") or (limit[1] if limit else "")
    said = " ".join((answer.headers.get("x-error-message") or answer.words).split())[:_SAID_CHARS]
    parts = [f"HTTP {answer.status}", f"Retry-After: {retry_after}" if retry_after else "", said]

    return TransferError("; ".join(filter(None, parts)), status=answer.status, retry_after=retry_after)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]
