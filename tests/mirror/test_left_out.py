"""What waits for a mirror when the target's own rules come to leave it out: it is not sent any more, nor forgotten."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from support.plain_server import PlainServer
from support.rig import REPO, Rig
from support.units import write_unit

from hubsync.config.model import MirrorRetention, RemoteRetention
from hubsync.explain import explain

MakeRig = Callable[..., Rig]

SECRETS = (b"oops", b"\0oops")
EXCLUDE = ("oops.*",)
VIEWS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "tree": ({}, {}),
    "prefix": ({"path_in_repo": "run"}, {}),
    "keep_latest": ({"keep_latest": 2}, {}),
    "revisions": ({}, {"publish": "revisions"}),
}


def write_oops(rig: Rig) -> None:
    rig.write("oops.txt", SECRETS[0])
    os.utime(rig.write("checkpoint-2/oops.bin", SECRETS[1]), (1_600_000_000, 1_600_000_000))  # before the unit's signal


def sent(server: PlainServer) -> set[str]:
    """Return the names of all files that any commit of any branch ever had, and of what the storage holds."""
    names = server.git(REPO, "log", "--all", "--name-only", "--format=").splitlines()
    return {name.rpartition("/")[2] for name in names} | {
        "oops.bin" for content in server.objects.values() if content in SECRETS
    }


@pytest.fixture(params=VIEWS)
def rig(request: pytest.FixtureRequest, make_units: MakeRig) -> Rig:
    """Give a mirror that waits for a file and a unit with another one that nobody should see."""
    mirror, settings = VIEWS[request.param]
    made = make_units(mirror, deletes="propagate", **settings)
    made.mirror = mirror  # type: ignore[attr-defined]
    write_unit(made, 1)
    made.write("a.txt", b"a")
    made.update()
    write_oops(made)
    write_unit(made, 2)
    made.commit()
    assert {"oops.txt", "checkpoint-2/oops.bin"} <= made.store.ledger.tree_paths()
    return made


def restart(rig: Rig, **settings: Any) -> None:
    rig.restart_with(rig.mirror, **settings)  # type: ignore[attr-defined]


def test_what_is_excluded_while_it_waits_is_not_sent(rig: Rig, server: PlainServer) -> None:
    """The rest of its unit is published, and nothing waits any more; once it is wanted again, it goes."""
    restart(rig, exclude=EXCLUDE)
    rig.update()
    assert {"oops.txt", "oops.bin"}.isdisjoint(sent(server))
    assert "optimizer.bin" in sent(server)
    assert ([], 0) == (rig.publisher().backlog(), rig.publisher().measure_backlog().files)
    restart(rig, exclude=EXCLUDE)
    rig.update()
    assert {"oops.txt", "oops.bin"}.isdisjoint(sent(server))

    restart(rig)
    rig.update()

    assert {"oops.txt", "oops.bin"} <= sent(server)
    [loose] = explain(rig.config, "oops.txt", rig.source)
    assert loose.mirrors[0].published


def test_it_is_not_sent_when_others_commit(rig: Rig, server: PlainServer) -> None:
    """Then all is compared with what the mirror shows, which lacks it."""
    restart(rig, exclude=EXCLUDE)
    rig.update()
    server.commit(REPO, {"theirs.txt": b"1"})
    write_unit(rig, 3)
    rig.write("b.txt", b"b")

    rig.update()

    assert "b.txt" in sent(server)
    assert {"oops.txt", "oops.bin"}.isdisjoint(sent(server))


def test_what_is_deleted_while_it_waits_is_in_no_commit(rig: Rig, server: PlainServer) -> None:
    """Neither in those that lead to its deletion, also if others have committed."""
    server.commit(REPO, {"theirs.txt": b"1"})
    (rig.source / "oops.txt").unlink()
    (rig.source / "checkpoint-2/oops.bin").unlink()
    rig.commit()
    restart(rig, exclude=EXCLUDE)

    rig.update()

    assert "optimizer.bin" in sent(server)
    assert {"oops.txt", "oops.bin"}.isdisjoint(sent(server))


@pytest.mark.parametrize("view", VIEWS)
def test_what_was_published_stays_until_it_is_deleted(make_units: MakeRig, server: PlainServer, view: str) -> None:
    """An exclusion removes nothing, whoever commits; the deletion here does, as of any other file."""
    mirror, settings = VIEWS[view]
    rig = make_units(mirror, deletes="propagate", **settings)
    rig.write("oops.txt", SECRETS[0])
    rig.write("a.txt", b"a")
    rig.write("b.txt", b"b")
    rig.update()
    path = f"{mirror.get('path_in_repo', '')}/oops.txt".lstrip("/")
    rig.restart_with(mirror, exclude=EXCLUDE)
    rig.write("a.txt", b"2")
    server.commit(REPO, {"theirs.txt": b"1"})
    rig.update()
    assert SECRETS[0] == server.read(REPO, path)

    (rig.source / "oops.txt").unlink()
    rig.update()

    assert path not in server.read_all(REPO)


def test_a_file_that_was_taken_away_there_does_not_come_back(make_units: MakeRig, server: PlainServer) -> None:
    """Who finds a secret on a mirror deletes it there, and excludes it here."""
    rig = make_units()
    rig.write("oops.txt", SECRETS[0])
    rig.write("a.txt", b"a")
    rig.update()
    server.commit(REPO, {"oops.txt": None})
    rig.restart_with({}, exclude=EXCLUDE)
    rig.write("a.txt", b"2")

    rig.update()

    assert b"2" == server.read(REPO, "a.txt")
    assert "oops.txt" not in server.read_all(REPO)


def test_no_object_is_sent_early(make_units: MakeRig, server: PlainServer) -> None:
    """What was captured before its commit is not uploaded once the rules leave it out."""
    rig = make_units()
    write_oops(rig)
    rig.settle()
    rig.restart_with({}, exclude=EXCLUDE)

    rig.publisher().upload_early()

    assert {} == server.objects


def test_a_unit_goes_with_what_is_excluded_by_now(make_units: MakeRig, server: PlainServer) -> None:
    """What the mirror shows of it goes with its unit, also if others have committed; and nothing comes in its place."""
    keep = {"retention": MirrorRetention(remote=RemoteRetention(keep_last=1))}
    rig = make_units(keep)
    rig.write("oops.txt", SECRETS[0])
    os.utime(rig.write("checkpoint-1/oops.bin", SECRETS[1]), (1_600_000_000, 1_600_000_000))
    write_unit(rig, 1)
    rig.update()
    assert "checkpoint-1/oops.bin" in server.read_all(REPO)
    server.commit(REPO, {"oops.txt": None, "theirs.txt": b"1"})
    rig.restart_with(keep, exclude=EXCLUDE)
    write_unit(rig, 2)

    rig.update()

    assert {"checkpoint-2", "theirs.txt", ".gitattributes"} == {p.partition("/")[0] for p in server.read_all(REPO)} | {
        ".gitattributes"
    }
