"""Every writer, seen after every one of its operations: what is not done is not taken for complete."""

import subprocess
import sys
from pathlib import Path

import pytest
import replay as replaying
from disk import Disk, Done, Early, Step
from facts import read_facts
from replay import WRITERS, Writer, replay

from hubsync.watch.layouts import LAYOUTS, judge

START_S = 1_700_000_000.0
LATER_S = 3600.0
EVERY_WRITER = pytest.mark.parametrize("writer", WRITERS.values(), ids=lambda writer: writer.name)
EVERY_SECOND_SAVE = pytest.mark.parametrize(
    "writer", [writer for writer in WRITERS.values() if writer.again], ids=lambda writer: writer.name
)


def seen(writer: Writer, root: Path) -> str:
    """Return the reasons if any unit of *writer* is complete, else nothing."""
    completions = [judge(read_facts(root, unit, writer.complete_when)) for unit in writer.units]
    return "; ".join(completion.reason for completion in completions if completion.complete)


@EVERY_WRITER
def test_a_unit_is_complete_when_its_writer_is_done_and_not_before(tmp_path: Path, writer: Writer) -> None:
    """After every operation, with all files quiet. A step that is Early is a known exception, and is no other one."""
    wrong = [f"before it began: {seen(writer, tmp_path)}"] if seen(writer, tmp_path) else []
    steps = []
    for step in replay(writer, Disk(tmp_path, START_S)):
        steps.append(step)
        if bool(seen(writer, tmp_path)) != isinstance(step, Early | Done):
            wrong.append(f"{len(steps)}, {step}: {seen(writer, tmp_path) or 'not complete'}")

    assert [] == wrong
    assert isinstance(steps[-1], Done)


@EVERY_SECOND_SAVE
def test_a_unit_that_is_saved_again_in_place_is_not_complete_meanwhile(tmp_path: Path, writer: Writer) -> None:
    """Once weights are written again, the marks of the first save prove nothing, until the second is done."""
    disk = Disk(tmp_path, START_S)
    list(replay(writer, disk))
    disk.clock_s = START_S + LATER_S
    disk.wrote_weights = False
    wrong = []
    for step in replay(writer, disk):
        complete = bool(seen(writer, tmp_path))
        if complete and disk.wrote_weights and not isinstance(step, Early | Done):
            wrong.append(f"{step}: {seen(writer, tmp_path)}")

    assert [] == wrong
    assert complete


@EVERY_WRITER
def test_a_writer_that_dies_leaves_nothing_to_publish(tmp_path: Path, writer: Writer) -> None:
    """A process of its own that ends in the middle of its work, with real times."""
    operations = list(replay(writer, Disk(tmp_path / "all")))
    last = max(number for number, step in enumerate(operations) if type(step) is Step)
    said = run(writer, tmp_path / "dead", last + 1)

    assert [f"step: {operations[last]}"] == said[-1:]
    assert "" == seen(writer, tmp_path / "dead")
    assert seen(writer, tmp_path / "all")


def run(writer: Writer, directory: Path, stop_after: int) -> list[str]:
    """Run *writer* as a process; return what it said."""
    script = replaying.__file__
    command = [sys.executable, "-S", script, writer.name, str(directory), "--stop-after", str(stop_after)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_every_layout_has_a_writer(tmp_path: Path) -> None:
    """A row of the table is held against the operations of the program it speaks of."""
    judged = set()
    for writer in WRITERS.values():
        list(replay(writer, Disk(tmp_path / writer.name)))
        for unit in (unit for unit in writer.units if (tmp_path / writer.name / unit).is_dir()):
            judged.add(judge(read_facts(tmp_path / writer.name, unit, writer.complete_when)).layout)

    # What a unit without a signal falls back on: its name, what it holds so far, nothing at all.
    fallbacks = {"named as a checkpoint", "beginning of a model", "unknown layout"}

    assert fallbacks == {row.name for row in LAYOUTS} - judged
