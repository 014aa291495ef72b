import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import assume, given
from hypothesis import strategies as st

from hubsync.config.schedule import CronTimes, Schedule, expand_cron, parse_schedule


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("15m", Schedule("interval", every_s=900.0)),
        ("1s", Schedule("interval", every_s=1.0)),
        ("manual", Schedule("manual")),
        ("@daily", Schedule("cron", cron="@daily")),
        (" 0  3 * *  sun ", Schedule("cron", cron="0 3 * * sun")),
    ],
)
def test_a_schedule_is_an_interval_a_crontab_line_or_manual(text: str, schedule: Schedule) -> None:
    """Each spelling becomes its own kind."""
    assert schedule == parse_schedule(text)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0s", 'at least "1s"'),
        ("999ms", 'at least "1s"'),
        (15, 'write "15s"'),
        (True, 'write "30s"'),
        ("", 'write "30s"'),
        ("often", 'write "30s"'),
        ("@dayly", "write @daily$"),
        ("@reboot", "write "),
        ("* * * *", "has 4 fields"),
        ("60 * * * *", "minute outside 0-59"),
        ("* 24 * * *", "hour outside 0-23"),
        ("* * 0 * *", "day of the month outside 1-31"),
        ("* * * 13 *", "month outside 1-12"),
        ("* * * * 8", "weekday outside 0-7"),
        ("*/0 * * * *", "stands still"),
        ("30-10 * * * *", "backwards"),
        ("30-0 * * * *", "backwards"),
        ("a * * * *", "minute outside"),
        ("1,,2 * * * *", "not a number, range, list or step"),
        ("0 0 30 2 *", "never run"),
        ("0 0 31 4,6 *", "never run"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(value: object, said: str) -> None:
    """The message says which part is wrong."""
    with pytest.raises(ValueError, match=said):
        parse_schedule(value)


def test_a_crontab_line_is_spelt_out() -> None:
    """Lists, ranges, steps and names become numbers; Sunday is 0, also when 7 or the end of a range says it."""
    expected = CronTimes((5, 25, 45), tuple(range(8, 19)), (1, 15), (1, 12), (0, 5, 6))

    assert expected == expand_cron("5/20 8-18 1,15 jan,dec fri-sun")
    assert (
        (0,)
        == expand_cron("0 0 * * 7").weekdays
        == expand_cron("@weekly").weekdays
        == expand_cron("0 0 * * sun-sun").weekdays
    )


FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


@st.composite
def crontab_fields(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    """Draw a field, and the numbers that it stands for."""
    first, last = sorted((draw(st.integers(low, high)), draw(st.integers(max(low, 1), high))))
    step = draw(st.integers(1, 9))
    spellings = {
        "*": range(low, high + 1),
        f"*/{step}": range(low, high + 1, step),
        f"{first}/{step}": range(first, high + 1, step),
        f"{first}": [first],
        f"{first}-{last}": range(first, last + 1),
        f"{first}-{last}/{step}": range(first, last + 1, step),
        f"{last},{first}": [first, last],
    }
    spelt = draw(st.sampled_from(sorted(spellings)))

    return spelt, set(spellings[spelt])


@given(st.tuples(*(crontab_fields(low, high) for low, high in FIELDS)))
def test_crontab_lines_are_spelt_out_for_the_scheduler(fields: tuple[tuple[str, set[int]], ...]) -> None:
    """The numbers of an accepted line are those of crontab, and the scheduler takes them as lists."""
    spelt, numbers = zip(*fields, strict=True)
    assume(numbers[4] != set(range(8)) or min(numbers[2]) <= 28)  # else the day may be one that its months never have
    times = expand_cron(" ".join(spelt))
    weekdays = {number % 7 for number in numbers[4]}

    assert [*numbers[:4], weekdays] == [
        set(part) for part in (times.minutes, times.hours, times.days, times.months, times.weekdays)
    ]
    assert CronTrigger(minute=",".join(map(str, times.minutes)), day=",".join(map(str, times.days)), timezone="UTC")
