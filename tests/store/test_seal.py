"""What was left alone since it was closed is known for whole without being read; any touch is noticed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hubsync.store.seal import break_seal, seal


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a directory with what is sealed: a directory and a file."""
    (tmp_path / "git/objects").mkdir(parents=True)
    (tmp_path / "git/lfs").mkdir()
    for name in ("git/HEAD", "git/objects/pack", "git/lfs/pin", "ledger"):
        (tmp_path / name).write_text(name)
    seal(tmp_path, ["git", "ledger"])

    return tmp_path


def flip(place: Path) -> None:
    """Damage a file so that its size and the time of its last write stay as they were."""
    before = place.stat()
    place.write_bytes(place.read_bytes()[::-1])
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_was_left_alone_is_known_once(directory: Path) -> None:
    """From then on it is in use; who dies before it is sealed again leaves nothing that is believed."""
    (directory / "git/lfs/pin").unlink()  # comes and goes while hubsync is away, and is no part of it

    assert {"git", "ledger"} == break_seal(directory)
    assert set() == break_seal(directory)


@pytest.mark.parametrize(
    "touch",
    [
        lambda git: (git / "objects/pack").unlink(),
        lambda git: (git / "objects/idx").touch(),
        lambda git: flip(git / "objects/pack"),
        lambda git: (git / "HEAD").rename(git / "head"),
        shutil.rmtree,
    ],
)
def test_what_was_touched_is_not_believed(directory: Path, touch: Callable[[Path], object]) -> None:
    """A file that was written, replaced, added or removed shows in what it lies in, and nowhere else."""
    touch(directory / "git")

    assert {"ledger"} == break_seal(directory)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"git": 1}'])
def test_a_seal_that_a_power_cut_spoiled_holds_nothing(directory: Path, content: bytes) -> None:
    """Then all is looked at."""
    (directory / "seal.json").write_bytes(content)

    assert set() == break_seal(directory)
