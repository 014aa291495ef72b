"""How hubsync's service grows: each at two sizes, and what one more costs; and what it does when nothing changes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hubs import make_place, wait_shown
from tools import Place, write_config
from workloads import make_small_files, make_unit

_SHOWN_S = 240.0  # 100,000 files are 30 commits at once, and the next one waits two minutes (max_commits_per_hour)


@dataclass(frozen=True)
class State:
    """The service at rest: how long it took to start, its memory, and what it used in the time that it was watched."""

    start_s: float
    start_cpu_s: float
    memory_bytes: int
    idle_cpu_percent: float
    idle_written_bytes: int
    idle_wakeups_per_s: float
    change_cpu_s: float


@dataclass(frozen=True)
class Growth:
    """One measure at two sizes; *make* gets the directory of the sources and a size."""

    name: str
    sizes: tuple[int, int]
    make: Callable[[Path, int], None]
    targets: bool = False
    mirrors: bool = False


def choose_growth(part: int, files: int) -> list[Growth]:
    """Return what is measured, up to so many *files*; a larger *part* makes all other sizes smaller."""
    directories = 10_000 // part
    return [
        Growth("file", (files // 10, files), lambda data, n: make_small_files(data, n, 64)),
        Growth("directory", (directories // 10, directories), _make_directories),
        Growth("target", (2, 50 // min(part, 10)), _make_few_files, targets=True),
        Growth(
            "mirror",
            (20 // min(part, 10), 200 // min(part, 10)),
            lambda data, _: make_small_files(data, 10, 64),
            mirrors=True,
        ),
        Growth("shard", (100 // part, 1000 // part), lambda data, n: make_unit(data / "checkpoint-1", n * 4096, n)),
    ]


def _make_few_files(data: Path, _: int) -> None:
    make_small_files(data, 10, 64)


def _make_directories(data: Path, count: int) -> None:
    for number in range(count):
        folder = data / f"d{number // 100}" / f"d{number % 100}"
        folder.mkdir(parents=True)
    (data / "f.txt").write_text("one file")


def measure_growth(growth: Growth, base: Path, hub: dict[str, str], idle_s: float) -> dict[int, State]:
    """Return size → state."""
    found = {}
    for size in growth.sizes:
        root = base / f"size-{size}"
        (root / "data").mkdir(parents=True)
        growth.make(root / "data", size)
        place = make_place(root, f"{growth.name}{size}", hub, size if growth.mirrors or growth.targets else 1)
        place["hub"] = str(base / "hub")
        found[size] = _watch(place, size if growth.targets else 1, idle_s)
        shutil.rmtree(root)

    return found


def _watch(place: Place, targets: int, idle_s: float) -> State:
    config = write_config(place, quiet="1s", inventory_every="10m")
    if targets > 1:
        _declare_targets(config, place)
    os.environ["BENCH_TOKEN"] = place["token"]
    argv = [sys.executable, "-m", "hubsync", "-c", str(config)]
    done = subprocess.run([*argv, "once"], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"hubsync once ended with {done.returncode}:\n{done.stderr[-3000:]}")
    began = time.monotonic()
    daemon = subprocess.Popen([*argv, "run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        start_s = _wait_quiet(daemon.pid, began)
        start_cpu_s, before = _cpu_s(daemon.pid), _counters(daemon.pid)
        time.sleep(idle_s)
        idle_cpu_s, after = _cpu_s(daemon.pid) - start_cpu_s, _counters(daemon.pid)
        memory = _memory(daemon.pid)
        busy = _cpu_s(daemon.pid)
        Path(place["data"], "changed.txt").write_text("a change")
        time.sleep(1.5)
        subprocess.run([*argv, "flush"], check=True, capture_output=True)
        wait_shown(place, "changed.txt", _SHOWN_S)
        time.sleep(1.0)
        change_s = _cpu_s(daemon.pid) - busy
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()

    return State(
        round(start_s, 2), round(start_cpu_s, 2), memory, round(100 * idle_cpu_s / idle_s, 3), after[0] - before[0],
        round((after[1] - before[1]) / idle_s, 1), round(change_s, 2),
    )  # fmt: skip


def _declare_targets(config: Path, place: Place) -> None:
    """Declare a target for each repository, with a source of its own; what is waited for is the first one's."""
    head, _, one = config.read_text().partition("[[target]]")
    data = Path(place["data"])
    mirrors = json.dumps([f"local:{repo}" for repo in place["repos"]])
    blocks = []
    for number, repo in enumerate(place["repos"]):
        source = data if not number else data.with_name(f"data-{number}")
        if number:
            shutil.copytree(data, source)
        block = one.replace('name = "bench"', f'name = "bench-{number}"').replace(f'"{data}"', f'"{source}"')
        blocks.append(block.replace(mirrors, f'["local:{repo}"]'))
    config.write_text(head + "".join(f"[[target]]{block}" for block in blocks))
    place["repos"] = place["repos"][:1]


def _wait_quiet(pid: int, began: float) -> float:
    """Wait until a process uses no more processor; return when that began."""
    last, since = -1.0, time.monotonic()
    while time.monotonic() - since < 3.0:
        time.sleep(0.1)
        now = _cpu_s(pid)
        if now - last > 0.011:
            last, since = now, time.monotonic()

    return since - began


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own, and of the children it waited for


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def _counters(pid: int) -> tuple[int, int]:
    """Return the bytes that a process wrote to disk, and how often its threads went to sleep."""
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    slept = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        slept += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    return int(io["write_bytes"]), slept
