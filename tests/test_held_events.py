"""What is said of a file that is not published: its path once, why, and what to do, whatever its name is."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.rig import Rig

from hubsync.monitor.events import CATALOGUE, describe_event
from hubsync.monitor.lines import format_console

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 5\n"
ODD = "odd \x1b[31m\n'\"name"
LATIN = os.fsdecode(b"latin-\xe9")
EVENTS = {"file.held", "file.rejected", "file.unreadable"}


@pytest.fixture
def said(make_rig: Callable[..., Rig]) -> dict[str, dict[str, Any]]:
    """Return the events of a source with all that can be wrong, by path."""
    rig = make_rig(units=("checkpoint-*",))
    for directory in ("", f"{ODD}/", "checkpoint-1/"):
        rig.write(f"{directory}broken.json", b"{")
        rig.write(f"{directory}pointer.txt", POINTER)
        rig.write(f"{directory}secret.txt", b"hf_" + b"aBcDeFgHiJ" * 4)
        rig.write(f"{directory}m.safetensors.index.json", b'{"weight_map": {"w": "gone.safetensors"}}')
        rig.write(f"{directory}short.safetensors", b"\x09")
        rig.write(f"{directory}a:b")
        rig.write(f"{directory}back\\slash")
        rig.write(directory + LATIN)
        (rig.source / directory / "fifo").unlink(missing_ok=True)
        os.mkfifo(rig.source / directory / "fifo")
        for name, goal in {"out": "/etc/passwd", "dangling": "gone", "to-dir": "."}.items():
            (rig.source / directory / name).symlink_to(goal)
    with capture_logs() as log:
        rig.commit()
        rig.commit()
    events = [entry for entry in log if entry["event"] in EVENTS]
    found = {entry["path"]: entry for entry in events}
    assert len(events) == len(found)  # each once

    return found


def test_every_event_has_a_cure(said: dict[str, dict[str, Any]]) -> None:
    """No hint is empty, and the catalogue lists the field."""
    assert 32 <= len(said)
    assert [] == [path for path, entry in said.items() if not entry["hint"] or not entry["reason"]]
    assert all("hint" in CATALOGUE[entry["event"]].fields for entry in said.values())


def test_a_path_is_said_once(said: dict[str, dict[str, Any]]) -> None:
    """The reason does not repeat the path, so that the sentence has it once."""
    assert [] == [path for path, entry in said.items() if path in entry["reason"]]
    assert all(1 == describe_event(entry["event"], entry).count(path) for path, entry in said.items())


def test_an_odd_name_looks_the_same_everywhere(said: dict[str, dict[str, Any]]) -> None:
    """A reason that names another file has the name itself; escaping is done once, where it is printed."""
    for entry in said.values():
        shown = format_console(
            {
                "timestamp": "2026-01-01T00:00:00Z",
                "level": "info",
                "message": describe_event(entry["event"], entry),
                **entry,
            },
            colour=False,
        )
        assert "\\\\x1b" not in shown
        assert "\x1b" not in shown
        assert "\n" not in shown
        assert "None" not in shown


def test_a_unit_names_its_held_file_as_it_is(make_rig: Callable[..., Rig]) -> None:
    """An odd name stands in the reason unescaped, as in every other field."""
    rig = make_rig(units=("checkpoint-*",), complete_when=("DONE",))
    rig.write(f"checkpoint-1/{ODD}.json", b"{")
    rig.write("checkpoint-1/DONE")

    rig.commit()

    assert f"first {ODD}.json: " in rig.pipeline.held()["checkpoint-1/"]


def test_many_held_files_are_told_by_few_lines(make_rig: Callable[..., Rig]) -> None:
    """The first ones are told one by one, the rest by one line at the next inventory; later ones are told again."""
    rig = make_rig()
    for number in range(80):
        rig.write(f"a:{number}")
    with capture_logs() as log:
        rig.settle()
        rig.settle()
        rig.write("b:1")
        rig.settle()

    assert [50, 1] == [sum(e["path"].startswith(name) for e in log if e["event"] in EVENTS) for name in "ab"]
    assert [30] == [entry["files"] for entry in log if entry["event"] == "log.abridged"]


def test_a_large_tree_is_told_by_a_handful_of_lines(make_rig: Callable[..., Rig]) -> None:
    """However many snapshots it takes, what was committed is one line at info."""
    rig = make_rig(batch={"max_files": 100})
    for number in range(1200):
        rig.write(f"{number % 7}/{number}.txt", b"%d" % number)
    with capture_logs() as log:
        assert 12 == len(rig.commit())

    assert [("snapshot.committed", 1200, 12)] == [
        (entry["event"], entry["files"], entry["snapshots"]) for entry in log if entry["log_level"] != "debug"
    ]


def test_a_refused_name_is_held_as_long_as_it_is_there(rig: Rig) -> None:
    """An event tells of it at once; the listing of another directory does not make it forgotten, its end does."""
    rig.write("sub/a.txt")
    rig.write("back\\slash")
    rig.write(LATIN)
    with capture_logs() as log:
        for path in ("back\\slash", LATIN, f"{LATIN}-gone", f"{LATIN}/below"):
            rig.pipeline.note(path)
        rig.pipeline.take_inventory("sub")

    assert ["back\\slash", LATIN] == [entry["path"] for entry in log if entry["event"] == "file.rejected"]
    assert {"back\\slash", LATIN} == rig.pipeline.held().keys()
    for path in ("back\\slash", LATIN):
        (rig.source / path).unlink()
        rig.pipeline.note(path)
    assert {} == rig.pipeline.held()
