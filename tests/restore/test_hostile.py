"""A mirror, or somebody beside DEST, that wants to write elsewhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
from restore.conftest import Restorer, noise, put_plain, put_raw_tree, read
from support.plain_server import AnswerError, PlainServer, Request

from hubsync.errors import HubsyncError, MirrorError
from hubsync.mirror.agent_client import Action, TransferError
from hubsync.restore.catalog import File, HostileNameError, check_names
from hubsync.restore.get import _follow, origin_of
from hubsync.restore.staging import DestinationError

MakeRestorer = Callable[..., Restorer]

BLOB = "0" * 40


@pytest.mark.parametrize("path", [
    "../x", "a/../../x", "/etc/x", "a//x", "./x", ".git/config", "a/.GIT/hooks/x", ".git. /x", "git~1/x", "a/", "\0",
    "x\\..\\y", "\udcff", "d/" * 200 + "x",
])  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(path: str) -> None:
    """Whatever else is in the tree, nothing of it is written."""
    with pytest.raises(HostileNameError):
        check_names({"fine.txt": File("100644", BLOB, None, 1), path: File("100644", BLOB, None, 1)})


@pytest.mark.parametrize("mode", ["120000", "160000", "100000"])
def test_links_and_submodules_are_refused(mode: str) -> None:
    """A link is a way out, and a submodule is somebody else's repository."""
    with pytest.raises(HostileNameError):
        check_names({"a": File(mode, BLOB, None, 1)})


def test_ordinary_and_odd_names_are_written() -> None:
    """Names that only look strange are names."""
    odd = ["a\nb", " x", "-rf", "..a", "a..", "Model", "model", ".lfsconfig", "ünï", "con"]

    assert check_names({path: File("100644", BLOB, None, 1) for path in odd}) is None


@pytest.mark.parametrize("name", [b"../escaped", b"..", b".git", b"/abs"])
def test_a_hostile_tree_writes_nothing(restorer: MakeRestorer, server: PlainServer, tmp_path: Path, name: bytes) -> None:
    """A tree that no honest git makes ends with an error, by git's own check or by ours."""
    put_raw_tree(server, [("100644", b"fine", b"1"), ("100644", name, b"2")])

    with pytest.raises(HubsyncError):
        restorer(server)(tmp_path / "in" / "out")

    assert {} == read(tmp_path / "in")
    assert not (tmp_path / "escaped").exists()


def test_a_link_on_the_mirror_is_refused_and_can_be_left_out(
    restorer: MakeRestorer, server: PlainServer, tmp_path: Path
) -> None:
    """The error names it, and nothing is left behind."""
    put_plain(server, {"link": b"/etc/passwd", "a": b"1"}, {"link": "120000"})

    with pytest.raises(HostileNameError, match=r"'link'.*symbolic link"):
        restorer(server)(tmp_path / "out" / "x")

    assert [] == list((tmp_path / "out").iterdir())


def test_a_link_in_the_way_is_not_followed(restorer: MakeRestorer, server: PlainServer, tmp_path: Path) -> None:
    """Neither as DEST nor where the hidden directory goes, nor inside of it."""
    put_plain(server, {"d/a.bin": noise(10), "b": b"1"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "dest").symlink_to(elsewhere)
    (tmp_path / ".out.partial").symlink_to(elsewhere)
    (tmp_path / ".in.partial").mkdir(mode=0o700)
    (tmp_path / ".in.partial" / "pieces").symlink_to(elsewhere)

    for name in ("dest", "out", "in"):
        with pytest.raises(HubsyncError):
            restorer(server)(tmp_path / name)

    assert {} == read(elsewhere)


def test_a_hidden_directory_that_others_may_write_is_refused(
    restorer: MakeRestorer, server: PlainServer, tmp_path: Path
) -> None:
    """What is in it could be anybody's."""
    put_plain(server, {"a": b"1"})
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial").chmod(0o777)

    with pytest.raises(DestinationError, match="others may write"):
        restorer(server)(tmp_path / "out")


def test_a_header_stays_with_its_host() -> None:
    """A redirect to another host takes no credentials along, and none leads from https to http."""
    action = Action("https://hub.example/x", {"Authorization": "secret"})

    assert {} == _follow(action, "https://cdn.example/y").headers
    assert {"Authorization": "secret"} == _follow(action, "/y").headers
    with pytest.raises(TransferError):
        _follow(action, "http://hub.example/y")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "//x", "gopher://x"])
def test_only_web_addresses_are_asked(url: str) -> None:
    """A server cannot make us open a file."""
    with pytest.raises(TransferError):
        origin_of(url)


def test_an_endless_answer_is_cut(restorer: MakeRestorer, server: PlainServer, tmp_path: Path) -> None:
    """More bytes than the pointer says are wrong bytes."""
    content = noise(1000)
    put_plain(server, {"a.bin": content})

    def lie(request: Request) -> None:
        if request.host == "storage":
            raise AnswerError(200, content + b"more")

    server.before = lie

    with pytest.raises(MirrorError):
        restorer(server)(tmp_path / "out")
    assert not (tmp_path / "out").exists()
