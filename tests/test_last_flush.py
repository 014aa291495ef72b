"""Before hubsync ends: the newest unit first, since the time may not suffice for all, and what is left is said as it is."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs
from support.rig import NO_LOGIN, Rig
from support.units import write_unit

from hubsync.errors import MirrorError
from hubsync.jobs import Jobs
from hubsync.mirror.token import Tokens
from hubsync.mirror.worker import Trouble
from hubsync.pauses import Pauses
from hubsync.pipeline import commit_last, intake
from hubsync.proof.prove import Means
from hubsync.prune.job import PruneJob
from hubsync.target_run import TargetRun
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


class Held:
    """A run of a target in its last flush, whose push has waited for an answer for a minute."""

    def __init__(self, rig: Rig) -> None:
        (self.worker,) = rig.work.workers
        self.jobs, self.answer = Jobs(1), threading.Event()
        prune = PruneJob(rig.work.target, Means(rig.config, Tokens(NO_LOGIN), rig.stop))
        self.run = TargetRun(rig.work, prune, rig.stop, self.jobs, Pauses(rig.state), lambda: None)
        self.run._committed.set()
        rig.write("notes.txt")
        rig.settle()
        rig.commit()

    def push(self) -> None:
        """Begin to push."""
        began = threading.Event()

        def wait() -> None:
            began.set()
            self.answer.wait()

        self.jobs.start()
        self.jobs.add(self.run._push_name(self.worker), wait, None, at_once=True)
        began.wait()
        self.worker.publisher._began = time.monotonic() - 60


@pytest.fixture
def held(rig: Rig) -> Iterator[Held]:
    """Give such a run, with a file that the mirror does not have yet."""
    held = Held(rig)
    yield held
    held.answer.set()
    held.jobs.stop(10)


def test_a_push_has_all_of_the_grace_for_its_answer(held: Held) -> None:
    """A Hub may look at all objects of a push before it answers; what is given up then is said."""
    held.push()

    assert not held.run.is_finished()
    assert ["run to m0"] == held.run.at_work()


def test_a_mirror_that_was_out_of_reach_is_not_waited_for(held: Held) -> None:
    """It is given up soon if it stays so, and that is said; one that failed otherwise has all of the grace, too."""
    held.push()
    held.worker.trouble = Trouble(MirrorError("it failed", error_kind="server", retryable=True))
    assert not held.run.is_finished()
    held.worker.trouble = Trouble(MirrorError("it cannot be reached", error_kind="network", retryable=True))

    assert held.run.is_finished()
    assert held.run.at_work()


def test_a_look_that_finds_nothing_to_do_is_not_given_up(held: Held, rig: Rig) -> None:
    """The last wake of a push may meet the end: nothing is left that somebody should be told of."""
    rig.publish()
    held.push()

    assert [] == held.run.at_work()
