"""Objects that are not here any more: another mirror gives them back, or what needs them waits alone."""

import hashlib
import os
import shutil
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import REPO, Rig, safetensors

from hubsync.errors import MirrorError

MakeRig = Callable[..., Rig]


def add_mirror(rig: Rig, server: PlainServer) -> None:
    """Restart the target with one mirror more."""
    rig._servers = (*rig._servers, server)
    rig.restart_with({})


def rotated(rig: Rig) -> Rig:
    """Publish two units, and delete the first of them; what was kept of it is let go."""
    for step in (1, 2):
        rig.write(f"checkpoint-{step}/model.safetensors", safetensors(3000 + step))
        rig.write(f"checkpoint-{step}/DONE", b"")
        rig.update()
    rig.work.release()
    shutil.rmtree(rig.source / "checkpoint-1")
    return rig


def test_a_mirror_that_is_added_later_is_filled_from_the_other(
    make_rig: MakeRig, server: PlainServer, second: PlainServer
) -> None:
    """What was rotated away here comes back from the mirror that has it; nothing of it stays on this disk."""
    rig = rotated(make_rig(server, units=("checkpoint-*",), complete_when=("DONE",)))
    add_mirror(rig, second)

    with capture_logs() as entries:
        rig.update(1)

    assert server.read_all(REPO) == second.read_all(REPO)
    assert safetensors(3001) == second.read(REPO, "checkpoint-1/model.safetensors")
    assert ["m0"] == [entry["source"] for entry in entries if entry["event"] == "object.healed"]
    rig.work.release()
    assert set() == rig.held_objects()


def test_what_nobody_has_any_more_holds_back_itself_only(
    make_rig: MakeRig, server: PlainServer, second: PlainServer
) -> None:
    """The unit that is gone is said, and all else arrives; its next version does too."""
    rig = rotated(make_rig(server, units=("checkpoint-*",), complete_when=("DONE",)))
    server.objects.clear()
    add_mirror(rig, second)

    with capture_logs() as entries:
        rig.update(1)

    told = [(e["path"], e["unit"]) for e in entries if e["event"] == "file.rejected"]
    assert [("checkpoint-1/model.safetensors", "checkpoint-1")] == told
    assert {"checkpoint-2/model.safetensors", "checkpoint-2/DONE"} == second.read_all(REPO).keys()
    rig.write("checkpoint-1/model.safetensors", safetensors(4000))
    rig.write("checkpoint-1/DONE", b"")
    rig.update(1)
    assert safetensors(4000) == second.read(REPO, "checkpoint-1/model.safetensors")
    assert 4 == len(second.read_all(REPO))
    assert {} == rig.publisher(1).refusals.reasons()


def test_an_object_that_its_writer_spoiled_comes_from_the_other_mirror(
    make_rig: MakeRig, server: PlainServer, second: PlainServer
) -> None:
    """Rewritten in place while one mirror was away: the bytes that were captured arrive there all the same."""
    rig = make_rig(server, second, capture="link")
    file = rig.write("model.safetensors", safetensors(3000))
    rig.update(0)
    content = file.read_bytes()
    with file.open("r+b") as handle:
        handle.seek(100)
        handle.write(b"\7" * 50)

    rig.publish(1)

    assert content == second.read(REPO, "model.safetensors")


def test_too_little_room_waits(make_rig: MakeRig, server: PlainServer, second: PlainServer) -> None:
    """Objects are not fetched back onto a disk that has no room for them."""
    rig = make_rig(server)
    file = rig.write("model.safetensors", safetensors(3000))
    rig.update()
    rig.work.release()
    file.unlink()
    add_mirror(rig, second)
    rig.publisher(1).supply._uploader._min_free_bytes = 1 << 60

    worker = rig.work.workers[1]
    worker.run(now=True)

    assert worker.trouble is not None
    assert ("disk_full", True) == (worker.trouble.error.error_kind, worker.trouble.error.retryable)
    rig.publisher(1).supply._uploader._min_free_bytes = 1
    worker.run(now=True)
    assert safetensors(3000) == second.read(REPO, "model.safetensors")


def test_wrong_bytes_from_the_other_mirror_are_asked_for_again_soon(
    make_rig: MakeRig, server: PlainServer, second: PlainServer
) -> None:
    """They never reach a mirror, the unit waits with the true reason, and comes by itself once the bytes are right."""
    rig = rotated(make_rig(server, units=("checkpoint-*",), complete_when=("DONE",)))
    right = dict(server.objects)
    server.objects = dict.fromkeys(right, b"other bytes")
    add_mirror(rig, second)
    worker = rig.work.workers[1]

    worker.run()

    assert {} == {oid: content for oid, content in second.objects.items() if right.get(oid) != content}
    assert "does not give it" in rig.publisher(1).refusals.reasons()["checkpoint-1/model.safetensors"]
    assert (worker.due_s() or 0) < 60
    server.objects = right
    worker._refused_next = 0.0
    worker.run()
    assert server.read_all(REPO) == second.read_all(REPO)


def test_a_repository_that_has_files_of_others_takes_what_comes_after_a_lost_unit(
    make_rig: MakeRig, server: PlainServer, second: PlainServer
) -> None:
    """A snapshot of which nothing can be published is not taken for one that was pushed already."""
    rig = make_rig(server, units=("checkpoint-*",), complete_when=("DONE",))
    rig.write("checkpoint-1/model.safetensors", safetensors(3000))
    rig.write("checkpoint-1/DONE", b"")
    rig.update()
    rig.work.release()
    shutil.rmtree(rig.source / "checkpoint-1")
    rig.write("note.txt", b"hi")
    rig.update()
    server.objects.clear()
    second.commit(REPO, {"README.md": b"theirs"})
    add_mirror(rig, second)

    rig.work.workers[1].run()

    assert rig.work.workers[1].trouble is None
    assert {"README.md": b"theirs", "note.txt": b"hi"} == second.read_all(REPO)


def test_a_store_that_was_copied_is_published_all_the_same(make_rig: MakeRig, server: PlainServer) -> None:
    """Copied pins are other files with the same bytes: none of them is taken for spoiled."""
    rig = make_rig(server)
    rig.write("model.safetensors", safetensors(3000))
    rig.commit()
    shutil.rmtree(rig.source)
    rig.source.mkdir()
    shutil.copytree(rig.state, rig.state.with_name("copy"), symlinks=True)
    shutil.rmtree(rig.state)
    rig.state.with_name("copy").rename(rig.state)
    rig.restart()

    with capture_logs() as entries:
        rig.publish()

    assert [] == [entry for entry in entries if entry["event"] == "object.spoiled"]
    assert {"model.safetensors": safetensors(3000)} == server.read_all(REPO)


def test_a_lost_unit_is_not_taken_for_one_that_went_ahead(make_rig: MakeRig, server: PlainServer) -> None:
    """The newest unit is lost, the mirror fails once: the older ones reach a repository that others began."""
    rig = make_rig(server, units=("checkpoint-*",), complete_when=("DONE",))
    for step in (1, 2, 3):
        for name, content in (("model.safetensors", safetensors(3000 + step)), ("DONE", b"")):
            written = rig.write(f"checkpoint-{step}/{name}", content)
            os.utime(written, (1_700_000_000 + step,) * 2)  # which of them is newest is told by whole seconds
        rig.commit()
    shutil.rmtree(rig.source / "checkpoint-3")
    rig.store.objects.path(hashlib.sha256(safetensors(3003)).hexdigest()).unlink()
    server.commit(REPO, {"README.md": b"theirs"})
    server.before = refuse_objects
    with pytest.raises(MirrorError):
        rig.publish()
    assert {"checkpoint-3/model.safetensors"} == rig.publisher().refusals.lost.keys()
    server.before = lambda _: None

    rig.publish()

    files = server.read_all(REPO)
    assert b"theirs" == files.pop("README.md")
    assert {f"checkpoint-{step}/{name}" for step in (1, 2) for name in ("model.safetensors", "DONE")} == files.keys()


def refuse_objects(request: Request) -> None:
    """Take no object."""
    if request.host == "storage":
        raise AnswerError(403)
