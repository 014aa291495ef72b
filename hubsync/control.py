"""Owns the control socket: one JSON line in, one JSON line out, for the user that the daemon runs as (and root) only."""

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from hubsync.errors import ConfigError, HubsyncError, NotRunningError, StateError, UsageError
from hubsync.monitor.logger import get_logger
from hubsync.presence import ONCE_HINT, describe_once, find_owner

_MOST_BYTES = 65536
_MOST_ANSWERED_BYTES = 16 << 20  # a status of many targets
_TIMEOUT_S = 5.0
_PEER = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_REFUSALS = {error.error_kind: error for error in (ConfigError, NotRunningError, StateError, UsageError)}

log = get_logger()

Obey = Callable[[str, tuple[str, ...]], dict[str, object]]


class Request(Struct, frozen=True):
    """What was asked over the socket; *options* are those of ``wait``."""

    command: str
    targets: tuple[str, ...]
    options: dict[str, Any]


Await = Callable[[Request, Callable[[], bool]], dict[str, object]]  # the second says whether nobody waits any more


class ControlServer:
    """Listens at *path* and hands commands to *obey*, one at a time; each ``wait`` has a thread and ends with *answer*."""

    def __init__(self, path: Path, obey: Obey, answer: Await | None = None) -> None:
        self._path = path
        self._obey = obey
        self._await = answer
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen in a thread. A socket left by a killed daemon is replaced: the caller holds the lock."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _in_directory(self._path) as name:
            listener.bind(name)
        self._path.chmod(0o600)
        listener.listen()
        self._socket = listener
        threading.Thread(target=self._serve, name="hubsync-control", daemon=True).start()

    def stop(self) -> None:
        """Close the socket and remove it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        with contextlib.suppress(OSError):  # a state that may not be read any more; one that is left is replaced
            self._path.unlink()

    def _serve(self) -> None:
        assert self._socket is not None  # noqa: S101 - started
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(_TIMEOUT_S)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid not in {0, os.geteuid()}:
            return
        try:
            request = _parse(_read_line(connection))
        except HubsyncError as exc:
            _reply(connection, _refusal(exc))
            return
        if request.command != "status":  # which changes nothing, and may be asked for each second
            log.info("control.received", command=request.command, targets=list(request.targets), uid=uid, pid=pid)
        if request.command == "wait" and self._await is not None:
            held = connection.dup()  # the caller closes its own
            held.setblocking(False)  # an answer fits into the socket's buffer
            threading.Thread(target=self._hold, args=(held, request), name="hubsync-wait", daemon=True).start()
        else:
            _reply(connection, _answer_safely(lambda: self._obey(request.command, request.targets)))

    def _hold(self, connection: socket.socket, request: Request) -> None:
        """Answer a ``wait`` when it is over; nobody is told if the sender has gone."""
        assert self._await is not None  # noqa: S101 - asked before
        answer = self._await
        with contextlib.suppress(OSError), connection:
            _reply(connection, _answer_safely(lambda: answer(request, lambda: _is_gone(connection))))


def send_command(
    path: Path, command: str, targets: tuple[str, ...], *, timeout_s: float | None = _TIMEOUT_S, **options: object
) -> dict[str, Any]:
    """Send a command to the daemon that listens at *path* and return its answer, for which ``None`` waits for ever.

    Raises:
        NotRunningError: no daemon listens there, or it ended before it could answer.
        TimeoutError: it did not answer in time.
        HubsyncError: it refused; of the class that it raised, where the exit code depends on that.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            with _in_directory(path) as name:
                connection.connect(name)
            connection.sendall(json.dumps({"command": command, "targets": targets, "options": options}).encode() + b"\n")
            connection.settimeout(timeout_s)
            answer: dict[str, Any] = json.loads(_read_line(connection, _MOST_ANSWERED_BYTES))
    except TimeoutError:
        raise
    except (OSError, ValueError) as exc:
        if (owner := find_owner(path.parent)) is not None and owner.is_once:
            raise NotRunningError(describe_once(owner), hint=ONCE_HINT) from exc
        raise NotRunningError("no hubsync is running here", hint="start it: hubsync run") from exc
    if not answer.get("ok"):
        refusal = _REFUSALS.get(str(answer.get("error_kind")), HubsyncError)
        raise refusal(str(answer.get("error", "no answer")), hint=str(answer.get("hint", "")))

    return answer


@contextlib.contextmanager
def _in_directory(path: Path) -> Any:  # noqa: ANN401 - a context manager
    """Yield a short name for *path*: a socket's address holds 107 bytes, a state directory may be deeper."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def _answer_safely(work: Callable[[], dict[str, object]]) -> dict[str, object]:
    try:
        return {"ok": True, **work()}
    except HubsyncError as exc:
        return _refusal(exc)
    except Exception as exc:  # a bug in one command must not leave the daemon deaf
        log.exception("schedule.failed", job="control", error=f"{type(exc).__name__}: {exc}", error_kind="internal",
                      retryable=True)  # fmt: skip
        return {"ok": False, "error": "it failed; the daemon's log says more"}


def _refusal(exc: HubsyncError) -> dict[str, object]:
    return {"ok": False, "error": str(exc), "error_kind": exc.error_kind, "hint": exc.hint}


def _reply(connection: socket.socket, answer: dict[str, object]) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")


def _is_gone(connection: socket.socket) -> bool:
    """Tell whether the sender hung up; it says nothing more after its command."""
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _parse(line: bytes) -> Request:
    try:
        asked = json.loads(line)
        targets = tuple(str(name) for name in asked.get("targets", ()))
        return Request(str(asked["command"]), targets, dict(asked.get("options", {})))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise UsageError("not a command") from exc


def _read_line(connection: socket.socket, most: int = _MOST_BYTES) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < most:
        piece = connection.recv(65536)
        if not piece:
            break
        line += piece

    return line
