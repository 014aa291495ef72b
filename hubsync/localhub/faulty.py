"""Shows faults (see ``faults``) to the requests that they are about: slow, broken, stalled and wrong answers.

To whatever answers behind it, a broken connection looks as if the client had left.
"""

import asyncio
import contextlib
import select
import socket
import struct

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hubsync.localhub.calls import other_loopback
from hubsync.localhub.faults import ActiveFault, Fault, Faults

_LOOK_S = 0.02
_STEPS_PER_S = 20  # a slow body goes in so many pieces
_REDIRECT = 307
_OK = 200
_LINGER_OFF = struct.pack("ii", 1, 0)  # closing sends a reset


class ConnectionProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which lets the application break its connection off."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


class FaultMiddleware:
    """Answers a request, or lets it through, as the fault that it meets says."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or not."""
        active = self._faults.take(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if active is None:
            await self._app(scope, receive, send)
            return
        fault = active.fault
        await asyncio.sleep(fault.delay_s)
        passage = _Passage(active, scope["state"]["transport"], receive, send)
        if fault.stall_after == 0 or fault.reset_after == 0:
            await passage.break_off()
        elif fault.answers:
            await _answer(fault, Request(scope))(scope, passage.receive, passage.send)
        else:
            await self._app(scope, passage.receive, passage.send)


def _answer(fault: Fault, request: Request) -> Response:
    status = fault.status or (_REDIRECT if fault.redirect else _OK)
    headers = dict(fault.headers)
    if fault.redirect:
        base = other_loopback(str(request.base_url)) if fault.redirect == "other" else fault.redirect
        query = f"?{request.url.query}" if request.url.query else ""
        headers["Location"] = f"{base.rstrip('/')}{request.scope['path']}{query}"
    body = b'{"error":"fault on demand"}' if fault.body is None else fault.body

    return Response(body, status, headers, "application/json")


class _Passage:
    """What one request and its answer pass through; counts bodies both ways."""

    def __init__(self, active: ActiveFault, transport: asyncio.Transport, receive: Receive, send: Send) -> None:
        self._active = active
        self._fault = active.fault
        self._transport = transport
        self._receive = receive
        self._send = send
        self._passed = 0
        self._truncate_after = self._fault.truncate_after
        self._sent = 0

    async def receive(self) -> Message:
        """Return the next part of the request; a broken connection is a client that left."""
        message = await self._receive()
        for piece in self._pieces(message.get("body", b"")):
            if not await self._let_pass(len(piece)):
                return {"type": "http.disconnect"}

        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer, or as much of it as may pass."""
        if message["type"] == "http.response.start":
            await self._begin_answer(message)
            return
        for piece in self._pieces(message.get("body", b"")):
            room = len(piece) if self._truncate_after is None else self._truncate_after - self._sent
            if not await self._let_pass(len(piece[:room])):
                return
            self._sent += len(piece[:room])
            await self._send({"type": "http.response.body", "body": piece[:room], "more_body": True})
            if room < len(piece):
                await self._hang_up()
                return
        if not message.get("more_body"):
            await self._send({"type": "http.response.body", "body": b""})

    async def _begin_answer(self, message: Message) -> None:
        if self._fault.loses_answer:
            await self.break_off()
            return
        if self._truncate_after is not None and self._truncate_after < 0:
            lengths = [int(value) for name, value in message["headers"] if name.lower() == b"content-length"]
            self._truncate_after = lengths[0] // 2 if lengths else 0
        await self._send(message)

    async def break_off(self) -> None:
        """Stall for as long as the fault says so; then reset the connection."""
        if self._fault.stall_after is not None:
            while not (self._active.withdrawn or self._is_gone()):  # noqa: ASYNC110 - neither sets an event
                await asyncio.sleep(_LOOK_S)
        with contextlib.suppress(OSError):  # it may be gone
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
        self._transport.abort()
        await self._left()

    def _is_gone(self) -> bool:
        """Whether the client has left, even if more of what it sent waits to be read."""
        if self._transport.is_closing():
            return True
        looking = select.poll()
        looking.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)

        return bool(looking.poll(0))

    async def _hang_up(self) -> None:
        """Close the connection in good order; what was sent arrives."""
        self._transport.close()
        await self._left()

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _let_pass(self, size: int) -> bool:
        """Count *size* bytes, as slowly as they may pass; breaks off and returns False if they are too many."""
        self._passed += size
        limits = [limit for limit in (self._fault.stall_after, self._fault.reset_after) if limit is not None]
        if limits and self._passed > min(limits):
            await self.break_off()
            return False
        if self._fault.bytes_per_s and not self._active.withdrawn:
            await asyncio.sleep(size / self._fault.bytes_per_s)

        return not self._transport.is_closing()

    def _pieces(self, body: bytes) -> list[bytes]:
        rate = self._fault.bytes_per_s
        size = max(rate // _STEPS_PER_S, 1) if rate else len(body)
        return [body[start : start + size] for start in range(0, len(body), size or 1)]
