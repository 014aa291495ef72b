"""Faults on demand, as clients meet them."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from localhub.clones import Clone

from hubsync.errors import UsageError
from hubsync.localhub import LocalHub
from hubsync.localhub.faults import parse_fault

WHOAMI = "/api/whoami-v2"


@pytest.fixture(autouse=True)
def _no_faults_left(hub: LocalHub) -> Iterator[None]:
    yield
    hub.clear_faults()


def test_a_status_comes_as_often_as_asked(hub: LocalHub, http: httpx2.Client) -> None:
    """Then all is well again; both are counted."""
    fault = hub.add_fault(f"GET {WHOAMI} 503 times=2 retry-after=3 body=busy")
    answers = [http.get(WHOAMI) for _ in range(3)]

    assert [503, 503, 200] == [answer.status_code for answer in answers]
    assert ("3", "busy") == (answers[0].headers["Retry-After"], answers[0].text)
    assert (3, 2) == (fault.met, fault.shown)
    assert [{"fault": fault.text, "met": 3, "shown": 2}] == http.get("/_faults").json()


def test_a_fault_may_wait_for_its_turn_and_is_only_about_its_requests(hub: LocalHub, http: httpx2.Client) -> None:
    """The method and the path must fit."""
    hub.add_fault(f"* {WHOAMI} status=429 after=1 'header=RateLimit:\"api\";r=0;t=5'")
    answers = [http.get("/api/models"), http.get(WHOAMI), http.get(WHOAMI)]

    assert [200, 200, 429] == [answer.status_code for answer in answers]
    assert '"api";r=0;t=5' == answers[2].headers["RateLimit"]


def test_git_lfs_tries_again_after_a_fault(hub: LocalHub, clone: Clone, api: HfApi, repo_id: str) -> None:
    """The real client meets it, and the object arrives."""
    fault = hub.add_fault(f"PUT /_lfs/models/{repo_id}/* 500 times=1")
    clone.git("lfs", "track", "*.bin")
    clone.put("a.bin", b"\0" * 1000)
    clone.commit()
    said = clone.push()

    assert "exit 0" in said
    assert 1 == fault.shown
    assert [1000] == [entry.size for entry in api.list_repo_tree(repo_id) if entry.path == "a.bin"]


@pytest.mark.parametrize("action", ["reset", "reset-after=1000", "lose-answer", "truncate", "truncate=10"])
def test_a_connection_breaks(hub: LocalHub, http: httpx2.Client, action: str) -> None:
    """At once, in the middle, before the answer, or inside it."""
    hub.add_fault(f"POST /api/validate-yaml {action} times=1")
    body = {"content": "---\nlicense: x\n---\n" + "x" * 5000}
    with pytest.raises(httpx2.TransportError):
        http.post("/api/validate-yaml", json=body)

    assert 400 == http.post("/api/validate-yaml", json=body).status_code


def test_a_lost_answer_was_given(hub: LocalHub, http: httpx2.Client, api: HfApi) -> None:
    """What was asked is done."""
    hub.add_fault("POST /api/repos/create lose-answer")
    with pytest.raises(httpx2.TransportError):
        http.post("/api/repos/create", json={"name": "lost", "organization": "acme"})

    assert api.repo_exists("acme/lost")


@pytest.mark.parametrize("action", ["stall", "stall-after=10"])
def test_a_stall_lasts_until_it_is_withdrawn(hub: LocalHub, action: str) -> None:
    """No byte comes; then the connection is reset."""
    fault = hub.add_fault(f"GET {WHOAMI} {action}")
    host, port = hub.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"GET {WHOAMI} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hub.token}\r\n\r\n"
        client.sendall(head.encode())
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            read_to_the_end(client)
        hub.clear_faults()
        client.settimeout(5)
        with pytest.raises(ConnectionResetError):
            client.recv(1000)

    assert 1 == fault.shown


def test_a_stalled_client_that_leaves_is_noticed(hub: LocalHub) -> None:
    """Though much of what it sent was never read."""
    hub.add_fault("POST /api/validate-yaml stall-after=10")
    hub.forget_requests()
    host, port = hub.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST /api/validate-yaml HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 1_000_000)
    deadline = time.monotonic() + 5
    while not (seen := {request.path for request in hub.requests} & {"/api/validate-yaml"}) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert seen  # one of a test before may have been noted late


def test_a_rate_holds_both_ways(hub: LocalHub, http: httpx2.Client, repo_id: str) -> None:
    """5,000 bytes up at 10,000 a second take half a second."""
    hub.add_fault(f"POST /api/models/{repo_id}/paths-info/main rate=10KB/s")
    started = time.monotonic()
    answer = http.post(f"/api/models/{repo_id}/paths-info/main", json={"paths": ["x" * 5000]})
    took_s = time.monotonic() - started

    assert 200 == answer.status_code
    assert took_s > 0.4


@pytest.mark.parametrize(("where", "expected"), [("https://elsewhere.example", "https://elsewhere.example"), ("other", "")])
def test_a_redirect_keeps_path_and_query(hub: LocalHub, http: httpx2.Client, where: str, expected: str) -> None:
    """To a host that is named, or to this Hub by its other name."""
    hub.add_fault(f"GET /api/models redirect={where}")
    answer = http.get("/api/models?author=a")

    assert 307 == answer.status_code
    assert f"{expected or hub.url.replace('127.0.0.1', 'localhost')}/api/models?author=a" == answer.headers["Location"]


def test_garbage_is_no_json(hub: LocalHub, http: httpx2.Client) -> None:
    """Though it says so."""
    hub.add_fault(f"GET {WHOAMI} body=garbage")
    answer = http.get(WHOAMI)

    assert (200, "application/json") == (answer.status_code, answer.headers["Content-Type"])
    with pytest.raises(json.JSONDecodeError):
        answer.json()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("GET /x", "a method, a path and an action are wanted"),
        ("GET /x explode", "unknown action 'explode'"),
        ("GET /x 555", "555 is not a valid HTTPStatus"),
        ("GET /x rate=5", "a rate is 1KB/s or the like"),
        ("GET /x header=X", "a header is Name:value"),
        ("GET /x times=often", "invalid literal"),
        ("GET /x 'header=A:b", "No closing quotation"),
    ],
)
def test_a_fault_that_cannot_be_read_is_named(text: str, why: str) -> None:
    """With the actions that there are."""
    with pytest.raises(UsageError, match=why) as caught:
        parse_fault(text)

    assert "reset-after=64KiB" in caught.value.hint


def test_every_action_that_is_listed_is_known() -> None:
    """The list is the documentation."""
    actions = "503 status=503 header=A:b retry-after=3 body=x redirect=other delay=5s stall stall-after=64KiB reset"
    for action in [
        *actions.split(),
        "reset-after=5",
        "rate=1KB/s",
        "truncate",
        "truncate=1",
        "lose-answer",
        "times=2",
        "after=3",
    ]:
        parse_fault(f"* * {action}")


def test_a_hub_with_a_stalled_request_ends_at_once(tmp_path: Path) -> None:
    """What is stalled by a fault is broken off."""
    command = (sys.executable, "-m", "hubsync", "localhub", "serve", "--dir", str(tmp_path / "hub"), "--port", "0")
    with subprocess.Popen((*command, "--fault", "* / stall"), stderr=subprocess.PIPE, text=True) as process:
        url = process.stderr.readline().split()[-1]
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            while not httpx2.get(f"{url}/_faults").json()[0]["shown"]:
                pass
            started = time.monotonic()
            process.terminate()
            process.communicate()

    assert 0 == process.returncode
    assert time.monotonic() - started < 3


def test_the_command_takes_faults(tmp_path: Path) -> None:
    """A bad one is a usage error; nothing is served."""
    command = (sys.executable, "-m", "hubsync", "localhub", "serve", "--dir", str(tmp_path / "hub"))
    finished = subprocess.run((*command, "--fault", "GET / explode"), capture_output=True, text=True, check=False)

    assert 2 == finished.returncode
    assert "unknown action 'explode'" in finished.stderr


def read_to_the_end(client: socket.socket) -> None:
    while client.recv(1000):
        pass
