"""Files that take minutes to read: nothing else waits for them, they are read once, and it is said how far they are."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.rig import Rig
from support.units import write_unit

from hubsync.config.rates import parse_rate
from hubsync.explain import describe, explain
from hubsync.monitor.screen import draw_status
from hubsync.monitor.status import DaemonStatus, Status, decode_status, encode_status, write_status
from hubsync.report import describe_target, summarize
from hubsync.service import hold_state
from hubsync.store.hashing import Costs, shared

MakeRig = Callable[..., Rig]
HUGE = "huge.bin"
HUGE_BYTES = 60_000_000
PATIENCE_S = 20.0


@pytest.fixture
def slow() -> Iterator[None]:
    """Let a megabyte be read in a second."""
    shared().declare(Costs(threads=2, rate=parse_rate("1MB/s")))
    yield
    shared().declare(Costs())


@pytest.fixture
def reading(make_rig: MakeRig, slow: None) -> Rig:
    """Give a target in which a part of a huge file was read."""
    del slow
    return begin(make_rig(units=("checkpoint-*",)))


def begin(rig: Rig) -> Rig:
    """Read a part of a huge file."""
    rig.write(HUGE, bytes(HUGE_BYTES))
    look(rig)
    settle_until(rig, lambda: bool(rig.pipeline.being_read()))
    return rig


def look(rig: Rig) -> None:
    """See what is there; it has been quiet for long enough."""
    rig.pipeline.take_inventory()
    time.sleep(0.03)


def settle_until(rig: Rig, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        rig.pipeline.settle()


def tree(rig: Rig) -> set[str]:
    head = rig.store.head()
    return set(rig.store.git.list_tree(head)) if head else set()


def commits(rig: Rig, path: str) -> bool:
    """Commit what was captured, and tell whether *path* is among it by now."""
    rig.pipeline.commit()
    return path in tree(rig)


def pins(rig: Rig) -> list[Path]:
    return list((rig.store.objects.directory.parent / "pins").iterdir())


def read_bytes(rig: Rig) -> int:
    return sum(one.read_bytes for one in rig.pipeline.being_read())


def test_what_comes_meanwhile_is_committed(reading: Rig) -> None:
    """A complete unit, and by schedule what lies beside it; then the huge file, of which no byte was read twice."""
    before = read_bytes(reading)
    write_unit(reading, 1)
    reading.write("notes.txt")
    look(reading)

    settle_until(reading, lambda: any(unit.completion.complete for unit in reading.pipeline._units.by_name.values()))
    reading.pipeline.commit(units_only=True)
    settle_until(reading, lambda: commits(reading, "notes.txt"))
    committed, left = tree(reading), read_bytes(reading)
    shared().declare(Costs())
    while not (settled := reading.pipeline.settle()).rest:
        pass
    assert settled.early
    reading.pipeline.commit()

    assert {"notes.txt", "checkpoint-1/model.safetensors"} <= committed
    assert HUGE not in committed
    assert before <= left < HUGE_BYTES
    assert HUGE in tree(reading)
    assert HUGE_BYTES <= reading.pipeline.reading.bytes < HUGE_BYTES + 100_000
    assert not reading.pipeline.settle().rest


def test_a_commit_gets_its_turn(reading: Rig) -> None:
    """Who asks for one waits for a moment's reading at most, however often the next one is begun."""
    reading.write("notes.txt")
    look(reading)
    is_over = threading.Event()
    settling = threading.Thread(target=lambda: [reading.pipeline.settle() for _ in iter(is_over.is_set, True)])
    settling.start()
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "notes.txt" not in tree(reading):
            assert time.monotonic() < deadline
            reading.pipeline.commit()
    finally:
        is_over.set()
        settling.join()

    assert read_bytes(reading)


def delete(file: Path) -> None:
    file.unlink()


def replace(file: Path) -> None:
    (file.parent / "new.tmp").write_bytes(b"new")
    (file.parent / "new.tmp").rename(file)


def rewrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"new")


def make_unreadable(file: Path) -> None:
    shutil.move(file, file.parent / ".git")
    file.symlink_to("/etc/passwd")


@pytest.mark.parametrize("change", [delete, replace, rewrite, make_unreadable])
@pytest.mark.parametrize("capture", ["auto", "copy"])
def test_what_is_gone_or_changed_is_not_read_on(
    make_rig: MakeRig, slow: None, change: Callable[[Path], None], capture: str
) -> None:
    """Its next turn ends at once, and nothing is left of what was read."""
    del slow
    rig = begin(make_rig(capture=capture))
    assert 1 == len(pins(rig))

    change(rig.source / HUGE)
    rig.pipeline.settle()

    assert () == rig.pipeline.being_read()
    assert [] == pins(rig)
    assert rig.pipeline.reading.bytes < HUGE_BYTES / 2


@pytest.mark.parametrize("capture", ["auto", "copy"])
def test_looks_do_not_make_it_begin_anew(make_rig: MakeRig, slow: None, capture: str) -> None:
    """Neither an event nor an inventory, which see that a link moved its ctime."""
    del slow
    rig = begin(make_rig(capture=capture))
    for _ in range(2):
        before = read_bytes(rig)
        rig.pipeline.note(HUGE)
        rig.pipeline.take_inventory()
        rig.pipeline.settle()
        assert read_bytes(rig) > before

    assert 1 == len(pins(rig))


@pytest.mark.parametrize("trouble", ["halted", "paused", "closed"])
def test_nothing_stays_open_when_it_does_not_go_on(reading: Rig, trouble: str) -> None:
    """A disk can be unmounted, and half a copy gives its room back."""
    if trouble == "halted":
        shutil.move(reading.source, reading.source.with_name("away"))
        reading.pipeline.take_inventory()
    elif trouble == "paused":
        reading.pipeline._guard._min_free_bytes = 1 << 62
    if trouble == "closed":
        reading.pipeline.close()
    else:
        reading.pipeline.settle()

    opened = {str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    assert not [name for name in opened if HUGE in name or "/pins/" in name]
    assert [] == pins(reading)


def test_a_copy_that_does_not_fit_is_held_before_it_is_read(make_rig: MakeRig, slow: None) -> None:
    """Also if it would fit alone, and if it would leave less than is to stay free; small ones are captured."""
    del slow
    rig = make_rig(capture="copy")
    free = rig.store.objects.free_bytes()
    begin(rig)
    rig.pipeline._capturing._capturer.min_free_bytes = free // 2
    sizes = {"all.bin": 2 * free, "least.bin": free * 6 // 10}  # each in its turn
    for name, size in sizes.items():
        with (rig.source / name).open("wb") as file:
            file.truncate(min(size, 400 * 10**9))
    rig.write("small.bin", b"\0")
    look(rig)
    settle_until(rig, lambda: sizes.keys() <= rig.pipeline.held().keys())

    assert {HUGE} == {one.path for one in rig.pipeline.being_read()}
    assert all("more than the store's disk has free above min_free" in rig.pipeline.held()[name] for name in sizes)
    assert "small.bin" in rig.pipeline._files.early

    rig.pipeline._capturing._capturer.min_free_bytes = 0
    rig.pipeline.commit()
    settle_until(rig, lambda: "least.bin" in rig.pipeline.unread())
    assert {"small.bin"} == tree(rig)


def test_two_copies_that_fit_only_one_by_one_are_not_made_at_once(make_rig: MakeRig, slow: None) -> None:
    """What the first will still take is not free for the second."""
    del slow
    rig = begin(make_rig(capture="copy"))
    rig.pipeline._capturing._capturer.min_free_bytes = rig.store.objects.free_bytes() - HUGE_BYTES * 3 // 2
    rig.write("second.bin", bytes(HUGE_BYTES))
    look(rig)
    settle_until(rig, lambda: "second.bin" in rig.pipeline.held() or len(rig.pipeline.being_read()) > 1)

    assert [HUGE] == [one.path for one in rig.pipeline.being_read()]


def test_it_is_said_what_is_read_and_how_far(reading: Rig) -> None:
    """In the status, its one line for systemd, to who waits, and by ``explain``, while a daemon runs and without one."""
    target = describe_target(reading.work, mode="events", is_paused=False)
    now = datetime.now(UTC)
    status = Status(DaemonStatus(os.getpid(), "1", now, now), (target,))
    (read,) = target.being_read
    far = f"{read.read_bytes / HUGE_BYTES:.0%}, {read.read_bytes / 1e6:.1f} MB of 60.0 MB"

    assert status == decode_status(encode_status(status))
    assert (HUGE, HUGE_BYTES) == (read.path, read.bytes)
    assert f"    reading {HUGE}: {far}" in draw_status(status, now, running=True).splitlines()
    assert f"t reads {HUGE}, {far}" in summarize(status).replace(target.name, "t")
    assert reading.pipeline.pending()[HUGE].reason.startswith("is being read: ")
    assert not reading.pipeline.pending()[HUGE].settled
    assert HUGE not in reading.pipeline.held()
    assert HUGE in reading.pipeline.unread()

    write_status((state_dir := reading.config.service.state_dir) / "status.json", status)
    with hold_state(state_dir):
        (running,) = explain(reading.config, str(reading.source / HUGE), reading.source)
    (ended,) = explain(reading.config, str(reading.source / HUGE), reading.source)
    assert f"settled and whole; is being read: {far}" == dict(describe(running))["state"]
    assert "settled and whole, not captured in this version yet" == dict(describe(ended))["state"]
