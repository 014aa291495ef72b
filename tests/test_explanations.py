"""What is explained of a path is what happens to it: each state of a file, in this process and against real servers."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.plain_server import PlainServer
from support.rig import NO_LOGIN, Rig, safetensors

from hubsync.errors import UsageError
from hubsync.explain import Explanation, describe, explain
from hubsync.mirror.token import Tokens
from hubsync.once import run_once

MakeRig = Callable[..., Rig]
TOKEN = b"hf_" + b"aBcDeFgHiJ" * 4
UNITS = {"units": ("checkpoint-*",)}


@pytest.fixture
def make(make_rig: Callable[..., Rig]) -> MakeRig:
    """Give what makes a target whose files are quiet at once."""
    return lambda *servers, **settings: make_rig(*servers, **{"quiet_s": 0.0, **settings})


@pytest.fixture
def rig(make: MakeRig, server: PlainServer) -> Rig:
    return make(server)


def one(rig: Rig, path: str) -> Explanation:
    (found,) = explain(rig.config, str(rig.source / path), Path("/"))
    return found


def once(rig: Rig) -> None:
    rig.work.close()
    run_once(rig.config, rig.config.targets, Tokens(NO_LOGIN), threading.Event(), timeout_s=20)
    rig.restart()


def write_unit(rig: Rig, name: str) -> None:
    rig.write(f"{name}/config.json", b"{}")
    rig.write(f"{name}/model.safetensors", safetensors(3000))
    rig.write(f"{name}/trainer_state.json", b"{}")


@pytest.mark.parametrize(
    ("path", "content", "state"),
    [
        ("broken.json", b"{", "held back: "),
        ("secret.txt", TOKEN, "held back: a Hugging Face token (line 1)"),
        (".env", b"A=1", "held back: a dotenv file"),
        ("m.safetensors.index.json", b'{"weight_map": {"w": "gone.safetensors"}}', "shard gone.safetensors is missing"),
        ("a:b", b"x", "not taken: the name begins as a Windows drive"),
    ],
)
def test_what_is_held_says_why_and_what_to_do(rig: Rig, path: str, content: bytes, state: str) -> None:
    """Before the first run and after it: the reason of the event, and its hint."""
    rig.write(path, content)

    first = one(rig, path)
    once(rig)
    second = one(rig, path)

    assert state in first.state
    assert (first.state, first.hint, first.is_published) == (second.state, second.hint, False)
    assert first.hint
    assert TOKEN[5:15].decode() not in repr(first)


def test_what_is_not_held_goes(rig: Rig) -> None:
    """An index with its shards, and a text: they are settled and whole, with a route, and then captured as they are."""
    rig.write("m.safetensors.index.json", b'{"weight_map": {"w": "m.safetensors"}}')
    rig.write("m.safetensors", safetensors(10))
    rig.write("notes.txt", b"notes")
    paths = ("m.safetensors.index.json", "m.safetensors", "notes.txt")

    before = [one(rig, path) for path in paths]
    once(rig)
    after = [one(rig, path) for path in paths]

    assert {"settled and whole, not captured in this version yet"} == {each.state for each in before}
    assert ["git (small text)", "lfs (lfs pattern '*.safetensors')", "git (small text)"] == [each.route for each in before]
    assert all(each.is_published and each.state.startswith("captured as it is") for each in after)
    assert [None, "oid", None] == [each.oid and "oid" for each in after]


@pytest.mark.parametrize("change", ["touched", "rewritten", "gone"])
def test_a_published_file_that_changed(make: MakeRig, server: PlainServer, change: str) -> None:
    """A touched one is what is published; of a rewritten one only the earlier version is; one that is gone stays there."""
    rig = make(server)
    rig.write("w.bin", b"\0" * 100)
    once(rig)
    if change == "touched":
        os.utime(rig.source / "w.bin")
    elif change == "rewritten":
        rig.write("w.bin", b"\1" * 100)
    else:
        rig.write("other.txt")
        (rig.source / "w.bin").unlink()

    found = one(rig, "w.bin")

    assert (change != "rewritten") == found.is_published
    assert ("earlier version" in found.mirrors[0].reason) == (change == "rewritten")
    assert found.mirrors[0].commit


def test_a_file_that_is_not_quiet_says_for_how_long(make: MakeRig, server: PlainServer) -> None:
    """The seconds that are left are a number, too."""
    rig = make(server, quiet_s=60.0)
    rig.write("a.txt")

    found = one(rig, "a.txt")

    assert not found.settled
    assert 50 < (found.settled_in_s or 0) <= 60
    assert "changed lately" in found.state


def test_a_unit_waits_for_what_is_missing_or_refused(make: MakeRig, server: PlainServer) -> None:
    """A good file of a unit waits with it; its object may be there already."""
    rig = make(server, **UNITS)
    write_unit(rig, "checkpoint-1")
    write_unit(rig, "checkpoint-2")
    (rig.source / "checkpoint-1/trainer_state.json").unlink()
    rig.write("checkpoint-2/args.json", b'"%s"' % TOKEN)
    once(rig)

    missing, refused = one(rig, "checkpoint-1/model.safetensors"), one(rig, "checkpoint-2/model.safetensors")

    assert ("trainer_state.json",) == missing.missing
    assert "args.json" in (refused.unit_state or "")
    for found in (missing, refused):
        assert f"waits for {found.unit}" in found.state
        assert (False, True) == (found.is_published, found.mirrors[0].object_uploaded)
        assert "its object is there" in found.mirrors[0].reason


def test_a_directory_explains_each_file(make: MakeRig, server: PlainServer) -> None:
    """With the commits of each, also from before others committed on the mirror; an excluded one is one line."""
    rig = make(server, exclude=("logs/",), **UNITS)
    write_unit(rig, "checkpoint-1")
    rig.write("logs/a.txt")
    once(rig)
    rig.write("late.txt")
    once(rig)

    found = {each.path: each for each in explain(rig.config, str(rig.source), Path("/"))}
    (excluded,) = explain(rig.config, str(rig.source / "logs"), Path("/"))

    names = ("config.json", "model.safetensors", "trainer_state.json")
    unit = [found.pop(f"checkpoint-1/{name}") for name in names]
    assert ["late.txt"] == list(found)
    assert all(each.is_published for each in (*unit, found["late.txt"]))
    assert 1 == len({(each.snapshot, each.mirrors[0].commit) for each in unit})
    assert unit[0].snapshot != found["late.txt"].snapshot
    assert unit[0].mirrors[0].commit != found["late.txt"].mirrors[0].commit
    assert unit[0] == one(rig, "checkpoint-1/config.json")
    assert ("not taken: exclude pattern 'logs/'", "exclude of target run") == (excluded.rule, excluded.rule_from)


def test_a_mirror_that_is_behind(tmp_path: Path, server: PlainServer, make: MakeRig) -> None:
    """One mirror has it, the other one not yet: not published, with what is behind."""
    with PlainServer(tmp_path / "other") as other:
        other.create("acme/x")
        rig = make(server, other)
        rig.write("a.txt")
        rig.commit()
        rig.publish(0)

        found = one(rig, "a.txt")

    assert [True, False] == [fact.published for fact in found.mirrors]
    assert "1 snapshot behind" in found.mirrors[1].reason
    assert "hubsync run" in found.mirrors[1].hint
    assert not found.is_published


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_halted_target(make: MakeRig, server: PlainServer, how: str) -> None:
    """The disk is not mounted: the halt is the reason, and what was published stays so."""
    rig = make(server)
    rig.write("a.txt")
    once(rig)
    shutil.rmtree(rig.source)
    if how == "empty":
        rig.source.mkdir()

    known, unknown = one(rig, "a.txt"), one(rig, "b.txt")

    assert known.state.startswith("the target is halted: ")
    assert known.hint
    assert [True, False] == [known.is_published, unknown.is_published]


def test_paths_are_found_from_anywhere(make: MakeRig, server: PlainServer, tmp_path: Path) -> None:
    """Absolute, relative to where one is, inside the source, through a link to it; elsewhere it is a wrong command line."""
    rig = make(server)
    rig.write("d/a.txt")
    (tmp_path / "link").symlink_to(rig.source)

    source = rig.source
    ways = [
        (str(source / "d/a.txt"), "/"),
        ("a.txt", str(source / "d")),
        ("d/a.txt", str(tmp_path / "link")),
        ("d/a.txt", "/"),
        (str(tmp_path / "link/d/a.txt"), "/"),
    ]

    assert {("run", "d/a.txt")} == {
        (each.target, each.path) for way, cwd in ways for each in explain(rig.config, way, Path(cwd))
    }
    with pytest.raises(UsageError):
        explain(rig.config, "/etc/passwd", Path("/"))


def test_what_is_read_tells_all(make: MakeRig, server: PlainServer) -> None:
    """The lines for a person have target, rule and its place, state with its cure, unit, route, snapshot and mirrors."""
    rig = make(server, **UNITS)
    write_unit(rig, "checkpoint-1")
    rig.write("checkpoint-1/args.json", b'"%s"' % TOKEN)

    lines = dict(describe(one(rig, "checkpoint-1/args.json")))

    assert (
        {"target", "rule", "state", "", "unit", "route", "snapshot", "m0"}
        >= lines.keys()
        >= {"target", "rule", "state", "unit"}
    )
    assert "the default" in lines["rule"]
    assert "→ take it out" in lines[""]


def test_an_index_waits_for_a_shard_that_is_torn(rig: Rig) -> None:
    """What lies beside an index decides about it."""
    rig.write("m.safetensors.index.json", b'{"weight_map": {"w": "m.safetensors"}}')
    rig.write("m.safetensors", safetensors(10)[:-1])

    assert "held back: shard m.safetensors is missing" in one(rig, "m.safetensors.index.json").state
