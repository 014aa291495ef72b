"""A synthetic training job with and without hubsync beside it: how much slower are its steps, and what stays cached?

As on a training server, the job, hubsync and everything else are groups with memory of their own: the job's holds its data
set and half of a checkpoint, hubsync's what its systemd unit allows. The Hub, which would be another machine,
takes as little of this one as it can, and receives no faster than the line that a row names. With and without hubsync
take turns, and what is compared are the steps: the job saves a checkpoint, which is its own cost, told apart, and trains
while hubsync has work.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from hubs import HERE, count_sent, make_place, serve_hub
from job import Trained
from tools import ROOT, Place
from workloads import write_shard

_SERVICE_BYTES = 1 << 30  # MemoryHigh of hubsync.service
_START_LIMIT_S = 60.0


@dataclass(frozen=True)
class Case:
    """A job, hubsync's priority, and a line of so many gigabits a second."""

    job: str
    priority: str
    line_gbit: float

    def __str__(self) -> str:
        return f"{self.job} job, `{self.priority}`, {self.line_gbit:g} Gbit/s"

    @property
    def line(self) -> int:
        """Bytes a second."""
        return round(self.line_gbit * 1e9 / 8)


CASES = (
    Case("gpu", "low", 10), Case("gpu", "low", 1), Case("gpu", "idle", 10), Case("cpu", "low", 1), Case("cpu", "idle", 1),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Of the data set and of each checkpoint; and how often the job saves one in a *phase*, and trains after it."""

    size: int
    saves: int
    pairs: int  # of phases, without hubsync and with

    def train_s(self, line: int) -> float:
        """Return how long the job trains after a checkpoint: as long as that is under way, and a little longer."""
        return round(1.25 * self.size / line + 2.0, 1)


@dataclass
class Phase:
    """What happened while the job saved and trained a few times."""

    step_s: list[float] = field(default_factory=list)
    save_s: list[float] = field(default_factory=list)
    read_bytes: int = 0
    disk_bytes: int = 0

    def add(self, trained: Trained) -> None:
        """Add what a worker tells."""
        self.step_s += trained.step_s
        self.read_bytes += trained.read_bytes
        self.disk_bytes += trained.disk_bytes


@dataclass(frozen=True)
class Pair:
    """A phase without hubsync, one with it, and what hubsync took in that."""

    alone: Phase
    beside: Phase
    cpu_s: float
    sent_bytes: int

    def slower(self, middle: Callable[[list[float]], float]) -> float:
        """Return by how much a step takes longer."""
        return middle(self.beside.step_s) / middle(self.alone.step_s) - 1


@dataclass(frozen=True)
class Side:
    """All phases without hubsync, or all with it."""

    median_s: float
    mean_s: float
    p99_s: float
    save_s: float
    hits_percent: float  # of what the job read of its data set, from the page cache

    @classmethod
    def of(cls, phases: Sequence[Phase]) -> "Side":
        """Put *phases* together."""
        steps = [step for phase in phases for step in phase.step_s]
        disk, read = (sum(getattr(phase, name) for phase in phases) for name in ("disk_bytes", "read_bytes"))
        return cls(
            statistics.median(steps),
            statistics.fmean(steps),
            statistics.quantiles(steps, n=100)[-1],
            statistics.median(one for phase in phases for one in phase.save_s),
            round(100 * (1 - disk / read), 2),
        )


@dataclass(frozen=True)
class Beside:
    """A job without and with hubsync; slower by the medians and by the means of phases, medians of all pairs."""

    alone: Side
    beside: Side
    slower_percent: float
    slower_mean_percent: float
    noise_percent: float  # what the medians without hubsync differ
    sent_mb: int
    hubsync_cpu_s: float

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "Beside":
        """Put *pairs* together."""
        medians = [statistics.median(pair.alone.step_s) for pair in pairs]
        slower, slower_mean = (
            100 * statistics.median(pair.slower(middle) for pair in pairs)
            for middle in (statistics.median, statistics.fmean)
        )
        return cls(
            Side.of([pair.alone for pair in pairs]),
            Side.of([pair.beside for pair in pairs]),
            round(slower, 2),
            round(slower_mean, 2),
            round(100 * (max(medians) / min(medians) - 1), 2),
            round(sum(pair.sent_bytes for pair in pairs) / 1e6),
            round(sum(pair.cpu_s for pair in pairs), 1),
        )


def measure_training(base: Path, sizes: Sizes, cases: Sequence[Case] = CASES) -> dict[str, Beside]:
    """Return what a step takes."""
    found = {}
    with limit_memory("job", sizes.size * 3 // 2 + (192 << 20)) as job, limit_memory("hubsync", _SERVICE_BYTES) as service:
        if job is None:
            sys.stderr.write("memory can't be limited here: the page cache holds everything\n")
        for case in cases:
            place = base / f"{case.job}-{case.priority}-{case.line_gbit:g}"
            place.mkdir()
            with serve_hub(place / "hub", case.line) as hub:
                found[str(case)] = _Bench(place, hub, case, sizes, job, service).measure()
            shutil.rmtree(place)

    return found


@dataclass
class _Bench:
    """One case."""

    base: Path
    hub: dict[str, str]
    case: Case
    sizes: Sizes
    job: Path | None
    service: Path | None

    @property
    def dataset(self) -> Path:
        return self.base / "dataset.bin"

    def measure(self) -> Beside:
        write_shard(self.dataset, self.sizes.size)
        os.sync()
        os.posix_fadvise(fd := os.open(self.dataset, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)  # it is the job's to cache
        os.close(fd)
        self._start("warm", str(self.dataset)).communicate()

        return Beside.of([self._measure_pair() for _ in range(self.sizes.pairs)])

    def _measure_pair(self) -> Pair:
        with self._data() as data:
            alone = self._save_and_train(data)
        with self._data() as data:  # before the service starts: it watches what is there
            place = make_place(self.base, f"daemon {time.monotonic_ns()}", self.hub, 1)
            place |= {"settings": {"quiet": "200ms"}, "priority": self.case.priority, "group": str(self.service or "")}
            before = count_sent(self.hub)
            with _Service(place) as service:
                beside = self._save_and_train(data)
                sent = count_sent(self.hub) - before
            shutil.rmtree(place["scratch"])

        return Pair(alone, beside, service.cpu_s, sent)

    @contextmanager
    def _data(self) -> Iterator[Path]:
        data = self.base / "data"
        data.mkdir()
        yield data
        shutil.rmtree(data)

    def _save_and_train(self, data: Path) -> Phase:
        """Save checkpoints, the last two of which are kept, and train after each."""
        phase = Phase()
        for number in range(self.sizes.saves):
            unit = data / f"checkpoint-{number}"
            saver = self._start("save", str(unit), str(self.sizes.size))
            phase.save_s.append(float(saver.communicate()[0]))
            if number > 1:
                shutil.rmtree(data / f"checkpoint-{number - 2}")
            self._train(self.sizes.train_s(self.case.line), number, phase)

        return phase

    def _train(self, seconds: float, number: int, phase: Phase) -> None:
        workers = [
            self._start("train", self.case.job, str(self.dataset), str(seconds), str(number * 100 + rank))
            for rank in range(os.cpu_count() or 1)
        ]
        for worker in workers:
            phase.add(Trained(**json.loads(worker.communicate()[0])))

    def _start(self, *asked: str) -> "subprocess.Popen[str]":
        argv = [sys.executable, str(HERE / "job.py"), str(self.job or ""), *asked]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


class _Service:
    """hubsync at work. Nothing is measured of it meanwhile, which would take processor time from the job."""

    def __init__(self, place: Place) -> None:
        self.cpu_s = 0.0
        self._place, self._scratch = place, Path(place["scratch"])

    def __enter__(self) -> Self:
        described = self._scratch / "place.json"
        described.write_text(json.dumps(self._place))
        with (self._scratch / "log").open("wb") as log:
            argv = [sys.executable, str(HERE / "tools.py"), "daemon", str(described)]
            self._child = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_LIMIT_S
        while not (self._scratch / "state" / "control.sock").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        _, status, used = os.wait4(self._child.pid, 0)
        self._child.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait once more
        self.cpu_s = used.ru_utime + used.ru_stime
        if self._child.returncode:
            raise SystemExit(f"hubsync failed:\n{(self._scratch / 'log').read_text()[-3000:]}")


@contextmanager
def limit_memory(name: str, size: int) -> Iterator[Path | None]:
    """Make a group that has *size* bytes of memory, caches and all; yield its directory, ``None`` if that may not be."""
    version_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    wanted, root, limit = ("", "/sys/fs/cgroup", "memory.max") if version_2 else (
        "memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes")  # fmt: skip
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    own = next((path for _, controllers, path in lines if wanted in controllers.split(",")), None)
    group = Path(root, (own or "").strip("/"), f"bench-{name}-{os.getpid()}")
    with ExitStack() as made:
        try:
            if own is not None:
                group.mkdir()
                made.callback(group.rmdir)
                (group / limit).write_text(str(size))
        except OSError:
            own = None
        yield group if own is not None else None
