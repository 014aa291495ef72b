"""Files that were read in bulk leave the page cache. It is the kernel's, so the files lie on a disk, not in memory."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cached import cached_share

from hubsync.store.cache import let_go

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
