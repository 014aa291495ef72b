"""Turns the events of one source into changes, and completes its units, in a thread of its own."""

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from hubsync.errors import DiskFullError, HubsyncError, find_known
from hubsync.memory import give_back
from hubsync.monitor.logger import bound, get_logger
from hubsync.monitor.status import LastError
from hubsync.monitor.streak import Streaks, is_said
from hubsync.monitor.text import format_duration
from hubsync.service import TargetWork
from hubsync.store.process import StoppedError
from hubsync.watch.mounts import network_file_system
from hubsync.watch.observer import SourceObserver

_CHECK_S = 10.0  # how often an observer is asked whether it lives
_STOP_S = 20.0
_CALM_S = 600.0  # without a loss of events; the next one is news

log = get_logger()


class Watcher(threading.Thread):
    """Turns the events of one source into changes, and completes units, in a thread of its own."""

    def __init__(self, work: TargetWork, on_news: Callable[[], None]) -> None:
        super().__init__(name=f"hubsync-watch-{work.target.name}", daemon=True)
        self.ticked = time.monotonic()
        self._work = work
        self._on_news = on_news
        self._events: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._observer: SourceObserver | None = None
        self._stopping = threading.Event()
        self._log = log.bind(target=work.target.name)
        self.mode = "inventory"
        self.trouble: LastError | None = None
        """Why changes are noticed late, where that can be mended."""
        self._is_reading = self._is_down = False
        self._is_incomplete = self._is_told = False  # whether directories are unwatched, and whether that was said
        self._streaks = Streaks()
        self._overflows, self._overflowed = 0, float("-inf")  # how often events were lost in a row, and when last

    def ask_stop(self) -> None:
        """Have the thread and the observer end soon."""
        self._stopping.set()
        self._events.put(("stop", ""))

    def stop(self) -> None:
        """End the thread and the observer."""
        self.ask_stop()
        self.join(_STOP_S)

    def progressed(self, read: float) -> float | None:
        """Return when it last got on, if something was *read* then; ``None`` if it has ended without being told."""
        return max(self.ticked, read) if self.is_alive() or self._stopping.is_set() else None

    def ask_inventory(self) -> None:
        """Have the whole source compared soon."""
        self._events.put(("tree", ""))

    def look_again(self) -> None:
        """Have the watch see what waits to settle by now."""
        self._events.put(("wake", ""))

    def take_left(self) -> None:
        """Look, after ``stop``, at what events have told of and the watch has not come to."""
        self._guarded(self._look_at_left)

    def run(self) -> None:
        """Watch until stopped."""
        try:
            with bound(target=self._work.target.name):
                self._watch()
        except StoppedError:
            pass
        finally:
            self._stop_observer()

    def _watch(self) -> None:
        self._start_observer()
        self._events.put(("tree", ""))
        checked = time.monotonic()
        while not self._stopping.is_set():
            self.ticked = time.monotonic()
            self._guarded(self._take_events)
            if time.monotonic() - checked >= _CHECK_S:
                checked = time.monotonic()
                self._guarded(self._check_observer)
            self._guarded(self._settle)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run one step; a failure is said and the watch goes on."""
        job = step.__name__.strip("_")
        try:
            step()
        except StoppedError:
            raise
        except Exception as exc:  # noqa: BLE001 - a bug must not end the watch
            known = find_known(exc)
            failures = self._streaks.fail(job, known.error_kind if known else type(exc).__name__)
            if failures and known:
                self._log.error("schedule.failed", job=job, error=str(known), error_kind=known.error_kind,
                                retryable=known.retryable, hint=known.hint, failures=failures)  # fmt: skip
            elif failures:
                self._log.exception("schedule.failed", job=job, error=str(exc), error_kind="internal", retryable=True,
                                    failures=failures)  # fmt: skip
            self._stopping.wait(_CHECK_S if isinstance(known, DiskFullError) else 1)
        else:
            if failures := self._streaks.end(job):
                self._log.info("schedule.recovered", job=job, failures=failures)

    def _take_events(self) -> None:
        """Wait for events, or until something settles, and look at each changed path once."""
        due = self._work.pipeline.next_due()
        timeout = _CHECK_S if due is None else min(_CHECK_S, max(0.0, due - time.monotonic()))
        batch: dict[tuple[str, str], None] = {}
        try:
            batch[self._events.get(timeout=timeout)] = None
            while True:
                batch[self._events.get_nowait()] = None
        except queue.Empty:
            pass
        try:
            self._look_at(batch)
        except (HubsyncError, OSError):
            self.ask_inventory()  # what was not looked at now
            raise

    def _look_at_left(self) -> None:
        batch: dict[tuple[str, str], None] = {}
        while not self._events.empty():
            batch[self._events.get_nowait()] = None
        batch.pop(("tree", ""), None)  # there may be no time for all of the source
        self._look_at(batch)

    def _look_at(self, batch: Collection[tuple[str, str]]) -> None:
        """Look at all that events told of."""
        trees = [path for kind, path in batch if kind == "tree"]
        if "" in trees:
            if self._is_incomplete:  # the limit may have been raised
                self._stop_observer()
                self._start_observer()
            self._work.pipeline.take_inventory()
            give_back()
            self._on_news()
            return
        for tree in _topmost(trees):
            self._work.pipeline.take_inventory(tree)
        for kind, path in batch:
            if kind == "path":
                self._work.pipeline.note(path)

    def _settle(self) -> None:
        settled = self._work.pipeline.settle()
        if settled.units or settled.rest:
            self._work.pipeline.commit(units_only=not settled.rest)
        is_reading = bool(self._work.pipeline.being_read())
        if settled.units or settled.early or settled.rest or is_reading != self._is_reading:
            self._on_news()
        self._is_reading = is_reading

    def _start_observer(self) -> None:
        source = self._work.target.source
        if file_system := network_file_system(source):
            self._log.warning("watch.degraded", source=str(source), mode="inventory",
                              reason=f"{file_system} gives no events for what other machines write")  # fmt: skip
            return
        observer = SourceObserver(
            source,
            on_change=lambda path: self._events.put(("path", path)),
            on_change_tree=lambda path: self._events.put(("tree", path)),
            on_trouble=self._note_trouble,
            is_excluded=self._work.pipeline.is_excluded_directory,
        )
        self._is_incomplete = False
        try:
            observer.start()
        except HubsyncError as exc:
            self._note_down(str(exc), exc.hint)
            return
        self._observer, self.mode = observer, "events"
        if self._is_incomplete:
            return
        self.trouble = None
        if self._is_down or self._is_told:
            self._is_down = self._is_told = False
            self._log.info("watch.recovered", source=str(source), mode=self.mode)
        else:
            self._log.info("watch.started", source=str(source), mode=self.mode)

    def _note_trouble(self, kind: str, facts: Mapping[str, object]) -> None:
        if kind == "overflowed":
            self._note_overflow()
            self._events.put(("tree", ""))
            return
        self._note_late(str(facts.get("reason", kind)), str(facts.get("hint") or ""))
        self._is_incomplete, is_told, self._is_told = True, self._is_told, True
        if not is_told:
            self._log.warning("watch.degraded", source=str(self._work.target.source), mode="events",
                              reason=facts.get("reason", kind), directories=facts.get("directories"),
                              unwatched=facts.get("unwatched"), limit=facts.get("limit"),
                              hint=facts.get("hint"))  # fmt: skip

    def _note_overflow(self) -> None:
        """Say that events were lost; of many times in a row, each doubling of their number."""
        now = time.monotonic()
        self._overflows = 1 if now - self._overflowed > _CALM_S else self._overflows + 1
        self._overflowed = now
        if is_said(self._overflows):
            self._log.warning("watch.overflowed", source=str(self._work.target.source))

    def _note_down(self, reason: str, hint: str = "") -> None:
        self.mode = "inventory"
        self._note_late(reason, hint)
        if not self._is_down:
            self._is_down = True
            self._log.warning("watch.degraded", source=str(self._work.target.source), mode=self.mode, reason=reason,
                              hint=hint)  # fmt: skip

    def _note_late(self, reason: str, hint: str) -> None:
        late = format_duration(self._work.target.inventory_every_s)
        since = self.trouble.since if self.trouble else datetime.now(UTC)
        self.trouble = LastError(f"changes are noticed up to {late} late: {reason}", "watch", hint, since)

    def _check_observer(self) -> None:
        """Start the observer anew if its threads died or the source is another directory now."""
        if self._observer is None:
            if self._is_down and self._work.target.source.is_dir():
                self._start_observer()
                self._events.put(("tree", ""))
            return
        reason = self._observer.check()
        if not reason:
            return
        self._stop_observer()
        self._note_down(reason)
        self._start_observer()
        self._events.put(("tree", ""))

    def _stop_observer(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer = None


def _topmost(directories: list[str]) -> list[str]:
    """Return *directories* without those that lie below another one of them."""
    top: list[str] = []
    for directory in sorted(set(directories)):
        if not top or not directory.startswith(f"{top[-1]}/"):
            top.append(directory)

    return top
