import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubsync.monitor.systemd import Notifier


@dataclass
class Clock:
    now: float = 100.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield receiver


def received(manager: socket.socket) -> list[str]:
    messages = []
    try:
        while True:
            messages.append(manager.recv(4096).decode())
    except BlockingIOError:
        return messages


def test_the_manager_hears_each_state(manager: socket.socket) -> None:
    """The words of sd_notify(3), one datagram each."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()}, clock=lambda: 100.0)
    notifier.ready()
    notifier.reloading()
    notifier.watchdog()
    notifier.extend_timeout(1.5)
    notifier.stopping()

    reloading = "RELOADING=1\nMONOTONIC_USEC=100000000"
    expected = ["READY=1", reloading, "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=1500000", "STOPPING=1"]

    assert expected == received(manager)


def test_the_status_is_sent_when_it_changes_and_not_too_often(manager: socket.socket) -> None:
    """A busy daemon does not flood the manager; the newest text goes when its time has come."""
    clock = Clock()
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()}, clock=lambda: clock.now)
    for text, passed_s in (("a", 0), ("b", 1), ("b", 4), ("b", 10), ("a", 10)):
        clock.now += passed_s
        notifier.status(text)

    assert ["STATUS=a", "STATUS=b", "STATUS=a"] == received(manager)


def test_the_status_is_one_harmless_line(manager: socket.socket) -> None:
    """Text from outside cannot add an assignment, and holds no token."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.status("x\nMAINPID=1 hf_abcdefghijklmnop … " + "y" * 1000)
    (message,) = received(manager)

    assert message.startswith("STATUS=x\\x0aMAINPID=1 [redacted] … yyy")
    assert len(message) < 500


def test_an_abstract_socket_is_understood() -> None:
    """Systemd writes an abstract address with @."""
    name = f"hubsync-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.setblocking(False)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()

        assert ["READY=1"] == received(manager)


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "vsock:2:1"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    """Started by hand, or the manager is gone: no call raises."""
    notifier = Notifier({"NOTIFY_SOCKET": address} if address else {})
    notifier.ready()
    notifier.status("x")

    assert notifier.watchdog_interval_s is None


def test_a_manager_that_does_not_read_blocks_nobody(manager: socket.socket) -> None:
    """The manager is told, never waited for."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    for _ in range(2000):
        notifier.watchdog()

    assert 2000 > len(received(manager))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "120000000"}, 60.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_of_its_time(environment: dict[str, str], expected: float | None) -> None:
    """Only if it watches this process."""
    assert expected == Notifier(environment).watchdog_interval_s
