"""What is compared: each tool publishes ``data`` of a place to the place's repositories. ``python tools.py TOOL PLACE``.

Every tool runs as people run it, in a process of its own. ``floor`` is no tool: it does what none can leave out, hash each
large file on two threads, send it once to each Hub and push one commit, and nothing else.
"""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_GIT = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
_IDENTITY = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
_LARGE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20

Place = dict[str, Any]  # data, scratch, url, token, repos


def git(*argv: str, cwd: Path, feed: bytes | None = None) -> str:
    """Run git and return what it printed."""
    return subprocess.run(["git", *argv], cwd=cwd, env=_GIT, input=feed, check=True, stdout=subprocess.PIPE).stdout.decode()


def address(place: Place, repo: str) -> str:
    """Return the git remote of a repository, with the token."""
    return f"{place['url'].replace('://', '://bench:' + place['token'] + '@')}/{repo}"


def write_config(place: Place, **settings: object) -> Path:
    """Write the config of hubsync for *place*, with these *settings* of its target, and return its path."""
    config = Path(place["scratch"], "hubsync.toml")
    asked = {
        "name": "bench", "source": place["data"], "quiet": "0s", "units": ["checkpoint-*"],
        "mirrors": [f"local:{repo}" for repo in place["repos"]], **settings,
    }  # fmt: skip
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in asked.items())
    config.write_text(f"""
[endpoint.local]
url = "{place["url"]}"
token = {{ env = "BENCH_TOKEN" }}
[service]
state_dir = "{place["scratch"]}/state"
min_free = "0"
priority = "{place.get("priority", "normal")}"
[[target]]
{lines}
""")
    return config


def with_hubsync(place: Place, command: str = "once") -> None:
    """Publish with ``hubsync once``, in the group of the place if it names one."""
    if place.get("group"):
        Path(place["group"], "cgroup.procs").write_text(str(os.getpid()))
    config = write_config(place, **place.get("settings", {}))
    os.environ["BENCH_TOKEN"] = place["token"]
    os.execv(sys.executable, [sys.executable, "-m", "hubsync", "-c", str(config), command])


def with_daemon(place: Place) -> None:
    """Publish with ``hubsync run``, until told to end."""
    with_hubsync(place, "run")


def with_git_lfs(place: Place) -> None:
    """Publish with ``git add``, ``git commit`` and ``git push``; the data is the work tree of a repository elsewhere."""
    store, data = Path(place["scratch"], "tree.git"), Path(place["data"])
    if not store.exists():
        git("init", "-q", "--bare", "-b", "main", str(store), cwd=data)
        git("config", "core.bare", "false", cwd=store)
        git("lfs", "install", "--local", cwd=store)
        (store / "info" / "attributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    tree = [f"--git-dir={store}", f"--work-tree={data}"]
    git(*tree, "add", "-A", cwd=data)
    git(*tree, *_IDENTITY, "commit", "-q", "--allow-empty", "-m", "bench", cwd=data)
    for repo in place["repos"]:
        git(*tree, "push", "-q", "--force", address(place, repo), "main", cwd=data)


def with_upload_folder(place: Place) -> None:
    """Publish with ``huggingface_hub.upload_folder`` over LFS."""
    _use_hub(place, xet=False)
    from huggingface_hub import upload_folder  # noqa: PLC0415 - after the environment is set

    for repo in place["repos"]:
        upload_folder(repo_id=repo, folder_path=place["data"])


def with_xet(place: Place) -> None:
    """Publish with ``huggingface_hub.upload_folder`` over Xet; its store of chunks is the local Hub's."""
    _use_hub(place, xet=True)
    from huggingface_hub import upload_folder  # noqa: PLC0415 - after the environment is set

    for repo in place["repos"]:
        upload_folder(repo_id=repo, folder_path=place["data"])


def with_scheduler(place: Place) -> None:
    """Publish with ``huggingface_hub.CommitScheduler``, at once and not by its schedule; it knows one repository."""
    _use_hub(place, xet=False)
    from huggingface_hub import CommitScheduler  # noqa: PLC0415 - after the environment is set

    scheduler = CommitScheduler(repo_id=place["repos"][0], folder_path=place["data"], every=1440, private=True)
    scheduler.trigger().result()
    scheduler.stop()


def with_scan(place: Place) -> None:
    """List all files with their status, and do nothing else."""
    left = [place["data"]]
    while left:
        with os.scandir(left.pop()) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    left.append(item.path)
                else:
                    item.stat(follow_symlinks=False)


def _use_hub(place: Place, *, xet: bool) -> None:
    os.environ |= {
        "HF_ENDPOINT": place["url"], "HF_TOKEN": place["token"], "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HOME": f"{place['scratch']}/home", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip


# --- the floor


def with_floor(place: Place) -> None:
    """Hash, send, commit; a second time, hash nothing and send nothing that is there."""
    data = Path(place["data"])
    files = sorted(path for path in data.rglob("*") if path.is_file())
    large = [path for path in files if path.stat().st_size >= _LARGE_BYTES]
    known = _Known(Path(place["scratch"], "known.json"))
    with ThreadPoolExecutor(2) as pool:
        oids = dict(zip(large, pool.map(known.hash, large), strict=True))
        for repo in place["repos"]:
            list(pool.map(lambda item: _send(item[0], item[1]), _wanted(place, repo, oids)))
    known.save()
    store = Path(place["scratch"], "floor.git")
    if not store.exists():
        git("init", "-q", "--bare", "-b", "main", str(store), cwd=data)
    if known.is_changed:
        git("fast-import", "--quiet", "--force", cwd=store, feed=_stream(data, files, oids))
        for repo in place["repos"]:
            git("push", "-q", "--force", address(place, repo), "main", cwd=store)


class _Known:
    """Which files were hashed before, by size and time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = json.loads(path.read_text()) if path.exists() else {}
        self._now: dict[str, list[Any]] = {}
        self.is_changed = not path.exists()

    def hash(self, path: Path) -> str:
        """Return the oid of *path*."""
        status = path.stat()
        found = self._before.get(str(path))
        if not found or found[:2] != [status.st_size, status.st_mtime_ns]:
            with path.open("rb", buffering=0) as file:
                found = [status.st_size, status.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]
            self.is_changed = True
        self._now[str(path)] = found
        return str(found[2])

    def save(self) -> None:
        """Remember them."""
        self._path.write_text(json.dumps(self._now))


def _wanted(place: Place, repo: str, oids: dict[Path, str]) -> list[tuple[Path, str]]:
    if not oids:
        return []
    objects = [{"oid": oid, "size": path.stat().st_size} for path, oid in oids.items()]
    question = json.dumps({"operation": "upload", "transfers": ["basic"], "objects": objects}).encode()
    headers = {"Authorization": f"Bearer {place['token']}", "Content-Type": "application/vnd.git-lfs+json"}
    request = urllib.request.Request(f"{place['url']}/{repo}.git/info/lfs/objects/batch", question, headers)
    with urllib.request.urlopen(request) as answer:
        told = json.load(answer)["objects"]
    paths = {oid: path for path, oid in oids.items()}
    return [(paths[one["oid"]], one["actions"]["upload"]["href"]) for one in told if "actions" in one]


def _send(path: Path, href: str) -> None:
    parts = urllib.parse.urlsplit(href)
    connection = http.client.HTTPConnection(parts.netloc, blocksize=_BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        connection.request("PUT", f"{parts.path}?{parts.query}", file, {"Content-Length": str(size)})
        if connection.getresponse().status >= http.client.BAD_REQUEST:
            raise SystemExit(f"{path} was refused")
    connection.close()


def _stream(data: Path, files: list[Path], oids: dict[Path, str]) -> bytes:
    message = b"commit refs/heads/main\ncommitter bench <bench@localhost> 1700000000 +0000\ndata 5\nbench\ndeleteall\n"
    out = [message]
    attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
    contents = [(b".gitattributes", attributes)]
    for path in files:
        pointer = _pointer(path, oids[path]) if path in oids else path.read_bytes()
        contents.append((str(path.relative_to(data)).encode(), pointer))
    for name, content in contents:
        out.append(b"M 100644 inline %s\ndata %d\n%s\n" % (name, len(content), content))

    return b"".join(out)


def _pointer(path: Path, oid: str) -> bytes:
    size = path.stat().st_size
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


TOOLS: dict[str, Callable[[Place], None]] = {
    "floor": with_floor,
    "hubsync": with_hubsync,
    "git + git-lfs": with_git_lfs,
    "upload_folder": with_upload_folder,
    "upload_folder, Xet": with_xet,
    "CommitScheduler": with_scheduler,
    "scandir": with_scan,
    "daemon": with_daemon,
}

if __name__ == "__main__":
    TOOLS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
