"""Owns what a Hub may still be asked: waits that it asked for, and commits in the last hour; kept in a file over restarts.

All mirrors of the process share one: a Hub counts requests by user and commits by repository, whatever targets they are
for. A file that cannot be read or written costs no more than what it remembers. It must never know why a mirror asks.
"""

import contextlib
import os
import threading
import time
from pathlib import Path

import msgspec

from hubsync.config.model import Endpoint, Mirror
from hubsync.mirror.pace import Pace

_LONGEST_S = 3600.0
_DAY_S = 86_400.0  # no wait is noted for longer; what seems to be was noted by a clock that was ahead


class _Notes(msgspec.Struct):
    """What the file holds; all times are seconds since the epoch."""

    not_before: dict[str, float] = {}  # by endpoint or repository
    commits_free_at: dict[str, float] = {}  # by repository, see Pace
    per_hour: dict[str, int] = {}  # by repository: the pace at which that was reckoned


class Limits:
    """The limits that are kept at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._notes = _read(path)

    def wait_s(self, *names: str) -> float:
        """Return for how long none of *names* (see ``endpoint_name``, ``repo_name``) may be asked."""
        now = time.time()
        return min(_LONGEST_S, max(0.0, *(self._left_s(name, now) for name in names)))

    def defer(self, name: str, wait_s: float) -> None:
        """Let nobody ask *name* for *wait_s* seconds."""
        now = time.time()
        with self._lock:
            until = now + max(min(_DAY_S, wait_s), self._left_s(name, now))
            kept = {each: time for each, time in self._notes.not_before.items() if time > now}
            self._notes.not_before = {**kept, name: until}
            self._write()

    def allow(self, *names: str) -> None:
        """Let *names* be asked at once."""
        with self._lock:
            if any(self._notes.not_before.pop(name, None) for name in names):
                self._write()

    def follow_clock(self, jumped_s: float) -> None:
        """Keep all waits as long as they were when the system clock was set by *jumped_s*."""
        with self._lock:
            for times in (self._notes.not_before, self._notes.commits_free_at):
                times.update({name: time + jumped_s for name, time in times.items()})
            self._write()

    def commits_left(self, repo: str, pace: Pace) -> int:
        """Return how many commits *repo* may get now."""
        return pace.left(self._free_at(repo, pace), time.time())

    def commit_wait_s(self, repo: str, pace: Pace) -> float:
        """Return the seconds until *repo* may get a commit."""
        return pace.wait_s(self._free_at(repo, pace), time.time())

    def count_commits(self, repo: str, pace: Pace, commits: int) -> None:
        """Count *commits* that *repo* got."""
        if not commits:
            return
        now = time.time()
        with self._lock:
            free_at = pace.take(self._free_at(repo, pace), now, commits)
            kept = {each: time for each, time in self._notes.commits_free_at.items() if time > now}
            self._notes.commits_free_at = {**kept, repo: free_at}
            self._notes.per_hour = {each: self._notes.per_hour.get(each, pace.per_hour) for each in kept} | {
                repo: pace.per_hour
            }
            self._write()

    def _left_s(self, name: str, now: float) -> float:
        left_s = self._notes.not_before.get(name, 0.0) - now
        return left_s if 0 < left_s <= _DAY_S else 0.0

    def _free_at(self, repo: str, pace: Pace) -> float:
        """Return when *repo* has its budget back: a changed ``max_commits_per_hour`` holds for what was made before it."""
        free_at = self._notes.commits_free_at.get(repo, 0.0)
        noted = self._notes.per_hour.get(repo, pace.per_hour)
        return free_at if noted == pace.per_hour else pace.convert(free_at, Pace(noted), time.time())

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk is said elsewhere
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(msgspec.json.encode(self._notes))
            new.replace(self._path)


def endpoint_name(endpoint: Endpoint) -> str:
    """Return what an endpoint's waits are kept under."""
    return endpoint.url


def repo_name(endpoint: Endpoint, mirror: Mirror) -> str:
    """Return what a repository's waits and commits are kept under."""
    return f"{endpoint.url} {mirror.repo_type} {mirror.repo_id}"


def _read(path: Path) -> _Notes:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Notes)
    except (OSError, msgspec.DecodeError):
        return _Notes()
