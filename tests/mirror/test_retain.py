"""Which units a mirror goes on to show: ordinary commits, nothing forced, nothing published again."""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import CutError, PlainServer, Request
from support.rig import REPO, Rig, safetensors
from support.units import branches

from hubsync.config.model import LocalRetention, MirrorRetention, RemoteRetention, Retention
from hubsync.errors import MirrorError

MakeRig = Callable[..., Rig]


def keep(**rules: Any) -> dict[str, Any]:
    """Return what a mirror says that keeps units by *rules*."""
    return {"retention": MirrorRetention(remote=RemoteRetention(**rules))}


def save(rig: Rig, *steps: int, fill: bytes = b"", **state: Any) -> None:
    for step in steps:
        unit = f"checkpoint-{step}"
        rig.write(f"{unit}/config.json", b"{}")
        rig.write(f"{unit}/model.safetensors", safetensors(3000, fill or bytes([step % 250 + 1])))
        rig.write(f"{unit}/trainer_state.json", json.dumps({"global_step": step, **state}).encode())


def shown(server: PlainServer) -> set[str]:
    return {path.partition("/")[0] for path in server.read_all(REPO)}


@pytest.fixture
def rig(server: PlainServer, make_rig: MakeRig) -> Rig:
    """Give a target whose mirror keeps the two newest units."""
    return make_rig(server, mirror=keep(keep_last=2), units=("checkpoint-*",))


def test_what_no_rule_keeps_goes_in_an_ordinary_commit(rig: Rig, server: PlainServer) -> None:
    """The oldest unit goes from the branch, on top of its history, which keeps it; all else stays, also of others."""
    save(rig, 1, 2)
    rig.write("notes.txt", b"n")
    rig.update()
    server.commit(REPO, {"LICENSE": b"mine", "checkpoint-1/extra": b"theirs"})
    before = server.history(REPO)
    save(rig, 3)
    with capture_logs() as logs:
        rig.update()

    assert {"checkpoint-1", "checkpoint-2", "checkpoint-3", "notes.txt", "LICENSE"} == shown(server)
    assert ["checkpoint-1/extra"] == [path for path in server.read_all(REPO) if path.startswith("checkpoint-1/")]
    assert before == server.history(REPO)[-len(before) :]
    assert "Remove checkpoint-1: retention.remote does not keep it" == server.git(REPO, "log", "-1", "--format=%s", "main")
    assert [("checkpoint-1", "no rule keeps it: keep_last = 2")] == [
        (log["unit"], log["reason"]) for log in logs if log["event"] == "unit.dropped"
    ]


def test_it_is_never_published_again(rig: Rig, server: PlainServer) -> None:
    """Not by a new unit, after a restart, with lost caches, or when the rules keep more; saved again, it is another one."""
    save(rig, 1, 2, 3)
    rig.update()
    assert {"checkpoint-2", "checkpoint-3"} == shown(server)
    head = server.history(REPO)[0]
    rig.restart()
    rig.update()
    assert head == server.history(REPO)[0]
    rig.work.close()
    (rig.store.directory / "ledger.sqlite").unlink()
    rig.restart_with(keep(keep_last=3), units=("checkpoint-*",))
    rig.write("notes.txt", b"n")
    rig.update()
    assert {"checkpoint-2", "checkpoint-3", "notes.txt"} == shown(server)
    server.commit(REPO, {"LICENSE": b"mine"})  # a head that is not as we left it: all is compared
    save(rig, 4)
    rig.update()
    assert {"checkpoint-2", "checkpoint-3", "checkpoint-4", "notes.txt", "LICENSE"} == shown(server)

    rig.restart_with(keep(keep_last=9), units=("checkpoint-*",))
    for path in ("model.safetensors", "trainer_state.json"):
        (rig.source / "checkpoint-1" / path).unlink()
    save(rig, 1, fill=b"\x77", again=True)
    rig.write("checkpoint-1/trainer_state.json", b'{"global_step": 1, "again": true}')
    _later(rig.source / "checkpoint-1")
    rig.update()
    files = {path for path in server.read_all(REPO) if path.startswith("checkpoint-1/")}
    assert {"checkpoint-1/config.json", "checkpoint-1/model.safetensors", "checkpoint-1/trainer_state.json"} == files


def _later(directory: Path) -> None:
    """Make what was saved again newer than what was before, though the test takes less than a second."""
    import os  # noqa: PLC0415
    import time  # noqa: PLC0415

    for path in directory.iterdir():
        os.utime(path, (time.time() + 5, time.time() + 5))


def test_a_lost_answer_is_made_up_for(rig: Rig, server: PlainServer) -> None:
    """Whether the removal was pushed or not when the connection broke: the next run ends it, once."""
    save(rig, 1, 2)
    rig.update()
    save(rig, 3)
    rig.commit()

    def cut_removal(request: Request) -> None:
        if request.is_push and "Remove" in server.git(REPO, "log", "-1", "--all", "--format=%s"):
            raise CutError

    def refuse_removal(request: Request) -> None:
        if request.is_push and rig.publisher().retainer.dropped.pending:
            raise CutError

    server.before = refuse_removal
    with pytest.raises(MirrorError):
        rig.publish()
    assert {"checkpoint-1", "checkpoint-2", "checkpoint-3"} == shown(server)
    server.before = lambda _: None
    server.after = cut_removal
    rig.restart()
    rig.publish()  # the answer is lost, and the head tells
    rig.publish()

    assert {"checkpoint-2", "checkpoint-3"} == shown(server)
    assert 1 == server.git(REPO, "log", "--format=%s", "main").count("Remove checkpoint-1")


def test_below_a_directory_of_the_repository(server: PlainServer, make_rig: MakeRig) -> None:
    """A mirror that publishes below ``path_in_repo`` removes there."""
    rig = make_rig(server, mirror={**keep(keep_last=1), "path_in_repo": PurePosixPath("runs/a")}, units=("checkpoint-*",))
    save(rig, 1, 2)
    server.commit(REPO, {"checkpoint-1/config.json": b"theirs"})
    rig.update()

    units = {"/".join(path.split("/")[:-1]) for path in server.read_all(REPO)}
    assert {"checkpoint-1", "runs/a/checkpoint-2"} == units


def test_revisions_go_with_their_branches(server: PlainServer, make_rig: MakeRig) -> None:
    """A unit's branch is deleted, unless others committed to it; the one that main shows stays."""
    rig = make_rig(server, mirror=keep(keep_last=1), units=("checkpoint-*",), publish="revisions", main="best")
    save(rig, 1, 2)
    save(rig, 3, best_model_checkpoint="out/checkpoint-2")
    rig.update()
    assert {"main", "checkpoint-2", "checkpoint-3"} == branches(server)
    rig.update()
    server.git(REPO, "branch", "-f", "checkpoint-3", "checkpoint-3^{commit}")
    tree = server.git(REPO, "rev-parse", "checkpoint-3^{tree}")
    argv = ("-c", "user.name=o", "-c", "user.email=o@o", "commit-tree", tree, "-p", "checkpoint-3", "-m", "theirs")
    server.git(REPO, "update-ref", "refs/heads/checkpoint-3", server.git(REPO, *argv))
    save(rig, 4, best_model_checkpoint="out/checkpoint-4")
    rig.update()

    assert {"main", "checkpoint-3", "checkpoint-4"} == branches(server)


def test_the_best_stay_there(server: PlainServer, make_rig: MakeRig) -> None:
    """``keep_best`` and ``keep_every`` are the same rules as on this machine."""
    rig = make_rig(server, mirror=keep(keep_best=1, keep_every=10), units=("checkpoint-*",))
    save(rig, 1, 2, 10)
    save(rig, 11, best_model_checkpoint="out/checkpoint-2")
    rig.update()

    assert {"checkpoint-2", "checkpoint-10", "checkpoint-11"} == shown(server)


def test_a_unit_that_is_to_go_here_too_waits_for_that(server: PlainServer, make_rig: MakeRig) -> None:
    """To prune it here takes the mirror's proof, so that goes first."""
    local = Retention(local=LocalRetention(keep_last=1))
    rig = make_rig(server, mirror=keep(keep_last=1), units=("checkpoint-*",), retention=local)
    save(rig, 1, 2)
    rig.update()
    assert {"checkpoint-1", "checkpoint-2"} == shown(server)
    for path in sorted((rig.source / "checkpoint-1").iterdir()):
        path.unlink()
    (rig.source / "checkpoint-1").rmdir()
    rig.publish()

    assert {"checkpoint-2"} == shown(server)
