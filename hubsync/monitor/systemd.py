"""Tells the service manager how the daemon is doing, by the protocol of sd_notify(3).

Without a service manager every call does nothing. No call raises or waits: the manager is told, never asked.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping

from hubsync.monitor.redact import redact
from hubsync.monitor.text import escape_unsafe

_STATUS_EVERY_S = 5.0
_MAX_STATUS_CHARS = 400  # `systemctl status` shows one line


class Notifier:
    """Sends notifications to the socket that *environment* names."""

    def __init__(self, environment: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = _read_address(environment)
        self._clock = clock
        self._status = ""
        self._status_at: float | None = None
        self.watchdog_interval_s = _read_watchdog_interval(environment)
        """How often to call ``watchdog``: half of the time that the manager allows; ``None`` if it does not watch."""

    def ready(self) -> None:
        """Say that the daemon, or its reload, is ready."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that a reload begins; ``ready`` must follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._clock() * 1_000_000)}")

    def stopping(self) -> None:
        """Say that the daemon is ending."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Say that the daemon is alive; to be called only while all of its parts are."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for *seconds* more, from now, to start or to stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def status(self, text: str) -> None:
        """Show *text* in ``systemctl status``: only when it changed, and at most every five seconds."""
        line = escape_unsafe(redact(text))[:_MAX_STATUS_CHARS]
        now = self._clock()
        is_early = self._status_at is not None and now - self._status_at < _STATUS_EVERY_S
        if line == self._status or is_early:
            return

        self._status, self._status_at = line, now
        self._send(f"STATUS={line}")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return

        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError:  # the manager is gone or busy; there is nobody to tell
            return


def _read_address(environment: Mapping[str, str]) -> str | None:
    address = environment.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        return "\0" + address[1:]

    return address if address.startswith("/") else None


def _read_watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Return half of the watchdog's time, as sd_watchdog_enabled(3) advises, if it is meant for this process."""
    period, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not period.isdecimal() or int(period) == 0 or process not in {"", str(os.getpid())}:
        return None

    return int(period) / 2_000_000
