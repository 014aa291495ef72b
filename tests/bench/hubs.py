"""The Hub of a measurement, as a process of its own, and what is asked of it: what it was sent, and what it shows."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from measure import Figures
from tools import ROOT, Place

HERE = Path(__file__).parent
_READ_BYTES = 1 << 20
_SAMPLE_S = 0.2
_POLL_S = 0.02


@contextmanager
def serve_hub(directory: Path, line: int = 0) -> Iterator[dict[str, str]]:
    """Run a Hub; yield its address and token, and where it tells how many bytes it was sent.

    *line*: how many bytes a second reach it; 0 is unlimited.
    """
    argv = [sys.executable, str(HERE / "hub.py"), str(directory), str(line)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdin
        assert hub.stdout
        try:
            yield json.loads(hub.stdout.readline())
        finally:
            hub.stdin.close()


def count_sent(hub: dict[str, str]) -> int:
    """Return how many bytes of objects *hub* was sent; what goes to the store of Xet is not counted."""
    with urllib.request.urlopen(hub["count_url"]) as answer:
        return int(answer.read())


def make_place(base: Path, tool: str, hub: dict[str, str], mirrors: int) -> Place:
    """Return where *tool* works; its repositories are made beforehand: that is not what is compared."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - takes a second

    slug = "".join(filter(str.isalnum, tool))
    scratch = base / slug
    scratch.mkdir()
    repos = [f"bench/{slug}-{number}" for number in range(mirrors)]
    for repo in repos:
        HfApi(endpoint=hub["url"], token=hub["token"]).create_repo(repo, private=True)

    return {
        "data": str(base / "data"), "scratch": str(scratch), "url": hub["url"], "token": hub["token"], "repos": repos,
        "hub": str(base / "hub"),
    }  # fmt: skip


def start(tool: str, place: Place) -> "subprocess.Popen[str]":
    """Start *tool*, measured."""
    written = Path(place["scratch"], "place.json")
    written.write_text(json.dumps(place))
    argv = [sys.executable, str(HERE / "measure.py"), sys.executable, str(HERE / "tools.py"), tool, str(written)]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Running:
    """A tool at work, measured; ``figures`` has what it took once the block is left."""

    def __init__(self, tool: str, place: Place, hub: dict[str, str]) -> None:
        self.figures: Figures
        self._tool, self._place, self._hub = tool, place, hub
        self._is_daemon = tool == "daemon"

    def __enter__(self) -> Self:
        self._sent, self._commits = count_sent(self._hub), count_commits(self._place)
        self._disk = _Disk(Path(self._place["scratch"]))
        self._disk.start()
        self._child = start(self._tool, self._place)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._is_daemon or kind:
            self._child.terminate()
        out, said = self._child.communicate()
        peak = self._disk.end()
        if self._child.returncode != 0:
            raise SystemExit(f"{self._tool} failed:\n{said[-3000:]}")
        self.figures = replace(
            Figures(**json.loads(out)),
            sent_bytes=count_sent(self._hub) - self._sent,
            disk_peak_bytes=peak,
            disk_after_bytes=own_disk(Path(self._place["scratch"])),
            commits=count_commits(self._place) - self._commits,
        )


def run(tool: str, place: Place, hub: dict[str, str]) -> Figures:
    """Let *tool* publish once, and return what it took.

    All find the data in the page cache: one that lets go of what it has read must not make the next one read the disk.
    """
    for folder, _, names in os.walk(place["data"]):
        for name in names:
            with open(os.path.join(folder, name), "rb", buffering=0) as file:  # noqa: PTH118, PTH123 - of very many
                while file.read(_READ_BYTES):
                    pass
    with Running(tool, place, hub) as running:
        pass
    return running.figures


class _Disk(threading.Thread):
    """Follows how much room a directory takes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._peak = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Sample until it is over."""
        while not self._over.wait(_SAMPLE_S):
            self._peak = max(self._peak, own_disk(self._directory))

    def end(self) -> int:
        """Return the peak in bytes."""
        self._over.set()
        self.join()
        return max(self._peak, own_disk(self._directory))


def own_disk(directory: Path) -> int:
    """Return the bytes on disk below *directory* that no other name shares."""
    total = 0
    for folder, _, names in os.walk(directory):  # passes over what goes meanwhile
        for name in names:
            try:
                status = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - of very many
            except FileNotFoundError:
                continue
            if status.st_nlink == 1 and stat.S_ISREG(status.st_mode):
                total += status.st_blocks * 512

    return total


# --- what it shows


def _find(place: Place) -> list[Path]:
    """Return the repositories; they lie beside each other, and to search for each of very many takes long."""
    first = next(Path(place["hub"]).rglob(f"{place['repos'][0]}.git"))
    return [first.parents[1] / f"{repo}.git" for repo in place["repos"]]


def _git(repository: Path, *argv: str) -> str:
    done = subprocess.run(
        ["git", f"--git-dir={repository}", *argv], capture_output=True, text=True, check=False,
        env={"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return done.stdout.strip()


def count_commits(place: Place) -> int:
    """Return how many commits the first repository's main branch has."""
    return int(_git(_find(place)[0], "rev-list", "--count", "main") or 0)


def wait_shown(place: Place, path: str, limit_s: float, content: str = "") -> float:
    """Return when (monotonic) all repositories show *path*, with this *content* if it is given; raises TimeoutError.

    Only a branch that has moved is looked into: who waits must not take the processor from what it waits for.
    """
    deadline = time.monotonic() + limit_s
    left = dict.fromkeys(_find(place), "")
    while time.monotonic() < deadline:
        for repository, before in list(left.items()):
            head, now = (repository / "refs" / "heads" / "main").read_text(), time.monotonic()
            if head == before:
                continue
            left[repository] = head
            shown = _git(repository, "show", f"main:{path}")
            if shown and content in shown:
                del left[repository]
        if not left:
            return now
        time.sleep(_POLL_S)
    raise TimeoutError(f"{path} is not shown after {limit_s} s")


def read_shown(place: Place, path: str) -> str:
    """Return the content of *path* in the first repository."""
    return _git(_find(place)[0], "show", f"main:{path}")
