import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsync.mirror.retry import next_try_s

attempts = st.integers(1, 10_000)
luck = st.floats(0, 1, exclude_max=True)


@given(attempts, luck)
def test_a_wait_is_bounded(attempt: int, luck: float) -> None:
    """No wait is shorter than half a second, so that nobody is hammered, or longer than a quarter of an hour."""
    assert 0.5 <= next_try_s(attempt, retryable=True, asked_s=None, luck=luck) <= 900


@given(attempts, luck, st.booleans(), st.floats(0, 1e9))
def test_what_the_hub_asks_for_is_kept(attempt: int, luck: float, retryable: bool, asked_s: float) -> None:  # noqa: FBT001 - a fact
    """We come back no earlier than asked, but after an hour at the latest."""
    wait_s = next_try_s(attempt, retryable=retryable, asked_s=asked_s, luck=luck)

    assert min(asked_s, 3600) <= wait_s < 3602


@given(st.integers(4, 10_000), luck)
def test_a_parked_mirror_is_tried_hourly(attempt: int, luck: float) -> None:
    """Waiting does not help, but somebody may have mended it."""
    assert 3600 == next_try_s(attempt, retryable=False, asked_s=None, luck=luck)


def test_a_parked_mirror_is_tried_a_few_times_before() -> None:
    """A proxy's passing refusal costs a minute, not an hour; three tries more bother nobody."""
    waits = [next_try_s(attempt, retryable=False, asked_s=None, luck=0.5) for attempt in (1, 2, 3)]

    assert [60, 300, 1500] == waits


@pytest.mark.parametrize(("attempt", "longest_s"), [(1, 2), (2, 4), (3, 8), (9, 512), (10, 900), (1000, 900)])
def test_the_longest_wait_doubles(attempt: int, longest_s: float) -> None:
    """Each failure doubles how long the next wait may be, up to the cap."""
    assert longest_s == pytest.approx(next_try_s(attempt, retryable=True, asked_s=None, luck=0.999999), rel=0.001)


def test_two_mirrors_do_not_return_together() -> None:
    """The wait is a random part of what it may be, down to nearly nothing: servers that come back meet no crowd."""
    waits = {next_try_s(8, retryable=True, asked_s=None, luck=luck / 10) for luck in range(10)}

    assert 10 == len(waits)
    assert min(waits) < 1


@given(attempt=st.integers(1, 100))
def test_a_failure_of_this_machine_is_looked_at_each_minute(attempt: int) -> None:
    """Once somebody has made room, nothing waits for a quarter of an hour."""
    assert next_try_s(attempt, retryable=True, asked_s=None, luck=0.999, is_local=True) <= 60
