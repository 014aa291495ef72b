"""Who sends large files: Xet where a mirror asks for it, and as fast as the endpoint allows where hubsync does."""

import io
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support.lfs_server import LfsServer
from support.plain_server import AnswerError
from support.rig import NO_LOGIN, REPO, Rig, safetensors
from support.running import digests, download

from hubsync.config.model import Endpoint, Mirror
from hubsync.config.rates import parse_rate
from hubsync.errors import MirrorError, ToolMissingError
from hubsync.localhub import LocalHub
from hubsync.mirror.paced import PacedReader
from hubsync.mirror.remote import Remote
from hubsync.mirror.token import Tokens
from hubsync.mirror.uploads import Gauge, Told
from hubsync.mirror.xet import describe_transfer
from hubsync.store.git import Git
from hubsync.store.objects import Objects
from hubsync.store.throttle import Throttle, open_allowance

OID = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of abc
# What stands for git-xet: it speaks git-lfs's protocol and puts the bytes where the server says.
AGENT = """#!{python} -I
import json, sys, urllib.request
assert sys.argv[1:] == ["transfer"]
for line in sys.stdin:
    asked = json.loads(line)
    if asked["event"] == "init":
        print("{{}}", flush=True)
    elif asked["event"] == "upload":
        body = open(asked["path"], "rb").read()
        headers = {{"X-By": "git-xet", "Content-Length": str(len(body))}}
        urllib.request.urlopen(urllib.request.Request(asked["action"]["href"], body, headers, method="PUT")).read()
        print(json.dumps({{"event": "complete", "oid": asked["oid"]}}), flush=True)
    else:
        break
"""


@pytest.fixture
def make_remote(tmp_path: Path) -> Callable[..., Remote]:
    """Give the way to a server from a store with one object."""

    def make(server: LfsServer, **mirror: Any) -> Remote:
        git = Git(tmp_path / "store.git")
        git.open()
        objects = Objects(git.git_dir)
        objects.open()
        path = objects.path(OID)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"abc")
        endpoint = Endpoint(name="e", url=server.url, token=None, timeout_s=10.0, stall_s=20.0)
        declared = Mirror(name="m", endpoint="e", repo_id="acme/x", repo_type="model", **mirror)
        return Remote(git, objects, declared, endpoint, Tokens(NO_LOGIN), threading.Event())

    return make


def test_git_xet_sends_what_the_hub_takes_by_xet(
    make_remote: Callable[..., Remote], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xet is offered, and the program that is installed for it is started if the server takes the offer."""
    agent = tmp_path / "bin" / "git-xet"
    agent.parent.mkdir()
    agent.write_text(AGENT.format(python=sys.executable))
    agent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{agent.parent}:{os.environ['PATH']}")
    with LfsServer() as server:
        plain = server.batch

        def batch(asked: dict[str, Any]) -> dict[str, Any]:
            return {**plain(asked), "transfer": "xet" if "xet" in asked["transfers"] else "basic"}

        server.batch = batch  # type: ignore[method-assign]

        make_remote(server, transfer="xet").upload_objects([OID])

        (put,) = (request for request in server.requests if request.method == "PUT")
        assert ({OID}, "git-xet") == (server.objects, put.headers["X-By"])


def test_without_git_xet_the_cure_is_said(
    make_remote: Callable[..., Remote], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is sent in another way than the config says."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("git", "git-lfs"):
        (tools / name).symlink_to(next(Path(place) / name for place in os.get_exec_path() if (Path(place) / name).exists()))
    monkeypatch.setenv("PATH", str(tools))
    with LfsServer() as server:
        with pytest.raises(ToolMissingError, match="git-xet is not installed") as caught:
            make_remote(server, transfer="xet").upload_objects([OID])

        assert ("tool", [], True) == (caught.value.error_kind, server.requests, "install git-xet" in caught.value.hint)


@pytest.mark.parametrize(
    ("mirror", "rate", "expected"),
    [
        ({}, "0", "by hubsync's agent for git-lfs, as fast as it goes"),
        ({}, "80MB/s", "by hubsync's agent for git-lfs, at most 80.0 MB/s"),
        ({}, ["mon-fri 09:00-18:00 20MB/s", "0"], "by hubsync's agent for git-lfs, by timetable, down to 20.0 MB/s"),
        ({"transfer": "git-lfs"}, "80MB/s", "by git-lfs itself; upload_rate does not hold"),
        ({"transport": "http"}, "1MB/s", "by huggingface_hub, at most 1.0 MB/s"),
    ],
)
def test_who_sends_is_said(mirror: dict[str, Any], rate: Any, expected: str) -> None:
    """A person reads which way large files take, and whether the rate holds there."""
    endpoint = Endpoint(name="e", url="https://h", token=None, upload_rate=parse_rate(rate))
    declared = Mirror(name="m", endpoint="e", repo_id="acme/x", repo_type="model", **mirror)

    assert expected == describe_transfer(declared, endpoint)


@pytest.mark.parametrize(("transfer", "wanted", "unwanted"), [
    ("xet", "/xet-write-token/", "/objects/batch"), ("hubsync", "/objects/batch", "/xet-write-token/"),
])  # fmt: skip
def test_through_the_api_objects_go_by_xet_only_if_the_mirror_says_so(
    transfer: str, wanted: str, unwanted: str, tmp_path: Path, make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library by itself would take Xet for all of the process, where no rate holds."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", transfer == "xet")  # the opposite of what is asked for
    with LocalHub(tmp_path / "hub") as hub:
        rig = make_rig(hub, mirror={"transport": "http", "transfer": transfer})
        rig.write("a.safetensors", safetensors(200_000))
        rig.update()
        asked = " ".join(request.path for request in hub.requests)

        assert (True, False) == (wanted in asked, unwanted in asked)
        assert digests(rig.source) == download(hub, REPO, tmp_path / "got")


class Time:
    """A clock that goes on only when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self.now += seconds


@pytest.mark.parametrize("rate", [1_000, 80_000_000])
def test_bytes_leave_at_the_rate_however_many_take_them(rate: int) -> None:
    """In any second after the first piece no more is taken than the rate allows, and no less is offered."""
    time, fd = Time(), open_allowance()
    takers = [Throttle(fd, time.clock, time.sleep) for _ in range(3)]
    takers[0].set_rate(rate)
    taken = 0
    while time.now < 130.0:
        taken += takers[taken % 3].take(1 << 30)
    for taker in takers:
        taker.close()
    os.close(fd)

    assert abs(taken / (time.now - 100.0) - rate) < 0.05 * rate


def test_a_taker_that_is_woken_late_keeps_up_with_the_rate() -> None:
    """A busy machine oversleeps: what that costs is made up for; a long pause is not."""
    time, fd = Time(), open_allowance()

    def oversleep(seconds: float) -> None:
        time.sleep(seconds + 0.02)

    throttle = Throttle(fd, time.clock, oversleep)
    throttle.set_rate(100_000)
    taken = 0
    while time.now < 130.0:
        taken += throttle.take(1 << 30)
    assert abs(taken / (time.now - 100.0) - 100_000) < 5_000
    time.now += 60.0
    began, taken = time.now, 0
    while time.now < began + 10.0:
        taken += throttle.take(1 << 30)
    throttle.close()
    os.close(fd)

    assert taken < 1_100_000


def test_a_new_rate_holds_at_once() -> None:
    """What waits follows within a piece, and unlimited is unlimited."""
    time, fd = Time(), open_allowance()
    throttle = Throttle(fd, time.clock, time.sleep)
    throttle.set_rate(100)
    throttle.take(1000)
    throttle.set_rate(10_000)
    began = time.now
    taken = sum(throttle.take(1000) for _ in range(20))
    throttle.set_rate(0)

    assert (10_000, 1 << 20) == (taken, throttle.take(1 << 20))
    assert time.now - began < 1.1
    throttle.close()
    os.close(fd)


def test_a_paced_reader_reads_what_is_there(tmp_path: Path) -> None:
    """As a file does: from anywhere, to its end; what is read is counted and takes its time."""
    path = tmp_path / "file"
    content = os.urandom(5000)
    path.write_bytes(content)
    time, fd, moved = Time(), open_allowance(), list[int]()
    throttle = Throttle(fd, time.clock, time.sleep)
    throttle.set_rate(1000)

    with PacedReader(path, throttle, moved.append, lambda: None) as reader:
        size = reader.seek(0, io.SEEK_END)
        reader.seek(1000)
        got = reader.read(500) + reader.read()

    assert (5000, content[1000:], 4000) == (size, got, sum(moved))
    assert 3.9 < time.now - 100 < 4.1
    throttle.close()
    os.close(fd)


def test_how_far_an_upload_is() -> None:
    """What the mirror had already counts, and is not taken for speed."""
    gauge = Gauge(2, 1000, Told())

    gauge.note(100, 600)

    assert gauge.seen is not None
    assert (2, 1000, 600) == (gauge.seen.files, gauge.seen.bytes, gauge.seen.sent_bytes)


class Refusing(set[str]):
    """What a storage has that answers 401 to the first *times* objects, when it has read them."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times
        self.tries = 0

    def add(self, oid: str) -> None:
        """Keep an object, or refuse it."""
        self.tries += 1
        if self.tries <= self.times:
            raise AnswerError(401, Connection="close")
        super().add(oid)


def test_git_lfs_does_not_ask_a_storage_for_ever(make_remote: Callable[..., Remote]) -> None:
    """Where storage answers 401 to signed addresses, git-lfs never ends by itself; it is ended, and the storage named."""
    with LfsServer(objects=Refusing(float("inf"))) as server:
        with pytest.raises(MirrorError, match=re.escape(server.storage_url.removeprefix("http://"))) as caught:
            make_remote(server, transfer="git-lfs").upload_objects([OID])

        assert ("server", True) == (caught.value.error_kind, caught.value.retryable)
        assert "401" in str(caught.value)


def test_what_git_lfs_tries_again_is_no_trouble(make_remote: Callable[..., Remote]) -> None:
    """One refusal that passes is tried again by git-lfs, and the object arrives."""
    with LfsServer(objects=Refusing(1)) as server:
        make_remote(server, transfer="git-lfs").upload_objects([OID])

        assert ({OID}, 2) == (server.objects, server.objects.tries)  # type: ignore[attr-defined]
