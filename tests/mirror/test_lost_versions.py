"""Versions that are nowhere any more: rewritten in place while they were queued, and deleted since."""

import hashlib
import itertools
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import PlainServer
from support.rig import NO_LOGIN, REPO, Rig, safetensors

from hubsync.config.model import Card, MirrorRetention, RemoteRetention
from hubsync.explain import explain
from hubsync.mirror.token import Tokens
from hubsync.mirror.view import WHY_LOST
from hubsync.once import _left
from hubsync.proof.verify import Means, Reading, verify
from hubsync.wait import Wait, Wish

MakeRig = Callable[..., Rig]
SECONDS = itertools.count()
MODEL = "checkpoint-{}/model.safetensors"


def save(rig: Rig, step: int, fill: bytes = b"\1", name: str = "model") -> None:
    """Save a unit, and commit it."""
    rig.write(f"checkpoint-{step}/{name}.safetensors", safetensors(3000 + step, fill))
    rig.write(f"checkpoint-{step}/config.json", b'{"step": %d}' % step)
    rig.write(f"checkpoint-{step}/DONE", b"")
    for file in (rig.source / f"checkpoint-{step}").iterdir():
        os.utime(file, (1_700_000_000 + next(SECONDS),) * 2)  # which save is which is told by whole seconds
    rig.commit()


def lose(rig: Rig, step: int) -> None:
    """Rewrite the unit's file in place, and rotate the unit away."""
    with (rig.source / MODEL.format(step)).open("r+b") as file:
        file.seek(200)
        file.write(b"\7" * 50)
    shutil.rmtree(rig.source / f"checkpoint-{step}")


def told(entries: list[Any]) -> list[str]:
    return [entry["path"] for entry in entries if entry["event"] == "file.rejected"]


def units(server: PlainServer) -> set[str]:
    return {path.partition("/")[0] for path in server.read_all(REPO)}


@pytest.mark.parametrize("publish", ["tree", "revisions"])
def test_what_is_lost_is_said_once_and_forgotten(make_units: MakeRig, server: PlainServer, publish: str) -> None:
    """Nothing of it is published, nothing of it is kept, all else arrives, and no flush or restart brings it up again."""
    rig = make_units(capture="link", publish=publish)
    for step in (1, 2):
        save(rig, step)
    lose(rig, 2)
    rig.write("note.txt", b"hi")
    rig.commit()

    with capture_logs() as entries:
        rig.work.workers[0].run(now=True)
        assert _left(rig.work.workers[0]) is not None  # the run that found it says so
        rig.work.workers[0].run(now=True)
        rig.restart()
        rig.settle()
        rig.work.workers[0].run(now=True)

    assert [MODEL.format(2)] == told(entries)
    assert _left(rig.work.workers[0]) is None
    assert {} == rig.publisher().refusals.reasons()
    assert [] == rig.publisher().backlog()
    assert "checkpoint-1" == next(iter(rig.publisher().unit_times()))
    assert not [path for path in server.read_all(REPO) if "checkpoint-2" in path]
    assert b"hi" == server.read(REPO, "note.txt")
    rig.work.release()
    assert set() == rig.held_objects()
    means = Means(rig.config, Tokens(NO_LOGIN), rig.stop)
    assert verify(means, rig.config.targets[0], Reading()).is_passed
    unit = explain(rig.config, "checkpoint-2/model.safetensors", rig.source)
    assert [WHY_LOST] == [fact.reason for one in unit for fact in one.mirrors]


@pytest.mark.parametrize("publish", ["tree", "revisions"])
def test_a_card_does_not_speak_of_what_is_lost(make_units: MakeRig, server: PlainServer, publish: str) -> None:
    """It lists what the mirror has."""
    rig = make_units(capture="link", publish=publish, card=Card(enabled=True))
    for step in (1, 2):
        save(rig, step)
    lose(rig, 2)
    rig.write("note.txt", b"hi")
    rig.commit()

    rig.work.workers[0].run()

    card = server.read(REPO, "README.md").decode()
    assert "checkpoint-1" in card
    assert "checkpoint-2" not in card


def test_a_shard_that_was_changed_in_place_says_what_its_unit_waits_for(make_rig: MakeRig, server: PlainServer) -> None:
    """No mirror refused it, and nothing was published: it waits for the save that the marker would end."""
    rig = make_rig(server, units=("checkpoint-*",), capture="link", quiet_s=0.0)
    for number in (1, 2):
        rig.write(f"checkpoint-1/model-0000{number}-of-00002.safetensors", safetensors(3000 + number))
    rig.write("checkpoint-1/trainer_state.json", b"{}")
    rig.commit()
    shard = rig.source / "checkpoint-1/model-00001-of-00002.safetensors"
    before = shard.stat()
    with shard.open("r+b") as file:
        file.seek(200)
        file.write(b"\7" * 50)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))

    with capture_logs() as entries:
        rig.work.workers[0].run()
    rig.commit()

    [rejected] = [entry for entry in entries if entry["event"] == "file.rejected"]
    assert "in a unit, when that is saved again" in rejected["hint"]
    for name in (shard.name, "trainer_state.json"):
        [found] = explain(rig.config, f"checkpoint-1/{name}", rig.source)
        assert (f"checkpoint-1/{shard.name} was changed or deleted here before it was uploaded", rejected["hint"]) == (
            found.mirrors[0].reason, found.mirrors[0].hint
        )  # fmt: skip
        assert "(if not, `touch` trainer_state.json)" in (found.unit_state or "")
    wait = Wait(rig.work, Wish("run", "checkpoint-1"))
    wait.begin()
    rig.settle()
    assert f"{shard.name} is not what was captured, but trainer_state.json is" in wait.look().reason
    (rig.source / "checkpoint-1/trainer_state.json").touch()
    rig.commit()
    rig.publish()
    assert [] == rig.publisher().backlog()
    assert {} == rig.publisher().refusals.reasons()


def test_two_mirrors_say_it_once(make_rig: MakeRig, server: PlainServer, second: PlainServer) -> None:
    """It is lost for both."""
    rig = make_rig(server, second, units=("checkpoint-*",), complete_when=("DONE",), capture="link")
    save(rig, 1)
    lose(rig, 1)

    with capture_logs() as entries:
        for worker in rig.work.workers:
            worker.run()

    assert [MODEL.format(1)] == told(entries)
    assert [[], []] == [worker.publisher.backlog() for worker in rig.work.workers]


def test_an_earlier_version_stays_on_the_mirror(make_units: MakeRig, server: PlainServer) -> None:
    """Of a unit that was saved again, and is lost as it was then, the mirror keeps what it has."""
    rig = make_units(capture="link")
    save(rig, 1)
    rig.publish()
    before = server.read_all(REPO)
    save(rig, 1, fill=b"\2")
    lose(rig, 1)

    rig.work.workers[0].run()

    assert before == server.read_all(REPO)
    assert [] == rig.publisher().backlog()


@pytest.mark.parametrize("name", ["model", "weights"])
def test_a_unit_that_is_saved_again_arrives_whole(make_units: MakeRig, server: PlainServer, name: str) -> None:
    """Under the old name or another one: what was lost before is no part of it."""
    rig = make_units(capture="link")
    save(rig, 1)
    lose(rig, 1)
    rig.work.workers[0].run()

    save(rig, 1, fill=b"\3", name=name)
    rig.work.workers[0].run()

    expected = {f"checkpoint-1/{each}" for each in (f"{name}.safetensors", "config.json", "DONE")}
    assert expected == server.read_all(REPO).keys()
    assert safetensors(3001, b"\3") == server.read(REPO, f"checkpoint-1/{name}.safetensors")


def test_the_lost_version_itself_may_come_back(make_units: MakeRig, server: PlainServer) -> None:
    """A file that is copied back as it was is no new snapshot; it is published all the same."""
    rig = make_units(capture="link")
    save(rig, 1)
    lose(rig, 1)
    rig.work.workers[0].run()

    save(rig, 1)
    rig.work.workers[0].run()

    assert {MODEL.format(1), "checkpoint-1/config.json", "checkpoint-1/DONE"} == server.read_all(REPO).keys()


def test_what_came_back_is_lost_no_more(make_units: MakeRig, server: PlainServer) -> None:
    """Once it is published nothing of it is kept here, and its unit is one as any other."""
    rig = make_units(capture="link")
    save(rig, 1)
    lose(rig, 1)
    rig.work.workers[0].run()
    save(rig, 1)
    rig.work.workers[0].run()
    rig.work.release()
    assert set() == rig.held_objects()
    rig.restart()
    rig.work.workers[0].run()

    assert MODEL.format(1) in server.read_all(REPO)
    assert ["checkpoint-1"] == list(rig.publisher().unit_times())
    assert rig.publisher().holds(rig.store.head(), "checkpoint-1")


def test_what_the_source_may_still_bring_is_not_given_up(make_units: MakeRig, server: PlainServer) -> None:
    """While the source is unmounted all else is published, and what may be there still waits."""
    rig = make_units(capture="link")
    save(rig, 1)
    save(rig, 2)
    lose(rig, 1)
    rig.source.rename(rig.source.with_name("away"))

    rig.work.workers[0].run()

    assert {MODEL.format(1)} == rig.publisher().refusals.reasons().keys()
    assert {"checkpoint-2"} == units(server)


@pytest.mark.parametrize(
    "settings", [{"keep_latest": 1}, {"retention": MirrorRetention(remote=RemoteRetention(keep_last=1))}]
)
def test_a_lost_unit_takes_no_others_place(make_units: MakeRig, server: PlainServer, settings: dict[str, Any]) -> None:
    """Where the newest units are kept, one that is lost does not count."""
    rig = make_units(mirror=settings, capture="link")
    save(rig, 1)
    rig.publish()
    save(rig, 2)
    save(rig, 3)
    lose(rig, 3)
    for _ in range(2):
        rig.work.workers[0].run(now=True)
        rig.write("note.txt", b"hi")
        rig.commit()
    rig.work.workers[0].run()

    assert {"checkpoint-2", "note.txt"} == units(server)


@pytest.mark.parametrize("extra", [{}, {"units": ("checkpoint-*",), "publish": "revisions"}])
def test_what_is_deleted_after_a_lost_version_goes(make_rig: MakeRig, server: PlainServer, extra: dict[str, Any]) -> None:
    """That it is lost, and then owed no more, changes what is to be shown; what was deleted meanwhile goes all the same."""
    rig = make_rig(server, capture="link", deletes="propagate", **extra)
    for number in range(6):
        rig.write(f"{number}.txt", b"%d" % number)
    rig.commit()
    rig.work.workers[0].run(now=True)
    rig.write("x.bin", b"\0" * 5000)
    rig.commit()
    with (rig.source / "x.bin").open("r+b") as file:
        file.write(b"\7" * 50)
    (rig.source / "x.bin").unlink()
    (rig.source / "1.txt").unlink()
    rig.work.workers[0].run(now=True)
    rig.commit()
    (rig.source / "2.txt").unlink()
    rig.commit()

    rig.work.workers[0].run(now=True)

    assert {"0.txt", "3.txt", "4.txt", "5.txt"} == server.read_all(REPO).keys() - {".gitattributes"}


def test_units_that_come_after_a_lost_one_are_said(make_units: MakeRig) -> None:
    """The next states of several, which arrive together, are each told as published."""
    rig = make_units(capture="link")
    save(rig, 1)
    rig.work.workers[0].run(now=True)
    save(rig, 2)
    lose(rig, 2)
    rig.work.workers[0].run(now=True)
    for step in (3, 2):
        save(rig, step, b"\5")
    rig.write("note.txt", b"hi")
    rig.commit()

    with capture_logs() as entries:
        rig.work.workers[0].run(now=True)

    assert {"checkpoint-2", "checkpoint-3"} == {e["unit"] for e in entries if e["event"] == "unit.published"}


@pytest.mark.parametrize("publish", ["tree", "revisions"])
def test_what_nobody_can_give_is_named_by_no_commit(make_units: MakeRig, server: PlainServer, publish: str) -> None:
    """When others have moved the branch all is compared: what is missing there comes back, but for what is nowhere."""
    rig = make_units(capture="link", publish=publish)
    for step in (1, 2):
        save(rig, step)
    rig.write("note.bin", bytes(3000))
    rig.commit()
    rig.work.workers[0].run()
    rig.work.release()
    oid = hashlib.sha256(bytes(3000)).hexdigest()
    (rig.source / "note.bin").unlink()
    del server.objects[oid]
    rig.store.ledger.forget_uploads("m0")  # as the mirror's own refusal has it forgotten
    server.commit(REPO, {"note.bin": None, "theirs.txt": b"by others"})
    rig.write("other.txt", b"new")
    rig.commit()

    rig.work.workers[0].run(now=True)

    assert b"new" == server.read(REPO, "other.txt")
    assert "note.bin" not in server.read_all(REPO)
    assert [] == rig.publisher().backlog()


@pytest.mark.parametrize("keep_latest", [None, 2])
def test_a_unit_of_which_nobody_can_give_all_stays_as_it_is_there(
    make_units: MakeRig, server: PlainServer, keep_latest: int | None
) -> None:
    """No part of it comes back where all is compared; saved again, it comes whole, though little of it has changed."""
    rig = make_units({"keep_latest": keep_latest}, capture="link")
    for step in (1, 2):
        save(rig, step)
    rig.work.workers[0].run()
    rig.work.release()
    shutil.rmtree(rig.source / "checkpoint-2")
    del server.objects[hashlib.sha256(safetensors(3002)).hexdigest()]
    rig.store.ledger.forget_uploads("m0")
    server.commit(REPO, {f"checkpoint-2/{name}": None for name in ("model.safetensors", "config.json", "DONE")})
    rig.write("other.txt", b"new")
    rig.commit()
    rig.work.workers[0].run(now=True)
    assert {"checkpoint-1", "other.txt"} == units(server)

    save(rig, 2, fill=b"\2")
    rig.work.workers[0].run()

    assert {"model.safetensors", "config.json", "DONE"} == {
        path.removeprefix("checkpoint-2/") for path in server.read_all(REPO) if path.startswith("checkpoint-2/")
    }
    assert [] == rig.publisher().backlog()
    assert not rig.publisher()._record.is_new_view()
