"""Decides how many commits a repository may still get: a burst, then one at a time, never more than so many in an hour.

No I/O, no clock. It is the generic cell rate algorithm (ITU-T I.371), as in ``throttle``: one time says all. Half of the
hour's commits may come at once, and the other half comes in evenly, so that the wait for the next one stays short.
"""

from collections.abc import Sequence

from msgspec import Struct

from hubsync.mirror.view import Step, fold

_HOUR_S = 3600.0
_LONGEST_S = 2 * _HOUR_S  # that anything is owed: a unit with more revisions than an hour allows is let through


class Pace(Struct, frozen=True):
    """At most *per_hour* commits. ``free_at`` is when all that was taken will be given back, in the caller's seconds."""

    per_hour: int

    @property
    def _burst(self) -> int:
        return (self.per_hour + 1) // 2

    @property
    def _each_s(self) -> float:
        """After how long one commit is given back."""
        return _HOUR_S / max(1, self.per_hour - self._burst)

    def left(self, free_at: float, now: float) -> int:
        """Return how many commits may be made now."""
        return max(0, int(self._burst - self._owed(free_at, now) / self._each_s + 1e-6))

    def wait_s(self, free_at: float, now: float) -> float:
        """Return the seconds until one commit may be made."""
        return max(0.0, self._owed(free_at, now) - (self._burst - 1) * self._each_s)

    def take(self, free_at: float, now: float, commits: int) -> float:
        """Return when all is given back after *commits* more."""
        return now + min(_LONGEST_S, self._owed(free_at, now) + commits * self._each_s)

    def convert(self, free_at: float, other: "Pace", now: float) -> float:
        """Return when all is given back at this pace of what is given back at *free_at* at the *other* one."""
        commits = self._owed(free_at, now) / other._each_s  # noqa: SLF001 - of the same class
        return now + min(_LONGEST_S, commits * self._each_s)

    def _owed(self, free_at: float, now: float) -> float:
        owed_s = max(0.0, free_at - now)
        return owed_s if owed_s < _LONGEST_S + 1 else 0.0  # nobody owes more: the clock was ahead when that was noted


def widen(steps: Sequence[Step], left: int, *, with_revisions: bool) -> list[Step]:
    """Return *steps* in no more than *left* commits: the oldest are folded, the newest stay as they are.

    With revisions each unit is a commit on a branch of its own, which cannot be folded: so many of the oldest steps as
    fit are returned as one, at least one of them.
    """
    if not with_revisions:
        first = len(steps) - left
        return list(steps) if first <= 0 else [fold(steps[: first + 1]), *steps[first + 1 :]]
    taken: list[Step] = []
    for step in steps:
        units = {unit for each in (*taken, step) for unit in each.snapshot.units}
        if taken and len(units) + 1 > left:
            break
        taken.append(step)
    if len(taken) == len(steps) and sum(len(step.snapshot.units) + 1 for step in steps) <= left:
        return list(steps)

    return [fold(taken)]
