"""Logs that grow as long as their run does: captured by whole records, once per commit, and no unit waits for one."""

import os
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs
from support.plain_server import PlainServer
from support.records import record
from support.rig import REPO, Rig, safetensors

from hubsync.wait import Wait, Wish

MakeRig = Callable[..., Rig]
EVENTS = "runs/events.out.tfevents.1700000000.host.1.0"
UNIT = "checkpoint-5"
INSIDE = f"{UNIT}/{EVENTS}"
LATER_S = 3600


@pytest.fixture
def local(make_rig: MakeRig) -> Rig:
    """Give a target without a mirror whose units are checkpoints."""
    return make_rig(units=("checkpoint-*",))


def append(rig: Rig, path: str, content: bytes) -> None:
    """Append as a writer does that is never quiet, and let the watch know: the file's time lies in the future."""
    file = rig.source / path
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as log:
        log.write(content)
    later = time.time() + LATER_S
    os.utime(file, (later, later))
    rig.pipeline.note(path)


def fall_quiet(rig: Rig, path: str) -> None:
    """Give a file the time at which it was written, and let the time of quiet go by."""
    os.utime(rig.source / path)
    rig.pipeline.note(path)
    time.sleep(2 * rig.config.targets[0].quiet_s)


def write_unit(rig: Rig) -> set[str]:
    files = {"model.safetensors": safetensors(100), "trainer_state.json": b"{}"}
    for name, content in files.items():
        rig.write(f"{UNIT}/{name}", content)
    return {f"{UNIT}/{name}" for name in files}


def committed(rig: Rig, path: str) -> bytes | None:
    """Return what the newest snapshot holds at *path*."""
    entry = rig.store.ledger.in_tree(path)
    if entry is None:
        return None
    [(_, content)] = rig.store.git.read_blobs([entry.blob])
    pointer = rig.store.pointers([entry.blob]).get(entry.blob)

    return rig.store.objects.path(pointer.oid).read_bytes() if pointer else content


def tree(rig: Rig, commit: str) -> set[str]:
    return set(rig.store.git.list_tree(commit))


# --- outside of units


def test_an_event_file_that_is_never_quiet_is_captured_by_whole_records(local: Rig) -> None:
    """Each commit takes what is whole by then, of whatever is being written; without anything new there is none."""
    first, second = record(b"brain.Event:2"), record(b"loss" * 10)
    append(local, EVENTS, first + second[:20])
    assert 1 == len(local.commit())
    assert first == committed(local, EVENTS)
    assert [] == local.commit()

    append(local, EVENTS, second[20:] + b"\x07")
    assert 1 == len(local.commit())
    assert first + second == committed(local, EVENTS)
    fall_quiet(local, EVENTS)
    assert [] == local.commit()


def test_a_thousand_appends_are_one_commit_of_one_read(local: Rig) -> None:
    """However often a log grows between two commits, it is captured once."""
    local.write("notes.txt")
    for number in range(500):
        append(local, EVENTS, record(b"%d" % number * 100))
        append(local, "train.log", b"%d\n" % number)
        local.pipeline.settle()

    with capture_logs() as entries:
        commits = local.commit()

    assert 1 == len(commits)
    assert {EVENTS, "train.log", "notes.txt"} == tree(local, commits[0])
    assert 3 == sum(entry["event"] == "file.captured" for entry in entries)


def test_an_object_of_a_log_does_not_grow_with_it(local: Rig) -> None:
    """It is a copy: a hard link would change with the log. Quiet or not, since a run may go on with its log."""
    append(local, EVENTS, record(b"one"))
    local.commit()
    fall_quiet(local, EVENTS)
    append(local, EVENTS, record(b"two"))
    fall_quiet(local, EVENTS)
    local.commit()
    held = {oid: local.store.objects.path(oid) for oid in local.held_objects()}
    contents = {oid: path.read_bytes() for oid, path in held.items()}

    append(local, EVENTS, record(b"three"))

    assert [1, 1] == [path.stat().st_nlink for path in held.values()]
    assert contents == {oid: path.read_bytes() for oid, path in held.items()}
    assert all(local.store.has_intact(oid) for oid in held)


@pytest.mark.parametrize("size", [10, 200])
@pytest.mark.parametrize("name", ["train.log", "trainer_log.jsonl", "eval/metrics.jsonl", "metrics.csv"])
def test_a_text_log_is_captured_by_whole_lines(make_rig: MakeRig, name: str, size: int) -> None:
    """A line that is being written waits for its end, or for the writer to be quiet; a large log is an object."""
    rig = make_rig(lfs={"threshold_bytes": 100})
    line = b"a" * size + b"\n"
    append(rig, name, line + b"hal")
    rig.commit()
    assert line == committed(rig, name)

    append(rig, name, b"f\n" + line)
    rig.commit()
    assert line + b"half\n" + line == committed(rig, name)

    append(rig, name, b"no end")
    assert [] == rig.commit()
    fall_quiet(rig, name)
    rig.commit()
    assert line + b"half\n" + line + b"no end" == committed(rig, name)


@pytest.mark.parametrize("name", ["data/train.jsonl", "catalogue.txt", "scores.csv", "logbook"])
def test_other_texts_wait_until_they_are_quiet(make_rig: MakeRig, name: str) -> None:
    """A data set is not published by halves, though it is written line by line."""
    rig = make_rig(quiet_s=LATER_S)
    append(rig, name, b"line\n")

    assert [] == rig.pipeline.commit()
    assert [name] == list(rig.pipeline.waiting())


@pytest.mark.parametrize("size", [10, 200])
def test_a_log_that_is_rewritten_waits_until_it_is_quiet(make_rig: MakeRig, size: int) -> None:
    """Only what was captured before proves that a log is appended to; a rewritten one might be half of itself."""
    rig = make_rig(lfs={"threshold_bytes": 100})
    append(rig, "train.log", b"a" * size + b"\n")
    rig.commit()
    with (rig.source / "train.log").open("r+b") as file:
        file.write(b"b")
    append(rig, "train.log", b"more\n")

    assert [] == rig.commit()
    assert "rewritten" in rig.pipeline.held()["train.log"]

    fall_quiet(rig, "train.log")
    rig.commit()
    assert b"b" + b"a" * (size - 1) + b"\nmore\n" == committed(rig, "train.log")
    assert {} == rig.pipeline.held()


def test_a_log_that_is_begun_anew_is_taken_as_it_is(local: Rig) -> None:
    """A log that was rotated away has a successor of its name, which is another file."""
    append(local, "train.log", b"old\n" * 3)
    local.commit()
    (local.source / "train.log").rename(local.source / "train.log.1")

    append(local, "train.log", b"new\n")
    local.commit()

    assert (b"new\n", b"old\n" * 3) == (committed(local, "train.log"), committed(local, "train.log.1"))


@pytest.mark.parametrize("content", [b"", b"no records at all", record(b"brain.Event:2")[:-1]])
def test_an_event_file_without_a_record_waits_alone(local: Rig, content: bytes) -> None:
    """There is nothing to publish yet (an empty one may be); it follows with its first record."""
    local.write("notes.txt")
    append(local, EVENTS, content)

    local.commit()
    assert committed(local, "notes.txt") is not None
    assert (None if content else b"") == committed(local, EVENTS)

    (local.source / EVENTS).write_bytes(b"")
    append(local, EVENTS, record(b"brain.Event:2"))
    local.commit()
    assert record(b"brain.Event:2") == committed(local, EVENTS)


def test_a_log_with_a_secret_is_held_back(local: Rig) -> None:
    """What a log has by now is looked at as any file is."""
    append(local, "train.log", b"token = hf_" + b"aBcDeFgHiJ" * 3 + b"Klmn\n")

    assert [] == local.commit()
    assert ["train.log"] == list(local.pipeline.held())


def test_a_log_is_known_after_a_restart(local: Rig) -> None:
    """It is not captured again as it is, and goes on where it was."""
    append(local, EVENTS, record(b"one"))
    local.commit()
    local.restart()
    assert [] == local.commit()

    append(local, EVENTS, record(b"two"))
    local.commit()

    assert record(b"one") + record(b"two") == committed(local, EVENTS)


def test_a_log_reaches_the_mirror_as_it_grows(server: PlainServer, make_rig: MakeRig) -> None:
    """Each publication brings what was captured."""
    rig = make_rig(server)
    for number in range(1, 4):
        append(rig, EVENTS, record(b"loss") + b"\1")
        os.truncate(rig.source / EVENTS, number * len(record(b"loss")))
        append(rig, EVENTS, b"")
        rig.update()
        assert {EVENTS: record(b"loss") * number} == server.read_all(REPO)


# --- inside of units


def test_a_unit_does_not_wait_for_its_log(local: Rig) -> None:
    """It goes with what its log has by then, in one commit; what comes after follows the schedule."""
    files = write_unit(local)
    append(local, INSIDE, record(b"one") + b"\1\2")
    local.settle()

    [commit] = local.pipeline.commit(units_only=True)
    assert files | {INSIDE} == tree(local, commit)
    assert record(b"one") == committed(local, INSIDE)

    os.truncate(local.source / INSIDE, len(record(b"one")))
    append(local, INSIDE, record(b"two"))
    local.settle()
    assert [] == local.pipeline.commit(units_only=True)
    assert 1 == len(local.pipeline.commit())
    assert record(b"one") + record(b"two") == committed(local, INSIDE)
    assert {} == local.pipeline.pending()


def test_a_log_waits_for_its_unit(local: Rig) -> None:
    """A unit enters the history in one commit, with its log."""
    files = write_unit(local)
    (local.source / UNIT / "trainer_state.json").unlink()
    append(local, INSIDE, record(b"one"))
    assert [] == local.commit()
    assert [f"{UNIT}/"] == list(local.pipeline.pending())

    local.write(f"{UNIT}/trainer_state.json", b"{}")
    [commit] = local.commit()

    assert files | {INSIDE} == tree(local, commit)


def test_a_log_without_a_record_does_not_hold_its_unit(local: Rig) -> None:
    """The unit goes without it."""
    files = write_unit(local)
    append(local, INSIDE, b"\1\2\3")

    [commit] = local.commit()

    assert files == tree(local, commit)


def test_a_log_alone_is_no_unit(local: Rig) -> None:
    """A directory that holds a log and nothing else completes nothing, and the log goes by the schedule."""
    append(local, "checkpoint-9/events.out.tfevents.1.host", record(b"one"))

    [commit] = local.commit()

    assert [()] == [snapshot.units for snapshot in local.store.backlog(None)]
    assert {"checkpoint-9/events.out.tfevents.1.host"} == tree(local, commit)


def test_a_revision_does_not_begin_with_a_log(make_rig: MakeRig) -> None:
    """A unit that is a branch of its own is whole from its first commit on, and its log grows there."""
    rig = make_rig(units=("checkpoint-*",), publish="revisions")
    append(rig, INSIDE, record(b"one"))
    assert [] == rig.commit()

    files = write_unit(rig)
    [commit] = rig.commit()
    assert files | {INSIDE} == tree(rig, commit)

    append(rig, INSIDE, record(b"two"))
    assert 1 == len(rig.commit())


# --- who waits


def test_waiting_for_all_does_not_wait_for_a_log_to_end(server: PlainServer, make_rig: MakeRig) -> None:
    """What was there at first is published; that the log has grown since is another matter."""
    rig = make_rig(server)
    append(rig, EVENTS, record(b"one"))
    wait = Wait(rig.work, Wish("run"))
    wait.begin()
    assert not wait.look().published
    rig.settle()
    rig.pipeline.commit()
    append(rig, EVENTS, record(b"two"))
    rig.settle()
    rig.publish()

    answer = wait.look()

    assert answer.published, answer
