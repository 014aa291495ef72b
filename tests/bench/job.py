"""A synthetic training job, as programs that join a group of limited memory: one worker, or the saving of a checkpoint.

A worker reads parts of a data set in random order, from the page cache as long as that keeps it, and prepares batches. Of
a ``gpu`` job each step waits for a GPU that takes the same time always, and the next batch is prepared meanwhile; a ``cpu``
job computes on its processor all the time, which is the worst neighbour to have.
``python job.py GROUP train JOB DATA SECONDS SEED``, ``... save UNIT BYTES``, ``... warm DATA`` print what it took as JSON.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from workloads import make_unit

_BATCH_BYTES = 8 << 20
_GPU_STEP_S = 0.05
_GPU_ROUNDS, _CPU_ROUNDS = 1, 10  # of computing, for each batch


@dataclass(frozen=True)
class Trained:
    """What a worker tells: how long each step took, and how much was read, in all and from the disk."""

    step_s: list[float]
    read_bytes: int
    disk_bytes: int


def train(job: str, dataset: Path, seconds: float, seed: int) -> Trained:
    """Train for so many *seconds*."""
    block, before = os.urandom(1 << 20), _read_from_disk()
    chosen = random.Random(seed)
    size = dataset.stat().st_size

    def prepare(rounds: int) -> None:
        os.preadv(data, [batch], chosen.randrange(max(1, size - _BATCH_BYTES)))
        for _ in range(rounds):
            sum(block)

    step_s, batch, end = [], bytearray(min(_BATCH_BYTES, size)), time.monotonic() + seconds
    data = os.open(dataset, os.O_RDONLY)
    step = _gpu_step(prepare) if job == "gpu" else lambda: prepare(_CPU_ROUNDS)
    while (began := time.monotonic()) < end:
        step()
        step_s.append(time.monotonic() - began)

    return Trained(step_s, len(step_s) * len(batch), _read_from_disk() - before)


def _gpu_step(prepare: Callable[[int], None]) -> Callable[[], None]:
    loader = ThreadPoolExecutor(1)

    def step() -> None:
        batch = loader.submit(prepare, _GPU_ROUNDS)
        time.sleep(_GPU_STEP_S)
        batch.result()

    return step


def save(unit: Path, size: int) -> float:
    """Save a checkpoint and return how long that took."""
    began = time.monotonic()
    make_unit(unit, size)
    return time.monotonic() - began


def warm(dataset: Path) -> float:
    """Read the data set twice, so that the kernel knows it as what is used again, and return how long that took."""
    began = time.monotonic()
    for _ in range(2):
        with dataset.open("rb", buffering=0) as file:
            while file.read(_BATCH_BYTES):
                pass

    return time.monotonic() - began


def _read_from_disk() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def main(group: str, task: str, *asked: str) -> None:
    """Join *group*, if there is one, and do *task*."""
    if group:
        Path(group, "cgroup.procs").write_text(str(os.getpid()))
    match task, *asked:
        case "train", job, dataset, seconds, seed:
            told: object = asdict(train(job, Path(dataset), float(seconds), int(seed)))
        case "save", unit, size:
            told = save(Path(unit), int(size))
        case _, dataset:
            told = warm(Path(dataset))
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
