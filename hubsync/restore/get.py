"""Gets bytes over HTTP: ranges, redirects, one connection kept for each host. It knows no object and no file.

The standard library's client, read into a buffer that is used again: it costs a quarter of the processor's time that httpx2
takes for large bodies, which is what is got here. A header that came with an address goes to that address's host only.
"""

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Generator, Mapping
from functools import cache
from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from hubsync import __version__
from hubsync.mirror.agent_client import Action, TransferError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_SAID_BYTES = 400
_OK, _PARTIAL = 200, 206
_PORTS = {"http": 80, "https": 443}

_FIRST_BLOCK_BYTES, _LEAST_BLOCK_BYTES, _MOST_BLOCK_BYTES = 64 << 10, 8 << 10, 1 << 20
_LONG_S = 1.0

Origin = tuple[str, str, int]


class OtherSizeError(TransferError):
    """What is there has another size than what was wanted."""


class Span(Struct, frozen=True):
    """Bytes that are wanted: from *first* up to, but without, *end*, of *size* in all."""

    first: int
    end: int
    size: int


class Getter:
    """Gets spans of what addresses lead to. For one thread; connections are closed by ``close``."""

    def __init__(self, *, connect_s: float, stall_s: float) -> None:
        self._connect_s = connect_s
        self._stall_s = stall_s
        self.has_ranges = True  # whether the last answer had the range that was asked for
        self._connections: dict[Origin, http.client.HTTPConnection] = {}

    def abort(self) -> None:
        """Break off what another thread reads."""
        for connection in list(self._connections.values()):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def read(self, action: Action, span: Span, buffer: memoryview) -> Generator[memoryview, None, None]:
        """Yield the bytes of *span*, block by block, each in *buffer*, which is used again.

        Raises:
            TransferError: it was refused, is not what was wanted, or ended early.
        """
        try:
            yield from self._read(action, span, buffer)
        except TransferError:
            self.close()
            raise
        except TimeoutError as exc:
            self.close()
            raise TransferError(f"stalled: no progress for {self._stall_s:.0f} s") from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            self.close()
            raise TransferError(f"connection error: {type(exc).__name__}: {exc}") from exc
        except BaseException:
            self.close()
            raise

    def _read(self, action: Action, span: Span, buffer: memoryview) -> Generator[memoryview, None, None]:
        response = self._ask(action, span)
        skip = 0
        self.has_ranges = response.status == _PARTIAL
        if self.has_ranges:
            _check_range(response.headers.get("Content-Range", ""), span)
        else:
            _check_length(response.headers.get("Content-Length"), span)
            skip = span.first  # it knows no ranges: what is here already comes again
        left = span.end - span.first
        size = _FIRST_BLOCK_BYTES
        while left:
            began = time.monotonic()
            count = response.readinto(buffer[: min(size, len(buffer), skip or left)])
            size = _next_size(size, time.monotonic() - began)
            if not count:
                raise TransferError(f"connection error: it ended {left} bytes early")
            if skip:
                skip -= count
                continue
            left -= count
            yield buffer[:count]
        if not response.isclosed() and response.read(1):
            raise TransferError("connection error: more came than was wanted")

    def _ask(self, action: Action, span: Span) -> http.client.HTTPResponse:
        """Return the answer that has the bytes, wherever *action* leads."""
        is_whole = (span.first, span.end) == (0, span.size)
        wanted = {} if is_whole else {"Range": f"bytes={span.first}-{span.end - 1}"}
        for _ in range(_MOST_REDIRECTS):
            response = self._request(action, wanted)
            if response.status in {_OK, _PARTIAL}:
                return response
            if response.status not in _REDIRECTS:
                raise _refusal(response)
            action = _follow(action, response.headers.get("Location", ""))
            response.read()

        raise TransferError("redirected without end", status=response.status)

    def _request(self, action: Action, wanted: Mapping[str, str]) -> http.client.HTTPResponse:
        origin = origin_of(action.href)
        parts = urlsplit(action.href)
        target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        headers = {"User-Agent": f"hubsync/{__version__}", "Accept-Encoding": "identity", **action.headers, **wanted}
        if (kept := self._connections.get(origin)) is not None:
            with contextlib.suppress(ConnectionError, http.client.HTTPException):  # the server has closed it meanwhile
                return _send(kept, target, headers)
            kept.close()
        connection = self._connections[origin] = self._connect(origin)

        return _send(connection, target, headers)

    def _connect(self, origin: Origin) -> http.client.HTTPConnection:
        scheme, host, port = origin
        if scheme == "https":
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=self._connect_s, context=_tls()
            )
        else:
            made = http.client.HTTPConnection(host, port, timeout=self._connect_s)
        try:
            made.connect()
        except TimeoutError as exc:
            raise TransferError("timed out: no connection") from exc
        made.sock.settimeout(self._stall_s)

        return made


def _next_size(size: int, took_s: float) -> int:
    """Return how much is read at once after *size* bytes took so long: a slow server is to be noticed soon."""
    if took_s > _LONG_S:
        return max(_LEAST_BLOCK_BYTES, size // 4)
    return size * 2 if took_s < _LONG_S / 10 and size < _MOST_BLOCK_BYTES else size


def origin_of(url: str) -> Origin:
    """Return scheme, host and port of *url*. Raises TransferError if it leads to no web server."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise TransferError(f"not a web address: {parts.scheme or 'no scheme'}", status=422)
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def _send(connection: http.client.HTTPConnection, target: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    connection.request("GET", target, headers=dict(headers))
    return connection.getresponse()


def _follow(action: Action, location: str) -> Action:
    goal = urljoin(action.href, location)
    before, after = origin_of(action.href), origin_of(goal)
    if after[0] == "http" and before[0] == "https":
        raise TransferError("redirected to http", status=422)
    return Action(goal, action.headers if after == before else {})


def _check_range(said: str, span: Span) -> None:
    expected = {f"bytes {span.first}-{span.end - 1}/{size}" for size in (span.size, "*")}
    if said not in expected:
        raise OtherSizeError(f"another range came than was asked for: {said[:80]!r}", status=422)


def _check_length(said: str | None, span: Span) -> None:
    if said is not None and said != str(span.size):
        raise OtherSizeError(f"it has {said[:20]} bytes, and {span.size} were expected", status=422)


def _refusal(response: http.client.HTTPResponse) -> TransferError:
    said = " ".join(response.read(_SAID_BYTES).decode("utf-8", "replace").split())
    retry_after = response.headers.get("Retry-After", "")
    return TransferError(f"HTTP {response.status}; {said}", status=response.status, retry_after=retry_after)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # the system's certificates, as git and git-lfs use them
