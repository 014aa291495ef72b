"""A failure that lasts is said less and less often."""

import random

from hubsync.mirror.retry import next_try_s
from hubsync.monitor.streak import Streaks, is_said

WEEK_S = 7 * 24 * 3600.0


def test_a_mirror_that_is_down_for_a_week_says_little() -> None:
    """Whatever the jitter is, a week of tries is a handful of lines, and the first one is among them."""
    for luck in (lambda: 0.0, random.Random(1).random, lambda: 0.999):
        now, failures, said = 0.0, 0, []
        while now < WEEK_S:
            failures += 1
            said += [failures] if is_said(failures) else []
            now += next_try_s(failures, retryable=True, asked_s=None, luck=luck())

        assert 1 == said[0]
        assert len(said) < 25


def test_the_same_failure_is_said_at_each_doubling() -> None:
    """Another kind of failure begins a new row, and so does the first one after a success."""
    streaks = Streaks()

    assert [1, 2, 0, 4] == [streaks.fail("commit", "disk_full") for _ in range(4)]
    assert [1, 1] == [streaks.fail("commit", "internal"), streaks.fail("settle", "disk_full")]
    assert [1, 0] == [streaks.end("commit"), streaks.end("commit")]
    assert 1 == streaks.fail("commit", "internal")
