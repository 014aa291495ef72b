"""A Hub that shows an older state of a repository, as after a restore of its disk or a push by a person."""

import hashlib
import shutil
from collections.abc import Callable

import pytest
from support.plain_server import PlainServer
from support.rig import REPO, Rig, safetensors

MakeRig = Callable[..., Rig]
WHOLE = {"model.safetensors": safetensors(3000), "old.txt": b"old", "trainer_state.json": b"{}", "DONE": b""}
SHARDS = {f"model-0000{n}-of-00002.safetensors": safetensors(2000 + n) for n in (1, 2)}
SHARDED = {**SHARDS, "trainer_state.json": b"{}", "DONE": b""}


class Copy:
    """The repository and its objects as they were."""

    def __init__(self, server: PlainServer, objects: bool) -> None:  # noqa: FBT001
        self._server, self._with_objects = server, objects
        self._repo = server.root / f"{REPO}.git"
        self._kept = server.root / "kept.git"
        shutil.copytree(self._repo, self._kept)
        self._objects = dict(server.objects)

    def restore(self) -> None:
        """Put them back."""
        shutil.rmtree(self._repo)
        self._kept.rename(self._repo)
        if self._with_objects:
            self._server.objects.clear()
            self._server.objects.update(self._objects)


def save(rig: Rig, step: int, files: dict[str, bytes]) -> None:
    """Save a unit in place of the former one of that name, and commit it."""
    shutil.rmtree(rig.source / f"checkpoint-{step}", ignore_errors=True)
    for name, content in files.items():
        rig.write(f"checkpoint-{step}/{name}", content)
    rig.commit()


def names(server: PlainServer, unit: str, branch: str = "main") -> set[str]:
    listed = server.git(REPO, "ls-tree", "-r", "--name-only", branch).splitlines()
    return {path.removeprefix(unit) for path in listed if path.startswith(unit) and path != ".gitattributes"}


@pytest.mark.parametrize("publish", ["tree", "revisions"])
def test_what_the_storage_forgot_is_sent_again(make_units: MakeRig, server: PlainServer, publish: str) -> None:
    """Of what was published after the copy was made, too; there is no other mirror to have it from."""
    rig = make_units(publish=publish)
    save(rig, 1, WHOLE)
    rig.publish()
    before = Copy(server, objects=True)
    save(rig, 2, {**WHOLE, "model.safetensors": safetensors(4000)})
    rig.publish()
    before.restore()

    save(rig, 3, {**WHOLE, "model.safetensors": safetensors(5000)})
    rig.publish()

    sizes = (3000, 4000, 5000) if publish == "tree" else (3000, 5000)  # of its own revision only what is shown is put back
    assert {hashlib.sha256(safetensors(size)).hexdigest() for size in sizes} <= server.objects.keys()
    if publish == "tree":
        assert all(
            safetensors(1000 * (2 + step)) == server.read(REPO, f"checkpoint-{step}/model.safetensors")
            for step in (1, 2, 3)
        )


@pytest.mark.parametrize("objects", [True, False])
def test_a_unit_is_one_version_there_too(make_units: MakeRig, server: PlainServer, objects: bool) -> None:  # noqa: FBT001
    """What its former version had and we removed does not come back to stay with the old state of the branch."""
    rig = make_units()
    save(rig, 1, WHOLE)
    rig.publish()
    server.commit(REPO, {"checkpoint-1/theirs.txt": b"a person's", "notes.txt": b"a person's"})
    save(rig, 5, WHOLE)
    rig.publish()
    before = Copy(server, objects)
    save(rig, 1, SHARDED)
    rig.publish()
    assert {*SHARDED, "theirs.txt"} == names(server, "checkpoint-1/")
    before.restore()
    assert "old.txt" in names(server, "checkpoint-1/")

    save(rig, 2, WHOLE)
    rig.publish()

    assert {*SHARDED, "theirs.txt"} == names(server, "checkpoint-1/")
    assert b"a person's" == server.read(REPO, "notes.txt")
    assert WHOLE.keys() == names(server, "checkpoint-2/")


def test_what_was_removed_more_than_once_goes_as_it_was_at_first(make_units: MakeRig, server: PlainServer) -> None:
    """The old state of the branch is that before the first time."""
    rig = make_units()
    save(rig, 1, WHOLE)
    rig.publish()
    before = Copy(server, objects=False)
    for files in (SHARDED, {**SHARDED, "old.txt": b"another"}, {**SHARDED, "trainer_state.json": b"[]"}):
        save(rig, 1, files)
        rig.publish()
    before.restore()

    save(rig, 2, WHOLE)
    rig.publish()

    assert SHARDED.keys() == names(server, "checkpoint-1/")


def test_a_revision_is_one_version_there_too(make_units: MakeRig, server: PlainServer) -> None:
    """When its unit is saved again."""
    rig = make_units(publish="revisions")
    save(rig, 1, WHOLE)
    rig.publish()
    before = Copy(server, objects=False)
    save(rig, 1, SHARDED)
    rig.publish()
    before.restore()

    save(rig, 1, {**SHARDED, "trainer_state.json": b'{"again": 1}'})
    rig.publish()

    assert SHARDED.keys() == names(server, "", "checkpoint-1")
    assert SHARDED.keys() == names(server, "", "main")
