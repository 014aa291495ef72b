"""A synthetic training job with and without hubsync beside it: how much slower are its steps, and what stays cached?

A job has one worker for each processor. Each reads its data set again and again, from the page cache as long as that keeps
it, and prepares batches; the memory of all is limited, where that may be done, so that checkpoints and data compete for the
cache. Of a ``gpu`` job each step waits for a GPU that takes the same time always, and the next batch is prepared meanwhile;
a ``cpu`` job computes on all processors all the time, which is the worst neighbour to have.
``python training.py JOB DATA SECONDS`` is one worker.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from hubs import Running, make_place
from workloads import make_unit, write_shard

_BATCH_BYTES = 8 << 20
_GPU_STEP_S = 0.05
_CHECKPOINTS = 4
_JOBS = (("gpu", "low"), ("gpu", "idle"), ("cpu", "low"), ("cpu", "idle"))  # with hubsync's priority


@dataclass(frozen=True)
class Steps:
    """What the workers of a job tell of a run, on average."""

    step_s: float
    disk_bytes: int
    cached: float = 0.0  # share of the data set, in the end


@dataclass(frozen=True)
class Beside:
    """A job without and with hubsync."""

    step_s: float
    step_s_beside: float
    noise_percent: float  # between two runs without
    cached_percent: float
    cached_percent_beside: float
    sent_mb: int
    hubsync_cpu_s: float

    @property
    def slower_percent(self) -> float:
        """By how much a step takes longer."""
        return round(100 * (self.step_s_beside / self.step_s - 1), 1)


def measure_training(base: Path, hub: dict[str, str], seconds: float, size: int) -> dict[str, Beside]:
    """Return what a step takes; the data set and each checkpoint have *size* bytes."""
    with limit_memory(size * 3 // 2 + (512 << 20)) as is_limited:
        if not is_limited:
            sys.stderr.write("memory can't be limited here: the page cache holds everything\n")
        found = {}
        for job, priority in _JOBS:
            place = base / f"{job}-{priority}"
            place.mkdir()
            found[f"{job} job, `{priority}`"] = _measure(place, hub, job, seconds, size, priority)
            shutil.rmtree(place)

    return found


def _measure(base: Path, hub: dict[str, str], job: str, seconds: float, size: int, priority: str) -> Beside:
    dataset = base / "dataset.bin"
    write_shard(dataset, size)
    without = _train_after_checkpoints(base, job, dataset, seconds)
    shutil.rmtree(base / "data")
    (base / "data").mkdir()  # before the service starts: it watches what is there
    place = make_place(base, f"daemon {job} {priority}", hub, 1)
    place |= {"settings": {"quiet": "1s"}, "priority": priority, "hub": str(base.parent / "hub")}
    with Running("daemon", place, hub) as running:
        time.sleep(3.0)
        beside = _train_after_checkpoints(base, job, dataset, seconds)
    shutil.rmtree(base / "data")
    again = _train_after_checkpoints(base, job, dataset, seconds)
    step_s = (without.step_s + again.step_s) / 2

    return Beside(
        step_s,
        beside.step_s,
        round(100 * abs(without.step_s - again.step_s) / step_s, 1),
        round(50 * (without.cached + again.cached), 1),
        round(100 * beside.cached, 1),
        round(running.figures.sent_bytes / 1e6),
        running.figures.cpu_s,
    )


def _train_after_checkpoints(base: Path, job: str, dataset: Path, seconds: float) -> Steps:
    """Write checkpoints, which is the trainer's own cost, and train."""
    for number in range(_CHECKPOINTS):
        make_unit(base / "data" / f"checkpoint-{number}", dataset.stat().st_size)
    argv = [sys.executable, __file__, job, str(dataset), str(seconds)]
    workers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(os.cpu_count() or 1)]
    told = [Steps(**json.loads(worker.communicate()[0])) for worker in workers]
    return Steps(sum(one.step_s for one in told) / len(told), sum(one.disk_bytes for one in told), cached_share(dataset))


def work(job: str, dataset: Path, seconds: float) -> Steps:
    """Train for so many *seconds*."""
    block, before = os.urandom(1 << 20), _read_from_disk()

    def prepare(rounds: int) -> None:
        nonlocal at
        file.seek(at)
        at = (at + len(file.read(_BATCH_BYTES))) % size
        for _ in range(rounds):
            sum(block)

    steps, at, size, began = 0, 0, dataset.stat().st_size, time.monotonic()
    with dataset.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as loader:
        while time.monotonic() - began < seconds:
            if job == "gpu":
                batch = loader.submit(prepare, 1)
                time.sleep(_GPU_STEP_S)
                batch.result()
            else:
                prepare(10)
            steps += 1

    return Steps((time.monotonic() - began) / steps, _read_from_disk() - before)


@contextmanager
def limit_memory(size: int) -> Iterator[bool]:
    """Limit the memory of this process and of those it starts, caches and all; yield whether that may be done here."""
    version_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    wanted, root, limit = ("", "/sys/fs/cgroup", "memory.max") if version_2 else (
        "memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes")  # fmt: skip
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    own = next((path for _, controllers, path in lines if wanted in controllers.split(",")), None)
    if own is None:
        yield False
        return
    home = Path(root, own.strip("/"))
    group = home / f"bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(size))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        if group.exists():
            group.rmdir()
        yield False
        return
    try:
        yield True
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def cached_share(path: Path, every: int = 1 << 20) -> float:
    """Return how much of *path* lies in the page cache, by a look at one byte of *every* so many; nothing is read in."""
    with path.open("rb", buffering=0) as file:
        places = range(0, max(1, path.stat().st_size), every)
        return sum(_is_cached(file.fileno(), at) for at in places) / len(places)


def _is_cached(fd: int, at: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], at, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


def _read_from_disk() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(work(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))))
