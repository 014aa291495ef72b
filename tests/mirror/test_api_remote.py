"""Publishing through the Hub's HTTP API alone: the same commits as by git, whatever came between."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from structlog.testing import capture_logs
from support.rig import REPO, Rig, safetensors
from support.running import digests, download

from hubsync.localhub import LocalHub, Settings

MakeRig = Callable[..., Rig]
HTTP = {"transport": "http"}
RACES = 20


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    """Give a Hub that nobody may speak git to."""
    with LocalHub(tmp_path / "hub") as running:
        yield running
        assert [] == [
            request.path for request in running.requests if "/git-" in request.path or "/info/refs" in request.path
        ]


@pytest.fixture
def http_rig(make_rig: MakeRig, hub: LocalHub) -> Rig:
    return make_rig(hub, mirror=HTTP)


def write_some(rig: Rig) -> None:
    """Write files of all routes."""
    rig.write("model.safetensors", safetensors(200_000))
    rig.write("config.json", b"{}")
    rig.write("größe/with space.txt", b"text")
    rig.write("blob.dat", b"\0binary")
    rig.write("empty.bin", b"")


def test_everything_arrives(http_rig: Rig, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    """The repository is created, files are equal when downloaded, and each snapshot is one commit that has its message."""
    write_some(http_rig)
    first = http_rig.update()
    http_rig.write("config.json", b'{"new": 1}')

    second = http_rig.update()

    assert digests(http_rig.source) == download(hub, REPO, tmp_path / "got")
    commits = api.list_repo_commits(REPO)
    assert first is not None
    assert second is not None
    assert ["config.json, 10 B", "5 files, 200.1 kB"] == [commit.title for commit in commits[:2]]
    assert [second.commit, first.commit] == [commit.commit_id for commit in commits[:2]]
    assert [] == http_rig.publisher().backlog()


@pytest.mark.parametrize("part_bytes", [1 << 30, 50_000])
def test_storage_that_redirects_gets_all_bytes(http_rig: Rig, hub: LocalHub, tmp_path: Path, part_bytes: int) -> None:
    """Each PUT is redirected after it was sent: it is sent again from its beginning, whole or in parts."""
    hub.settings = Settings(single_max_bytes=part_bytes, part_bytes=part_bytes)
    fault = hub.add_fault("PUT /_lfs/* redirect=other times=2")
    write_some(http_rig)

    http_rig.update()

    assert digests(http_rig.source) == download(hub, REPO, tmp_path / "got")
    assert 2 == fault.shown


def test_nothing_new_asks_nothing(http_rig: Rig, hub: LocalHub) -> None:
    """Also after a restart."""
    write_some(http_rig)
    http_rig.update()
    hub.forget_requests()

    again = http_rig.update()
    http_rig.restart()

    assert (None, None) == (again, http_rig.update())
    assert () == hub.requests


def test_what_others_commit_stays(http_rig: Rig, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    """Their files and their card stay, our path becomes ours again and is told, as by git."""
    write_some(http_rig)
    http_rig.update()
    theirs = {"extra.txt": b"extra", "README.md": b"# A card\n", "config.json": b"edited"}
    operations: list[Any] = [CommitOperationAdd(path, content) for path, content in theirs.items()]
    api.create_commit(REPO, [*operations, CommitOperationDelete("blob.dat")], commit_message="by others")
    http_rig.write("README.md", b"ours")

    with capture_logs() as entries:
        http_rig.update()

    download(hub, REPO, tmp_path / "got")
    got = {path: (tmp_path / "got" / path).read_bytes() for path in (*theirs, "blob.dat")}
    assert {**theirs, "config.json": b"{}", "blob.dat": b"\0binary"} == got
    told = {path for entry in entries if entry["event"] == "mirror.foreign_edit" for path in entry["paths"]}
    assert {"config.json", "README.md", "blob.dat"} == told


def test_a_lost_race_is_run_again(http_rig: Rig, api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody commits between our look and our commit, twenty times: the Hub refuses ours, and it is made on theirs."""
    write_some(http_rig)
    http_rig.update()
    http_rig.write("new.txt", b"new")
    remote = http_rig.publisher()._remote
    push = remote.push  # wrapped, not replaced: only there is the moment between our look and our commit
    raced: list[str] = []

    def race(heads: dict[str, str]) -> None:
        if len(raced) < RACES:
            theirs = [CommitOperationAdd(f"theirs/{len(raced)}.txt", b"r")]
            raced.insert(0, api.create_commit(REPO, theirs, commit_message="race").oid)
        push(heads)

    monkeypatch.setattr(remote, "push", race)

    done = http_rig.update()

    assert done is not None
    assert [done.commit, *raced] == [commit.commit_id for commit in api.list_repo_commits(REPO)[: 1 + RACES]]
    assert RACES == sum(path.startswith("theirs/") for path in api.list_repo_files(REPO))


def test_killed_between_commit_and_record_nothing_comes_twice(http_rig: Rig, api: HfApi) -> None:
    """The Hub has what our record does not know yet: the restart finds that, and the history stays as it is."""
    http_rig.write("before.txt", b"0")
    http_rig.update()
    mirror = http_rig.publisher()._git
    known = {**mirror.list_refs("refs/mirror"), **mirror.list_refs("refs/hub")}
    write_some(http_rig)
    http_rig.update()
    history = [commit.commit_id for commit in api.list_repo_commits(REPO)]
    now = {**mirror.list_refs("refs/mirror"), **mirror.list_refs("refs/hub")}
    mirror.update_refs({ref: known.get(ref) for ref in {*known, *now}})
    http_rig.restart()

    http_rig.publish()

    assert history == [commit.commit_id for commit in api.list_repo_commits(REPO)]
    assert [] == http_rig.publisher().backlog()


def test_revisions(make_rig: MakeRig, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    """Each unit has its branch, which holds its files and nothing else."""
    rig = make_rig(hub, mirror=HTTP, units=("checkpoint-*",), complete_when=("DONE",), publish="revisions")
    for step in (1, 2):
        rig.write(f"checkpoint-{step}/model.safetensors", safetensors(1000 + step))
        rig.write(f"checkpoint-{step}/DONE", b"")
        rig.update()

    assert {"main", "checkpoint-1", "checkpoint-2"} == {branch.name for branch in api.list_repo_refs(REPO).branches}
    for revision, step in (("checkpoint-1", 1), ("checkpoint-2", 2), ("main", 2)):
        got = download(hub, REPO, tmp_path / revision, revision=revision)
        assert digests(rig.source / f"checkpoint-{step}") == got


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_file_that_the_hub_refuses_in_its_own_words_is_held_back(
    http_rig: Rig, hub: LocalHub, api: HfApi, status: int
) -> None:
    """A scanner has no format and no status of its own: the path that it names is enough."""
    http_rig.write("a.txt", b"a")
    http_rig.write("keys/bad.txt", b"b")
    http_rig.commit()
    # The first commit and, as the refused one may be an old version, the one in which all is folded.
    hub.add_fault(f"POST */commit/* {status} times=2 'body=a secret was found in keys/bad.txt:1'")

    http_rig.publish()

    assert "a.txt" in api.list_repo_files(REPO)
    assert "keys/bad.txt" not in api.list_repo_files(REPO)
    assert ["keys/bad.txt"] == list(http_rig.publisher().refusals.reasons())


def test_an_object_that_the_hub_lost_is_sent_again(http_rig: Rig, hub: LocalHub) -> None:
    """Before a commit names it once more: the Hub has nothing to refuse."""
    content = safetensors(200_000)
    http_rig.write("one.safetensors", content)
    http_rig.update()
    lost = next(path for path in hub.directory.rglob(hashlib.sha256(content).hexdigest()) if path.is_file())
    lost.unlink()
    http_rig.write("two.safetensors", content)
    http_rig.commit()
    worker = http_rig.work.workers[0]

    worker.run()

    assert (None, {}) == (worker.trouble, http_rig.publisher().refusals.reasons())
    assert lost.read_bytes() == content
