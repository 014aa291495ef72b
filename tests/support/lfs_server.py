"""An LFS server that is not ours, with uploads in parts as the Hub has them, and storage on a host of its own.

It keeps what is sent as digests and sizes, so that size does not matter. ``before`` is called with each request when its
headers are read; it may raise CutError or AnswerError, or change what the server is going to do.
"""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from support.plain_server import AnswerError, CutError

_BLOCK_BYTES = 1 << 18


@dataclass
class LfsRequest:
    host: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class LfsServer:
    """``with LfsServer() as server``; with *part_bytes* it asks for objects larger than that in parts."""

    part_bytes: int | None = None
    numbers: str = "{:05}"  # how parts are numbered
    expires_in: int = 3600
    before: Callable[[LfsRequest], None] = lambda _: None
    requests: list[LfsRequest] = field(default_factory=list)
    objects: set[str] = field(default_factory=set)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)  # session → part → digest
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # when how many bytes were read

    def __enter__(self) -> Self:
        self.lock = threading.Lock()
        self._servers = [_serve(self, host) for host in ("127.0.0.1", "localhost")]
        self.url, self.storage_url = (f"http://{s.host}:{s.server_address[1]}" for s in self._servers)  # type: ignore[attr-defined]
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def count(self, what: str) -> int:
        """Return how many requests there were whose method and path begin with *what*."""
        return sum(f"{request.method} {request.path}".startswith(what) for request in self.requests)

    def puts(self) -> Counter[str]:
        """Return how often each address of storage was put to."""
        return Counter(request.path for request in self.requests if request.method == "PUT")

    def batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer the Batch API."""
        return {"transfer": "basic", "objects": [self._describe(thing) for thing in asked["objects"]]}

    def _describe(self, thing: dict[str, Any]) -> dict[str, Any]:
        oid, size = thing["oid"], thing["size"]
        if oid in self.objects:
            return thing
        href, header = f"{self.storage_url}/whole/{oid}", {}
        if self.part_bytes and size > self.part_bytes:
            session = f"{len(self.uploads)}-{oid[:8]}"
            self.uploads[session] = {}
            parts = range(1, -(-size // self.part_bytes) + 1)
            header = {self.numbers.format(n): f"{self.storage_url}/parts/{session}/{n}?uploadId={session}" for n in parts}
            header["chunk_size"] = str(self.part_bytes)
            href = f"{self.storage_url}/complete/{session}/{oid}"
        upload = {"href": href, "header": header, "expires_in": self.expires_in}
        verify = {"href": f"{self.url}/verify/{oid}", "header": {"X-Verify": "yes"}}
        return {**thing, "authenticated": True, "actions": {"upload": upload, "verify": verify}}


def _serve(owner: LfsServer, host: str) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.owner, server.host = owner, host  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        return

    def do_PUT(self) -> None:
        self._respond(self._take)

    def do_POST(self) -> None:
        self._respond(self._post)

    def _respond(self, work: Callable[[], tuple[bytes, dict[str, str]]]) -> None:
        owner: LfsServer = self.server.owner  # type: ignore[attr-defined]
        request = LfsRequest(self.server.host, self.command, self.path, dict(self.headers))  # type: ignore[attr-defined]
        with owner.lock:
            owner.requests.append(request)
        try:
            owner.before(request)
            self._answer(200, *work())
        except AnswerError as exc:
            status, body, headers = exc.answer
            self._answer(status, body, {"Connection": "close", **headers})
        except (CutError, ConnectionError):
            self.close_connection = True

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _read(self) -> Any:
        """Read the body; return its hash."""
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            block = self.rfile.read1(min(left, _BLOCK_BYTES))  # type: ignore[attr-defined]
            if not block:
                raise CutError
            digest.update(block)
            left -= len(block)
            self.server.owner.arrivals.append((time.monotonic(), len(block)))  # type: ignore[attr-defined]
        return digest

    def _take(self) -> tuple[bytes, dict[str, str]]:
        owner: LfsServer = self.server.owner  # type: ignore[attr-defined]
        digest = self._read()
        kind, name, *rest = self.path.partition("?")[0].strip("/").split("/")
        if kind == "whole":
            owner.objects.add(name)
            return b"", {}
        owner.uploads[name][int(rest[0])] = digest.digest()
        return b"", {"ETag": f'"{digest.hexdigest()}"'}

    def _post(self) -> tuple[bytes, dict[str, str]]:
        owner: LfsServer = self.server.owner  # type: ignore[attr-defined]
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/objects/batch"):
            return json.dumps(owner.batch(asked)).encode(), {"Content-Type": "application/vnd.git-lfs+json"}
        if self.path.startswith("/complete/"):
            _, _, session, oid = self.path.split("/")
            known = {n: f'"{digest.hex()}"' for n, digest in owner.uploads[session].items()}
            if {part["partNumber"]: part["etag"] for part in asked["parts"]} != known:
                raise AnswerError(400, b"those parts are not here")
            owner.objects.add(oid)
        elif asked["oid"] not in owner.objects:
            raise AnswerError(404)
        return b"{}", {}
