"""Servers with something to restore, and restoring in this process."""

import hashlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from support.plain_server import _ENV, PlainServer
from support.rig import NO_LOGIN, REPO

from hubsync.config.model import Endpoint, Mirror, TokenSource
from hubsync.localhub import LocalHub
from hubsync.mirror.token import Tokens
from hubsync.restore.catalog import Layout, Wish
from hubsync.restore.progress import Meter
from hubsync.restore.run import From, Restored, restore
from hubsync.store.pointer import Pointer

Contents = Mapping[str, bytes]


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Callable[[], LocalHub]]:
    """Give what starts local Hubs, each with the repository."""
    started: list[LocalHub] = []

    def start() -> LocalHub:
        hub = LocalHub(tmp_path / f"hub-{len(started)}")
        hub.start()
        started.append(hub)
        HfApi(endpoint=hub.url, token=hub.token).create_repo(REPO, private=True)
        return hub

    yield start
    for hub in started:
        hub.stop()


def put(hub: LocalHub, files: Contents, branch: str = "main") -> str:
    """Commit *files* on a Hub; ``*.bin`` goes to LFS."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    if branch != "main":
        api.create_branch(REPO, branch=branch, exist_ok=True)
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return str(api.create_commit(REPO, operations, commit_message="files", revision=branch).oid)


def put_plain(server: PlainServer, files: Contents, modes: Mapping[str, str] | None = None, branch: str = "main") -> None:
    """Commit *files* on a plain server with their *modes*; ``*.bin`` becomes a pointer and an object."""
    lines = [f"commit refs/heads/{branch}\ncommitter o <o@x> 0 +0000\ndata 1\nx\n".encode()]
    for path, content in files.items():
        blob = content
        if path.endswith(".bin"):
            oid = hashlib.sha256(content).hexdigest()
            server.objects[oid] = content
            blob = Pointer(oid, len(content)).encode()
        mode = (modes or {}).get(path, "100644")
        quoted = '"' + path.replace("\\", "\\\\").replace("\n", "\\n") + '"'
        lines.append(f"M {mode} inline {quoted}\ndata {len(blob)}\n".encode() + blob + b"\n")
    argv = ["git", "-C", server.root / f"{REPO}.git", "fast-import", "--quiet", "--force"]
    subprocess.run(argv, input=b"".join(lines), check=True, env=_ENV)


def put_raw_tree(server: PlainServer, entries: list[tuple[str, bytes, str]]) -> None:
    """Commit a tree with names that git itself would refuse: (mode, name, content, or an object's id for ``tree``)."""
    run = _git(server)
    body = b""
    for mode, name, content in entries:
        blob = content if mode in {"40000", "160000"} else run("hash-object", "-w", "--stdin", feed=content)
        body += mode.encode() + b" " + name + b"\0" + bytes.fromhex(blob.decode() if isinstance(blob, bytes) else blob)
    tree = run("hash-object", "-w", "-t", "tree", "--literally", "--stdin", feed=body)
    commit = run("-c", "user.name=o", "-c", "user.email=o@x", "commit-tree", "-m", "x", tree)
    run("update-ref", "refs/heads/main", commit)


def _git(server: PlainServer) -> Callable[..., str]:
    def run(*args: str, feed: bytes = b"") -> str:
        argv = ["git", "-C", str(server.root / f"{REPO}.git"), *args]
        return subprocess.run(argv, input=feed, check=True, env=_ENV, capture_output=True).stdout.decode().strip()

    return run


def read(directory: Path) -> dict[str, bytes]:
    """Return all files below *directory*."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@dataclass
class Restorer:
    """Restores from servers, named ``m0``, ``m1`` ... in their order."""

    root: Path
    servers: list[Any]
    units: tuple[str, ...] = ("checkpoint-*",)
    publish: str = "tree"
    mirror: Mapping[str, Any] = field(default_factory=dict)
    each: Sequence[Mapping[str, Any]] = ()  # more settings of each mirror
    stop: threading.Event = field(default_factory=threading.Event)
    meter: Meter = field(default_factory=Meter)

    def __call__(self, dest: Path, wish: Wish | None = None, **layout: Any) -> Restored:
        """Restore everything, or what *wish* says."""
        self.meter = Meter()
        mirrors = []
        for number, server in enumerate(self.servers):
            token = None
            if server.token:
                (self.root / f"token-{number}").write_text(server.token)
                token = TokenSource(file=self.root / f"token-{number}")
            endpoint = Endpoint(name=f"e{number}", url=server.url, token=token, timeout_s=3.0)
            settings = {**self.mirror, **(self.each[number] if self.each else {})}
            mirror = Mirror(name=f"m{number}", endpoint=endpoint.name, repo_type="model", repo_id=REPO, **settings)
            shown = Layout("main", mirror.path_in_repo, self.units, self.publish, **layout)
            mirrors.append(From(mirror, endpoint, shown))
        return restore(wish or Wish(), mirrors, dest, Tokens(NO_LOGIN), self.meter, self.stop)


@pytest.fixture
def restorer(tmp_path: Path) -> Callable[..., Restorer]:
    """Give what restores from some servers."""
    return lambda *servers, **settings: Restorer(tmp_path, list(servers), **settings)


def noise(size: int) -> bytes:
    """Return bytes that nothing makes smaller."""
    return os.urandom(size)


def place(prefix: str) -> PurePosixPath:
    """Return a path in the repository."""
    return PurePosixPath(prefix)
