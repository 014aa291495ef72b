"""What the daemon tells beside its log, where the config asks for it: metrics, a call while all is well, commands.

Nothing waits for any of it. Each command has a thread and a short queue of its own;
what comes too fast is left out and said.
"""

import json
import logging
import os
import queue
import threading
import time
import urllib.request
from collections.abc import Iterable
from fnmatch import filter as filter_names
from http.client import HTTPException
from urllib.error import HTTPError

from hubsync.config.reports import EventCommand, Monitor
from hubsync.errors import HubsyncError
from hubsync.monitor.events import CATALOGUE
from hubsync.monitor.log import add_sink, name_of
from hubsync.monitor.logger import get_logger
from hubsync.monitor.metrics import draw_metrics
from hubsync.monitor.redact import register_secret
from hubsync.monitor.status import Status, replace_file
from hubsync.monitor.streak import Streaks
from hubsync.monitor.text import escape_unsafe
from hubsync.store.process import tell_command

_CALL_S = 10.0
_MOST_WAITING = 100
_MOST_CHARS = 1000  # of a variable
_SHOWN_CHARS = 200  # of what a command says
_OWN = frozenset(("command.failed", "command.recovered"))  # a failing command must not call itself
_PASSED_ON = ("PATH", "HOME", "LANG", "TZ")
_TOLD = ("event", "level", "message", "target", "mirror", "unit", "path", "error", "hint")

log = get_logger()


class OutputError(HubsyncError):
    """What was to be told could not be."""

    error_kind = "network"
    retryable = True


class Outputs:
    """All outputs of one daemon."""

    def __init__(self) -> None:
        self._monitor = Monitor()
        self._runners: list[CommandRunner] = []

    def use(self, monitor: Monitor) -> None:
        """Tell what *monitor* says, from now on; to be called whenever logging was configured."""
        if monitor.on_event != self._monitor.on_event:
            for runner in self._runners:
                runner.stop()
            self._runners = [CommandRunner(command) for command in monitor.on_event]
            for runner in self._runners:
                runner.start()
        self._monitor = monitor
        if monitor.heartbeat_url:
            register_secret(monitor.heartbeat_url)  # who knows it can feign health
        for runner in self._runners:
            add_sink(EventSink(runner))

    def write_metrics(self, status: Status) -> None:
        """Replace the file of metrics. Raises StateError."""
        if self._monitor.metrics_file is not None:
            replace_file(self._monitor.metrics_file, draw_metrics(status), 0o644)

    def call(self, status: Status) -> None:
        """Call the heartbeat's URL if all is in time. Raises OutputError."""
        url = self._monitor.heartbeat_url
        if url is None or not is_in_time(status, self._monitor.in_time_s):
            return
        try:
            with urllib.request.urlopen(url, timeout=_CALL_S):  # noqa: S310 - the config takes http and https only
                pass
        except HTTPError as exc:
            with exc:
                raise OutputError(f"heartbeat_url: {exc.code} {exc.reason}", hint="see whether it still exists") from None
        except (OSError, HTTPException, ValueError) as exc:
            raise OutputError(f"heartbeat_url: {exc}", hint="see whether it can be reached from here") from exc

    def stop(self, timeout_s: float) -> None:
        """Let commands take what they were told, for at most *timeout_s*."""
        deadline = time.monotonic() + timeout_s
        for runner in self._runners:
            runner.stop()
        for runner in self._runners:
            runner.join(max(0.0, deadline - time.monotonic()))


def is_in_time(status: Status, in_time_s: float) -> bool:
    """Tell whether no target is halted and no required mirror further behind than *in_time_s*."""
    required = (mirror for target in status.targets for mirror in target.mirrors if mirror.required)
    return all(target.state != "halted" for target in status.targets) and all(
        mirror.behind_s <= in_time_s for mirror in required
    )


class EventSink(logging.Handler):
    """Gives one command the lines that it is for; never waits."""

    def __init__(self, runner: "CommandRunner") -> None:
        super().__init__()
        self._runner = runner

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the line of *record* on."""
        if name_of(record) in self._runner.events:
            try:
                self._runner.take(self.format(record))
            except Exception:  # noqa: BLE001 - as in the other sinks: the work that is logged goes on
                self.handleError(record)


class CommandRunner(threading.Thread):
    """Runs one command of ``on_event``, for one line after the other."""

    def __init__(self, command: EventCommand) -> None:
        super().__init__(name=f"hubsync-command-{command.command[0]}", daemon=True)
        self.events = frozenset(match_events(command.events))
        self._command = command
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self._left_out = 0
        self._streaks = Streaks()

    def take(self, line: str) -> None:
        """Have the command run for *line*, unless too many wait."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._left_out += 1

    def stop(self) -> None:
        """End once all that waits is done; if too much waits, end after the next."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            self._lines.queue.clear()
            self._lines.put_nowait(None)

    def run(self) -> None:
        """Run the command until stopped."""
        while (line := self._lines.get()) is not None:
            entry = json.loads(line)
            error, kind = self._tell(line, entry)
            left_out, self._left_out = self._left_out, 0
            if left_out:
                error, kind = f"it is too slow, {left_out} were left out", "busy"
            self._note(str(entry["event"]), error, kind)

    def _tell(self, line: str, entry: dict[str, object]) -> tuple[str, str]:
        """Run the command once; return what went wrong and its kind, or nothing."""
        command = self._command
        try:
            done = tell_command(command.command, make_environment(entry), line.encode(), timeout_s=command.timeout_s)
        except HubsyncError as exc:
            return str(exc), exc.error_kind
        except OSError as exc:
            return str(exc.strerror), "local_io"
        if done.returncode == 0:
            return "", ""
        return f"exit code {done.returncode} {done.stderr.strip()[-_SHOWN_CHARS:]}".strip(), "exit"

    def _note(self, event: str, error: str, kind: str) -> None:
        name = self._command.command[0]
        if not error:
            if failures := self._streaks.end(name):
                log.info("command.recovered", command=name, failures=failures)
        elif failures := self._streaks.fail(name, kind):
            log.warning("command.failed", command=name, cause=event, error=error, error_kind=kind, failures=failures)


def match_events(patterns: Iterable[str]) -> set[str]:
    """Return the events that *patterns* name."""
    return {name for pattern in patterns for name in filter_names(CATALOGUE, pattern)} - _OWN


def make_environment(entry: dict[str, object]) -> dict[str, str]:
    """Return what a command sees: where programs are, and the entry's main fields. No token is in our environment."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    told = {name: escape_unsafe(str(entry[name]))[:_MOST_CHARS] for name in _TOLD if entry.get(name) is not None}
    return passed_on | {f"HUBSYNC_{name.upper()}": text for name, text in told.items()}
