"""A plan is what ``once`` does, to the path: each test makes the plan, runs ``once``, and compares."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.plain_server import PlainServer
from support.rig import NO_LOGIN, REPO, Rig, safetensors

from hubsync.mirror.token import Tokens
from hubsync.once import Outcome, run_once
from hubsync.plan import Plan, make_plan

MakeRig = Callable[..., Rig]
TOKEN = b"hf_" + b"aBcDeFgHiJ" * 4
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 5\n"


def plan(rig: Rig) -> Plan:
    return make_plan(rig.config, rig.config.targets[0])


def once(rig: Rig) -> Outcome:
    """Run the command in the place of the rig, which is closed for it."""
    rig.work.close()
    (outcome,) = run_once(rig.config, rig.config.targets, Tokens(NO_LOGIN), threading.Event(), timeout_s=20)
    rig.restart()
    return outcome


def paths(planned: Plan, action: str) -> set[str]:
    return {step.path for step in planned.steps if step.action == action}


def listing(server: PlainServer) -> dict[str, tuple[str, str, int]]:
    """Return mode, blob and size of what a mirror has."""
    if not server.git(REPO, "branch"):
        return {}
    sizes = {path: len(content) for path, content in server.read_all(REPO).items()}
    lines = [line.split("\t") for line in server.git(REPO, "ls-tree", "-r", "-z", "main").strip("\0").split("\0")]
    return {path: (*meta.split(" ")[::2], sizes[path]) for meta, path in lines if path in sizes}


def compare(rig: Rig, servers: tuple[PlainServer, ...]) -> tuple[Plan, Outcome]:
    """Make the plan, do it, and compare: commits, what is held and why, uploads, and what each mirror gets."""
    before = [listing(server) for server in servers]
    objects = [set(server.objects) for server in servers]
    head = rig.store.head()
    planned = plan(rig)
    outcome = once(rig)

    changed = list(rig.store.git.diff_trees(head, outcome.commits[-1])) if outcome.commits else []
    assert paths(planned, "capture") == {change.path for change in changed if change.after}
    assert paths(planned, "remove") == {change.path for change in changed if not change.after}
    assert {step.path: step.reason for step in planned.steps if step.action == "hold"} == outcome.held
    waiting = {pointer.oid for pointer in rig.store.ledger.uncommitted_objects().values()}
    captured_early = {path for oid in waiting for path, _ in rig.store.ledger.paths_of(oid)}
    assert paths(planned, "upload") <= captured_early
    for number, server in enumerate(servers):
        mirror = planned.publishes[number]
        if f"m{number}" in outcome.failed:
            continue
        new = {path: size for path, (mode, blob, size) in (listing(server).items() - before[number].items())}
        assert (mirror.files, mirror.bytes) == (len(new), sum(new.values()))
        assert len(waiting - objects[number]) == len(paths(planned, "upload"))

    return planned, outcome


def write_rich_tree(rig: Rig) -> None:
    """Write files of every fate."""
    rig.write("notes.txt", b"notes")
    rig.write("weights.bin", b"\0" * 5000)
    rig.write("deep/er/model.safetensors", safetensors(3000))
    rig.write("empty.txt", b"")
    rig.write("binary.dat", b"\0\xff")
    rig.write("broken.json", b"{")
    rig.write("torn.safetensors", safetensors(3000)[:-1])
    rig.write("pointer.txt", POINTER)
    rig.write("pointer.bin", POINTER)
    rig.write("secret.txt", TOKEN)
    rig.write("secret.bin", TOKEN + bytes(10))
    rig.write(".env", b"A=1")
    rig.write("ignored.tmp", b"x")
    rig.write("log/ignored.txt", b"x")
    rig.write("a:b.txt")
    rig.write("back\\slash")
    rig.write(os.fsdecode(b"latin-\xe9"))
    rig.write("new\nline", b"odd")
    (rig.source / "link").symlink_to("notes.txt")
    (rig.source / "out").symlink_to("/etc/passwd")
    os.mkfifo(rig.source / "fifo")
    rig.write("lone/model.safetensors.index.json", b'{"weight_map": {"w": "gone.safetensors"}}')
    rig.write("lone/fine.txt", b"fine")
    write_unit(rig, "checkpoint-1")
    write_unit(rig, "checkpoint-2", "trainer_state.json")
    write_unit(rig, "checkpoint-3")
    rig.write("checkpoint-3/args.json", b'"%s"' % TOKEN)
    write_unit(rig, "checkpoint-4")
    rig.write("checkpoint-4/training_args.bin", TOKEN + bytes(100))
    write_unit(rig, "checkpoint-5")
    rig.write("checkpoint-5/broken.json", b"{")


def write_unit(rig: Rig, name: str, without: str = "") -> None:
    files = {"config.json": b"{}", "model.safetensors": safetensors(3000, name[-1:].encode()), "trainer_state.json": b"{}"}
    for path, content in files.items():
        if path != without:
            rig.write(f"{name}/{path}", content)


SETTINGS: dict[str, Any] = {"units": ("checkpoint-*",), "exclude": ("log/",)}


def test_a_first_run(server: PlainServer, make_rig: MakeRig) -> None:
    """Everything is new: what is taken, what is held for which reason, what goes up early."""
    rig = make_rig(server, **SETTINGS)
    write_rich_tree(rig)

    planned, _ = compare(rig, (server,))

    assert {"checkpoint-2/", "checkpoint-3/", "checkpoint-4/", "checkpoint-5/", "broken.json", ".env"} < paths(
        planned, "hold"
    )
    assert {f"checkpoint-{number}/model.safetensors" for number in (2, 3, 4, 5)} == paths(planned, "upload")
    assert "checkpoint-2/config.json" in paths(planned, "wait")
    assert all(step.reason for step in planned.steps)
    assert all(step.hint for step in planned.steps if step.action == "hold" and not step.path.endswith("/"))
    assert TOKEN[5:15].decode() not in repr(planned)


def test_a_second_run_has_nothing_to_do(server: PlainServer, make_rig: MakeRig) -> None:
    """What is published is unchanged, what is held is held for the same reasons, and objects are up."""
    rig = make_rig(server, **SETTINGS)
    write_rich_tree(rig)
    once(rig)

    planned, outcome = compare(rig, (server,))

    assert [] == outcome.commits
    assert (0, 0) == (planned.publishes[0].files, planned.publishes[0].backlog_snapshots)
    assert set() == paths(planned, "capture") | paths(planned, "upload")
    assert 11 == planned.unchanged


@pytest.mark.parametrize("deletes", ["keep", "propagate"])
def test_changes(server: PlainServer, make_rig: MakeRig, deletes: str) -> None:
    """Rewritten, touched, replaced by its equal, mended, removed, and made executable."""
    rig = make_rig(server, deletes=deletes, **SETTINGS)
    write_rich_tree(rig)
    once(rig)
    rig.write("notes.txt", b"other")
    os.utime(rig.source / "weights.bin")
    rig.write("deep/er/model.safetensors", safetensors(3000))
    rig.write("binary.dat", b"\0\xfe")
    rig.write("broken.json", b"{}")
    rig.write("secret.txt", b"none")
    rig.write("checkpoint-2/trainer_state.json", b"{}")
    (rig.source / "checkpoint-3/args.json").unlink()
    (rig.source / "lone/fine.txt").unlink()
    (rig.source / "empty.txt").chmod(0o755)

    planned, outcome = compare(rig, (server,))

    assert {"notes.txt", "binary.dat", "broken.json", "secret.txt", "empty.txt"} <= paths(planned, "capture")
    assert {"checkpoint-2/model.safetensors", "checkpoint-3/config.json"} <= paths(planned, "capture")
    assert not {"weights.bin", "deep/er/model.safetensors"} & paths(planned, "capture")
    assert {"lone/fine.txt"} == paths(planned, "remove" if deletes == "propagate" else "leave")
    assert len(outcome.commits) > 2


def test_a_mirror_with_a_backlog(tmp_path: Path, server: PlainServer, make_rig: MakeRig) -> None:
    """What one mirror lacks is counted for it, whether captured before or not; the other gets only what is new."""
    with PlainServer(tmp_path / "other") as other:
        other.create(REPO)
        rig = make_rig(server, other, **SETTINGS)
        rig.write("a.txt", b"first")
        rig.write("w.bin", b"\0" * 700)
        once(rig)
        rig.write("a.txt", b"second!")
        rig.commit()
        rig.publish(0)
        rig.write("b.txt", b"new")

        planned, _ = compare(rig, (server, other))

        assert [(1, 0), (2, 1)] == [(mirror.files, mirror.backlog_files) for mirror in planned.publishes]
        assert [3, 10] == [mirror.bytes for mirror in planned.publishes]
        assert planned.publishes[0].snapshot != planned.publishes[1].snapshot


def test_a_backlog_without_anything_new(server: PlainServer, make_rig: MakeRig) -> None:
    """Nothing is to capture, but the mirror lacks all of it."""
    rig = make_rig(server)
    rig.write("a.txt", b"abc")
    rig.commit()

    planned, _ = compare(rig, (server,))

    assert () == planned.steps
    assert (1, 3, 1) == (planned.publishes[0].files, planned.publishes[0].bytes, planned.publishes[0].backlog_snapshots)


@pytest.mark.parametrize("how", ["gone", "empty", "lost"])
def test_a_halted_target(server: PlainServer, make_rig: MakeRig, how: str) -> None:
    """A source that is gone, empty, or lost most of its files: the plan says so, with the error and hint of ``once``."""
    rig = make_rig(server, deletes="propagate")
    for number in range(4):
        rig.write(f"{number}.txt")
    rig.commit()
    shutil.rmtree(rig.source)
    if how != "gone":
        rig.source.mkdir()
    if how == "lost":
        rig.write("0.txt")

    planned, outcome = compare(rig, (server,))

    assert planned.halted is not None
    assert str(outcome.failed["source"]) == planned.halted.error
    assert outcome.failed["source"].hint == planned.halted.hint
    assert set() == paths(planned, "capture") | paths(planned, "remove")
    assert 4 == planned.publishes[0].backlog_files


def test_a_full_disk(server: PlainServer, make_rig: MakeRig) -> None:
    """With less room than is wanted nothing is captured, and neither calls that published."""
    rig = make_rig(server)
    service = rig.config.service.model_copy(update={"min_free_bytes": 1 << 60})
    rig.config = rig.config.model_copy(update={"service": service})
    rig.write("a.txt")
    rig.write("w.bin", b"\0")

    planned, outcome = compare(rig, (server,))

    assert {"a.txt", "w.bin"} == paths(planned, "hold")
    assert not outcome.is_done


def test_a_file_that_is_not_quiet_yet_is_taken_with_a_word(server: PlainServer, make_rig: MakeRig) -> None:
    """``once`` waits for it, so the plan takes it, and says for how long."""
    rig = make_rig(server, quiet_s=60.0)
    rig.write("a.txt")

    (step,) = plan(rig).steps

    assert "capture" == step.action
    assert "quiet" in step.reason


def test_a_plan_leaves_no_trace(server: PlainServer, make_rig: MakeRig) -> None:
    """Neither in the state, nor in the source, nor on the mirror."""
    rig = make_rig(server, **SETTINGS)
    write_rich_tree(rig)
    once(rig)
    write_unit(rig, "checkpoint-9")
    before = {path: path.lstat() for top in (rig.state, rig.source) for path in top.rglob("*")}
    server.requests.clear()

    plan(rig)

    after = {path: path.lstat() for top in (rig.state, rig.source) for path in top.rglob("*")}
    assert [] == server.requests
    assert before.keys() == after.keys()
    assert all(before[path].st_ctime_ns == after[path].st_ctime_ns for path in before)
