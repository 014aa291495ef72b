"""Decides when a path is quiet: its identity has not changed for a while.

No I/O and no clock; all times are monotonic seconds that the caller names. Knows nothing of content: a quiet file may
still be half of one, which :mod:`hubsync.watch.formats` sees.
"""

import heapq
from typing import NamedTuple

from hubsync.watch.entry import Identity


class _Waiting(NamedTuple):
    """A path that is held until it is *due*; one value stands in the queue and the table: there may be 100,000."""

    due: float
    path: str
    identity: Identity


class Settler:
    """Holds each path until it was quiet for *quiet_s*; a path that was taken is forgotten."""

    def __init__(self, quiet_s: float) -> None:
        self.quiet_s = quiet_s
        self._waiting: dict[str, _Waiting] = {}
        self._queue: list[_Waiting] = []  # may name a path more than once; only its present due time counts

    def __len__(self) -> int:
        """Return how many paths are held."""
        return len(self._waiting)

    def __contains__(self, path: str) -> bool:
        """Tell whether *path* is held."""
        return path in self._waiting

    def feed(
        self, path: str, identity: Identity, now: float, changed_at: float | None = None, *, grows: bool = False
    ) -> None:
        """Say that *path* was seen with *identity*; the wait starts over if that differs from what was seen before.

        *changed_at* (what an inventory derives from mtime and ctime) lets a file that is old at first sight settle at
        once. A time in the future, as after a clock jump, counts as now. What *grows* does not wait longer when it does.
        """
        known = self._waiting.get(path)
        if known is not None and known.identity == identity:
            return
        if known is not None and grows:
            self._waiting[path] = _Waiting(known.due, path, identity)
            return
        quiet_since = now if known is not None or changed_at is None else min(changed_at, now)
        self._waiting[path] = held = _Waiting(quiet_since + self.quiet_s, path, identity)
        heapq.heappush(self._queue, held)
        if len(self._queue) > 64 + 2 * len(self._waiting):
            self._drop_outdated()

    def forget(self, path: str) -> None:
        """Hold *path* no longer: it is gone."""
        self._waiting.pop(path, None)

    def take_settled(self, now: float) -> list[tuple[str, Identity]]:
        """Return the settled paths, those that were quiet first, first; they are forgotten."""
        settled = []
        while (due := self.next_due()) is not None and due <= now:
            path = heapq.heappop(self._queue).path
            settled.append((path, self._waiting.pop(path).identity))
        if not self._waiting:
            self._waiting.clear()  # a table that was emptied one by one keeps its room

        return settled

    def next_due(self) -> float | None:
        """Return when the next path settles if nothing changes; ``None`` if none is held."""
        while self._queue and not self._is_current(self._queue[0]):
            heapq.heappop(self._queue)

        return self._queue[0].due if self._queue else None

    def waiting(self, now: float) -> dict[str, float]:
        """Return the paths that are not settled, and how many seconds each still has to be quiet."""
        return {path: held.due - now for path, held in self._waiting.items() if held.due > now}

    def _is_current(self, queued: _Waiting) -> bool:
        held = self._waiting.get(queued.path)
        return held is not None and held.due == queued.due

    def _drop_outdated(self) -> None:
        """Bound the queue: a log file that changes with each event leaves a dead place in it each time."""
        self._queue = list(self._waiting.values())
        heapq.heapify(self._queue)
