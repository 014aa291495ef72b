"""Decides whether the parts of the daemon get on: the scheduler, the watches, the publications that run; and the clock.

A part that does not is said once. It knows no service manager; who feeds a watchdog asks ``Health``.
"""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from hubsync.monitor.events import CATALOGUE
from hubsync.monitor.logger import get_logger
from hubsync.monitor.status import Waiting

_JUMP_S = 5.0  # a clock that is slewed (adjtime, chrony) drifts by less than this between two looks

log = get_logger()


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the machine sleeps, as the system clock does


class Part(Struct, frozen=True):
    """Something that gets on by itself; *progressed* is when it last did, in monotonic seconds (``None``: it has ended)."""

    name: str
    progressed: float | None
    patience_s: float


def find_stalled(parts: Iterable[Part], now: float) -> dict[str, float]:
    """Return those of *parts* that have ended, or got on for longer than their patience → for how many seconds."""
    idle = {part.name: (part, 0.0 if part.progressed is None else now - part.progressed) for part in parts}
    return {name: idle_s for name, (part, idle_s) in idle.items() if part.progressed is None or idle_s > part.patience_s}


class Health:
    """Looks at parts, and says which of them stall."""

    def __init__(self, list_parts: Callable[[], Iterable[Part]]) -> None:
        self._list_parts = list_parts
        self._stalled: dict[str, datetime] = {}

    def stalled(self) -> tuple[Waiting, ...]:
        """Return the parts that did not get on when they were looked at, for people."""
        hint = CATALOGUE["thread.stalled"].action
        return tuple(Waiting(name, "does not get on", since, hint, True) for name, since in self._stalled.items())

    def is_well(self) -> bool:
        """Tell whether all parts get on."""
        stalled, now = find_stalled(self._list_parts(), time.monotonic()), datetime.now(UTC)
        for name in stalled.keys() - self._stalled.keys():
            log.error("thread.stalled", thread=name, stalled_s=round(stalled[name]))
        for name in self._stalled.keys() - stalled.keys():
            log.info("thread.recovered", thread=name)
        self._stalled = {name: self._stalled.get(name, now - timedelta(seconds=idle_s)) for name, idle_s in stalled.items()}

        return not stalled


class WallClock:
    """Notices when the system clock is set: it then parts from the time since the machine was started."""

    def __init__(self, *, wall: Callable[[], float] = time.time, passed: Callable[[], float] = _since_boot) -> None:
        self._wall = wall
        self._passed = passed
        self._offset = wall() - passed()

    def look(self, on_jump: Callable[[float], None]) -> None:
        """Say it if the clock was set since the last look, and call *on_jump* with the seconds."""
        if jumped_s := self.find_jump():
            log.warning("clock.jumped", jumped_s=round(jumped_s, 1), hint=CATALOGUE["clock.jumped"].action)
            on_jump(jumped_s)

    def find_jump(self) -> float:
        """Return by how many seconds the clock was set since the last call: less than none is back, 0 is not at all."""
        offset = self._wall() - self._passed()
        jumped_s = offset - self._offset
        self._offset = offset

        return jumped_s if abs(jumped_s) >= _JUMP_S else 0.0
