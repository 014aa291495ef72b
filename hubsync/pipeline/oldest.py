"""Remembers in the ledger since when something settled waits for a commit, so that a restart does not start the count anew.

A note that cannot be read or written is none. What waits is not named: a file that was as it is when the note's time
began may be what waited, and a log may be, which changes all the time.
"""

import contextlib
import time

from hubsync.errors import HubsyncError
from hubsync.store.ledger import Ledger

_NAME = "settled since"
_SAME_S = 1.0  # two counts that differ by less are one


class Oldest:
    """The note on one target; its time is in seconds since the epoch, 0: nothing waits."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._noted = self._former = self._read()

    def waited_s(self, changed_at: float, *, grows: bool) -> float:
        """Return for how long a file that settles now waited before a restart: 0 unless it may be what did.

        *changed_at* is its mtime, in seconds since the epoch: our own pins move the ctime.
        """
        may_have_waited = self._former > 0 and (grows or changed_at <= self._former)
        return max(0.0, time.time() - self._former) if may_have_waited else 0.0

    def note(self, waited_s: float, *, all_seen: bool) -> None:
        """Remember that the oldest has waited for *waited_s* (0: none waits), once *all_seen* of what waited before."""
        if not all_seen and self._former:
            return
        self._former = 0.0
        since = time.time() - waited_s if waited_s else 0.0
        if abs(since - self._noted) >= _SAME_S:
            with contextlib.suppress(HubsyncError):  # a full disk is said elsewhere
                self._ledger.set_meta(_NAME, str(since))
                self._noted = since

    def _read(self) -> float:
        try:
            return float(self._ledger.meta(_NAME) or 0)
        except (ValueError, HubsyncError):
            return 0.0
