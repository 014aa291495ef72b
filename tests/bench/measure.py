"""Runs one command as a child of a process of its own, and prints what it and all that it started took, as JSON.

``python measure.py COMMAND...``; the command's output goes to standard error, and SIGTERM to the command. What counts a
child's input and output is the kernel's: a parent's figures take in those of the children that it has waited for. How many
programs were started is asked of perf, where there is one that may be asked.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_SAMPLE_S = 0.2  # each look takes time from what is measured, the more the more processes that has


@dataclass(frozen=True)
class Figures:
    """What one run took. Bytes read and written are those of system calls, also from the page cache and to sockets.

    *programs* are those that were started, itself included; -1 if nobody can tell.
    """

    wall_s: float
    cpu_s: float
    read_bytes: int
    written_bytes: int
    peak_bytes: int
    programs: int
    sent_bytes: int = 0
    disk_peak_bytes: int = 0
    disk_after_bytes: int = 0
    commits: int = 0
    lag_s: float = -1.0


class Peak(threading.Thread):
    """Samples the memory of a process tree (each page counted once) and those of its processes."""

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


def _moved() -> tuple[int, int]:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"]), int(fields["wchar"])


def _counted(argv: list[str], count: str) -> list[str]:
    """Return the command that runs *argv* and leaves in the file *count* how many programs were started."""
    perf = ["perf", "stat", "-x,", "-e", "sched:sched_process_exec", "-o", count, "--"]
    try:
        subprocess.run([*perf, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return argv

    return [*perf, *argv]


def _read_count(count: str) -> int:
    counts = [line.split(",")[0] for line in Path(count).read_text().splitlines() if "sched_process_exec" in line]
    return int(counts[0]) if counts and counts[0].isdigit() else -1


def measure(argv: list[str]) -> Figures:
    """Run *argv*; raises SystemExit with its last words if it fails."""
    with tempfile.NamedTemporaryFile(prefix="bench-") as count:
        command = _counted(argv, count.name)
        moved, began, before = _moved(), time.monotonic(), _used_s()
        child = subprocess.Popen(command, stdout=sys.stderr)
        signal.signal(signal.SIGTERM, lambda *_: _end(child.pid, is_wrapped=command is not argv))
        peak = Peak(child.pid)
        peak.start()
        code = child.wait()
        wall_s, cpu_s = time.monotonic() - began, _used_s() - before
        programs = _read_count(count.name)
    if code != 0:
        raise SystemExit(f"{argv[:4]} ended with {code}")
    read, written = (after - start for after, start in zip(_moved(), moved, strict=True))

    return Figures(round(wall_s, 3), round(cpu_s, 3), read, written, peak.end(), programs)


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end(pid: int, *, is_wrapped: bool) -> None:
    """Tell the command to end, and not perf, which waits for it."""
    children = _tree(pid)[1:2] if is_wrapped else [pid]
    for child in children:
        os.kill(child, signal.SIGTERM)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(measure(sys.argv[1:]))))
