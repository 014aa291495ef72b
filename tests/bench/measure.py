"""Runs one command as a child of a process of its own, and prints what it and all that it started took, as JSON.

``python measure.py COMMAND...``; the command's output goes to standard error. What counts a child's input and output is the
kernel's: a parent's figures take in those of the children that it has waited for.
"""

import json
import resource
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_SAMPLE_S = 0.05


@dataclass(frozen=True)
class Figures:
    """What one run took. Bytes read and written are those of system calls on files, also from the page cache."""

    wall_s: float
    cpu_s: float
    read_bytes: int
    written_bytes: int
    peak_bytes: int
    processes: int
    sent_bytes: int = 0
    extra_disk_bytes: int = 0


class Peak(threading.Thread):
    """Samples the memory of a process tree (each page counted once) and the processes that were seen in it."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._root = root
        self._over = threading.Event()

    def run(self) -> None:
        """Sample until it is over."""
        while not self._over.wait(_SAMPLE_S):
            self.bytes = max(self.bytes, sum(map(_memory, _tree(self._root))))

    def end(self) -> int:
        """Return the peak in bytes."""
        self._over.set()
        self.join()
        return self.bytes


def _tree(root: int) -> list[int]:
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            left += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:  # it has ended
            continue

    return found


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _started() -> int:
    """Return how many processes and threads this machine ever started."""
    return next(
        int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("processes ")
    )


def _moved() -> tuple[int, int]:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"]), int(fields["wchar"])


def measure(argv: list[str]) -> Figures:
    """Run *argv*; raises SystemExit with its last words if it fails."""
    moved, started, began = _moved(), _started(), time.monotonic()
    child = subprocess.Popen(argv, stdout=sys.stderr)
    peak = Peak(child.pid)
    peak.start()
    code = child.wait()
    wall_s = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code != 0:
        raise SystemExit(f"{argv[:4]} ended with {code}")

    read, written = (after - before for after, before in zip(_moved(), moved, strict=True))
    cpu_s = used.ru_utime + used.ru_stime
    return Figures(round(wall_s, 3), round(cpu_s, 3), read, written, peak.end(), _started() - started)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(measure(sys.argv[1:]))))
