"""What is there is compared with what was captured as both come, in the order of their paths."""

import tracemalloc
from collections.abc import Callable

from support.rig import Rig

from hubsync.pipeline.comparison import Comparison
from hubsync.watch.entry import Identity

FILES = 2000
MOST_BYTES_PER_FILE = 200  # of 2,000, 100 are needed, and 600 were when the listing was held


def identity(number: int) -> Identity:
    return Identity(1, number, 10, 1000 + number, 2000 + number)


def compare(there: list[str], rows: list[str], **what: set[str]) -> tuple[Comparison, list[str]]:
    """Compare *there* with *rows* of the same identities; return the paths that are known, too."""
    numbers = {path: number for number, path in enumerate(sorted({*there, *rows}))}
    asked = {"uncommitted": set(), "pruned": set(), "missed": set(), **what}
    comparison = Comparison(((path, *identity(numbers[path])) for path in rows), **asked)
    known = [path for path in there if comparison.is_known(path, identity(numbers[path]))]
    comparison.finish()

    return comparison, known


def test_what_is_as_it_was_captured_is_known() -> None:
    """New files, and rows of files that are gone, before, between and after it do not matter."""
    comparison, known = compare(["a", "c", "d", "f"], ["0", "b", "c", "d", "e", "g", "h"])

    assert ["c", "d"] == known
    assert {"0", "b", "e", "g", "h"} == comparison.gone
    assert (4, set()) == (comparison.files, comparison.differing)


def test_another_identity_is_not_known_and_not_gone() -> None:
    """It was captured, as something else."""
    comparison = Comparison(iter([("a", *identity(1))]), set(), set(), set())

    assert not comparison.is_known("a", identity(2))
    comparison.finish()
    assert ({"a"}, set()) == (comparison.differing, comparison.gone)
    assert (2002, 1002) == (comparison.first_ns, comparison.last_ns)


def test_what_was_captured_and_not_committed_is_not_known() -> None:
    """It waits for its commit."""
    comparison, known = compare(["a", "b"], ["a", "b"], uncommitted={"b"})

    assert (["a"], {"b"}) == (known, comparison.differing)


def test_what_waits_and_is_there_is_not_gone() -> None:
    """Of paths without a row, those are gone that nothing is at."""
    comparison, _ = compare(["a", "n.log"], ["a"], missed={"a", "n.log", "x"}, pruned={"n.log", "x"})

    assert ({"x"}, ["n.log"], ["n.log"]) == (comparison.gone, comparison.back, comparison.logs)


def test_an_inventory_of_what_is_unchanged_holds_little(make_rig: Callable[..., Rig]) -> None:
    """Its memory does not grow with the files that nothing happened to."""
    local = make_rig()
    for number in range(FILES):
        local.write(f"d{number // 50}/f{number}.txt")
    local.commit()
    tracemalloc.start()
    try:
        local.pipeline.take_inventory()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        assert local.pipeline.take_inventory()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (peak - before) / FILES < MOST_BYTES_PER_FILE
