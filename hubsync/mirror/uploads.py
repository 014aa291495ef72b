"""Has git-lfs upload through our transfer agent: what it is started with, how far it is, and what came of each object.

The allowance of an endpoint is one for the process, whatever targets and mirrors it serves.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hubsync.config.model import Endpoint
from hubsync.config.rates import Rate
from hubsync.errors import MirrorError
from hubsync.mirror.agent_handover import VARIABLE, Order, Report, Thing, write_things
from hubsync.mirror.failures import is_refusal, read_failure
from hubsync.monitor.logger import get_logger
from hubsync.monitor.status import Transfer
from hubsync.store.hashing import shared
from hubsync.store.throttle import Throttle, open_allowance

_STEPS = 20  # at most so many lines for one upload, however often it is tried again
_SAY_AFTER_S, _SAY_EVERY_S = 30.0, 900.0  # each wait is twice the one before: a slow mirror must not fill the log
_AGENT = "hubsync"

log = get_logger()


class UploadError(MirrorError):
    """Not all objects were uploaded; the kind is that of the failure that tells most: the mirror's own, else a file's.

    Attributes:
        uploaded: the oids that the mirror has now.
        refused: what went wrong with those objects that failed by themselves, oid → failure.
        is_general: whether something went wrong that is no matter of one object.
    """

    def __init__(self, telling: MirrorError, uploaded: frozenset[str], refused: Mapping[str, MirrorError]) -> None:
        super().__init__(
            str(telling),
            error_kind=telling.error_kind,
            retryable=telling.retryable,
            hint=telling.hint,
            retry_after_s=telling.retry_after_s,
        )
        self.retry_at = telling.retry_at
        self.is_general = telling not in refused.values()
        self.uploaded = uploaded
        self.refused = refused


class Limit:
    """How fast one endpoint may be uploaded to: the declared timetable, kept in force by whoever uploads."""

    def __init__(self) -> None:
        self.rate = Rate()
        self.fd = open_allowance()
        self._throttle = Throttle(self.fd)

    @property
    def throttle(self) -> Throttle:
        """What makes those wait who upload from this process."""
        return self._throttle

    def keep(self) -> None:
        """Put in force what the timetable says of this minute."""
        now = time.localtime()
        self._throttle.set_rate(self.rate.rate_at(now.tm_wday, now.tm_hour * 60 + now.tm_min))


_LIMITS: dict[tuple[str, str], Limit] = {}
_LIMITS_LOCK = threading.Lock()


def find_limit(endpoint: Endpoint) -> Limit:
    """Return the limit of *endpoint*, which all who upload to it share."""
    key = (endpoint.name, endpoint.url)
    with _LIMITS_LOCK:
        if key not in _LIMITS:
            _LIMITS[key] = Limit()
        return _LIMITS[key]


def declare_limit(endpoint: Endpoint) -> None:
    """Set how fast *endpoint* may be uploaded to; uploads that are under way follow."""
    limit = find_limit(endpoint)
    limit.rate = endpoint.upload_rate
    limit.keep()


class Told:
    """How far the uploads to one mirror were said to be: a try that gets no further than those before it is not news."""

    def __init__(self) -> None:
        self._bytes = 0

    def is_news(self, there: int, total: int) -> bool:
        """Tell whether *there* of *total* bytes is worth a line, and note that it is said."""
        if there < self._bytes + total / _STEPS:
            return False
        self._bytes = there

        return True

    def forget(self) -> None:
        """Begin anew: something arrived."""
        self._bytes = 0


class Gauge:
    """How far the upload of *files* with *total* bytes is; says so now and then, unless that was *told* before."""

    def __init__(self, files: int, total: int, told: Told) -> None:
        self._told = told
        self._files = files
        self._total = total
        self._began = time.monotonic()
        self._say_at = self._began + _SAY_AFTER_S
        self.seen: Transfer | None = None
        """How far it was when it was looked at last."""

    def note(self, sent: int, there: int = 0) -> None:
        """Note that *sent* bytes were sent so far, and that the mirror has *there* of all."""
        now = time.monotonic()
        there = min(max(sent, there), self._total)
        bytes_per_s = sent / max(0.001, now - self._began)
        left_s = round((self._total - there) / bytes_per_s) if bytes_per_s else None
        self.seen = Transfer(self._files, self._total, there, round(bytes_per_s), left_s)
        if now >= self._say_at and self._told.is_news(there, self._total):
            self._say_at = now + min(now - self._began, _SAY_EVERY_S)
            log.info("upload.progressed", sent_bytes=there, bytes=self._total, files=self._files,
                     bytes_per_s=self.seen.bytes_per_s, left_s=left_s)  # fmt: skip


class Upload:
    """The upload of *things* to one mirror by one run of git-lfs."""

    def __init__(
        self, endpoint: Endpoint, things: Sequence[Thing], uploads_dir: Path, connect_s: float, told: Told
    ) -> None:
        self.on_there: Callable[[str], object] = lambda _: None
        """Is called with the oid of each object that has arrived, while the others are under way."""
        self._there: set[str] = set()
        self._endpoint = endpoint
        self._things = things
        self._uploads_dir = uploads_dir
        self._connect_s = connect_s
        self._limit = find_limit(endpoint)
        self._report: Report
        self._told = told
        self.gauge = Gauge(len(things), sum(thing.size for thing in things), told)

    @contextlib.contextmanager
    def order(self, lfs_url: str, credential_fd: int | None) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
        """Yield (environment, descriptors to pass) for a run of git-lfs that starts the agent."""
        self._report = Report()
        things_fd = write_things(self._things)
        fds = (things_fd, self._report.fd, self._limit.fd, shared().fd)
        try:
            order = Order(lfs_url, str(self._uploads_dir), self._endpoint.stall_s, self._connect_s, credential_fd, *fds)
            yield {VARIABLE: order.encode()}, fds
            self._report.read()
        finally:
            if self._report.done:
                self._told.forget()
            os.close(things_fd)
            self._report.close()

    def progress(self) -> object:
        """Return a figure that changes while it gets on; say now and then how far it is."""
        self._limit.keep()
        shared().keep()
        figure = self._report.read()
        sent, _, _ = self._report.moved
        self.gauge.note(sent, sum(thing.size for thing in self._things if thing.oid in self._report.done))
        for oid in self._report.done - self._there:
            self.on_there(oid)
        self._there |= self._report.done

        return figure

    def read_failure(self, doing: str, said: str) -> MirrorError:
        """Return what went wrong, from the agent's report, else from what git-lfs *said*."""
        refused = {oid: (why, read_failure(doing, why.said)) for oid, why in self._report.refused.items()}
        own = {oid: failure for oid, (why, failure) in refused.items() if not why.is_general}
        general = (failure for why, failure in refused.values() if why.is_general)
        # What is wrong with the mirror tells more than what is wrong with a file.
        telling = next(general, None) or min(own.values(), key=_tells, default=None) or read_failure(doing, said)

        return UploadError(telling, frozenset(self._report.done), own)


def _tells(failure: MirrorError) -> bool:
    """Order the failures of single objects: first those that are the mirror's."""
    return is_refusal(failure) or failure.error_kind == "spoiled"


def agent_config() -> dict[str, str]:
    """Return git config that makes git-lfs upload through the agent; ``-I``: nothing beside hubsync's own packages."""
    prefix = f"lfs.customtransfer.{_AGENT}"
    return {
        "lfs.standalonetransferagent": _AGENT,
        f"{prefix}.path": sys.executable,
        f"{prefix}.args": "-I -m hubsync.mirror.agent",
        f"{prefix}.concurrent": "false",
        f"{prefix}.direction": "upload",
    }
