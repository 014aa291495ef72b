"""Uploads objects to one mirror by the LFS API, several at once: how far that is, and what came of each.

The allowance of an endpoint is one for the process, whatever targets and mirrors it serves.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from hubsync.config.model import Endpoint
from hubsync.config.rates import Rate
from hubsync.errors import MirrorError
from hubsync.mirror.agent_batch import Batch, Thing
from hubsync.mirror.agent_client import Client, TransferError
from hubsync.mirror.agent_upload import Costs, Uploader
from hubsync.mirror.failures import read_failure
from hubsync.monitor.logger import get_logger
from hubsync.monitor.status import Transfer
from hubsync.priority import stand_back_further
from hubsync.store.hashing import shared
from hubsync.store.process import StoppedError
from hubsync.store.throttle import Throttle

_STEPS = 20  # at most so many lines for one upload, however often it is tried again
_SAY_AFTER_S, _SAY_EVERY_S = 30.0, 900.0  # each wait is twice the one before: a slow mirror must not fill the log
_OBJECTS_AT_ONCE = 4
_LOOK_S = 0.2

log = get_logger()


class UploadError(MirrorError):
    """Not all objects were uploaded; the kind is that of the failure that is no matter of one object, else of the first.

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
        self.is_general = telling not in refused.values()
        self.uploaded = uploaded
        self.refused = refused


class Limit:
    """How fast one endpoint may be uploaded to: the declared timetable, kept in force by whoever uploads."""

    def __init__(self) -> None:
        self.rate = Rate()
        self.throttle = Throttle()

    def keep(self) -> None:
        """Put in force what the timetable says of this minute."""
        now = time.localtime()
        self.throttle.set_rate(self.rate.rate_at(now.tm_wday, now.tm_hour * 60 + now.tm_min))


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


class Meter:
    """Counts what moves, for all threads of an upload."""

    def __init__(self) -> None:
        self.sent_bytes = self.checked_bytes = 0
        self._lock = threading.Lock()

    def sent(self, _: str, count: int) -> None:
        """Count bytes that were sent."""
        with self._lock:
            self.sent_bytes += count

    def checked(self, count: int) -> None:
        """Count bytes that were checked."""
        with self._lock:
            self.checked_bytes += count


class Upload:
    """The upload of *things* (and where each lies) to one mirror; *on_progress* is called when it has got on."""

    def __init__(
        self,
        endpoint: Endpoint,
        things: Mapping[Thing, Path],
        uploads_dir: Path,
        told: Told,
        on_progress: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._things = things
        self._uploads_dir = uploads_dir
        self._limit = find_limit(endpoint)
        self._told = told
        self._on_progress = on_progress
        self._figure: object = None
        self.gauge = Gauge(len(things), sum(thing.size for thing in things), told)

    def run(self, lfs_url: str, authorization: str | None, stop: threading.Event, *, connect_s: float) -> None:
        """Upload all, until *stop* is set.

        Raises:
            UploadError: not all arrived.
            StoppedError: *stop* was set.
        """
        client = Client(lfs_url, authorization, stall_s=self._endpoint.stall_s, connect_s=connect_s)
        meter = Meter()
        costs = Costs(self._limit.throttle, shared(), meter)
        uploader = Uploader(client, Batch(client, lfs_url, tuple(self._things)), costs, self._uploads_dir)
        pool = ThreadPoolExecutor(_OBJECTS_AT_ONCE, "hubsync-upload", stand_back_further)
        results = {thing.oid: pool.submit(uploader.upload, thing, path) for thing, path in self._things.items()}
        try:
            while wait(results.values(), _LOOK_S).not_done:
                self._look(client, meter, results)
                if stop.is_set():
                    raise StoppedError("interrupted: hubsync is stopping")
        finally:
            client.break_off()
            pool.shutdown(cancel_futures=True)
            uploader.close()
            if any(_is_uploaded(result) for result in results.values()):
                self._told.forget()
        self._expect_all(results)

    def _look(self, client: Client, meter: Meter, results: Mapping[str, "Future[None]"]) -> None:
        """Say now and then how far it is, and keep the limits that may have changed."""
        self._limit.keep()
        shared().keep()
        there = sum(thing.size for thing in self._things if _is_uploaded(results[thing.oid]))
        self.gauge.note(meter.sent_bytes, there)
        figure = (meter.sent_bytes, meter.checked_bytes, client.moved, there)
        if figure != self._figure:
            self._figure = figure
            self._on_progress()

    def _expect_all(self, results: Mapping[str, "Future[None]"]) -> None:
        failed = {oid: error for oid, result in results.items() if (error := result.exception()) is not None}
        if not failed:
            return
        failures = {oid: read_failure("upload", _spell(error)) for oid, error in failed.items()}
        own = {oid: failure for oid, failure in failures.items() if not getattr(failed[oid], "is_general", False)}
        general = (failure for oid, failure in failures.items() if oid not in own)
        telling = next(general, None) or next(iter(own.values()))

        raise UploadError(telling, frozenset(results.keys() - failed.keys()), own)


def _is_uploaded(result: "Future[None]") -> bool:
    return result.done() and not result.cancelled() and result.exception() is None


def _spell(error: BaseException) -> str:
    return str(error) if isinstance(error, TransferError) else f"{type(error).__name__}: {error}"
