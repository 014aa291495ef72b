"""What git left or met in a repository of ours while hubsync runs: locks of the killed, damaged packs."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hubsync.errors import GitError, StateError
from hubsync.store.git import REGULAR, CommitHeader, FastImport, Git, TreeEntry, blob_id, read_failure
from hubsync.store.process import Finished
from hubsync.store.trouble import MARK, at_work, tells_damage

REF = "refs/heads/snapshots"
HEADER = CommitHeader("hubsync <hubsync@localhost>", "1700000000 +0000", "1700000001 +0000", "a message\n")


@pytest.fixture
def git(tmp_path: Path) -> Git:
    made = Git(tmp_path / "store.git")
    made.open()
    return made


def commit(git: Git, content: bytes) -> str:
    with FastImport(git) as writer:
        writer.blob(content)
        return writer.commit(REF, git.resolve(REF), HEADER, [("a", TreeEntry(REGULAR, blob_id(content)))])


def test_the_lock_of_a_killed_git_is_cleared_while_hubsync_runs(git: Git) -> None:
    """A commit goes through at the first try, and the next one has nothing to say."""
    first = commit(git, b"1")
    lock = git.git_dir / f"{REF}.lock"
    lock.touch()

    with capture_logs() as said:
        second = commit(git, b"2")
        third = commit(git, b"3")

    assert [third, second, first] == git.text("rev-list", REF).split()
    assert [str(lock)] == [event["path"] for event in said if event["event"] == "state.recovered"]


@pytest.mark.parametrize("name", [f"{REF}.lock", "packed-refs.lock", "HEAD.lock"])
def test_a_command_is_tried_again_without_the_lock(git: Git, name: str) -> None:
    """Refs are set and deleted whatever lock the killed one held."""
    made = commit(git, b"1")
    git.run("pack-refs", "--all")
    git.run("symbolic-ref", "HEAD", REF)
    (git.git_dir / name).touch()

    git.update_refs({REF: None})
    git.run("symbolic-ref", "HEAD", "refs/heads/none")

    assert git.resolve(REF) is None
    assert "commit" == git.text("cat-file", "-t", made)
    assert not (git.git_dir / name).exists()


def test_a_lock_that_a_running_command_may_hold_is_left(git: Git) -> None:
    """It fails with git's own words, and is cleared when nobody else works there."""
    lock = git.git_dir / f"{REF}.lock"
    made = commit(git, b"1")
    lock.touch()

    with at_work(git.git_dir, ("fetch",)), pytest.raises(GitError, match="File exists") as caught:
        git.update_refs({REF: None})

    assert lock.exists()
    assert "tried again" in caught.value.hint
    with at_work(git.git_dir, ("cat-file", "--batch")):
        git.update_refs({REF: made})
    assert not lock.exists()


def test_a_killed_git_is_tried_again_and_that_is_said() -> None:
    """It has no words of its own."""
    failure = read_failure(("cat-file",), Finished(-9, b"", ""))

    assert failure.retryable
    assert "killed by signal 9" in str(failure)
    assert "tried again" in failure.hint


def kill_child() -> Iterator[bytes]:
    """Kill the child that asks for the first piece of its input."""
    [child] = map(int, Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())
    os.kill(child, signal.SIGKILL)
    yield b""


def test_a_killed_git_has_answered_nothing(git: Git) -> None:
    """Who asks by the status alone must not take it for a no: a whole queue would be cut."""
    with pytest.raises(GitError, match="killed by signal 9"):
        git.run("cat-file", "--batch-check", feed=kill_child(), check=False)


def spoil_pack(git: Git) -> None:
    [pack] = (git.git_dir / "objects" / "pack").glob("*.pack")
    pack.chmod(0o600)
    content = bytearray(pack.read_bytes())
    content[20:-30] = bytes(len(content) - 50)
    pack.write_bytes(content)


def test_what_a_borrower_has_of_its_own_is_no_damage_of_the_store(git: Git) -> None:
    """It is tried again, on what is fetched anew."""
    commit(git, b"0")
    borrower = Git(git.git_dir.with_name("mirror.git"))
    borrower.open(borrow=git.git_dir)
    made = commit(borrower, b"1" * 1000)
    spoil_pack(borrower)

    with pytest.raises(GitError, match=f"{borrower.git_dir} is damaged"):
        borrower.run("log", made)
    assert not (git.git_dir / MARK).exists()


def test_a_damaged_pack_is_told_as_that(git: Git) -> None:
    """A flipped bit is our disk's fault, also where the repository that borrows the pack meets it."""
    made = commit(git, b"1" * 1000)
    borrower = Git(git.git_dir.with_name("mirror.git"))
    borrower.open(borrow=git.git_dir)
    spoil_pack(git)

    for one in (git, borrower):
        with pytest.raises(StateError, match=f"{git.git_dir} is damaged") as caught:
            one.run("log", made)
        assert caught.value.retryable
        assert "read again" in caught.value.hint
    assert (git.git_dir / MARK).exists()
    assert not (borrower.git_dir / MARK).exists()


@pytest.mark.parametrize("asked_for", ["Username", "Password"])
def test_a_refused_token_is_no_damage(asked_for: str) -> None:
    """Nothing is looked through for it: all packs of a large store, each time that a mirror is tried."""
    said = (
        "error: unable to read askpass response from '/bin/false'\n"
        f"fatal: could not read {asked_for} for 'https://huggingface.co': terminal prompts disabled\n"
    )

    assert not tells_damage(said)
    assert tells_damage(said + "error: unable to read tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n")
