"""Runs the real program as a user does, and reads its log as an operator does."""

import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import canary
from support.catalogue import find_strange
from support.forkserver import Forked, fork_server

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


def hubsync(
    config: Path, *args: str, patience_s: float = PATIENCE_S, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    argv = [*args[:1], "-c", str(config), *args[1:]]
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = start(argv, environment, stdout, stderr)
        try:
            process.wait(patience_s)
        finally:
            process.kill()
        done = subprocess.CompletedProcess(argv, process.wait(), *(_read(file) for file in (stdout, stderr)))
    assert not canary.sees(done.stdout + done.stderr)

    return done


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def start(
    argv: Sequence[str], environment: Mapping[str, str], stdout: IO[str] | None, stderr: IO[str], *prefix: str
) -> subprocess.Popen[str] | Forked:
    """Start ``hubsync`` *argv*, by the command *prefix* if there is one; see ``forkserver``."""
    environment = {**os.environ, **environment}
    if not prefix and fork_server().may_start(environment):
        return fork_server().start(argv, environment, 1 if stdout is None else stdout.fileno(), stderr.fileno())
    whole = [*prefix, sys.executable, "-m", "hubsync", *argv]
    return subprocess.Popen(whole, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr, text=True)


class Daemon:
    """A running ``hubsync run``, started by the command *prefix* if there is one; its log is read line by line."""

    def __init__(self, config: Path, *prefix: str, **environment: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.leaks: list[str] = []
        self.strange: list[str] = []
        self._new: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        said, stderr = os.pipe()
        self._stderr = os.fdopen(said)
        with os.fdopen(stderr, "w") as end:
            self.process = start(["run", "-c", str(config)], environment, None, end, *prefix)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self._stderr.close()
        assert not self.leaks, self.leaks
        assert not self.strange, self.strange

    def _read(self) -> None:
        for line in self._stderr:
            self.leaks += [line] if canary.sees(line) else []
            self.leaks += canary.search_processes(self.process.pid)
            try:
                entry = json.loads(line)
            except ValueError:
                self.strange += [line] if line.endswith("\n") else []  # a line that a kill cut short is no fault
                continue
            self.strange += [strange] if (strange := find_strange(entry)) else []
            self._new.put(entry)

    def wait_for(self, event: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """Return the *count*-th event of that name and fields from now on; fail if it does not come."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                entry = self._new.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                said = "\n".join(entry["event"] + " " + entry["message"] for entry in self.events[-30:])
                raise AssertionError(f"no {event} {fields} in {PATIENCE_S} s; said was:\n{said}") from None
            self.events.append(entry)
            if entry["event"] == event and all(entry.get(name) == value for name, value in fields.items()):
                count -= 1
                if count == 0:
                    return entry

    def take_events(self) -> list[dict[str, Any]]:
        """Return all events so far."""
        while not self._new.empty():
            self.events.append(self._new.get())

        return self.events

    def stop(self) -> int:
        """End it as systemd does and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def digests(directory: Path) -> dict[str, str]:
    """Return path → SHA-256 of all files below *directory* that a mirror should hold."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".cache" not in path.parts and path.name != ".gitattributes"
    }


def download(hub: Any, repo: str, goal: Path, **options: Any) -> dict[str, str]:
    """Download a repository as a user would and return its digests."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - after the environment is set

    snapshot_download(repo, endpoint=hub.url, token=hub.token, local_dir=goal, cache_dir=goal / ".cache", **options)
    return digests(goal)


def write_safetensors(path: Path, size: int) -> None:
    """Write a valid file of random weights, *size* bytes of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + os.urandom(size))


def write_checkpoint(directory: Path, size: int = 200_000) -> None:
    """Write a checkpoint in the order of transformers' Trainer."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "tiny"}')
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in names:
        write_safetensors(directory / name, size)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(names))}))
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": 1, "name": directory.name}))


def write_config(path: Path, source: Path, mirrors: dict[str, str], **settings: str) -> Path:
    """Write a config of one target; *mirrors* maps an endpoint's table to its mirror."""
    endpoints = "\n".join(f"[endpoint.m{number}]\n{table}" for number, table in enumerate(mirrors))
    named = ", ".join(f'"m{number}:{repo}"' for number, repo in enumerate(mirrors.values()))
    options = {
        "quiet": '"300ms"',
        "schedule": '"1s"',
        "units": '["checkpoint-*"]',
        "card": "{ enabled = false }",
        **settings,
    }
    rest = "\n".join(f"{key} = {value}" for key, value in options.items())
    path.write_text(f"""
[log]
format = "json"
heartbeat = "1s"
[service]
state_dir = "{path.parent}/state"
min_free = "1MB"
priority = "normal"
{endpoints}
[[target]]
name = "run"
source = "{source}"
mirrors = [{named}]
{rest}
""")
    return path


def endpoint(hub: Any) -> str:
    """Return the table of a LocalHub's endpoint, with its token file."""
    return f'url = "{hub.url}"\ntoken = {{ file = "{hub.directory}/token" }}'


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
