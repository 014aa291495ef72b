"""A snapshot of very many files is gone through a little at a time."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from support.rig import Rig

from hubsync.proof.keeper import ReceiptKeeper
from hubsync.store.git import REGULAR, TreeEntry, blob_id
from hubsync.store.proof_rows import Receipt

FEW, MANY = 10_000, 20_000  # both are more than a part
CONTENT = b"the same in all\n"


def add_files(rig: Rig, first: int, after: int) -> str:
    """Commit a snapshot that adds files with these numbers."""
    entry = TreeEntry(REGULAR, blob_id(CONTENT))
    with rig.store.write() as writer:
        writer.add_blob(CONTENT)
        changes = {f"folder-{number // 200:04}/a-rather-long-name-{number:06}.txt": entry for number in range(first, after)}
        return writer.commit(changes, "many", units=(), written_at=1, now=1)


def peak_bytes(act: Callable[[], object]) -> int:
    """Return the most that was held at once while *act* was done."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def measure_growth(rig: Rig, act: Callable[[], object]) -> float:
    """Return how many more bytes *act* holds for each file more."""
    add_files(rig, 0, 10)
    act()  # what it imports, and keeps for good
    add_files(rig, 10, FEW)
    few = peak_bytes(act)
    add_files(rig, FEW, MANY)

    return (peak_bytes(act) - few) / (MANY - FEW)


def test_a_snapshot_is_gone_through_without_being_held(rig: Rig) -> None:
    """Of the newest one, whose files the ledger has."""

    def go_through() -> None:
        assert sum(1 for _ in rig.store.each_file(rig.store.head() or "")) > 0

    assert measure_growth(rig, go_through) < 50  # 250 when all is held


def test_what_a_mirror_should_hold_is_gone_through_without_being_held(rig: Rig) -> None:
    """So that receipts of many files are asked for a part at a time."""
    [keeper] = rig.work.keepers

    def go_through() -> None:
        assert sum(1 for _ in keeper._claims(rig.store.head() or "")) > 0

    assert measure_growth(rig, go_through) < 100  # 430 when all is held


def test_a_backlog_is_measured_without_being_held(rig: Rig) -> None:
    """What git lists of it is one text."""

    def measure() -> None:
        assert rig.publisher().measure_backlog().files > 0

    assert measure_growth(rig, measure) < 250  # 390 when all is held


@pytest.mark.parametrize("commits", [0, 1, 2])
def test_a_snapshot_is_gone_through_to_its_end_while_newer_ones_come(rig: Rig, commits: int) -> None:
    """In the order of the paths, what it has and nothing else."""
    snapshot = add_files(rig, 0, FEW)
    files = rig.store.each_file(snapshot)
    seen = [next(files)]
    for number in range(commits):
        add_files(rig, FEW + 7 * number, FEW + 7 * number + 7)
    seen += files

    assert sorted(rig.store.git.list_tree(snapshot).items()) == seen


def test_receipts_of_files_that_a_snapshot_lacks_are_gone_through_too(rig: Rig) -> None:
    """Before, between and after those that it has."""
    [keeper] = rig.work.keepers
    snapshot = add_files(rig, 0, FEW)
    make_receipts(keeper, "a", "folder-0001/b", "folder-0024/z", "zz")

    lacked = [claim.path for claim, receipt in keeper._claims(snapshot) if receipt is not None]

    assert ["a", "folder-0001/b", "folder-0024/z", "zz"] == sorted(lacked)


def make_receipts(keeper: ReceiptKeeper, *paths: str) -> None:
    """Note that the mirror held *paths*."""
    fields: dict[str, Any] = {"branch": "main", "size": 0, "oid": None, "blob": "0" * 40, "commit": "", "proven_at": 1.0}
    receipts = [Receipt(path=path, place=path, **fields) for path in paths]
    keeper.store.ledger.record_receipts(keeper.mirror.name, receipts)
