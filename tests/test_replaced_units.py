"""A unit is one version: saved again under its name it replaces the former one, and it goes from the mirrors whole."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from support.plain_server import PlainServer
from support.records import record
from support.rig import REPO, Rig, safetensors

from hubsync.plan import make_plan

MakeRig = Callable[..., Rig]
UNIT = "checkpoint-1"
UNITS = ("checkpoint-*",)
SETTINGS: dict[str, Any] = {"units": UNITS, "complete_when": ("config.json",)}
LOG = "events.out.tfevents.1.host.2.0"
SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
INDEX = json.dumps({"metadata": {}, "weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()
WHOLE = {"config.json": b"{}", "model.safetensors": safetensors(3000), "old/notes.txt": b"old"}
SHARDED = {
    "config.json": b"{}",
    **{shard: safetensors(2000, b"\2") for shard in SHARDS},
    "model.safetensors.index.json": INDEX,
}


def save(rig: Rig, files: dict[str, bytes], unit: str = UNIT) -> None:
    for name, content in files.items():
        rig.write(f"{unit}/{name}", content)


def delete(rig: Rig, *paths: str) -> None:
    """Delete *paths*; each event is looked at as soon as it comes."""
    for path in paths:
        (rig.source / path).unlink()
        rig.pipeline.note(path)


def tree(rig: Rig, commit: str | None = None) -> set[str]:
    """Return the names of what a snapshot has of the unit."""
    listed = rig.store.git.list_tree(commit or rig.store.head() or "")
    return {path.removeprefix(f"{UNIT}/") for path in listed if path.startswith(f"{UNIT}/")}


# --- saved again


@pytest.mark.parametrize("deletes", ["keep", "propagate"])
def test_a_unit_that_is_saved_again_replaces_the_former_one(server: PlainServer, make_rig: MakeRig, deletes: str) -> None:
    """Other file names: the mirror shows the new version alone, and came to it in one commit."""
    rig = make_rig(server, **SETTINGS, deletes=deletes)
    save(rig, WHOLE)
    rig.update()
    shutil.rmtree(rig.source / UNIT)
    save(rig, SHARDED)

    (commit,) = rig.commit()
    rig.publish()

    assert SHARDED.keys() == tree(rig, commit)
    assert {f"{UNIT}/{name}": content for name, content in SHARDED.items()} == server.read_all(REPO)


def test_its_own_revision_shows_the_new_version_alone(server: PlainServer, make_rig: MakeRig) -> None:
    """As the main branch does."""
    rig = make_rig(server, **SETTINGS, publish="revisions")
    save(rig, WHOLE)
    rig.update()
    shutil.rmtree(rig.source / UNIT)
    save(rig, SHARDED)
    rig.update()

    for branch in (UNIT, "main"):
        listed = server.git(REPO, "ls-tree", "-r", "--name-only", branch).splitlines()
        assert SHARDED.keys() == set(listed) - {".gitattributes"}


def test_what_describes_a_unit_describes_the_new_version(server: PlainServer, make_rig: MakeRig) -> None:
    """Both of its files stay, and name nothing of the former version."""
    rig = make_rig(server, **SETTINGS, provenance=True)
    save(rig, WHOLE)
    rig.update()
    shutil.rmtree(rig.source / UNIT)
    save(rig, SHARDED)
    rig.update()

    assert {*SHARDED, "hubsync.json", "SHA256SUMS"} == tree(rig)
    sums = server.read(REPO, f"{UNIT}/SHA256SUMS").decode()
    assert {*SHARDED, "hubsync.json"} == {line.split("  ")[1] for line in sums.splitlines()}


def test_a_file_may_take_the_place_of_a_directory_and_the_other_way_round(make_rig: MakeRig) -> None:
    """To remove the former one takes nothing of the new one away."""
    rig = make_rig(**SETTINGS)
    save(rig, {"config.json": b"{}", "a": b"file", "b/c": b"below"})
    rig.commit()
    shutil.rmtree(rig.source / UNIT)
    save(rig, {"config.json": b"{}", "a/d": b"below", "b": b"file"})
    rig.commit()

    assert {"config.json", "a/d", "b"} == tree(rig)
    assert rig.store.ledger.tree_below(UNIT) == rig.store.git.list_tree(rig.store.head() or "")


def test_logs_and_what_is_excluded_by_now_stay(make_rig: MakeRig) -> None:
    """A log is no part of a version, and an exclusion is no deletion."""
    rig = make_rig(**SETTINGS)
    save(rig, {**WHOLE, LOG: record(b"one"), "optimizer.pt": b"secret"})
    rig.commit()
    rig.restart_with({}, exclude=("*.pt",))
    shutil.rmtree(rig.source / UNIT)
    save(rig, SHARDED)
    rig.commit()

    assert {*SHARDED, LOG, "optimizer.pt"} == tree(rig)


def test_a_file_that_merely_went_makes_no_commit(make_rig: MakeRig) -> None:
    """It stays until its unit is saved again."""
    rig = make_rig(**SETTINGS)
    save(rig, WHOLE)
    rig.commit()
    delete(rig, f"{UNIT}/old/notes.txt")
    assert [] == rig.commit()

    save(rig, {"config.json": b'{"v": 2}'})
    rig.commit()

    assert {"config.json", "model.safetensors"} == tree(rig)


def test_the_plan_says_what_is_replaced(server: PlainServer, make_rig: MakeRig) -> None:
    """A path that goes with the former version is said to be removed, not to be left."""
    rig = make_rig(server, **SETTINGS)
    save(rig, WHOLE)
    rig.update()
    shutil.rmtree(rig.source / UNIT)
    save(rig, SHARDED)

    planned = make_plan(rig.config, rig.config.targets[0])

    removed = {step.path for step in planned.steps if step.action == "remove"}
    assert {f"{UNIT}/model.safetensors", f"{UNIT}/old/notes.txt"} == removed
    assert not [step for step in planned.steps if step.action == "leave"]


# --- deleted, where deletions are propagated


@pytest.fixture
def propagating(make_rig: MakeRig) -> Rig:
    """Give a target with a unit and loose files that were committed."""
    rig = make_rig(units=UNITS, complete_when=("model.safetensors",), quiet_s=0.5, deletes="propagate")
    save(rig, WHOLE)
    for number in range(6):
        rig.write(f"{number}.txt")
    rig.commit()
    return rig


def test_a_unit_that_is_deleted_slowly_goes_in_one_commit(propagating: Rig) -> None:
    """Until its directory has gone, or all that was in it, the mirrors have it whole."""
    rig = propagating
    for path in (f"{UNIT}/{name}" for name in ("config.json", "model.safetensors")):
        delete(rig, path)
        rig.pipeline.settle()
        assert [] == rig.pipeline.commit()
    rig.settle()
    assert [] == rig.pipeline.commit()  # no event is to come any more, and what is left is no unit
    assert WHOLE.keys() == tree(rig)

    delete(rig, f"{UNIT}/old/notes.txt")
    (commit,) = rig.commit()
    assert set() == tree(rig, commit)
    assert {} == rig.pipeline.held()


def test_it_goes_whole_with_its_directory(propagating: Rig) -> None:
    """Also what no event has told of yet."""
    rig = propagating
    delete(rig, f"{UNIT}/model.safetensors")
    shutil.rmtree(rig.source / UNIT)

    (commit,) = rig.pipeline.commit()

    assert set() == tree(rig, commit)
    assert {f"{number}.txt" for number in range(6)} == rig.store.ledger.tree_paths()


def test_files_deleted_from_a_unit_that_stands_go_once_it_is_quiet(propagating: Rig) -> None:
    """All in one commit, if it is complete without them."""
    rig = propagating
    delete(rig, f"{UNIT}/config.json")
    assert [] == rig.pipeline.commit()
    delete(rig, f"{UNIT}/old/notes.txt")
    assert [] == rig.pipeline.commit()

    (commit,) = rig.commit()
    assert {"model.safetensors"} == tree(rig, commit)


def test_loose_files_wait_for_no_unit(propagating: Rig) -> None:
    """What is in no unit goes with the next commit."""
    rig = propagating
    delete(rig, f"{UNIT}/model.safetensors", "0.txt")
    rig.settle()

    (commit,) = rig.pipeline.commit()

    assert WHOLE.keys() == tree(rig, commit)
    assert "0.txt" not in rig.store.ledger.tree_paths()


def test_a_restart_in_the_midst_of_it_changes_nothing(propagating: Rig) -> None:
    """What was deleted before is found again, and waits as it did."""
    rig = propagating
    delete(rig, f"{UNIT}/model.safetensors")
    rig.restart()
    assert [] == rig.commit()
    shutil.rmtree(rig.source / UNIT)

    (commit,) = rig.commit()

    assert set() == tree(rig, commit)
