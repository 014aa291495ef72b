"""Files that were read in bulk leave the page cache. It is the kernel's, so the files lie on a disk, not in memory."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cached import cached_share

from hubsync.store import buffer, cache
from hubsync.store.cache import let_go
from hubsync.store.hashing import shared

_PATIENCE_S = 60.0
_SIZE = 4 << 20


@pytest.fixture
def disk() -> Iterator[Path]:
    """Return a directory that is not in memory, as /tmp may be."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        yield Path(name)


def _wait_until_dropped(*paths: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while any(cached_share(path) > 0 for path in paths):
        assert time.monotonic() < deadline, [cached_share(path) for path in paths]
        time.sleep(0.05)


def test_what_was_just_written_leaves_the_cache_too(disk: Path) -> None:
    """It is brought to the disk first, and keeps its bytes."""
    path = disk / "model.safetensors"
    content = os.urandom(_SIZE)
    path.write_bytes(content)
    assert 1.0 == cached_share(path)

    let_go(path)

    _wait_until_dropped(path)
    assert content == path.read_bytes()


def test_many_files_leave_the_cache_and_none_stays_open(disk: Path) -> None:
    """More than are kept waiting, and some that are gone by then, or were never there."""
    paths = [disk / str(number) for number in range(200)]
    for path in paths:
        path.write_bytes(b"x" * 5000)
    os.sync()  # those for which there is no wait are dropped only if they are on the disk
    for path in paths:
        let_go(path)
    let_go(disk / "missing")
    paths[0].unlink()

    _wait_until_dropped(*paths[1:])
    deadline = time.monotonic() + _PATIENCE_S
    while open_files := [path for path in _open_paths() if disk in path.parents]:
        assert time.monotonic() < deadline, open_files
        time.sleep(0.05)


def _open_paths() -> Iterator[Path]:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield link.readlink()


def wait_closed(fd: int) -> None:
    """Wait until *fd* is closed; fail if that does not come."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/self/fd/{fd}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_file_that_fails_keeps_no_other_from_leaving(tmp_path: Path) -> None:
    """A disk may fail on one; it is let go of, and so are those that wait behind it and that come later."""
    leaving = cache._Leaving()
    for _ in range(2):
        good = os.open(tmp_path, os.O_RDONLY)
        leaving.add(100_000)  # is not open
        leaving.add(good)
        wait_closed(good)
        while leaving._files:
            time.sleep(0.001)


def test_without_a_thread_a_file_is_let_go_of_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a limit allows no more threads, nothing waits for one, and nothing fails for that."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    leaving = cache._Leaving()
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", fail)
        first = os.open(tmp_path, os.O_RDONLY)
        leaving.add(first)
    assert not Path(f"/proc/self/fd/{first}").exists()

    second = os.open(tmp_path, os.O_RDONLY)
    leaving.add(second)
    wait_closed(second)


def test_what_is_hashed_and_sent_takes_no_room_from_others(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the cache is read from there and stays; what is not is not kept for us."""
    monkeypatch.setattr(buffer, "_IS_SOUND", True)  # whatever this kernel's version is
    path = disk / "model.safetensors"
    path.write_bytes(os.urandom(_SIZE))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, 0x80)
        except OSError:
            pytest.skip("this kernel or file system keeps all that is read")
        shared().digest_file(file.fileno())
        assert 1.0 == cached_share(path)

        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        shared().digest_file(file.fileno())
        assert 0.0 == cached_share(path)
