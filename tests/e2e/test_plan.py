"""`hubsync plan` shows what `hubsync once` does then."""

import json
from pathlib import Path

import pytest
from support.plain_server import PlainServer
from support.running import hubsync, write_checkpoint, write_safetensors


def test_once_does_what_the_plan_shows(plain_config: Path, source: Path, plain: PlainServer) -> None:
    """Of a rich source the plan names the same files as captured and as held back as `once` does."""
    write_checkpoint(source / "checkpoint-1")
    write_checkpoint(source / "checkpoint-2")
    (source / "checkpoint-2" / "trainer_state.json").unlink()
    write_safetensors(source / "model.safetensors", 1000)
    (source / "torn.safetensors").write_bytes(b"\xff\0\0\0\0\0\0\0{")
    (source / "m.safetensors.index.json").write_text('{"weight_map": {"a": "m-1.safetensors"}}')
    (source / ".env").write_text("HF_TOKEN=hf_" + "aB3" * 12)
    (source / "notes.txt").write_text("notes")

    planned = hubsync(plain_config, "plan", "--json")
    steps = json.loads(planned.stdout)["targets"][0]["steps"]
    done = hubsync(plain_config, "once", "--json")
    held = json.loads(done.stdout)["targets"][0]["held"]

    assert {step["path"] for step in steps if step["action"] == "capture"} == plain.read_all("acme/x").keys()
    planned_held = {step["path"] for step in steps if step["action"] == "hold" and not step["unit"]}
    assert planned_held == {path for path in held if not path.startswith("checkpoint-")}
    assert {"checkpoint-2"} == {step["unit"] for step in steps if step["action"] == "hold" and step["unit"]}


def test_the_plan_shows_what_waits_for_a_mirror(plain_config: Path, source: Path, plain: PlainServer) -> None:
    """What was committed while the mirror was away is in the plan, though no file has changed since."""
    (source / "notes.txt").write_text("notes")
    plain.__exit__()
    hubsync(plain_config, "once", "--timeout", "2s")
    plain.__enter__()

    [target] = json.loads(hubsync(plain_config, "plan", "--json").stdout)["targets"]

    assert ({"m0:acme/x": 1}, []) == (target["backlog"], target["steps"])


@pytest.mark.parametrize("command", [("plan",), ("explain", "notes.txt")])
def test_what_the_system_refuses_is_an_error(plain_config: Path, source: Path, command: tuple[str, ...]) -> None:
    """A ledger that is a directory ends a look with the path, what is wrong with it and what to do, and with 73."""
    (source / "notes.txt").write_text("notes")
    ledger = plain_config.parent / "state" / "targets" / "run" / "ledger.sqlite"
    ledger.mkdir(parents=True)

    done = hubsync(plain_config, *command)

    assert 73 == done.returncode
    assert f"error: {ledger}: Is a directory" in done.stderr
    assert "→ see what is there" in done.stderr
    assert "Traceback" not in done.stderr
