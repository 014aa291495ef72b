"""What can be seen of hubsync from outside: repositories on Hubs, processes, disk, and system calls."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support.plain_server import PlainServer, Request
from support.running import PATIENCE_S

from hubsync.localhub import LocalHub

REPO = "acme/x"
_POLL_S = 0.05


def strace(trace: Path, calls: str) -> tuple[str, ...]:
    """Return a command prefix that writes *calls* of a process and its children to *trace*; the process keeps its pid."""
    return ("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-v", "-y", "-s", "65536", "-e", f"trace={calls}", "-e",
            "signal=none", "-o", str(trace))  # fmt: skip


def repository(hub: LocalHub, repo: str = REPO) -> Path:
    """Return where *hub* keeps a model repository."""
    return hub.directory / "models" / f"{repo}.git"


def git(directory: Path, *args: str) -> str:
    """Run git in a repository and return what it printed."""
    return subprocess.run(["git", "-C", directory, *args], capture_output=True, text=True, check=True).stdout


def history(directory: Path, form: str = "%H") -> list[str]:
    """Return the commits of main, newest first."""
    return git(directory, "log", f"--format={form}", "main").splitlines()


def paths_at(directory: Path, commit: str = "main", under: str = "") -> set[str]:
    """Return the paths that a commit holds below the directory *under*."""
    return set(git(directory, "ls-tree", "-r", "-z", "--name-only", commit, "--", under or ".").split("\0")[:-1])


def expect_sound_history(directory: Path) -> None:
    """Expect that no commit was made twice and that nothing in the repository is damaged."""
    commits = history(directory, "%T %s")
    assert len(set(commits)) == len(commits), commits
    git(directory, "fsck", "--strict")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that no log tells; fail if it does not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in {PATIENCE_S} s: {what}"
        time.sleep(_POLL_S)


def processes_of(directory: Path) -> list[str]:
    """Return the command lines of other processes that name something in *directory*."""
    return [line for pid, line in _command_lines() if str(directory) in line and pid != os.getpid()]


def _command_lines() -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


def own_bytes(directory: Path) -> int:
    """Return the disk space below *directory* that no other directory shares through hard links, but for the reserve."""
    stats = [path.lstat() for path in directory.rglob("*") if path.name != "reserve"]
    return sum(stat.st_blocks * 512 for stat in stats if stat.st_nlink == 1)


def pinned(state: Path, target: str = "run") -> list[Path]:
    """Return the objects that a target's store holds."""
    return [path for path in (state / "targets" / target / "store.git" / "lfs" / "objects").rglob("*") if path.is_file()]


def opened_files(trace: Path, directory: Path) -> set[str]:
    """Return the regular files below *directory* that were opened, by a trace of ``openat``."""
    found = re.findall(rf"= \d+<{re.escape(str(directory))}/([^>]+)>", trace.read_text(errors="replace"))
    return {path for path in found if (directory / path).is_file()}


class Holdup:
    """Holds one kind of request on a PlainServer until ``let_go``; ``reached`` is set when the first arrives."""

    def __init__(self, server: PlainServer, wanted: Callable[[Request], bool], *, answered: bool = False) -> None:
        self.reached = threading.Event()
        self._go = threading.Event()
        self._wanted = wanted
        setattr(server, "after" if answered else "before", self._hold)

    def _hold(self, request: Request) -> None:
        if self._wanted(request):
            self.reached.set()
            self._go.wait(PATIENCE_S)

    def let_go(self) -> None:
        """Let the held requests, and all that follow, pass."""
        self._go.set()


def is_object(request: Request) -> bool:
    """Tell whether an object is sent."""
    return request.method == "PUT"


def is_push(request: Request) -> bool:
    """Tell whether a branch is moved."""
    return request.is_push
