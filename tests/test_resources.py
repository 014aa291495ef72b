"""What hubsync lives on is taken away from it: it says so, and ends in a way that has it started anew."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.running import Daemon, endpoint, hubsync, write_config

from hubsync.localhub import LocalHub


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, source: Path, hub: LocalHub) -> Path:
    return write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})


def test_a_state_that_is_gone_ends_hubsync(config: Path, source: Path) -> None:
    """Whoever takes the state directory away takes the lock with it: hubsync ends with 73, so that it is started anew."""
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        shutil.move(config.parent / "state", config.parent / "elsewhere")
        assert 73 == daemon.process.wait(60)
        assert "gone" in daemon.wait_for("daemon.stopping")["reason"]

    (source / "a.txt").write_text("a")
    assert 0 == hubsync(config, "once").returncode
