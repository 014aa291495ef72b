"""What goes and what stays on this machine, asked of real mirrors; and that nothing of it reaches them."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import NO_LOGIN, REPO, Rig, safetensors

from hubsync.config.model import LocalRetention, Retention
from hubsync.errors import BusyError, UsageError
from hubsync.mirror.token import Tokens
from hubsync.proof.prove import Means
from hubsync.prune.run import Outcome, Pruner

MakeRig = Callable[..., Rig]
KEEP_1 = {"keep_last": 1}


def retain(**rules: Any) -> dict[str, Any]:
    """Return what a target says that keeps units by *rules*."""
    return {"units": ("checkpoint-*",), "retention": Retention(local=LocalRetention(**rules)), "quiet_s": 0.0}


def save(rig: Rig, *steps: int, **state: Any) -> None:
    for step in steps:
        unit = f"checkpoint-{step}"
        rig.write(f"{unit}/config.json", b"{}")
        rig.write(f"{unit}/model.safetensors", safetensors(3000, bytes([step % 250 + 1])))
        rig.write(f"{unit}/trainer_state.json", json.dumps({"global_step": step, **state}).encode())


def make_pruner(rig: Rig) -> Pruner:
    return Pruner(rig.config.targets[0], Means(rig.config, Tokens(NO_LOGIN), threading.Event()))


def prune(rig: Rig, *, execute: bool = True) -> dict[str, Outcome]:
    return {one.unit: one for one in make_pruner(rig).run(execute=execute)}


def actions(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {unit: one.action for unit, one in outcomes.items()}


def units(rig: Rig) -> set[str]:
    return {path.name for path in rig.source.iterdir() if path.is_dir()}


def shown(server: PlainServer) -> set[str]:
    return {path.partition("/")[0] for path in server.read_all(REPO)}


def test_what_no_rule_keeps_goes_here_and_stays_there(server: PlainServer, make_rig: MakeRig) -> None:
    """Units go whole, with their reasons; a dry run says the same and changes nothing; the mirror goes on to show them."""
    rig = make_rig(server, **retain(keep_last=1, keep_every=100))
    save(rig, 90, 100, 110, 120)
    rig.update()
    before = server.history(REPO)
    told = prune(rig, execute=False)
    assert {"checkpoint-90", "checkpoint-100", "checkpoint-110", "checkpoint-120"} == units(rig)
    with capture_logs() as logs:
        done = prune(rig)

    expected = {"checkpoint-120": "keep", "checkpoint-110": "remove", "checkpoint-100": "keep", "checkpoint-90": "remove"}
    assert expected == actions(told) == actions(done)
    assert list(expected) == list(done)
    assert "no rule keeps it: keep_last = 1, keep_every = 100" == done["checkpoint-90"].reason
    assert ("m0",) == done["checkpoint-90"].mirrors
    assert {"checkpoint-100", "checkpoint-120"} == units(rig)
    assert [("unit.pruned", "checkpoint-90"), ("unit.pruned", "checkpoint-110")] == [
        (log["event"], log["unit"]) for log in logs if log["event"] == "unit.pruned"
    ]
    assert {"checkpoint-120", "checkpoint-100"} == {log["unit"] for log in logs if log["event"] == "unit.kept"}
    rig.update()
    assert before == server.history(REPO)
    assert shown(server) == {f"checkpoint-{step}" for step in (90, 100, 110, 120)}


def test_pruned_units_stay_where_deletions_are_propagated(server: PlainServer, make_rig: MakeRig) -> None:
    """What hubsync removed is no wish to delete: not at once, not after a restart, not with a lost ledger."""
    rig = make_rig(server, deletes="propagate", **retain(**KEEP_1))
    save(rig, 1, 2, 3)
    rig.write("notes.txt", b"n")
    rig.update()
    assert {"checkpoint-3": "keep", "checkpoint-2": "remove", "checkpoint-1": "remove"} == actions(prune(rig))
    for path in ("checkpoint-1/config.json", "checkpoint-2/model.safetensors"):
        rig.pipeline.note(path)  # as an event tells it
    rig.update()
    rig.restart()
    rig.update()
    rig.work.close()
    (rig.store.directory / "ledger.sqlite").unlink()
    rig.restart()
    rig.update()
    assert {"checkpoint-1", "checkpoint-2", "checkpoint-3", "notes.txt"} == shown(server)

    (rig.source / "notes.txt").unlink()
    rig.update()
    assert {"checkpoint-1", "checkpoint-2", "checkpoint-3"} == shown(server)
    save(rig, 1)  # it comes back, and then a person deletes it
    rig.update()
    for file in (rig.source / "checkpoint-1").iterdir():
        file.unlink()
    (rig.source / "checkpoint-1").rmdir()
    rig.update()
    assert {"checkpoint-2", "checkpoint-3"} == shown(server)


def lose_object(server: PlainServer) -> None:
    server.objects.clear()


def take_away(server: PlainServer) -> None:
    server.commit(REPO, {"checkpoint-1/config.json": None})


def change(server: PlainServer) -> None:
    server.commit(REPO, {"checkpoint-1/config.json": b"{ }"})


def fail(server: PlainServer) -> None:
    def refuse(_: Request) -> None:
        raise AnswerError(503)

    server.before = refuse


@pytest.mark.parametrize("damage", [lose_object, take_away, change, fail])
def test_a_unit_that_a_mirror_does_not_prove_stays(
    server: PlainServer, make_rig: MakeRig, damage: Callable[[PlainServer], None]
) -> None:
    """A mirror that lost or changed it right before, or cannot be asked, keeps it here."""
    rig = make_rig(server, **retain(**KEEP_1))
    save(rig, 1, 2)
    rig.update()
    damage(server)
    done = prune(rig)

    assert {"checkpoint-2": "keep", "checkpoint-1": "leave"} == actions(done)
    assert "checkpoint-1/" in done["checkpoint-1"].reason
    assert {"checkpoint-1", "checkpoint-2"} == units(rig)


def test_what_is_not_published_is_not_removed(server: PlainServer, make_rig: MakeRig) -> None:
    """A unit with a file that no mirror has, by whatever rule, stays; hubsync's own mark is no such file."""
    rig = make_rig(server, exclude=("*.private",), **retain(**KEEP_1))
    save(rig, 1, 2, 3)
    (rig.source / "checkpoint-2/.hubsync-complete").touch()
    rig.update()
    (rig.source / "checkpoint-1/notes.private").write_bytes(b"x")
    done = prune(rig)

    assert {"checkpoint-3": "keep", "checkpoint-2": "remove", "checkpoint-1": "leave"} == actions(done)
    assert "notes.private: it is not published" in done["checkpoint-1"].reason


def test_the_newest_complete_unit_stays(server: PlainServer, make_rig: MakeRig) -> None:
    """A newer unit that lost a file is no complete one, and does not count."""
    rig = make_rig(server, **retain(**KEEP_1))
    save(rig, 1, 2, 3)
    rig.update()
    (rig.source / "checkpoint-3/model.safetensors").unlink()
    done = prune(rig)

    assert {"checkpoint-3": "keep", "checkpoint-2": "keep", "checkpoint-1": "remove"} == actions(done)
    assert "it is not complete" in done["checkpoint-3"].reason
    assert "it is the newest complete unit" == done["checkpoint-2"].reason


def test_a_unit_in_use_stays_until_it_is_not(server: PlainServer, make_rig: MakeRig) -> None:
    """An evaluation that reads a unit keeps it."""
    rig = make_rig(server, **retain(**KEEP_1))
    save(rig, 1, 2)
    rig.update()
    code = "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", code, rig.source / "checkpoint-1/config.json"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        done = prune(rig)
        assert {"checkpoint-2": "keep", "checkpoint-1": "leave"} == actions(done)
        assert "open" in done["checkpoint-1"].reason
        reader.communicate()

    assert {"checkpoint-2": "keep", "checkpoint-1": "remove"} == actions(prune(rig))


def test_the_best_stay(server: PlainServer, make_rig: MakeRig) -> None:
    """``keep_best`` goes by what the Trainer's own state says, and says so where nothing does."""
    rig = make_rig(server, **retain(keep_best=1))
    save(rig, 1, 2)
    save(rig, 3, best_model_checkpoint="/elsewhere/out/checkpoint-1")
    rig.update()

    assert {"checkpoint-3": "keep", "checkpoint-2": "remove", "checkpoint-1": "keep"} == actions(prune(rig))
    (rig.source / "checkpoint-3/trainer_state.json").write_bytes(b"{}")
    with capture_logs() as logs:
        prune(rig)
    assert "prune.best_unknown" in [log["event"] for log in logs]


def test_space_alone_lets_the_oldest_go(server: PlainServer, make_rig: MakeRig) -> None:
    """Below ``min_free`` the oldest go, but not the newest; another one goes for one that must not."""
    rig = make_rig(server, exclude=("*.private",), **retain(min_free_bytes=1))
    save(rig, 1, 2, 3)
    rig.update()
    assert {"keep"} == set(actions(prune(rig)).values())
    rig.restart_with({}, **retain(min_free_bytes=1 << 60))
    (rig.source / "checkpoint-1/extra.private").write_bytes(b"x")
    done = prune(rig)

    assert {"checkpoint-3": "keep", "checkpoint-2": "remove", "checkpoint-1": "leave"} == actions(done)


def test_every_required_mirror_is_asked(server: PlainServer, make_rig: MakeRig, tmp_path: Path) -> None:
    """A second mirror that is behind keeps the unit, until it has it."""
    with PlainServer(tmp_path / "other") as other:
        other.create(REPO)
        rig = make_rig(server, other, **retain(**KEEP_1))
        save(rig, 1, 2)
        rig.update(0)
        assert {"checkpoint-2": "keep", "checkpoint-1": "leave"} == actions(prune(rig))
        rig.publish(1)
        done = prune(rig)

    assert {"checkpoint-2": "keep", "checkpoint-1": "remove"} == actions(done)
    assert ("m0", "m1") == done["checkpoint-1"].mirrors


def test_a_target_says_what_stays(server: PlainServer, make_rig: MakeRig) -> None:
    """Without rules nothing is removed, and two prunes of one target exclude each other."""
    rig = make_rig(server, units=("checkpoint-*",))
    with pytest.raises(UsageError, match="says nothing"):
        make_pruner(rig).run(execute=True)
    rig.restart_with({}, **retain(**KEEP_1))
    pruner = make_pruner(rig)
    with pruner._alone(), pytest.raises(BusyError):
        make_pruner(rig).run(execute=True)
