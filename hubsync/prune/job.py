"""Prunes a target by itself: after each publication, now and then, and at once where space is short."""

import threading
import time
from collections.abc import Callable

from hubsync.config.model import Target
from hubsync.mirror.publish import Publisher
from hubsync.proof.prove import Means
from hubsync.prune.run import Pruner, is_due
from hubsync.prune.storage import Freer
from hubsync.store.process import StoppedError

LOOK_S = 15.0  # how often ``run`` is to be called; it mostly does nothing
_EVERY_S = 3600.0
_SHORT_EVERY_S = 60.0


def ended_by(stop: threading.Event) -> Callable[[int], None]:
    """Return what ends the reading of a unit once *stop* is set."""

    def note_bytes(_: int) -> None:
        if stop.is_set():
            raise StoppedError("interrupted: hubsync is stopping")

    return note_bytes


class PruneJob:
    """Decides when *target* is pruned; ``run`` is called by one thread at a time."""

    def __init__(self, target: Target, means: Means) -> None:
        self._target = target
        self._pruner = Pruner(target, means)
        self._freer = Freer(target, means)
        self._news = threading.Event()
        self._ran = float("-inf")

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to do at all: rules, or a removal that was interrupted."""
        remote = [mirror.retention.remote for mirror in self._target.mirrors]
        is_freed = any(rules is not None and rules.free_storage for rules in remote)
        return is_freed or self._target.retention.local is not None or self._pruner.has_begun()

    def note_published(self) -> None:
        """Note that a mirror holds more than before."""
        self._news.set()

    def free_storage(self, publisher: Publisher) -> None:
        """Free what a mirror dropped; nothing may be published to it meanwhile."""
        self._freer.run(publisher)

    def run(self) -> bool:
        """Prune, if it is time; tell whether that gives the mirrors something to do."""
        if self._target.retention.local is None:
            self._pruner.recover()
            return self._freer.is_due()
        waited_s = time.monotonic() - self._ran
        is_tried_again = time.monotonic() >= self._pruner.next_try
        is_short = waited_s >= _SHORT_EVERY_S and is_due(self._target)
        if not (self._news.is_set() or is_tried_again or is_short or waited_s >= _EVERY_S):
            return self._freer.is_due()
        self._news.clear()
        self._ran = time.monotonic()
        outcomes = self._pruner.run(execute=True)

        return self._freer.is_due() or any(outcome.action == "remove" for outcome in outcomes)
