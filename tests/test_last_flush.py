"""Before hubsync ends: the newest unit first, since the time may not suffice for all, and what is left is said as it is."""

import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs
from support.rig import Rig
from support.units import write_unit

from hubsync.pipeline import commit_last, intake
from hubsync.watcher import Watcher


@pytest.fixture
def units(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Give a target without a mirror that captures two files at a time."""
    monkeypatch.setattr(intake, "_EARLY_BYTES", 1)
    return make_rig(units=("checkpoint-*",), complete_when=("DONE",))


def wait_until_quiet(rig: Rig) -> None:
    """Wait until nothing is written any more; what would be settled then was not looked at."""
    rig.pipeline.take_inventory()
    while any(left_s > 0 for left_s in rig.pipeline.waiting().values()):
        time.sleep(0.005)


def test_the_newest_unit_is_committed_before_the_others_are_read(units: Rig) -> None:
    """It may go up while they are, and the time may be over before that; loose files come last."""
    units.write("notes.txt")
    for step in (1, 3, 2):
        write_unit(units, step)
    wait_until_quiet(units)
    captured: list[int] = []

    with capture_logs() as said:
        commit_last(units.pipeline, lambda: captured.append(len(units.held_objects())))

    completed = [entry["unit"] for entry in said if entry["event"] == "unit.completed"]
    assert ["checkpoint-3", "checkpoint-2", "checkpoint-1"] == completed
    assert captured[0] < captured[1] < captured[2] == captured[3]
    assert "notes.txt" in units.store.git.list_tree(units.store.head() or "")


def test_the_last_flush_ends_although_nothing_can_be_captured(make_rig: Callable[..., Rig]) -> None:
    """While there is no room, complete units stay where they are."""
    rig = make_rig(units=("checkpoint-*",), complete_when=("DONE",))
    write_unit(rig, 1)
    rig.settle()
    rig.pipeline._guard._min_free_bytes = 1 << 60

    commit_last(rig.pipeline, lambda: None)

    assert rig.store.head() is None
    assert ["checkpoint-1/"] == list(rig.pipeline.pending())


def test_what_the_watch_had_not_come_to_is_seen_at_the_end(rig: Rig) -> None:
    """Events that came while it read a large file are looked at, so that what they tell of is said to be left."""
    watcher = Watcher(rig.work, lambda: None)
    rig.write("notes.txt")
    rig.write("more/deep.txt")
    for event in (("path", "notes.txt"), ("tree", "more"), ("tree", "")):
        watcher._events.put(event)

    watcher.take_left()

    assert ["more/deep.txt", "notes.txt"] == sorted(rig.pipeline.pending())
