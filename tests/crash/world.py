"""Two Hubs and a hubsync as processes, and ways to kill them."""

import os
import random
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import canary
import killing
from support.running import PATIENCE_S, Daemon, hubsync, start

TOKEN = "hf_" + canary.LETTERS[0] * 34
_POLL_S = 0.01
_MOST_LINES = 12  # of the log until something is killed
_LIVE_S = 15.0
_PATIENCE_S = 240.0  # a step that must come comes, however busy the machine is
_STEP_S = 15.0  # how long a step is waited for that may not come
_END_S = 900.0


class HubProcess:
    """A local Hub as a process of its own, at the same address after each kill."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        (directory / "token").write_text(TOKEN)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Serve, and wait until it answers."""
        argv = ["localhub", "serve", "--dir", str(self.directory), "--port", str(self._port)]
        with Path(os.devnull).open("w") as nothing:
            self.process = start(argv, {}, nothing, nothing)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return
            assert self.process.poll() is None, "the Hub does not start"
            assert time.monotonic() < deadline
            time.sleep(_POLL_S)

    def kill(self, *, children: bool) -> None:
        """Kill it, and with it the git processes that it runs, if these are not to go on."""
        doomed = [*(descendants(self.process.pid) if children else []), self.process.pid]
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it in peace."""
        self.process.terminate()
        self.process.wait()

    def repository(self, name: str) -> Path:
        """Return where it keeps a repository."""
        return self.directory / "models" / "acme" / f"{name}.git"


class World:
    """All of it below *root*; every kill is counted, and every event of every daemon is kept."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.state = root / "state"
        self.source = root / "source"
        self.source.mkdir()
        self.hubs = {name: HubProcess(root / f"hub-{name}") for name in ("a", "b")}
        self.config = root / "hubsync.toml"
        self.config.write_text(_declare(root, self.hubs))
        self.kills: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.daemon: Daemon | None = None
        self._random = random.Random(seed)

    def start(self, kill_at: str = "") -> Daemon:
        """Start hubsync, to be killed at a step if one is given."""
        mark = self.root / "killed"
        mark.unlink(missing_ok=True)
        self.daemon = Daemon(self.config, **({killing.STEP: kill_at, killing.MARK: str(mark)} if kill_at else {}))
        return self.daemon

    def running(self) -> Daemon:
        """Return the running hubsync; it is started if it is not."""
        if self.daemon is not None and self.daemon.process.poll() is not None:
            code = self.daemon.process.returncode
            raise AssertionError(f"hubsync ended by itself with {code}: {self._gather()[-5:]}")
        return self.daemon or self.start()

    def kill_at(self, step: str, patience_s: float = _PATIENCE_S) -> bool:
        """Let a new hubsync run until it is killed at *step*; return False if it does not come to that."""
        assert self.daemon is None
        daemon = self.start(step)
        try:
            daemon.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill_daemon(f"not reached: {step}")
            return False
        assert (self.root / "killed").exists(), self._gather()[-5:]
        self._note(step)
        self._gather()
        return True

    def kill_daemon(self, why: str = "daemon") -> None:
        """Kill hubsync alone; its children go on."""
        self.running().process.kill()
        self._note(why)
        self._gather()

    def kill_anything(self) -> None:
        """Kill one of the processes, or several, at a random moment."""
        daemon = self.running()
        self._let_live(daemon)
        match self._random.choices(["daemon", "child", "hub", "all", "step"], [4, 4, 2, 1, 4])[0]:
            case "daemon":
                self.kill_daemon()
            case "child":
                self._kill_child(daemon)
            case "hub":
                self._kill_hub()
            case "all":
                self.kill_daemon("daemon and hub")
                self._kill_hub()
            case _:
                self.kill_daemon()
                step = self._random.choice(list(killing.STEPS))
                self.kill_at(f"{step}:{self._random.randrange(1, 4)}", patience_s=_STEP_S)

    def _let_live(self, daemon: Daemon) -> None:
        """Let it do a random amount of work, by the lines of its log: a busy machine is slow."""
        wanted = len(daemon.events) + self._random.randrange(_MOST_LINES)
        deadline = time.monotonic() + _LIVE_S
        while len(daemon.take_events()) < wanted and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        time.sleep(self._random.random() * 0.1)

    def _kill_child(self, daemon: Daemon) -> None:
        deadline = time.monotonic() + 2
        while not (children := descendants(daemon.process.pid)) and time.monotonic() < deadline:
            time.sleep(_POLL_S / 5)
        if children:
            pid = self._random.choice(children)
            name = _name_of(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self._note(name)

    def _kill_hub(self) -> None:
        hub = self._random.choice(list(self.hubs.values()))
        hub.kill(children=self._random.random() < 0.5)
        self._note("hub")
        time.sleep(self._random.random())
        hub.start()

    def _note(self, what: str) -> None:
        self.kills.append(what)

    def _gather(self) -> list[dict[str, Any]]:
        """Forget the daemon, which has ended; return all events so far."""
        assert self.daemon is not None
        self.daemon.__exit__()
        self.events += self.daemon.take_events()
        self.daemon = None
        return self.events

    def end(self) -> None:
        """End hubsync as systemd does, then publish what is left; everything must be well.

        The first run may have to say that a version is lost: rewritten in place while it was queued, and rotated since;
        or that more than half of what was published is gone, which a person has to confirm.
        """
        if self.daemon is not None:
            assert 0 == self.running().stop()
            self._gather()
        for confirm, bad in ([], {1}), (["--confirm-deletes"], set[int]()):
            done = hubsync(self.config, "once", *confirm, patience_s=_END_S)
            assert done.returncode in {0} | bad, done.stdout + done.stderr[-3000:]

    def close(self) -> None:
        """End all processes."""
        if self.daemon is not None:
            self.daemon.__exit__()
        for hub in self.hubs.values():
            hub.stop()


def descendants(pid: int) -> list[int]:
    """Return the processes that *pid* and its children started and that run."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(path.parent.name)] = int(fields[1])
    found, last = [], [pid]
    while last:
        last = [child for child, parent in parents.items() if parent in last]
        found += last
    return found


def _name_of(pid: int) -> str:
    with suppress(OSError):
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode().split("\0")
        return " ".join(Path(word).name for word in words if word and not word.startswith(("--git-dir", "http")))[:60]
    return "gone"


def _declare(root: Path, hubs: dict[str, HubProcess]) -> str:
    endpoints = "\n".join(
        f'[endpoint.{name}]\nurl = "{hub.url}"\ntoken = {{ file = "{hub.directory}/token" }}\nupload_rate = "5MB/s"\n'
        for name, hub in hubs.items()
    )
    units = 'units = ["checkpoint-*"]\ncomplete_when = ["DONE"]\n'
    targets = {
        "sft": (units, "ab"),
        "lora": (f'{units}publish = "revisions"\n', "a"),
        "flow": ('deletes = "propagate"\n', "ba"),
    }
    tables = "\n".join(
        f'[[target]]\nname = "{name}"\nsource = "{root}/source/{name}"\n{rest}mirrors = [\n'
        + "".join(f'  {{ repo = "{hub}:acme/{name}", name = "{hub}", max_commits_per_hour = 9999 }},\n' for hub in mirrors)
        + "]\n"
        for name, (rest, mirrors) in targets.items()
    )
    return f"""
[log]
format = "json"
[service]
state_dir = "{root}/state"
min_free = "1MB"
shutdown_grace = "10s"
priority = "normal"
{endpoints}
[defaults]
quiet = "200ms"
schedule = "1s"
card = {{ enabled = false }}
{tables}
"""
