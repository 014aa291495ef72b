"""``verify`` finds whatever is wrong with a mirror, and nothing where all is well."""

import shutil
import threading
from collections.abc import Callable

import pytest
from proof.conftest import api, change, git_of, objects_of, reasons, write_unit
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import NO_LOGIN, REPO, Rig, safetensors

from hubsync.errors import MirrorError, UsageError
from hubsync.localhub import LocalHub
from hubsync.mirror.token import Tokens
from hubsync.proof.standing import read_failure
from hubsync.proof.verify import Means, MirrorVerdict, Reading, verify

MakeRig = Callable[..., Rig]
MODEL = "checkpoint-1/model.safetensors"
ALL = Reading(1.0)


def look(rig: Rig, reading: Reading = Reading(), number: int = 0) -> MirrorVerdict:  # noqa: B008 - a value
    """Verify, and return how one mirror is."""
    means = Means(rig.config, Tokens(NO_LOGIN), threading.Event())
    return verify(means, rig.config.targets[0], reading).mirrors[number]


@pytest.fixture
def published(hub: LocalHub, make_rig: MakeRig) -> Rig:
    """Give a target whose one unit is on its mirror."""
    rig = make_rig(hub)
    write_unit(rig)
    rig.update()
    return rig


@pytest.mark.parametrize("publish", ["tree", "revisions"])
def test_a_sound_mirror_passes(hub: LocalHub, make_rig: MakeRig, publish: str) -> None:
    """With all contents read, and receipts for what is proved; what others added is no fault."""
    rig = make_rig(hub, publish=publish, units=("checkpoint-*",), complete_when=("config.json",))
    for unit in ("checkpoint-1", "checkpoint-2"):
        write_unit(rig, unit)
        rig.update()
    change(hub, {"others/file.txt": b"x"})

    passed = look(rig, ALL)

    assert (True, ["main:others/file.txt"]) == (passed.is_passed, passed.found.extra)
    assert passed.files > 0 < passed.read_files
    assert {} == reasons(rig, "checkpoint-1", "checkpoint-2", cached=True)


def test_what_was_never_in_the_source_is_not_gone(hub: LocalHub, make_rig: MakeRig) -> None:
    """The records that are published with a unit do not count; a file that was deleted since does."""
    rig = make_rig(hub, units=("checkpoint-*",), complete_when=("config.json",), provenance=True)
    write_unit(rig)
    rig.update()
    means = Means(rig.config, Tokens(NO_LOGIN), threading.Event())

    assert 0 == verify(means, rig.config.targets[0], Reading()).source.gone
    (rig.source / MODEL).unlink()
    assert 1 == verify(means, rig.config.targets[0], Reading()).source.gone


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda hub: change(hub, {MODEL: None}), "missing"),
        (lambda hub: change(hub, {MODEL: safetensors(3000, b"\7")}), "different"),
        (lambda hub: [path.unlink() for path in objects_of(hub)], "dangling"),
    ],
)
def test_what_is_wrong_is_named(published: Rig, hub: LocalHub, damage: Callable[[LocalHub], object], kind: str) -> None:
    """Each kind of loss has a name, and the path stands there."""
    damage(hub)
    failed = look(published)

    assert (False, 1) == (failed.is_passed, failed.found.faults)
    assert [f"main:{MODEL}"] == getattr(failed.found, kind)


def test_what_is_lost_is_sent_again_from_the_source(hub: LocalHub, make_rig: MakeRig) -> None:
    """Also by the only mirror's next try; then all is as published, and proved."""
    rig = make_rig(hub)
    write_unit(rig)
    rig.update()
    rig.work.release()
    for path in objects_of(hub):
        path.unlink()
    assert not look(rig).is_passed
    assert MODEL in reasons(rig, MODEL, cached=True)
    worker, keeper = rig.work.workers[0], rig.work.keepers[0]

    worker.run()

    assert worker.publisher.supply.take_healed()
    assert keeper.keep() is None
    assert (None, True) == (read_failure(rig.store.ledger, "m0"), look(rig).is_passed)
    assert {} == reasons(rig, "checkpoint-1", cached=True)
    rig.work.release()
    assert set() == rig.held_objects()


def test_what_is_lost_is_kept_until_it_is_sent_again(rig: Rig, server: PlainServer) -> None:
    """The mirror is away while the trainer deletes it: it is not lost with the source."""

    def refuse(request: Request) -> None:
        if "lfs" in request.path:
            raise AnswerError(503)

    write_unit(rig)
    rig.update()
    rig.work.release()
    server.objects.clear()
    assert not look(rig).is_passed
    server.before = refuse
    rig.work.workers[0].run()
    shutil.rmtree(rig.source / "checkpoint-1")
    rig.work.release()
    server.before = lambda _: None

    rig.work.workers[0].run(now=True)

    assert safetensors(3000) == server.read(REPO, MODEL)


def test_reading_finds_what_asking_cannot(published: Rig, hub: LocalHub) -> None:
    """An object with flipped bits has the right size; only its hash tells, and then no receipt stands."""
    [path] = objects_of(hub)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    assert look(published).is_passed
    assert ["its bytes are not what its hash says"] == [one.split(": ")[1] for one in look(published, ALL).found.damaged]
    assert MODEL in reasons(published, MODEL, cached=True)


def test_a_plain_server_is_verified_too(rig: Rig, server: PlainServer) -> None:
    """Through git and the LFS Batch API, slowly if asked to; a header that lies is found although the hash is right."""
    write_unit(rig)
    rig.update()

    passed = look(rig, Reading(1.0, 1_000_000))
    assert (True, 1) == (passed.is_passed, passed.read_files)

    for oid in server.objects:
        server.objects[oid] = b"short"
    assert [f"main:{MODEL}"] == look(rig).found.dangling


def test_a_sample_reads_a_part(published: Rig) -> None:
    """At least one content, not all."""
    write_unit(published, "checkpoint-2", {f"{n}.bin": bytes([n]) * 50 for n in range(20)})
    published.update()

    assert 1 <= look(published, Reading(0.1)).read_files < look(published, ALL).read_files


def test_a_mirror_that_is_behind_is_measured_by_what_it_has(published: Rig) -> None:
    """What waits to be published is no fault."""
    published.write("new.txt", b"new")
    published.commit()

    verdict = look(published)
    assert (True, 1) == (verdict.is_passed, verdict.behind)


@pytest.mark.parametrize("publish", ["tree", "revisions"])
def test_a_unit_that_went_ahead_of_older_ones_is_verified_too(make_rig: MakeRig, server: PlainServer, publish: str) -> None:
    """Nothing else of the queue is there yet, and what is lost of that unit is found."""
    rig = make_rig(server, publish=publish, units=("checkpoint-*",), complete_when=("config.json",))
    for step in (1, 2):
        write_unit(rig, f"checkpoint-{step}", {"model.safetensors": safetensors(3000 + step), "config.json": b"{}"})
        rig.commit()
    pushes = []

    def fail_after_one_push(request: Request) -> None:
        if pushes and "lfs" in request.path:
            raise AnswerError(403)
        pushes.extend([request] * request.is_push)

    server.before = fail_after_one_push
    with pytest.raises(MirrorError):
        rig.publish()
    server.before = lambda _: None

    passed = look(rig)
    server.objects.clear()

    assert (True, []) == (passed.is_passed, passed.found.extra)
    assert any(name.endswith("model.safetensors") for name in look(rig).found.dangling)
    assert 2 <= passed.files


def test_a_mirror_that_cannot_be_asked_fails(published: Rig, hub: LocalHub) -> None:
    """With the reason."""
    api(hub).delete_repo(REPO)

    failed = look(published)
    assert (False, "not_found") == (failed.is_passed, failed.error.error_kind if failed.error else "")


def test_the_card_of_a_mirror_is_no_fault(published: Rig, hub: LocalHub) -> None:
    """A person's words in README.md win over ours."""
    published.write("README.md", b"ours")
    published.update()
    change(hub, {"README.md": b"theirs"})

    verdict = look(published)
    assert (True, ["main:README.md"]) == (verdict.is_passed, verdict.found.theirs)
    assert git_of(hub, "rev-parse", "main") == verdict.commit


def test_nothing_captured_is_a_wrong_question(
    hub: LocalHub, make_rig: MakeRig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A machine that never published the target has nothing to compare with."""
    rig = make_rig(hub)
    rig.config = rig.config.model_copy(
        update={"service": rig.config.service.model_copy(update={"state_dir": tmp_path_factory.mktemp("none")})}
    )
    with pytest.raises(UsageError, match="was captured"):
        look(rig)
