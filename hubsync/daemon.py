"""Runs hubsync as a service: targets by schedule and by event, signals, the control socket, and what it says of itself."""

import contextlib
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime

from msgspec.structs import asdict

from hubsync import __version__
from hubsync.children import Children
from hubsync.config.load import load_config
from hubsync.config.model import Config, Target
from hubsync.control import ControlServer, Request
from hubsync.errors import ConfigError, HubsyncError, NotRunningError, StateError, UsageError
from hubsync.health import Health, Part, WallClock
from hubsync.jobs import Jobs, every
from hubsync.memory import bound_heaps
from hubsync.mirror.publish import Means
from hubsync.mirror.token import Tokens
from hubsync.mirror.uploads import declare_limit
from hubsync.monitor.log import configure_logging
from hubsync.monitor.logger import get_logger
from hubsync.monitor.status import DaemonState, DaemonStatus, LastError, Status, StatusFile, describe_rejected, elapsed_s
from hubsync.monitor.systemd import Notifier
from hubsync.open_targets import OpenTargets, expect_same_state, relevant_to, stop_all
from hubsync.outputs import Outputs
from hubsync.pauses import Pauses
from hubsync.presence import why_another
from hubsync.proof.prove import Means as ProofMeans
from hubsync.prune.job import PruneJob, ended_by
from hubsync.report import log_heartbeat, summarize
from hubsync.service import hold_state, open_limits, open_target, select_targets, tell_exposed_tokens
from hubsync.signals import Bell
from hubsync.store.hashing import declare_costs
from hubsync.store.objects import state_errors
from hubsync.target_run import LOOK_S, TargetRun
from hubsync.wait import News, Wish

_STATUS_DELAY_S = 1.0
_PROGRESS_S = 2.0  # how often the status follows an upload
_STOP_S = 5.0
_TOKENS_S = 2.0  # how often a failed mirror's token file is looked at
_STATE_S = 5.0  # how often the state directory is looked at
_POLL_S = 0.02
_HEAR_S = 0.5
_LOOK_S = 10.0  # how often the parts are looked at if no service manager says it
_IDLE_S = 300.0  # what a child may do nothing for, where a part has stalled for longer
_SCHEDULER_S = 60.0  # its patience then
_OPEN_S = 300.0  # that systemd allows for one store, which may have to be mended first
_LOST_HINT = "give the state directory back to the user that hubsync runs as; it goes on with it at the next start"
_MOST_THREADS = 1000  # made when they are needed; each mirror has one while it uploads, also those of a later config

log = get_logger()


class Daemon:
    """The service. ``run`` returns when it was told to stop."""

    def __init__(self, config: Config, environment: Mapping[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._notifier = Notifier(environment)
        self._tokens = Tokens(environment)
        self._limits = open_limits(config.service.state_dir)
        self._stop = threading.Event()
        self._bell = Bell()
        self._health = Health(self._list_parts)
        self._clock = WallClock()
        self._children = Children()
        self._news = News()
        self._jobs = Jobs(_MOST_THREADS)
        self._pauses = Pauses(config.service.state_dir / "paused")
        self._targets = OpenTargets(self._open, self._stop)
        self._outputs = Outputs()
        self._rejected: LastError | None = None
        self._lock_fd = -1
        self._pulse = time.monotonic()  # when a job last began in time
        self._started = datetime.now(UTC)
        self._state: DaemonState = "starting"
        self._reason = ""
        self._is_hurried = False  # a second signal came before all targets were open
        self._is_lost = False  # another file system was mounted over the state directory, or it was removed
        self._status_is_due = self._looks_at_tokens = False
        self._beaten: Status  # as it was at the last heartbeat
        self._status_file = StatusFile(config.service.state_dir / "status.json")

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        bound_heaps()
        self._bell.catch((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        with ExitStack() as stack:
            self._lock_fd = stack.enter_context(hold_state(self._config.service.state_dir))
            began = time.monotonic()
            self._outputs.use(self._config.monitor)
            declare_costs(self._config.service)
            log.info("daemon.started", version=__version__, config=str(self._config.path), pid=os.getpid(),
                     targets=len(self._config.targets), state_dir=str(self._config.service.state_dir),
                     python=platform.python_version())  # fmt: skip
            control = ControlServer(self._config.service.state_dir / "control.sock", self._obey, self._await)
            with state_errors():
                control.start()
            stack.callback(control.stop)
            self._jobs.add("pulse", self._beat_pulse, every((self._notifier.watchdog_interval_s or 2 * _LOOK_S) / 4))
            self._jobs.add("tokens", self._wake_mended, None)
            self._jobs.add("status", self._write_status, None)
            self._jobs.add("heartbeat", self._beat, every(self._config.log.heartbeat_s))
            self._jobs.add("metrics_file", lambda: self._outputs.write_metrics(self._beaten), None)
            self._jobs.add("heartbeat_url", lambda: self._outputs.call(self._beaten), None)
            self._jobs.add("children", lambda: self._children.end_hung(time.monotonic()), every(_LOOK_S))
            self._jobs.add("signals", self._hear, every(_HEAR_S))
            self._jobs.start()
            tell_exposed_tokens(self._config, self._tokens)
            for target in self._config.targets:
                self._notifier.extend_timeout(_OPEN_S)
                self._targets.open(target)
            for job in ("children", "signals"):  # from here on the main thread looks at them
                self._jobs.remove(job)
            self._jobs.add("reload", self._reload, None)
            self._jobs.add("state", self._look_at_state, every(_STATE_S))
            self._state = "running"
            self._notifier.ready()
            runs = self._targets.runs()
            log.info("daemon.ready", targets=len(runs), mirrors=sum(len(run.work.workers) for run in runs),
                     took_s=round(time.monotonic() - began, 3))  # fmt: skip
            self._note_change()
            self._wait()
            is_clean = self._shut_down()
        code = StateError.exit_code if self._is_lost else 0
        if not is_clean:  # what is left, such as a request that nobody answers, would hold up the interpreter's end
            os._exit(code)

        return code

    def _open(self, target: Target) -> TargetRun:
        stop = threading.Event()
        work = open_target(target, Means(self._config, self._tokens, self._limits, stop), self._lock_fd)
        prune = PruneJob(target, ProofMeans(self._config, self._tokens, stop, ended_by(stop)))
        return TargetRun(work, prune, stop, self._jobs, self._pauses, self._note_change)

    def _look_at_state(self) -> None:
        """Try again to open what could not be opened, or was damaged since; end if the state is not ours any more."""
        if why := why_another(self._config.service.state_dir / "lock", os.fstat(self._lock_fd)):
            self._is_lost, self._reason = True, f"{self._config.service.state_dir} {why}"
            self._bell.ring(signal.SIGTERM)
            return
        targets = self._config.targets
        if self._targets.open_again(targets) | self._targets.mend(targets, self._is_looked_at):
            self._note_change()

    def _is_looked_at(self) -> bool:
        """Tell whether a status or a heartbeat is being made, which looks into the stores."""
        return bool(self._jobs.running().keys() & {"status", "heartbeat"})

    def _wait(self) -> None:
        """Sleep until told to stop, feeding systemd's watchdog while all parts get on."""
        while not self._stop.is_set():
            for number in self._bell.wait(min(_LOOK_S, self._notifier.watchdog_interval_s or _LOOK_S)):
                if number == signal.SIGHUP:
                    self._jobs.wake("reload")
                else:
                    self._reason = self._reason or signal.Signals(number).name
                    self._stop.set()
            self._clock.look(self._follow_clock)
            is_well = self._health.is_well()
            self._children.end_hung(time.monotonic(), None if is_well else _IDLE_S)
            if is_well:
                self._notifier.watchdog()

    def _follow_clock(self, jumped_s: float) -> None:
        self._jobs.follow_clock(jumped_s)
        self._limits.follow_clock(jumped_s)

    def _hear(self) -> None:
        """Hear signals while the main thread opens targets, for which a git may hang; the second one ends that."""
        for number in self._bell.wait(0):
            if number == signal.SIGHUP:
                self._bell.ring(number)  # for later
                continue
            self._is_hurried = self._stop.is_set()
            self._reason = self._reason or signal.Signals(number).name
            self._stop.set()
        if self._is_hurried:
            self._children.end_all()

    def _list_parts(self) -> list[Part]:
        patience_s = self._notifier.watchdog_interval_s or _SCHEDULER_S
        scheduler = Part("scheduler", self._pulse if self._jobs.is_alive() else None, patience_s)
        return [scheduler, *(part for run in self._targets.runs() for part in run.parts())]

    def _beat_pulse(self) -> None:
        self._pulse = time.monotonic()

    def _shut_down(self) -> bool:
        """End all parts; return whether all of them ended in time, and nothing was given up."""
        began = time.monotonic()
        self._state = "stopping"
        self._notifier.stopping()
        log.info("daemon.stopping", reason=self._reason, grace_s=self._config.service.shutdown_grace_s,
                 hint=_LOST_HINT if self._is_lost else None)  # fmt: skip
        refused = (HubsyncError, OSError) if self._is_lost else ()  # of a lost state, anything may be
        runs = self._targets.last_runs()
        with contextlib.suppress(*refused):
            self._finish(runs, began + self._config.service.shutdown_grace_s)
        given_up = [] if self._is_lost else [step for run in runs for step in run.at_work()]
        if self._is_lost or given_up or not all(run.is_finished() for run in runs):  # one may hold what is asked for next
            for run in runs:
                run.interrupted.set()
            self._children.end_all()
        # From here on what is started only tells how it ended; nobody waits for one that hangs.
        self._children.end_all_until(is_over := threading.Event())
        unfinished: list[str] = []
        with contextlib.suppress(HubsyncError, *refused):
            unfinished += [left for run in runs for left in run.unfinished()]
        self._news.tell()
        stop_all(runs)
        clean = self._jobs.stop(_STOP_S) and not given_up
        self._state = "stopped"
        with contextlib.suppress(HubsyncError, *refused):  # a full disk is no reason to end unwell, and was said
            self._write_status(force=True)
        for run in runs:
            with contextlib.suppress(*refused):
                run.close()
        is_over.set()  # who is told of the end by a command may take longer
        uptime_s, took_s = round(elapsed_s(self._started, datetime.now(UTC))), round(time.monotonic() - began, 3)
        log.info("daemon.stopped", reason=self._reason, uptime_s=uptime_s, clean=clean, given_up=given_up,
                 unfinished=unfinished, took_s=took_s)  # fmt: skip
        self._outputs.stop(_STOP_S)
        return clean

    def _finish(self, runs: Collection[TargetRun], deadline: float) -> None:
        """Let what is settled get through before the end; a second signal, or *deadline*, ends that."""
        for run in runs:
            run.finish()
        while not self._is_hurried and time.monotonic() < deadline and not all(run.is_finished() for run in runs):
            if set(self._bell.wait(_POLL_S)) & {signal.SIGTERM, signal.SIGINT}:
                return
            self._children.end_stopped(time.monotonic())
            self._notifier.watchdog()

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
            self._outputs.use(new.monitor)
        except HubsyncError as exc:
            self._reject(exc)
        else:
            self._take_over(new, began)
        if not self._stop.is_set():
            self._notifier.ready()

    def _read_config(self) -> Config:
        """Return the config on disk. Raises ConfigError if it cannot be taken over."""
        new = load_config(self._config.path, self._environment)
        expect_same_state(self._config, new)
        return new

    def _reject(self, exc: HubsyncError) -> None:
        self._rejected = describe_rejected(exc, self._rejected.since if self._rejected else datetime.now(UTC))
        log.error("config.rejected", config=str(self._config.path), error=str(exc), error_kind=exc.error_kind,
                  hint=self._rejected.hint)  # fmt: skip
        self._note_change()

    def _take_over(self, new: Config, began: float) -> None:
        old, self._config, self._rejected = self._config, new, None
        tell_exposed_tokens(new, self._tokens)
        declare_costs(new.service)
        for endpoint in new.endpoints.values():
            declare_limit(endpoint)
        before = {target.name: relevant_to(target, old) for target in old.targets}
        after = {target.name: relevant_to(target, new) for target in new.targets}
        removed = sorted(before.keys() - after.keys())
        added = sorted(after.keys() - before.keys())
        changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
        self._targets.close((*removed, *changed), self._is_looked_at)
        for name in dict.fromkeys((*added, *changed, *self._targets.failed)):
            self._targets.open(new.target(name))
        for run in self._targets.runs():
            run.flush(makes_again=False)  # a repaired token or a new limit takes effect at once
        if new.log.heartbeat_s != old.log.heartbeat_s:
            self._jobs.add("heartbeat", self._beat, every(new.log.heartbeat_s))
        log.info("daemon.reloaded", config=str(new.path), added=added, removed=removed, changed=changed,
                 took_s=round(time.monotonic() - began, 3))  # fmt: skip
        self._note_change()

    def _wake_mended(self) -> None:
        """Look at the tokens of failed mirrors, and again soon while there are some."""
        runs = self._targets.runs()
        for run in runs:
            run.wake_mended()
        self._looks_at_tokens = any(worker.trouble for run in runs for worker in run.work.workers)
        if self._looks_at_tokens:
            self._jobs.wake("tokens", after_s=_TOKENS_S)

    def _obey(self, command: str, names: tuple[str, ...]) -> dict[str, object]:
        """Carry out what came over the control socket."""
        if command == "reload":
            return self._obey_reload()
        if command == "status":
            return {"status": self._status_file.newest()}
        act = _COMMANDS.get(command)
        if act is None:
            raise UsageError(f"unknown command {command!r}")
        targets = [target.name for target in select_targets(self._config, names)]
        idle = {name: why for name in targets if (why := self._targets.why_idle(name))} if command == "flush" else {}
        for name in targets:
            run = self._targets.find(name)
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

    def _await(self, request: Request, is_gone: Callable[[], bool]) -> dict[str, object]:
        """Answer a ``wait`` when what it asks for is published, cannot be, or its time is over."""
        wish = Wish(request.targets[0], request.options.get("unit"), request.options.get("mirror"))
        limit_s = request.options.get("limit_s")
        deadline = float("inf") if limit_s is None else time.monotonic() + float(limit_s)
        wait, owner = None, None
        while not self._stop.is_set() and not is_gone():
            seen = self._news.count()
            self._config.target(wish.target)  # a reload may have dropped it
            run = self._targets.find(wish.target)
            looked = None
            if run is not None and run.is_free(min(LOOK_S, deadline - time.monotonic())):
                if run is not owner:
                    wait, owner = run.begin_wait(wish), run
                looked = run.look(wait) if wait is not None else None
            answer, holds_s = looked or (self._targets.why_closed(wish.target), LOOK_S)
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
        daemon = DaemonStatus(os.getpid(), __version__, self._started, datetime.now(UTC), self._state, self._rejected,
                              self._config.mark, self._health.stalled())  # fmt: skip
        targets = self._targets.describe(self._config.targets)

        return Status(daemon, targets, sum(target.disk_held_bytes for target in targets))

    def _write_status(self, *, force: bool = False) -> None:
        self._status_is_due = False
        status = self._describe()
        if not self._status_file.write(status, force=force):
            self._note_change()  # it was too early; what changed since the last write is not lost
        self._notifier.status(summarize(status))
        if not self._looks_at_tokens and any(mirror.last_error for target in status.targets for mirror in target.mirrors):
            self._looks_at_tokens = True
            self._jobs.wake("tokens", after_s=_TOKENS_S)
        if any(target.being_read or any(mirror.transfer for mirror in target.mirrors) for target in status.targets):
            self._jobs.wake("status", after_s=_PROGRESS_S)

    def _beat(self) -> None:
        self._beaten = self._describe()
        try:
            self._status_file.write(self._beaten, force=True)  # who reads the heartbeat and then asks gets no older answer
        finally:  # also on a full disk
            log_heartbeat(self._beaten)
            self._jobs.wake("metrics_file")
            self._jobs.wake("heartbeat_url")


_COMMANDS: Mapping[str, Callable[[TargetRun], None]] = {
    "flush": TargetRun.flush,
    "pause": TargetRun.pause,
    "resume": TargetRun.resume,
    "verified": TargetRun.note_verified,
}
