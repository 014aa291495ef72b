"""Owns APScheduler: named jobs that run on a schedule, can be woken, and never run twice at the same time.

A wake-up that comes while the job runs makes it run once more; APScheduler alone would drop it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from hubsync.config.schedule import NICKNAMES, Schedule, expand_cron
from hubsync.errors import HubsyncError, find_known
from hubsync.monitor.logger import get_logger
from hubsync.monitor.streak import Streaks
from hubsync.store.process import StoppedError

log = get_logger()

_NEVER = timedelta(days=36_500)
_DROPPED_S = 0.05
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Jobs:
    """The daemon's work by name."""

    def __init__(self, workers: int) -> None:
        self._scheduler = BackgroundScheduler(
            timezone=datetime.now().astimezone().tzinfo,
            executors={"default": ThreadPoolExecutor(workers)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._scheduler.add_listener(self._note_dropped, EVENT_JOB_MAX_INSTANCES)
        self._lock = threading.Lock()
        self._running: dict[str, float] = {}
        self._again: set[str] = set()
        self._streaks = Streaks()
        self._stopping = False

    def start(self) -> None:
        """Begin to run what is due."""
        self._scheduler.start()

    def stop(self, timeout_s: float) -> bool:
        """Start nothing new and wait for what runs; return whether all of it ended in time."""
        self._stopping = True
        deadline = time.monotonic() + timeout_s
        while self._running and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

        return not self._running

    def add(self, name: str, work: Callable[[], None], trigger: BaseTrigger | None, *, at_once: bool = False) -> None:
        """Add a job; without a trigger it runs when it is woken."""
        self._scheduler.add_job(
            self._run,
            trigger or IntervalTrigger(seconds=_NEVER.total_seconds()),
            args=(name, work),
            id=name,
            next_run_time=datetime.now(UTC) if at_once else _first_time(trigger),
            replace_existing=True,
        )

    def remove(self, name: str) -> None:
        """Forget a job; a run of it that goes on ends by itself."""
        with contextlib.suppress(JobLookupError):
            self._scheduler.remove_job(name)
        with self._lock:
            self._again.discard(name)

    def wake(self, name: str, after_s: float = 0.0) -> None:
        """Run the job now, or after *after_s* seconds; if it runs, let it run once more."""
        with self._lock:
            if self._stopping:
                return
            if name in self._running and after_s <= 0:
                self._again.add(name)
                return
        try:
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC) + timedelta(seconds=after_s))
        except JobLookupError:
            return

    def follow_clock(self, jumped_s: float) -> None:
        """Keep the schedule when the system clock was set by *jumped_s*: APScheduler waits for times of that clock."""
        jumped, now = timedelta(seconds=jumped_s), datetime.now(UTC)
        for job in self._scheduler.get_jobs():
            if isinstance(job.trigger, IntervalTrigger) and jumped_s > 0:  # most became due at once, and are so again
                due = max(now, min(job.next_run_time, now + job.trigger.interval))
            elif isinstance(job.trigger, IntervalTrigger):
                due = job.next_run_time + jumped
            else:  # times of day are those of the clock as it is now
                due = _first_time(job.trigger)
            with contextlib.suppress(JobLookupError):
                self._scheduler.modify_job(job.id, next_run_time=due)

    def running(self) -> dict[str, float]:
        """Return the jobs that run now → since when (monotonic seconds)."""
        with self._lock:
            return dict(self._running)

    def is_alive(self) -> bool:
        """Tell whether the scheduler's own thread lives."""
        thread = getattr(self._scheduler, "_thread", None)
        return bool(thread is not None and thread.is_alive())

    def _run(self, name: str, work: Callable[[], None]) -> None:
        try:
            while self._begin(name):
                self._guarded(name, work)
        finally:
            with self._lock:
                self._running.pop(name, None)

    def _begin(self, name: str) -> bool:
        """Note that the job runs, if it runs for the first time or was woken since; else that it does not."""
        with self._lock:
            if self._stopping or (name in self._running and name not in self._again):
                self._running.pop(name, None)
                return False
            self._again.discard(name)
            self._running[name] = time.monotonic()

        return True

    def _guarded(self, name: str, work: Callable[[], None]) -> None:
        """Run *work*; whatever it raises is said here and ends neither the job nor the scheduler."""
        try:
            work()
        except StoppedError:
            return
        except Exception as exc:
            known = find_known(exc)
            failures = self._streaks.fail(name, known.error_kind if known else type(exc).__name__)
            if failures and known:
                _tell_failed(name, known, failures)
            elif failures:
                log.exception("schedule.failed", job=name, error=f"{type(exc).__name__}: {exc}", error_kind="internal",
                              retryable=True, failures=failures)  # fmt: skip
        else:
            if failures := self._streaks.end(name):
                log.info("schedule.recovered", job=name, failures=failures)

    def _note_dropped(self, event: JobSubmissionEvent) -> None:
        """Make up for a run that APScheduler left out because the former one has not ended, or only just."""
        with self._lock:
            if event.job_id in self._running:
                self._again.add(event.job_id)
                return
        self.wake(event.job_id, after_s=_DROPPED_S)


def _tell_failed(name: str, exc: HubsyncError, failures: int) -> None:
    log.error("schedule.failed", job=name, error=str(exc), error_kind=exc.error_kind, retryable=exc.retryable,
              hint=exc.hint, failures=failures)  # fmt: skip


def make_trigger(schedule: Schedule) -> BaseTrigger | None:
    """Return the trigger of a schedule; ``None`` if it is manual."""
    if schedule.kind == "interval":
        return IntervalTrigger(seconds=schedule.every_s)
    if schedule.kind == "cron":
        return make_cron_trigger(schedule.cron or "@daily")

    return None


def make_cron_trigger(cron: str) -> BaseTrigger:
    """Return the trigger for a crontab line, by crontab's rules: APScheduler has others.

    It counts weekdays from Monday, knows no range across the week's end, and wants both a day and a weekday to match,
    where crontab(5) takes either.
    """
    times = expand_cron(cron)
    when = {"minute": _list(times.minutes), "hour": _list(times.hours), "month": _list(times.months)}
    days = {"day": _list(times.days)}
    weekdays = {"day_of_week": ",".join(_WEEKDAYS[number] for number in times.weekdays)}
    _, _, day, _, weekday = NICKNAMES.get(cron, cron).split()
    if day.startswith("*") or weekday.startswith("*"):
        return CronTrigger(**when, **days, **weekdays)

    return OrTrigger([CronTrigger(**when, **days), CronTrigger(**when, **weekdays)])


def every(seconds: float) -> IntervalTrigger:
    """Return a trigger that fires each *seconds*."""
    return IntervalTrigger(seconds=seconds)


def _list(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def _first_time(trigger: BaseTrigger | None) -> datetime | None:
    now = datetime.now(UTC)
    return trigger.get_next_fire_time(None, now) if trigger else now + _NEVER
