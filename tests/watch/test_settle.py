import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hubsync.watch.entry import Identity
from hubsync.watch.settle import Settler


def state(number: int) -> Identity:
    return Identity(1, 7, number, number, number)


def test_writing_again_starts_the_wait_over() -> None:
    """A path that is still being written is held back, others are not."""
    settler = Settler(quiet_s=30)
    settler.feed("model.safetensors", state(1), now=100)
    settler.feed("config.json", state(1), now=100)
    settler.feed("model.safetensors", state(2), now=120)

    assert [("config.json", state(1))] == settler.take_settled(now=130)
    assert 150 == settler.next_due()
    assert [("model.safetensors", state(2))] == settler.take_settled(now=150)
    assert settler.next_due() is None


def test_seeing_the_same_state_again_does_not_restart_the_wait() -> None:
    """Events come in crowds; only a changed identity counts."""
    settler = Settler(quiet_s=30)
    settler.feed("a", state(1), now=100)
    settler.feed("a", state(1), now=129)

    assert [("a", state(1))] == settler.take_settled(now=130)


def test_an_old_file_is_settled_at_first_sight() -> None:
    """What a first inventory finds need not wait if it has not changed for long."""
    settler = Settler(quiet_s=30)
    settler.feed("old", state(1), now=100, changed_at=-5000)
    settler.feed("new", state(1), now=100, changed_at=95)

    assert [("old", state(1))] == settler.take_settled(now=100)
    assert 125 == settler.next_due()


def test_a_change_in_the_future_counts_as_now() -> None:
    """After a clock jump a file waits for one full quiet period, not for ever."""
    settler = Settler(quiet_s=30)
    settler.feed("a", state(1), now=100, changed_at=1e9)

    assert [] == settler.take_settled(now=129)
    assert [("a", state(1))] == settler.take_settled(now=130)


def test_a_change_that_was_seen_waits_whatever_its_times_say() -> None:
    """A skewed clock or a forged mtime cannot make a file that changes before our eyes look old."""
    settler = Settler(quiet_s=30)
    settler.feed("a", state(1), now=100)
    settler.feed("a", state(2), now=110, changed_at=-5000)

    assert 140 == settler.next_due()


def test_a_file_that_is_gone_is_forgotten() -> None:
    """It never settles, and comes back as a new one."""
    settler = Settler(quiet_s=30)
    settler.feed("a", state(1), now=100)
    settler.forget("a")
    settler.forget("never seen")

    assert settler.next_due() is None

    settler.feed("a", state(1), now=120)

    assert [] == settler.take_settled(now=130)
    assert [("a", state(1))] == settler.take_settled(now=150)


def test_waiting_says_how_long() -> None:
    """The operator can ask what is held and for how long still."""
    settler = Settler(quiet_s=30)
    settler.feed("a", state(1), now=100)
    settler.feed("b", state(1), now=110)

    assert {"b": 10} == settler.waiting(now=130)
    assert 2 == len(settler)


def test_a_busy_log_file_does_not_grow_the_queue() -> None:
    """Memory is bounded by the number of paths, not of changes."""
    settler = Settler(quiet_s=30)
    for number in range(10_000):
        settler.feed("train.log", state(number), now=number / 1000)

    assert len(settler._queue) < 100


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["feed", "forget", "take"]),
        st.sampled_from("abc"),
        st.integers(0, 3),
        st.floats(0, 20),
        st.none() | st.floats(-100, 100),
    ),
    max_size=60,
)


@given(STEPS)
def test_settles_what_a_plain_model_settles(steps: list[Any]) -> None:
    """Whatever the order of calls, a path is taken once, with its last state, and exactly when its wait is over."""
    settler, model, now = Settler(quiet_s=10), {}, 0.0
    for verb, path, number, passed, changed_at in steps:
        now += passed
        if verb == "feed":
            settler.feed(path, state(number), now, changed_at)
            if path not in model:
                model[path] = (state(number), min(now, now if changed_at is None else changed_at) + 10)
            elif model[path][0] != state(number):
                model[path] = (state(number), now + 10)
        elif verb == "forget":
            settler.forget(path)
            model.pop(path, None)
        else:
            expected = sorted((due, path, identity) for path, (identity, due) in model.items() if due <= now)
            model = {path: held for path, held in model.items() if held[1] > now}

            assert [(path, identity) for _, path, identity in expected] == settler.take_settled(now)

        assert min((due for _, due in model.values()), default=None) == settler.next_due()


def test_what_waits_takes_little() -> None:
    """Of 100,000 files that a restart finds, all may wait at once."""
    settler = Settler(quiet_s=30)
    count = 20_000
    tracemalloc.start()
    try:
        paths = [f"folder/file-{number:06}" for number in range(count)]
        identities = [Identity(1, number + 1000, 1, 10**18 + number, 10**18 + number) for number in range(count)]
        before = tracemalloc.get_traced_memory()[0]
        for path, identity in zip(paths, identities, strict=True):
            settler.feed(path, identity, now=float(identity.ino))
        waiting = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert count == len(settler)
    assert waiting / count < 140  # 157 with a value for the queue and one for the table
