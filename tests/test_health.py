"""The watchdog is fed only while the scheduler, the watches and the publications get on."""

import os
import signal
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.running import Daemon, write_config

from hubsync.health import Health, Part, WallClock, find_stalled
from hubsync.monitor.status import DaemonStatus, Status, find_troubles


def test_a_part_stalls_when_its_patience_is_over() -> None:
    """One that got on a moment ago is well, one that has ended is not, however long its patience."""
    parts = [Part("well", 100.0, 60.0), Part("late", 39.0, 60.0), Part("long", 39.0, 900.0), Part("gone", None, 900.0)]

    assert {"late": 61.0, "gone": 0.0} == find_stalled(parts, now=100.0)
    assert {} == find_stalled(parts[:1], now=160.0)


def test_what_stalls_is_said_once_and_so_is_its_end() -> None:
    """However often it is looked at, there is one line for the beginning and one for the end."""
    parts = [Part("watch:run", time.monotonic() - 100, 60.0)]
    health = Health(lambda: parts)
    with capture_logs() as said:
        looked = [health.is_well() for _ in range(3)]
        (shown,) = health.stalled()
        parts[0] = Part("watch:run", time.monotonic(), 60.0)
        looked += [health.is_well() for _ in range(3)]

    assert [False] * 3 + [True] * 3 == looked
    assert [("thread.stalled", "watch:run"), ("thread.recovered", "watch:run")] == [
        (one["event"], one["thread"]) for one in said
    ]
    assert 100 == said[0]["stalled_s"]
    assert () == health.stalled()
    assert shown.since is not None
    assert ("watch:run", 100) == (shown.what, round((datetime.now(UTC) - shown.since).total_seconds(), -1))
    daemon = DaemonStatus(1, "1", shown.since, shown.since, stalled=(shown,))
    assert ["watch:run"] == [name for name, _ in find_troubles(Status(daemon))]


def test_a_clock_that_is_set_is_noticed_once() -> None:
    """Back and forth; time that passes, a small correction, and a machine that slept are no such thing."""
    looks = [(0.0, 0.0), (10.0, 10.0), (20.9, 20.0), (-86_370.0, 30.0), (-86_360.0, 40.0), (60.0, 50.0), (3660.0, 3650.0)]
    walls, passed = iter([wall for wall, _ in looks]), iter([since for _, since in looks])
    clock = WallClock(wall=lambda: next(walls), passed=lambda: next(passed))

    jumps = [clock.find_jump() for _ in looks[1:]]

    assert [0.0, 0.0, -86_400.9, 0.0, 86_410.0, 0.0] == pytest.approx(jumps)


@pytest.mark.timeout(120)
def test_the_service_manager_is_told_how_it_is(tmp_path: Path) -> None:
    """The real daemon: ready, then a status line that names what is wrong, then signs of life until it is stopped."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "gone", {'url = "http://127.0.0.1:1"': "acme/x"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with Daemon(config, **told) as daemon:
            said: list[str] = []
            while not ("READY=1" in said and said.count("WATCHDOG=1") >= 3 and any("halted" in one for one in said)):
                said += manager.recv(4096).decode().splitlines()
            os.kill(daemon.process.pid, signal.SIGTERM)
            while "STOPPING=1" not in said:
                said += manager.recv(4096).decode().splitlines()

    assert "STATUS=0/1 targets ok; run halted: source" in said
