"""One token's way through everything that can go wrong: seen by its own Hub, and by nobody else."""

import json
import signal
from pathlib import Path

import canary
import pytest
from outside import strace
from support.plain_server import PlainServer
from support.running import PATIENCE_S, Daemon, endpoint, hubsync, write_checkpoint, write_config

from hubsync.control import send_command
from hubsync.errors import HubsyncError
from hubsync.localhub import LocalHub

FAULTS = (
    "POST */info/lfs/objects/batch 503 times=1",
    "POST */git-receive-pack reset times=1",
    "PUT * 500 times=1",
    "GET */info/refs* redirect={elsewhere}/acme/x.git/info/refs?service=git-upload-pack times=1",
    "POST */info/lfs/objects/batch redirect={elsewhere}/batch times=1 after=1",
    "GET /api/models/* redirect={elsewhere}/api/models/acme/x times=1",
    "GET */info/refs* 401 times=1 after=2",
)


@pytest.mark.timeout(240)
def test_a_token_reaches_its_own_hub_only(
    tmp_path: Path, source: Path, state: Path, hub: LocalHub, other_hub: LocalHub
) -> None:
    """By git, by HTTP, from a command; through faults, redirects, a traceback, a reload, a debug log: it stands nowhere."""
    (tmp_path / "tmp").mkdir()
    write_checkpoint(source / "checkpoint-1")
    with (
        PlainServer(tmp_path / "plain", token="hf_" + "CaNy" * 8) as plain,
        PlainServer(tmp_path / "elsewhere") as elsewhere,
    ):
        plain.create("acme/x")
        (tmp_path / "token").write_text(f"{plain.token}\n")
        by_command = f'url = "{plain.url}"\ntoken = {{ command = ["cat", "{tmp_path}/token"] }}'
        mirrors = {f'url = "{hub.url}"': "acme/x", endpoint(other_hub): "acme/y", by_command: "acme/x"}
        config = write_config(tmp_path / "hubsync.toml", source, mirrors, card="{ enabled = true }")
        config.write_text(config.read_text().replace('"m1:acme/y"', '{ repo = "m1:acme/y", transport = "http" }'))
        for each in (hub, other_hub):
            for fault in FAULTS:
                each.add_fault(fault.format(elsewhere=elsewhere.url))
        environment = {"HF_TOKEN": hub.token, "HUBSYNC_LOG_LEVEL": "debug", "TMPDIR": str(tmp_path / "tmp")}
        with Daemon(config, *strace(tmp_path / "trace", "execve"), **environment) as daemon:
            published: set[str] = set()
            while len(published) < len(mirrors):
                daemon.wait_for("heartbeat")
                published = {entry["mirror"] for entry in daemon.events if entry["event"] == "mirror.published"}
                send_command(state / "control.sock", "flush", (), timeout_s=PATIENCE_S)  # some are parked by then
            with pytest.raises(HubsyncError):  # a traceback in the log
                send_command(state / "control.sock", "wait", ("run",), timeout_s=PATIENCE_S, limit_s="never")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for("daemon.reloaded")
            assert 0 == daemon.stop()
        for command in (["check", "--online"], ["plan"], ["once", "--timeout", "1m"], ["card", "run"], ["status"]):
            hubsync(config, *command, **environment)

        children = [line for line in (tmp_path / "trace").read_text().splitlines()[1:] if "execve(" in line]
        said = {entry["event"] for entry in daemon.events}
        assert any('"push"' in line for line in children)
        assert {"mirror.failed", "schedule.failed", "object.uploaded", "library.logged"} <= said
        assert any("Traceback" in entry.get("exception", "") for entry in daemon.events)
        assert [] == [line for line in children if canary.sees(line)]
        assert len(elsewhere.requests) >= 3
        assert [] == [request for request in elsewhere.requests if request.authorization]
        assert {""} != {request.authorization for request in plain.requests}
    places = [path for place in (state, tmp_path / "tmp") for path in place.rglob("*") if path.is_file()]
    assert [] == [path for path in places if canary.sees(path.read_bytes())]
    assert [] == [entry for entry in daemon.events if canary.sees(json.dumps(entry))]
