"""Files that hold a secret: they and their units wait, others go on, and nobody ever sees the secret."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import PlainServer
from support.rig import REPO, Rig, safetensors

TOKEN = "hf_" + "aBcDeFgHiJ" * 4
MakeRig = Callable[..., Rig]


def rejections(log: list[Any]) -> dict[str, dict[str, Any]]:
    return {entry["path"]: entry for entry in log if entry["event"] == "file.rejected"}


def write_training_args(rig: Rig, unit: str) -> Path:
    """Write what the Trainer pickles: here with a token in it."""
    made = rig.source / "made.tmp"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(
            "training_args/data.pkl", b"\x80\x02X\x09\x00\x00\x00hub_tokenq\x01X%\x00\x00\x00" + TOKEN.encode() + b"q\x02."
        )
    content = made.read_bytes()
    made.unlink()
    return rig.write(f"{unit}/training_args.bin", content)


def write_unit(rig: Rig, unit: str) -> None:
    rig.write(f"{unit}/config.json", b"{}")
    rig.write(f"{unit}/model.safetensors", safetensors(3000))
    rig.write(f"{unit}/trainer_state.json", b'{"global_step": 1}')


def test_a_file_with_a_token_is_held_and_others_are_published(rig: Rig, server: PlainServer) -> None:
    """The event has rule, line and cure, and never the token; a second look says nothing again."""
    rig.write("notes.txt", b"fine")
    rig.write("run.sh", f"#!/bin/sh\nexport HF_TOKEN={TOKEN}\n".encode())
    rig.write(".env", b"A=b")
    rig.write("training.log", f"a\nb\nlogin with {TOKEN}\n".encode() + b"x" * 6_000_000)

    with capture_logs() as log:
        rig.update()
        rig.update()

    said = rejections(log)
    assert {"notes.txt": b"fine"} == server.read_all(REPO)
    assert {"run.sh", ".env", "training.log"} == set(rig.pipeline.held()) == set(said)
    assert {"run.sh": 2, ".env": None, "training.log": 3} == {path: entry["line"] for path, entry in said.items()}
    assert 3 == len([entry for entry in log if entry["event"] == "file.rejected"])
    assert all("secrets_allow" in entry["hint"] and entry["rule"] for entry in said.values())
    assert TOKEN[5:15] not in repr(log) + repr(rig.pipeline.held())
    assert set() == rig.held_objects()
    assert rig.pipeline.take_inventory()
    assert rig.pipeline.next_due() is None  # it is not looked at over and over


def test_a_secret_is_seen_behind_a_link_and_in_wide_text(rig: Rig, server: PlainServer) -> None:
    """A link is judged by what it leads to; text of two bytes a character is read as the text that it is."""
    rig.write(".env", b"A=b")
    (rig.source / "settings").symlink_to(".env")
    rig.write("login.txt", "first\r\nset HF_TOKEN={TOKEN}\r\n".replace("{TOKEN}", TOKEN).encode("utf-16"))
    rig.write("notes.txt", "nothing here\r\n".encode("utf-16"))

    with capture_logs() as log:
        rig.update()

    said = rejections(log)
    assert {"notes.txt"} == set(server.read_all(REPO))
    assert {".env": None, "settings": None, "login.txt": 2} == {path: entry["line"] for path, entry in said.items()}


def test_a_file_without_the_token_any_more_is_published(rig: Rig, server: PlainServer) -> None:
    """The next state of the file is looked at anew."""
    rig.write("a.json", json.dumps({"token": TOKEN}).encode())
    rig.commit()
    rig.write("a.json", b"{}")

    rig.update()

    assert {"a.json": b"{}"} == server.read_all(REPO)
    assert {} == rig.pipeline.held()


@pytest.mark.parametrize("is_told", [True, False], ids=["by an event", "by the inventory"])
@pytest.mark.parametrize("name", ["training_args.bin", ".env", "args.json"])
def test_a_unit_with_a_token_waits_whole(server: PlainServer, make_rig: MakeRig, name: str, *, is_told: bool) -> None:
    """A unit is published whole or not at all; once the file is gone, and quiet, it goes with all else that is in it."""
    rig = make_rig(server, units=("checkpoint-*",))
    write_unit(rig, "checkpoint-1")
    write_unit(rig, "checkpoint-2")
    if name == "training_args.bin":
        write_training_args(rig, "checkpoint-1")
    else:
        rig.write(f"checkpoint-1/{name}", json.dumps([TOKEN]).encode())

    with capture_logs() as log:
        rig.update()
        rig.update()

    said = rejections(log)[f"checkpoint-1/{name}"]
    assert "checkpoint-1" == said["unit"]
    assert "checkpoint-1 is not published" in said["hint"]
    assert {"checkpoint-2"} == {path.partition("/")[0] for path in server.read_all(REPO)}
    assert {"checkpoint-1/", f"checkpoint-1/{name}"} == set(rig.pipeline.held())
    assert name in rig.pipeline.held()["checkpoint-1/"]
    assert 1 == len([entry for entry in log if entry["event"] == "file.rejected"])

    (rig.source / "checkpoint-1" / name).unlink()
    if is_told:
        rig.pipeline.note(f"checkpoint-1/{name}")
        time.sleep(max(0.0, (rig.pipeline.next_due() or 0.0) - time.monotonic()))
        assert rig.pipeline.settle().units
        rig.pipeline.commit(units_only=True)
        rig.publish()
    else:
        rig.update()

    assert {} == rig.pipeline.held()
    assert 6 == len(server.read_all(REPO))


def test_all_secrets_of_a_unit_are_told_at_once(make_rig: MakeRig) -> None:
    """Nobody has to mend one file after the other."""
    rig = make_rig(units=("checkpoint-*",))
    write_unit(rig, "checkpoint-1")
    for name in ("a.json", "b.json"):
        rig.write(f"checkpoint-1/{name}", json.dumps([TOKEN]).encode())

    with capture_logs() as log:
        rig.commit()

    assert {"checkpoint-1/a.json", "checkpoint-1/b.json"} == set(rejections(log))


def test_the_member_of_a_pickle_is_named(rig: Rig) -> None:
    """Not the file alone, but where in it."""
    write_training_args(rig, "run")

    with capture_logs() as log:
        rig.commit()

    said = rejections(log)["run/training_args.bin"]
    assert ("training_args/data.pkl", None) == (said["member"], said["line"])
    assert "training_args/data.pkl" in said["reason"]


@pytest.mark.parametrize("content", [f"t={TOKEN}\n".encode(), TOKEN.encode() + b"\0" * 100])
@pytest.mark.parametrize("by", ["path", "hash"])
def test_a_file_can_be_allowed(server: PlainServer, make_rig: MakeRig, by: str, content: bytes) -> None:
    """By a pattern, or by the hash of what was looked at; others with the same token are still held."""
    allowed = "made/" if by == "path" else f"sha256:{hashlib.sha256(content).hexdigest()}"
    rig = make_rig(server, secrets_allow=(allowed,))
    rig.write("made/a", content)
    rig.write("b", content + b"x")

    rig.update()

    assert {"made/a": content} == server.read_all(REPO)
    assert ["b"] == list(rig.pipeline.held())


def test_warn_publishes_and_says_so(server: PlainServer, make_rig: MakeRig) -> None:
    """The event has the place; nothing is held."""
    rig = make_rig(server, secrets="warn")
    rig.write("a.sh", f"\n{TOKEN}".encode())
    write_training_args(rig, "run")

    with capture_logs() as log:
        rig.update()

    said = {entry["path"]: entry["line"] for entry in log if entry["event"] == "secret.found"}
    assert {"a.sh": 2, "run/training_args.bin": None} == said
    assert {"a.sh", "run/training_args.bin"} == set(server.read_all(REPO))
    assert TOKEN[5:15] not in repr(log)


def test_off_looks_at_nothing(server: PlainServer, make_rig: MakeRig) -> None:
    """Who switches it off hears nothing."""
    rig = make_rig(server, secrets="off")
    rig.write(".env", TOKEN.encode())

    with capture_logs() as log:
        rig.update()

    assert {".env": TOKEN.encode()} == server.read_all(REPO)
    assert [] == [entry for entry in log if entry["log_level"] == "warning"]


def test_an_object_that_was_captured_before_is_looked_at_again(make_rig: MakeRig, server: PlainServer) -> None:
    """Captured early while secrets were let through, it is held when they are not any more."""
    settings: dict[str, Any] = {"units": ("checkpoint-*",), "complete_when": ("DONE",)}
    first = make_rig(server, secrets="off", **settings)
    write_training_args(first, "checkpoint-1")
    first.commit()
    first.work.close()
    rig = make_rig(server, **settings)
    rig.write("checkpoint-1/DONE")

    rig.update()

    assert ["checkpoint-1/", "checkpoint-1/training_args.bin"] == sorted(rig.pipeline.held())
    assert "" == server.git(REPO, "branch")


def test_what_waits_when_the_rules_become_stricter_is_told(make_rig: MakeRig, server: PlainServer) -> None:
    """It is said once, and what is excluded then does not go."""
    rig = make_rig(server, secrets="off")
    rig.restart()
    rig.write("run.sh", f"export HF_TOKEN={TOKEN}\n".encode())
    rig.write("notes.txt", b"fine")
    rig.commit()

    with capture_logs() as log:
        rig.restart_with({}, secrets="block")
        rig.restart_with({}, secrets="block", exclude=("run.sh",))

    [told] = [entry for entry in log if entry["event"] == "secrets.tightened"]
    assert ("run", 2) == (told["target"], told["files"])
    rig.update()
    assert {"notes.txt": b"fine"} == server.read_all(REPO)


def test_what_waits_with_a_secret_is_held_back_once_that_is_blocked(make_rig: MakeRig, server: PlainServer) -> None:
    """Small, large, in a unit, or a secret by its name: none goes, nor after a restart and a flush, and all else does."""
    rig = make_rig(server, secrets="off", units=("checkpoint-*",), complete_when=("DONE",))
    rig.restart()
    rig.write("notes.txt", b"fine")
    rig.write(".env", b"A=b")
    rig.write("run.sh", f"#!/bin/sh\nexport HF_TOKEN={TOKEN}\n".encode())
    rig.write("data.bin", b"\0" + TOKEN.encode())
    for unit in ("checkpoint-1", "checkpoint-2"):
        write_unit(rig, unit)
        rig.write(f"{unit}/DONE")
    write_training_args(rig, "checkpoint-1")
    rig.commit()
    held = {".env", "run.sh", "data.bin", "checkpoint-1/training_args.bin"}

    with capture_logs() as log:
        rig.restart_with({}, secrets="block")
        rig.publish()
    rig.restart()
    for _ in range(2):
        rig.work.workers[0].run(now=True)

    assert {
        "notes.txt",
        *(f"checkpoint-2/{n}" for n in ("config.json", "model.safetensors", "trainer_state.json", "DONE")),
    } == (server.read_all(REPO).keys())
    said = rejections(log)
    assert held == said.keys() == rig.publisher().refusals.reasons().keys()
    assert "line 2" in said["run.sh"]["reason"]
    assert {True} == {"secrets_allow" in entry["hint"] for entry in said.values()}
    assert TOKEN[5:15] not in repr(log)
    rig.restart_with({}, secrets="block", secrets_allow=("*",))
    rig.publish()
    assert held < server.read_all(REPO).keys()


def test_an_earlier_version_with_a_secret_is_in_no_commit(make_rig: MakeRig, server: PlainServer) -> None:
    """It waits below a clean one when secrets are blocked: what is pushed begins with that one."""
    rig = make_rig(server, secrets="off")
    rig.restart()
    for content in (f"export HF_TOKEN={TOKEN}\n".encode(), b"clean"):
        rig.write("run.sh", content)
        rig.commit()
    rig.restart_with({}, secrets="block")

    rig.publish()

    assert {"run.sh": b"clean"} == server.read_all(REPO)
    assert "" == server.git(REPO, "log", "-S", TOKEN, "--format=%H", "--all")
    assert not rig.publisher().refusals.reasons()


def test_what_was_captured_under_the_present_rules_is_not_looked_at_again(make_rig: MakeRig, server: PlainServer) -> None:
    """Nothing waits for that, and what was seen once and is clean is not looked at a second time."""
    rig = make_rig(server, secrets="off")
    rig.restart()
    rig.write("notes.txt", b"fine")
    rig.commit()
    rig.restart_with({}, secrets="block")
    assert rig.publisher().refusals._unseen.is_any()

    rig.publish()

    assert not rig.publisher().refusals._unseen.is_any()
