"""From files to snapshots and mirrors: what is taken, what waits and why, and what is never taken as a wish."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import NO_LOGIN, REPO, Rig, safetensors
from support.running import ROOT, write_config
from watchdog.events import FileOpenedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from hubsync.config.rates import parse_rate
from hubsync.errors import DiskFullError, HubsyncError
from hubsync.mirror.token import Tokens
from hubsync.once import Outcome, exit_code, run_once
from hubsync.pipeline import pipeline
from hubsync.store.hashing import Costs, shared
from hubsync.units import unit_of

MakeRig = Callable[..., Rig]
UNITS = ("checkpoint-*",)


@pytest.fixture
def local(make_rig: MakeRig) -> Rig:
    """Give a target without a mirror whose units are checkpoints."""
    return make_rig(units=UNITS)


def write_unit(rig: Rig, name: str) -> dict[str, bytes]:
    files = {
        "config.json": b"{}",
        "model-00001-of-00002.safetensors": safetensors(3000, b"\1"),
        "model-00002-of-00002.safetensors": safetensors(3000, b"\2"),
        "model.safetensors.index.json": json.dumps(
            {"weight_map": {str(n): f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}}
        ).encode(),
        "trainer_state.json": b'{"global_step": 1}',
    }
    for path, content in files.items():
        rig.write(f"{name}/{path}", content)
    return {f"{name}/{path}": content for path, content in files.items()}


def tree(rig: Rig, commit: str | None = None) -> set[str]:
    commit = commit or rig.store.head()
    return set(rig.store.git.list_tree(commit)) if commit else set()


def once(rig: Rig, **options: bool) -> Outcome:
    """Run the command in the place of the rig, which is closed for it."""
    rig.work.close()
    tokens = Tokens(NO_LOGIN)
    (outcome,) = run_once(rig.config, rig.config.targets, tokens, threading.Event(), timeout_s=20, **options)
    rig.restart()
    return outcome


# --- units


def test_a_unit_is_one_commit(local: Rig) -> None:
    """All files of a unit enter the history together; what lies beside it comes on its own."""
    files = write_unit(local, "checkpoint-1")
    local.write("notes.txt")

    first, second = local.commit()

    assert set(files) == tree(local, first)
    assert {*files, "notes.txt"} == tree(local, second)


@pytest.mark.parametrize("missing", ["model-00002-of-00002.safetensors", "trainer_state.json"])
def test_an_incomplete_unit_is_held_with_the_reason(local: Rig, missing: str) -> None:
    """Nothing of it is committed, the reason is said, and it goes as soon as what was missing comes."""
    files = write_unit(local, "checkpoint-1")
    (local.source / "checkpoint-1" / missing).unlink()
    local.write("notes.txt")

    local.commit()
    assert {"notes.txt"} == tree(local)
    assert ["checkpoint-1/"] == list(local.pipeline.held())
    assert "missing" in local.pipeline.held()["checkpoint-1/"]

    local.write(f"checkpoint-1/{missing}", files[f"checkpoint-1/{missing}"])
    local.commit()
    assert {*files, "notes.txt"} == tree(local)
    assert {} == local.pipeline.held()


def test_a_torn_shard_holds_its_unit(local: Rig) -> None:
    """A shard that is shorter than its header says keeps the whole unit back."""
    files = write_unit(local, "checkpoint-1")
    shard = local.source / "checkpoint-1/model-00001-of-00002.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)

    assert [] == local.commit()
    assert "model-00001" in local.pipeline.held()["checkpoint-1/"]

    local.write("checkpoint-1/model-00001-of-00002.safetensors", safetensors(3000, b"\1"))
    local.commit()
    assert set(files) == tree(local)


def test_a_shard_that_was_torn_and_is_mended_is_not_saved_again(local: Rig) -> None:
    """The marker is older than the mended shard, and says the truth all the same."""
    files = write_unit(local, "checkpoint-1")
    for path in files:
        local.pipeline.note(path)
    shard = "checkpoint-1/model-00001-of-00002.safetensors"
    os.truncate(local.source / shard, 100)
    local.pipeline.note(shard)
    assert [] == local.commit()
    local.write(shard, files[shard])
    local.pipeline.note(shard)

    assert 1 == len(local.commit())


def test_a_file_that_is_still_open_holds_its_unit(local: Rig) -> None:
    """It may be quiet for as long as a training computes; the rest of the unit is there."""
    write_unit(local, "checkpoint-1")
    with (local.source / "checkpoint-1/optimizer.raw").open("wb") as file:
        file.write(b"half of it")
        file.flush()
        local.commit()
        assert local.store.head() is None
        assert "open for writing" in local.pipeline.held()["checkpoint-1/"]
        file.write(b", and the rest")
    local.commit()

    assert "checkpoint-1/optimizer.raw" in local.store.list_tree(local.store.head() or "")


def test_a_temporary_file_that_is_being_written_holds_its_unit(local: Rig) -> None:
    """A writer at work in the directory is waited for; its temporary file is never published."""
    write_unit(local, "checkpoint-1")
    local.write("checkpoint-1/.tmpAb3dEf", b"\0")

    assert [] == local.commit()

    (local.source / "checkpoint-1/.tmpAb3dEf").unlink()
    local.commit()
    assert 5 == len(tree(local))


@pytest.mark.parametrize("temporary", ["default.orbax-checkpoint-tmp-3", "shards.tmp", "deep/er/tmpab12cd34"])
def test_a_temporary_directory_that_is_being_written_holds_its_unit(local: Rig, temporary: str) -> None:
    """Also if what is written in it has a final name; when it goes, nothing else has to happen."""
    files = write_unit(local, "checkpoint-1")
    local.write(f"checkpoint-1/{temporary}/a/weights.bin", b"\0")

    assert [] == local.commit()
    assert temporary in local.pipeline.held()["checkpoint-1/"]

    shutil.rmtree(local.source / "checkpoint-1" / temporary)
    local.pipeline.note(f"checkpoint-1/{temporary}")
    assert local.pipeline.settle().units
    local.pipeline.commit()
    assert set(files) == tree(local)


@pytest.mark.parametrize("temporary", ["__pycache__", ".cache/huggingface"])
def test_a_directory_of_another_program_holds_nothing(local: Rig, temporary: str) -> None:
    """It is never published, and no sign of a writer at work."""
    files = write_unit(local, "checkpoint-1")
    local.write(f"checkpoint-1/{temporary}/a", b"\0")

    local.commit()

    assert set(files) == tree(local)


def test_a_mark_beside_a_unit_holds_it_and_stays_here(local: Rig) -> None:
    """NeMo's empty file is there while it saves, however long that takes; when it goes, the unit is complete."""
    files = write_unit(local, "checkpoint-1")
    mark = local.write("checkpoint-1-unfinished", b"")
    assert [] == local.commit()

    mark.unlink()
    local.pipeline.note(mark.name)
    local.pipeline.settle()
    local.pipeline.commit()

    assert set(files) == tree(local)


def test_a_file_that_comes_after_the_judgement_is_not_taken_unsettled(make_rig: MakeRig) -> None:
    """A unit was complete, then its writer begins one more file: it is not published with half of that."""
    rig = make_rig(units=UNITS, quiet_s=0.3)
    files = write_unit(rig, "checkpoint-1")
    rig.settle()
    rig.write("checkpoint-1/half.txt", b"the first ha")

    assert [] == rig.pipeline.commit()

    rig.write("checkpoint-1/half.txt", b"the first half and the second")
    rig.commit()
    assert {*files, "checkpoint-1/half.txt"} == tree(rig)
    blob = rig.store.git.list_tree(rig.store.head() or "")["checkpoint-1/half.txt"].blob
    assert b"the first half and the second" == dict(rig.store.git.read_blobs([blob]))[blob]


def test_a_unit_that_grows_while_it_is_captured_is_not_published_in_two(make_rig: MakeRig) -> None:
    """A file that appears while another is read keeps the unit back; then all of it comes in one commit."""
    rig = make_rig(units=UNITS, lfs={"threshold_bytes": 1 << 40})
    files = write_unit(rig, "checkpoint-1")
    rig.write("checkpoint-1/vocabulary.txt", b"a" * 16_000_000)
    rig.settle()
    before = bytes_read()

    def write() -> None:
        while bytes_read() < before + 1_000_000:
            time.sleep(0)
        rig.write("checkpoint-1/late.txt", b"late")

    writer = threading.Thread(target=write)
    shared().declare(Costs(threads=2, rate=parse_rate("8MB/s")))  # so that the writer has its turn meanwhile
    writer.start()
    commits = rig.pipeline.commit()
    writer.join()
    shared().declare(Costs())

    commits += rig.commit()
    assert 1 == len(commits)
    assert {*files, "checkpoint-1/vocabulary.txt", "checkpoint-1/late.txt"} == tree(rig)


def bytes_read() -> int:
    """Return how many bytes this process has read, by the kernel's count."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_a_unit_that_is_saved_again_is_published_again(local: Rig) -> None:
    """A later save into the same directory is one more commit, whole again."""
    write_unit(local, "checkpoint-1")
    local.commit()
    for number in (1, 2):
        local.write(f"checkpoint-1/model-0000{number}-of-00002.safetensors", safetensors(4000, b"\3"))
    local.write("checkpoint-1/trainer_state.json", b'{"global_step": 2}')

    (commit,) = local.commit()

    changed = {change.path for change in local.store.git.diff_trees(f"{commit}^", commit)}
    assert 3 == len(changed)


def test_a_shard_that_is_saved_again_waits_for_its_marker(local: Rig) -> None:
    """However young the marker is: what was published tells that it is the old one. To touch a file changes nothing."""
    shard = "checkpoint-1/model-00001-of-00002.safetensors"
    write_unit(local, "checkpoint-1")
    local.commit()
    local.write(shard, safetensors(4000, b"\3"))

    assert [] == local.commit()

    assert "is not what was captured, but trainer_state.json is" in local.pipeline.held()["checkpoint-1/"]
    (local.source / "checkpoint-1/trainer_state.json").touch()
    assert 1 == len(local.commit())
    (local.source / shard).touch()
    assert ([], {}) == (local.commit(), local.pipeline.held())


def test_a_shard_that_is_saved_again_at_once_waits_for_its_marker(local: Rig) -> None:
    """Before the first save was published, and within the time that clocks may differ by: the order of changes tells."""
    for path in write_unit(local, "checkpoint-1"):
        local.pipeline.note(path)
    shard = "checkpoint-1/model-00001-of-00002.safetensors"
    local.write(shard, safetensors(4000, b"\3"))
    local.pipeline.note(shard)

    assert [] == local.commit()

    assert "was written before trainer_state.json, and after it" in local.pipeline.held()["checkpoint-1/"]
    local.write("checkpoint-1/trainer_state.json", b'{"global_step": 2}')
    assert 1 == len(local.commit())


@pytest.mark.parametrize("name", ["a\\b.json", b"\xff.json", "tokenizer.json"])
def test_a_unit_waits_for_a_file_that_cannot_be_taken(local: Rig, name: str | bytes) -> None:
    """A name that a Hub refuses, or a link that leads out of the source: the unit would lack it. Its mending is noticed."""
    write_unit(local, "checkpoint-1")
    file = local.source / "checkpoint-1" / os.fsdecode(name)
    if name == "tokenizer.json":
        file.symlink_to("/etc/hostname")
    else:
        file.write_text("{}")

    assert [] == local.commit()

    assert str(file.relative_to(local.source)) in local.pipeline.held()
    assert file.name in local.pipeline.held()["checkpoint-1/"]
    file.unlink()
    assert 1 == len(local.commit())


@pytest.mark.parametrize(
    ("unit", "subject"),
    [("checkpoint-500", "checkpoint-500: step 500, 5 files, "), ("checkpoint-a\n%41 b", "checkpoint-a?%41 b: 5 files, ")],
)
def test_a_commit_names_its_unit(local: Rig, unit: str, subject: str) -> None:
    """The message says step, files and bytes on one line; the unit is read back from it, whatever its name."""
    write_unit(local, unit)

    local.commit()

    [snapshot] = local.store.backlog(None)
    assert snapshot.message.startswith(subject), snapshot.message
    assert (unit,) == snapshot.units


def test_a_unit_that_vanishes_is_held_no_longer(local: Rig) -> None:
    """Rotated away before it was complete, a unit is forgotten."""
    write_unit(local, "checkpoint-1")
    (local.source / "checkpoint-1" / "trainer_state.json").unlink()
    local.write("notes.txt")
    local.commit()
    assert ["checkpoint-1/"] == list(local.pipeline.held())

    shutil.rmtree(local.source / "checkpoint-1")
    local.commit()

    assert {} == local.pipeline.held()
    local.pipeline.release([local.store.head()])
    assert set() == local.held_objects()


@pytest.mark.parametrize("told", ["checkpoint-1", "elsewhere", None])
def test_a_unit_that_goes_file_by_file_leaves_nothing_behind(local: Rig, told: str | None) -> None:
    """A trainer that rotates empties a directory before it removes it: either event, or an inventory, ends the wait."""
    write_unit(local, "checkpoint-1")
    (local.source / "checkpoint-1" / "trainer_state.json").unlink()
    local.settle()
    for path in (local.source / "checkpoint-1").iterdir():
        path.unlink()
        local.pipeline.note(f"checkpoint-1/{path.name}")
    assert local.pipeline.pending()

    (local.source / "checkpoint-1").rmdir()
    if told is None:
        local.pipeline.take_inventory()
    else:
        local.pipeline.note(told)

    assert {} == local.pipeline.pending()


def test_a_unit_that_stays_incomplete_is_reported(make_rig: MakeRig) -> None:
    """After its time a unit is said to be abandoned, once, with what is missing; it may still be completed."""
    rig = make_rig(units=UNITS, unit_timeout_s=0.05)
    files = write_unit(rig, "checkpoint-1")
    (rig.source / "checkpoint-1" / "trainer_state.json").unlink()

    with capture_logs() as entries:  # from the beginning: a slow machine may be late at once
        rig.settle()
        time.sleep(0.06)
        rig.pipeline.settle()
        rig.pipeline.settle()
    rig.write("checkpoint-1/trainer_state.json", b"{}")
    rig.commit()

    told = [entry for entry in entries if entry["event"] == "unit.abandoned"]
    assert [("checkpoint-1", ["trainer_state.json"])] == [(entry["unit"], entry["missing"]) for entry in told]
    assert set(files) == tree(rig)


def test_the_operators_signal_completes_a_unit(make_rig: MakeRig) -> None:
    """With ``complete_when`` nothing else does."""
    rig = make_rig(units=("step-*",), complete_when=("_SUCCESS",))
    rig.write("step-1/data.txt", b"1")
    assert [] == rig.commit()

    rig.write("step-1/_SUCCESS", b"")
    rig.commit()

    assert {"step-1/data.txt", "step-1/_SUCCESS"} == tree(rig)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("checkpoint-1/a", "checkpoint-1"),
        ("checkpoint-1/deep/a", "checkpoint-1"),
        ("run/checkpoint-1/a", "run/checkpoint-1"),
        ("checkpoint-1/checkpoint-2/a", "checkpoint-1"),
        ("checkpoint-1", None),
        ("other/a", None),
    ],
)
def test_a_path_belongs_to_the_topmost_unit_above_it(local: Rig, path: str, unit: str | None) -> None:
    """A pattern names directories, at any depth; what lies deeper belongs to the outermost."""
    assert unit == unit_of(local.config.targets[0], path)


# --- single files


def test_temporary_names_are_never_taken(local: Rig) -> None:
    """Whatever their content, what writers name for the time being stays here."""
    names = ("a.tmp", "b.partial", "c.incomplete", ".tmpAb3dEf", "d.lock", ".e.swp", "f~", "tmp-checkpoint-7/g",
             ".h.Ab3dEf", ".nfs0001", ".cache/i", "__pycache__/j.pyc", ".git/config", ".gitattributes")  # fmt: skip
    for name in names:
        local.write(name, b"content")
    local.write("real.txt")

    local.commit()

    assert {"real.txt"} == tree(local)


def test_a_half_written_file_waits_alone(local: Rig) -> None:
    """A torn JSON file is held with the reason; everything else goes, and it follows once it parses."""
    local.write("config.json", b'{"half": ')
    local.write("notes.txt")
    local.write("good.json", b"{}")

    local.commit()
    assert {"notes.txt", "good.json"} == tree(local)
    assert "JSON" in local.pipeline.held()["config.json"]

    local.write("config.json", b'{"half": 1}')
    local.commit()
    assert {"notes.txt", "good.json", "config.json"} == tree(local)
    assert {} == local.pipeline.held()


def test_a_pointer_without_its_content_waits_alone(local: Rig) -> None:
    """A clone without its objects would publish dangling pointers: they are refused, said once, and named as held."""
    local.write("model.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 5\n")
    local.write("notes.txt")

    with capture_logs() as entries:
        local.commit()
        local.commit()

    assert {"notes.txt"} == tree(local)
    assert ["model.bin"] == [entry["path"] for entry in entries if entry["event"] == "file.rejected"]
    assert ["model.bin"] == list(local.pipeline.held())


@pytest.mark.parametrize("torn", [False, True])
def test_a_sharded_index_outside_of_units_waits_for_its_shards(make_rig: MakeRig, torn: bool) -> None:  # noqa: FBT001 - a fact
    """An index is published when every shard that it names is there and whole: no reader finds one without."""
    rig = make_rig()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    rig.write("model.safetensors.index.json", json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode())
    rig.write(shards[0], safetensors(100, b"\1"))
    if torn:
        rig.write(shards[1], safetensors(100, b"\2")[:-1])

    rig.commit()
    assert {shards[0]} == tree(rig)
    assert shards[1] in rig.pipeline.held()["model.safetensors.index.json"]

    rig.write(shards[1], safetensors(100, b"\2"))
    rig.commit()
    rig.commit()
    assert {*shards, "model.safetensors.index.json"} == tree(rig)
    assert {} == rig.pipeline.held()


def test_a_file_that_is_written_all_the_time_waits(make_rig: MakeRig) -> None:
    """As long as it changes it is waited for, and counted as still being written; others are not."""
    rig = make_rig(quiet_s=0.5)  # longer than a busy machine lets the loop wait
    rig.write("notes.txt")
    log = rig.source / "train.txt"
    while not tree(rig):
        with log.open("a") as file:
            file.write("line\n")
        rig.pipeline.take_inventory()
        rig.pipeline.settle()
        rig.pipeline.commit()
        time.sleep(0.02)

    assert {"notes.txt"} == tree(rig)
    assert ["train.txt"] == list(rig.pipeline.waiting())
    rig.commit()
    assert {"notes.txt", "train.txt"} == tree(rig)


def test_an_event_is_enough(make_rig: MakeRig) -> None:
    """A path that was noted settles and is committed without an inventory, and its removal is followed."""
    rig = make_rig()
    rig.write("sub/a.txt")
    for path in ("sub/a.txt", "gone.txt", "sub/.tmpAb3dEf", "sub"):
        rig.pipeline.note(path)
    time.sleep(0.03)
    rig.pipeline.settle()
    assert 1 == rig.pipeline.count_settled()

    rig.pipeline.commit()

    assert {"sub/a.txt"} == tree(rig)
    assert 0 == rig.pipeline.count_settled()


def test_files_that_go_or_change_as_they_settle_disturb_no_other(local: Rig) -> None:
    """What no event has told of yet is seen when it is to be captured early."""
    paths = [f"checkpoint-1/{number}.bin" for number in range(4)]
    for path in paths:
        local.write(path, b"\0")
        local.pipeline.note(path)
    time.sleep(0.03)
    (local.source / paths[0]).unlink()
    local.write(paths[1], b"\0\1")

    assert local.pipeline.settle().early
    assert paths[2:] == list(local.pipeline.settled())


@pytest.mark.parametrize("names", [["last.bin"], ["1.bin", "2.bin", "3.bin", "last.bin"]])
def test_nobody_waits_while_a_file_is_read(local: Rig, names: list[str], request: pytest.FixtureRequest) -> None:
    """A large file on a slow disk: how far it is can be asked, and what was captured before it can be committed."""
    request.addfinalizer(lambda: shared().declare(Costs()))
    shared().declare(Costs(threads=1, rate=parse_rate("1MB/s")))
    for name in names:
        local.write(name, bytes(60_000_000 if name == "last.bin" else 1_000_000))
    local.pipeline.take_inventory()
    time.sleep(0.03)
    steps: list[bool] = []
    settling = threading.Thread(target=lambda: steps.extend(iter(lambda: local.pipeline.settle().early, False)))
    settling.start()
    while local.pipeline.reading.bytes < 500_000 * (2 * len(names) - 1):
        time.sleep(0.01)

    waiting = set(local.pipeline.pending())
    was_reading = settling.is_alive()
    shared().declare(Costs())
    settling.join()

    assert set(names) == waiting
    assert was_reading
    assert len(steps) >= min(2, len(names))


def test_a_unit_that_is_complete_waits_for_no_other_file(local: Rig, request: pytest.FixtureRequest) -> None:
    """It is committed before the next of the large files is read, which may take minutes."""
    request.addfinalizer(lambda: shared().declare(Costs()))
    shared().declare(Costs(threads=1, rate=parse_rate("1MB/s")))
    write_unit(local, "checkpoint-1")
    (local.source / "checkpoint-1/trainer_state.json").unlink()
    for name in ("y.bin", "z.bin"):
        local.write(name, bytes(1_700_000))  # the first half second's worth is read at once
    local.pipeline.take_inventory()
    time.sleep(0.03)
    assert local.pipeline.settle().early
    assert local.pipeline.has_early()

    local.write("checkpoint-1/trainer_state.json", b'{"global_step": 1}')
    local.pipeline.note("checkpoint-1/trainer_state.json")
    time.sleep(0.03)
    settled = local.pipeline.settle()

    assert settled.units
    assert not settled.early


def test_a_complete_unit_is_published_once_there_is_room_to_read_it(local: Rig, request: pytest.FixtureRequest) -> None:
    """It was judged while nothing could be captured; its large files take more than one turn after that."""
    request.addfinalizer(lambda: shared().declare(Costs()))
    shared().declare(Costs(threads=1, rate=parse_rate("1MB/s")))
    local.pipeline._guard._min_free_bytes = 1 << 62
    assert [] == local.pipeline.commit()
    write_unit(local, "checkpoint-1")
    for name in ("y.bin", "z.bin"):
        local.write(f"checkpoint-1/{name}", bytes(1_700_000))  # the first half second's worth is read at once
    local.pipeline.take_inventory()
    time.sleep(0.03)
    assert local.pipeline.settle().units

    local.pipeline._guard._min_free_bytes = 1
    assert not local.pipeline.settle().units
    shared().declare(Costs())
    while local.pipeline.has_early():
        settled = local.pipeline.settle()

    assert settled.units


def test_a_batch_is_bounded(make_rig: MakeRig) -> None:
    """Loose files fill commits of the size that the config allows; a unit is never split."""
    rig = make_rig(units=UNITS, batch={"max_files": 3, "max_bytes": 1_000_000_000})
    files = write_unit(rig, "checkpoint-1")
    for number in range(7):
        rig.write(f"{number}.txt", str(number).encode())

    commits = rig.commit()

    sizes = [len(step) for step in rig.store.git.diff_line(commits)]
    assert [len(files), 3, 3, 1] == sizes


def _count_packs(rig: Rig) -> int:
    return len(list(rig.store.git.git_dir.glob("objects/pack/*.pack")))


def test_each_writer_takes_very_many_files(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a program, which leaves one pack; if twice as many files are all there is, no second one is started."""
    monkeypatch.setattr(pipeline, "_WRITTEN_AT_ONCE", 4)
    rig = make_rig(batch={"max_files": 2, "max_bytes": 1_000_000_000})
    packs = []
    for count in (8, 10):
        for number in range(count):
            rig.write(f"{number}.txt", f"{count} {number}".encode())
        before = _count_packs(rig)
        assert count // 2 == len(rig.commit())
        packs.append(_count_packs(rig) - before)

    assert [1, 3] == packs


def test_too_little_free_space_pauses_capture(local: Rig) -> None:
    """Nothing is captured or committed below the limit, which is said once; then it goes on."""
    write_unit(local, "checkpoint-1")
    local.write("notes.txt")
    local.pipeline._guard._min_free_bytes = 1 << 62

    with capture_logs() as entries:
        assert [] == local.commit()
        assert [] == local.commit()
        assert set() == local.held_objects()
        local.pipeline._guard._min_free_bytes = local.store.free_bytes() * 98 // 100  # as much is free, but not 5 % more
        assert [] == local.commit()
        local.pipeline._guard._min_free_bytes = 1
        local.commit()

    told = [entry["event"] for entry in entries if entry["event"].startswith("capture.")]
    assert ["capture.paused", "capture.resumed"] == told
    assert 6 == len(tree(local))


def test_nothing_is_opened_or_asked_when_nothing_changed(server: PlainServer, make_rig: MakeRig) -> None:
    """After a restart an unchanged source is listed, and no file in it opened; no commit, no request."""
    rig = make_rig(server, units=UNITS)
    write_unit(rig, "checkpoint-1")
    rig.write("notes.txt")
    rig.update()
    rig.work.release()
    history = server.history(REPO)
    server.requests.clear()
    opened: list[str] = []

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if isinstance(event, FileOpenedEvent):
                opened.append(os.fsdecode(event.src_path))

    observer = Observer()
    observer.schedule(Handler(), str(rig.source), recursive=True)
    observer.start()
    try:
        rig.restart()
        assert [] == rig.commit()
        assert rig.publish() is None
        assert [] == server.requests
        assert history == server.history(REPO)
        (rig.source / "notes.txt").read_bytes()  # what the probe would have seen
        deadline = time.monotonic() + 10
        while not opened and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        observer.stop()
        observer.join()

    assert [str(rig.source / "notes.txt")] == opened


# --- what is gone


def test_a_vanished_source_halts_and_deletes_nothing(server: PlainServer, make_rig: MakeRig) -> None:
    """An unmounted disk is no wish: the target halts with an error, and resumes when the source is back."""
    rig = make_rig(server, deletes="propagate")
    for number in range(4):
        rig.write(f"{number}.txt", b"x")
    rig.update()
    away = rig.source.with_name("away")
    rig.write("late.txt", b"x")
    rig.pipeline.note("late.txt")

    rig.source.rename(away)
    assert [] == rig.commit()
    assert rig.pipeline.halted is not None
    assert rig.pipeline.next_due() is None  # what was not quiet yet
    rig.source.mkdir()
    assert [] == rig.commit()
    assert "empty" in str(rig.pipeline.halted)
    rig.source.rmdir()
    away.rename(rig.source)
    rig.write("new.txt", b"x")
    rig.update()

    assert rig.pipeline.halted is None
    assert {*(f"{number}.txt" for number in range(4)), "late.txt", "new.txt"} == set(server.read_all(REPO))


def test_an_emptied_source_is_not_a_wish_either(server: PlainServer, make_rig: MakeRig) -> None:
    """With ``once`` it is a failure, the files stay on the mirror, and the exit code is not 0."""
    rig = make_rig(server, deletes="propagate")
    rig.write("a.txt", b"x")
    rig.update()
    (rig.source / "a.txt").unlink()

    outcome = once(rig)

    assert ["source"] == list(outcome.failed)
    assert 1 == exit_code([outcome])
    assert {"a.txt": b"x"} == server.read_all(REPO)


def test_deletions_are_kept_by_default(server: PlainServer, make_rig: MakeRig) -> None:
    """A trainer that rotates its checkpoints deletes nothing on the mirror."""
    rig = make_rig(server, units=UNITS)
    files = write_unit(rig, "checkpoint-1")
    rig.update()
    shutil.rmtree(rig.source / "checkpoint-1")
    files |= write_unit(rig, "checkpoint-2")
    rig.update()

    assert files == server.read_all(REPO)


def test_deletions_are_propagated_if_declared(server: PlainServer, make_rig: MakeRig) -> None:
    """A file that is gone here is removed there, with its own commit; what is there again is not."""
    rig = make_rig(server, deletes="propagate")
    for name in ("a", "b", "c", "d"):
        rig.write(f"{name}.txt", b"x")
    rig.update()
    (rig.source / "a.txt").unlink()
    rig.pipeline.note("a.txt")
    (rig.source / "b.txt").unlink()
    rig.pipeline.note("b.txt")
    rig.write("b.txt", b"back")

    rig.update()

    assert {"b.txt": b"back", "c.txt": b"x", "d.txt": b"x"} == server.read_all(REPO)


def test_a_deletion_that_was_seen_before_a_restart_is_propagated(server: PlainServer, make_rig: MakeRig) -> None:
    """Noted, but not committed when hubsync was killed, a deletion still reaches the mirror."""
    rig = make_rig(server, deletes="propagate")
    for name in ("a", "b", "c"):
        rig.write(f"{name}.txt", b"x")
    rig.update()
    (rig.source / "a.txt").unlink()
    rig.pipeline.note("a.txt")
    rig.restart()

    rig.update()

    assert {"b.txt": b"x", "c.txt": b"x"} == server.read_all(REPO)


def test_what_is_sent_while_the_source_is_away_is_not_read_again(server: PlainServer, make_rig: MakeRig) -> None:
    """Its pins are dropped all the same, and what that does to the files is known when the source is back."""
    rig = make_rig(server, units=("checkpoint-*",), capture="link")
    write_unit(rig, "checkpoint-1")
    rig.commit()
    away = rig.source.with_name("away")

    rig.source.rename(away)
    rig.publish()
    assert 2 == len(rig.held_objects())
    rig.work.release()
    assert set() == rig.held_objects()
    assert not rig.pipeline.take_inventory()
    away.rename(rig.source)
    assert rig.pipeline.take_inventory()

    assert {} == rig.pipeline.pending()
    assert rig.pipeline.next_due() is None


def test_what_no_mirror_has_yet_is_not_said_to_be_published(make_rig: MakeRig) -> None:
    """Of a source that lost its files the captured ones are counted, wherever they are by then."""
    rig = make_rig(deletes="propagate")
    for number in range(5):
        rig.write(f"{number}.txt", b"x")
    rig.commit()

    for left in (2, 0):
        for number in range(left, 5):
            (rig.source / f"{number}.txt").unlink(missing_ok=True)
        assert [] == rig.commit()
        assert f"captured{' paths' * bool(left)}" in str(rig.pipeline.halted)
        assert "published" not in str(rig.pipeline.halted)


def test_a_large_deletion_halts_until_it_is_confirmed(server: PlainServer, make_rig: MakeRig) -> None:
    """More than half of the paths at once is an accident until a person says otherwise, also after a restart.

    The hint names each step: what confirms it is refused while the service runs.
    """
    rig = make_rig(server, deletes="propagate")
    for number in range(5):
        rig.write(f"{number}.txt", b"x")
    rig.update()
    for number in range(3):
        (rig.source / f"{number}.txt").unlink()

    assert [] == rig.commit()
    assert rig.pipeline.halted is not None
    hint = rig.pipeline.halted.hint
    steps = ("stop the service", "`hubsync once run --confirm-deletes`", "start it again")
    assert sorted(map(hint.index, steps)) == [hint.index(step) for step in steps]
    assert [] == rig.commit()
    outcome = once(rig)
    assert ["source"] == list(outcome.failed)
    assert 5 == len(server.read_all(REPO))

    outcome = once(rig, confirm_deletes=True)

    assert outcome.is_done, outcome
    assert {"3.txt": b"x", "4.txt": b"x"} == server.read_all(REPO)
    assert {} == once(rig).failed


def test_a_confirmed_deletion_in_a_running_pipeline(make_rig: MakeRig) -> None:
    """A halted target commits what is gone when it is told to, and goes on."""
    rig = make_rig(deletes="propagate")
    for number in range(4):
        rig.write(f"{number}.txt", b"x")
    rig.commit()
    for number in range(3):
        (rig.source / f"{number}.txt").unlink()
    rig.commit()

    rig.commit(confirm_deletes=True)
    assert {"3.txt"} == tree(rig)

    rig.write("new.txt")
    rig.commit()
    assert {"3.txt", "new.txt"} == tree(rig)
    assert rig.pipeline.halted is None


def test_an_unreadable_directory_is_not_a_deletion(server: PlainServer, tmp_path: Path) -> None:
    """What may not be listed may still be there: it stays on the mirror, though deletions are propagated."""
    prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if prefix and shutil.which(prefix[0]) is None:
        pytest.skip("root may read everything, and there is no setpriv to give that up")
    source = tmp_path / "source"
    (source / "closed").mkdir(parents=True)
    for name in ("closed/a.txt", "b.txt", "c.txt", "d.txt"):
        (source / name).write_bytes(b"x")
    config = write_config(
        tmp_path / "hubsync.toml", source, {f'url = "{server.url}"': REPO}, deletes='"propagate"', quiet='"20ms"'
    )
    argv = [*prefix, sys.executable, "-m", "hubsync", "once", "-c", str(config)]
    environment = {**os.environ, **NO_LOGIN}
    subprocess.run(argv, cwd=ROOT, env=environment, check=True, capture_output=True)
    (source / "closed").chmod(0)
    (source / "d.txt").unlink()

    said = subprocess.run(argv, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    (source / "closed").chmod(0o755)

    assert {"closed/a.txt", "b.txt", "c.txt"} == set(server.read_all(REPO)), said.stderr
    assert "closed" in said.stderr


# --- once


def test_once_brings_everything_there(server: PlainServer, make_rig: MakeRig) -> None:
    """Settled, captured, committed, published and released in one go."""
    rig = make_rig(server, units=UNITS)
    files = write_unit(rig, "checkpoint-1")
    rig.write("notes.txt", b"x")

    outcome = once(rig)

    assert (2, {}, {}, 0) == (len(outcome.commits), outcome.held, outcome.failed, exit_code([outcome]))
    assert files | {"notes.txt": b"x"} == server.read_all(REPO)
    assert set() == rig.held_objects()


def test_once_says_what_did_not_get_through(server: PlainServer, make_rig: MakeRig) -> None:
    """What is held is listed with its reason, the rest is published, and the exit code says that something is left."""
    rig = make_rig(server, units=UNITS)
    write_unit(rig, "checkpoint-1")
    (rig.source / "checkpoint-1/trainer_state.json").unlink()
    rig.write("half.json", b"{")
    rig.write("notes.txt", b"x")

    outcome = once(rig)

    assert {"checkpoint-1/", "half.json"} == set(outcome.held)
    assert (1, False) == (exit_code([outcome]), outcome.is_done)
    assert {"notes.txt": b"x"} == server.read_all(REPO)


@pytest.mark.parametrize(("status", "code"), [(401, 77), (403, 77), (404, 1)])
def test_once_ends_with_the_kind_of_the_failure(server: PlainServer, make_rig: MakeRig, status: int, code: int) -> None:
    """A mirror that refuses is named, and the exit code tells a refused token from other failures."""

    def refuse(request: Request) -> None:
        if "/info/refs" in request.path:
            raise AnswerError(status)

    server.before = refuse
    rig = make_rig(server)
    rig.write("a.txt")

    outcome = once(rig)

    assert ["m0"] == list(outcome.failed)
    assert code == exit_code([outcome])
    assert 1 == len(outcome.commits)


def test_once_goes_on_with_other_mirrors(server: PlainServer, make_rig: MakeRig, tmp_path: Path) -> None:
    """One mirror that refuses keeps nothing from another, and a later run brings it up."""
    with PlainServer(tmp_path / "second") as second:
        rig = make_rig(server, second)
        rig.write("model.bin", b"\0x")

        outcome = once(rig)
        assert ["m1"] == list(outcome.failed)
        assert {"model.bin": b"\0x"} == server.read_all(REPO)
        second.create(REPO)
        outcome = once(rig)

        assert outcome.is_done
        assert {"model.bin": b"\0x"} == second.read_all(REPO)


def test_once_sends_while_it_reads(server: PlainServer, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is captured goes up while other files are read: the last one is read slowly until the first is there."""
    monkeypatch.setattr("hubsync.pipeline.intake._EARLY_BYTES", 1)
    monkeypatch.setattr("hubsync.once._SHORT_S", 0)
    rig = make_rig(server)
    rig.config = rig.config.model_copy(
        update={"service": rig.config.service.model_copy(update={"read_rate": parse_rate("1MB/s")})}
    )
    files = {f"{number}.bin": bytes([0, number]) * 1000 for number in range(3)} | {"last.bin": bytes(30_000_000)}
    for path, content in files.items():
        rig.write(path, content)
    pinned_at_first: list[int] = []

    def look(request: Request) -> None:
        if request.host == "storage" and not pinned_at_first:
            pinned_at_first.append(len(rig.held_objects()))
            shared().declare(Costs())

    server.before = look

    outcome = once(rig)

    assert outcome.is_done
    assert files == server.read_all(REPO)
    assert pinned_at_first[0] < len(files)


def test_once_lets_no_mirror_wait_for_another(
    server: PlainServer, make_rig: MakeRig, second: PlainServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes its time with what is sent early has no part in what becomes of the other."""
    monkeypatch.setattr("hubsync.pipeline.intake._EARLY_BYTES", 1)
    monkeypatch.setattr("hubsync.once._SHORT_S", 0)
    rig = make_rig(server, second)
    for number in range(5):
        rig.write(f"{number}.bin", bytes([0, number]))
    is_pushed, was_pushed = threading.Event(), []
    second.after = lambda request: is_pushed.set() if request.is_push else None
    server.before = lambda request: was_pushed.append(is_pushed.wait(30)) if request.host == "storage" else None

    assert once(rig).is_done
    assert all(was_pushed)


def test_the_exit_code_is_that_of_the_only_kind_of_failure() -> None:
    """Different kinds, or something held beside a failure, are just 1; a full disk has its own code."""
    full = Outcome("a", failed={"source": DiskFullError("no room")})
    other = Outcome("b", failed={"source": HubsyncError("broken")})
    held = Outcome("c", held={"x": "why"})

    codes = [exit_code(outcomes) for outcomes in ([], [full], [full, other], [held], [full, held])]

    assert [0, 73, 1, 1, 1] == codes
