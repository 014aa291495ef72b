"""Owns the targets of a running daemon: each is opened, ended and described by itself, and one that fails stops no other.

It must never know schedules, signals, or how a target is opened.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime

from hubsync.config.model import Config, Target
from hubsync.config.rates import Rate
from hubsync.errors import ConfigError, HubsyncError
from hubsync.monitor.logger import get_logger
from hubsync.monitor.status import TargetStatus
from hubsync.report import describe_busy, describe_target, describe_unopened
from hubsync.target_run import TargetRun
from hubsync.wait import Answer

_POLL_S = 0.02
_BUSY_S = 3.0  # a snapshot is written in less, mostly
_MEND_S = 300.0  # a store that is damaged again and again must not fill the log

log = get_logger()


class OpenTargets:
    """The targets that run, and those that could not be opened; none is opened once *stop* is set.

    *open_run* opens one, and raises HubsyncError if that fails.
    """

    def __init__(self, open_run: Callable[[Target], TargetRun], stop: threading.Event) -> None:
        self._open_run = open_run
        self._stop = stop
        self._runs: dict[str, TargetRun] = {}
        self._failed: dict[str, tuple[HubsyncError, datetime]] = {}  # why, and since when
        self._opening = threading.Lock()
        self._closing = threading.RLock()
        self._described: dict[str, TargetStatus] = {}  # as they were when they were looked at last
        self._mended: dict[str, float] = {}  # when a store was opened again for its damage, monotonic

    def runs(self) -> list[TargetRun]:
        """Return those that run."""
        return list(self._runs.values())

    def last_runs(self) -> list[TargetRun]:
        """Return all that will ever run, once *stop* is set: one that is being opened at this moment is waited for."""
        with self._opening:
            return self.runs()

    def find(self, name: str) -> TargetRun | None:
        """Return the run of the target called *name*."""
        return self._runs.get(name)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of those that could not be opened."""
        return tuple(self._failed)

    def open(self, target: Target) -> bool:
        """Open one target; tell whether it runs now. Why it does not is said once."""
        with self._opening:
            if self._stop.is_set() or target.name in self._runs:  # a reload, and who tries again, may both open it
                return False
            before, since = self._failed.pop(target.name, (None, datetime.now(UTC)))
            try:
                run = self._open_run(target)
            except HubsyncError as exc:
                self._failed[target.name] = exc, since
                if str(exc) != str(before):
                    _tell_halted(target, exc)
                return False
            run.start()
            self._runs[target.name] = run

        return True

    def open_again(self, targets: Iterable[Target]) -> bool:
        """Try those of *targets* that could not be opened, such as for a full disk; tell whether one runs now."""
        opened = [target for target in targets if target.name in self._failed and self.open(target)]
        for target in opened:
            log.info("target.resumed", target=target.name, source=str(target.source))

        return bool(opened)

    def mend(self, targets: Iterable[Target], is_read: Callable[[], bool]) -> bool:
        """Open those of *targets* again that met damage in their stores, which mends it; tell whether there were such."""
        now = time.monotonic()
        damaged = [
            (target, run)
            for target in targets
            if (run := self._runs.get(target.name)) is not None
            and run.work.pipeline.store.is_damaged
            and now >= self._mended.get(target.name, float("-inf")) + _MEND_S
        ]
        for target, run in damaged:
            self._mended[target.name] = now
            with self._closing:
                if self._runs.get(target.name) is run:  # else a reload has closed it, and opens what is declared now
                    self.close([target.name], is_read)
                    self.open(target)

        return bool(damaged)

    def close(self, names: Collection[str], is_read: Callable[[], bool]) -> None:
        """End the targets called *names*; meanwhile they are shown as they are, and the others go on.

        No store is closed while *is_read* says that somebody may look into it.
        """
        with self._closing:
            self._close(names, is_read)

    def _close(self, names: Collection[str], is_read: Callable[[], bool]) -> None:
        for name in names:
            self._failed.pop(name, None)
        runs = [run for name in names if (run := self._runs.get(name))]
        stop_all(runs)
        while any(run.is_busy() for run in runs):
            if self._stop.wait(_POLL_S):
                return
        for run in runs:
            del self._runs[run.target.name]
        while is_read():
            time.sleep(_POLL_S)
        for run in runs:
            run.close()

    def why_idle(self, name: str) -> str:
        """Return why the target called *name* commits nothing now; nothing if it does."""
        run = self._runs.get(name)
        if name in self._failed or (run is not None and run.work.pipeline.halted is not None):
            return f"halted: `hubsync status {name}` says why"
        if run is not None and run.is_paused:
            return f"paused: nothing is published until `hubsync resume {name}`"

        return ""

    def why_closed(self, name: str) -> Answer:
        """Return what is to be said of the target called *name*, which cannot be looked into."""
        if (failed := self._failed.get(name)) is not None:
            return Answer(False, f"{name} could not be opened: {failed[0]}", failed[0].hint)
        busy = "its store is at work" if name in self._runs else "it is being opened"
        return Answer(
            False, f"{name} cannot be looked into: {busy}", f"`hubsync status {name}` says on what, and since when"
        )

    def describe(self, targets: Iterable[Target]) -> tuple[TargetStatus, ...]:
        """Return how those that run are, and those of *targets* that could not be opened."""
        running = [self._describe(run) for run in self.runs()]
        failed = [
            describe_unopened(target, *why) for target in targets if (why := self._failed.get(target.name)) is not None
        ]
        return (*running, *failed)

    def _describe(self, run: TargetRun) -> TargetStatus:
        if not run.is_free(_BUSY_S):  # who asks how it is must not wait for a git that hangs
            status = describe_busy(run.work, self._described.get(run.target.name))
        else:
            status = describe_target(
                run.work, mode=run.watcher.mode, is_paused=run.is_paused, watch_trouble=run.watcher.trouble
            )
        self._described[run.target.name] = status

        return status


def stop_all(runs: Collection[TargetRun]) -> None:
    """Stop *runs*, all at the same time."""
    for run in runs:
        run.interrupted.set()
    for run in runs:
        run.stop()


def _tell_halted(target: Target, exc: HubsyncError) -> None:
    log.error("target.halted", target=target.name, source=str(target.source), error=str(exc), error_kind=exc.error_kind,
              hint=exc.hint)  # fmt: skip


def expect_same_state(old: Config, new: Config) -> None:
    """Raise ConfigError if *new* has another state directory: what runs cannot move."""
    if new.service.state_dir != old.service.state_dir:
        raise ConfigError("service.state_dir cannot change while hubsync runs", hint="restart hubsync instead")


def relevant_to(target: Target, config: Config) -> tuple[object, ...]:
    """Return what a target's work depends on: if that changes, it starts anew; new rates are followed anyway."""
    endpoints = (config.endpoints[mirror.endpoint] for mirror in target.mirrors)
    service = config.service.model_copy(update={"hash_threads": 0, "read_rate": Rate(), "pressure": None})
    return (target, service, *(endpoint.model_copy(update={"upload_rate": Rate()}) for endpoint in endpoints))
