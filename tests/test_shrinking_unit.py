"""A unit that is being deleted, file by file as ``rmtree`` does, is published whole as it was, or not at all."""

from collections.abc import Callable

import pytest
from support.rig import Rig, safetensors

MakeRig = Callable[..., Rig]
UNIT = "checkpoint-1"
FILES = ("config.json", "optimizer.safetensors", "model.safetensors")  # complete without any one of the first two


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """Give a target without a mirror, with a unit that is complete and not committed."""
    rig = make_rig(units=("checkpoint-*",), complete_when=("model.safetensors",), quiet_s=2.0)
    for name in FILES:
        rig.write(f"{UNIT}/{name}", safetensors(3000, b"\1") if name.endswith("s") else b"{}")
    rig.settle()
    assert "it is complete, and is committed next" == rig.pipeline.held()[f"{UNIT}/"]
    return rig


def test_a_file_that_no_event_told_of_yet_holds_its_unit(rig: Rig) -> None:
    """Between the judgment and the commit a file goes: the rest is not committed, then or when the event comes."""
    (rig.source / UNIT / "config.json").unlink()

    assert [] == rig.pipeline.commit()
    assert [] == rig.pipeline.commit()
    rig.pipeline.note(f"{UNIT}/config.json")
    rig.pipeline.settle()
    assert [] == rig.pipeline.commit()
    assert {f"{UNIT}/": "a file of it was just deleted"} == rig.pipeline.held()


def test_a_unit_that_goes_file_by_file_is_never_committed(rig: Rig) -> None:
    """Each event is looked at as soon as it comes, and the unit is forgotten with its directory."""
    for name in FILES:
        (rig.source / UNIT / name).unlink()
        rig.pipeline.note(f"{UNIT}/{name}")
        rig.pipeline.settle()
        assert [] == rig.pipeline.commit()
    (rig.source / UNIT).rmdir()
    assert rig.pipeline.take_inventory(UNIT)

    assert {} == rig.pipeline.held()
    assert rig.pipeline.next_due() is None


def test_a_unit_that_lost_a_file_for_good_is_committed_when_it_is_quiet(rig: Rig) -> None:
    """To delete an optimizer is a change as any other."""
    (rig.source / UNIT / "optimizer.safetensors").unlink()
    rig.pipeline.note(f"{UNIT}/optimizer.safetensors")
    assert [] == rig.pipeline.commit()

    rig.settle()
    (commit,) = rig.pipeline.commit()
    assert {f"{UNIT}/config.json", f"{UNIT}/model.safetensors"} == set(rig.store.git.list_tree(commit))
