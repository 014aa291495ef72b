"""What is published with a unit about itself, as sha256sum and other programs read it."""

import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.plain_server import PlainServer
from support.records import record
from support.rig import REPO, Rig, safetensors

MakeRig = Callable[..., Rig]
UNIT = "checkpoint-5"


@pytest.fixture
def rig(server: PlainServer, make_rig: MakeRig) -> Rig:
    """Give a target that publishes where its units come from."""
    return make_rig(server, units=("checkpoint-*",), provenance=True)


def save(rig: Rig, unit: str = UNIT, size: int = 100_000) -> None:
    rig.write(f"{unit}/config.json", b'{"model_type": "tiny"}')
    rig.write(f"{unit}/model.safetensors", safetensors(size))
    rig.write(f"{unit}/sub dir/with\nnewline.txt", b"text")
    rig.write(f"{unit}/trainer_state.json", b'{"global_step": 5}')


def check_sums(server: PlainServer, goal: Path, unit: str) -> subprocess.CompletedProcess[str]:
    """Download *unit* and let sha256sum say whether it is as it should be."""
    for path, content in server.read_all(REPO).items():
        file = goal / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    argv = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    return subprocess.run(argv, cwd=goal / unit, check=False, capture_output=True, text=True)


def test_sha256sum_checks_a_unit(rig: Rig, server: PlainServer, tmp_path: Path) -> None:
    """A downloaded unit passes ``sha256sum -c`` as it is, and not with a byte that differs; the source has nothing more."""
    save(rig)
    before = sorted(str(path) for path in rig.source.rglob("*"))
    rig.update()
    goal = tmp_path / "got"

    assert (0, "", "") == ((done := check_sums(server, goal, UNIT)).returncode, done.stdout, done.stderr)
    assert before == sorted(str(path) for path in rig.source.rglob("*"))
    sums = (goal / UNIT / "SHA256SUMS").read_text()
    assert 5 == len(sums.splitlines())
    (goal / UNIT / "model.safetensors").write_bytes(safetensors(100_000, b"\2"))
    argv = ["sha256sum", "-c", "SHA256SUMS"]
    assert 1 == subprocess.run(argv, cwd=goal / UNIT, check=False, capture_output=True).returncode


def test_the_record_says_all_of_a_unit(rig: Rig, server: PlainServer) -> None:
    """Programs read hash, size and time of every file, the host, and what wrote the unit."""
    save(rig)
    os.utime(rig.source / UNIT / "config.json", ns=(0, 1_700_000_000_123_456_789))
    rig.update()
    record = json.loads(server.read(REPO, f"{UNIT}/hubsync.json"))

    assert ("run", UNIT, socket.gethostname()) == (record["target"], record["unit"], record["host"])
    assert "transformers" in record["layout"].lower()
    files = {file["path"]: file for file in record["files"]}
    assert {"config.json", "model.safetensors", "sub dir/with\nnewline.txt", "trainer_state.json"} == files.keys()
    for path, file in files.items():
        content = (rig.source / UNIT / path).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["size"])
    assert "2023-11-14T22:13:20.123456789Z" == files["config.json"]["modified"]
    assert sum(file["size"] for file in files.values()) == record["bytes"]


def test_a_unit_enters_with_its_record_in_one_commit(rig: Rig, server: PlainServer) -> None:
    """Nobody sees a unit without it; a second look changes nothing, nor does a ledger that was lost."""
    save(rig)
    rig.update()
    (first,) = server.history(REPO)
    listed = server.git(REPO, "ls-tree", "-r", "--name-only", first).splitlines()

    assert {f"{UNIT}/hubsync.json", f"{UNIT}/SHA256SUMS"} <= set(listed)
    rig.work.close()
    (rig.store.directory / "ledger.sqlite").unlink()
    rig.restart()
    rig.update()
    assert [first] == server.history(REPO)


def test_it_survives_what_others_commit(rig: Rig, server: PlainServer, tmp_path: Path) -> None:
    """A foreign edit of it is put right with the unit's next save, and a foreign file beside it stays."""
    save(rig)
    rig.update()
    server.commit(REPO, {f"{UNIT}/hubsync.json": b"{}", "LICENSE": b"mine"})
    save(rig, size=120_000)
    rig.write(f"{UNIT}/trainer_state.json", b'{"global_step": 5, "again": 1}')
    rig.update()

    assert 0 == check_sums(server, tmp_path / "got", UNIT).returncode
    assert b"mine" == server.read(REPO, "LICENSE")


def test_a_restored_unit_in_the_source_is_no_other_one(rig: Rig, server: PlainServer) -> None:
    """Files of these names that came back with a restore are not published over those that hubsync writes."""
    save(rig)
    rig.update()
    before = server.history(REPO)
    rig.write(f"{UNIT}/hubsync.json", b'{"stale": true}')
    rig.write(f"{UNIT}/SHA256SUMS", b"stale")
    rig.update()

    assert before == server.history(REPO)


def test_a_log_that_grows_is_followed(rig: Rig, server: PlainServer, tmp_path: Path) -> None:
    """A unit's event file goes on after the unit was published, and so do its sums."""
    log = rig.write(f"{UNIT}/events.out.tfevents.1.host", record(b"begin"))
    save(rig)
    rig.update()
    before = server.read(REPO, f"{UNIT}/SHA256SUMS")
    with log.open("ab") as file:
        file.write(record(b"more"))
    rig.update()

    assert before != server.read(REPO, f"{UNIT}/SHA256SUMS")
    assert 0 == check_sums(server, tmp_path / "got", UNIT).returncode


def test_it_goes_with_its_unit(server: PlainServer, make_rig: MakeRig) -> None:
    """Where deletions reach the mirrors, a unit's record goes with the last of it, and never by itself."""
    rig = make_rig(server, units=("checkpoint-*",), provenance=True, deletes="propagate")
    save(rig)
    save(rig, "checkpoint-6")
    rig.update()
    rig.update()
    assert f"{UNIT}/hubsync.json" in server.read_all(REPO)
    (rig.source / UNIT / "config.json").unlink()
    rig.update()
    assert "config.json" not in server.read(REPO, f"{UNIT}/SHA256SUMS").decode()
    for file in sorted((rig.source / UNIT).rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (rig.source / UNIT).rmdir()
    rig.update()

    assert not [path for path in server.read_all(REPO) if path.startswith(f"{UNIT}/")]


def test_a_revision_has_it_at_its_root(server: PlainServer, make_rig: MakeRig) -> None:
    """Whoever downloads a unit's revision finds both files beside its own."""
    rig = make_rig(server, units=("checkpoint-*",), provenance=True, publish="revisions")
    save(rig)
    rig.update()
    listed = server.git(REPO, "ls-tree", "-r", "--name-only", UNIT).splitlines()

    assert {"hubsync.json", "SHA256SUMS", "config.json"} <= set(listed)
