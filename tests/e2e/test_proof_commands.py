"""The commands that prove what mirrors hold, as a person or a script runs them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.running import ROOT, Daemon, endpoint, hubsync, write_checkpoint, write_config

from hubsync.localhub import LocalHub


def document(done: subprocess.CompletedProcess[str], returncode: int = 0) -> dict[str, Any]:
    """Return the one JSON document that a command printed."""
    assert returncode == done.returncode, done.stdout + done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_a_script_deletes_what_is_safe_only(tmp_path: Path, source: Path, hub: LocalHub) -> None:
    """``safe`` joins with ``&&``: one checkpoint goes, the one that changed since stays; no daemon runs."""
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    for number in (1, 2):
        write_checkpoint(source / f"checkpoint-{number}")
    assert 0 == hubsync(config, "once").returncode
    (source / "checkpoint-2" / "config.json").write_text('{"model_type": "Tiny"}')

    script = 'for c in checkpoint-1 checkpoint-2; do "$0" -m hubsync safe -c "$1" "$2/$c" && rm -r "$2/$c"; done; true'
    said = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, str(config), str(source)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert ["checkpoint-2"] == [path.name for path in source.iterdir()]
    assert "checkpoint-1: safe to delete; 5 files" in said.stdout
    assert "NOT safe" in said.stdout
    assert "config.json" in said.stdout

    answer = document(hubsync(config, "safe", str(source / "checkpoint-2"), str(tmp_path / "else"), "--json"), 1)
    assert (False, [False, False]) == (answer["safe"], [path["safe"] for path in answer["paths"]])
    assert answer["paths"][0]["reasons"][0]["path"] == "checkpoint-2/config.json"
    assert answer["paths"][1]["target"] is None

    verified = document(hubsync(config, "verify", "run", "--read-data", "--json"))
    assert (True, []) == (verified["passed"], verified["mirrors"][0]["missing"])
    assert verified["mirrors"][0]["read_files"] > 0
    [made] = document(hubsync(config, "history", "run", "--json"))["publications"]
    assert ("asked", ["checkpoint-2", "checkpoint-1"]) == (made["trigger"], made["units"])
    assert "checkpoint-2, checkpoint-1" in hubsync(config, "history", "run").stdout


def test_a_daemon_proves_what_it_published(tmp_path: Path, source: Path, hub: LocalHub) -> None:
    """Receipts come by themselves: status shows them, and a scheduled verify logs its result."""
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"}, verify='"2s"')
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        write_checkpoint(source / "checkpoint-1")
        daemon.wait_for("unit.published", unit="checkpoint-1")
        daemon.wait_for("verify.passed", files=5)
        assert 0 == hubsync(config, "safe", str(source / "checkpoint-1")).returncode
        shutil.rmtree(next(hub.directory.rglob("acme/x*")))
        assert "not" in hubsync(config, "safe", str(source / "checkpoint-1")).stdout.lower()
        daemon.wait_for("verify.failed", error_kind="not_found")  # one that meets half of it says "lost" first
        daemon.stop()

    status = document(hubsync(config, "status", "--json"), 3)
    [proved] = status["targets"][0]["mirrors"][0]["proven"]
    assert "checkpoint-1" == proved["unit"]
    assert 77 != hubsync(config, "verify", "run").returncode != 0


def test_what_a_verification_finds_stays_in_the_status(tmp_path: Path, source: Path, hub: LocalHub) -> None:
    """Found by a command while the daemon runs: the mirror is degraded until a later verification passes."""
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        write_checkpoint(source / "checkpoint-1")
        daemon.wait_for("unit.published", unit="checkpoint-1")
        assert 0 == hubsync(config, "status").returncode

        objects = [path for path in hub.directory.rglob("*") if path.is_file() and len(path.name) == 64]
        held = {path: path.read_bytes() for path in objects}
        for path, content in held.items():
            path.chmod(0o644)
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert 1 == hubsync(config, "verify", "run", "--read-data").returncode
        daemon.wait_for("heartbeat", state="degraded", error_kind="lost")

        shown = document(hubsync(config, "status", "--json"), 1)["targets"][0]
        assert ("degraded", "degraded") == (shown["state"], shown["mirrors"][0]["state"])
        error = shown["mirrors"][0]["last_error"]
        assert "2 damaged" in error["error"]
        assert "hubsync verify run" in error["hint"]
        assert error["since"]
        assert "2 damaged" in hubsync(config, "status").stdout
        assert 1 == hubsync(config, "verify", "run").returncode

        for path, content in held.items():
            path.write_bytes(content)
        assert 0 == hubsync(config, "verify", "run").returncode
        daemon.take_events()
        daemon.wait_for("heartbeat", state="ok", mirrors_failing=0)
        assert 0 == hubsync(config, "status").returncode
        daemon.stop()
