"""The service and its commands: signals, the lock, the control socket, systemd, exit codes, reload."""

import ast
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.running import (
    PATIENCE_S,
    ROOT,
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
from hubsync.presence import is_locked
from hubsync.service import hold_state


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub", port=0) as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


@pytest.fixture
def config(tmp_path: Path, source: Path, hub: LocalHub) -> Path:
    return write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})


def processes_of(directory: Path) -> list[str]:
    """Return the command lines of all processes that name something in *directory*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line and int(path.parent.name) != os.getpid():
            found.append(line)

    return found


def test_a_stop_in_mid_upload_is_quick_and_leaves_nothing(config: Path, source: Path) -> None:
    """SIGTERM ends the daemon with 0 within seconds, with all its children, and the queue is intact."""
    for number in range(4):
        write_safetensors(source / f"{number}.safetensors", 30_000_000)
    with Daemon(config) as daemon:
        daemon.wait_for("snapshot.committed")
        began = time.monotonic()

        assert 0 == daemon.stop()

    assert time.monotonic() - began < 20
    assert [] == [line for line in processes_of(config.parent) if "lfs" in line or "git" in line]
    assert 0 == hubsync(config, "once").returncode


def test_a_second_hubsync_is_told_who_is_at_work(config: Path) -> None:
    """Neither a second daemon nor `once` works on the same state; both name the first one's process."""
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        for command in ("run", "once"):
            done = hubsync(config, command)

            assert 75 == done.returncode
            assert str(daemon.process.pid) in done.stderr
        assert 0 == daemon.stop()


def test_a_look_at_the_status_locks_nothing(config: Path, tmp_path: Path) -> None:
    """A daemon that is just starting must not take `status` for another one."""
    trace = tmp_path / "trace"
    argv = ["strace", "-f", "-e", "trace=flock,fcntl", "-o", trace, sys.executable, "-m", "hubsync", "status", "-c", config]
    with Daemon(config) as daemon:
        daemon.wait_for("heartbeat")
        assert 0 == subprocess.run(argv, capture_output=True, check=False).returncode
        assert 0 == daemon.stop()

    assert not [line for line in trace.read_text().splitlines() if "flock(" in line or "LK" in line]


def test_only_what_inherited_the_lock_is_an_orphan(tmp_path: Path) -> None:
    """A hubsync that just starts has the lock open too, and must not be ended as if it were somebody's child."""
    lock = f"pathlib.Path({str(tmp_path)!r}, 'lock')"
    look = f"import pathlib; from hubsync.service import find_holders; print(find_holders({lock}))"
    starting = f"import os, time; os.open({str(tmp_path / 'lock')!r}, os.O_RDWR); print(flush=True); time.sleep(60)"
    with (
        hold_state(tmp_path) as fd,
        subprocess.Popen(["sleep", "60"], pass_fds=(fd,)) as child,
        subprocess.Popen([sys.executable, "-c", starting], stdout=subprocess.PIPE) as other,
    ):
        assert other.stdout is not None
        other.stdout.readline()
        done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
        child.kill()
        other.kill()

    assert ({str(os.getpid()), str(other.pid)}, {str(child.pid)}) == ast.literal_eval(done.stdout)


def test_an_orphan_is_ended_by_the_next_hubsync(tmp_path: Path) -> None:
    """A child that outlived its hubsync holds the lock; the next one ends it instead of failing, and starts at once."""
    with hold_state(tmp_path) as fd:
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=(fd,))
    (tmp_path / "lock").write_text("999999999\n")
    with hold_state(tmp_path):
        assert -15 == orphan.wait(PATIENCE_S)


def test_a_lock_without_its_owner_is_no_running_hubsync(tmp_path: Path) -> None:
    """Neither a dead process, nor one that got its number, nor a damaged file counts; one that has it open does."""
    lock = tmp_path / "lock"
    assert not is_locked(tmp_path)
    for owner in ("", "999999999\n", "1 2\n", "-1\n", f"{os.getppid()}\n", f"{os.getpid()}\n", "\xb2"):
        lock.write_text(owner)
        assert not is_locked(tmp_path), owner

    with hold_state(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_commands_need_a_daemon(config: Path) -> None:
    """Without one, flush and status say so with 3."""
    assert [3, 3] == [hubsync(config, command).returncode for command in ("flush", "status")]


def test_pause_resume_flush_and_status(config: Path, source: Path) -> None:
    """A paused target publishes nothing; resumed it does; flush does not wait for the schedule."""
    config.write_text(config.read_text().replace('schedule = "1s"', 'schedule = "manual"'))
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        assert 0 == hubsync(config, "pause").returncode
        (source / "a.txt").write_text("a")
        daemon.wait_for("heartbeat", settled=1)
        hubsync(config, "flush")
        daemon.wait_for("heartbeat", count=2)
        assert not [entry for entry in daemon.events if entry["event"] == "snapshot.committed"]
        hubsync(config, "resume")
        daemon.wait_for("mirror.published")
        (source / "b.txt").write_text("b")
        daemon.wait_for("heartbeat", settled=1)
        hubsync(config, "flush")
        daemon.wait_for("mirror.published")

        status = hubsync(config, "status", "--json")
        assert 0 == status.returncode
        assert 1 == json.loads(status.stdout)["schema_version"]
        assert all(len(line) <= 80 for line in hubsync(config, "status", COLUMNS="80").stdout.splitlines())
        assert 0 == daemon.stop()


def test_a_reload_takes_over_a_good_config_and_rejects_a_bad_one(config: Path, source: Path, tmp_path: Path) -> None:
    """A bad config leaves the old one in force; a good one starts the new target without a restart."""
    good = config.read_text()
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        config.write_text(good.replace("quiet", "quite"))
        daemon.process.send_signal(1)
        assert "quite" in daemon.wait_for("config.rejected")["error"]
        (source / "still.txt").write_text("works")
        daemon.wait_for("mirror.published", target="run")

        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "x.txt").write_text("x")
        config.write_text(f'{good}\n[[target]]\nname = "other"\nsource = "{tmp_path}/other"\nquiet = "300ms"\n'
                          'schedule = "1s"\nmirrors = ["m0:acme/y"]\n')  # fmt: skip
        daemon.process.send_signal(1)
        assert ["other"] == daemon.wait_for("daemon.reloaded")["added"]
        daemon.wait_for("mirror.published", target="other")
        assert 0 == daemon.stop()


def test_systemd_hears_of_ready_watchdog_and_stopping(config: Path, tmp_path: Path) -> None:
    """The service says when it is ready, that it lives, and that it stops; its children do not hear of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE_S)
        said = ""
        with Daemon(config, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000") as daemon:
            daemon.wait_for("daemon.ready")
            while "WATCHDOG=1" not in said or "STATUS=" not in said:
                said += listener.recv(4096).decode() + "\n"
            assert 0 == daemon.stop()
        while "STOPPING=1" not in said:
            said += listener.recv(4096).decode() + "\n"

    assert "READY=1" in said


def test_a_source_that_vanishes_halts_its_target_and_resumes(
    config: Path, source: Path, hub: LocalHub, tmp_path: Path
) -> None:
    """Moved away, nothing is deleted on the mirror; re-created under the same name, it is watched again."""
    (source / "a.txt").write_text("a")
    with Daemon(config) as daemon:
        daemon.wait_for("mirror.published")
        source.rename(tmp_path / "elsewhere")
        daemon.wait_for("target.halted")
        source.mkdir()
        (source / "a.txt").write_text("a")
        (source / "b.txt").write_text("b")
        daemon.wait_for("target.resumed")
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    assert {"a.txt", "b.txt"} == set(download(hub, "acme/x", tmp_path / "copy"))


def test_directories_moved_in_and_bursts_arrive_whole(config: Path, source: Path, hub: LocalHub, tmp_path: Path) -> None:
    """A checkpoint that is renamed into the source, and many files at once, all arrive."""
    write_checkpoint(tmp_path / "staging")
    with Daemon(config) as daemon:
        daemon.wait_for("watch.started")
        (tmp_path / "staging").rename(source / "checkpoint-7")
        for number in range(120):
            (source / f"d{number % 50}").mkdir(exist_ok=True)
            (source / f"d{number % 50}" / f"{number}.txt").write_text(str(number))
        daemon.wait_for("unit.published", unit="checkpoint-7")
        assert 0 == hubsync(config, "wait", "run").returncode
        assert 0 == daemon.stop()

    assert digests(source) == download(hub, "acme/x", tmp_path / "copy")


def test_a_file_that_grows_slowly_is_never_published_torn(
    config: Path, source: Path, hub: LocalHub, tmp_path: Path
) -> None:
    """While a writer appends to a weight file, nothing of it is published; afterwards all of it is."""
    write_safetensors(tmp_path / "whole", 400_000)
    content = (tmp_path / "whole").read_bytes()
    with Daemon(config) as daemon:
        daemon.wait_for("watch.started")
        (source / "other.txt").write_text("x")
        with (source / "slow.safetensors").open("wb") as file:
            for start in range(0, len(content), 40_000):
                file.write(content[start : start + 40_000])
                file.flush()
                time.sleep(0.4)  # longer than `quiet`: only the structure tells
        daemon.wait_for("mirror.published", count=2)
        assert 0 == daemon.stop()

    commits = subprocess.run(
        ["git", "-C", hub.directory / "models/acme/x.git", "log", "--format=%h", "main", "--", "slow.safetensors"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert 1 == len(commits)
    assert digests(source) == download(hub, "acme/x", tmp_path / "copy")


def test_exit_codes_of_once(tmp_path: Path, source: Path, hub: LocalHub, config: Path) -> None:
    """A wrong token is 77, a Hub that is not there 69, a state that cannot be written 73, a bad config 78."""
    (source / "a.txt").write_text("a")
    (tmp_path / "bad-token").write_text("hf_wrongwrongwrongwrong")
    good = config.read_text()
    cases = {
        77: good.replace(f"{hub.directory}/token", f"{tmp_path}/bad-token"),
        69: good.replace(hub.url, "http://127.0.0.1:9"),
        73: good.replace(f"{tmp_path}/state", f"{tmp_path}/bad-token/state"),
        78: good.replace("mirrors", "mirors"),
    }

    for code, text in cases.items():
        config.write_text(text)
        done = hubsync(config, "once", "--timeout", "3s")
        assert code == done.returncode, (code, done.stdout, done.stderr)
        assert "→" in done.stdout + done.stderr or code == 78


def test_every_reading_command_prints_one_document(config: Path, source: Path, tmp_path: Path) -> None:
    """plan, check and events print one JSON document with its version; plan changes nothing."""
    write_checkpoint(source / "checkpoint-1")
    (source / "wild\nname.txt").write_text("x")

    plan = json.loads(hubsync(config, "plan", "--json").stdout)
    check = json.loads(hubsync(config, "check", "--online", "--json").stdout)

    assert 1 == plan["schema_version"] == check["schema_version"]
    assert 6 == len(plan["targets"][0]["steps"])
    assert all(step["reason"] for step in plan["targets"][0]["steps"])
    assert check["ok"]
    assert any("would be created private" in finding["said"] for finding in check["findings"])
    assert not (tmp_path / "state").exists()
