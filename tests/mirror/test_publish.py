"""Publishing to a server that is not ours: what stands there afterwards, whatever came between."""

import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, CutError, PlainServer, Request
from support.rig import REPO, Rig, safetensors

from hubsync.errors import MirrorError
from hubsync.mirror import pusher
from hubsync.store.pointer import decode_pointer
from hubsync.store.process import StoppedError
from hubsync.store.route import hub_attributes

MakeRig = Callable[..., Rig]


def source_files(rig: Rig) -> dict[str, bytes]:
    return {str(path.relative_to(rig.source)): path.read_bytes() for path in rig.source.rglob("*") if path.is_file()}


def fill(rig: Rig) -> None:
    """Write files of all routes and names."""
    rig.write("model.safetensors", safetensors(200_000))
    rig.write("config.json", b"{}")
    rig.write("größe/with space\nand 'quotes\".txt", b"text")
    rig.write("-dash", b"\0binary")
    rig.write("empty.bin", b"")
    rig.write("run.sh", b"#!/bin/sh\n", mode=0o755)
    (rig.source / "last.safetensors").symlink_to("model.safetensors")


def once(act: Callable[[], object], when: Callable[[Request], bool] = lambda request: request.is_push) -> Any:
    """Return a hook that acts at the first request that *when* tells."""
    left = [act]

    def hook(request: Request) -> None:
        if left and when(request):
            left.pop()()

    return hook


def cut() -> None:
    raise CutError


def cut_pushes(request: Request) -> None:
    if request.is_push:
        raise CutError


def subjects(server: PlainServer) -> list[str]:
    return server.git(REPO, "log", "--format=%s", "main").splitlines()


def attributes_disagree(server: PlainServer, scratch: Path) -> list[str]:
    """Return the paths of main where git, in a clone, takes a pointer for content or content for a pointer."""
    bare = server.root / f"{REPO}.git"
    subprocess.run(["git", "clone", "-q", "--no-checkout", bare, scratch], check=True)
    subprocess.run(["git", "-C", scratch, "read-tree", "HEAD"], check=True)
    listed = server.git(REPO, "ls-tree", "-r", "-z", "--name-only", "main")
    asked = subprocess.run(
        ["git", "-C", scratch, "check-attr", "--cached", "-z", "--stdin", "filter"],
        input=listed.encode(), capture_output=True, check=True,
    ).stdout.decode().split("\0")[:-1]  # fmt: skip
    shown = {}
    for path in listed.split("\0")[:-1]:
        argv = ["git", "-C", bare, "cat-file", "blob", f"main:{path}"]
        shown[path] = decode_pointer(subprocess.run(argv, capture_output=True, check=True).stdout) is not None
    return [path for path, value in zip(asked[::3], asked[2::3], strict=True) if (value == "lfs") != shown[path]]


# --- what arrives


def test_an_empty_repository_gets_everything(rig: Rig, server: PlainServer, tmp_path: Path) -> None:
    """The first publication makes the branch: all bytes, modes and names, and the Hub's own attributes where they do."""
    fill(rig)

    published = rig.update()

    assert published is not None
    assert [published.commit] == server.history(REPO)
    assert source_files(rig) == server.read_all(REPO)
    modes = dict(line.split("\t")[::-1] for line in server.git(REPO, "ls-tree", "-r", "main").splitlines())
    assert ["run.sh"] == [path for path, entry in modes.items() if entry.startswith("100755")]
    assert {"100755", "100644"} == {entry[:6] for entry in modes.values()}
    assert server.read(REPO, ".gitattributes").startswith(hub_attributes())
    assert [] == attributes_disagree(server, tmp_path / "clone")
    assert "" == server.git(REPO, "fsck", "--strict", "--no-dangling")


def test_a_second_publication_with_nothing_new_asks_nothing(rig: Rig, server: PlainServer) -> None:
    """With everything there no request goes out, also after a restart."""
    fill(rig)
    rig.update()
    server.requests.clear()

    again = rig.update()
    rig.restart()
    restarted = rig.update()

    assert (None, None) == (again, restarted)
    assert [] == server.requests


def test_a_change_sends_what_changed(rig: Rig, server: PlainServer) -> None:
    """A rewritten small file sends no object and asks for no upload; the commit stands on the one before."""
    fill(rig)
    first = rig.update()
    server.requests.clear()
    rig.write("config.json", b'{"new": true}')

    second = rig.update()

    assert first is not None
    assert second is not None
    assert [second.commit, first.commit] == server.history(REPO)
    assert [] == [request for request in server.requests if "lfs" in request.path or request.host == "storage"]
    assert b'{"new": true}' == server.read(REPO, "config.json")


def test_each_snapshot_is_a_commit_with_its_dates(rig: Rig, server: PlainServer) -> None:
    """A backlog arrives as the snapshots that it is made of, oldest first, dated when their files were written."""
    for number in range(3):
        path = rig.write(f"step-{number}.txt", b"text")
        os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number))
        rig.commit()

    published = rig.publish()

    assert published is not None
    assert ["step-2.txt, 4 B", "step-1.txt, 4 B", "step-0.txt, 4 B"] == subjects(server)
    dates = server.git(REPO, "log", "--format=%at", "main").split()
    assert ["1600000002", "1600000001", "1600000000"] == dates
    assert 3 == published.files


def test_a_path_in_the_repository_is_a_prefix(make_rig: MakeRig, server: PlainServer, tmp_path: Path) -> None:
    """Everything lies below it; what is beside it is not ours, and patterns with a root still agree."""
    server.commit(REPO, {"run/theirs.txt": b"theirs", "config.json": b"theirs"})
    rig = make_rig(server, mirror={"path_in_repo": PurePosixPath("run/a b")})
    fill(rig)
    rig.write("saved_model/deep/weights", b"\0w")

    rig.update()

    expected = {f"run/a b/{path}": content for path, content in source_files(rig).items()}
    assert expected | {"run/theirs.txt": b"theirs", "config.json": b"theirs"} == server.read_all(REPO)
    assert [] == attributes_disagree(server, tmp_path / "clone")


def test_two_targets_share_a_repository_by_their_prefixes(tmp_path: Path, server: PlainServer) -> None:
    """Two servers that publish to two directories of one repository keep each other's files, by turns."""
    rigs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rigs.append(Rig(tmp_path / name, [server], mirror={"path_in_repo": PurePosixPath(name)}))
    with rigs[0], rigs[1]:
        for number in range(2):
            for rig in rigs:
                rig.write("model.bin", b"\0%d" % number)
                rig.update()

    assert {"a/model.bin": b"\x001", "b/model.bin": b"\x001"} == server.read_all(REPO)
    assert 4 == len(server.history(REPO))


@pytest.mark.parametrize(("repo_type", "prefix"), [("dataset", "datasets/"), ("space", "spaces/")])
def test_other_types_and_branches_have_their_address(
    make_rig: MakeRig, server: PlainServer, repo_type: str, prefix: str
) -> None:
    """Data sets and spaces lie under their own prefix, and a branch that is not there yet is made."""
    server.create(f"{prefix}{REPO}")
    rig = make_rig(server, mirror={"repo_type": repo_type, "branch": "dev/x"})
    rig.write("a.txt", b"1")

    rig.update()

    assert "1" == server.git(f"{prefix}{REPO}", "show", "dev/x:a.txt")


def test_the_attributes_agree_after_each_publication(make_rig: MakeRig, server: PlainServer, tmp_path: Path) -> None:
    """Files that change between text and binary, also within one backlog, are each time what git takes them for."""
    rig = make_rig(server)
    steps: list[dict[str, bytes]] = [
        {"a": b"text", "b": b"\0binary", "c.bin": b""},
        {"a": b"\0now binary", "b": b"now text"},
        {"a": b"text again", "c.bin": b"\0filled", "new star*": b"\0"},
    ]
    for number, files in enumerate(steps):
        for path, content in files.items():
            rig.write(path, content)
        rig.commit()
        if number != 1:  # the second waits for the third
            rig.publish()
            assert [] == attributes_disagree(server, tmp_path / f"clone-{number}")

    assert source_files(rig) == server.read_all(REPO)


def test_a_pattern_that_is_added_later_agrees_with_what_is_there(
    make_rig: MakeRig, server: PlainServer, tmp_path: Path
) -> None:
    """The operator names more files for git-lfs: those that were published as text stay readable in a clone."""
    rig = make_rig(server)
    rig.write("notes.txt", b"published as text")
    rig.update()
    rig.work.close()
    later = make_rig(server, lfs={"patterns": ("*.txt",), "threshold_bytes": 5_000_000})
    later.write("more.txt", b"published through git-lfs")

    later.update()

    assert source_files(later) == server.read_all(REPO)
    assert [] == attributes_disagree(server, tmp_path / "clone")


def test_attributes_that_others_break_are_mended(rig: Rig, server: PlainServer, tmp_path: Path) -> None:
    """Somebody replaces .gitattributes; with our next commit every path that we published agrees again."""
    rig.write("weights", b"\0binary")
    rig.write("model.safetensors", safetensors(100))
    rig.update()
    server.commit(REPO, {".gitattributes": b"*.md text\n"})
    rig.write("config.json", b"{}")

    rig.update()

    assert server.read(REPO, ".gitattributes").startswith(b"*.md text\n")
    assert [] == attributes_disagree(server, tmp_path / "clone")


# --- what others do


def test_a_repository_with_history_is_adopted(rig: Rig, server: PlainServer) -> None:
    """A card that a person wrote, their files and their attributes stay; ours come on top, with theirs as parent."""
    theirs = {"README.md": b"# A card\n", "docs/a.txt": b"theirs", "config.json": b"theirs"}
    foreign = server.commit(REPO, {**theirs, ".gitattributes": b"*.md linguist-documentation\n"})
    fill(rig)
    rig.write("README.md", b"ours")

    rig.update()

    assert foreign == server.history(REPO)[1]
    assert {**source_files(rig), "README.md": b"# A card\n", "docs/a.txt": b"theirs"} == server.read_all(REPO)
    assert server.read(REPO, ".gitattributes").startswith(b"*.md linguist-documentation\n")


def test_a_commit_of_others_between_two_of_ours_stays(rig: Rig, server: PlainServer) -> None:
    """Their files and their card stay, our path becomes ours again, and their commit stays in the history."""
    fill(rig)
    first = rig.update()
    foreign = server.commit(REPO, {"extra.txt": b"extra", "README.md": b"card", "config.json": b"edited", "run.sh": None})
    rig.write("new.txt", b"new")

    second = rig.update()

    assert first is not None
    assert second is not None
    assert [second.commit, foreign, first.commit] == server.history(REPO)
    assert source_files(rig) | {"extra.txt": b"extra", "README.md": b"card"} == server.read_all(REPO)


def test_their_card_stays_while_ours_changes(rig: Rig, server: PlainServer) -> None:
    """Once a person has edited the card, our later versions of it do not overwrite it, commit after commit."""
    rig.write("README.md", b"ours 1")
    rig.update()
    server.commit(REPO, {"README.md": b"theirs"})

    for number in (2, 3):
        rig.write("README.md", b"ours %d" % number)
        rig.write("a.txt", b"%d" % number)
        rig.update()

        assert {"README.md": b"theirs", "a.txt": b"%d" % number} == server.read_all(REPO)


def test_a_card_that_nobody_edited_is_ours_to_change(rig: Rig, server: PlainServer) -> None:
    """The policy for foreign edits does not keep us from our own card."""
    for number in (1, 2, 3):
        rig.write("README.md", b"ours %d" % number)
        rig.update()

        assert {"README.md": b"ours %d" % number} == server.read_all(REPO)


def test_halt_stops_before_anything_is_pushed(make_rig: MakeRig, server: PlainServer) -> None:
    """Where the operator wants to decide, an edit of ours by others parks the mirror, and nothing has moved."""
    rig = make_rig(server, mirror={"on_foreign_edit": {"*": "halt"}})
    rig.write("a.txt", b"ours")
    rig.update()
    foreign = server.commit(REPO, {"a.txt": b"theirs"})
    rig.write("b.txt", b"ours")

    with pytest.raises(MirrorError) as caught:
        rig.update()

    assert (("a.txt",), False) == (caught.value.paths, caught.value.retryable)
    assert "on_foreign_edit" in caught.value.hint
    assert foreign == server.history(REPO)[0]


def test_a_lost_race_is_run_again(rig: Rig, server: PlainServer) -> None:
    """Somebody pushes between our look and our push, three times: theirs stays, ours follows, without force."""
    fill(rig)
    rig.update()
    rig.write("new.txt", b"new")
    foreign: list[str] = []

    def race(request: Request) -> None:
        if request.is_push and len(foreign) < 3:
            foreign.append(server.commit(REPO, {f"race-{len(foreign)}.txt": b"theirs"}))

    server.before = race

    published = rig.update()

    assert published is not None
    assert [published.commit, *reversed(foreign)] == server.history(REPO)[:4]
    assert source_files(rig) | {f"race-{n}.txt": b"theirs" for n in range(3)} == server.read_all(REPO)


def test_a_lost_race_for_the_first_commit_is_run_again(rig: Rig, server: PlainServer) -> None:
    """Somebody makes the branch while we are about to: ours goes on theirs."""
    rig.write("a.txt", b"ours")
    server.before = once(lambda: server.commit(REPO, {"theirs.txt": b"theirs"}))

    rig.update()

    assert {"a.txt": b"ours", "theirs.txt": b"theirs"} == server.read_all(REPO)
    assert 2 == len(server.history(REPO))


def test_a_rewritten_history_is_adopted(rig: Rig, server: PlainServer) -> None:
    """Squashed to one commit by its owner, the branch is built on as it is: never forced back to what it was."""
    fill(rig)
    rig.update()
    rig.write("b.txt", b"b")
    rig.update()
    tree = server.git(REPO, "rev-parse", "main^{tree}")
    squashed = server.git(REPO, "-c", "user.name=x", "-c", "user.email=x@x", "commit-tree", "-m", "squashed", tree)
    server.git(REPO, "update-ref", "refs/heads/main", squashed)
    rig.write("c.txt", b"c")

    published = rig.update()

    assert published is not None
    assert [published.commit, squashed] == server.history(REPO)
    assert source_files(rig) == server.read_all(REPO)


def test_a_branch_that_was_deleted_is_made_again(rig: Rig, server: PlainServer) -> None:
    """With the branch gone, the next publication brings back all that we have, whole."""
    fill(rig)
    rig.update()
    server.git(REPO, "update-ref", "-d", "refs/heads/main")
    rig.write("c.txt", b"c")

    rig.update()

    assert source_files(rig) == server.read_all(REPO)


def delete_branch(server: PlainServer, _: list[str]) -> None:
    server.git(REPO, "update-ref", "-d", "refs/heads/main")


def replace_history(server: PlainServer, _: list[str]) -> None:
    server.git(REPO, "update-ref", "-d", "refs/heads/main")
    server.commit(REPO, {"theirs.txt": b"theirs"})


def rewind(server: PlainServer, history: list[str]) -> None:
    server.git(REPO, "update-ref", "refs/heads/main", history[-1])


REWRITES = [delete_branch, replace_history, rewind]


@pytest.mark.parametrize("rewrite", REWRITES)
def test_halt_leaves_a_rewritten_branch_to_the_operator(
    make_rig: MakeRig, server: PlainServer, rewrite: Callable[[PlainServer, list[str]], None]
) -> None:
    """Deleted, replaced or rewound by others: nothing is pushed and nothing forgotten until another policy is declared."""
    halting, ours = ({"on_foreign_edit": {"README.md": "theirs", "*": policy}} for policy in ("halt", "ours"))
    rig = make_rig(server, mirror=halting)
    fill(rig)
    rig.update()
    rig.write("b.txt", b"b")
    rig.update()
    left = rig.publisher()._git.list_refs("refs/mirror/left")
    rewrite(server, server.history(REPO))
    there = server.git(REPO, "for-each-ref")
    rig.write("c.txt", b"c")

    for _ in range(2):
        with pytest.raises(MirrorError) as caught:
            rig.update()
        rig.restart()

    assert ("conflict", False) == (caught.value.error_kind, caught.value.retryable)
    assert "b.txt" in caught.value.paths
    assert "on_foreign_edit" in caught.value.hint
    assert there == server.git(REPO, "for-each-ref")
    assert left == rig.publisher()._git.list_refs("refs/mirror/left")
    rig.restart_with(ours)
    rig.publish()
    assert source_files(rig).items() <= server.read_all(REPO).items()


@pytest.mark.parametrize(
    ("rewrite", "said"),
    [(delete_branch, "is gone"), (replace_history, "nothing published is there"), (rewind, "taken back")],
)
def test_what_happened_to_a_rewritten_branch_is_said(
    rig: Rig, server: PlainServer, rewrite: Callable[[PlainServer, list[str]], None], said: str
) -> None:
    """Where our version wins, all is there again, and the log tells what others had done to the branch."""
    fill(rig)
    rig.update()
    rig.write("b.txt", b"b")
    rig.update()
    rewrite(server, server.history(REPO))
    rig.write("c.txt", b"c")

    with capture_logs() as entries:
        rig.update()

    assert source_files(rig).items() <= server.read_all(REPO).items()
    reasons = [entry.get("reason") or "" for entry in entries if entry["event"] == "mirror.adopted"]
    assert [said] == [said for reason in reasons if said in reason]


@pytest.mark.parametrize("policy", ["ours", "halt"])
def test_a_rewound_branch_that_has_what_is_new_lacks_the_rest(make_rig: MakeRig, server: PlainServer, policy: str) -> None:
    """A file goes back to what the older commit has of it: that is no sign of a push of ours, and the others are missed."""
    rig = make_rig(server, mirror={"on_foreign_edit": {"*": policy}})
    for path, content in (("a.txt", b"1"), ("b.txt", b"b"), ("a.txt", b"2")):
        rig.write(path, content)
        rig.update()
    rewind(server, server.history(REPO))
    rig.write("a.txt", b"1")
    rig.commit()

    worker = rig.work.workers[0]
    worker.run()

    assert ({"a.txt": b"1"} | ({"b.txt": b"b"} if policy == "ours" else {})) == server.read_all(REPO)
    assert (policy == "halt") == (worker.trouble is not None)


def test_a_branch_that_was_put_back_ends_the_halt(make_rig: MakeRig, server: PlainServer) -> None:
    """With the deleted branch restored as it was, publishing goes on where it stopped."""
    rig = make_rig(server, mirror={"on_foreign_edit": {"*": "halt"}})
    fill(rig)
    rig.update()
    head = server.history(REPO)[0]
    delete_branch(server, [])
    rig.write("c.txt", b"c")
    with pytest.raises(MirrorError):
        rig.update()

    server.git(REPO, "update-ref", "refs/heads/main", head)
    rig.update()

    assert head == server.history(REPO)[1]
    assert source_files(rig) == server.read_all(REPO)


@pytest.mark.parametrize("initial", [{}, {".gitattributes": hub_attributes()}])
def test_a_repository_that_was_made_anew_gets_its_objects_again(
    rig: Rig, server: PlainServer, initial: dict[str, bytes]
) -> None:
    """Deleted and created again, the repository lacks the objects too: what we publish there is never dangling."""
    rig.write("model.safetensors", safetensors(1000))
    rig.update()
    (server.root / f"{REPO}.git").rename(server.root / "away")
    server.objects.clear()
    server.create(REPO)
    if initial:
        server.commit(REPO, initial)
    rig.write("c.txt", b"c")

    rig.update()
    rig.update()

    assert source_files(rig) == server.read_all(REPO)


def test_an_object_that_the_server_lost_is_sent_again(rig: Rig, server: PlainServer) -> None:
    """A Hub that refuses a push because it lacks an object, though it took it once, gets it again."""
    rig.write("model.safetensors", safetensors(1000))
    hook = server.root / f"{REPO}.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'LFS pointer pointed to a file that does not exist' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(MirrorError) as caught:
        rig.update()
    assert ("server", True, True) == (caught.value.error_kind, caught.value.retryable, caught.value.lacks_object)
    server.objects.clear()
    hook.unlink()

    rig.publish()

    assert source_files(rig) == server.read_all(REPO)


def test_their_file_in_the_place_of_our_directory_is_told(make_rig: MakeRig, server: PlainServer) -> None:
    """A name that is a file there and a directory here cannot be both: the policy decides, it does not just vanish."""
    server.commit(REPO, {"logs": b"theirs"})
    rig = make_rig(server, mirror={"on_foreign_edit": {"*": "halt"}})
    rig.write("logs/a.txt", b"ours")

    with pytest.raises(MirrorError):
        rig.update()

    assert {"logs": b"theirs"} == server.read_all(REPO)


def test_a_file_that_becomes_a_directory_arrives(rig: Rig, server: PlainServer) -> None:
    """The mirror follows where one name is a file first, then a directory, then a file."""
    states: tuple[Mapping[str, bytes], ...] = ({"latest": b"1"}, {"latest/a": b"2", "latest/b": b"\0"}, {"latest": b"3"})
    for files in states:
        for path in sorted(rig.source.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for path, content in {**files, "other": b"x"}.items():
            rig.write(path, content)
        rig.update()

        assert {**files, "other": b"x"} == server.read_all(REPO)


# --- what is half done when it fails


def fail_pushes(status: int) -> Callable[[Request], None]:
    def hook(request: Request) -> None:
        if request.is_push:
            raise AnswerError(status)

    return hook


def test_a_failed_push_after_others_committed_leaves_nothing_half_known(
    rig: Rig, server: PlainServer, tmp_path: Path
) -> None:
    """Others edited, and our push failed once: the next one still compares all of ours with what they made of it."""
    fill(rig)
    rig.update()
    server.commit(REPO, {"config.json": b"edited", "run.sh": None, ".gitattributes": None})
    rig.write("new.bin", b"\0new")
    server.before = fail_pushes(503)
    with pytest.raises(MirrorError):
        rig.update()
    server.before = lambda _: None

    with capture_logs() as entries:
        rig.publish()

    assert source_files(rig) == server.read_all(REPO)
    assert [] == attributes_disagree(server, tmp_path / "clone")
    assert [["config.json", "run.sh"]] == [e["paths"] for e in entries if e["event"] == "mirror.foreign_edit"]


def test_a_foreign_head_is_adopted_once_however_often_the_push_fails(rig: Rig, server: PlainServer) -> None:
    """What is fetched is kept over failures and restarts, and said once."""
    rig.write("a.txt")
    rig.update()
    server.commit(REPO, {"theirs.txt": b"theirs"})
    rig.write("b.txt")
    server.before = fail_pushes(503)

    fetches = []  # a fetch names what it wants and has; a look does not
    with capture_logs() as entries:
        for _ in range(3):
            with pytest.raises(MirrorError):
                rig.update()
            rig.restart()
            fetches.append(sum(1 for r in server.requests if r.path.endswith("git-upload-pack") and r.size > 200))

    assert 1 == len([entry for entry in entries if entry["event"] == "mirror.adopted"])
    assert [fetches[0]] * 3 == fetches
    assert fetches[0] > 0


def test_killed_twice_nothing_comes_twice(rig: Rig, server: PlainServer) -> None:
    """Killed between push and record, and again after the restart had fetched: no commit is made a second time."""
    rig.write("before.txt", b"0")
    rig.update()
    mirror = rig.publisher()._git
    known = mirror.list_refs("refs/mirror")
    for number in (1, 2):
        rig.write("a.txt", b"%d" % number)
        rig.commit()
    rig.publish()
    history = server.history(REPO)
    mirror.update_refs({ref: known.get(ref) for ref in mirror.list_refs("refs/mirror") if "graft" not in ref})
    rig.restart()
    rig.publisher()._pusher._adopt(rig.publisher()._remote.read_heads(["main"]))
    rig.restart()

    rig.publish()

    assert history == server.history(REPO)
    assert [] == rig.publisher().backlog()


@pytest.mark.parametrize("kills", [1, 2])
def test_what_was_pushed_and_not_noted_goes_when_it_is_deleted(
    make_rig: Callable[..., Rig], server: PlainServer, kills: int
) -> None:
    """All goes as one commit, which does not tell of what came and went since the record; what others added stays."""
    rig = make_rig(server, deletes="propagate")
    rig.write("before.txt")
    rig.update()
    server.commit(REPO, {"theirs.txt": b"theirs"})
    mirror = rig.publisher()._git
    known = mirror.list_refs("refs/mirror")
    for number in range(1, 1 + kills):
        rig.write("deleted.txt", b"%d" % number)
        rig.write("kept.txt", b"%d" % number)
        rig.update()
        mirror.update_refs({ref: known.get(ref) for ref in mirror.list_refs("refs/mirror")})
        rig.restart()
    (rig.source / "deleted.txt").unlink()
    rig.publisher().refusals.folds = True  # as it is when one of several commits was refused

    rig.update()

    assert {"before.txt", "kept.txt", "theirs.txt"} == server.read_all(REPO).keys()


def test_what_others_take_back_of_a_push_that_was_noted_is_their_edit(
    make_rig: Callable[..., Rig], server: PlainServer
) -> None:
    """A head within our own commits is no push that nobody noted if the last one was."""
    rig = make_rig(server, mirror={"on_foreign_edit": {"*": "theirs"}})
    rig.write("before.txt")
    rig.update()
    for number in (1, 2):
        rig.write("a.txt", b"%d" % number)
        rig.commit()
    rig.publish()
    server.git(REPO, "update-ref", "refs/heads/main", "main~1")
    rig.write("b.txt")

    with capture_logs() as entries:
        rig.update()

    assert ["a.txt"] in [entry["paths"] for entry in entries if entry["event"] == "mirror.foreign_edit"]
    assert b"1" == server.read(REPO, "a.txt")


def test_what_they_keep_is_told_once(rig: Rig, server: PlainServer) -> None:
    """A card that stays theirs is no news when they commit something else."""
    rig.write("README.md", b"ours")
    rig.update()
    server.commit(REPO, {"README.md": b"theirs"})
    told = []
    for number in range(3):
        rig.write("a.txt", b"%d" % number)
        with capture_logs() as entries:
            rig.update()
        told.append([entry["paths"] for entry in entries if entry["event"] == "mirror.foreign_edit"])
        server.commit(REPO, {"other.txt": b"%d" % number})

    assert [[["README.md"]], [], []] == told
    assert b"theirs" == server.read(REPO, "README.md")


def test_their_directory_in_the_place_of_our_new_file_is_told(rig: Rig, server: PlainServer) -> None:
    """On a head that is known as well: their directory gives way to our file by policy, and an event says so."""
    rig.write("a.txt", b"a")
    rig.update()
    server.commit(REPO, {"docs/theirs.txt": b"theirs"})
    rig.write("b.txt", b"b")
    rig.update()
    rig.write("docs", b"ours")

    with capture_logs() as entries:
        rig.update()

    assert [["docs"]] == [entry["paths"] for entry in entries if entry["event"] == "mirror.foreign_edit"]
    assert {"a.txt": b"a", "b.txt": b"b", "docs": b"ours"} == server.read_all(REPO)


# --- failures


@pytest.mark.parametrize("always", [False, True])
def test_an_answer_that_was_lost_is_recognised(rig: Rig, server: PlainServer, always: bool) -> None:  # noqa: FBT001 - a fact
    """The push was applied and the connection cut before the answer: it counts as done, and nothing is pushed twice."""
    fill(rig)
    server.after = cut_pushes if always else once(cut)

    published = rig.update()

    assert published is not None
    assert [published.commit] == server.history(REPO)
    assert rig.update() is None
    assert rig.publisher().backlog() == []


def test_an_answer_that_was_lost_with_the_server_is_recognised_later(rig: Rig, server: PlainServer) -> None:
    """If the server cannot even be asked, the next try finds the commits there and adds none."""
    rig.write("a.txt", b"1")
    rig.commit()
    rig.write("a.txt", b"2")
    rig.commit()
    dead = threading.Event()

    def die(request: Request) -> None:
        if request.is_push:
            dead.set()
        if dead.is_set():
            raise CutError

    server.after = die
    with pytest.raises(MirrorError) as caught:
        rig.publish()
    assert caught.value.retryable
    dead.clear()
    server.after = lambda _: None

    rig.restart()
    rig.publish()

    assert 2 == len(server.history(REPO))
    assert {"a.txt": b"2"} == server.read_all(REPO)


@pytest.mark.parametrize("first", [True, False])
def test_killed_between_push_and_record_nothing_comes_twice(rig: Rig, server: PlainServer, first: bool) -> None:  # noqa: FBT001 - a fact
    """The mirror has what our record does not know yet: the restart finds that, and the history stays as it is."""
    if not first:
        rig.write("before.txt", b"0")
        rig.update()
    mirror = rig.publisher()._git
    known = {ref: mirror.resolve(ref) for ref in ("refs/mirror/left/main", "refs/mirror/published")}
    for number in (1, 2):
        rig.write("a.txt", b"%d" % number)
        rig.write("model.bin", b"\0%d" % number)
        rig.commit()
    rig.publish()
    history = server.history(REPO)
    mirror.update_refs(known)
    rig.restart()

    rig.publish()

    assert history == server.history(REPO)
    assert [] == rig.publisher().backlog()
    assert source_files(rig) == server.read_all(REPO)


@pytest.mark.parametrize("policy", ["ours", "theirs", "halt"])
def test_killed_before_the_record_and_others_went_on(make_rig: MakeRig, server: PlainServer, policy: str) -> None:
    """With their commit on top of those that we do not know to be ours, our own versions are no foreign edits."""
    rig = make_rig(server, mirror={"on_foreign_edit": {"*": policy}})
    rig.write("before.txt", b"0")
    rig.update()
    mirror = rig.publisher()._git
    known = {ref: mirror.resolve(ref) for ref in ("refs/mirror/left/main", "refs/mirror/published")}
    for number in (1, 2):
        rig.write("a.txt", b"%d" % number)
        rig.commit()
    rig.publish()
    server.commit(REPO, {"theirs.txt": b"theirs"})
    history = server.history(REPO)
    mirror.update_refs(known)
    rig.restart()

    rig.publish()

    assert history == server.history(REPO)
    assert [] == rig.publisher().backlog()


def test_a_dead_server_delays_no_other_and_catches_up(tmp_path: Path, make_rig: MakeRig, server: PlainServer) -> None:
    """While one mirror cannot be reached the other gets everything; back again, it gets what was rotated away too."""
    with PlainServer(tmp_path / "second") as second:
        second.create(REPO)
        rig = make_rig(server, second)
        second.__exit__()
        rig.write("model.bin", b"\0" * 10_000)
        rig.commit()
        rig.publish(0)
        with pytest.raises(MirrorError) as caught:
            rig.publish(1)
        rig.work.release()
        (rig.source / "model.bin").unlink()
        rig.write("later.txt", b"later")
        rig.update(0)
        rig.restart()

        second.__enter__()
        rig.publish(1)
        rig.work.release()

        assert ("network", True) == (caught.value.error_kind, caught.value.retryable)
        assert {"model.bin": b"\0" * 10_000, "later.txt": b"later"} == server.read_all(REPO) == second.read_all(REPO)
        assert set() == rig.held_objects()
        assert 2 == len(second.history(REPO))


def test_two_mirrors_publish_at_the_same_time(tmp_path: Path, make_rig: MakeRig, server: PlainServer) -> None:
    """Each has its own repository to work in: neither waits for the other nor meets its locks, commit after commit."""
    with PlainServer(tmp_path / "second") as second:
        second.create(REPO)
        both_push = threading.Barrier(2)

        def meet(request: Request) -> None:
            if request.is_push:
                both_push.wait(20)

        rig = make_rig(server, second)
        for number in range(3):
            server.before = second.before = meet
            rig.write("model.bin", b"\0%d" % number * 1000)
            rig.write("a.txt", b"%d" % number)
            rig.commit()
            threads = [threading.Thread(target=rig.publish, args=(number,)) for number in (0, 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)

        assert not both_push.broken
        assert source_files(rig) == server.read_all(REPO) == second.read_all(REPO)
        assert server.history(REPO) == second.history(REPO)
        assert 3 == len(server.history(REPO))


def test_an_object_that_was_spoiled_is_never_published(rig: Rig, server: PlainServer) -> None:
    """A queued file is rewritten in place: no pointer to the lost bytes arrives; all else and its next state do."""
    path = rig.write("model.bin", b"\0" * 50_000)
    rig.write("a.txt", b"1")
    rig.commit()
    with path.open("r+b") as file:
        file.write(b"\1" * 50_000)

    rig.publish()
    assert {"a.txt": b"1"} == server.read_all(REPO)
    rig.update()

    assert {"model.bin": b"\1" * 50_000, "a.txt": b"1"} == server.read_all(REPO)
    pointers = server.git(REPO, "log", "-p", "--format=", "main", "--", "model.bin")
    assert 1 == pointers.count("oid sha256:")


def test_an_object_that_is_spoiled_while_it_is_sent_is_never_published(rig: Rig, server: PlainServer) -> None:
    """Rewritten in place during the upload, the object is refused or not counted; the next state is published."""
    path = rig.write("model.bin", b"\0" * 50_000)
    rig.commit()

    def rewrite() -> None:
        with path.open("r+b") as file:
            file.write(b"\1" * 50_000)

    server.before = once(rewrite, lambda request: request.path.endswith("/objects/batch"))
    try:
        rig.publish()
    except MirrorError as exc:
        assert exc.retryable  # noqa: PT017 - either is right
    assert [] == server.git(REPO, "branch").split()

    rig.update()

    assert {"model.bin": b"\1" * 50_000} == server.read_all(REPO)


def test_an_object_goes_up_before_its_commit(make_rig: MakeRig, server: PlainServer) -> None:
    """A shard of an unfinished unit is sent at once; when the unit is complete, only git is left to push."""
    rig = make_rig(server, units=("checkpoint-*",))
    rig.write("checkpoint-1/model-00001-of-00002.safetensors", safetensors(5000, b"\1"))
    rig.settle()
    rig.work.workers[0].run()
    assert 1 == len(server.objects)
    assert "" == server.git(REPO, "branch")

    rig.write("checkpoint-1/model-00002-of-00002.safetensors", safetensors(5000, b"\2"))
    rig.write("checkpoint-1/trainer_state.json", b"{}")
    rig.settle()
    rig.work.workers[0].run()
    server.requests.clear()
    rig.update()

    assert [] == [request for request in server.requests if "lfs" in request.path or request.host == "storage"]
    assert source_files(rig) == server.read_all(REPO)
    assert 1 == len(server.history(REPO))


def test_a_stop_ends_an_upload_at_once(rig: Rig, server: PlainServer) -> None:
    """In the middle of a transfer that does not end, a stop is obeyed, no child is left, and the next start goes on."""
    fill(rig)
    rig.commit()
    released = threading.Event()

    def hang(request: Request) -> None:
        if request.host == "storage":
            rig.stop.set()
            released.wait(30)

    server.before = hang
    with pytest.raises(StoppedError):
        rig.publish()
    released.set()
    assert [] == children()
    server.before = lambda _: None
    rig.stop.clear()

    rig.publish()

    assert source_files(rig) == server.read_all(REPO)


def children() -> list[str]:
    """Return the commands of the processes that this one started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(") ")
        except OSError:
            continue
        if fields[2].split()[1] == str(os.getpid()):
            found.append(fields[0])
    return found


def is_look(request: Request) -> bool:
    """Tell whether a request asks what the mirror shows."""
    return request.path.endswith("/info/refs?service=git-upload-pack")


def test_what_the_mirror_shows_is_asked_while_objects_go_up(rig: Rig, server: PlainServer) -> None:
    """Neither waits for the other, and it is asked once."""
    looked = threading.Event()
    is_asked_first: list[bool] = []

    def hook(request: Request) -> None:
        if is_look(request):
            looked.set()
        if request.method == "PUT":
            is_asked_first.append(looked.wait(5))

    server.before = hook
    for content in (b"\1", b"\2"):
        looked.clear()
        server.requests.clear()
        rig.write("model.safetensors", safetensors(20_000, content))
        rig.update()

        assert 1 == sum(map(is_look, server.requests))
    assert [True, True] == is_asked_first


def test_what_was_asked_long_before_the_push_is_asked_again(
    rig: Rig, server: PlainServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload may take hours, and what stood there be another repository by then."""
    monkeypatch.setattr(pusher, "_FRESH_S", 0.0)
    rig.write("model.safetensors", safetensors(20_000))

    rig.update()

    assert 2 == sum(map(is_look, server.requests))
    assert server.read_all(REPO).keys() >= {"model.safetensors"}


def test_a_look_that_fails_beside_an_upload_is_repeated_after_it(rig: Rig, server: PlainServer) -> None:
    """It is a hint and no step: the upload goes on, and what fails again then is told."""
    server.before = once(cut, is_look)
    rig.write("model.safetensors", safetensors(20_000))

    rig.update()

    assert 2 == sum(map(is_look, server.requests))
    assert server.read_all(REPO).keys() >= {"model.safetensors"}


def test_a_missing_repository_is_an_error_that_waits_for_somebody(rig: Rig, server: PlainServer) -> None:
    """A server without the Hub's API cannot be asked to make one: the mirror is parked with a hint."""
    (server.root / f"{REPO}.git").rename(server.root / "away")
    rig.write("a.txt", b"1")

    with pytest.raises(MirrorError) as caught:
        rig.update()
    (server.root / "away").rename(server.root / f"{REPO}.git")
    rig.publish()

    assert ("not_found", False) == (caught.value.error_kind, caught.value.retryable)
    assert {"a.txt": b"1"} == server.read_all(REPO)


# --- the token

TOKEN = "plain-canary-0123456789"


@pytest.fixture
def guarded(tmp_path: Path, make_rig: MakeRig) -> Any:
    """Give a server that asks for a token, and a target that has it."""
    with PlainServer(tmp_path / "server", token=TOKEN) as server:
        server.create(REPO)
        yield server, make_rig(server)


def test_the_token_is_sent_to_its_server_and_stands_nowhere_else(guarded: tuple[PlainServer, Rig]) -> None:
    """No process has it in its arguments or environment, the storage host never sees it, and no file holds it after."""
    server, rig = guarded
    fill(rig)
    seen: list[str] = []
    leaks: list[str] = []

    def scan(_: Request) -> None:
        for place in ("cmdline", "environ"):
            for file in Path("/proc").glob(f"[0-9]*/{place}"):
                try:
                    content = file.read_bytes()
                except OSError:
                    continue
                seen.extend(["push"] if b"git\0" in content and b"push" in content else [])
                leaks.extend([str(file)] if TOKEN.encode() in content else [])

    server.before = scan
    rig.update()

    assert source_files(rig) == server.read_all(REPO)
    assert seen
    assert [] == leaks
    assert {""} == {request.authorization for request in server.requests if request.host == "storage"}
    held = [path for path in rig.state.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert [] == held


def test_a_refused_token_is_asked_for_no_more_than_needed(guarded: tuple[PlainServer, Rig], tmp_path: Path) -> None:
    """A revoked token parks the mirror after a few requests; a new one in the file takes effect at the next try."""
    server, rig = guarded
    (tmp_path / "token-0").write_text("revoked\n")
    fill(rig)
    rig.commit()

    with pytest.raises(MirrorError) as caught:
        rig.publish()
    refused = len(server.requests)
    (tmp_path / "token-0").write_text(f"{TOKEN}\n")
    rig.publish()

    assert ("auth", False) == (caught.value.error_kind, caught.value.retryable)
    assert refused <= 10
    assert "revoked" not in str(caught.value)
    assert source_files(rig) == server.read_all(REPO)
