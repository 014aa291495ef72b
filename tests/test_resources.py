"""A disk that is full, read-only or gone, too few descriptors: hubsync says it, and goes on by itself when it is mended."""

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import ROOT, Daemon, digests, download, endpoint, hubsync, write_checkpoint, write_config

from hubsync.localhub import LocalHub


@pytest.fixture
def config(tmp_path: Path, source: Path, hub: LocalHub) -> Path:
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    config.write_text(config.read_text().replace('min_free = "1MB"', 'min_free = "1B"'))
    return config


def as_user(*options: str) -> tuple[str, ...]:
    """Return *options*, which let a user mount; root needs none."""
    return () if os.geteuid() == 0 else options


def small_disk(state: Path, options: str, first: str = "true") -> tuple[str, ...]:
    """Return what runs a command with a small disk of its own at *state*, seen through its process, after *first*."""
    state.mkdir(mode=0o700, exist_ok=True)
    user = as_user("--user", "--map-root-user")
    mount = f'mount -t tmpfs -o mode=0700,{options} tmpfs {state} && {{ ( {first} ) 2>&-; exec "$@"; }}'

    return ("unshare", *user, "--mount", "sh", "-c", mount, "sh")


def fill(directory: Path) -> None:
    """Take all the room there is, and all names."""
    with (directory / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    try:
        for number in range(200):
            (directory / f"fill{number}").touch()
    except OSError:
        pass


def make_room(directory: Path) -> None:
    for path in directory.glob("fill*"):
        path.unlink()


@pytest.mark.parametrize("options", ["size=4m", "size=64m,nr_inodes=120"])
@pytest.mark.timeout(300)
def test_a_full_disk_stops_nothing_for_good(config: Path, source: Path, hub: LocalHub, options: str) -> None:
    """Full at the start, or in the middle of the work: it is said, nothing is torn, and all goes on when there is room."""
    write_checkpoint(source / "checkpoint-1")
    state = config.parent / "state"
    fill_it = f"head -c 50m /dev/zero > {state}/fill; for n in $(seq 500); do : > {state}/fill$n; done"
    argv = [*small_disk(state, options, fill_it), sys.executable, "-m", "hubsync", "run", "-c", str(config)]
    refused = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert 73 == refused.returncode  # not even the lock, or the socket, can be made: systemd tries again
    assert "No space left" in refused.stderr
    with Daemon(config, *small_disk(state, options)) as daemon:
        inside = Path(f"/proc/{daemon.process.pid}/root{state}")
        daemon.wait_for("unit.published", unit="checkpoint-1")
        fill(inside)
        write_checkpoint(source / "checkpoint-2")
        (source / "a.txt").write_text("a")
        while not any("free space" in f"{event.get('hint')} {event.get('reason')}" for event in daemon.events):
            daemon.wait_for("heartbeat")
        make_room(inside)
        daemon.wait_for("unit.published", unit="checkpoint-2")
        assert 0 == daemon.stop()

    assert not [event for event in daemon.take_events() if event.get("error_kind") == "internal"]
    assert 0 == hubsync(config, "once").returncode  # with another state: all is compared, and nothing new
    assert digests(source) == download(hub, "acme/x", config.parent / "back")


def ask(daemon: Daemon, config: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command that sees the disks that *daemon* sees."""
    inside = ("nsenter", "-t", str(daemon.process.pid), *as_user("--user", "--preserve-credentials"), "--mount")
    argv = [*inside, sys.executable, "-m", "hubsync", *args, "-c", config]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", ["checkpoint-1/config.json", "a.txt"])
def test_all_who_are_asked_tell_of_a_full_disk(config: Path, source: Path, name: str) -> None:
    """`status` asks the service, which cannot write its file; that, `wait` and `explain` give one reason, and its cure."""
    state = config.parent / "state"
    config.write_text(config.read_text().replace('min_free = "1B"', 'min_free = "0B"'))
    with Daemon(config, *small_disk(state, "size=4m")) as daemon:
        daemon.wait_for("watch.started")
        fill(Path(f"/proc/{daemon.process.pid}/root{state}"))
        if name == "a.txt":  # there is no room to commit it
            (source / "a.txt").write_text("a")
            daemon.wait_for("schedule.failed", job="commit:run")
        else:  # nor for a copy of the weights
            write_checkpoint(source / "checkpoint-1", 1000)
            daemon.wait_for("file.held", path="checkpoint-1/")
        daemon.wait_for("heartbeat", count=2)
        shown = ask(daemon, config, "status", "--json")
        waited = ask(daemon, config, "wait", "run", "--timeout", "3s", "--json")
        explained = ask(daemon, config, "explain", str(source / name), "--json")

    [target] = json.loads(shown.stdout)["targets"]
    [path] = json.loads(explained.stdout)["paths"]
    answer, waiting = json.loads(waited.stdout), target["waiting"][0]
    assert (1, 1, 1) == (shown.returncode, waited.returncode, explained.returncode)
    assert "degraded" == target["state"]
    assert target["behind_s"] > 0
    assert waiting["reason"] in answer["reason"]
    assert waiting["reason"] in path["state"]
    assert all("free space" in hint for hint in (waiting["hint"], answer["hint"], path["hint"]))


@pytest.mark.timeout(300)
def test_what_is_queued_leaves_a_full_disk(config: Path, source: Path, hub: LocalHub) -> None:
    """Nobody has to make room first: publishing has a reserve, and frees what it has sent."""
    config.write_text(config.read_text().replace("[[target]]", '[[target]]\ncapture = "copy"', 1))
    state = config.parent / "state"
    hub.add_fault("* * 503")
    (source / "model.bin").write_bytes(os.urandom(10 << 20))
    with Daemon(config, *small_disk(state, "size=64m")) as daemon:
        inside = Path(f"/proc/{daemon.process.pid}/root{state}")
        daemon.wait_for("snapshot.committed")
        while not list(inside.glob("targets/*/reserve")):
            daemon.wait_for("heartbeat")
        fill(inside)
        hub.clear_faults()
        daemon.wait_for("mirror.published")
        while shutil.disk_usage(inside).free < 10 << 20:
            daemon.wait_for("heartbeat")
        assert 0 == daemon.stop()

    assert digests(source) == download(hub, "acme/x", config.parent / "back")


def take_names(directory: Path) -> None:
    """Take all inodes there are; there is room for content."""
    for number in itertools.count():
        try:
            (directory / f"fill{number}").touch()
        except OSError:
            return


@pytest.mark.timeout(300)
def test_what_is_queued_leaves_a_disk_without_inodes(config: Path, source: Path, hub: LocalHub) -> None:
    """Publishing has a reserve of them, too; what comes meanwhile waits, with the cure."""
    state = config.parent / "state"
    hub.add_fault("* * 503")
    for number in range(40):
        (source / f"{number}.bin").write_bytes(os.urandom(1000))
    with Daemon(config, *small_disk(state, "size=64m,nr_inodes=500")) as daemon:
        inside = Path(f"/proc/{daemon.process.pid}/root{state}")
        daemon.wait_for("snapshot.committed")
        while not list(inside.glob("targets/*/reserve*")):
            daemon.wait_for("heartbeat")
        take_names(inside)
        (source / "late.bin").write_bytes(b"late")
        paused = daemon.wait_for("capture.paused")
        daemon.wait_for("heartbeat", count=2)
        shown = ask(daemon, config, "status", "--json")
        hub.clear_faults()
        published = daemon.wait_for("mirror.published")
        make_room(inside)
        daemon.wait_for("capture.resumed")
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    [target] = json.loads(shown.stdout)["targets"]
    assert published["files"] >= 40
    assert "inodes" in paused["message"]
    assert "df -i" in paused["hint"]
    assert "degraded" == target["state"]
    assert "inodes" in target["last_error"]["error"]
    assert digests(source) == download(hub, "acme/x", config.parent / "back")


@pytest.mark.parametrize(("place", "what"), [("state", "state"), ("store", "run: store")])
def test_check_tells_of_a_disk_without_inodes(config: Path, place: str, what: str) -> None:
    """That of the state, and that of a store of its own, by the limit at which capture pauses; all else is looked at."""
    disk = config.parent / place
    config.write_text(config.read_text().replace("[[target]]", f'[[target]]\nstore_dir = "{config.parent}/store"'))
    take_all = f"for n in $(seq 500); do : > {disk}/fill$n; done"
    argv = [*small_disk(disk, "size=64m,nr_inodes=500", take_all), sys.executable, "-m", "hubsync", "check", "--online"]
    done = subprocess.run(
        [*argv, "--json", "-c", config], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    findings = json.loads(done.stdout)["findings"]
    (found,) = [finding for finding in findings if finding["what"] == what]
    assert ("disk_full", 73) == (found["error_kind"], done.returncode)
    assert "inodes free" in found["said"]
    assert "df -i" in found["hint"]
    assert any("acme/x" in finding["what"] for finding in findings)


def test_a_disk_that_fills_while_a_file_is_copied_is_no_unreadable_file(config: Path, source: Path, hub: LocalHub) -> None:
    """It is said as what it is, with its cure; the file is taken once there is room for it."""
    (source / "train.log").write_text("a line of a log\n" * 1_500_000)
    state = config.parent / "state"
    with Daemon(config, *small_disk(state, "size=16m")) as daemon:
        said = daemon.wait_for("schedule.failed", error_kind="disk_full")
        subprocess.run(["nsenter", "-t", str(daemon.process.pid), *as_user("--user", "--preserve-credentials"), "--mount",
                        "mount", "-o", "remount,size=99m", state], check=True)  # fmt: skip
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    assert "free space" in said["hint"]
    assert not [event for event in daemon.take_events() if event["event"] == "file.unreadable"]
    assert digests(source) == download(hub, "acme/x", config.parent / "back")


def test_a_lack_of_descriptors_is_no_lost_source(config: Path, source: Path, hub: LocalHub) -> None:
    """It is said with its own cure, halts nothing, and what was not looked at meanwhile comes when there are more."""
    with Daemon(config) as daemon:
        daemon.wait_for("watch.started")
        daemon.wait_for("heartbeat")
        used = len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
        _, most = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (used, most))
        write_checkpoint(source / "checkpoint-1")
        said = daemon.wait_for("schedule.failed", job="take_events")
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (most, most))
        daemon.wait_for("unit.published", unit="checkpoint-1")
        assert 0 == daemon.stop()

    assert "LimitNOFILE" in said["hint"]
    assert not [event for event in daemon.take_events() if event["event"] == "target.halted"]
    assert digests(source) == download(hub, "acme/x", config.parent / "back")


def test_a_state_that_is_gone_ends_hubsync(config: Path, source: Path) -> None:
    """Whoever takes the state directory away takes the lock with it: hubsync ends with 73, so that it is started anew."""
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        shutil.move(config.parent / "state", config.parent / "elsewhere")
        assert 73 == daemon.process.wait(60)
        assert "gone" in daemon.wait_for("daemon.stopping")["reason"]

    (source / "a.txt").write_text("a")
    assert 0 == hubsync(config, "once").returncode
