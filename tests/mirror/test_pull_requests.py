"""A mirror whose branch takes nothing but pull requests, by git and by the Hub's API alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from structlog.testing import capture_logs
from support.rig import REPO, Rig, safetensors

from hubsync.localhub import LocalHub

MakeRig = Callable[..., Rig]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    """Give a Hub with a repository whose main branch is protected."""
    with LocalHub(tmp_path / "hub") as running:
        HfApi(endpoint=running.url, token=running.token).create_repo(REPO, private=True)
        running.protect(REPO, "main")
        yield running


@pytest.fixture(params=["git", "http"])
def pulling(request: pytest.FixtureRequest, make_rig: MakeRig, hub: LocalHub) -> Rig:
    """Give a mirror that publishes there as pull requests, and has published two files."""
    rig = make_rig(hub, mirror={"transport": request.param, "pull_request": True})
    rig.write("model.safetensors", safetensors(2000))
    rig.write("a.txt", b"1")
    rig.update()
    return rig


def pulls(api: HfApi) -> dict[int, str]:
    return {pull.num: pull.status for pull in api.get_repo_discussions(REPO)}


def files(api: HfApi, revision: str) -> set[str]:
    return set(api.list_repo_files(REPO, revision=revision)) - {".gitattributes"}


@pytest.mark.parametrize("transport", ["git", "http"])
def test_a_protected_branch_is_said_to_be_one(make_rig: MakeRig, hub: LocalHub, transport: str) -> None:
    """Without pull requests the mirror is parked, and the hint says what to declare."""
    rig = make_rig(hub, mirror={"transport": transport})
    rig.write("a.txt")
    rig.commit()
    worker = rig.work.workers[0]

    with capture_logs() as entries:
        worker.run()

    assert worker.trouble is not None
    assert ("forbidden", True) == (worker.trouble.error.error_kind, worker.trouble.is_parked)
    assert "pull_request = true" in next(e["hint"] for e in entries if e["event"] == "mirror.parked")


def test_one_that_is_open_is_added_to(pulling: Rig, api: HfApi) -> None:
    """All that comes goes into the same one, after a restart and a lost state too; the branch stays as it is."""
    pulling.write("a.txt", b"2")
    pulling.update()
    pulling.restart()
    pulling.write("b.txt", b"b")
    pulling.update()
    publisher = pulling.publisher()
    pulling.store.ledger.set_meta(publisher._pulls._key, "")  # type: ignore[union-attr]
    pulling.restart()
    pulling.write("c.txt", b"c")
    pulling.update()

    assert {1: "open"} == pulls(api)
    assert {"model.safetensors", "a.txt", "b.txt", "c.txt"} == files(api, "refs/pr/1")
    assert set() == files(api, "main")
    assert [] == pulling.publisher().backlog()
    assert pulling.publisher().pull_request is not None


def test_the_next_one_begins_where_a_merged_one_ended(pulling: Rig, api: HfApi) -> None:
    """It holds only what is new, and nothing is taken for somebody else's edit."""
    api.merge_pull_request(REPO, 1)
    pulling.write("b.txt", b"b")

    with capture_logs() as entries:
        pulling.update()

    assert {1: "merged", 2: "open"} == pulls(api)
    assert {"model.safetensors", "a.txt"} == files(api, "main")
    assert {"model.safetensors", "a.txt", "b.txt"} == files(api, "refs/pr/2")
    told = [entry["event"] for entry in entries]
    assert ("pull.merged" in told, "pull.opened" in told, "mirror.foreign_edit" in told) == (True, True, False)


def test_one_that_was_merged_is_noticed_without_news(pulling: Rig, api: HfApi) -> None:
    """It is looked at now and then, and no new one is opened for nothing."""
    worker = pulling.work.workers[0]
    assert 290 < (worker.due_s() or 0) <= 300
    api.merge_pull_request(REPO, 1)
    pulling.restart()
    worker = pulling.work.workers[0]

    assert 0 == worker.due_s()
    worker.run()

    assert (None, None) == (worker.publisher.pull_request, worker.due_s())
    assert {1: "merged"} == pulls(api)


def test_one_that_was_closed_parks_the_mirror(pulling: Rig, api: HfApi) -> None:
    """Somebody said no: nothing is opened again but by a person's wish, and then it holds everything."""
    api.change_discussion_status(REPO, 1, "closed")
    pulling.write("b.txt", b"b")
    pulling.commit()
    worker = pulling.work.workers[0]
    worker.run()
    assert worker.trouble is not None
    assert ("rejected", True) == (worker.trouble.error.error_kind, worker.trouble.is_parked)
    assert {1: "closed"} == pulls(api)

    worker.ask_again()
    worker.run()

    assert {1: "closed", 2: "open"} == pulls(api)
    assert {"model.safetensors", "a.txt", "b.txt"} == files(api, "refs/pr/2")


def test_one_that_was_opened_again_is_added_to(pulling: Rig, api: HfApi) -> None:
    """Once it is open, the mirror goes on by itself at its next look."""
    api.change_discussion_status(REPO, 1, "closed")
    pulling.write("b.txt", b"b")
    pulling.commit()
    worker = pulling.work.workers[0]
    worker.run()
    api.change_discussion_status(REPO, 1, "open")
    assert worker.trouble is not None
    worker.trouble.next_look = 0.0

    worker.run()

    assert ({1: "open"}, None) == (pulls(api), worker.trouble)
    assert {"model.safetensors", "a.txt", "b.txt"} == files(api, "refs/pr/1")


def test_somebody_elses_of_the_same_title_is_not_ours(make_rig: MakeRig, hub: LocalHub, api: HfApi) -> None:
    """What others propose is never added to, whatever they call it."""
    hub.admit("hf_" + "o" * 34, "other")
    theirs = HfApi(endpoint=hub.url, token="hf_" + "o" * 34)
    theirs.create_pull_request(REPO, "hubsync: run")
    theirs.change_discussion_status(REPO, 1, "open")
    rig = make_rig(hub, mirror={"pull_request": True})
    rig.write("a.txt")

    rig.update()

    assert (set(), {"a.txt"}) == (files(api, "refs/pr/1"), files(api, "refs/pr/2"))
