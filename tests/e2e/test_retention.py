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
        for step in (1, 2):
            write_checkpoint(source / f"checkpoint-{step}", 20_000)
            shutil.copytree(source / f"checkpoint-{step}", kept / f"checkpoint-{step}")
            daemon.wait_for("unit.published", count=2, unit=f"checkpoint-{step}")
            if step > 1:
                told = daemon.wait_for("unit.pruned", unit=f"checkpoint-{step - 1}")
                assert ["m0:acme/x", "m1:acme/x"] == sorted(told["mirrors"])
        assert ["checkpoint-2"] == [path.name for path in source.iterdir()]
        assert 0 == daemon.stop()

    done = hubsync(config, "once")
    assert 0 == done.returncode, done.stderr
    for number, each in enumerate((hub, other_hub)):
        got = download(each, "acme/x", tmp_path / f"got-{number}")
        own = {path for path in got if path.endswith(("/hubsync.json", "/SHA256SUMS"))}
        assert 4 == len(own)
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


def keep_newest(config: Path) -> None:
    """Let the first mirror show only the newest unit, and free what goes from it."""
    table = '{ repo = "m0:acme/x", retention.remote = { keep_last = 1, free_storage = true } }'
    config.write_text(config.read_text().replace('"m0:acme/x"', table))


def objects(hub: LocalHub) -> set[str]:
    """Return the LFS objects that a Hub has."""
    return {path.name for path in hub.directory.rglob("*") if path.is_file() and len(path.name) == 64}


def weights(source: Path) -> set[str]:
    return {digest for path, digest in digests(source).items() if path.endswith(".safetensors")}


def test_the_daemon_frees_the_storage_of_a_mirror(tmp_path: Path, source: Path, hub: LocalHub, other_hub: LocalHub) -> None:
    """One mirror shows and holds the newest checkpoint only, the other one all of them, and a restore finds each."""
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(each): "acme/x" for each in (hub, other_hub)})
    keep_newest(config)
    with Daemon(config) as daemon:
        write_checkpoint(source / "checkpoint-1", 20_000)
        daemon.wait_for("unit.published", count=2, unit="checkpoint-1")
        write_checkpoint(source / "checkpoint-2", 20_000)
        told = daemon.wait_for("storage.freed")
        assert (["checkpoint-1"], 2) == (told["units"], told["files"])
        assert "36 hours" in told["message"]
        write_checkpoint(source / "checkpoint-3", 20_000)  # on a branch whose history we squashed
        daemon.wait_for("storage.freed")
        assert 0 == daemon.stop()  # the other mirror gets all before

    assert 6 == len(weights(source))
    assert weights(source / "checkpoint-3") == objects(hub)
    assert weights(source) == objects(other_hub)
    assert digests(source / "checkpoint-3") == download_unit(hub, tmp_path / "m0", "checkpoint-3")
    restored = hubsync(config, "restore", "run", str(tmp_path / "back"), "--unit", "checkpoint-1")
    assert 0 == restored.returncode, restored.stderr
    assert digests(source / "checkpoint-1") == digests(tmp_path / "back")
    assert 0 == hubsync(config, "once").returncode
    assert weights(source / "checkpoint-3") == objects(hub)
    verified = hubsync(config, "verify", "run")
    assert 0 == verified.returncode, verified.stdout  # what was dropped is not missing


def download_unit(hub: LocalHub, goal: Path, unit: str) -> dict[str, str]:
    got = download(hub, "acme/x", goal)
    assert {unit} == {path.partition("/")[0] for path in got}
    return {path.partition("/")[2]: digest for path, digest in got.items()}


def test_nothing_is_destroyed_that_is_nowhere_else(
    tmp_path: Path, source: Path, hub: LocalHub, other_hub: LocalHub
) -> None:
    """Another required mirror that lost an object keeps the storage here; so does a lone mirror when the source is gone."""
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(each): "acme/x" for each in (hub, other_hub)})
    write_checkpoint(source / "checkpoint-1", 20_000)
    assert 0 == hubsync(config, "once").returncode
    before = objects(hub)
    next(path for path in other_hub.directory.rglob("*") if path.name in before).unlink()
    keep_newest(config)
    write_checkpoint(source / "checkpoint-2", 20_000)
    done = hubsync(config, "once")
    assert "storage.held" in done.stderr
    assert {"checkpoint-2"} == {path.partition("/")[0] for path in download(hub, "acme/x", tmp_path / "got")}
    assert before <= objects(hub)

    shutil.rmtree(source / "checkpoint-1")
    config.write_text(config.read_text().replace(', "m1:acme/x"', ""))
    assert "it would be the last copy" in hubsync(config, "once").stderr
    assert before <= objects(hub)


def test_a_damaged_copy_elsewhere_holds_all_that_a_squash_would_destroy(
    tmp_path: Path, source: Path, hub: LocalHub, other_hub: LocalHub
) -> None:
    """One unit that is not proved elsewhere keeps its objects and its history, and so those of the others too."""
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(each): "acme/x" for each in (hub, other_hub)})
    for step in (1, 2, 3):
        write_checkpoint(source / f"checkpoint-{step}", 20_000)
    assert 0 == hubsync(config, "once").returncode
    [damaged] = [path for path in other_hub.directory.rglob("*") if path.name in weights(source / "checkpoint-1")][:1]
    content = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    keep_newest(config)

    told = hubsync(config, "once").stderr
    assert "storage.held" in told
    assert "storage.freed" not in told
    assert weights(source) == objects(hub)

    damaged.write_bytes(content)
    assert "storage.freed" in hubsync(config, "once").stderr
    assert weights(source / "checkpoint-3") == objects(hub)
