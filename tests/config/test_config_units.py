import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsync.config.rates import Rate, RateRow, parse_rate
from hubsync.config.units import parse_duration, parse_size, spell_duration, spell_size

TEXT_OR_NUMBER = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text()))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("2d", 172_800.0),
        ("1d1h1m1s1ms", 90_061.001),
        ("200ms", 0.2),
        ("0.5s", 0.5),
        ("0s", 0.0),
        ("3650d", 315_360_000.0),
    ],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    """A duration is the sum of its parts, in seconds."""
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "value", ["", " ", "s", "5", "5 m", "m5", "30s5m", "5m5m", "-5s", "1e3s", "5M", "٣s", "5s\n", 5, 5.0, True, None]
)
def test_durations_without_a_unit_are_refused(value: object) -> None:
    """What is no duration is refused with an example."""
    with pytest.raises(ValueError, match='write "'):
        parse_duration(value)


@pytest.mark.parametrize(
    ("number", "cure"), [(30, '"30s"'), ("30", '"30s"'), (1.5, '"1.5s"'), (90, '"1m30s"'), (3600, '"1h"'), (0, '"0s"')]
)
def test_a_bare_duration_is_shown_with_its_unit(number: object, cure: str) -> None:
    """The message of a bare number holds the number as it should have been written."""
    with pytest.raises(ValueError, match=f"write {cure}$"):
        parse_duration(number)


def test_a_duration_beyond_all_use_is_refused() -> None:
    """No duration is too long for a timer."""
    with pytest.raises(ValueError, match="longer than ten years"):
        parse_duration("999999999999999d")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("0B", 0),
        ("1B", 1),
        ("10MB", 10_000_000),
        ("16MiB", 16 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("5 kB", 5000),
        ("5KB", 5000),
        ("1TiB", 2**40),
    ],
)
def test_sizes_are_decimal_or_binary(text: str, size: int) -> None:
    """MB is 10^6 bytes, MiB is 2^20."""
    assert size == parse_size(text)


@pytest.mark.parametrize(
    "value", ["", "5", "5M", "5mb", "5Mb", "-5MB", "5  MB", "MB", "5MB ", 5_000_000, False, None, ["5MB"]]
)
def test_sizes_without_a_unit_are_refused(value: object) -> None:
    """What is no size is refused with an example; "Mb" would be bits."""
    with pytest.raises(ValueError, match='write "'):
        parse_size(value)


def test_a_bare_size_is_shown_with_its_unit() -> None:
    """The message of a bare number holds the number as it should have been written."""
    with pytest.raises(ValueError, match='write "5MB"'):
        parse_size(5_000_000)


@given(st.integers(0, 3650 * 86_400))
def test_spelt_durations_read_back(seconds: int) -> None:
    """A duration that was spelt is the same when it is read."""
    assert float(seconds) == parse_duration(spell_duration(seconds))


@given(st.integers(0, 10**15 - 1))
def test_spelt_sizes_read_back(size: int) -> None:
    """A size that was spelt is the same when it is read."""
    assert size == parse_size(spell_size(size))


@given(TEXT_OR_NUMBER)
def test_nothing_but_value_errors(value: object) -> None:
    """Whatever a file holds, the answer is a value or a ValueError."""
    for parse in (parse_duration, parse_size, parse_rate):
        with contextlib.suppress(ValueError):
            parse(value)


def test_a_rate_holds_always() -> None:
    """One rate is allowed at any time; "0" is unlimited."""
    assert 80_000_000 == parse_rate("80MB/s").rate_at(6, 1439)
    assert 0 == parse_rate("0").rate_at(0, 0)


@pytest.mark.parametrize(
    ("weekday", "minute", "allowed"),
    [
        (0, 9 * 60 - 1, 0),
        (0, 9 * 60, 20_000_000),
        (4, 18 * 60 - 1, 20_000_000),
        (4, 18 * 60, 0),
        (5, 12 * 60, 50_000_000),
        (6, 0, 50_000_000),
    ],
)
def test_the_first_row_that_matches_wins(weekday: int, minute: int, allowed: int) -> None:
    """A timetable is read from its top; a row's end is not part of it."""
    rate = parse_rate(["mon-fri 09:00-18:00 20MB/s", "sat,sun 50MB/s", "0"])

    assert allowed == rate.rate_at(weekday, minute)


@pytest.mark.parametrize(
    ("weekday", "minute", "allowed"), [(4, 1380, 1000), (5, 359, 1000), (5, 360, 0), (5, 1380, 0), (4, 0, 0)]
)
def test_a_row_may_reach_over_midnight(weekday: int, minute: int, allowed: int) -> None:
    """A row that ends before it starts belongs to the day on which it starts."""
    assert allowed == parse_rate(["fri 22:00-06:00 1kB/s"]).rate_at(weekday, minute)


def test_days_may_go_over_the_end_of_the_week() -> None:
    """From Saturday to Monday are three days."""
    assert Rate((RateRow(frozenset({5, 6, 0}), 0, 1440, 1000),)) == parse_rate(["sat-mon 1kB/s"])


@pytest.mark.parametrize(
    "value",
    [80, "80", "80MB", "80Mbit/s", "80MB/h", "", [], [80], ["monday 1MB/s"], ["mon 9-18 1MB/s"], ["09:00-09:00 1MB/s"],
     ["00:00-24:30 1MB/s"], ["23:00-29:00 1MB/s"], ["mon 09:00-18:00"], "0.1B/s", None, True],
)  # fmt: skip
def test_what_is_no_rate_is_refused(value: object) -> None:
    """A rate or row that cannot be read is refused with a cure."""
    with pytest.raises(ValueError, match=r"write|leave|ends there"):
        parse_rate(value)
