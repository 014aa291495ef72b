import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubsync.errors import DiskFullError, GitError
from hubsync.store.git import EXECUTABLE, REGULAR, CommitHeader, FastImport, Git, TreeEntry, read_failure
from hubsync.store.process import Finished

REF = "refs/heads/snapshots"
HEADER = CommitHeader("hubsync <hubsync@localhost>", "1700000000 +0000", "1700000001 +0000", "a message\n")
HOSTILE_NAMES = (
    "with space.txt",
    " leading and trailing ",
    "-leading-dash",
    "--option=value",
    "new\nline",
    'quo"te',
    "'single'",
    "back\\slash",
    "tab\there",
    "größe/模型/🤗.txt",
    ":(glob)magic",
    "#hash",
    "!bang",
    "sub dir/$(touch x)",
    "M 100644 inline x",
    "star*[x]?.dat",
    "\x7f\x01",
)
names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."} and name.lower() != ".git"
)


@pytest.fixture
def git(tmp_path: Path) -> Git:
    made = Git(tmp_path / "store.git")
    made.open()
    return made


def write(git: Git, *steps: dict[str, bytes | None], mode: str = REGULAR) -> list[str]:
    """Write a commit for each step and return their ids."""
    commits: list[str] = []
    with FastImport(git) as writer:
        for step in steps:
            changes = {path: content and entry_of(writer, content, mode) for path, content in step.items()}
            parent = commits[-1] if commits else git.resolve(REF)
            commits.append(writer.commit(REF, parent, HEADER, changes.items()))  # type: ignore[arg-type]
    return commits


def entry_of(writer: FastImport, content: bytes, mode: str = REGULAR) -> TreeEntry:
    writer.blob(content)
    named = subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True, cwd="/")
    return TreeEntry(mode, named.stdout.decode().strip())


def fail_after(_: object) -> None:
    raise ZeroDivisionError


def files(git: Git, treeish: str) -> dict[str, bytes]:
    tree = git.list_tree(treeish)
    contents = dict(git.read_blobs({entry.blob for entry in tree.values()}))
    return {path: contents[entry.blob] for path, entry in tree.items()}


def fsck(git: Git) -> list[str]:
    """Return what git finds wrong; HEAD names no branch on purpose."""
    argv = ["git", "-C", git.git_dir, "fsck", "--strict", "--full", "--no-dangling"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if "unborn branch" not in line]


def test_any_name_arrives_as_it_is(git: Git) -> None:
    """Names with spaces, quotes, newlines, dashes or any script are written, listed and read back unchanged."""
    wanted = {name: f"content of {number}".encode() for number, name in enumerate(HOSTILE_NAMES)}

    (commit,) = write(git, dict(wanted))

    assert wanted == files(git, commit)
    assert set(HOSTILE_NAMES) == {change.path for change in git.diff_trees(None, commit)}
    assert set(HOSTILE_NAMES) == {change.path for change in git.diff_line([commit])[0]}
    assert list(HOSTILE_NAMES[:3]) == sorted(git.list_tree(commit, *HOSTILE_NAMES[:3]), key=HOSTILE_NAMES.index)
    assert [] == fsck(git)


@settings(max_examples=15)
@given(wanted=st.sets(names, min_size=1, max_size=8))
def test_every_name_that_git_can_hold_arrives(tmp_path_factory: pytest.TempPathFactory, wanted: set[str]) -> None:
    """Whatever the characters, what was written is what is listed, and removing it leaves nothing."""
    git = Git(tmp_path_factory.mktemp("any") / "store.git")
    git.open()

    written, removed = write(git, dict.fromkeys(wanted, b"x"), dict.fromkeys(wanted))

    assert wanted == set(git.list_tree(written))
    assert {} == git.list_tree(removed)


def test_modes_are_kept(git: Git) -> None:
    """An executable file stays executable."""
    (commit,) = write(git, {"run": b"#!/bin/sh\n"}, mode=EXECUTABLE)

    assert EXECUTABLE == git.list_tree(commit)["run"].mode


def test_commits_of_one_session_stand_on_each_other(git: Git) -> None:
    """Each commit has the one before it as its parent, also across sessions."""
    first, second = write(git, {"a": b"1"}, {"b": b"2"})
    (third,) = write(git, {"a": None})

    assert [third, second, first] == git.text("rev-list", REF).split()
    assert {"b": b"2"} == files(git, third)
    assert [["a"], ["b"], ["a"]] == [[c.path for c in step] for step in git.diff_line([first, second, third])]


def test_a_commit_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    """Author, dates and message come from the header alone: two repositories make the same commit."""
    made = []
    for name in ("one", "two"):
        git = Git(tmp_path / f"{name}.git")
        git.open()
        made += write(git, {"a": b"1"})

    assert made[0] == made[1]


def test_a_blob_costs_git_no_new_memory(git: Git) -> None:
    """What zlib frees after a blob is kept for the next; given back to the kernel, it was 21 page faults for each."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    with FastImport(git) as writer:
        for _ in range(1000):
            writer.blob(os.urandom(2048).hex().encode())

    assert 3000 > resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before


def test_an_error_inside_the_writer_leaves_the_branch_as_it_was(git: Git) -> None:
    """A writer that is left by an exception moves no ref, and the next one works."""
    (before,) = write(git, {"a": b"1"})

    with pytest.raises(ZeroDivisionError), FastImport(git) as writer:
        fail_after(writer.commit(REF, before, HEADER, [("b", entry_of(writer, b"2"))]))

    assert before == git.resolve(REF)
    (after,) = write(git, {"c": b"3"})
    assert [after, before] == git.text("rev-list", REF).split()
    assert [] == fsck(git)


def test_a_commit_that_git_refuses_is_an_error_and_leaves_the_branch(git: Git) -> None:
    """A tree entry that names no object fails with git's own words, and nothing has moved."""
    (before,) = write(git, {"a": b"1"})

    with pytest.raises(GitError) as caught, FastImport(git) as writer:
        writer.commit(REF, before, HEADER, [("b", TreeEntry(REGULAR, "12" * 20))])

    assert "fast-import" in str(caught.value)
    assert before == git.resolve(REF)


def test_what_killed_processes_left_is_removed_at_open(git: Git) -> None:
    """Stale locks, temporary packs and scratch files would stop or fill the store; they are gone, refs are not."""
    (commit,) = write(git, {"a": b"1"})
    stale = ("packed-refs.lock", "HEAD.lock", "shallow.lock", "config.lock", f"{REF}.lock", "refs/mirror/head.lock",
             "objects/pack/tmp_pack_abc", "objects/ab/tmp_obj_abc", "fast_import_crash_77", "lfs/tmp/upload",
             "lfs/logs/20260101.log", "index-abc/index")  # fmt: skip
    for name in stale:
        (git.git_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (git.git_dir / name).touch()

    removed = Git(git.git_dir).open()

    assert len(stale) <= removed
    assert [] == [name for name in stale if (git.git_dir / name).exists()]
    assert [] == list(git.git_dir.glob("index-*"))
    assert commit == git.resolve(REF)
    git.update_refs({REF: None})
    assert git.resolve(REF) is None


def test_several_refs_move_together_or_not_at_all(git: Git) -> None:
    """One refused ref of a transaction keeps the others where they were."""
    first, second = write(git, {"a": b"1"}, {"a": b"2"})
    git.update_refs({"refs/mirror/one": first, "refs/mirror/two": first})

    with pytest.raises(GitError):
        git.update_refs({"refs/mirror/one": second, "refs/mirror/two": "12" * 20})

    assert [first, first] == [git.resolve("refs/mirror/one"), git.resolve("refs/mirror/two")]


@pytest.fixture
def hostile_home(tmp_path: Path) -> Iterator[Path]:
    """Give a home and an environment that try to make git run a program."""
    home = tmp_path / "home"
    home.mkdir()
    mark = tmp_path / "ran"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    (home / ".gitconfig").write_text(f"[core]\nfsmonitor = {hook}\nhooksPath = {tmp_path}\n[alias]\nlog = !{hook}\n")
    before = dict(os.environ)
    os.environ.update(HOME=str(home), XDG_CONFIG_HOME=str(home))
    yield mark
    os.environ.clear()
    os.environ.update(before)


def test_a_users_configuration_is_not_obeyed(git: Git, hostile_home: Path) -> None:
    """The settings that count are those of the store: hooks, helpers and rewritten addresses of the account do not act."""
    write(git, {"a": b"1"})
    git.update_refs({"refs/mirror/one": git.resolve(REF)})

    assert not hostile_home.exists()
    assert "/home/.gitconfig" not in git.text("config", "--list", "--show-origin")


def test_a_full_disk_is_told_from_other_failures() -> None:
    """What git says of a full disk becomes an error that waits; anything else keeps git's words."""
    full = read_failure(("fast-import",), Finished(128, b"", "fatal: write error: No space left on device\n"))
    pack = read_failure(
        ("fast-import",), Finished(128, b"", "fatal: sha1 file 'tmp_idx_1' write error. Out of diskspace\n")
    )
    other = read_failure(("fast-import",), Finished(128, b"", "fatal: something else\n"))

    assert (DiskFullError, True) == (type(full), full.retryable)
    assert str(full) == str(pack)
    assert (GitError, "git fast-import: fatal: something else") == (type(other), str(other))


def test_blobs_of_any_content_are_read_through_one_process(git: Git) -> None:
    """Binary content, empty content and content that looks like git's own headers comes back byte for byte."""
    contents = {"a": b"\0\1\n\n", "c": b"0" * 40 + b" blob 3\nabc", "d": b"x" * 300_000}
    (commit,) = write(git, dict(contents))

    assert contents == files(git, commit)
    sizes = git.sizes([entry.blob for entry in git.list_tree(commit).values()] + ["12" * 20])
    assert sorted(map(len, contents.values())) == sorted(sizes.values())


def test_git_python_is_imported_although_what_it_runs_was_killed(tmp_path: Path) -> None:
    """It starts a command as it is imported; a machine that is short of memory kills what it likes."""
    command = tmp_path / "killed-once"
    command.write_text('#!/bin/sh\nchmod -x "$0"; kill -9 $$\n')
    command.chmod(0o755)
    code = "from hubsync.store.git_python import load_git_python; print(load_git_python().Git.__name__)"
    environment = {**os.environ, "GIT_PYTHON_REFRESH": "quiet", "GIT_PYTHON_GIT_EXECUTABLE": str(command)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)

    assert "Git\n" == done.stdout, done.stderr
    assert not os.access(command, os.X_OK)


def test_git_python_is_imported_after_its_import_failed_beside_another_thread() -> None:
    """A daemon that runs out of open files just as its targets begin is well again once there are some."""
    code = """
import contextlib, errno, sys, threading, time
from hubsync.store.git_python import load_git_python

class OutOfFiles:
    def find_spec(self, name, path=None, target=None):
        if name == "git.objects.tag":
            sys.meta_path.remove(self)
            began.set()
            time.sleep(0.5)  # the other thread waits for this import by then
            raise OSError(errno.EMFILE, "Too many open files")

def load():
    with contextlib.suppress(OSError):
        load_git_python()

began = threading.Event()
sys.meta_path.insert(0, OutOfFiles())
first, second = threading.Thread(target=load), threading.Thread(target=load)
first.start()
began.wait()
second.start()
first.join()
second.join()
print(load_git_python().Git.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "Git\n" == done.stdout, done.stderr


class Repacking(Git):
    """A repository that somebody else repacks while it is being read."""

    def __init__(self, git_dir: Path, times: int) -> None:
        super().__init__(git_dir)
        self._times = times

    def run(self, *args: str, **options: Any) -> Finished:
        """Repack just before a pack is read."""
        if args[0] == "verify-pack" and self._times:
            self._times -= 1
            super().run("repack", "-a", "-d", "-f", "--quiet", config={"pack.compression": str(self._times)})
        return super().run(*args, **options)


def test_a_repack_meanwhile_is_no_damage(git: Git) -> None:
    """The packs that are gone were replaced: they are looked at again; a pack that is broken is broken all the same."""
    for number in range(3):
        write(git, {"a.txt": b"%d" % number * 1000})

    assert Repacking(git.git_dir, times=2).is_whole()
    [pack] = (git.git_dir / "objects" / "pack").glob("*.pack")
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:-30] + bytes(30))
    assert not git.is_whole()
