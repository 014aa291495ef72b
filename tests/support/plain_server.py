"""A git + LFS server that is not ours: plain ``git http-backend``, and a separate storage host for LFS objects.

It knows no Hub API. Every request is remembered with its Authorization header, so that a test can see who was shown the
token. It serves ``/<owner>/<name>.git`` only, and LFS at ``<repo>.git/info/lfs``, as git-lfs discovers it.

Two hooks let a test act at one moment of a request: ``before`` it is done, and ``after`` it was done but before it is
answered. A hook that raises CutError ends the connection without an answer, one that raises AnswerError gives its own.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Mapping
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

    @property
    def is_push(self) -> bool:
        """Whether this request moves refs (a large push is preceded by an empty one, which does not)."""
        return self.method == "POST" and self.path.endswith("/git-receive-pack") and self.size > 4


class CutError(Exception):
    """Raised by a hook: no answer, the connection ends."""


class AnswerError(Exception):
    """Raised by a hook: this is the answer."""

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        super().__init__(status)
        self.answer = (status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def _pass(_: Request) -> None:
    """Do nothing."""


@dataclass
class PlainServer:
    """``with PlainServer(tmp_path) as server: server.create("acme/x")``."""

    root: Path
    token: str | None = None
    requests: list[Request] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    before: Callable[[Request], None] = _pass
    after: Callable[[Request], None] = _pass
    port: int = 0
    offers_all: bool = False  # as simple servers do: to take also what it has

    def __enter__(self) -> Self:
        self._git = _serve(self, _GitHandler, self.port)
        self.port = self._git.server_address[1]
        self._storage = _serve(self, _StorageHandler)
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage_url = f"http://localhost:{self._storage.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._git, self._storage):
            server.shutdown()
            server.server_close()
        assert [] == [request for request in self.requests if request.host == "storage" and request.authorization]

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

    def read(self, repo: str, path: str) -> bytes:
        """Return the file at *path* on main: the object behind a pointer, as a download gives it."""
        argv = ["git", "-C", self.root / f"{repo}.git", "cat-file", "blob", f"main:{path}"]
        content = subprocess.run(argv, check=True, env=_ENV, capture_output=True).stdout
        found = re.fullmatch(rb"version https://git-lfs\S+\noid sha256:(\w+)\nsize \d+\n", content)
        return self.objects[found[1].decode()] if found else content

    def read_all(self, repo: str) -> dict[str, bytes]:
        """Return what a download of main gives, without the .gitattributes at the root."""
        listed = self.git(repo, "ls-tree", "-r", "-z", "--name-only", "main").split("\0")[:-1]
        return {path: self.read(repo, path) for path in listed if path != ".gitattributes"}

    def history(self, repo: str) -> list[str]:
        """Return the commits of main, newest first."""
        return self.git(repo, "rev-list", "main").split()

    def commit(self, repo: str, files: Mapping[str, bytes | None], message: str = "by others") -> str:
        """Commit on main as somebody else would in the web page; ``None`` removes a path."""
        who = "committer other <other@example.org> now"
        lines = [f"commit refs/heads/main\n{who}\ndata {len(message)}\n{message}\n".encode()]
        if self.git(repo, "branch"):
            lines.append(b"from refs/heads/main^0\n")
        for path, content in files.items():
            lines.append(b"D %s\n" % path.encode() if content is None else _inline(path, content))
        argv = ["git", "-C", self.root / f"{repo}.git", "fast-import", "--quiet", "--date-format=now"]
        subprocess.run(argv, input=b"".join(lines), check=True, env=_ENV)
        return self.git(repo, "rev-parse", "main")


def _inline(path: str, content: bytes) -> bytes:
    return b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(content), content)


def _serve(owner: PlainServer, handler: type[BaseHTTPRequestHandler], port: int = 0) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.owner = owner  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def read_body(request: BaseHTTPRequestHandler) -> bytes:
    """Return what came with a request, in one piece or in chunks."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    pieces = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        pieces.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()

    return b"".join(pieces)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    host = ""

    @property
    def owner(self) -> PlainServer:
        return self.server.owner  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        return

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def respond(self, body: bytes) -> None:
        """Do what is asked, with the hooks around it."""
        authorization = self.headers.get("Authorization") or ""
        request = Request(self.host, self.command, self.path, authorization, len(body))
        self.owner.requests.append(request)
        try:
            self.owner.before(request)
            answer = self.work(body)
            self.owner.after(request)
        except CutError:
            self.close_connection = True
            return
        except AnswerError as exc:
            answer = exc.answer
        self.answer(*answer)

    def work(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers."""
        raise NotImplementedError


class _GitHandler(_Handler):
    host = "git"

    def do_GET(self) -> None:
        self.respond(b"")

    def do_POST(self) -> None:
        self.respond(read_body(self))

    def work(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self.path.startswith("/api/"):
            return 404, b"no such page", {}
        if not self._is_allowed():
            return 401, b"", {"WWW-Authenticate": 'Basic realm="plain"', "LFS-Authenticate": 'Basic realm="plain"'}
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        return self._backend(body)

    def _is_allowed(self) -> bool:
        if self.owner.token is None:
            return True
        scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
        return scheme == "Basic" and base64.b64decode(value).decode().partition(":")[2] == self.owner.token

    def _batch(self, asked: dict) -> tuple[int, bytes, dict[str, str]]:
        def describe(item: dict) -> dict:
            have = item["oid"] in self.owner.objects
            offers = self.owner.offers_all or not have
            action = {"href": f"{self.owner.storage_url}/{item['oid']}", "expires_in": 3600}
            if asked["operation"] == "upload":
                return item | ({"actions": {"upload": action}} if offers else {})
            return item | ({"actions": {"download": action}} if have else {"error": {"code": 404, "message": "gone"}})

        answer = {"transfer": "basic", "objects": [describe(item) for item in asked["objects"]]}
        return 200, json.dumps(answer).encode(), {"Content-Type": "application/vnd.git-lfs+json"}

    def _backend(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
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
        return int(headers.pop("Status", "200 OK").split()[0]), rest, headers


class _StorageHandler(_Handler):
    host = "storage"

    def do_PUT(self) -> None:
        self.respond(read_body(self))

    def do_POST(self) -> None:
        self.respond(read_body(self))

    def do_GET(self) -> None:
        self.respond(b"")

    def work(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        oid = self.path.strip("/")
        if self.command == "GET":
            return 200, self.owner.objects[oid], {}
        if hashlib.sha256(body).hexdigest() != oid:
            return 422, b"wrong bytes", {}
        self.owner.objects[oid] = body
        return 200, b"", {}
