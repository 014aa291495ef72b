"""What comes home: the right files, whole, with their modes, or nothing at all."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from restore.conftest import Restorer, noise, place, put, put_plain, read
from support.plain_server import PlainServer

from hubsync.config.model import Best
from hubsync.errors import DiskFullError, MirrorError, UsageError
from hubsync.localhub import LocalHub
from hubsync.restore.catalog import Wish
from hubsync.restore.staging import DestinationError
from hubsync.watch.rules import PublishedRules

MakeRestorer = Callable[..., Restorer]
Hubs = Callable[[], LocalHub]

UNIT = {"model.bin": b"\0" * 3000, "sub/config.json": b"{}", "empty.txt": b"", "new\nline.txt": b"x"}


def in_units(**units: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of *units* as a tree has them."""
    return {f"{unit}/{path}": content for unit, files in units.items() for path, content in files.items()}


def test_a_unit_comes_home_byte_for_byte(restorer: MakeRestorer, server: PlainServer, tmp_path: Path) -> None:
    """DEST has the unit's files and nothing else, and nothing is left beside it."""
    put_plain(server, in_units(**{"checkpoint-1": UNIT, "checkpoint-2": {"model.bin": b"2"}}) | {"README.md": b"card"})

    done = restorer(server)(tmp_path / "out" / "unit", Wish(unit="checkpoint-1"))

    assert read(tmp_path / "out" / "unit") == UNIT
    assert ["unit"] == [path.name for path in (tmp_path / "out").iterdir()]
    assert (4, "checkpoint-1") == (done.files, done.unit)


def test_names_that_are_never_published_come_home_too(restorer: MakeRestorer, server: PlainServer, tmp_path: Path) -> None:
    """What another one put on the mirror is restored whatever it is called: nothing is left out without a word."""
    files = dict.fromkeys(("uv.lock", "a.tmp", ".cache/x", "tmpabcdefgh", "b.part", ".out.partial/x", "c~"), b"x")
    put_plain(server, files)

    restorer(server)(tmp_path / "out")

    assert files == read(tmp_path / "out")


def test_modes_come_back(restorer: MakeRestorer, server: PlainServer, tmp_path: Path) -> None:
    """What may be run may be run again, whether git or LFS has it."""
    put_plain(server, {"run.sh": b"#!", "tool.bin": b"\1", "data.bin": b"\1"}, {"run.sh": "100755", "tool.bin": "100755"})

    restorer(server)(tmp_path / "out")

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert {"run.sh": 0o755, "tool.bin": 0o755, "data.bin": 0o644} == modes


def test_a_place_in_the_repository_is_left_out_of_the_names(
    restorer: MakeRestorer, server: PlainServer, tmp_path: Path
) -> None:
    """Others' files beside ``path_in_repo``, and the mirror's .gitattributes, do not come."""
    put_plain(server, {"runs/a/x.txt": b"1", "runs/ab/x.txt": b"2", "y.txt": b"3", "runs/a/.gitattributes": b"* text"})

    restorer(server, mirror={"path_in_repo": place("runs/a")})(tmp_path / "out")

    assert {"x.txt": b"1"} == read(tmp_path / "out")


@pytest.mark.parametrize("publish", ["revisions", None])
def test_revisions_are_put_together_again(
    restorer: MakeRestorer, server: PlainServer, tmp_path: Path, publish: str | None
) -> None:
    """The whole target has each unit in its directory and what is in no unit at the root; a unit has its own files."""
    put_plain(server, {"notes.txt": b"n", **UNIT})
    put_plain(server, UNIT, branch="checkpoint-2")
    put_plain(server, {"model.bin": b"1"}, branch="checkpoint-1")

    restorer(server, publish=publish)(tmp_path / "unit", Wish(latest=True))
    assert UNIT == read(tmp_path / "unit")

    if publish:
        restorer(server, publish=publish)(tmp_path / "all")
        expected = {"notes.txt": b"n"} | in_units(**{"checkpoint-2": UNIT, "checkpoint-1": {"model.bin": b"1"}})
        assert expected == read(tmp_path / "all")


def test_the_latest_unit_has_the_highest_step(restorer: MakeRestorer, server: PlainServer, tmp_path: Path) -> None:
    """900 comes before 1000, whatever the alphabet says."""
    put_plain(server, in_units(**{"checkpoint-900": {"a": b"900"}, "checkpoint-1000": {"a": b"1000"}}))

    restorer(server)(tmp_path / "out", Wish(latest=True))

    assert {"a": b"1000"} == read(tmp_path / "out")


def test_the_best_unit_is_the_one_with_the_best_metric(restorer: MakeRestorer, server: PlainServer, tmp_path: Path) -> None:
    """The trainer's own record of each unit tells."""
    record = '{{"log_history": [{{"eval_loss": {}}}]}}'.format
    units = {f"checkpoint-{n}": {"trainer_state.json": record(loss).encode()} for n, loss in ((1, 3.0), (2, 1.0), (3, 2.0))}
    put_plain(server, in_units(**units))

    done = restorer(server)(tmp_path / "out", Wish(best=True), best=Best(metric="eval_loss", direction="min"))

    assert "checkpoint-2" == done.unit


def test_the_newest_unit_wins_over_the_fastest_mirror(
    restorer: MakeRestorer, server: PlainServer, hubs: Hubs, tmp_path: Path
) -> None:
    """A mirror that is behind is not asked for the latest unit."""
    hub = hubs()
    put_plain(server, in_units(**{"checkpoint-1": {"a": b"1"}}))
    put(hub, in_units(**{"checkpoint-1": {"a": b"1"}, "checkpoint-2": {"a": b"2"}}))

    restorer(server, hub)(tmp_path / "out", Wish(latest=True))

    assert {"a": b"2"} == read(tmp_path / "out")


def test_through_the_api_the_same_files_come(restorer: MakeRestorer, hubs: Hubs, tmp_path: Path) -> None:
    """``transport = "http"`` needs no git at all."""
    hub = hubs()
    put(hub, in_units(**{"checkpoint-1": UNIT}))

    restorer(hub, mirror={"transport": "http"})(tmp_path / "out", Wish(unit="checkpoint-1"))

    assert read(tmp_path / "out") == UNIT


def test_an_older_revision_is_named_by_its_commit(restorer: MakeRestorer, hubs: Hubs, tmp_path: Path) -> None:
    """What the branch does not show any more is there still."""
    hub = hubs()
    old = put(hub, {"a.bin": b"\0old"})
    put(hub, {"a.bin": b"\0new"})

    restorer(hub)(tmp_path / "out", Wish(revision=old))

    assert {"a.bin": b"\0old"} == read(tmp_path / "out")
    with pytest.raises(UsageError, match="no revision 'nope'"):
        restorer(hub)(tmp_path / "other", Wish(revision="nope"))


def test_a_mirror_with_half_of_the_files_is_completed_by_the_other(
    restorer: MakeRestorer, server: PlainServer, hubs: Hubs, tmp_path: Path
) -> None:
    """Weights here and the rest there is one unit when it comes home, whichever answers first."""
    hub = hubs()
    put_plain(server, in_units(**{"checkpoint-1": {"model.bin": b"\0w"}}))
    put(hub, in_units(**{"checkpoint-1": {"optimizer.bin": b"\0o", "trainer_state.json": b"{}"}}))

    shown = ({"include": ("weights",)}, {"exclude": ("weights",)})
    restorer(server, hub, each=shown)(tmp_path / "out", Wish(unit="checkpoint-1"))

    assert {"model.bin", "optimizer.bin", "trainer_state.json"} == read(tmp_path / "out").keys()


def test_a_part_is_not_taken_for_all(restorer: MakeRestorer, server: PlainServer, hubs: Hubs, tmp_path: Path) -> None:
    """The mirror that has the rest is waited for, and if it cannot be asked, that is a failure."""
    hub = hubs()
    put_plain(server, in_units(**{"checkpoint-1": {"model.bin": b"\0w"}}))
    put(hub, in_units(**{"checkpoint-1": {"optimizer.bin": b"\0o"}}))
    hub.add_fault("GET *refs* delay=2s times=1")
    parts = restorer(server, hub, mirror={"include": ("weights",)})
    parts(tmp_path / "out", Wish(unit="checkpoint-1"))
    assert {"model.bin", "optimizer.bin"} == read(tmp_path / "out").keys()

    hub.stop()
    with pytest.raises(MirrorError, match="what the others leave out"):
        parts(tmp_path / "again", Wish(unit="checkpoint-1"))
    assert not (tmp_path / "again").exists()


def test_patterns_choose_files(restorer: MakeRestorer, server: PlainServer, tmp_path: Path) -> None:
    """Only the weights come if only they are asked for."""
    put_plain(server, in_units(**{"checkpoint-1": UNIT}))

    restorer(server)(tmp_path / "out", Wish(unit="checkpoint-1", rules=PublishedRules(("*.bin", "*.json"), ("sub/",))))

    assert {"model.bin"} == read(tmp_path / "out").keys()


def test_a_directory_that_has_something_is_refused(restorer: MakeRestorer, server: PlainServer, tmp_path: Path) -> None:
    """Nothing of it is touched; an empty one is taken, with its mode."""
    put_plain(server, {"a": b"1"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "empty").mkdir(mode=0o750)

    with pytest.raises(DestinationError, match="not empty"):
        restorer(server)(tmp_path / "full")
    restorer(server)(tmp_path / "empty")

    assert {"mine": b"x"} == read(tmp_path / "full")
    assert ({"a": b"1"}, 0o750) == (read(tmp_path / "empty"), stat.S_IMODE((tmp_path / "empty").stat().st_mode))


def test_what_cannot_fit_is_refused_before_anything_is_got(
    restorer: MakeRestorer, server: PlainServer, tmp_path: Path
) -> None:
    """A petabyte is not begun, and nothing is left behind."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 1000000000000000\n" % (b"ab" * 32)
    put_plain(server, {"huge.safetensors": pointer})

    with pytest.raises(DiskFullError, match=r"1\.0 PB are needed"):
        restorer(server)(tmp_path / "out" / "huge")

    assert [] == list((tmp_path / "out").iterdir())
    assert [] == [request for request in server.requests if request.host == "storage"]


def test_the_token_goes_to_its_own_host_only(restorer: MakeRestorer, tmp_path: Path) -> None:
    """Storage on another host is asked without it."""
    with PlainServer(tmp_path / "server", token="hf_secret") as server:
        server.create("acme/x")
        put_plain(server, {"a.bin": noise(100)})

        restorer(server)(tmp_path / "out")

        told = {(request.host, bool(request.authorization)) for request in server.requests}
    assert ("git", True) in told
    assert {("storage", False)} == {each for each in told if each[0] == "storage"}
