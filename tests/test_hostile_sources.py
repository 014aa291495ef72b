"""Everything in a source is data: what it holds is published byte by byte, or refused with a cure, and never obeyed.

Each row is an entry of the fault catalogue: what somebody puts into a source, what a mirror shows of it, what is said.
"""

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import PlainServer
from support.rig import REPO, Rig, safetensors
from support.running import Daemon, download, endpoint, write_config

from hubsync.localhub import LocalHub
from hubsync.store import capture

SECRET = b"content from outside of the source"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12\n"
Place = Callable[[Path, "Outside"], object]


@dataclass(frozen=True)
class Outside:
    """What lies beside the source: a directory that must stay unread, and a file that appears if something is run."""

    directory: Path
    ran: Path

    @property
    def command(self) -> str:
        """What would be run."""
        return f"touch {self.ran}"


@dataclass(frozen=True)
class Row:
    """One entry: *place* puts it into a directory of the source; the paths are below that."""

    place: Place
    shown: Mapping[str, bytes] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)


def write(path: Path, content: bytes | str = b"x", mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)


def files(**contents: str) -> Place:
    def place(here: Path, outside: Outside) -> None:
        for name, content in contents.items():
            write(here / name, content.replace("RUN", outside.command), 0o755)

    return place


def named(*names: str | bytes) -> Place:
    def place(here: Path, _: Outside) -> None:
        for name in names:
            with open(os.path.join(os.fsencode(here), os.fsencode(name)), "wb") as file:  # noqa: PTH118, PTH123 - bytes
                file.write(os.fsencode(name))

    return place


def shown(*names: str) -> dict[str, bytes]:
    return {name: name.encode() for name in names}


def place_repository(here: Path, outside: Outside) -> None:
    """Make a clone whose config and hooks run something, whose objects come from elsewhere."""
    git = here / ".git"
    write(
        git / "config", f'[core]\nfsmonitor = "{outside.command}"\nhooksPath = {git}/hooks\n[include]\npath = {here}/more\n'
    )
    for hook in ("post-commit", "pre-push", "reference-transaction", "post-index-change"):
        write(git / "hooks" / hook, f"#!/bin/sh\n{outside.command}\n", 0o755)
    write(git / "objects/info/alternates", f"{outside.directory}\n")
    write(git / "HEAD", "ref: refs/heads/main\n")
    write(here / "more", f'[alias]\nlog = "!{outside.command}"\n')
    write(here / "sub" / ".git", f"gitdir: {outside.directory}\n")  # a submodule's
    write(here / "sub" / "weights.txt", "w")


def place_links(here: Path, outside: Outside) -> None:
    write(here / "here.txt", "inside")
    (here / "inside").symlink_to("here.txt")
    (here / "outside").symlink_to(outside.directory / "file")
    (here / "climbs").symlink_to(os.path.relpath(outside.directory / "file", here))
    (here / "directory").symlink_to(outside.directory)
    (here / "state").symlink_to(outside.directory.parent / "state")
    (here / "loop").symlink_to("loop")
    (here / "round").symlink_to(".")
    write(here / ".git" / "config", "token = x")
    (here / "git").symlink_to(".git/config")
    (here / "proc").symlink_to("/proc/self/environ")


def place_at_odd_times(here: Path, _: Outside) -> None:
    """Write files of before 1970, and of after 2262, whose nanoseconds need more than 64 bits with a sign."""
    for name, year in {"1950.txt": 1950, "2300.txt": 2300, "2300.arrow": 2300, "2400.txt": 2400}.items():
        write(here / name, name)
        os.utime(here / name, (0, (year - 1970) * 365.25 * 86400))


def place_devices(here: Path, _: Outside) -> None:
    write(here / "file.txt", "f")
    os.mkfifo(here / "fifo")
    os.mkfifo(here / "model.safetensors")
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(here)  # its path is limited to 108 bytes
        try:
            listener.bind("socket")
        finally:
            os.chdir(before)
    if os.geteuid() == 0:
        os.mknod(here / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))


def place_deep(here: Path, _: Outside) -> None:
    """Write a path of more than 4,096 bytes, and one of many directories."""
    at = os.open(here, os.O_RDONLY)
    for name in ["d" * 200] * 20:
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("e" * 200, os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    write(here / Path(*["n"] * 120) / "file")
    write(here / Path(*["m"] * 50) / "file", "f")


def place_sparse(here: Path, _: Outside) -> None:
    with (here / "model.bin").open("wb") as file:
        file.truncate(10**12)
    write(here / "small.txt", "s")


ODD = (
    "-rf", "--upload-pack=touch ran", "-", "a\nb", "tab\t", "quote\"'", "\x1b[31mred", "\x07bell", "\x7f", "CON", "aux.txt",
    "dot.", "space ", "  ", "%s%n", "$(touch ran)", "`touch ran`", "a;b", "a|b", "st*r", "q?", "[a]", "!x", "#x", "~user",
    "\u202egnp.exe", "zero\u200dwidth", "\u2028sep", "refs", "HEAD", "@", "a@{0}", "..x", "...", "x" * 246, "{path}",
    "[bold]", "nul",
)  # fmt: skip
REFUSED = {
    ".GIT": "reserved", "git~1": "reserved", ".g\u200cit": "reserved", ".git.": "reserved",
    ".git::$INDEX_ALLOCATION": "reserved",
    ".GitModules": "reserved", "gitatt~1": "reserved", "back\\slash": "backslash", "..\\up": "backslash", "C:x": "drive",
    "y" * 250: "longer than 246", "\udcff\udcfe": "UTF-8",
}  # fmt: skip

CATALOGUE = {
    "times that no counter holds": Row(
        place_at_odd_times, shown=shown("1950.txt", "2300.txt", "2300.arrow", "2400.txt")
    ),
    "FS15 names that git keeps for itself": Row(named(*REFUSED, "plain"), shown("plain"), REFUSED),
    "FS14 names that are options, or do something to a terminal or a shell": Row(named(*ODD), shown(*ODD)),
    "FS16 a repository with hooks, config includes, alternates, a submodule": Row(
        place_repository, {"sub/weights.txt": b"w"}, {}
    ),
    "FS16 a bare repository": Row(
        files(**{"HEAD": "ref: refs/heads/x\n", "config": '[core]\nfsmonitor = "RUN"\n', "hooks/pre-push": "RUN"}),
        {"HEAD": b"ref: refs/heads/x\n"},
    ),
    "SEC .gitattributes, .lfsconfig, .gitmodules are no orders": Row(
        files(**{
            ".gitattributes": "* filter=evil text eol=crlf ident\n*.bin -filter\n",
            ".lfsconfig": "[lfs]\nurl = http://127.0.0.1:9/evil\npushurl = http://127.0.0.1:9/evil\n",
            ".gitmodules": '[submodule "x"]\npath = x\nurl = ext::sh -c RUN\n',
            "kept.txt": "$Id$\r\nline\n", "weights.bin": "\0\1\2",
        }),
        {"kept.txt": b"$Id$\r\nline\n", "weights.bin": b"\0\1\2"},
        {".lfsconfig": "reserved", ".gitmodules": "reserved"},
    ),
    "FS10 FS11 links that leave the source, go round, or lead to git's own": Row(
        place_links,
        {"here.txt": b"inside", "inside": b"inside"},
        {
            "outside": "leaves", "climbs": "leaves", "directory": "leaves", "state": "leaves", "loop": "nowhere",
            "round": "directory", "git": "reserved", "proc": "leaves",
        },
    ),
    "FS12 FIFOs, sockets, devices": Row(
        place_devices, {"file.txt": b"f"}, {"fifo": "FIFO", "model.safetensors": "FIFO", "socket": "socket"}
    ),
    "FS11 a path of more than 4,096 bytes, and one of 120 directories": Row(
        place_deep,
        {"/".join(["m"] * 50) + "/file": b"f"},
        {"/".join(["d" * 200] * 16): "longer than 3072", "/".join(["n"] * 100): "deeper than 100"},
    ),
    "FS17 names that differ by case or normalisation": Row(
        named("A.bin", "a.bin", "\u00e9", "e\u0301"),
        shown("A.bin", "a.bin", "\u00e9", "e\u0301"),
        {"a.bin": "A.bin", "\u00e9": "e\u0301"},
    ),
    "FS19 nothing in it": Row(files(**{"empty.bin": "", "empty.txt": ""}), {"empty.bin": b"", "empty.txt": b""}),
    "FS20 a sparse file of a terabyte": Row(
        place_sparse, {"small.txt": b"s"}, {"model.bin": "is 1.0 TB, and a Hub takes files of up to 500.0 GB"}
    ),
    "FS21 a pointer without its content": Row(
        files(**{"model.safetensors": POINTER.decode(), "notes.md": POINTER.decode(), "real.txt": "r"}),
        {"real.txt": b"r"},
        {"model.safetensors": "pointer", "notes.md": "pointer"},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of all rows, each in a directory of its own."""

    shown: dict[str, bytes]
    said: dict[str, str]
    ran: bool
    requests: list[str]
    attributes: str


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Publish a source that holds the whole catalogue, twice."""
    root = tmp_path_factory.mktemp("hostile")
    outside = Outside(root / "outside", root / "ran")
    write(outside.directory / "file", SECRET)
    before = Path.cwd()
    with PlainServer(root / "server") as server:
        server.create(REPO)
        with Rig(root, [server]) as rig, capture_logs() as log:
            for number, row in enumerate(CATALOGUE.values()):
                (rig.source / str(number)).mkdir()
                row.place(rig.source / str(number), outside)
            for name in (".gitattributes", ".lfsconfig"):  # where git would look for them
                shutil.copy(next(rig.source.glob(f"*/{name}")), rig.source / name)
            os.chdir(rig.source)  # as an operator might
            try:
                rig.update()
                rig.restart()
                rig.update()
            finally:
                os.chdir(before)
        requests = [request.path for request in server.requests]
        attributes = server.git(REPO, "show", "main:.gitattributes")
        yield Outcome(server.read_all(REPO), _read_said(log), outside.ran.exists(), requests, attributes)
    shutil.rmtree(root, ignore_errors=True)


def _read_said(log: list[Any]) -> dict[str, str]:
    told = [entry for entry in log if entry["event"] in {"file.rejected", "file.held", "file.unreadable", "name.collided"}]
    assert all(entry["hint"] for entry in told), told
    return {entry["path"]: entry.get("reason") or entry["other"] for entry in told}


def below(number: int, paths: Mapping[str, Any]) -> dict[str, Any]:
    return {path.partition("/")[2]: value for path, value in paths.items() if path.startswith(f"{number}/")}


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_mirror_shows_what_is_content(outcome: Outcome, name: str) -> None:
    """Byte by byte, under the same name; and nothing else of it."""
    row, found = CATALOGUE[name], below(list(CATALOGUE).index(name), outcome.shown)

    assert dict(row.shown) == {path: found.get(path) for path in row.shown}
    assert {path for path in found if path not in row.shown} <= {"config", "hooks/pre-push", "more"}


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_is_not_published_is_said_with_a_cure(outcome: Outcome, name: str) -> None:
    """Once for each, in words that name what is wrong; what is fine, and what every clone has, is not mentioned."""
    row, said = CATALOGUE[name], below(list(CATALOGUE).index(name), outcome.said)
    said = {path: why for path, why in said.items() if path != "zero"}

    assert set(row.said) == set(said)
    assert all(words in said[path].removeprefix(f"{list(CATALOGUE).index(name)}/") for path, words in row.said.items()), (
        said
    )


def test_nothing_is_run_read_or_asked_elsewhere(outcome: Outcome) -> None:
    """No command of the source, no content from outside, and LFS goes to the mirror."""
    assert not outcome.ran
    assert SECRET not in b"".join(outcome.shown.values())
    assert "evil" not in outcome.attributes
    assert any(path.endswith("/info/lfs/objects/batch") for path in outcome.requests)


@pytest.mark.parametrize("swapped", ["dir", "dir/file.bin"])
@pytest.mark.parametrize("is_settled", [True, False], ids=["before the capture", "before it settles"])
def test_what_becomes_a_link_after_it_was_listed(
    rig: Rig, server: PlainServer, tmp_path: Path, swapped: str, *, is_settled: bool
) -> None:
    """It is not followed, and its identity is checked: nothing from outside is shown or kept, the rest goes on."""
    outside = tmp_path / "outside"
    write(outside / "file.bin", SECRET + b"\0")
    write(rig.source / "good.txt", "g")
    write(rig.source / "dir" / "file.bin", b"inside\0")
    rig.pipeline.take_inventory()
    if is_settled:
        rig.settle()

    (rig.source / swapped).rename(tmp_path / "aside")
    (rig.source / swapped).symlink_to(outside if swapped == "dir" else outside / "file.bin")
    rig.pipeline.settle()
    rig.pipeline.commit()
    rig.update()

    assert {"good.txt": b"g"} == server.read_all(REPO)
    assert [] == [oid for oid in rig.held_objects() if SECRET in rig.store.objects.path(oid).read_bytes()]
    assert [] == [line for line in _history(server) if SECRET in line]


def _history(server: PlainServer) -> list[bytes]:
    return [server.git(REPO, "log", "--all", "-p", "--text").encode(), *server.objects.values()]


def test_a_copy_that_does_not_fit_waits_alone(make_rig: Callable[..., Rig], server: PlainServer) -> None:
    """Where files are kept as copies, one that is larger than the disk is held with the figures; others go on."""
    rig = make_rig(server, capture="copy")
    size = 2 * shutil.disk_usage(rig.source).free
    size = min(size, capture.MOST_BYTES)
    with (rig.source / "huge.bin").open("wb") as file:
        file.truncate(size)
    rig.write("model.safetensors", safetensors(10))

    with capture_logs() as log:
        rig.update()

    (held,) = [entry for entry in log if entry["event"] == "file.held"]
    assert ["model.safetensors"] == list(server.read_all(REPO))
    assert "huge.bin" == held["path"]
    assert "a copy of it takes" in held["reason"]
    assert "store_dir" in held["hint"]
    assert [] == list((rig.store.git.git_dir / "lfs" / "pins").iterdir())


def listed(hub: LocalHub) -> set[str]:
    argv = ["git", "-C", hub.directory / "models" / "acme" / "x.git", "ls-tree", "-r", "-z", "--name-only", "main"]
    return set(subprocess.run(argv, capture_output=True, check=True).stdout.decode().split("\0"))


@pytest.mark.timeout(240)
def test_all_of_it_comes_while_the_service_watches(tmp_path: Path) -> None:
    """By events and listings: the same arrives and can be downloaded, and nothing fails."""
    source, outside = tmp_path / "run", Outside(tmp_path / "outside", tmp_path / "ran")
    source.mkdir()
    write(outside.directory / "file", SECRET)
    expected = {
        f"{number}/{path}": content for number, row in enumerate(CATALOGUE.values()) for path, content in row.shown.items()
    }
    with LocalHub(tmp_path / "hub") as hub:
        # An event may be missed while so much comes at once; the inventory is what finds everything.
        settings = {"units": "[]", "inventory_every": '"3s"'}
        config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"}, **settings)
        with Daemon(config) as daemon:
            daemon.wait_for("daemon.ready")
            for number, row in enumerate(CATALOGUE.values()):
                (source / str(number)).mkdir()
                row.place(source / str(number), outside)
            daemon.wait_for("mirror.published")
            while not expected.keys() <= listed(hub):
                daemon.wait_for("heartbeat")
            assert 0 == daemon.stop()
        download(hub, "acme/x", tmp_path / "all")

    assert expected == {path: (tmp_path / "all" / path).read_bytes() for path in expected}
    assert SECRET not in [path.read_bytes() for path in (tmp_path / "all").rglob("*") if path.is_file()]
    assert not outside.ran.exists()
    assert [] == [entry for entry in daemon.events if entry["event"] == "schedule.failed" or entry["level"] == "error"]


@pytest.mark.parametrize("name", ["\udcff\udcfe", ".GIT", "y" * 250, "a\\b"])
def test_an_event_of_a_refused_name_holds_up_no_other(rig: Rig, server: PlainServer, name: str) -> None:
    """Bytes that are no UTF-8 have no place in the ledger either; a file and a directory of that name are passed over."""
    rig.write("good.txt", b"g")

    for path in (name, f"{name}/x", "good.txt"):
        rig.pipeline.note(path)
    assert rig.pipeline.take_inventory(name)
    rig.update()

    assert {"good.txt": b"g"} == server.read_all(REPO)
