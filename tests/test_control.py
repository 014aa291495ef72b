import json
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

from hubsync.control import ControlServer, send_command
from hubsync.errors import ConfigError, HubsyncError, NotRunningError, StateError, UsageError

PATIENCE_S = 20.0


def obey(command: str, targets: tuple[str, ...]) -> dict[str, object]:
    """Do as the daemon does: answer with the targets, refuse what is unknown."""
    if command == "refuse":
        raise UsageError("no such target", hint="look again")
    if command in {"reject", "fill"}:
        raise {"reject": ConfigError, "fill": StateError}[command]("one\ntwo")
    if command == "crash":
        raise RuntimeError("a bug")

    return {"targets": list(targets) or ["all"]}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Give the socket of a running server, deeper than the 107 bytes that an address holds."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    server = ControlServer(directory / "control.sock", obey)
    server.start()
    yield directory / "control.sock"
    server.stop()


def speak(path: Path, words: bytes) -> dict[str, object]:
    """Send raw bytes and return the answer."""
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(path.name)
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    return json.loads(answer)


def test_a_command_is_obeyed_and_answered(path: Path) -> None:
    """What obeys gets the command and its targets; the sender gets the answer."""
    assert ["a", "b"] == send_command(path, "flush", ("a", "b"))["targets"]
    assert ["all"] == send_command(path, "flush", ())["targets"]


def test_a_refusal_reaches_the_sender(path: Path) -> None:
    """The error's words and its hint cross the socket."""
    with pytest.raises(UsageError, match="no such target") as caught:
        send_command(path, "refuse", ())

    assert "look again" == caught.value.hint


@pytest.mark.parametrize(
    ("command", "kind", "exit_code"), [("reject", ConfigError, 78), ("fill", StateError, 73), ("crash", HubsyncError, 1)]
)
def test_a_refusal_has_its_exit_code(path: Path, command: str, kind: type[HubsyncError], exit_code: int) -> None:
    """What the daemon cannot do is of the same class for the sender, with all its lines."""
    with pytest.raises(kind) as caught:
        send_command(path, command, ())

    assert exit_code == caught.value.exit_code
    assert command == "crash" or str(caught.value) == "one\ntwo"


@pytest.mark.parametrize(
    "words",
    [b"", b"\n", b"flush\n", b"[]\n", b"{}\n", b'"flush"\n', b'{"command": 1, "targets": 5}\n', b"\xff\xfe\n",
     b"[" * 60_000, b"x" * 100_000],
    ids=["nothing", "empty", "no JSON", "list", "no command", "word", "no list", "no UTF-8", "deep", "long"],
)  # fmt: skip
def test_nonsense_is_refused_and_the_server_goes_on(path: Path, words: bytes) -> None:
    """Nothing that somebody writes into the socket ends the server."""
    try:
        answer = speak(path, words)
    except (ConnectionError, json.JSONDecodeError):  # it was cut off
        answer = {"ok": False}

    assert not answer["ok"]
    assert ["all"] == send_command(path, "flush", ())["targets"]


def test_a_bug_in_a_command_does_not_end_the_server(path: Path) -> None:
    """An unexpected error is told to the sender as a failure, and the next command is obeyed."""
    with pytest.raises(HubsyncError):
        send_command(path, "crash", ())

    assert ["all"] == send_command(path, "flush", ())["targets"]


def test_many_senders_are_all_answered(path: Path) -> None:
    """Commands that come at the same time are obeyed one after the other."""
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(send_command(path, "flush", ()))) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert 30 == len(answers)


def test_nobody_else_may_connect(path: Path) -> None:
    """The socket belongs to its user alone."""
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    """A stale socket is no daemon for senders, and no obstacle for the next daemon."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(NotRunningError):
        send_command(path, "flush", ())

    server = ControlServer(path, obey)
    server.start()
    assert ["all"] == send_command(path, "flush", ())["targets"]
    server.stop()
    assert not path.exists()


@pytest.mark.parametrize("name", ["nothing", "no/such/directory"])
def test_without_a_daemon_the_sender_is_told_so(tmp_path: Path, name: str) -> None:
    """No socket, or no state directory at all, means that no daemon runs: exit code 3."""
    with pytest.raises(NotRunningError) as caught:
        send_command(tmp_path / name / "control.sock", "flush", ())

    assert 3 == caught.value.exit_code
