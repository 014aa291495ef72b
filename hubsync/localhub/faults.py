"""Reads and counts the faults that this Hub shows on demand: which requests, and what happens to them.

A fault is one line: ``METHOD PATH ACTION...``. PATH is a pattern for the path as it is sent, in which ``*`` crosses ``/``.

    POST */info/lfs/objects/batch 503 times=2 retry-after=3
    PUT /_lfs/* reset-after=64KiB
    * * rate=1KB/s

``faulty`` carries them out; here is nothing but words and numbers.
"""

import re
import shlex
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any

from msgspec import Struct

from hubsync.config.units import parse_duration, parse_size
from hubsync.errors import UsageError

ACTIONS = """\
503, status=503    answer with this status, and do nothing else
header=Name:value  with this header (retry-after=3 is header=Retry-After:3)
body=garbage       with this body
redirect=URL       with a redirect there (307), path and query kept; redirect=other is this Hub by another name
delay=5s           wait first
stall              neither read nor answer until the client leaves; stall-after=64KiB: once so much has passed
reset              break the connection off; reset-after=64KiB: once so much has passed
rate=1KB/s         let bodies pass no faster, either way
truncate           end the answer's body in the middle; truncate=100: after 100 bytes
lose-answer        do what is asked, and break the connection off instead of answering
times=2            only so often; then the fault is over
after=3            let so many such requests pass first
"""
_STATUS = re.compile(r"[1-5]\d\d")
_GARBAGE = b"\x00\xff<html>{garbage"


class Fault(Struct, frozen=True):
    """What happens to which requests."""

    method: str
    path: str
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    redirect: str = ""
    delay_s: float = 0
    stall_after: int | None = None
    reset_after: int | None = None
    bytes_per_s: int | None = None
    truncate_after: int | None = None  # -1: half of the body
    loses_answer: bool = False
    times: int | None = None
    after: int = 0

    @property
    def answers(self) -> bool:
        """Whether the request is answered without being carried out."""
        return self.status is not None or self.body is not None or bool(self.redirect)

    def matches(self, method: str, path: str) -> bool:
        """Whether it is about such a request."""
        return self.method in ("*", method) and fnmatchcase(path, self.path)


def parse_fault(text: str) -> Fault:
    """Return the fault that *text* describes; raises UsageError."""
    try:
        return _read_fault(shlex.split(text))
    except ValueError as exc:
        hint = f'write METHOD PATH ACTION..., for example "PUT /_lfs/* 503 times=2". Actions:\n{ACTIONS}'
        raise UsageError(f"not a fault: {text!r}: {exc}", hint=hint) from exc


def _read_fault(words: list[str]) -> Fault:
    if len(words) < len(("METHOD", "PATH", "ACTION")):
        raise ValueError("a method, a path and an action are wanted")
    method, path, *actions = words
    settings: dict[str, Any] = {}
    for action in actions:
        _read_action(action, settings)

    return Fault(method.upper(), path, **settings)


def _read_action(action: str, settings: dict[str, Any]) -> None:
    if _STATUS.fullmatch(action):
        action = f"status={action}"
    name, _, value = action.partition("=")
    if name == "header":
        settings["headers"] = (*settings.get("headers", ()), _read_header(value))
    elif name == "retry-after":
        settings["headers"] = (*settings.get("headers", ()), ("Retry-After", value))
    elif name in _READERS:
        key, read = _READERS[name]
        settings[key] = read(value)
    else:
        raise ValueError(f"unknown action {action!r}")


def _read_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"a header is Name:value, not {text!r}")

    return name, value.strip()


def _read_bytes(text: str) -> int:
    if not text:
        return 0
    return int(text) if text.isdecimal() else parse_size(text)


def _read_rate(text: str) -> int:
    if not text.endswith("/s") or not (rate := parse_size(text.removesuffix("/s"))):
        raise ValueError(f"a rate is 1KB/s or the like, not {text!r}")

    return rate


def _read_status(text: str) -> int:
    return HTTPStatus(int(text)).value


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "status": ("status", _read_status),
    "body": ("body", lambda text: _GARBAGE if text == "garbage" else text.encode()),
    "redirect": ("redirect", str),
    "delay": ("delay_s", parse_duration),
    "stall": ("stall_after", _read_bytes),
    "stall-after": ("stall_after", _read_bytes),
    "reset": ("reset_after", _read_bytes),
    "reset-after": ("reset_after", _read_bytes),
    "rate": ("bytes_per_s", _read_rate),
    "truncate": ("truncate_after", lambda text: _read_bytes(text) if text else -1),
    "lose-answer": ("loses_answer", lambda _: True),
    "times": ("times", int),
    "after": ("after", int),
}


class ActiveFault(Struct):
    """A fault in force, and how often it was met and shown."""

    text: str
    fault: Fault
    met: int = 0
    shown: int = 0
    withdrawn: bool = False


class Faults:
    """The faults in force, the oldest first; a request meets the first that is about it and not over."""

    def __init__(self) -> None:
        self._active: list[ActiveFault] = []
        self._lock = threading.Lock()

    def add(self, text: str) -> ActiveFault:
        """Put a fault in force; raises UsageError."""
        active = ActiveFault(text, parse_fault(text))
        with self._lock:
            self._active.append(active)

        return active

    def clear(self) -> None:
        """Withdraw all; what is stalled is broken off."""
        with self._lock:
            for active in self._active:
                active.withdrawn = True
            self._active.clear()

    def list(self) -> tuple[ActiveFault, ...]:
        """Return all that were put in force and not withdrawn."""
        with self._lock:
            return tuple(self._active)

    def take(self, method: str, path: str) -> ActiveFault | None:
        """Return the fault that this request shall show, and count it."""
        with self._lock:
            for active in self._active:
                fault = active.fault
                if not fault.matches(method, path):
                    continue
                active.met += 1
                if active.met > fault.after and (fault.times is None or active.shown < fault.times):
                    active.shown += 1
                    return active

        return None
