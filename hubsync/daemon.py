"""Runs hubsync as a service: targets by schedule and by event, signals, the control socket, and what it says of itself."""

import functools
import os
import platform
import queue
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime

import structlog

from hubsync import __version__
from hubsync.config.load import load_config
from hubsync.config.model import Config, Target
from hubsync.config.rates import Rate
from hubsync.control import ControlServer, Request
from hubsync.errors import ConfigError, DiskFullError, HubsyncError, NotRunningError, UsageError
from hubsync.jobs import Jobs, every, make_trigger
from hubsync.mirror.token import Tokens
from hubsync.mirror.uploads import declare_limit
from hubsync.mirror.worker import MirrorWorker
from hubsync.monitor.log import configure_logging
from hubsync.monitor.status import DaemonState, DaemonStatus, Status, StatusFile
from hubsync.monitor.systemd import Notifier
from hubsync.pauses import Pauses
from hubsync.report import describe_rejected, describe_target, describe_unopened, summarize
from hubsync.service import TargetWork, hold_state, open_target, select_targets
from hubsync.signals import Bell
from hubsync.store.process import StoppedError
from hubsync.wait import Answer, News, Wait, Wish
from hubsync.watch.mounts import network_file_system
from hubsync.watch.observer import SourceObserver

_PARKED_TRY_S = 3600.0
_CHECK_S = 10.0  # how often an observer is asked whether it lives
_STATUS_DELAY_S = 1.0
_STOP_S = 20.0
_LOOK_S = 5.0  # how often a wait looks without news: a unit may be abandoned, or its sender be gone
_LEAST_LOOK_S = 0.05
_TOKENS_S = 2.0  # how often a failed mirror's token file is looked at
_POLL_S = 0.02
_MOST_THREADS = 1000  # made when they are needed; each mirror has one while it uploads, also those of a later config

log = structlog.get_logger()


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
        self._is_down = False

    def stop(self) -> None:
        """End the thread and the observer."""
        self._stopping.set()
        self._events.put(("stop", ""))
        self.join(_STOP_S)

    def ask_inventory(self) -> None:
        """Have the whole source compared soon."""
        self._events.put(("tree", ""))

    def look_again(self) -> None:
        """Have the watch see what waits to settle by now."""
        self._events.put(("wake", ""))

    def run(self) -> None:
        """Watch until stopped."""
        try:
            with structlog.contextvars.bound_contextvars(target=self._work.target.name):
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
        try:
            step()
        except StoppedError:
            raise
        except DiskFullError as exc:
            self._log.error("schedule.failed", job="capture", error=str(exc), error_kind=exc.error_kind, hint=exc.hint)
            self._stopping.wait(_CHECK_S)
        except HubsyncError as exc:
            self._log.error("schedule.failed", job="watch", error=str(exc), error_kind=exc.error_kind, hint=exc.hint)
            self._stopping.wait(1)
        except Exception as exc:  # noqa: BLE001 - a bug must not end the watch
            self._log.exception("schedule.failed", job="watch", error=str(exc), error_kind="internal", retryable=True)
            self._stopping.wait(1)

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
        trees = [path for kind, path in batch if kind == "tree"]
        if "" in trees:
            self._work.pipeline.take_inventory()
            self._on_news()
            return
        for tree in _topmost(trees):
            self._work.pipeline.take_inventory(tree)
        for kind, path in batch:
            if kind == "path":
                self._work.pipeline.note(path)

    def _settle(self) -> None:
        settled = self._work.pipeline.settle()
        if settled.units:
            self._work.pipeline.commit(units_only=True)
        if settled.units or settled.early:
            self._on_news()

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
        try:
            observer.start()
        except HubsyncError as exc:
            self._note_down(str(exc), exc.hint)
            return
        self._observer, self.mode = observer, "events"
        if self._is_down:
            self._is_down = False
            self._log.info("watch.recovered", source=str(source), mode=self.mode)
        else:
            self._log.info("watch.started", source=str(source), mode=self.mode)

    def _note_trouble(self, kind: str, facts: Mapping[str, object]) -> None:
        if kind == "overflowed":
            self._log.warning("watch.overflowed", source=str(self._work.target.source))
            self._events.put(("tree", ""))
        else:
            self._log.warning("watch.degraded", source=str(self._work.target.source), mode="events",
                              reason=facts.get("reason", kind), directories=facts.get("directories"),
                              unwatched=facts.get("unwatched"), limit=facts.get("limit"),
                              hint=facts.get("hint"))  # fmt: skip

    def _note_down(self, reason: str, hint: str = "") -> None:
        self.mode = "inventory"
        if not self._is_down:
            self._is_down = True
            self._log.warning("watch.degraded", source=str(self._work.target.source), mode=self.mode, reason=reason,
                              hint=hint)  # fmt: skip

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


class TargetRun:
    """A target that runs: its watcher and its jobs."""

    def __init__(
        self, work: TargetWork, stop: threading.Event, jobs: Jobs, pauses: Pauses, on_change: Callable[[], None]
    ) -> None:
        self.work = work
        self.interrupted = stop
        self.watcher = Watcher(work, self.wake_mirrors)
        self._pauses = pauses
        self._jobs = jobs
        self._on_change = on_change
        self._looking = threading.Lock()  # held while a wait looks: the store must not be closed meanwhile

    @property
    def target(self) -> Target:
        """The target's declaration."""
        return self.work.target

    @property
    def is_paused(self) -> bool:
        """Whether nothing is committed or published until ``resume``."""
        return self.target.name in self._pauses

    def is_well(self) -> bool:
        """Tell whether the watch goes on, or was told to stop."""
        return self.watcher.is_alive() or self.interrupted.is_set()

    def is_busy(self) -> bool:
        """Tell whether a commit or a publication runs."""
        name = self.target.name
        return any(job == f"commit:{name}" or job.startswith(f"push:{name}/") for job in self._jobs.running())

    def start(self) -> None:
        """Watch, and run by schedule."""
        name = self.target.name
        if self.is_paused:
            self._tell_paused()
        self._jobs.add(f"commit:{name}", self.commit, make_trigger(self.target))
        self._jobs.add(f"inventory:{name}", self.watcher.ask_inventory, every(self.target.inventory_every_s))
        for worker in self.work.workers:
            push = functools.partial(self._push, worker)
            self._jobs.add(self._push_name(worker), push, every(_PARKED_TRY_S), at_once=True)
        self.watcher.start()

    def stop(self) -> None:
        """Stop watching, end the steps that run, and forget the jobs; the stores stay open until ``close``."""
        self.interrupted.set()
        self._jobs.remove(f"commit:{self.target.name}")
        self._jobs.remove(f"inventory:{self.target.name}")
        for worker in self.work.workers:
            self._jobs.remove(self._push_name(worker))
        self.watcher.stop()

    def close(self) -> None:
        """Close the store, after ``stop``."""
        with self._looking:
            self.work.close()

    def begin_wait(self, wish: Wish) -> Wait | None:
        """Begin a wait with what is there now; return ``None`` if this run has ended. Backoffs end, as by ``flush``."""
        with self._looking:
            if self.interrupted.is_set():
                return None
            wait = Wait(self.work, wish)
            wait.begin()
        self.watcher.look_again()
        self._end_backoff()
        self.wake_mirrors()

        return wait

    def look(self, wait: Wait) -> tuple[Answer, float] | None:
        """Return how far *wait* is, and for how many seconds that holds without news; ``None`` if this run has ended."""
        with self._looking:
            if self.interrupted.is_set():
                return None
            answer = wait.look()
            due = self.work.pipeline.next_due()
        if self.is_paused and not answer.final:
            answer = Answer(False, f"{self.target.name} is paused", f"hubsync resume {self.target.name}", final=True)
        if answer.hasten:
            self._jobs.wake(f"commit:{self.target.name}")

        return answer, _LOOK_S if due is None else max(_LEAST_LOOK_S, min(_LOOK_S, due - time.monotonic()))

    def commit(self) -> None:
        """Commit what is settled, then let the mirrors go."""
        if self.is_paused:
            return
        with structlog.contextvars.bound_contextvars(target=self.target.name):
            self.work.pipeline.commit()
        self.watcher.look_again()  # a file that was still being written must become quiet anew
        self.wake_mirrors()

    def flush(self) -> None:
        """Commit and publish now, whatever wait is on."""
        self._end_backoff()
        self._jobs.wake(f"commit:{self.target.name}")

    def _end_backoff(self) -> None:
        for worker in self.work.workers:
            if worker.trouble is not None:
                worker.trouble.next_try = 0.0

    def pause(self) -> None:
        """Commit and publish nothing until ``resume``, also after a restart."""
        self._pauses.add(self.target.name)
        self._tell_paused()
        self._on_change()

    def resume(self) -> None:
        """Go on, with all that waits."""
        if self.is_paused:
            self._pauses.discard(self.target.name)
            log.info("target.resumed", target=self.target.name, source=str(self.target.source))
        self.flush()
        self._on_change()

    def wake_mended(self) -> None:
        """Let mirrors try again whose token was replaced since they failed."""
        for worker in self.work.workers:
            if worker.has_new_token() and not worker.is_running:
                self._jobs.wake(self._push_name(worker))

    def _tell_paused(self) -> None:
        log.warning("target.paused", target=self.target.name, source=str(self.target.source),
                    hint=f"hubsync resume {self.target.name}")  # fmt: skip

    def wake_mirrors(self) -> None:
        """Let every mirror see whether there is something to publish."""
        for worker in self.work.workers:
            if worker.wait_s() <= 0:
                self._jobs.wake(self._push_name(worker))
        self._on_change()

    def _push(self, worker: MirrorWorker) -> None:
        if self.is_paused:
            return
        worker.run()
        self.work.release()
        if worker.trouble is not None:
            self._jobs.wake(self._push_name(worker), after_s=max(0.1, worker.wait_s()))
        self._on_change()

    def _push_name(self, worker: MirrorWorker) -> str:
        return f"push:{self.target.name}/{worker.mirror.name}"


class Daemon:
    """The service. ``run`` returns when it was told to stop."""

    def __init__(self, config: Config, environment: Mapping[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._notifier = Notifier(environment)
        self._tokens = Tokens(environment)
        self._stop = threading.Event()
        self._bell = Bell()
        self._news = News()
        self._jobs = Jobs(_MOST_THREADS)
        self._pauses = Pauses(config.service.state_dir / "paused")
        self._runs: dict[str, TargetRun] = {}
        self._unopened: dict[str, HubsyncError] = {}
        self._rejected: HubsyncError | None = None
        self._opening = threading.Lock()  # nothing is opened once the daemon is told to stop
        self._lock_fd = -1
        self._started = datetime.now(UTC)
        self._state: DaemonState = "starting"
        self._reason = ""
        self._status_is_due = False
        self._status_file = StatusFile(config.service.state_dir / "status.json")

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        self._bell.catch((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        with ExitStack() as stack:
            self._lock_fd = stack.enter_context(hold_state(self._config.service.state_dir))
            began = time.monotonic()
            log.info("daemon.started", version=__version__, config=str(self._config.path), pid=os.getpid(),
                     targets=len(self._config.targets), state_dir=str(self._config.service.state_dir),
                     python=platform.python_version())  # fmt: skip
            control = ControlServer(self._config.service.state_dir / "control.sock", self._obey, self._await)
            control.start()
            stack.callback(control.stop)
            self._jobs.add("status", self._write_status, None)
            self._jobs.add("heartbeat", self._beat, every(self._config.log.heartbeat_s))
            self._jobs.start()
            for target in self._config.targets:
                self._open(target)
            self._jobs.add("reload", self._reload, None)
            self._jobs.add("tokens", self._wake_mended, every(_TOKENS_S))
            self._state = "running"
            self._notifier.ready()
            log.info("daemon.ready", targets=len(self._runs), mirrors=sum(len(r.work.workers) for r in self._runs.values()),
                     took_s=round(time.monotonic() - began, 3))  # fmt: skip
            self._note_change()
            self._wait()
            is_clean = self._shut_down()
        if not is_clean:  # what is left, such as a request that nobody answers, would hold up the interpreter's end
            os._exit(0)

        return 0

    def _open(self, target: Target) -> None:
        """Open one target; one that cannot be opened stops no other."""
        stop = threading.Event()
        with self._opening:
            if self._stop.is_set():
                return
            self._unopened.pop(target.name, None)
            try:
                work = open_target(target, self._config, self._tokens, stop, self._lock_fd)
            except HubsyncError as exc:
                self._unopened[target.name] = exc
                _tell_halted(target, exc)
                return
            run = TargetRun(work, stop, self._jobs, self._pauses, self._note_change)
            self._runs[target.name] = run
            run.start()

    def _wait(self) -> None:
        """Sleep until told to stop, feeding systemd's watchdog while all parts get on."""
        while not self._stop.is_set():
            for number in self._bell.wait(self._notifier.watchdog_interval_s):
                if number == signal.SIGHUP:
                    self._jobs.wake("reload")
                else:
                    self._reason = signal.Signals(number).name
                    self._stop.set()
            if self._is_healthy():
                self._notifier.watchdog()

    def _is_healthy(self) -> bool:
        return self._jobs.is_alive() and all(run.is_well() for run in list(self._runs.values()))

    def _shut_down(self) -> bool:
        """End all parts; return whether all of them ended in time."""
        began = time.monotonic()
        self._state = "stopping"
        self._notifier.stopping()
        log.info("daemon.stopping", reason=self._reason, grace_s=self._config.service.shutdown_grace_s)
        with self._opening:  # a reload that opens one at this moment
            runs = list(self._runs.values())
        self._news.tell()
        _stop_all(runs)
        clean = self._jobs.stop(self._config.service.shutdown_grace_s)
        self._state = "stopped"
        self._write_status(force=True)
        for run in runs:
            run.close()
        log.info("daemon.stopped", reason=self._reason, uptime_s=round((datetime.now(UTC) - self._started).total_seconds()),
                 clean=clean, took_s=round(time.monotonic() - began, 3))  # fmt: skip

        return clean

    # --- signals and control

    def _reload(self) -> None:
        """Take over a changed config; a bad one is rejected whole and the old one stays.

        It is a job of its own: to close a target may take as long as a request that nobody answers.
        """
        self._notifier.reloading()
        began = time.monotonic()
        try:
            new = self._read_config()
            configure_logging(level=new.log.level, log_format=new.log.format, file=new.log.file,
                              environment=self._environment)  # fmt: skip
        except HubsyncError as exc:
            self._reject(exc)
        else:
            self._take_over(new, began)
        if not self._stop.is_set():
            self._notifier.ready()

    def _read_config(self) -> Config:
        """Return the config on disk. Raises ConfigError if it cannot be taken over."""
        new = load_config(self._config.path, self._environment)
        _expect_same_state(self._config, new)

        return new

    def _reject(self, exc: HubsyncError) -> None:
        self._rejected = exc
        log.error("config.rejected", config=str(self._config.path), error=str(exc), error_kind=exc.error_kind,
                  hint=exc.hint or "the old config stays in force")  # fmt: skip
        self._note_change()

    def _take_over(self, new: Config, began: float) -> None:
        old, self._config, self._rejected = self._config, new, None
        for endpoint in new.endpoints.values():
            declare_limit(endpoint)
        before = {target.name: _relevant(target, old) for target in old.targets}
        after = {target.name: _relevant(target, new) for target in new.targets}
        removed = sorted(before.keys() - after.keys())
        added = sorted(after.keys() - before.keys())
        changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
        self._close((*removed, *changed))
        for name in dict.fromkeys((*added, *changed, *self._unopened)):
            self._open(new.target(name))
        for run in list(self._runs.values()):
            run.flush()  # a repaired token or a new limit takes effect at once
        if new.log.heartbeat_s != old.log.heartbeat_s:
            self._jobs.add("heartbeat", self._beat, every(new.log.heartbeat_s))
        log.info("daemon.reloaded", config=str(new.path), added=added, removed=removed, changed=changed,
                 took_s=round(time.monotonic() - began, 3))  # fmt: skip
        self._note_change()

    def _close(self, names: Collection[str]) -> None:
        """End the targets called *names*; meanwhile they are shown as they are, and the others go on."""
        for name in names:
            self._unopened.pop(name, None)
        runs = [run for name in names if (run := self._runs.get(name))]
        _stop_all(runs)
        while any(run.is_busy() for run in runs):
            if self._stop.wait(_POLL_S):
                return
        for run in runs:
            del self._runs[run.target.name]
        while self._jobs.running().keys() & {"status", "heartbeat"}:  # they may look into the stores
            time.sleep(_POLL_S)
        for run in runs:
            run.close()

    def _wake_mended(self) -> None:
        for run in list(self._runs.values()):
            run.wake_mended()

    def _obey(self, command: str, names: tuple[str, ...]) -> dict[str, object]:
        """Carry out what came over the control socket."""
        if command == "reload":
            return self._obey_reload()
        act = _COMMANDS.get(command)
        if act is None:
            raise UsageError(f"unknown command {command!r}")
        targets = [target.name for target in select_targets(self._config, names)]
        idle = {name: why for name in targets if (why := self._why_idle(name))} if command == "flush" else {}
        for name in targets:
            run = self._runs.get(name)
            if run is not None:
                act(run)

        return {"targets": [name for name in targets if name not in idle], "idle": idle}

    def _obey_reload(self) -> dict[str, object]:
        """Say at once what is wrong with the config; what takes its time is done by the job."""
        try:
            self._read_config()
        except ConfigError as exc:
            self._reject(exc)
            raise
        self._bell.ring(signal.SIGHUP)

        return {"targets": [], "done": "the config is valid and is being taken over"}

    def _why_idle(self, name: str) -> str:
        """Return why the target called *name* commits nothing now; nothing if it does."""
        run = self._runs.get(name)
        if name in self._unopened or (run is not None and run.work.pipeline.halted is not None):
            return f"halted: `hubsync status {name}` says why"
        if run is not None and run.is_paused:
            return f"paused: nothing is published until `hubsync resume {name}`"

        return ""

    def _await(self, request: Request, is_gone: Callable[[], bool]) -> dict[str, object]:
        """Answer a ``wait`` when what it asks for is published, cannot be, or its time is over."""
        wish = Wish(request.targets[0], request.options.get("unit"), request.options.get("mirror"))
        limit_s = request.options.get("limit_s")
        deadline = float("inf") if limit_s is None else time.monotonic() + float(limit_s)
        wait, owner = None, None
        while not self._stop.is_set() and not is_gone():
            seen = self._news.count()
            self._config.target(wish.target)  # a reload may have dropped it
            run = self._runs.get(wish.target)
            if run is not None and run is not owner:
                wait, owner = run.begin_wait(wish), run
            looked = run.look(wait) if run is not None and wait is not None else None
            answer, holds_s = looked or (Answer(False, f"{wish.target} is not open; the log says why"), _LOOK_S)
            left_s = deadline - time.monotonic()
            if answer.final or left_s <= 0:
                return asdict(answer)
            self._news.wait_after(seen, min(left_s, holds_s))

        raise NotRunningError("hubsync is stopping")

    # --- what it says of itself

    def _note_change(self) -> None:
        """Tell who waits, and have the status written soon; changes until then are in it."""
        self._news.tell()
        if not self._status_is_due:
            self._status_is_due = True
            self._jobs.wake("status", after_s=_STATUS_DELAY_S)

    def _describe(self) -> Status:
        now = datetime.now(UTC)
        rejected = describe_rejected(self._rejected) if self._rejected else None
        daemon = DaemonStatus(os.getpid(), __version__, self._started, now, self._state, rejected)
        targets = tuple(
            describe_target(run.work, mode=run.watcher.mode, is_paused=run.is_paused) for run in list(self._runs.values())
        ) + tuple(
            describe_unopened(target, exc)
            for target in self._config.targets
            if (exc := self._unopened.get(target.name)) is not None
        )
        return Status(daemon, targets, sum(target.disk_held_bytes for target in targets))

    def _write_status(self, *, force: bool = False) -> None:
        self._status_is_due = False
        status = self._describe()
        if not self._status_file.write(status, force=force):
            self._note_change()  # it was too early; what changed since the last write is not lost
        self._notifier.status(summarize(status))

    def _beat(self) -> None:
        status = self._describe()
        for target in status.targets:
            behind = max((mirror.behind_s for mirror in target.mirrors), default=0.0)
            log.info(
                "heartbeat", target=target.name, state=target.state, newest_unit_local=target.newest_unit_local,
                newest_unit_published={mirror.name: mirror.newest_unit_published for mirror in target.mirrors},
                backlog_files=max((mirror.backlog_files for mirror in target.mirrors), default=0),
                backlog_bytes=max((mirror.backlog_bytes for mirror in target.mirrors), default=0),
                oldest_unpublished_s=round(behind, 1), disk_held_bytes=target.disk_held_bytes,
                settled=target.settled, held=target.held,
                mirrors_ok=sum(mirror.state in {"ok", "publishing"} for mirror in target.mirrors),
                mirrors_failing=sum(mirror.state not in {"ok", "publishing"} for mirror in target.mirrors),
                uptime_s=round((status.daemon.updated_at - self._started).total_seconds()),
            )  # fmt: skip
        self._status_file.write(status)


_COMMANDS: Mapping[str, Callable[[TargetRun], None]] = {
    "flush": TargetRun.flush,
    "pause": TargetRun.pause,
    "resume": TargetRun.resume,
}


def _expect_same_state(old: Config, new: Config) -> None:
    if new.service.state_dir != old.service.state_dir:
        raise ConfigError("service.state_dir cannot change while hubsync runs", hint="restart hubsync instead")


def _stop_all(runs: Collection[TargetRun]) -> None:
    for run in runs:
        run.interrupted.set()
    for run in runs:
        run.stop()


def _tell_halted(target: Target, exc: HubsyncError) -> None:
    log.error("target.halted", target=target.name, source=str(target.source), error=str(exc), error_kind=exc.error_kind,
              hint=exc.hint)  # fmt: skip


def _topmost(directories: list[str]) -> list[str]:
    """Return *directories* without those that lie below another one of them."""
    top: list[str] = []
    for directory in sorted(set(directories)):
        if not top or not directory.startswith(f"{top[-1]}/"):
            top.append(directory)

    return top


def _relevant(target: Target, config: Config) -> tuple[object, ...]:
    """Return what a target's work depends on: if it changes, the target starts anew; uploads follow a new rate anyway."""
    endpoints = (config.endpoints[mirror.endpoint] for mirror in target.mirrors)
    return (target, config.service, *(endpoint.model_copy(update={"upload_rate": Rate()}) for endpoint in endpoints))
