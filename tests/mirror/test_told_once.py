"""A unit is told as published once, however often all is compared anew."""

import shutil
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs
from support.plain_server import PlainServer
from support.rig import REPO, Rig
from support.units import write_unit

MakeRig = Callable[..., Rig]


def publish(rig: Rig) -> list[str]:
    """Publish what is there; return the units that were told."""
    rig.commit()
    with capture_logs() as said:
        rig.work.workers[0].run(now=True)
    return [entry["unit"] for entry in said if entry["event"] == "unit.published"]


@pytest.mark.parametrize("way", ["tree", "revisions"])
def test_what_is_lost_of_a_mirror_here_makes_nothing_news(make_units: MakeRig, way: str) -> None:
    """Its own repository is made again, and only what came since is told and remembered; saved again, a unit is news."""
    rig = make_units(publish=way)
    for step in (1, 2):
        write_unit(rig, step)
        assert [f"checkpoint-{step}"] == publish(rig)
    known = rig.store.ledger.publications()
    shutil.rmtree(rig.store.mirror_directory("m0"))
    rig.restart()

    assert [] == publish(rig)
    assert known == rig.store.ledger.publications()[: len(known)]
    shutil.rmtree(rig.store.mirror_directory("m0"))
    rig.restart()
    write_unit(rig, 3)
    write_unit(rig, 1, weights=3000)
    assert {"checkpoint-1", "checkpoint-3"} == {*publish(rig)}


def test_what_was_pushed_before_a_kill_is_not_news_when_all_is_compared(make_units: MakeRig) -> None:
    """It holds files that the next unit has, too, and nobody noted that it was pushed; one that was deleted never was."""
    rig = make_units(deletes="propagate")
    write_unit(rig, 1)
    assert ["checkpoint-1"] == publish(rig)
    directory = rig.store.mirror_directory("m0")
    shutil.copytree(directory, before := directory.with_name("before"))
    write_unit(rig, 2)
    assert ["checkpoint-2"] == publish(rig)
    shutil.rmtree(directory)
    before.rename(directory)
    write_unit(rig, 3)
    rig.commit()
    shutil.rmtree(rig.source / "checkpoint-3")
    write_unit(rig, 4)
    rig.restart_with({"exclude": ["*.dat"]})

    assert ["checkpoint-4"] == publish(rig)


def test_a_unit_that_was_saved_twice_before_a_push_is_told_once(make_units: MakeRig) -> None:
    """As it was saved last."""
    rig = make_units()
    for weights in (2000, 3000, 4000):
        write_unit(rig, 1, weights=weights)
        rig.commit()

    assert ["checkpoint-1"] == publish(rig)


@pytest.mark.parametrize("gone", [1, 2])
def test_what_is_told_is_in_the_commit_that_is_named(make_units: MakeRig, server: PlainServer, gone: int) -> None:
    """A unit that was removed before it was pushed is told if a push had it still, and else not; nor is it noted."""
    rig = make_units(deletes="propagate")
    for step in (1, 2, 3):
        write_unit(rig, step)
        rig.commit()
    shutil.rmtree(rig.source / f"checkpoint-{gone}")
    rig.commit()

    with capture_logs() as said:
        rig.work.workers[0].run(now=True)

    told = [(entry["unit"], entry["commit"]) for entry in said if entry["event"] == "unit.published"]
    assert "checkpoint-3" in {unit for unit, _ in told}
    assert all(server.git(REPO, "ls-tree", "-r", commit, unit) for unit, commit in told)
    assert rig.store.ledger.units_published("m0").keys() == {unit for unit, _ in told}
