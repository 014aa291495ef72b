"""Mirrors that wait for a person, and how they notice by themselves that it was mended; by git and by the API alone."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from support.rig import REPO, Rig, safetensors

from hubsync.config.model import TokenSource
from hubsync.localhub import LocalHub
from hubsync.mirror.retry import next_look_s
from hubsync.mirror.worker import MirrorWorker
from hubsync.report import describe_target

MakeRig = Callable[..., Rig]


@pytest.fixture(params=["git", "http"])
def rig(request: pytest.FixtureRequest, make_rig: MakeRig, hub: LocalHub) -> Rig:
    """Give a mirror that was published to, and has something to publish again."""
    made = make_rig(hub, mirror={"transport": request.param})
    made.write("a.txt", b"1")
    made.update()
    made.write("b.txt", b"2")
    made.commit()
    return made


def parked_for(worker: MirrorWorker) -> tuple[str, bool]:
    assert worker.trouble is not None
    return worker.trouble.error.error_kind, worker.trouble.is_parked


def look(worker: MirrorWorker) -> None:
    """Let the next look be due, and run."""
    assert worker.trouble is not None
    worker.trouble.next_look = 0.0
    worker.run()


def test_a_deleted_repository_is_made_again_only_when_asked(rig: Rig, api: HfApi) -> None:
    """Somebody deleted it: it is neither fought nor forgotten, also over a restart; a person's wish brings back all."""
    api.delete_repo(REPO)
    rig.work.workers[0].run()
    look(rig.work.workers[0])
    rig.restart()
    worker = rig.work.workers[0]
    worker.run()
    assert ("not_found", True) == parked_for(worker)
    assert worker.trouble is not None
    assert "gone" in str(worker.trouble.error)
    assert not api.repo_exists(REPO)

    worker.ask_again()
    worker.run()

    assert worker.trouble is None
    assert {"a.txt", "b.txt"} <= set(api.list_repo_files(REPO))


def test_nothing_is_published_in_a_deleted_repository(rig: Rig, api: HfApi) -> None:
    """The status shows all as backlog, also after a restart, and nobody's wait ends; made again, it holds all."""
    rig.work.workers[0].run()
    head = rig.pipeline.store.head()
    assert head is not None
    assert (0, True) == shown(rig, head)
    rig.write("c.txt", b"3")
    rig.commit()
    api.delete_repo(REPO)
    rig.work.workers[0].run()
    assert (3, False) == shown(rig, head)
    rig.restart()
    assert (3, False) == shown(rig, head)

    rig.work.workers[0].ask_again()
    rig.work.workers[0].run()

    assert (0, True) == shown(rig, head)


def shown(rig: Rig, snapshot: str) -> tuple[int, bool]:
    """Return how many files the status shows as backlog, and whether the mirror is said to hold *snapshot*."""
    [mirror] = describe_target(rig.work, mode="events", is_paused=False).mirrors
    holds = rig.work.workers[0].publisher.holds(snapshot, None)
    assert holds is (mirror.published_commit is not None)
    return mirror.backlog_files, holds


def test_a_repository_that_somebody_made_again_is_noticed(rig: Rig, api: HfApi) -> None:
    """No flush is needed: all that was published goes there again."""
    api.delete_repo(REPO)
    worker = rig.work.workers[0]
    worker.run()
    api.create_repo(REPO, private=True)

    look(worker)

    assert worker.trouble is None
    assert {"a.txt", "b.txt"} <= set(api.list_repo_files(REPO))


def test_a_repository_made_again_as_wished_is_filled_also_under_halt(make_rig: MakeRig, hub: LocalHub, api: HfApi) -> None:
    """To halt for edits of others is not to halt for what the operator asked for; a branch that others emptied is one."""
    rig = make_rig(hub, mirror={"on_foreign_edit": {"*": "halt"}})
    rig.write("a.txt", b"1")
    rig.update()
    worker = rig.work.workers[0]
    api.delete_repo(REPO)
    rig.write("b.txt", b"2")
    rig.commit()
    worker.run()
    assert ("not_found", True) == parked_for(worker)

    worker.ask_again()
    worker.run()

    assert worker.trouble is None
    assert {"a.txt", "b.txt"} <= set(api.list_repo_files(REPO))
    api.delete_repo(REPO)
    api.create_repo(REPO, private=True)
    rig.write("c.txt", b"3")
    rig.commit()
    worker.run()
    worker.ask_again()
    worker.run()
    assert ("conflict", True) == parked_for(worker)
    assert "on_foreign_edit" in worker.trouble.hint
    assert [] == [path for path in api.list_repo_files(REPO) if path.endswith(".txt")]


def test_a_renamed_repository_is_reported(rig: Rig, api: HfApi) -> None:
    """Nothing is written under a name that the config does not say; named back, it is noticed."""
    api.move_repo(REPO, "acme/y")
    worker = rig.work.workers[0]
    worker.run()
    assert ("not_found", True) == parked_for(worker)
    assert worker.trouble is not None
    assert 'write "acme/y"' in worker.trouble.hint
    assert "b.txt" not in api.list_repo_files("acme/y")
    api.move_repo("acme/y", REPO)

    look(worker)

    assert worker.trouble is None
    assert "b.txt" in api.list_repo_files(REPO)


def test_a_new_answer_of_the_token_command_is_noticed(rig: Rig, hub: LocalHub, tmp_path: Path) -> None:
    """A revoked token is not sent again; once the command gives another one, the mirror goes on by itself."""
    file = tmp_path / "given"
    file.write_text(hub.token)
    [endpoint] = rig.config.endpoints.values()
    given = endpoint.model_copy(update={"token": TokenSource(command=("cat", str(file)))})
    rig.config = rig.config.model_copy(update={"endpoints": {endpoint.name: given}})
    rig.restart()
    worker = rig.work.workers[0]
    second = "hf_" + "s" * 34
    hub.admit(second, "localhub")
    hub.revoke(hub.token)
    worker.run()
    assert ("auth", True) == parked_for(worker)
    hub.forget_requests()
    look(worker)
    assert ((), ("auth", True)) == (hub.requests, parked_for(worker))
    file.write_text(second)

    look(worker)

    assert worker.trouble is None


def test_looks_become_rare() -> None:
    """Who mends it waits for seconds at first; what stays broken is looked at twelve times an hour."""
    waits = [next_look_s("not_found", looks) for looks in (0, 1, 2, 5, 1000)]

    assert [10, 20, 40, 300, 300] == waits
    assert next_look_s("quota", 0) is None


@pytest.mark.parametrize("transport", ["git", "http"])
def test_a_repository_that_is_deleted_while_it_is_empty_is_not_made_again(
    make_rig: MakeRig, hub: LocalHub, api: HfApi, transport: str
) -> None:
    """It was there, and somebody took it away: the first failure says so, and only a flush makes it again."""
    rig = make_rig(hub, mirror={"transport": transport}, units=("checkpoint-*",), complete_when=("DONE",))
    rig.write("checkpoint-1/model.safetensors", safetensors(3000))
    rig.settle()
    worker = rig.work.workers[0]
    worker.run()  # sends it early
    assert api.repo_exists(REPO)
    api.delete_repo(REPO)
    rig.write("checkpoint-1/optimizer.bin", b"\0optimizer")
    rig.settle()

    for _ in range(2):
        worker.ask_again(makes_again=False)  # as a reload and a `hubsync wait` do
        worker.run()
        assert worker.trouble is not None
        assert "gone" in str(worker.trouble.error)
    rig.restart()
    rig.work.workers[0].run()
    assert not api.repo_exists(REPO)

    rig.work.workers[0].run(now=True)
    assert api.repo_exists(REPO)


@pytest.mark.parametrize(("fault", "kind"), [("507", "quota"), ("redirect=other", "server")])
def test_a_storage_that_cannot_take_a_file_parks_nothing(rig: Rig, hub: LocalHub, fault: str, kind: str) -> None:
    """One that is full, or redirects without end, fails the mirror, which tries again by itself."""
    hub.add_fault(f"PUT /_lfs/* {fault}")
    rig.write("model.safetensors", safetensors(1000))
    rig.commit()
    worker = rig.work.workers[0]
    worker.run()
    assert (kind, False) == parked_for(worker)

    hub.clear_faults()
    worker.run(now=True)

    assert worker.trouble is None


@pytest.mark.parametrize(("fault", "puts"), [("PUT /_lfs/* 507", 1), ("POST */objects/batch 507", 0)])
def test_a_full_storage_is_not_sent_the_same_again_in_a_moment(
    make_rig: MakeRig, hub: LocalHub, fault: str, puts: int
) -> None:
    """Each object once, then nothing for a minute and more each time, whoever says that it is full."""
    rig = make_rig(hub)
    hub.add_fault(fault)
    rig.write("model.safetensors", safetensors(1000))
    rig.commit()
    worker = rig.work.workers[0]
    waits = []
    for _ in range(3):
        hub.forget_requests()
        worker.ask_again()
        worker.run()
        waits.append(worker.wait_s())

    assert "quota" == parked_for(worker)[0]
    assert puts == len([request for request in hub.requests if request.method == "PUT"])
    assert [True] * 3 == [wait > floor for wait, floor in zip(waits, (50, 250, 1400), strict=True)]


def test_a_private_repository_that_was_made_public_is_not_published_to(rig: Rig, api: HfApi, hub: LocalHub) -> None:
    """No restart is needed to notice; nothing more is sent, be it an object; made private again, it goes on by itself."""
    rig.write("secret.bin", b"\0secret")
    rig.commit()
    api.update_repo_settings(REPO, private=False)
    hub.forget_requests()
    worker = rig.work.workers[0]
    worker.run()
    assert ("forbidden", True) == parked_for(worker)
    assert worker.trouble is not None
    assert "set private = false" in worker.trouble.hint
    assert set() == {request.method for request in hub.requests} - {"GET"}
    api.update_repo_settings(REPO, private=True)

    look(worker)

    assert worker.trouble is None
    assert {"b.txt", "secret.bin"} <= set(api.list_repo_files(REPO))


def test_a_repository_that_is_made_public_during_an_upload_shows_nothing_more(
    rig: Rig, api: HfApi, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes hours to upload is not shown to all because the repository was private when that began."""
    monkeypatch.setattr("hubsync.mirror.pusher._FRESH_S", 0.0)
    rig.write("secret.bin", b"\0secret")
    rig.commit()
    fault = hub.add_fault("PUT * delay=1s")
    worker = rig.work.workers[0]
    running = threading.Thread(target=worker.run)
    running.start()
    while running.is_alive() and not fault.met:
        time.sleep(0.01)
    api.update_repo_settings(REPO, private=False)
    running.join()

    assert fault.met
    assert ("forbidden", True) == parked_for(worker)
    assert {"b.txt", "secret.bin"}.isdisjoint(api.list_repo_files(REPO))


def test_a_public_repository_is_looked_at_once(make_rig: MakeRig, hub: LocalHub) -> None:
    """Where the config says public, a publication asks for nothing but what is to be published."""
    rig = make_rig(hub, mirror={"private": False})
    rig.write("a.txt", b"1")
    rig.update()
    rig.write("a.txt", b"2")
    rig.commit()
    hub.forget_requests()

    rig.publish()

    assert [] == [request.path for request in hub.requests if "/api/" in request.path]
