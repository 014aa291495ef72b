"""`hubsync status` answers at once."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.running import hubsync, write_config
from support.terminal import Terminal

from hubsync.config.glance import glance_at
from hubsync.config.load import load_config
from hubsync.errors import StateError
from hubsync.monitor.status import DaemonStatus, LastError, MirrorStatus, Status, StatusFile, TargetStatus, write_status
from hubsync.service import hold_state


def test_status_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    """It answers before what publishes would have been imported; a config that the daemon took over needs no check."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {'url = "http://127.0.0.1:1"': "acme/x"})
    mark = load_config(config, {}).mark
    now = datetime.now(UTC)
    (tmp_path / "state").mkdir()
    write_status(tmp_path / "state" / "status.json", Status(DaemonStatus(1, "1", now, now, config_mark=mark)))
    argv = [sys.executable, "-X", "importtime", "-m", "hubsync", "-c", str(config), "status"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env={"PATH": os.environ["PATH"]})
    imported = {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}

    assert 3 == said.returncode
    assert "hubsync.status_view" in imported
    assert set() == imported & {
        "pydantic",
        "structlog",
        "git",
        "rich",
        "huggingface_hub",
        "apscheduler",
        "hubsync.config.load",
    }


@pytest.mark.parametrize("argv", [["log"], ["report"], ["events"]])
def test_what_reads_the_log_needs_no_checked_config(tmp_path: Path, argv: list[str]) -> None:
    """Who looks at three in the morning waits for no schema, and a half-edited config keeps nobody from the log."""
    config = tmp_path / "hubsync.toml"
    config.write_text('[log]\nfile = "log.jsonl"\n[[target]]\nnaem = "x"\n')
    (tmp_path / "log.jsonl").write_text(
        '{"timestamp":"2026-11-29T03:00:00Z","level":"error","event":"thread.failed","message":"x"}\n'
    )
    option = [] if argv == ["events"] else ["-c", str(config), "--since", "2026-11-28"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hubsync", *argv, *option],
        capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    assert (0, True) == (done.returncode, bool(done.stdout))
    assert set() == imported & {"pydantic", "structlog", "git", "rich", "huggingface_hub", "apscheduler", "watchdog"}


@pytest.mark.parametrize("edit", ["append", "include", "break"])
def test_an_edited_config_is_checked_again(tmp_path: Path, edit: str) -> None:
    """Whether it is the file itself that was edited or one that it includes, its mark is another one."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {'url = "http://127.0.0.1:1"': "acme/x"})
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.toml").write_text("")
    config.write_text('include = ["more/*.toml"]\n' + config.read_text())
    mark = load_config(config, {}).mark
    before = glance_at(config, {})
    if edit == "append":
        config.write_text(config.read_text() + "\n# a word\n")
    elif edit == "include":
        (tmp_path / "more" / "b.toml").write_text("")
    else:
        config.write_text("[[target")
    after = glance_at(config, {})

    assert before is not None
    assert (tmp_path / "state", mark) == (before.state_dir, before.mark)
    assert after is None or after.mark != mark


def test_watching_a_dead_daemon_is_calm(tmp_path: Path) -> None:
    """At 80 columns, without colour: what was, that it does not run, and how to start it; Ctrl-C ends it."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {'url = "http://127.0.0.1:1"': "acme/x"})
    now = datetime.now(UTC)
    error = LastError("connection refused " * 10, "network", "check the address", now - timedelta(hours=3), 9)
    mirror = MirrorStatus("m0:acme/x", "acme/x", "failing", behind_s=7000, last_error=error)
    target = TargetStatus("run", "/data/run", "degraded", newest_unit_local="checkpoint-100000", mirrors=(mirror,))
    (tmp_path / "state").mkdir()
    daemon = DaemonStatus(1, "1", now, now, config_mark=load_config(config, {}).mark)
    write_status(tmp_path / "state" / "status.json", Status(daemon, (target,)))
    with Terminal(["-c", str(config), "status", "--watch"], NO_COLOR="1") as terminal:
        shown = terminal.wait_for("check the address").split("check the address")[0]
        terminal.process.send_signal(signal.SIGINT)
        code, _ = terminal.wait()

    assert 130 == code
    assert "not running (was running" in shown
    assert shown.index("start it: hubsync run") < shown.index("TARGET / MIRROR")
    assert not re.search(r"\x1b\[\d+(;\d+)*m", shown)
    assert 80 >= max(len(re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", line)) for line in shown.splitlines())


def test_a_killed_daemon_is_dead_for_programs(tmp_path: Path) -> None:
    """It could not write that it ended, so that its last document still says "running"."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {'url = "http://127.0.0.1:1"': "acme/x"})
    now = datetime.now(UTC)
    (tmp_path / "state").mkdir()
    write_status(tmp_path / "state" / "status.json", Status(DaemonStatus(1, "1", now, now)))
    done = hubsync(config, "status", "--json")

    assert (3, "dead") == (done.returncode, json.loads(done.stdout)["daemon"]["state"])


def test_a_daemon_that_has_not_written_yet_is_not_denied(tmp_path: Path) -> None:
    """Before its first document, which a full disk may delay, nobody is told that none has run, or to start one."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {'url = "http://127.0.0.1:1"': "acme/x"})
    (tmp_path / "state").mkdir()
    with (tmp_path / "state" / "lock").open("w") as lock:
        lock.write(str(os.getpid()))
        lock.flush()
        done = hubsync(config, "status")
        os.utime(lock.fileno(), (1, 1))
        late = hubsync(config, "status")

    assert (3, True) == (done.returncode, "has not written its status yet" in done.stderr)
    assert (1, True) == (late.returncode, "could not write its status" in late.stderr)
    assert "hubsync run" not in done.stderr + late.stderr


@pytest.mark.parametrize("was_there", [False, True], ids=["first", "after a service"])
def test_once_at_work_is_no_service(tmp_path: Path, *, was_there: bool) -> None:
    """It writes no status: what a service left is shown as that, and nobody waits for a better one."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {'url = "http://127.0.0.1:1"': "acme/x"})
    path, now = tmp_path / "state" / "status.json", datetime.now(UTC)
    with hold_state(path.parent, is_once=True):
        if was_there:
            write_status(path, Status(DaemonStatus(1, "1", now, now, "stopped")))
        done, busy, flush = (hubsync(config, command) for command in ("status", "once", "flush"))

    said = " ".join((done.stdout + done.stderr).split())
    assert (3, 75, 3) == (done.returncode, busy.returncode, flush.returncode)
    assert "no service runs" in flush.stderr
    assert f"`hubsync once` (pid {os.getpid()}) is at work here, and no service runs" in said
    assert was_there == ("what is shown was left by process 1" in said)
    assert "ends by itself" in busy.stderr
    assert "flush" not in busy.stderr


def test_a_report_with_warnings_is_a_document(tmp_path: Path) -> None:
    """How often each event warned is told by name."""
    log = tmp_path / "log.jsonl"
    line = '{"timestamp":"2026-11-29T03:00:00Z","level":"error","event":"thread.failed","message":"x"}\n'
    log.write_text(2 * line)
    argv = [sys.executable, "-m", "hubsync", "report", "--file", str(log), "--since", "2026-11-28", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert {"thread.failed": 2} == json.loads(done.stdout)["warnings"]


@pytest.mark.parametrize(("event", "said"), [("mirror.failled", "see `hubsync events`"), ("mirror.*", "no such entry")])
def test_a_log_without_such_entries_says_so(tmp_path: Path, event: str, said: str) -> None:
    """A misspelt name is told from an event that did not happen."""
    log = tmp_path / "log.jsonl"
    log.write_text('{"timestamp":"2026-11-29T03:00:00Z","level":"info","event":"daemon.ready","message":"x"}\n')
    argv = [sys.executable, "-m", "hubsync", "log", "--file", str(log), "--event", event]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert (1, "", True) == (done.returncode, done.stdout, said in done.stderr)


def test_a_status_that_does_not_hold_any_more_is_said_as_such(tmp_path: Path) -> None:
    """One of an earlier daemon, or one that a full disk kept from being replaced, is not all well."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {'url = "http://127.0.0.1:1"': "acme/x"})
    path = tmp_path / "state" / "status.json"

    def ask() -> tuple[int, str]:
        done = hubsync(config, "status")
        return done.returncode, " ".join(done.stdout.split())

    now = datetime.now(UTC)
    status = Status(DaemonStatus(os.getpid(), "1", now, now))
    with hold_state(path.parent):
        write_status(path, Status(DaemonStatus(1, "1", now, now)))
        former = ask()
        file = StatusFile(path)
        file.write(status, force=True)
        well = ask()
        blocked = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        blocked.mkdir()  # no new file can be made, as on a full disk
        with pytest.raises(StateError):
            file.write(Status(status.daemon, disk_held_bytes=1), force=True)
        outdated = ask()
        blocked.rmdir()
        file.write(status, force=True)
        again = ask()

    assert (1, True) == (former[0], "what is shown was left by process 1" in former[1]), former
    assert (0, 0) == (well[0], again[0]), (well, again)
    assert (1, True) == (outdated[0], "could not be written anew" in outdated[1]), outdated
