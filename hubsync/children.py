"""Ends children that hang: who waits for one waits for ever, and its lock keeps the next hubsync out.

A child is known by the system's own list, with all that it started. It must never know what a child is for.
"""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

from msgspec import Struct

from hubsync.monitor.logger import get_logger

_STOPPED_S = 20.0  # nobody stops a child of ours and means it
_STOPPED_LAST_S = 2.0  # at the end, whose time is short
_LAST_EVERY_S = 0.5
_LEAVE_S = 1.0  # for those who wait for a child to see that they are to end it
_LAST_LOOK_S = 2.0

log = get_logger()


class _Work(Struct, frozen=True):
    """What a child and its own have done: processor time in ticks; *is_stopped*: none of them may run (SIGSTOP)."""

    ticks: int
    is_stopped: bool


class Children:
    """The children of this process, and since when each of them has not moved."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[_Work, float]] = {}
        self._looked = float("-inf")

    def end_stopped(self, now: float) -> None:
        """End those that are stopped, which will not move by themselves: nothing that they hold up gets on in the grace."""
        if now - self._looked >= _LAST_EVERY_S:
            self._looked = now
            self.end_hung(now, stopped_s=_STOPPED_LAST_S)

    def end_hung(self, now: float, idle_s: float | None = None, stopped_s: float = _STOPPED_S) -> None:
        """End those that are stopped, and with *idle_s* those that did nothing for so long; to be called regularly."""
        seen = {pid: _look(pid) for pid in _children_of(os.getpid())}
        before = self._seen
        self._seen = {
            pid: before[pid] if pid in before and before[pid][0] == work else (work, now) for pid, work in seen.items()
        }
        for pid, (work, since) in self._seen.items():
            patience_s = stopped_s if work.is_stopped else idle_s
            if patience_s is not None and now - since >= patience_s:
                log.warning("child.ended", command=_command_of(pid), stalled_s=round(now - since))
                _kill(pid)

    def end_all(self) -> None:
        """End all that are still there in a moment."""
        deadline = time.monotonic() + _LEAVE_S
        while (left := _children_of(os.getpid())) and time.monotonic() < deadline:
            time.sleep(_LEAVE_S / 20)
        for pid in left:
            _kill(pid)

    def end_all_until(self, over: threading.Event) -> None:
        """End all that are there now and then, until *over*: what lasts longer than a look hangs."""

        def keep_ending() -> None:
            while not over.wait(_LAST_LOOK_S):
                self.end_all()

        threading.Thread(target=keep_ending, name="hubsync-children", daemon=True).start()


def _children_of(pid: int) -> list[int]:
    """Return the children of all threads of *pid*; none where the kernel does not list them."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended; a glob does not expect that
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())

    return found


def _look(pid: int) -> _Work:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # proc(5): from the third field on
    except OSError:
        return _Work(0, is_stopped=False)
    works = [_look(child) for child in _children_of(pid)]
    ticks = sum(map(int, fields[11:15])) + sum(work.ticks for work in works)

    return _Work(ticks, is_stopped=fields[0] == "T" and all(work.is_stopped for work in works))


def _command_of(pid: int) -> str:
    """Return how a child was called, without its options: they are long, and the first words say enough."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        return " ".join(Path(word).name for word in words if word and not word.startswith("-"))[:60]
    return ""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
