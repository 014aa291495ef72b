"""A daemon that gives the disk back by itself, seen from outside."""

import json
import shutil
from pathlib import Path

from support.running import Daemon, digests, download, endpoint, hubsync, write_checkpoint, write_config

from hubsync.localhub import LocalHub


def test_the_daemon_prunes_what_both_mirrors_hold(tmp_path: Path, source: Path, hub: LocalHub, other_hub: LocalHub) -> None:
    """Old checkpoints go as new ones are published, and every mirror goes on to show them whole, with their sums."""
    mirrors = {endpoint(each): "acme/x" for each in (hub, other_hub)}
    config = write_config(
        tmp_path / "hubsync.toml", source, mirrors, provenance="true", deletes='"propagate"',
        retention="{ local = { keep_last = 1 } }",
    )  # fmt: skip
    kept = tmp_path / "kept"
    with Daemon(config) as daemon:
        for step in (1, 2, 3):
            write_checkpoint(source / f"checkpoint-{step}", 20_000)
            shutil.copytree(source / f"checkpoint-{step}", kept / f"checkpoint-{step}")
            daemon.wait_for("unit.published", count=2, unit=f"checkpoint-{step}")
            if step > 1:
                told = daemon.wait_for("unit.pruned", unit=f"checkpoint-{step - 1}")
                assert ["m0:acme/x", "m1:acme/x"] == sorted(told["mirrors"])
        assert ["checkpoint-3"] == [path.name for path in source.iterdir()]
        assert 0 == daemon.stop()

    done = hubsync(config, "once")
    assert 0 == done.returncode, done.stderr
    for number, each in enumerate((hub, other_hub)):
        got = download(each, "acme/x", tmp_path / f"got-{number}")
        own = {path for path in got if path.endswith(("/hubsync.json", "/SHA256SUMS"))}
        assert 6 == len(own)
        assert digests(kept) == {path: digest for path, digest in got.items() if path not in own}


def test_prune_says_first_and_removes_when_told(config: Path, source: Path) -> None:
    """The command line shows what would go, and removes it with --yes; then there is nothing left to remove."""
    config.write_text(config.read_text() + "retention.local = { keep_last = 1 }\n")
    for step in (1, 2):
        write_checkpoint(source / f"checkpoint-{step}", 20_000)
    assert 0 == hubsync(config, "once").returncode

    told = hubsync(config, "prune", "run")
    assert 0 == told.returncode, told.stderr
    assert "remove  checkpoint-1  (no rule keeps it: keep_last = 1)" in told.stdout
    assert "nothing was removed" in told.stdout
    assert 2 == len(list(source.iterdir()))
    done = json.loads(hubsync(config, "prune", "run", "--yes", "--json").stdout)
    assert [("checkpoint-2", "keep"), ("checkpoint-1", "remove")] == [(u["unit"], u["action"]) for u in done["units"]]
    assert ["checkpoint-2"] == [path.name for path in source.iterdir()]
    again = hubsync(config, "prune", "run", "--yes")
    assert (0, False) == (again.returncode, "remove  " in again.stdout), again.stdout + again.stderr
