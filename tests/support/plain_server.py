"""A git + LFS server that is not ours: plain ``git http-backend``, and a separate storage host for LFS objects.

It knows no Hub API. Every request is remembered with its Authorization header, so that a test can see who was shown the
token. It serves ``/<owner>/<name>.git`` only, and LFS at ``<repo>.git/info/lfs``, as git-lfs discovers it.
"""

import base64
import hashlib
import json
import os
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

_ENV = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}


@dataclass
class Request:
    host: str
    method: str
    path: str
    authorization: str
    size: int = 0


@dataclass
class PlainServer:
    """``with PlainServer(tmp_path) as server: server.create("acme/x")``."""

    root: Path
    token: str | None = None
    requests: list[Request] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._git = _serve(self, _GitHandler)
        self._storage = _serve(self, _StorageHandler)
        self.url = f"http://127.0.0.1:{self._git.server_address[1]}"
        self.storage_url = f"http://localhost:{self._storage.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._git, self._storage):
            server.shutdown()
            server.server_close()

    def create(self, repo: str) -> Path:
        """Make an empty repository."""
        path = self.root / f"{repo}.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", path], check=True, env=_ENV)
        subprocess.run(["git", "-C", path, "config", "http.receivepack", "true"], check=True, env=_ENV)
        return path

    def git(self, repo: str, *args: str) -> str:
        """Run git in a repository and return what it printed."""
        argv = ["git", "-C", self.root / f"{repo}.git", *args]
        return subprocess.run(argv, check=True, env=_ENV, capture_output=True, text=True).stdout.strip()


def _serve(owner: PlainServer, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.owner = owner  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host = ""

    @property
    def owner(self) -> PlainServer:
        return self.server.owner  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        return

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def remember(self, size: int) -> None:
        authorization = self.headers.get("Authorization") or ""
        self.owner.requests.append(Request(self.host, self.command, self.path, authorization, size))


class _GitHandler(_Handler):
    host = "git"

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        self._handle(self.body())

    def _handle(self, body: bytes) -> None:
        self.remember(len(body))
        if self.path.startswith("/api/"):
            self.answer(404, b"no such page")
        elif not self._is_allowed():
            self.answer(401, b"", {"WWW-Authenticate": 'Basic realm="plain"', "LFS-Authenticate": 'Basic realm="plain"'})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            self._backend(body)

    def _is_allowed(self) -> bool:
        if self.owner.token is None:
            return True
        scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
        return scheme == "Basic" and base64.b64decode(value).decode().partition(":")[2] == self.owner.token

    def _batch(self, asked: dict) -> None:
        def describe(item: dict) -> dict:
            have = item["oid"] in self.owner.objects
            action = {"href": f"{self.owner.storage_url}/{item['oid']}", "expires_in": 3600}
            if asked["operation"] == "upload":
                return item | ({} if have else {"actions": {"upload": action}})
            return item | ({"actions": {"download": action}} if have else {"error": {"code": 404, "message": "gone"}})

        answer = {"transfer": "basic", "objects": [describe(item) for item in asked["objects"]]}
        self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/vnd.git-lfs+json"})

    def _backend(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            **_ENV, "GIT_PROJECT_ROOT": str(self.owner.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "someone",
            "CONTENT_TYPE": self.headers.get("Content-Type") or "", "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
        }  # fmt: skip
        out = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False).stdout
        head, _, rest = out.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.answer(int(headers.pop("Status", "200 OK").split()[0]), rest, headers)


class _StorageHandler(_Handler):
    host = "storage"

    def do_PUT(self) -> None:
        body = self.body()
        self.remember(len(body))
        oid = self.path.strip("/")
        if hashlib.sha256(body).hexdigest() != oid:
            self.answer(422, b"wrong bytes")
            return
        self.owner.objects[oid] = body
        self.answer(200)

    def do_GET(self) -> None:
        self.remember(0)
        self.answer(200, self.owner.objects[self.path.strip("/")])
