import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice, takewhile

import pytest
import structlog
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger
from hypothesis import given
from hypothesis import strategies as st

from hubsync.config.schedule import expand_cron, parse_schedule
from hubsync.errors import SourceError
from hubsync.jobs import Jobs, every, make_cron_trigger, make_trigger
from hubsync.store.process import StoppedError

PATIENCE_S = 20.0
SUNDAY = datetime(2026, 2, 1).astimezone()  # February of 2026 has four whole weeks from a Sunday


def fire_times(trigger: BaseTrigger, days: int, most: int | None = None) -> list[datetime]:
    """Return the times in *days* days from the Sunday at which *trigger* fires, at most one each minute."""

    def walk() -> Iterator[datetime]:
        now = SUNDAY
        while (fire := trigger.get_next_fire_time(None, now)) is not None:
            yield fire
            now = fire + timedelta(minutes=1)

    end = SUNDAY + timedelta(days=days)
    return list(islice(takewhile(lambda fire: fire < end, walk()), most))


def weekdays(trigger: BaseTrigger) -> str:
    """Return the weekdays on which *trigger* fires."""
    return " ".join(f"{fire:%a}" for fire in fire_times(trigger, 7)).lower()


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    """Give running jobs, which are ended afterwards."""
    made = Jobs(4)
    made.start()
    yield made
    assert made.stop(PATIENCE_S)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1-5", "mon tue wed thu fri"),
        ("5-7", "sun fri sat"),
        ("mon-fri", "mon tue wed thu fri"),
        ("sat-sun", "sun sat"),
        ("sun-tue", "sun mon tue"),
        ("Mon,THU", "mon thu"),
        ("*/2", "sun tue thu sat"),
        ("1-5/2", "mon wed fri"),
        ("mon-fri/2", "mon wed fri"),
        ("1,6-7", "sun mon sat"),
        ("*", "sun mon tue wed thu fri sat"),
    ],
)
def test_weekdays_are_those_of_crontab(field: str, expected: str) -> None:
    """Weekdays count from Sunday, which is 0 and 7, by number and by name, in lists, ranges and steps."""
    assert expected == weekdays(make_cron_trigger(f"0 3 * * {field}"))


def test_nicknames_are_crontab_lines() -> None:
    """The weekly schedule runs on Sunday at midnight, the daily and hourly ones at the hour's start."""
    assert "sun" == weekdays(make_cron_trigger("@weekly"))
    assert [7, 7 * 24] == [len(fire_times(make_cron_trigger(name), 7)) for name in ("@daily", "@hourly")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 3 13 * 5", [6, 13, 20, 27]),  # each Friday, and the 13th (which is one)
        ("0 3 10 * 5", [6, 10, 13, 20, 27]),
        ("0 3 10 * *", [10]),
        ("0 3 */10 * 5", []),  # a day that begins with a star restricts as well, as cron(8) has it
        ("0 3 */10 * 0", [1]),
    ],
)
def test_a_day_or_a_weekday_is_enough(line: str, expected: list[int]) -> None:
    """If both day and weekday are given, either of them is enough, as crontab(5) says."""
    assert expected == [fire.day for fire in fire_times(make_cron_trigger(line), 28)]


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    numbers = st.integers(low, high)
    ranges = st.tuples(numbers, numbers).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.tuples(st.one_of(st.just("*"), ranges), st.integers(1, 9)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    return st.lists(st.one_of(numbers.map(str), ranges, steps), min_size=1, max_size=3).map(",".join)


@given(hour=fields(0, 23), weekday=fields(0, 7))
def test_a_schedule_runs_when_its_declaration_says(hour: str, weekday: str) -> None:
    """What the config was checked against is what is run."""
    line = f"30 {hour} * * {weekday}"
    times = expand_cron(line)
    wanted = [(day, hour) for day in times.weekdays for hour in times.hours]

    assert wanted[:40] == [(fire.isoweekday() % 7, fire.hour) for fire in fire_times(make_cron_trigger(line), 7, most=40)]


def test_the_kinds_of_schedules() -> None:
    """An interval, a crontab line, and manual, which has no trigger."""
    interval, cron, manual = (make_trigger(parse_schedule(text)) for text in ("15m", "0 3 * * 1", "manual"))

    assert isinstance(interval, IntervalTrigger)
    assert timedelta(minutes=15) == interval.interval
    assert cron is not None
    assert "mon" == weekdays(cron)
    assert manual is None


def test_a_wake_up_while_a_job_runs_lets_it_run_once_more(jobs: Jobs) -> None:
    """However often a running job is woken, it runs once more, after it ended."""
    runs: list[int] = []
    at_work, go_on = threading.Semaphore(0), threading.Event()

    def work() -> None:
        runs.append(len(jobs.running()))
        at_work.release()
        go_on.wait(PATIENCE_S)

    jobs.add("work", work, None)
    jobs.wake("work")
    at_work.acquire(timeout=PATIENCE_S)
    for _ in range(5):
        jobs.wake("work")
    go_on.set()
    at_work.acquire(timeout=PATIENCE_S)
    wait_until(lambda: not jobs.running())

    assert [1, 1] == runs


def test_a_removed_job_does_not_run_once_more(jobs: Jobs) -> None:
    """A wake-up of a running job is forgotten with the job; it counts as running until it has ended for good."""
    runs: list[int] = []
    at_work, go_on = threading.Event(), threading.Event()

    def work() -> None:
        runs.append(1)
        at_work.set()
        go_on.wait(PATIENCE_S)

    jobs.add("work", work, None, at_once=True)
    at_work.wait(PATIENCE_S)
    jobs.wake("work")
    jobs.remove("work")
    jobs.wake("work", after_s=0.01)
    go_on.set()
    wait_until(lambda: not jobs.running())

    assert [1] == runs


def test_no_wake_up_is_lost_at_the_end_of_a_run(jobs: Jobs) -> None:
    """A job that is woken in the moment after it ended, before APScheduler has noticed that, runs again."""
    runs: list[int] = []
    at_work, go_on, noticed = threading.Event(), threading.Event(), threading.Event()
    executor = jobs._scheduler._lookup_executor("default")
    notice = executor._run_job_success

    def notice_late(*args: object) -> None:
        noticed.wait(PATIENCE_S)
        notice(*args)

    def work() -> None:
        runs.append(1)
        at_work.set()
        go_on.wait(PATIENCE_S)

    executor._run_job_success = notice_late
    jobs.add("work", work, None)
    jobs.wake("work")
    at_work.wait(PATIENCE_S)
    jobs.add("other", work, None)  # waits until APScheduler is done with handing over the first run
    go_on.set()
    wait_until(lambda: not jobs.running())
    jobs.wake("work")
    jobs.add("other", work, None)
    noticed.set()
    wait_until(lambda: len(runs) > 1)

    assert [1, 1] == runs


@pytest.mark.parametrize("error", [ValueError("a bug"), SourceError("gone"), StoppedError("stopping")])
def test_a_job_that_raises_stays_scheduled(jobs: Jobs, error: Exception) -> None:
    """Whatever a job raises ends neither its schedule nor the scheduler."""
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        raise error

    with structlog.testing.capture_logs() as said:
        jobs.add("work", work, every(0.02), at_once=True)
        wait_until(lambda: len(runs) > 1)

    assert jobs.is_alive()
    assert {type(error) is not StoppedError} == {bool(said)}
    assert {"schedule.failed"} >= {entry["event"] for entry in said}


def test_a_late_wake_up_waits(jobs: Jobs) -> None:
    """A job that is woken for later does not run before; one that is removed does not run at all."""
    ran: list[str] = []
    started = time.monotonic()
    jobs.add("removed", lambda: ran.append("removed"), None)
    jobs.add("later", lambda: ran.append("later"), None)
    jobs.wake("removed", after_s=0.1)
    jobs.wake("later", after_s=0.2)
    jobs.remove("removed")
    jobs.remove("unknown")
    jobs.wake("unknown")
    wait_until(lambda: ran)

    assert ["later"] == ran
    assert time.monotonic() - started >= 0.2


def test_a_stop_waits_for_what_runs_and_says_if_it_does_not_end() -> None:
    """Nothing new begins after a stop; its answer tells whether all work has ended."""
    jobs, at_work, go_on = Jobs(2), threading.Event(), threading.Event()

    def work() -> None:
        at_work.set()
        go_on.wait(PATIENCE_S)

    jobs.add("work", work, None, at_once=True)
    jobs.start()
    at_work.wait(PATIENCE_S)
    jobs.wake("work")

    assert not jobs.stop(0.05)
    go_on.set()
    assert jobs.stop(PATIENCE_S)
    assert not jobs.is_alive()


def test_a_clock_that_is_set_forward_puts_nothing_off(jobs: Jobs) -> None:
    """What had come due by it has run before anybody noticed: its next run is an interval away, and no jump more."""
    jobs.add("often", lambda: None, every(30))
    jobs.add("woken", lambda: None, None)
    jobs.wake("woken", after_s=20)

    jobs.follow_clock(10_800.0)

    now = datetime.now().astimezone()
    next_times = {job.id: job.next_run_time for job in jobs._scheduler.get_jobs()}
    assert now < next_times["often"] <= now + timedelta(seconds=30)
    assert now < next_times["woken"] <= now + timedelta(seconds=20)


def test_a_clock_that_is_set_back_does_not_stop_the_schedule(jobs: Jobs) -> None:
    """All that was due is a day away by the new clock; then it is as near as it was, what was woken as well."""
    ran = {name: threading.Event() for name in ("often", "woken")}
    jobs.add("often", ran["often"].set, every(0.05))
    jobs.add("woken", ran["woken"].set, None)
    jobs.add("nightly", lambda: None, make_cron_trigger("0 3 * * *"))
    jobs.wake("woken", after_s=0.2)
    nightly = jobs._scheduler.get_job("nightly").next_run_time
    for job in jobs._scheduler.get_jobs():
        job.modify(next_run_time=job.next_run_time + timedelta(days=1))
    for event in ran.values():
        event.clear()

    jobs.follow_clock(-86_400.0)

    assert all(event.wait(PATIENCE_S) for event in ran.values())
    assert nightly == jobs._scheduler.get_job("nightly").next_run_time
