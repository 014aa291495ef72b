"""Several hubsync instances and people on one repository at the same time, by git and by the Hub's API."""

import threading
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from structlog.testing import capture_logs
from support.rig import REPO, Rig
from support.running import download

from hubsync.localhub import LocalHub

ROUNDS = 3


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    made = HfApi(endpoint=hub.url, token=hub.token)
    made.create_repo(REPO, private=True)
    return made


class Author(threading.Thread):
    """Saves and publishes again and again, at its own pace."""

    def __init__(self, name: str, rig: Rig) -> None:
        super().__init__(name=name)
        self.rig = rig
        self.failures: list[BaseException] = []

    def run(self) -> None:
        """Work until all is published."""
        try:
            for number in range(ROUNDS):
                self.rig.write(f"{self.name}.bin", b"\0%d" % number)
                self.rig.write(f"{self.name}-{number}.txt", b"%d" % number)
                self.rig.update()
        except BaseException as exc:  # noqa: BLE001 - for the test to see
            self.failures.append(exc)


@pytest.mark.parametrize("inside", [("", ""), ("alice", "bob")], ids=["same place", "own places"])
def test_two_instances_and_a_person_lose_nothing_of_each_other(
    tmp_path: Path, hub: LocalHub, api: HfApi, inside: tuple[str, str]
) -> None:
    """One writes by git, one by the API, a person in between: each file is there in the end, and no commit is lost."""
    authors = []
    with ExitStack() as stack:
        for name, transport, place in zip(("alice", "bob"), ("git", "http"), inside, strict=True):
            (tmp_path / name).mkdir()
            mirror = {"transport": transport, "path_in_repo": PurePosixPath(place)}
            authors.append(Author(name, stack.enter_context(Rig(tmp_path / name, [hub], mirror=mirror))))  # type: ignore[list-item]
        authors[1].rig.write("first.txt")
        authors[1].rig.update()  # it makes the client of this process, which the person has too
        for author in authors:
            author.start()
        for number in range(ROUNDS):
            words = [CommitOperationAdd("README.md", b"%d" % number), CommitOperationAdd(f"note-{number}.md", b"")]
            api.create_commit(REPO, words, commit_message=f"person {number}")
        for author in authors:
            author.join()
            assert [] == author.failures
            assert author.rig.publish() is None
        got = download(hub, REPO, tmp_path / "got")
        written = {author.name: {path.name for path in author.rig.source.iterdir()} for author in authors}

    for (name, names), place in zip(written.items(), inside, strict=True):
        assert {str(PurePosixPath(place) / each) for each in names} <= got.keys(), name
    assert {f"note-{number}.md" for number in range(ROUNDS)} | {"README.md"} <= got.keys()
    assert b"%d" % (ROUNDS - 1) == (tmp_path / "got" / "README.md").read_bytes()
    subjects = [commit.title for commit in api.list_repo_commits(REPO)]
    assert {f"person {number}" for number in range(ROUNDS)} <= set(subjects)


def test_events_name_the_commits_of_the_hub(tmp_path: Path, hub: LocalHub, api: HfApi) -> None:
    """By the API the Hub gives commits ids of its own: an operator looks for those."""
    (tmp_path / "one").mkdir()
    with Rig(tmp_path / "one", [hub], mirror={"transport": "http"}) as rig:  # type: ignore[list-item]
        rig.write("a.txt", b"1")
        done = rig.update()
        theirs = api.create_commit(REPO, [CommitOperationAdd("a.txt", b"theirs")], commit_message="edit").oid
        rig.write("a.txt", b"2")

        with capture_logs() as entries:
            last = rig.update()

    told = {entry["event"]: entry for entry in entries}
    assert done is not None
    assert last is not None
    assert (theirs, done.commit) == (told["mirror.adopted"]["commit"], told["mirror.adopted"]["previous"])
    assert last.commit == told["mirror.foreign_edit"]["commit"]
