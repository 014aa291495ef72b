"""A store that is damaged while the service runs: it is mended there and then, or the cure is said."""

import shutil
from pathlib import Path

import pytest
from support.running import Daemon, digests, download, hubsync, write_checkpoint

from hubsync.localhub import LocalHub


def zero_newest_pack(state: Path) -> None:
    pack = max((state / "targets/run/store.git/objects/pack").glob("*.pack"), key=lambda path: path.stat().st_mtime_ns)
    pack.chmod(0o600)
    pack.write_bytes(bytes(pack.stat().st_size))


def test_a_damaged_store_is_mended_without_a_restart(config: Path, source: Path, hub: LocalHub, tmp_path: Path) -> None:
    """The disk zeroes a pack: it is said, and everything arrives."""
    with Daemon(config) as daemon:
        for step in (1, 2):
            write_checkpoint(source / f"checkpoint-{step}")
            daemon.wait_for("unit.published", unit=f"checkpoint-{step}")
        zero_newest_pack(tmp_path / "state")
        write_checkpoint(source / "checkpoint-3")
        daemon.wait_for("state.recovered", what="objects")
        daemon.wait_for("unit.published", unit="checkpoint-3")
        assert 0 == daemon.stop()

    assert digests(source) == download(hub, "acme/x", tmp_path / "back")


def test_a_ledger_that_is_taken_away_is_made_again_without_a_restart(
    config: Path, source: Path, hub: LocalHub, tmp_path: Path
) -> None:
    """What is known is not kept in a file that nobody can open any more; all goes on, and no unit is told twice."""
    with Daemon(config) as daemon:
        write_checkpoint(source / "checkpoint-1")
        daemon.wait_for("unit.published")
        for path in (tmp_path / "state/targets/run").glob("ledger.sqlite*"):
            path.unlink()
        daemon.wait_for("state.recovered", what="ledger")
        write_checkpoint(source / "checkpoint-2")
        daemon.wait_for("unit.published")
        assert 0 == daemon.stop()

    assert ["checkpoint-1", "checkpoint-2"] == [e["unit"] for e in daemon.take_events() if e["event"] == "unit.published"]
    assert digests(source) == download(hub, "acme/x", tmp_path / "back")


@pytest.mark.slow
def test_a_store_that_cannot_be_mended_is_said_once_with_the_cure(config: Path, source: Path, tmp_path: Path) -> None:
    """All of it is gone: the target is halted, and goes on when a person has moved it away."""
    write_checkpoint(source / "checkpoint-1")
    with Daemon(config) as daemon:
        daemon.wait_for("unit.published", unit="checkpoint-1")
        shutil.rmtree(tmp_path / "state/targets/run/store.git")
        write_checkpoint(source / "checkpoint-2")
        halted = daemon.wait_for("target.halted")
        assert "move" in halted["hint"]
        daemon.wait_for("heartbeat", count=3, state="halted")
        assert 1 == hubsync(config, "status").returncode
        (tmp_path / "state/targets/run").rename(tmp_path / "aside")
        daemon.wait_for("target.resumed")
        daemon.wait_for("unit.published", unit="checkpoint-2")

    assert 1 == [event["event"] for event in daemon.take_events()].count("target.halted")
