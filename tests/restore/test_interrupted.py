"""What goes wrong meanwhile: killed, cut off, given other bytes. It ends whole, or says why and goes on the next time."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from restore.conftest import Restorer, noise, put, put_plain, read
from support.plain_server import AnswerError, CutError, PlainServer, Request
from support.rig import REPO

from hubsync.errors import MirrorError
from hubsync.localhub import LocalHub
from hubsync.localhub.objects import object_path
from hubsync.restore import choice, pieces
from hubsync.restore.staging import DestinationError

MakeRestorer = Callable[..., Restorer]
Hubs = Callable[[], LocalHub]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon: what is tested is that it does."""
    monkeypatch.setattr(choice, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(choice, "MOST_FAILURES", 4)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let objects come in parts that are small enough for a test."""
    monkeypatch.setattr(pieces, "PART_BYTES", 100_000)
    return 100_000


def stored(hub: LocalHub, content: bytes) -> Path:
    """Return where a Hub keeps an object."""
    return object_path(hub.directory / "models" / f"{REPO}.git" / "lfs" / "objects", hashlib.sha256(content).hexdigest())


def bytes_out(hub: LocalHub) -> int:
    """Return how many bytes of objects a Hub has sent."""
    return sum(request.bytes_out for request in hub.requests if request.path.startswith("/_lfs/"))


def test_a_killed_restore_goes_on_where_it_was(hubs: Hubs, tmp_path: Path) -> None:
    """What is on the disk is not got again, and DEST is not there before all of it is."""
    hub, files = hubs(), {f"{n}.bin": noise(3_000_000) for n in range(4)}
    put(hub, files)
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "hubsync", "restore", "--repo", REPO, "--endpoint", hub.url, str(out), "--json"]
    environment = {**os.environ, "HF_TOKEN": hub.token}
    hub.add_fault("GET /_lfs/* rate=1MB/s")
    with subprocess.Popen(argv, cwd=ROOT, env=environment) as first:
        held = tmp_path / ".out.partial" / "pieces"
        while not held.is_dir() or sum(path.stat().st_size for path in held.iterdir()) < 6_000_000:
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
    had = sum(path.stat().st_size for path in held.iterdir())
    assert not out.exists()
    hub.clear_faults()

    second = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)

    assert files == read(out)
    assert 12_000_000 - had == json.loads(second.stdout)["got_bytes"]
    assert not held.exists()


def test_large_objects_come_in_parts_and_go_on_by_parts(
    restorer: MakeRestorer, hubs: Hubs, small_parts: int, tmp_path: Path
) -> None:
    """What came of each part counts."""
    hub, content = hubs(), noise(1_234_567)
    put(hub, {"a.bin": content})
    hub.add_fault("GET /_lfs/* reset-after=50000 after=4")
    attempt = restorer(hub)
    with pytest.raises(MirrorError):
        attempt(tmp_path / "out")
    before = attempt.meter.got
    hub.clear_faults()

    done = attempt(tmp_path / "out")

    assert {"a.bin": content} == read(tmp_path / "out")
    assert before >= 4 * small_parts
    assert len(content) == before + done.got_bytes


def test_a_server_without_ranges_is_good_enough(
    restorer: MakeRestorer, server: PlainServer, small_parts: int, tmp_path: Path
) -> None:
    """It sends the whole object again; nothing is mixed up."""
    content = noise(5 * small_parts + 1)
    put_plain(server, {"a.bin": content})
    cuts = iter([CutError()])

    def cut(request: Request) -> None:
        if request.host == "storage" and (error := next(cuts, None)):
            raise error

    server.before = cut
    restorer(server)(tmp_path / "out")

    assert {"a.bin": content} == read(tmp_path / "out")


def test_the_next_mirror_goes_on_when_one_dies(
    restorer: MakeRestorer, hubs: Hubs, small_parts: int, tmp_path: Path
) -> None:
    """In the middle of an object, with what came of it."""
    dying, well = hubs(), hubs()
    content = noise(20 * small_parts)
    for hub in (dying, well):
        put(hub, {"a.bin": content})
    dying.add_fault("GET /_lfs/* reset-after=20000 after=3")

    done = restorer(dying, well)(tmp_path / "out")

    assert {"a.bin": content} == read(tmp_path / "out")
    assert len(content) == done.got_bytes


def test_other_bytes_are_got_again_from_another_mirror(restorer: MakeRestorer, hubs: Hubs, tmp_path: Path) -> None:
    """A mirror that gives wrong bytes of the right length is not believed."""
    wrong, right = hubs(), hubs()
    content = noise(300_000)
    for hub in (wrong, right):
        put(hub, {"a.bin": content})
    stored(wrong, content).write_bytes(noise(300_000))
    right.add_fault("GET *refs* delay=300ms")  # so that the other one is asked first

    restorer(wrong, right)(tmp_path / "out")

    assert {"a.bin": content} == read(tmp_path / "out")


@pytest.mark.parametrize("damage", ["other", "shorter", "gone"])
def test_without_another_mirror_wrong_bytes_are_a_failure(
    restorer: MakeRestorer, hubs: Hubs, tmp_path: Path, damage: str
) -> None:
    """Nothing of it appears; when the mirror is mended, the same command succeeds."""
    hub, content = hubs(), noise(300_000)
    put(hub, {"a.bin": content, "b.txt": b"b"})
    path = stored(hub, content)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(noise(300_000 if damage == "other" else 100))

    with pytest.raises(MirrorError):
        restorer(hub)(tmp_path / "out")
    assert not (tmp_path / "out").exists()

    path.write_bytes(content)
    restorer(hub)(tmp_path / "out")
    assert {"a.bin": content, "b.txt": b"b"} == read(tmp_path / "out")


@pytest.mark.parametrize("size", [300_000, 100])
def test_a_damaged_object_is_said_to_be_that(
    restorer: MakeRestorer, server: PlainServer, tmp_path: Path, size: int
) -> None:
    """The Hub itself is well: the file, the mirror and another mirror are what to speak of."""
    content = noise(300_000)
    put_plain(server, {"sub/a.bin": content})
    server.objects[hashlib.sha256(content).hexdigest()] = noise(size)

    with pytest.raises(MirrorError, match=r"sub/a\.bin: the object on m0 does not have the bytes") as raised:
        restorer(server)(tmp_path / "out")

    assert ("lost", False, 1) == (raised.value.error_kind, raised.value.retryable, raised.value.status)
    assert "another mirror" in raised.value.hint


def test_bytes_that_were_spoiled_on_the_disk_are_got_again(restorer: MakeRestorer, hubs: Hubs, tmp_path: Path) -> None:
    """What a former run left is hashed again before it counts."""
    hub, files = hubs(), {"a.bin": noise(200_000), "b.bin": noise(200_000)}
    put(hub, files)
    stored(hub, files["b.bin"]).unlink()
    with pytest.raises(MirrorError):
        restorer(hub)(tmp_path / "out")
    kept = tmp_path / ".out.partial" / "pieces" / hashlib.sha256(files["a.bin"]).hexdigest()
    kept.write_bytes(noise(200_000))
    stored(hub, files["b.bin"]).write_bytes(files["b.bin"])

    restorer(hub)(tmp_path / "out")

    assert files == read(tmp_path / "out")


def test_an_address_that_expired_is_asked_for_again(
    restorer: MakeRestorer, server: PlainServer, small_parts: int, tmp_path: Path
) -> None:
    """Storage says 403 to what it gave out itself; nobody is locked out by that."""
    content = noise(3 * small_parts)
    put_plain(server, {"a.bin": content})
    seen: list[str] = []

    def expire(request: Request) -> None:
        if request.host == "storage":
            seen.append(request.path)
            if len(seen) == 2:
                raise AnswerError(403, b"expired")

    server.before = expire

    restorer(server)(tmp_path / "out")

    assert {"a.bin": content} == read(tmp_path / "out")
    assert 2 == sum(request.path.endswith("/objects/batch") for request in server.requests)


def test_a_mirror_that_cannot_be_reached_is_said_at_once(restorer: MakeRestorer, hubs: Hubs, tmp_path: Path) -> None:
    """With no other one, the error says so, and nothing is left behind."""
    hub = hubs()
    hub.stop()

    with pytest.raises(MirrorError) as caught:
        restorer(hub)(tmp_path / "out" / "x")

    assert "network" == caught.value.error_kind
    assert [] == list((tmp_path / "out").iterdir())


RESTORE = """
import os, signal, sys
steps, last = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree"}, int(sys.argv.pop(1))
count = 0
def hook(event, args):
    global count
    if event in steps:
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
from hubsync.cli import main
import hubsync.restore.run
sys.addaudithook(hook)
main()
"""


@pytest.mark.parametrize("step", [9, 17, 20, 22, 24])
def test_a_kill_at_any_step_is_made_up_for(hubs: Hubs, tmp_path: Path, step: int) -> None:
    """DEST is whole or not there, and the same command succeeds: also if the first one had only its last word to say."""
    hub, files = hubs(), {"a.bin": noise(9000), "sub/b.bin": noise(9000), "c.txt": b"c"}
    put(hub, files)
    out = tmp_path / "out"
    rest = ["restore", "--repo", REPO, "--endpoint", hub.url, str(out), "--json"]
    environment = {**os.environ, "HF_TOKEN": hub.token}
    first = subprocess.run([sys.executable, "-c", RESTORE, str(step), *rest], cwd=ROOT, env=environment, check=False)
    assert first.returncode == -9
    assert not out.exists() or files == read(out)

    second = subprocess.run([sys.executable, "-m", "hubsync", *rest], cwd=ROOT, env=environment, capture_output=True,
                            text=True, check=False)  # fmt: skip

    assert 0 == second.returncode, second.stderr
    assert files == read(out)
    assert [] == [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_a_dest_of_the_same_names_is_not_taken_for_restored(restorer: MakeRestorer, hubs: Hubs, tmp_path: Path) -> None:
    """One byte, a file more or less, or an empty directory beside them: it is somebody's own, and stays as it is."""
    hub = hubs()
    files = {"a.bin": noise(9000), "sub/c.txt": b"c"}
    put(hub, files)
    restorer(hub)(tmp_path / "out")
    assert 0 == restorer(hub)(tmp_path / "out").got_bytes
    (tmp_path / "out/sub/c.txt").write_bytes(b"d")
    with pytest.raises(DestinationError, match="not empty"):
        restorer(hub)(tmp_path / "out")
    (tmp_path / "out/sub/c.txt").write_bytes(b"c")
    (tmp_path / "out/empty").mkdir()
    with pytest.raises(DestinationError, match="not empty"):
        restorer(hub)(tmp_path / "out")
    hub.stop()
    with pytest.raises(DestinationError, match="not empty"):
        restorer(hub)(tmp_path / "out")

    assert ["out"] == sorted(path.name for path in tmp_path.iterdir() if "out" in path.name)


def test_a_mirror_that_becomes_slow_is_left(
    restorer: MakeRestorer, hubs: Hubs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the middle of an object, with what came of it: a trickle is no failure, and would take for ever."""
    monkeypatch.setattr(choice, "_WINDOW_S", 0.3)
    slow, well = hubs(), hubs()
    content = noise(3_000_000)
    for hub in (slow, well):
        put(hub, {"a.bin": content})
    well.add_fault("GET *refs* delay=200ms")  # so that the other one is liked better
    well.add_fault("GET /_lfs/* delay=150ms times=1")
    slow.add_fault("GET /_lfs/* rate=20KB/s after=1")  # after its probe

    attempt = restorer(slow, well)
    done = attempt(tmp_path / "out")

    assert {"a.bin": content} == read(tmp_path / "out")
    assert done.by_mirror.get("m1", 0) > 2_000_000
    assert len(content) == done.got_bytes


def test_the_slower_of_two_is_judged() -> None:
    """A mirror is left when another one is known to be four times as fast, and not for one that failed or is slow too."""
    one, other = choice.Health("one"), choice.Health("other", rate=1_000_000.0)
    one.note_begun(100.0)
    one.note_bytes(1_000_000)
    assert not one.judge([one, other], 104.0)  # too early
    assert one.judge([one, other], 110.0)
    assert (100_000.0, True) == (one.rate, one.slow_until > 110.0)
    assert other is choice.pick([one, other], choice.Refusals(), 111.0)[0]
    other.note_begun(111.0)
    other.note_bytes(300_000)
    assert not other.judge([one, other], 121.0)  # the former one is no better
    other.out = choice.TransferError("gone")
    assert one is choice.pick([one, other], choice.Refusals(), 122.0)[0]
