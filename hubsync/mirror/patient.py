"""Owns the patience and the memory that huggingface_hub's client spends on a Hub: answers without end get neither.

The client's own deadline is for each piece of an answer, so that one which drips holds it for ever; it reads answers
whole, however large they are or become; and the library tries again by itself, asleep for as long as a Hub asks. When to
try again is ``worker``'s, so that a failure is raised here as one that the library does not know. Imported late: httpx
takes 100 ms. It must never know what is asked.
"""

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import httpcore2
import httpx2

_ANSWER_BYTES = 32 << 20  # unpacked; a listing of 300,000 paths
_PIECE_BYTES = 1 << 20
_SLOWEST_BYTES_PER_S = 100  # as for git
_USUAL_S = 30.0
_ASKED_AGAIN = frozenset({429, 500, 502, 503, 504})
_API = ("/api/", "/info/lfs/")  # what else is got is files, which go to disk, from wherever they are kept
_BOUNDED = "hubsync.bounded"
_TOKENS = 8  # of one place: of several endpoints there, and those before them that a request may still have on it


class UnreachableError(httpx2.TransportError):
    """The Hub cannot be reached, or broke off."""


class TimedOutError(httpx2.TransportError):
    """The Hub is silent, or too slow."""


class Patience:
    """How long each Hub is waited for, in seconds, and what it may know; set also while requests are under way."""

    def __init__(self) -> None:
        self._by_place: dict[tuple[str, int], float] = {}
        self._tokens: dict[tuple[str, int], tuple[str, ...]] = {}  # those in use, the newest first

    def set(self, url: str, timeout_s: float, token: str | None) -> None:
        """Wait *timeout_s* for what is at *url*'s host and port, and tell it *token*."""
        place = _place(httpx2.URL(url))
        self._by_place[place] = timeout_s
        if token:
            others = (other for other in self._tokens.get(place, ()) if other != token)
            self._tokens[place] = (token, *islice(others, _TOKENS - 1))

    def may_tell(self, token: str, host: str, port: int) -> bool:
        """Tell whether one place may know *token*; what is no token of ours is not ours to keep."""
        places = [place for place, tokens in list(self._tokens.items()) if token in tokens]
        return not places or (host, port) in places

    def of(self, host: str, port: int) -> float:
        """Return the patience with one place; others, such as storage, get that with the most patient Hub."""
        return self._by_place.get((host, port)) or max(self._by_place.values(), default=_USUAL_S)


def make_client(patience: Patience, refuse: Callable[[httpx2.Response], None]) -> httpx2.Client:
    """Return a client that waits with *patience* for anything to happen, and no longer for an answer that only drips.

    *refuse* is called with each answer that the library would ask for again; it shall raise. On a redirect to another
    host the client drops the token by itself; where the library follows an address in an answer (the next page, the
    ``verify`` of an upload), it is dropped here.
    """

    def look(response: httpx2.Response) -> None:
        if response.status_code in _ASKED_AGAIN:
            response.read()
            refuse(response)
        if response.has_redirect_location:
            _rewind(response.request)

    hooks = {"response": [look]}
    return httpx2.Client(transport=_Transport(patience), follow_redirects=True, event_hooks=hooks)


def _rewind(request: httpx2.Request) -> None:
    """Let a file that was sent be sent again: httpx follows a redirect with what is left of it, which is nothing."""
    body = getattr(request.stream, "_stream", None)
    if body is not None and hasattr(body, "seek"):
        body.seek(0)


def _place(url: httpx2.URL) -> tuple[str, int]:
    return url.host, url.port or (443 if url.scheme == "https" else 80)


class _Transport(httpx2.HTTPTransport):
    """httpx's own, with patience and a bound."""

    def __init__(self, patience: Patience) -> None:
        super().__init__()
        self._patience = patience
        self._pool._network_backend = _Backend(patience)  # noqa: SLF001 - httpx has no argument for it

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        place = _place(request.url)
        if not self._patience.may_tell(request.headers.get("Authorization", "").partition(" ")[2], *place):
            del request.headers["Authorization"]
        timeout_s = self._patience.of(*place)
        is_file = request.method == "GET" and not any(part in request.url.path for part in _API)
        is_bounded = request.extensions.get(_BOUNDED) or not is_file
        # What a request has in its extensions goes to where it is redirected.
        timeout = httpx2.Timeout(timeout_s).as_dict()
        request.extensions = {**request.extensions, "timeout": timeout, _BOUNDED: is_bounded}
        if is_bounded:
            request.headers["Accept-Encoding"] = "gzip"
        with _once():
            response = super().handle_request(request)
        if not is_bounded and not response.is_error:
            return response
        assert isinstance(response.stream, httpx2.SyncByteStream)  # noqa: S101 - for mypy
        body = _Body(response.stream, response.headers.pop("Content-Encoding", "identity"))
        if body.is_packed:
            response.headers.pop("Content-Length", None)

        return httpx2.Response(response.status_code, headers=response.headers, stream=body, extensions=response.extensions)


class _Body(httpx2.SyncByteStream):
    """A body that is unpacked piece by piece, and ends with an error if it is too long."""

    def __init__(self, stream: httpx2.SyncByteStream, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding.strip().lower()
        self.is_packed = self._encoding not in {"", "identity"}

    def __iter__(self) -> Iterator[bytes]:
        left = _ANSWER_BYTES
        with _once():
            for piece in self._unpack() if self.is_packed else self._stream:
                left -= len(piece)
                if left < 0:
                    raise httpx2.DecodingError(f"an answer of more than {_ANSWER_BYTES >> 20} MiB")
                yield piece

    def close(self) -> None:
        self._stream.close()

    def _unpack(self) -> Iterator[bytes]:
        if self._encoding not in {"gzip", "x-gzip", "deflate"}:
            raise httpx2.DecodingError(f"an answer packed as {self._encoding}, which was not asked for")
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            for piece in self._stream:
                rest = piece
                while rest:
                    yield unpacker.decompress(rest, _PIECE_BYTES)
                    rest = unpacker.unconsumed_tail or unpacker.unused_data
                    if unpacker.eof:  # another member may follow
                        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        except zlib.error as exc:
            raise httpx2.DecodingError(f"an answer that cannot be unpacked: {exc}") from exc


@contextlib.contextmanager
def _once() -> Iterator[None]:
    """Make of what the library would try again what it would not."""
    try:
        yield
    except httpx2.TimeoutException as exc:
        raise TimedOutError(str(exc) or type(exc).__name__) from exc
    except (httpx2.NetworkError, httpx2.ProtocolError) as exc:
        raise UnreachableError(str(exc) or type(exc).__name__) from exc


class _Backend(httpcore2.SyncBackend):
    """Makes connections that lose their patience."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience

    def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore2.NetworkStream:  # noqa: ANN401 - httpcore's
        return _Stream(super().connect_tcp(host, port, *args, **options), self._patience.of(host, port))


class _Stream(httpcore2.NetworkStream):
    """One connection; an answer begins when the last piece of the request was written."""

    def __init__(self, inner: httpcore2.NetworkStream, patience_s: float) -> None:
        self._inner = inner
        self._patience_s = patience_s
        self._asked_at = time.monotonic()
        self._got = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        piece = self._inner.read(max_bytes, timeout)
        self._got += len(piece)
        waited_s = time.monotonic() - self._asked_at
        if piece and waited_s > self._patience_s and self._got < _SLOWEST_BYTES_PER_S * waited_s:
            raise httpcore2.ReadTimeout(f"too slow: {self._got} bytes in {waited_s:.0f} s")

        return piece

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)
        self._asked_at, self._got = time.monotonic(), 0

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:  # noqa: ANN401 - httpcore's
        return _Stream(self._inner.start_tls(*args, **options), self._patience_s)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's
        return self._inner.get_extra_info(info)
