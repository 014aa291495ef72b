"""A local Hub for measurements: a process of its own, whose LFS storage counts what it gets and keeps none of it.

With a line of so many bytes a second it receives no faster, and stands back: it would be another machine. Prints its
address, its token and how it is asked for the count as one line of JSON, and serves until its input ends.
"""

import json
import os
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from hubsync.localhub import LocalHub
from hubsync.localhub.calls import Call
from hubsync.localhub.objects import object_path

_BLOCK_BYTES = 4 << 20


class Storage(socketserver.ThreadingTCPServer):
    """Takes objects and leaves files of their size, without a byte in them: the Hub asks for no more."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, directory: Path, line: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.line = _Line(line)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Line:
    """Lets so many *bytes_per_s* through, over all connections (0 is unlimited), and counts them."""

    def __init__(self, bytes_per_s: int) -> None:
        self.passed_bytes = 0
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def pass_on(self, count: int) -> None:
        """Wait for as long as *count* bytes take."""
        with self._lock:
            self.passed_bytes += count
            now = time.monotonic()
            if self._bytes_per_s:
                self._free_at = max(self._free_at, now) + count / self._bytes_per_s
            wait_s = self._free_at - now
        time.sleep(max(0.0, wait_s))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Storage

    def do_PUT(self) -> None:
        """Forget what comes, most of it without a look: the kernel throws it away."""
        size = left = int(self.headers["Content-Length"])
        left -= (count := len(self.rfile.read1(left)) if left else 0)  # what came with the headers
        self.server.line.pass_on(count)
        block = bytearray(_BLOCK_BYTES)
        while left and (count := self.connection.recv_into(block, min(left, _BLOCK_BYTES), socket.MSG_TRUNC)):
            self.server.line.pass_on(count)
            left -= count
        goal = self._object()
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.touch()
        os.truncate(goal, size)
        self._answer(b"")

    def do_GET(self) -> None:
        """Tell how many bytes came, or show a part of an object to who asks whether it is there."""
        if self.path == "/":
            self._answer(str(self.server.line.passed_bytes).encode())
            return
        start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        size = self._object().stat().st_size
        self._answer(bytes(end + 1 - start), f"bytes {start}-{end}/{size}")

    def _object(self) -> Path:
        _, _, folder, owner, name, oid = urllib.parse.urlsplit(self.path).path.split("/")
        return object_path(self.server.directory / folder / owner / f"{name}.git" / "lfs" / "objects", oid)

    def _answer(self, body: bytes, part: str = "") -> None:
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", part)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        """Serve a connection; a client that ends without a farewell is no news."""
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(directory: Path, line: int) -> None:
    """Serve until the input ends."""
    if line:
        os.nice(19)
    with Storage(directory, line) as storage, LocalHub(directory) as hub:
        own = Call.storage_url.fget  # type: ignore[attr-defined]
        Call.storage_url = property(  # type: ignore[method-assign, assignment]
            lambda call: storage.url if call.request.url.path.endswith("/info/lfs/objects/batch") else own(call)
        )
        threading.Thread(target=storage.serve_forever, daemon=True).start()
        sys.stdout.write(json.dumps({"url": hub.url, "token": hub.token, "count_url": storage.url}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        storage.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
