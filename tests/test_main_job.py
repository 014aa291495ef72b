"""The main job from outside: a directory becomes two mirrored repositories, and stays so."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from support.plain_server import PlainServer
from support.running import (
    Daemon,
    digests,
    download,
    endpoint,
    hubsync,
    write_checkpoint,
    write_config,
    write_safetensors,
)

from hubsync.localhub import LocalHub


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[tuple[LocalHub, LocalHub]]:
    with LocalHub(tmp_path / "first", port=0) as first, LocalHub(tmp_path / "second", port=0) as second:
        yield first, second


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


def config_for(tmp_path: Path, source: Path, hubs: tuple[LocalHub, ...], **settings: str) -> Path:
    return write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x" for hub in hubs}, **settings)


def history(hub: LocalHub, *fields: str) -> list[str]:
    repository = hub.directory / "models" / "acme" / "x.git"
    said = subprocess.run(
        ["git", "-C", repository, "log", f"--format={'%x00'.join(fields or ('%s',))}", "main"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return said.stdout.splitlines()


def test_a_directory_becomes_two_mirrors_that_hold_the_same_bytes(
    tmp_path: Path, source: Path, hubs: tuple[LocalHub, LocalHub]
) -> None:
    """All kinds of files arrive on both Hubs, byte-equal, and the unit came in one commit."""
    write_checkpoint(source / "checkpoint-5")
    (source / "with space\nand 'quotes\".txt").write_text("hello")
    (source / "-leading-dash").write_text("dash")
    (source / "größe.json").write_text("{}")
    (source / "empty.bin").touch()
    (source / "picture.png").write_bytes(b"\x89PNG\0\1\2")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)

    done = hubsync(config_for(tmp_path, source, hubs), "once")

    assert 0 == done.returncode, done.stderr
    for number, hub in enumerate(hubs):
        assert digests(source) == download(hub, "acme/x", tmp_path / f"copy{number}")
        titles = history(hub)
        assert 1 == sum(title.startswith("checkpoint-5") for title in titles)
        assert "initial commit" == titles[-1]


def test_nothing_is_read_sent_or_committed_again_after_a_restart(
    tmp_path: Path, source: Path, hubs: tuple[LocalHub, LocalHub]
) -> None:
    """A second run over an unchanged source opens no file of it, uploads nothing and makes no commit."""
    write_checkpoint(source / "checkpoint-5")
    (source / "notes.txt").write_text("notes")
    config = config_for(tmp_path, source, hubs)
    assert 0 == hubsync(config, "once").returncode
    before = [history(hub, "%H") for hub in hubs]
    times = {path: path.stat().st_atime_ns for path in source.rglob("*") if path.is_file()}
    for path in times:
        os.utime(path, ns=(0, path.stat().st_mtime_ns))  # relatime moves an atime that is older than the mtime
    assert 0 == hubsync(config, "once").returncode  # follows the ctime that utime moved
    for path in times:
        assert 0 < path.stat().st_atime_ns  # the probe works: that run did read
    for hub in hubs:
        hub.forget_requests()
    trace = tmp_path / "trace"
    run = [sys.executable, "-m", "hubsync", "once", "-c", str(config)]

    subprocess.run(["strace", "-f", "-e", "trace=openat,open", "-o", trace, *run], check=True, capture_output=True)

    opened = [
        line for line in trace.read_text(errors="replace").splitlines() if "O_NONBLOCK" in line and ".safetensors" in line
    ]
    assert [] == opened
    assert before == [history(hub, "%H") for hub in hubs]
    assert [] == [request for hub in hubs for request in hub.requests if request.method in {"PUT", "POST"}]


def test_a_mirror_that_is_down_delays_no_other_and_catches_up(tmp_path: Path, source: Path) -> None:
    """While one Hub is away the other goes on; when it comes back it gets everything, also what was rotated away."""
    with LocalHub(tmp_path / "first", port=0) as first:
        second = LocalHub(tmp_path / "second", port=0)
        second.start()
        port = int(second.url.rpartition(":")[2])
        with Daemon(config_for(tmp_path, source, (first, second))) as daemon:
            daemon.wait_for("daemon.ready")
            second.stop()
            write_checkpoint(source / "checkpoint-1")
            wanted = digests(source)
            daemon.wait_for("unit.published", mirror="m0:acme/x", unit="checkpoint-1")
            daemon.wait_for("mirror.failed", mirror="m1:acme/x")
            shutil.rmtree(source / "checkpoint-1")
            write_checkpoint(source / "checkpoint-2")
            wanted |= digests(source)
            daemon.wait_for("unit.published", mirror="m0:acme/x", unit="checkpoint-2")

            with LocalHub(tmp_path / "second", port=port) as again:
                hubsync(tmp_path / "hubsync.toml", "flush")
                daemon.wait_for("mirror.recovered", mirror="m1:acme/x")

                assert 0 == daemon.stop()
                assert wanted == download(again, "acme/x", tmp_path / "copy")


def test_a_killed_daemon_goes_on_where_it_was(tmp_path: Path, source: Path, hubs: tuple[LocalHub, LocalHub]) -> None:
    """Killed again and again at any moment, nothing is lost, torn, or twice in the history; no lock or orphan stays."""
    write_checkpoint(source / "checkpoint-1", size=8_000_000)
    (source / "notes.txt").write_text("notes")
    config = config_for(tmp_path, source, hubs)
    for event in ("daemon.ready", "snapshot.committed", "mirror.created", "daemon.ready"):
        with Daemon(config) as daemon:
            daemon.wait_for(event)  # killed on leaving

    with Daemon(config) as daemon:
        for name in ("m0:acme/x", "m1:acme/x"):
            while digests(source) != download(hubs[int(name[1])], "acme/x", tmp_path / name.replace("/", "-")):
                daemon.wait_for("heartbeat")
        assert 0 == daemon.stop()

    for hub in hubs:
        titles = history(hub)
        assert len(set(titles)) == len(titles)
        subprocess.run(["git", "-C", hub.directory / "models/acme/x.git", "fsck", "--strict"], check=True)
    assert [] == list((tmp_path / "state").rglob("*.lock"))


def test_queued_files_take_no_disk_space_and_none_stays(tmp_path: Path, source: Path) -> None:
    """While a Hub is away the store holds no second copy; when both have it, it holds nothing."""
    size = 16_000_000
    write_safetensors(source / "model.safetensors", size)
    hub = LocalHub(tmp_path / "first", port=0)
    hub.start()
    port = int(hub.url.rpartition(":")[2])
    config = config_for(tmp_path, source, (hub,))
    hub.stop()
    objects = tmp_path / "state/targets/run/store.git/lfs/objects"

    assert 69 == hubsync(config, "once", "--timeout", "2s").returncode
    pins = [path.stat() for path in objects.rglob("*") if path.is_file()]
    assert [size < pin.st_size and 2 == pin.st_nlink for pin in pins] == [True]
    extra = sum(
        path.stat().st_blocks * 512
        for path in (tmp_path / "state").rglob("*")
        if path.is_file() and path.stat().st_nlink == 1 and path.name != "reserve"
    )
    assert extra < size / 50

    with LocalHub(tmp_path / "first", port=port):
        assert 0 == hubsync(config, "once").returncode
    assert [] == [path for path in objects.rglob("*") if path.is_file()]
    assert 1 == (source / "model.safetensors").stat().st_nlink


def test_a_server_that_is_not_ours_is_served_as_well(tmp_path: Path, source: Path) -> None:
    """Plain git and LFS, no Hub API, objects on another host: published, and only the git host saw the token."""
    write_checkpoint(source / "checkpoint-1")
    with PlainServer(tmp_path / "server", token="plain-secret-token") as server:
        server.create("acme/x")
        (tmp_path / "token").write_text("plain-secret-token\n")
        table = f'url = "{server.url}"\ntoken = {{ file = "{tmp_path}/token" }}'
        config = write_config(tmp_path / "hubsync.toml", source, {table: "acme/x"})

        done = hubsync(config, "once")

        assert 0 == done.returncode, done.stderr
        assert 2 == len(server.objects)
        assert {""} == {request.authorization for request in server.requests if request.host == "storage"}
        assert "checkpoint-1/trainer_state.json" in server.git("acme/x", "ls-tree", "-r", "--name-only", "main")


def test_what_others_commit_stays(tmp_path: Path, source: Path, hubs: tuple[LocalHub, LocalHub]) -> None:
    """A card and a file made in the web page between two publications stay, and our next commit stands on theirs."""
    hub = hubs[0]
    (source / "README.md").write_text("ours\n")
    (source / "a.txt").write_text("a\n")
    config = config_for(tmp_path, source, (hub,))
    assert 0 == hubsync(config, "once").returncode
    api = HfApi(endpoint=hub.url, token=hub.token)
    for path, content in (("README.md", b"theirs\n"), ("extra.txt", b"extra\n"), ("a.txt", b"changed by others\n")):
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="acme/x")
    foreign = history(hub, "%H")[0]
    (source / "README.md").write_text("ours again\n")
    (source / "b.txt").write_text("b\n")

    done = hubsync(config, "once")

    assert 0 == done.returncode, done.stderr
    assert "mirror.foreign_edit" in done.stderr
    assert foreign in history(hub, "%H")
    download(hub, "acme/x", tmp_path / "copy")
    held = {path: (tmp_path / "copy" / path).read_text() for path in ("README.md", "extra.txt", "a.txt", "b.txt")}
    assert {"README.md": "theirs\n", "extra.txt": "extra\n", "a.txt": "a\n", "b.txt": "b\n"} == held


def test_a_public_repository_is_refused_where_private_is_declared(
    tmp_path: Path, source: Path, hubs: tuple[LocalHub, LocalHub]
) -> None:
    """Nothing is pushed to a repository that the world can read when the config says private."""
    HfApi(endpoint=hubs[0].url, token=hubs[0].token).create_repo("acme/x", private=False)
    write_checkpoint(source / "checkpoint-1")

    done = hubsync(config_for(tmp_path, source, hubs), "once")

    assert 77 == done.returncode
    assert "mirror.parked" in done.stderr
    assert ["initial commit"] == history(hubs[0])
    assert 2 == len(history(hubs[1]))


def test_half_written_files_wait_and_hold_back_only_themselves(
    tmp_path: Path, source: Path, hubs: tuple[LocalHub, LocalHub]
) -> None:
    """A torn weight file and a unit without its shard are held with the reason; the rest is published."""
    write_safetensors(source / "torn.safetensors", 10_000)
    os.truncate(source / "torn.safetensors", 9_000)
    write_checkpoint(source / "checkpoint-1")
    (source / "checkpoint-1" / "model-00002-of-00002.safetensors").unlink()
    (source / "fine.txt").write_text("fine")

    done = hubsync(config_for(tmp_path, source, hubs[:1]), "once")

    assert 1 == done.returncode
    assert "torn.safetensors" in done.stdout
    assert "checkpoint-1/" in done.stdout
    assert {"fine.txt"} == set(download(hubs[0], "acme/x", tmp_path / "copy"))


def test_the_token_stands_in_no_file_log_or_command_line(
    tmp_path: Path, source: Path, hubs: tuple[LocalHub, LocalHub]
) -> None:
    """Given through the environment, the token is in no state file, debug log, or child's arguments or environment."""
    write_checkpoint(source / "checkpoint-1")
    hub = hubs[0]
    table = f'url = "{hub.url}"\ntoken = {{ env = "CANARY" }}'
    config = write_config(tmp_path / "hubsync.toml", source, {table: "acme/x"})
    trace = tmp_path / "trace"
    run = [sys.executable, "-m", "hubsync", "once", "-c", str(config)]

    done = subprocess.run(
        ["strace", "-f", "-v", "-s", "4096", "-e", "trace=execve", "-o", trace, *run],
        env={**os.environ, "CANARY": hub.token, "HUBSYNC_LOG_LEVEL": "debug"}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr
    started = trace.read_text().splitlines()
    first = next(number for number, line in enumerate(started) if "-m" in line and "hubsync" in line)
    assert [] == [line for line in started[first + 1 :] if hub.token in line]
    assert hub.token not in done.stderr + done.stdout
    held = [path for path in (tmp_path / "state").rglob("*") if path.is_file() and hub.token.encode() in path.read_bytes()]
    assert [] == held


def test_the_published_attributes_agree_with_the_pointers(
    tmp_path: Path, source: Path, hubs: tuple[LocalHub, LocalHub]
) -> None:
    """In a clone, git and git-lfs agree on which file is a pointer: a checkout restores every byte."""
    for name in ("a b.dat", 'quo"te', "star*[x]?.dat", "#hash", "!bang", "tab\there", "model.safetensors"):
        (source / name).write_bytes(b"\0binary " + name.encode()) if "safe" not in name else write_safetensors(
            source / name, 99
        )
    (source / "empty.bin").touch()
    (source / "sub").mkdir()
    (source / "sub" / "weights").write_bytes(b"\0" * 10)
    assert 0 == hubsync(config_for(tmp_path, source, hubs[:1]), "once").returncode
    address = hubs[0].url.replace("://", f"://x:{hubs[0].token}@") + "/acme/x"
    clone = tmp_path / "clone"
    lfs = [
        option
        for pair in ("filter.lfs.smudge=git-lfs smudge -- %f", "filter.lfs.process=git-lfs filter-process",
                     "filter.lfs.clean=git-lfs clean -- %f", "filter.lfs.required=true")
        for option in ("-c", pair)
    ]  # fmt: skip

    subprocess.run(["git", *lfs, "clone", "-q", address, clone], check=True)

    shutil.rmtree(clone / ".git" / "hooks")
    assert digests(source) == {path: oid for path, oid in digests(clone).items() if not path.startswith(".git/")}
    state = subprocess.run(["git", *lfs, "-C", clone, "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert "" == state.stdout
