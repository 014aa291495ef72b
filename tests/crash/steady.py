"""An hour at ten changes a second, in which nothing may grow: memory, descriptors, threads, children, disk. And a burst.

``HUBSYNC_STEADY_S=3600`` says how long; what was measured stands in ``steady.csv``, of which some rows are printed.
"""

import os
import random
import shutil
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path

import pytest
from oracle import Repository
from support.running import Daemon, hubsync, write_config
from trainer import read_source
from world import HubProcess, descendants

STEADY_S = float(os.environ.get("HUBSYNC_STEADY_S", "600"))
_CHANGES_PER_S = 10
_SAMPLE_S = 10.0
_FILES, _UNITS = 40, 4  # that are there at a time
_LOG_BYTES = 200_000  # a log is begun anew at this size


@dataclass(frozen=True, slots=True)
class Sample:
    """What hubsync takes at one moment; memory in MB (10^6 bytes), disk in kB as it is allocated."""

    at_s: int
    memory: float
    peak: float
    descriptors: int
    threads: int
    children: int
    state: int
    ledger: int
    pinned: int
    packs: int
    loose: int
    commits: int
    hub_memory: float


class Writer:
    """Makes one change at a time: of small files that come, grow, move and go, and of units that rotate."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.changes = 0
        self._random = random.Random(5)
        self._numbers = count()
        self._units = count(1)

    def act(self) -> None:
        """Change one thing."""
        acts = {self.write: 4, self.append: 4, self.rename: 1, self.delete: 1, self.grow_unit: 3}
        self._random.choices(list(acts), list(acts.values()))[0]()
        self.changes += 1

    def write(self) -> None:
        """Write a file anew."""
        name = f"file-{self._random.randrange(_FILES)}{self._random.choice(['.txt', '.json', '.bin'])}"
        content = b"\0" * name.endswith("bin") + b"%d\n" % next(self._numbers) * self._random.randrange(1, 400)
        (self.source / "beside.tmp").write_bytes(b"1" if name.endswith("json") else content)
        (self.source / "beside.tmp").rename(self.source / name)

    def append(self) -> None:
        """Add a line to the log, which is begun anew when it is long."""
        log = self.source / "train.log"
        with log.open("ab" if not log.exists() or log.stat().st_size < _LOG_BYTES else "wb") as file:
            file.write(b"step %d: loss 0.1\n" % next(self._numbers))

    def rename(self) -> None:
        """Give a file the name of another."""
        if files := sorted(self.source.glob("file-*")):
            self._random.choice(files).rename(self.source / f"file-{self._random.randrange(_FILES)}.txt")

    def delete(self) -> None:
        """Delete a file, if there are many."""
        if len(files := sorted(self.source.glob("file-*"))) > _FILES // 2:
            self._random.choice(files).unlink()

    def grow_unit(self) -> None:
        """Add a file to the newest unit, which is whole with its fourth; the oldest of too many is deleted."""
        units = sorted(self.source.glob("checkpoint-*"), key=lambda unit: int(unit.name.partition("-")[2]))
        if not units or (units[-1] / "DONE").exists():
            (self.source / f"checkpoint-{next(self._units)}").mkdir()
            if len(units) >= _UNITS:
                shutil.rmtree(units[0])
            return
        unit = units[-1]
        name = ("model.bin", "optimizer.bin", "config.json", "DONE")[len(list(unit.iterdir()))]
        (unit / name).write_bytes({"DONE": b"", "config.json": b"{}"}.get(name, os.urandom(20_000)))

    def finish(self) -> None:
        """Leave no unit half written."""
        while any(not (unit / "DONE").exists() for unit in self.source.glob("checkpoint-*")):
            self.grow_unit()


def take_sample(at_s: float, daemon: Daemon, hub: HubProcess, state: Path) -> Sample:
    """Look at the process and at the disk."""
    process, store = Path("/proc") / str(daemon.process.pid), state / "targets/run/store.git"
    status = read_status(process)
    sizes = dict(measure(state))
    gits = [store, *state.glob("targets/run/mirrors/*.git")]
    return Sample(
        at_s=round(at_s),
        memory=status["VmRSS"] / 1e3,
        peak=status["VmHWM"] / 1e3,
        descriptors=len(list((process / "fd").iterdir())),
        threads=status["Threads"],
        children=len(descendants(daemon.process.pid)),
        state=sum(sizes.values()),
        ledger=sum(size for path, size in sizes.items() if path.name.startswith("ledger.sqlite")),
        pinned=sum(size for path, size in sizes.items() if "lfs" in path.parts),
        packs=sum(len(list(git.glob("objects/pack/*.pack"))) for git in gits),
        loose=sum(len(list(git.glob("objects/??/*"))) for git in gits),
        commits=sum(event["event"] == "snapshot.committed" for event in daemon.take_events()),
        hub_memory=read_status(Path("/proc") / str(hub.process.pid))["VmRSS"] / 1e3,
    )


def read_status(process: Path) -> dict[str, int]:
    """Return the figures of a process, sizes in kB."""
    lines = (line.split() for line in (process / "status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def measure(directory: Path) -> Iterator[tuple[Path, int]]:
    """Yield all files with what they take, in kB."""
    for place, _, names in os.walk(directory):  # no matter what goes meanwhile
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):
                yield path, path.lstat().st_blocks // 2


def keep_on(writer: Writer, seconds: float, daemon: Daemon, hub: HubProcess, state: Path) -> Iterator[Sample]:
    """Write for *seconds*, and yield what is measured meanwhile."""
    began = time.monotonic()
    due_s = _SAMPLE_S
    while (at_s := time.monotonic() - began) < seconds:
        while writer.changes < at_s * _CHANGES_PER_S:
            writer.act()
        if at_s >= due_s:
            due_s += _SAMPLE_S
            yield take_sample(at_s, daemon, hub, state)
        assert daemon.process.poll() is None, daemon.take_events()[-5:]
        time.sleep(0.02)


def expect_level(samples: list[Sample], name: str, *, share: float, least: float) -> None:
    """Expect that *name* is no more in the last third than in the second, but for *share* of it, or *least*."""
    third = len(samples) // 3
    second, last = (
        statistics.median(getattr(sample, name) for sample in part)
        for part in (samples[third : 2 * third], samples[2 * third :])
    )
    assert last - second <= max(second * share, least), (name, second, last)


@pytest.mark.timeout(STEADY_S + 600)
def test_nothing_grows(tmp_path: Path) -> None:
    """While ten changes a second are published, hubsync takes what it took before; in the end all of them are there."""
    source, state = tmp_path / "source", tmp_path / "state"
    source.mkdir()
    hub = HubProcess(tmp_path / "hub")
    config = write_config(tmp_path / "hubsync.toml", source, {declare(hub): "acme/x"},
                          schedule='"2s"', deletes='"propagate"', complete_when='["DONE"]')  # fmt: skip
    config.write_text(config.read_text().replace('"m0:acme/x"', '{ repo = "m0:acme/x", max_commits_per_hour = 9999 }'))
    writer, samples = Writer(source), []
    try:
        with Daemon(config, "env") as daemon, (tmp_path / "steady.csv").open("w") as series:
            daemon.wait_for("daemon.ready")
            series.write(",".join(field.name for field in fields(Sample)) + "\n")
            for sample in keep_on(writer, STEADY_S, daemon, hub, state):
                samples.append(sample)
                series.write(",".join(map(str, asdict(sample).values())) + "\n")
                series.flush()
            writer.finish()
            assert 0 == daemon.stop()
            assert [] == [event for event in daemon.take_events() if event["level"] in {"error", "critical"}]
        assert [] == descendants(daemon.process.pid)
        publish_the_rest(config)
        assert read_source(source) == Repository(hub.repository("x")).files("main")
    finally:
        hub.stop()
        for sample in samples[:: max(1, len(samples) // 12)] + samples[-1:]:
            print(sample)  # noqa: T201 - the figures are what it is for
    expect_level(samples, "memory", share=0.03, least=1.0)
    for name in ("descriptors", "threads", "packs"):
        expect_level(samples, name, share=0.1, least=2)


@pytest.mark.timeout(900)
def test_a_burst_that_overflows_the_events_loses_nothing(tmp_path: Path) -> None:
    """30,000 files while hubsync cannot listen: more than the kernel's queue holds, with 64 descriptors at most."""
    source = tmp_path / "source"
    source.mkdir()
    hub = HubProcess(tmp_path / "hub")
    config = write_config(tmp_path / "hubsync.toml", source, {declare(hub): "acme/x"})
    try:
        with Daemon(config, "prlimit", "--nofile=64:64") as daemon:
            daemon.wait_for("watch.started")
            daemon.wait_for("heartbeat")
            os.kill(daemon.process.pid, signal.SIGSTOP)
            for number in range(30_000):
                (source / f"{number}.txt").write_text(f"{number}")
            os.kill(daemon.process.pid, signal.SIGCONT)
            daemon.wait_for("watch.overflowed")
            assert 0 == daemon.stop()
        publish_the_rest(config)
        assert read_source(source) == Repository(hub.repository("x")).files("main")
    finally:
        hub.stop()


def declare(hub: HubProcess) -> str:
    """Return the table of its endpoint."""
    return f'url = "{hub.url}"\ntoken = {{ file = "{hub.directory}/token" }}'


def publish_the_rest(config: Path) -> None:
    """Publish what was not in time for the end of a daemon."""
    done = hubsync(config, "once", patience_s=600)
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
