"""The log does not grow with the failure rate: a week without a mirror is a page, not a book."""

import random
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from hubsync.mirror import uploads
from hubsync.mirror.retry import next_try_s
from hubsync.mirror.uploads import Gauge, Told
from hubsync.monitor.streak import is_said

WEEK_S = 7 * 86_400.0
MOST_LINES = 200


def tries_of_a_week(luck: random.Random, *, try_s: float, asked_s: float | None = None) -> Iterator[int]:
    """Yield the number of each try, as ``next_try_s`` spaces them; each takes *try_s* until it has failed."""
    now, number = 0.0, 0
    while now < WEEK_S:
        number += 1
        yield number
        now += try_s + next_try_s(number, retryable=True, asked_s=asked_s, luck=luck.random())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("try_s", "asked_s"), [(0.1, None), (0.1, 1.0), (30.0, None), (330.0, None), (0.1, 60.0)])
def test_a_mirror_that_is_down_for_a_week(seed: int, try_s: float, asked_s: float | None) -> None:
    """Refused, timed out or stalled, with a wait that the Hub asks for or without: many tries, few lines."""
    tries = list(tries_of_a_week(random.Random(seed), try_s=try_s, asked_s=asked_s))

    assert len(tries) > 500
    assert sum(map(is_said, tries)) < 20 < MOST_LINES


class Clock:
    """A clock that a test sets; it stands for the module ``time``."""

    now = 0.0

    def monotonic(self) -> float:
        """Return the time that was set."""
        return self.now


def send(clock: Clock, told: Told, until: float, total: int = 1_000_000_000, took_s: float = 600.0) -> None:
    """Play one upload that gets on until it has sent the share *until*."""
    gauge = Gauge(3, total, told)
    for part in range(1, 101):
        clock.now += took_s / 100
        gauge.note(int(total * until * part / 100))


def test_an_upload_that_stalls_all_week_is_not_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that gets no further than those before it says nothing; a week of them is a few lines, the last success one."""
    clock, told = Clock(), Told()
    monkeypatch.setattr(uploads, "time", clock)
    with capture_logs() as said:
        for number in range(800):
            send(clock, told, until=0.5 + 0.1 * (number % 3))
        stalled = len(said)
        told.forget()
        send(clock, told, until=1.0)

    assert 0 < stalled <= 20
    assert len(said) > stalled
    assert [one["sent_bytes"] for one in said[:stalled]] == sorted(one["sent_bytes"] for one in said[:stalled])
