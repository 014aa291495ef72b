"""How many commits a repository may still get, and how a backlog is fitted into them."""

from hypothesis import given
from hypothesis import strategies as st

from hubsync.mirror.pace import Pace, widen
from hubsync.mirror.view import Step
from hubsync.store.git import TreeChange, TreeEntry
from hubsync.store.snapshot import Snapshot

HOUR_S = 3600


@given(st.integers(1, 200), st.lists(st.tuples(st.floats(0, 600), st.integers(1, 5)), max_size=200))
def test_no_hour_sees_more_than_allowed(per_hour: int, asked: list[tuple[float, int]]) -> None:
    """However commits are asked for, those that are let through are never more in an hour than declared."""
    pace, free_at, now = Pace(per_hour), 0.0, 0.0
    made: list[float] = []
    for later_s, wanted in asked:
        now += later_s
        commits = min(wanted, pace.left(free_at, now))
        free_at = pace.take(free_at, now, commits)
        made += [now] * commits

    assert all(len([other for other in made if time <= other < time + HOUR_S]) <= per_hour for time in made)


@given(st.integers(1, 200), st.integers(0, 100))
def test_after_the_wait_there_is_one(per_hour: int, taken: int) -> None:
    """The wait that is told is enough, and no wait is told while commits are left."""
    pace = Pace(per_hour)
    free_at = pace.take(0.0, 1000.0, taken)
    wait_s = pace.wait_s(free_at, 1000.0)

    assert (pace.left(free_at, 1000.0) > 0) == (wait_s < 0.01)
    assert pace.left(free_at, 1000.0 + wait_s + 0.01) >= 1


def test_by_default_the_next_commit_is_minutes_away() -> None:
    """Thirty at once are taken as they come; then it is one in two minutes, not none for an hour."""
    pace = Pace(60)
    free_at = pace.take(0.0, 0.0, 30)

    assert (30, 0, 120) == (pace.left(0.0, 0.0), pace.left(free_at, 0.0), pace.wait_s(free_at, 0.0))


def test_a_clock_that_was_put_back_stops_nobody_for_long() -> None:
    """What was taken tomorrow was never taken: it would be owed until tomorrow."""
    assert (0.0, 30) == (Pace(60).wait_s(86_400.0, 0.0), Pace(60).left(86_400.0, 0.0))


def step(number: int, *units: str) -> Step:
    entry = TreeEntry("100644", f"{number:040}")
    return Step(Snapshot(f"{number:040}", number, number, "m", units), (TreeChange(f"{number}.txt", None, entry),))


def shown(steps: list[Step]) -> list[list[str]]:
    return [[change.path for change in each.changes] for each in steps]


def test_a_backlog_that_is_too_long_enters_in_fewer_commits() -> None:
    """The oldest are put together, the newest stay as they are, and nothing is left out."""
    steps = [step(number) for number in range(5)]

    assert shown(steps) == shown(widen(steps, 5, with_revisions=False))
    assert [["0.txt", "1.txt", "2.txt"], ["3.txt"], ["4.txt"]] == shown(widen(steps, 3, with_revisions=False))
    assert [["0.txt", "1.txt", "2.txt", "3.txt", "4.txt"]] == shown(widen(steps, 1, with_revisions=False))


def test_units_are_put_together_whole() -> None:
    """A commit that stands for several says all their units."""
    [folded] = widen([step(1, "checkpoint-1"), step(2, "checkpoint-2")], 1, with_revisions=False)

    assert ("checkpoint-1", "checkpoint-2") == folded.snapshot.units


def test_with_revisions_only_so_many_units_go_as_fit() -> None:
    """Each unit is a commit on a branch of its own, beside that on the main branch; at least one goes."""
    steps = [step(number, f"checkpoint-{number}") for number in range(4)]

    assert shown(steps) == shown(widen(steps, 8, with_revisions=True))
    assert [["0.txt", "1.txt"]] == shown(widen(steps, 3, with_revisions=True))
    assert [["0.txt"]] == shown(widen(steps, 1, with_revisions=True))
