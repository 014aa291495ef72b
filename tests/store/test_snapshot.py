import hashlib
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.rig import Rig, safetensors

from hubsync.errors import HubsyncError
from hubsync.store.fingerprint import Fingerprint
from hubsync.store.git import TreeEntry
from hubsync.store.objects import Pin, PinKind
from hubsync.store.recovery import SNAPSHOTS

UNITS = {"units": ("checkpoint-*",)}


@pytest.fixture
def local(make_rig: Callable[..., Rig]) -> Rig:
    """Give a target without a mirror."""
    return make_rig(**UNITS)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_unit(rig: Rig, name: str, fill: bytes = b"\1") -> None:
    rig.write(f"{name}/model.safetensors", safetensors(5000, fill))
    rig.write(f"{name}/config.json", b"{}")
    rig.write(f"{name}/trainer_state.json", b"{}")


def is_at_rest(rig: Rig) -> bool:
    """Tell whether an inventory finds nothing that changed."""
    rig.pipeline.take_inventory()
    return rig.pipeline.next_due() is None and rig.pipeline.count_settled() == 0


def head(rig: Rig) -> str:
    commit = rig.store.head()
    assert commit is not None
    return commit


def test_nothing_seems_changed_after_a_commit_and_after_a_release(local: Rig) -> None:
    """Pinning and unpinning move the ctime of a file; that is followed, so that no file is read again."""
    write_unit(local, "checkpoint-1")
    local.write("loose.bin", b"\0" * 1000)
    local.commit()
    assert is_at_rest(local)
    assert 2 == len(local.held_objects())

    local.pipeline.release([head(local)])

    assert is_at_rest(local)
    assert set() == local.held_objects()
    assert 1 == (local.source / "loose.bin").stat().st_nlink
    local.restart()
    assert is_at_rest(local)


def test_what_this_process_made_is_told_as_git_tells_it(local: Rig) -> None:
    """The backlog is known without a program as long as all of it was made by this process; git has it afterwards."""
    units = ["checkpoint-1", "checkpoint-ü %2A"]
    for unit in units:
        write_unit(local, unit)
        local.commit()
    local.write("loose.txt", b"loose")
    local.commit()
    first = local.store.backlog(None)[0].commit

    told = [local.store.backlog(published) for published in (None, first)]

    local.restart()
    assert [local.store.backlog(published) for published in (None, first)] == told
    assert [[(units[0],), (units[1],), ()], [(units[1],), ()]] == [[made.units for made in line] for line in told]


def test_the_units_that_were_completed_are_known_from_one_snapshot_to_the_next(local: Rig) -> None:
    """History is not read again for each: one that completes none shares what is known of the one before."""
    write_unit(local, "checkpoint-1")
    local.commit()
    before = local.store.unit_times(local.store.head())
    local.write("loose.txt", b"loose")
    local.commit()
    after = local.store.unit_times(local.store.head())
    write_unit(local, "checkpoint-2")
    write_unit(local, "checkpoint-1", b"\2")
    local.commit()
    known = dict(local.store.unit_times(local.store.head()))

    assert before is after
    assert ["checkpoint-1", "checkpoint-2"] == list(known)
    assert before["checkpoint-1"] == local.store.unit_times(local.store.backlog(None)[0].commit)["checkpoint-1"]
    local.restart()
    assert known == dict(local.store.unit_times(local.store.head()))


def test_the_ledger_answers_as_git_does(local: Rig) -> None:
    """What the newest snapshot holds and how large that is needs no program, and an older one is not mistaken for it."""
    for number, content in enumerate((b"one", b"three", b"\0binary")):
        local.write("d/file.txt", content)
        local.write(f"d/file-{number}.txt", b"")
        local.commit()
    commits = [head(local), local.store.git.text("rev-parse", f"{head(local)}~2")]

    trees = [local.store.list_tree(commit) for commit in commits]

    assert [local.store.git.list_tree(commit) for commit in commits] == trees
    assert [7, 3] == [local.store.measure([tree["d/file.txt"].blob]).popitem()[1] for tree in trees]
    assert {0} == set(local.store.measure([trees[0]["d/file-0.txt"].blob]).values())


def test_a_release_drops_only_what_no_mirror_needs(local: Rig) -> None:
    """An object stays while the mirror that is furthest behind lacks it; ``None`` is a mirror that has nothing."""
    contents = [b"\0" + bytes([number]) * 100 for number in range(3)]
    commits = []
    for content in contents:
        local.write("model.bin", content)
        commits += local.commit()
        shutil.copy(local.source / "model.bin", local.source / ".tmp-copy")
        (local.source / ".tmp-copy").rename(local.source / "model.bin")  # a new inode, so that pins stay as they are
    oids = [digest(content) for content in contents]
    assert 3 == len(commits)

    held = []
    for published in ([None, commits[2]], [commits[0], commits[2]], [commits[1], commits[2]], [commits[2]] * 2):
        local.pipeline.release(published)
        held.append(local.held_objects())

    assert [set(oids), set(oids[1:]), set(oids[2:]), set()] == held


def test_an_object_that_comes_back_is_needed_again(local: Rig) -> None:
    """Content that was published, replaced and then restored is held for a mirror that is at the state between."""
    commits = []
    for content in (b"\0one", b"\0two", b"\0one"):
        (local.source / "model.bin").unlink(missing_ok=True)
        local.write("model.bin", content)
        commits += local.commit()

    local.pipeline.release([commits[1]])

    assert {digest(b"\0one")} == local.held_objects()


def test_what_is_captured_and_not_committed_is_kept(local: Rig) -> None:
    """A release does not drop the shards of a unit that is still being written."""
    local.write("checkpoint-1/model-00001-of-00002.safetensors", safetensors(5000))
    local.settle()

    local.pipeline.release([])

    assert {digest(safetensors(5000))} == local.held_objects()


def test_a_rotated_checkpoint_stays_until_it_is_published(local: Rig) -> None:
    """Deleted in the source while queued, a unit's bytes are intact in the store."""
    write_unit(local, "checkpoint-1")
    (commit,) = local.commit()

    shutil.rmtree(local.source / "checkpoint-1")
    local.write("other.txt")
    local.commit()
    local.pipeline.release([None])

    oid = digest(safetensors(5000))
    assert local.store.has_intact(oid)
    assert safetensors(5000) == local.store.objects.path(oid).read_bytes()
    assert "checkpoint-1/model.safetensors" in local.store.git.list_tree(commit)


def rewrite_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2000)
        file.write(b"torn")


def rewrite_and_forge_time(path: Path) -> None:
    before = path.stat()
    rewrite_in_place(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("spoil", [rewrite_in_place, rewrite_and_forge_time, lambda path: os.truncate(path, 100)])
def test_a_pin_whose_bytes_were_rewritten_is_noticed(local: Rig, spoil: Callable[[Path], None], *, restarts: bool) -> None:
    """A link shares its bytes with the source: once they are others, the object is not there any more."""
    content = b"\0" * 5000
    path = local.write("model.bin", content)
    local.commit()
    assert local.store.has_intact(digest(content))
    time.sleep(0.02)

    spoil(path)
    if restarts:  # with it goes the fingerprint
        local.restart()

    assert not local.store.has_intact(digest(content))
    assert set() == local.held_objects()


@pytest.mark.parametrize(("capture", "cure"), [("link", 'capture = "copy"'), ("copy", "dmesg")])
def test_who_spoiled_a_pin_is_told_with_the_cure(make_rig: Callable[..., Rig], capture: str, cure: str) -> None:
    """A link is changed by whoever writes the file, a copy by nobody but the disk or a hand."""
    rig = make_rig(capture=capture)
    path = rig.write("model.bin", b"\0" * 5000)
    rig.commit()
    oid = digest(b"\0" * 5000)
    rewrite_in_place(path if capture == "link" else rig.store.objects.path(oid))

    with capture_logs() as entries:
        assert not rig.store.check_pin(oid)

    [said] = [entry for entry in entries if entry["event"] == "object.spoiled"]
    assert ("model.bin", oid) == (said["path"], said["oid"])
    assert cure in said["hint"]


def test_a_pin_whose_file_was_only_touched_is_intact(local: Rig) -> None:
    """A new time on the same bytes spoils nothing: no commit follows, and the object can still go up."""
    path = local.write("model.bin", b"\0" * 5000)
    local.commit()

    os.utime(path)

    assert [] == local.commit()
    assert local.store.has_intact(digest(b"\0" * 5000))


def test_a_pin_that_was_hashed_here_is_not_hashed_again(local: Rig) -> None:
    """Its fingerprint tells whether it still is what it was: with that of something else, it is taken for spoiled."""
    path = local.write("model.bin", b"\0" * 5000)
    local.commit()
    oid = digest(b"\0" * 5000)
    local.store.objects.keep(Pin(local.state / "none", PinKind.LINK), oid, Fingerprint().text())

    os.utime(path)

    assert not local.store.has_intact(oid)


def test_a_pin_of_content_that_was_written_again_is_intact(local: Rig) -> None:
    """Rewritten in place with the very same bytes, a file needs no commit and its object stays."""
    path = local.write("model.bin", b"\0" * 5000)
    local.commit()

    with path.open("r+b") as file:
        file.write(b"\0" * 5000)

    assert [] == local.commit()
    assert local.store.has_intact(digest(b"\0" * 5000))


def test_a_lost_pin_is_made_again_from_a_file_that_still_has_it(local: Rig) -> None:
    """An object that vanished from the store is pinned from the source, and the file does not seem changed."""
    local.write("model.bin", b"\0" * 5000)
    local.commit()
    oid = digest(b"\0" * 5000)
    local.store.objects.path(oid).unlink()
    local.commit()  # follows the ctime

    assert local.store.has_intact(oid) or local.store.pin_again(oid)

    assert local.store.has_intact(oid)
    assert is_at_rest(local)


def test_a_lost_ledger_makes_no_new_commit(local: Rig) -> None:
    """Rebuilt from source and store, the ledger finds what is committed; the branch and the pins stay."""
    write_unit(local, "checkpoint-1")
    local.write("loose.bin", b"\0" * 1000)
    local.commit()
    before, held = head(local), local.held_objects()
    local.work.close()
    for path in local.store.directory.glob("ledger.sqlite*"):
        path.unlink()

    local.restart()

    assert [] == local.commit()
    assert (before, held) == (head(local), local.held_objects())
    assert is_at_rest(local)
    assert all(local.store.has_intact(oid) for oid in held)


def test_a_ledger_that_missed_the_last_commit_follows_the_branch(local: Rig) -> None:
    """Killed between the branch and the ledger, hubsync goes on from the branch: nothing is committed twice."""
    local.write("a.txt", b"1")
    local.commit()
    path = local.store.directory / "ledger.sqlite"
    local.work.close()
    shutil.copy(path, path.with_name("older"))
    local.restart()
    local.write("b.txt", b"2")
    local.commit()
    after = head(local)
    local.work.close()
    path.with_name("older").replace(path)

    local.restart()

    assert after == head(local)
    assert [] == local.commit()
    assert {"a.txt", "b.txt"} == local.store.ledger.tree_paths()


def test_a_ledger_of_a_newer_store_follows_an_older_branch(local: Rig) -> None:
    """A branch that was set back, as from a backup, is what counts: the later file is committed again."""
    local.write("a.txt", b"1")
    first, *_ = local.commit()
    local.write("b.txt", b"2")
    local.commit()
    local.work.close()
    local.store.git.update_refs({SNAPSHOTS: first})

    local.restart()
    local.commit()

    assert {"a.txt", "b.txt"} == set(local.store.git.list_tree(head(local)))


def test_a_commit_that_failed_is_made_later(local: Rig) -> None:
    """After a full disk or a broken store has been mended, everything that was settled is committed."""
    write_unit(local, "checkpoint-1")
    local.write("checkpoint-2/model.bin", b"\0" * 10)
    local.write("checkpoint-2/trainer_state.json", b"{}")
    local.write("loose.txt")
    local.settle()
    packs = local.store.git.git_dir / "objects" / "pack"
    packs.rename(packs.with_name("away"))
    packs.write_text("no directory")
    with pytest.raises(HubsyncError):
        local.pipeline.commit()
    packs.unlink()
    packs.with_name("away").rename(packs)

    local.commit()

    wanted = {str(path.relative_to(local.source)) for path in local.source.rglob("*") if path.is_file()}
    assert wanted == set(local.store.git.list_tree(head(local)))


def test_a_file_that_becomes_a_directory_loses_nothing(make_rig: Callable[..., Rig]) -> None:
    """What lies below the new directory is in the snapshot, and deleting the old file takes none of it away."""
    rig = make_rig(deletes="propagate")
    rig.write("latest", b"checkpoint-1")
    for number in range(3):
        rig.write(f"other-{number}.txt")
    rig.commit()
    (rig.source / "latest").unlink()
    rig.write("latest/config.json", b"{}")

    rig.commit()
    rig.commit()

    wanted = {"latest/config.json", *(f"other-{number}.txt" for number in range(3))}
    assert wanted == set(rig.store.git.list_tree(head(rig)))
    assert wanted == rig.store.ledger.tree_paths()


@pytest.mark.parametrize("deletes", ["keep", "propagate"])
def test_a_directory_that_becomes_a_file_and_one_again_loses_nothing(make_rig: Callable[..., Rig], deletes: str) -> None:
    """The ledger's tree is git's, also where one name was both a directory and a file."""
    rig = make_rig(deletes=deletes)
    for number in range(3):
        rig.write(f"other-{number}.txt")
    rig.write("latest/config.json", b"{}")
    rig.commit()
    shutil.rmtree(rig.source / "latest")
    rig.write("latest", b"checkpoint-1")
    rig.commit()
    assert set(rig.store.git.list_tree(head(rig))) == rig.store.ledger.tree_paths()
    (rig.source / "latest").unlink()
    rig.write("latest/config.json", b"{}")

    rig.commit()

    assert "latest/config.json" in rig.store.git.list_tree(head(rig))
    assert set(rig.store.git.list_tree(head(rig))) == rig.store.ledger.tree_paths()


def test_several_names_of_one_file_are_published(local: Rig) -> None:
    """Hard links and symbolic links beside their file arrive as files, in units and outside."""
    for directory in ("checkpoint-1", "loose"):
        path = local.write(f"{directory}/epoch.ckpt", b"\0" * 5000)
        (local.source / directory / "hard.ckpt").hardlink_to(path)
        (local.source / directory / "last.ckpt").symlink_to("epoch.ckpt")
    local.write("checkpoint-1/trainer_state.json", b"{}")

    local.commit()
    local.commit()

    tree = local.store.git.list_tree(head(local))
    names = {f"{directory}/{name}.ckpt" for directory in ("checkpoint-1", "loose") for name in ("epoch", "hard", "last")}
    assert names == tree.keys() - {"checkpoint-1/trainer_state.json"}
    assert 1 == len({tree[name].blob for name in names})
    assert is_at_rest(local)
    assert local.store.has_intact(digest(b"\0" * 5000))


def test_a_change_of_mode_alone_is_a_change(local: Rig) -> None:
    """A script that becomes executable is committed again."""
    path = local.write("run.sh", b"#!/bin/sh\n")
    local.commit()

    path.chmod(0o755)
    local.commit()

    assert "100755" == local.store.git.list_tree(head(local))["run.sh"].mode


def test_a_snapshot_names_its_units(local: Rig) -> None:
    """The unit that a commit completes is read back from the branch, also after a restart and behind other commits."""
    write_unit(local, "checkpoint-1")
    write_unit(local, "checkpoint-2", b"\2")
    local.commit()
    local.write("later.txt")
    local.commit()

    backlog = local.store.backlog(None)

    assert [("checkpoint-1",), ("checkpoint-2",), ()] == [snapshot.units for snapshot in backlog]
    assert "checkpoint-2" == local.store.newest_unit()
    assert [snapshot.commit for snapshot in backlog[1:]] == [s.commit for s in local.store.backlog(backlog[0].commit)]


def test_a_snapshot_is_dated_by_its_newest_file(local: Rig) -> None:
    """The author's date is when the newest file was written, so that the lag of a unit can be told."""
    path = local.write("a.txt")
    os.utime(path, (1_600_000_000, 1_600_000_000))

    local.commit()

    (snapshot,) = local.store.backlog(None)
    assert 1_600_000_000 == snapshot.written_at
    assert abs(snapshot.committed_at - time.time()) < 60


def test_the_state_is_for_its_owner_only(local: Rig) -> None:
    """Private models wait here: nobody else may enter the directory."""
    local.write("model.bin", b"\0" * 100)
    local.commit()

    assert 0o700 == stat.S_IMODE(local.store.directory.stat().st_mode)
    assert 0o700 == stat.S_IMODE(local.store.objects.directory.stat().st_mode)


def test_the_disk_that_pins_cost_is_what_the_source_does_not_share(local: Rig) -> None:
    """A link costs nothing while its file is there, and all of it once the file is gone."""
    path = local.write("model.bin", b"\0" * 50_000)
    local.commit()

    shared = local.store.disk_held()
    path.unlink()

    assert [(50_000, 0), (50_000, 50_000)] == [shared, local.store.disk_held()]


def test_many_commits_leave_few_packs(local: Rig) -> None:
    """Each commit writes a pack; they are put together before there are too many, and the branch is whole."""
    for number in range(55):
        local.write("a.txt", str(number).encode())
        local.commit()

    assert len(list((local.store.git.git_dir / "objects" / "pack").glob("*.pack"))) <= 51
    assert 55 == len(local.store.backlog(None))
    assert b"54" == next(iter(local.store.git.read_blobs([local.store.git.list_tree(head(local))["a.txt"].blob])))[1]


def test_the_tree_of_the_ledger_is_that_of_git(local: Rig) -> None:
    """After any row of changes both agree, entry by entry."""
    local.write("a.txt", b"1")
    local.write("b/c.bin", b"\0")
    local.commit()
    local.write("a.txt", b"2")
    local.commit()

    with sqlite3.connect(local.store.directory / "ledger.sqlite") as db:
        rows = {path: TreeEntry(mode, blob) for path, mode, blob in db.execute("SELECT path, mode, blob FROM tree")}
    db.close()

    assert local.store.git.list_tree(head(local)) == rows
