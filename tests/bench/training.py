"""A synthetic training job with and without hubsync beside it: how much slower are its steps, and its reads?

The job keeps all processors busy and reads its data set again and again, from the page cache as long as that keeps it.
``python training.py DATA SECONDS`` is one worker of it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hubs import Running, make_place
from workloads import make_unit, write_shard

_BATCH_BYTES = 8 << 20


def measure_training(base: Path, hub: dict[str, str], seconds: float, size: int) -> dict[str, dict[str, float]]:
    """Return what a step takes without and with hubsync, by its priority."""
    found = {}
    for priority in ("low", "idle"):
        (base / priority).mkdir()
        found[priority] = _measure(base / priority, hub, seconds, size, priority)
        shutil.rmtree(base / priority)

    return found


def _measure(base: Path, hub: dict[str, str], seconds: float, size: int, priority: str) -> dict[str, float]:
    """Return what a step takes without and with hubsync, which publishes checkpoints of *size* bytes meanwhile."""
    (base / "data").mkdir()
    dataset = base / "dataset.bin"
    write_shard(dataset, size)
    without = _train(dataset, seconds)
    place = make_place(base, f"daemon {priority}", hub, 1)
    place |= {"settings": {"quiet": "1s"}, "priority": priority, "hub": str(base.parent / "hub")}
    with Running("daemon", place, hub) as running:
        time.sleep(3.0)
        for number in range(4):  # before the job: to write a checkpoint is the trainer's own cost
            make_unit(base / "data" / f"checkpoint-{number}", size)
        warm = cached_share(dataset)
        beside = _train(dataset, seconds)
        cached = cached_share(dataset)
    again = _train(dataset, seconds)
    step_s = (without["step_s"] + again["step_s"]) / 2

    return {
        "step_s": step_s,
        "step_s_beside": beside["step_s"],
        "slower_percent": round(100 * (beside["step_s"] / step_s - 1), 1),
        "noise_percent": round(100 * abs(without["step_s"] - again["step_s"]) / step_s, 1),
        "read_s": (without["read_s"] + again["read_s"]) / 2,
        "read_s_beside": beside["read_s"],
        "read_from_disk_mb": round((without["disk_bytes"] + again["disk_bytes"]) / 2e6),
        "read_from_disk_mb_beside": round(beside["disk_bytes"] / 1e6),
        "cached_percent_before": round(100 * warm, 1),
        "cached_percent_after": round(100 * cached, 1),
        "sent_mb": round(running.figures.sent_bytes / 1e6),
        "hubsync_cpu_s": running.figures.cpu_s,
    }


def _train(dataset: Path, seconds: float) -> dict[str, float]:
    argv = [sys.executable, __file__, str(dataset), str(seconds)]
    workers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(os.cpu_count() or 1)]
    told = [json.loads(worker.communicate()[0]) for worker in workers]
    return {name: sum(one[name] for one in told) / len(told) for name in told[0]}


def work(dataset: Path, seconds: float) -> dict[str, float]:
    """Compute and read; return the seconds of a step, those of it for reading, and what came from the disk itself."""
    block, size = os.urandom(1 << 20), dataset.stat().st_size
    steps, reading, at, began, before = 0, 0.0, 0, time.monotonic(), _read_from_disk()
    with dataset.open("rb", buffering=0) as file:
        while time.monotonic() - began < seconds:
            started = time.monotonic()
            file.seek(at)
            at = (at + len(file.read(_BATCH_BYTES))) % size
            reading += time.monotonic() - started
            for _ in range(10):
                sum(block)
            steps += 1

    return {
        "step_s": (time.monotonic() - began) / steps, "read_s": reading / steps,
        "disk_bytes": _read_from_disk() - before,
    }  # fmt: skip


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
    sys.stdout.write(json.dumps(work(Path(sys.argv[1]), float(sys.argv[2]))))
