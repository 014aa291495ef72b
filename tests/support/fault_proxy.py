"""A proxy in front of a Hub that shows faults which no honest Hub shows: broken, endless, hostile and foreign answers.

One fault is in force at a time, for the requests that it is about; all others pass. Every request is remembered.
"""

import gzip
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from support.plain_server import read_body

_LINGER_OFF = struct.pack("ii", 1, 0)  # closing sends a reset
_DROPPED = frozenset({"connection", "content-length", "transfer-encoding", "date", "server"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that came by."""

    at: float
    host: str
    method: str
    path: str
    headers: dict[str, str]


class Exchange:
    """One request and what a fault may do with it."""

    def __init__(self, handler: "_Handler") -> None:
        self._handler = handler
        self.over = handler.proxy.over
        self.base = f"http://{handler.headers['Host']}"

    def body(self) -> bytes:
        """Read the request's body."""
        return read_body(self._handler)

    def forward(self) -> tuple[int, dict[str, str], bytes]:
        """Have the Hub do it; return its answer."""
        return self._handler.forward()

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Answer it."""
        self._handler.answer(status, headers, body)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        """Begin an answer whose body ends with the connection."""
        handler = self._handler
        handler.close_connection = True
        handler.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            handler.send_header(name, value)
        handler.end_headers()

    def write(self, piece: bytes) -> None:
        """Send bytes of the answer as they are."""
        self._handler.wfile.write(piece)
        self._handler.wfile.flush()

    def read(self, count: int) -> bytes:
        """Read at most *count* bytes of the request's body."""
        left = min(count, int(self._handler.headers.get("Content-Length") or 0))
        return self._handler.rfile.read(left)

    def reset(self) -> None:
        """Break the connection off."""
        self._handler.close_connection = True
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
        self._handler.connection.close()


Fault = Callable[[Exchange], None]


@dataclass
class FaultProxy:
    """``with FaultProxy(hub) as proxy``: to clients a Hub, with *hub*'s token."""

    hub: Any
    requests: list[Asked] = field(default_factory=list)
    shown: int = 0
    port: int = 0

    def __enter__(self) -> Self:
        self.over = threading.Event()
        self._fault: tuple[re.Pattern[str], Fault] | None = None
        self._left = 0
        self.token = self.hub.token
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self.refuse()

    def listen(self) -> None:
        """Take connections, at the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.proxy = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def refuse(self) -> None:
        """Let nobody connect."""
        self._server.shutdown()
        self._server.server_close()
        self._server.close_all()

    def show(self, where: str, fault: Fault, times: int = 1 << 30) -> None:
        """Show *fault* to the next *times* requests of which the pattern *where* is found in ``METHOD path``."""
        self.over.clear()
        self.shown = 0
        self._left = times
        self._fault = (re.compile(where), fault)

    def clear(self) -> None:
        """Show nothing any more; what hangs ends."""
        self._fault = None
        self.over.set()

    def find(self, request: Asked) -> Fault | None:
        """Return the fault that *request* meets."""
        fault = self._fault
        if fault is None or not fault[0].search(f"{request.method} {request.path}") or self.shown >= self._left:
            return None
        self.shown += 1

        return fault[1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def close_all(self) -> None:
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients leave whenever they like."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def proxy(self) -> FaultProxy:
        return self.server.proxy  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *_: object) -> None:
        return

    def _pass(self) -> None:
        headers = {name.title(): value for name, value in self.headers.items()}
        asked = Asked(time.monotonic(), self.headers["Host"] or "", self.command, self.path, headers)
        self.proxy.requests.append(asked)
        fault = self.proxy.find(asked)
        if fault is not None:
            fault(Exchange(self))
            return
        status, headers, body = self.forward()
        self.answer(status, headers, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _pass  # noqa: N815 - the base class's names

    def forward(self) -> tuple[int, dict[str, str], bytes]:
        goal = urlsplit(self.proxy.hub.url)
        connection = http.client.HTTPConnection(goal.hostname or "", goal.port, timeout=60)
        body = read_body(self)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _DROPPED}
        connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        with connection.getresponse() as response:
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _DROPPED}
            answer = response.status, kept, response.read()
        connection.close()

        return answer

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


# --- faults


def status(code: int, body: bytes = b'{"error":"no"}', **headers: str) -> Fault:
    """Answer so, without doing anything."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def act(exchange: Exchange) -> None:
        exchange.body()
        exchange.answer(code, body, {"Content-Type": "application/json", **named})

    return act


def reset(after: int = 0) -> Fault:
    """Break the connection off once so many bytes of the request's body were read."""

    def act(exchange: Exchange) -> None:
        exchange.read(after)
        exchange.reset()

    return act


def truncate(after: int = 10) -> Fault:
    """Do what is asked, and break off in the answer."""

    def act(exchange: Exchange) -> None:
        code, headers, body = exchange.forward()
        exchange.begin(code, {**headers, "Content-Length": str(len(body) + 1)})
        exchange.write(body[:after])
        exchange.reset()

    return act


def hole(exchange: Exchange) -> None:
    """Read nothing and answer nothing until the fault is over."""
    exchange.over.wait()
    exchange.reset()


def drip(exchange: Exchange) -> None:
    """Answer a byte a second, the headers too, until the fault is over."""
    exchange.body()
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\nContent-Type: application/json\r\n\r\n" + b"[" * 10**6:
        try:
            exchange.write(bytes([byte]))
        except OSError:
            return
        if exchange.over.wait(1):
            break
    exchange.reset()


def read_slowly(exchange: Exchange) -> None:
    """Read a byte a second, until the fault is over."""
    while not exchange.over.wait(1):
        if not exchange.read(1):
            break
    exchange.reset()


def chatter(exchange: Exchange) -> None:
    """Send messages of a server at work beside git's data, until the fault is over."""
    exchange.body()
    exchange.begin(200, {"Content-Type": "application/x-git-receive-pack-result"})
    count = 0
    while not exchange.over.wait(0.02):
        count += 1
        words = b"\x02still at work, step %d: please be patient\n" % count
        try:
            exchange.write(b"%04x" % (len(words) + 4) + words)
        except OSError:
            return
    exchange.reset()


def content(body: bytes, **headers: str) -> Fault:
    """Answer with success and this."""
    return status(200, body, **headers)


def bomb(size: int = 1 << 30) -> Fault:
    """Answer with a little that becomes *size* bytes."""
    block = gzip.compress(b" " * (1 << 24))
    body = gzip.compress(b"[") + block * (size >> 24) + gzip.compress(b"]")

    return content(body, Content_Encoding="gzip")


def endless(code: int = 200) -> Fault:
    """Send more and more, as fast as it goes."""

    def act(exchange: Exchange) -> None:
        exchange.body()
        exchange.begin(code, {"Content-Type": "application/json"})
        block = b'"x",' * (1 << 16)
        try:
            exchange.write(b"[")
            while not exchange.over.is_set():
                exchange.write(block)
        except OSError:
            return

    return act


def change(edit: Callable[[bytes], bytes]) -> Fault:
    """Do what is asked, and answer something else."""

    def act(exchange: Exchange) -> None:
        code, headers, body = exchange.forward()
        exchange.answer(code, edit(body), headers)

    return act


def redirect(base: str, code: int = 307) -> Fault:
    """Send the client to the same path elsewhere."""

    def act(exchange: Exchange) -> None:
        exchange.body()
        exchange.answer(code, b"", {"Location": base + exchange._handler.path})

    return act
