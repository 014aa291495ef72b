"""Objects that a mirror lost, or took and never showed: they are found out, sent again, and never named in vain."""

import hashlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import REPO, Rig, safetensors

from hubsync.wait import Wait, Wish

MakeRig = Callable[..., Rig]
MODEL = "checkpoint-1/model.safetensors"
# As the Hub words it.
REFUSE = f"""#!/bin/sh
echo 'Your push was rejected because an LFS pointer pointed to a file that does not exist.' >&2
echo 'Offending files:' >&2
echo '  - {MODEL} (ref: refs/heads/main)' >&2
exit 1
"""


def save(rig: Rig, step: int, content: bytes) -> None:
    """Write a checkpoint as a trainer does."""
    rig.write(f"checkpoint-{step}/model.safetensors", content)
    rig.write(f"checkpoint-{step}/DONE", b"%d" % step)


@pytest.fixture
def units(server: PlainServer, make_units: MakeRig) -> Rig:
    """Give a target of checkpoints with one mirror on ``server``."""
    del server
    return make_units()


def is_put(request: Request) -> bool:
    return request.host == "storage" and request.method == "PUT"


def test_a_storage_that_acknowledges_and_shows_nothing_is_sent_the_object_until_it_does(
    units: Rig, server: PlainServer
) -> None:
    """Again at each try, and kept for that; the trainer deletes it meanwhile, and no file is called refused."""

    def swallow(request: Request) -> None:
        if is_put(request):
            raise AnswerError(200)

    hook = server.root / f"{REPO}.git" / "hooks" / "pre-receive"
    hook.write_text(REFUSE)
    hook.chmod(0o755)
    server.before = swallow
    save(units, 1, safetensors(3000))
    units.commit()
    worker = units.work.workers[0]
    shutil.rmtree(units.source / "checkpoint-1")
    puts = []
    with capture_logs() as entries:
        for _ in range(3):
            server.requests.clear()
            worker.run(now=True)
            units.work.release()
            puts.append(len([request for request in server.requests if is_put(request)]))

    assert [1, 1, 1] == puts
    assert worker.trouble is not None
    assert ("server", True) == (worker.trouble.error.error_kind, worker.trouble.error.retryable)
    assert {"mirror.failed"} == {entry["event"] for entry in entries if entry["log_level"] in {"warning", "error"}}
    server.before = lambda _: None
    hook.unlink()
    worker.run(now=True)
    assert safetensors(3000) == server.read(REPO, MODEL)


def batches(server: PlainServer) -> int:
    """Return how often the LFS Batch API was asked since this was asked last."""
    count = len([request for request in server.requests if request.path.endswith("/objects/batch")])
    server.requests.clear()
    return count


def events(entries: list[Any], name: str) -> list[Any]:
    return [entry for entry in entries if entry["event"] == name]


def lose_and_save_again(rig: Rig, server: PlainServer) -> None:
    """Have *server* lose the weights of a checkpoint, and save them as another one."""
    save(rig, 1, safetensors(3000))
    rig.update()
    rig.work.release()
    server.objects.clear()
    save(rig, 2, safetensors(3000))


def test_a_lost_object_that_is_named_again_is_sent_again_first(units: Rig, server: PlainServer) -> None:
    """Another checkpoint has the same weights: they are asked for before the push, and both can be loaded."""
    lose_and_save_again(units, server)

    with capture_logs() as entries:
        units.update()

    assert safetensors(3000) == server.read(REPO, "checkpoint-2/model.safetensors") == server.read(REPO, MODEL)
    assert [(1, len(safetensors(3000)))] == [(entry["files"], entry["bytes"]) for entry in events(entries, "object.lost")]


@pytest.mark.parametrize("unit", ["checkpoint-1", None])
def test_nobody_is_told_that_a_mirror_holds_what_it_has_lost(units: Rig, server: PlainServer, unit: str | None) -> None:
    """Who waits goes on waiting until it is sent again; if it is nowhere any more, they are told so at once."""
    save(units, 1, safetensors(3000))
    save(units, 2, safetensors(4000))
    units.update()
    units.work.release()
    wait = Wait(units.work, Wish("run", unit))
    wait.begin()
    assert wait.look().published
    server.objects.clear()
    units.store.ledger.record_lost("m0", [hashlib.sha256(safetensors(3000)).hexdigest()])

    waiting = wait.look()
    units.work.workers[0].run(now=True)
    healed = wait.look()

    assert (False, False) == (waiting.published, waiting.final)
    assert "m0 shows" in waiting.reason
    assert healed.published
    units.work.release()
    units.store.ledger.record_lost("m0", [hashlib.sha256(safetensors(3000)).hexdigest()])
    assert Wait(units.work, Wish("run", "checkpoint-2")).look().published
    shutil.rmtree(units.source / "checkpoint-1")
    units.commit()
    in_vain = wait.look()
    assert (False, True) == (in_vain.published, in_vain.final)
    assert "nowhere else" in in_vain.reason


def test_only_what_is_named_again_is_asked_for(units: Rig, server: PlainServer) -> None:
    """A new object costs the question that its upload asks, also if it went up early; one that is there, one question."""
    worker = units.work.workers[0]
    counts = []
    for step, content in ((1, safetensors(3000)), (2, safetensors(3001)), (3, safetensors(3001))):
        units.write(f"checkpoint-{step}/model.safetensors", content)
        if step == 2:
            units.commit()
            worker.run()
            assert 2 == len(server.objects)
        units.write(f"checkpoint-{step}/DONE", b"%d" % step)
        units.commit()
        worker.run()
        counts.append(batches(server))

    assert [1, 1, 1] == counts
    assert 3 == len([path for path in server.read_all(REPO) if path.endswith("safetensors")])


def test_a_lost_object_comes_from_the_other_mirror(make_rig: MakeRig, server: PlainServer, second: PlainServer) -> None:
    """It is neither pinned nor in the source any more."""
    rig = make_rig(server, second, units=("checkpoint-*",), complete_when=("DONE",))
    save(rig, 1, safetensors(3000))
    rig.update(0)
    rig.publish(1)
    server.objects.clear()
    save(rig, 2, safetensors(3000))
    rig.commit()
    shutil.rmtree(rig.source)
    rig.source.mkdir()
    rig.publish(1)
    rig.store.release([rig.store.head()])

    rig.publish(0)

    assert safetensors(3000) == server.read(REPO, "checkpoint-2/model.safetensors") == server.read(REPO, MODEL)


def test_what_is_lost_everywhere_is_not_named_again(units: Rig, server: PlainServer) -> None:
    """The checkpoint that needs it waits with the reason, and the next one arrives."""
    lose_and_save_again(units, server)
    units.commit()
    shutil.rmtree(units.source / "checkpoint-1")
    shutil.rmtree(units.source / "checkpoint-2")
    units.work.release()
    server.requests.clear()

    units.publish()

    assert 1 == len(server.history(REPO))
    assert "the mirror has lost it" in units.publisher().refusals.reasons()["checkpoint-2/model.safetensors"]
    save(units, 3, safetensors(4000))
    units.update()
    assert safetensors(4000) == server.read(REPO, "checkpoint-3/model.safetensors")


@pytest.mark.parametrize("offers_all", [False, True])
def test_what_is_not_here_and_not_known_to_be_there_is_asked_for(
    units: Rig, server: PlainServer, *, offers_all: bool
) -> None:
    """What was remembered is gone: an object that the mirror still has is not called lost, also if it takes it twice."""
    save(units, 1, safetensors(3000))
    units.update()
    units.work.release()
    save(units, 2, safetensors(3000))
    units.commit()
    shutil.rmtree(units.source / "checkpoint-1")
    shutil.rmtree(units.source / "checkpoint-2")
    units.work.release()
    units.publisher().forget_uploads()
    server.offers_all = offers_all

    units.publish()

    assert safetensors(3000) == server.read(REPO, "checkpoint-2/model.safetensors")
    assert {} == units.publisher().refusals.reasons()
