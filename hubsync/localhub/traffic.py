"""Remembers what was asked of the Hub, for tests and curious people: the last requests, and no more than that."""

import logging
import threading
import time
from collections import deque

from msgspec import Struct
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("hubsync.localhub")

_REMEMBERED = 10_000


class Request(Struct, frozen=True):
    """One request that was answered (*status* 0: the client left before). *path* is as it was sent, without a query."""

    method: str
    path: str
    status: int
    bytes_in: int
    bytes_out: int
    took_s: float


class Traffic:
    """The requests that were answered, the oldest first."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    def add(self, request: Request) -> None:
        """Remember *request*, and forget the oldest if there are too many."""
        log.debug("%s %s %d", request.method, request.path, request.status)
        with self._lock:
            self._requests.append(request)

    def requests(self) -> tuple[Request, ...]:
        """Return what is remembered."""
        with self._lock:
            return tuple(self._requests)

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self._requests.clear()


class TrafficMiddleware:
    """Counts what passes, and lets routes see the path as it was sent.

    Starlette matches decoded paths, in which ``%2F`` inside a revision cannot be told from a separator; here it matches
    encoded ones, and ``Call.param`` decodes.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = bytes_in = bytes_out = 0
        remembered = False
        started = time.monotonic()
        path = scope["raw_path"].decode("ascii", "replace")

        async def counted_receive() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        def remember() -> None:
            nonlocal remembered
            if not remembered:
                remembered = True
                took_s = time.monotonic() - started
                self._traffic.add(Request(scope["method"], path, status, bytes_in, bytes_out, took_s))

        async def counted_send(message: Message) -> None:
            nonlocal status, bytes_out
            status = message.get("status", status)
            bytes_out += len(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                remember()  # before the last bytes go: who has its answer finds its request
            await send(message)

        try:
            await self._app({**scope, "path": path}, counted_receive, counted_send)
        finally:
            remember()
