import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from support.fault_proxy import FaultProxy
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import REPO, Rig

from hubsync.localhub import LocalHub
from hubsync.mirror.trouble_notes import TroubleNotes
from hubsync.mirror.worker import MirrorWorker
from hubsync.service import open_limits
from hubsync.store.process import StoppedError


def refuse(status: int, **headers: str) -> Callable[[Request], None]:
    def hook(_: Request) -> None:
        raise AnswerError(status, b"", **headers)

    return hook


@pytest.fixture
def worker(rig: Rig) -> MirrorWorker:
    rig.write("a.txt", b"1")
    rig.commit()
    return rig.work.workers[0]


def test_a_failed_mirror_is_not_asked_before_its_time(worker: MirrorWorker, server: PlainServer) -> None:
    """While a wait is on, a run asks nothing; a person's wish ends the wait."""
    server.before = refuse(403, X_Request_Id="1")
    assert worker.run() is None
    asked = len(server.requests)
    assert 50 < worker.wait_s() <= 60

    assert worker.run() is None

    assert asked == len(server.requests)
    server.before = lambda _: None
    assert worker.run(now=True) is not None
    assert (None, 0.0) == (worker.trouble, worker.wait_s())


def test_a_run_has_got_on_since_it_began(worker: MirrorWorker) -> None:
    """However long ago the one before it was: before its first command, too."""
    began = time.monotonic()
    is_over = threading.Event()
    seen: list[float] = []

    def look() -> None:
        while not is_over.is_set():
            seen.extend(progressed for progressed in (worker.progressed,) if progressed is not None)

    watching = threading.Thread(target=look)
    watching.start()
    worker.run()
    is_over.set()
    watching.join()

    assert seen
    assert began <= min(seen)
    assert worker.progressed is None


def test_a_run_that_cannot_begin_is_over(worker: MirrorWorker) -> None:
    """What is read before the mirror is asked may be damaged."""
    worker.publisher._store.ledger.close()

    with pytest.raises(Exception):  # noqa: B017, PT011 - whichever it is, the daemon says it
        worker.run(now=True)

    assert not worker.is_running


def test_a_new_token_ends_the_wait(tmp_path: Path, make_rig: Callable[..., Rig]) -> None:
    """Replaced or removed, the token's file makes the next run try, once for each change."""
    file = tmp_path / "token-0"
    with PlainServer(tmp_path / "guarded", token="right") as guarded:
        guarded.create(REPO)
        rig = make_rig(guarded)
        rig.write("a.txt")
        rig.commit()
        worker = rig.work.workers[0]
        for act, said in ((lambda: file.write_text("wrong"), ""), (file.unlink, "cannot be read")):
            act()
            assert 0.0 == worker.wait_s()
            worker.run()
            assert worker.trouble is not None
            assert ("auth", False) == (worker.trouble.error.error_kind, worker.has_new_token())
            assert said in str(worker.trouble.error)
            assert "hubsync flush" in worker.trouble.hint
            assert worker.wait_s() > 50
        file.write_text("right")
        assert worker.has_new_token()
        assert worker.run() is not None


def test_the_wait_that_a_hub_asks_for_is_kept(worker: MirrorWorker, server: PlainServer) -> None:
    """A Retry-After decides the next try."""
    server.before = refuse(429, X_Request_Id="1", Retry_After="120")

    worker.run()

    assert 119 < worker.wait_s() < 122
    assert worker.trouble is not None
    assert not worker.trouble.is_parked


def test_a_long_outage_is_said_less_and_less(worker: MirrorWorker, server: PlainServer) -> None:
    """Failures 1, 2, 4 and 8 are logged, not those between; the success after them says how many there were."""
    server.before = refuse(503)
    with capture_logs() as entries:
        for _ in range(9):
            worker.run(now=True)
        server.before = lambda _: None
        worker.run(now=True)

    said = [(entry["event"], entry.get("attempt") or entry.get("failures")) for entry in entries]
    told = [one for one in said if one[0] in {"mirror.failed", "mirror.recovered"}]
    assert [*(("mirror.failed", number) for number in (1, 2, 4, 8)), ("mirror.recovered", 9)] == told
    assert {"mirror": "m0", "target": "run", "error_kind": "server", "retryable": True} == {
        key: entries[0][key] for key in ("mirror", "target", "error_kind", "retryable")
    }


def test_a_parked_mirror_is_said_once(worker: MirrorWorker, server: PlainServer) -> None:
    """A permanent failure is one error with a hint, however often it is tried."""
    server.before = refuse(401, X_Request_Id="1")
    with capture_logs() as entries:
        for _ in range(3):
            worker.run(now=True)

    parked = [entry for entry in entries if entry["event"] == "mirror.parked"]
    assert ["error"] == [entry["log_level"] for entry in parked]
    assert "token" in parked[0]["hint"]


def test_what_the_system_refuses_is_said_once(worker: MirrorWorker) -> None:
    """A lack that has a name and a cure is the mirror's failure, and no fault of hubsync's with a traceback."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(free := os.open(os.devnull, os.O_RDONLY))  # the lowest one that is free: none is left below the limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with capture_logs() as said:
            assert worker.run() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    [line] = said
    assert ("mirror.failed", "local_io") == (line["event"], line["error_kind"])
    assert "LimitNOFILE=" in line["hint"]


@pytest.mark.parametrize("knows_hub", [False, True])
def test_a_page_in_place_of_the_api_is_waited_out(hub: LocalHub, make_rig: Callable[..., Rig], *, knows_hub: bool) -> None:
    """A login page tells neither that no repository is there, nor that one which is there is private as before."""
    with FaultProxy(hub) as proxy:
        rig = make_rig(proxy)
        worker = rig.work.workers[0]
        if knows_hub:
            rig.write("a.txt", b"1")
            rig.commit()
            assert worker.run() is not None
        rig.write("b.bin", b"\0" * 100)
        rig.commit()
        proxy.show(" /api/", lambda exchange: exchange.answer(200, b"<html>sign in</html>", {"Content-Type": "text/html"}))
        assert worker.run() is None
        assert worker.trouble is not None
        assert ("server", True) == (worker.trouble.error.error_kind, worker.trouble.error.retryable)
        assert "login page" in worker.trouble.hint
        proxy.clear()

        assert worker.run(now=True) is not None


def test_a_stop_is_no_failure(rig: Rig, server: PlainServer) -> None:
    """An interrupted publication is not counted against the mirror."""
    rig.write("model.bin", b"\0")
    rig.commit()
    worker = rig.work.workers[0]
    server.before = lambda _: rig.stop.set()

    with pytest.raises(StoppedError):
        worker.run()

    assert (None, False) == (worker.trouble, worker.is_running)


def again(rig: Rig) -> MirrorWorker:
    """Return the worker that a restarted hubsync makes of the same state."""
    first = rig.work.workers[0]
    return MirrorWorker(first.target, rig.store, first.publisher, open_limits(rig.state))


def test_a_restart_keeps_the_wait_that_a_hub_asked_for(rig: Rig, worker: MirrorWorker, server: PlainServer) -> None:
    """Nothing is asked meanwhile, unless a person wishes it; the recovery tells of the whole time."""
    server.before = refuse(429, X_Request_Id="1", Retry_After="120")
    worker.run()
    asked = len(server.requests)

    restarted = again(rig)

    assert restarted.run() is None
    assert 110 < restarted.wait_s() < 122
    assert asked == len(server.requests)
    server.before = lambda _: None
    with capture_logs() as entries:
        assert restarted.run(now=True) is not None
    (recovered,) = [entry for entry in entries if entry["event"] == "mirror.recovered"]
    assert 1 == recovered["failures"]
    assert again(rig).trouble is None


def test_a_restart_shortens_our_own_wait_and_ends_a_parking(rig: Rig, worker: MirrorWorker, server: PlainServer) -> None:
    """What may have been mended is tried soon, or at once; what is still wrong is said once more."""
    server.before = refuse(503)
    for _ in range(12):
        worker.run(now=True)
    server.before = refuse(403, X_Request_Id="1")
    assert again(rig).wait_s() <= 5
    worker.run(now=True)
    assert worker.wait_s() > 3000

    restarted = again(rig)

    assert (0.0, 13) == (restarted.wait_s(), restarted.trouble.failures if restarted.trouble else 0)
    with capture_logs() as entries:
        restarted.run()
        restarted.run(now=True)
    assert ["mirror.parked"] == [entry["event"] for entry in entries if entry["event"].startswith("mirror.")]


def test_a_clock_that_was_set_back_makes_no_negative_span(rig: Rig, worker: MirrorWorker, server: PlainServer) -> None:
    """A row of failures that began at a time yet to come has lasted since the restart."""
    server.before = refuse(503)
    worker.run()
    notes = TroubleNotes(rig.store.ledger, worker.mirror)
    note = notes.read()
    assert note is not None
    notes.write(replace(note, since=note.since + 3600))

    restarted = again(rig)

    assert restarted.trouble is not None
    assert restarted.trouble.down_s >= 0


def test_a_note_that_cannot_be_read_is_none(rig: Rig, worker: MirrorWorker, server: PlainServer) -> None:
    """A damaged note costs nothing but the wait."""
    server.before = refuse(429, X_Request_Id="1", Retry_After="120")
    worker.run()
    for name in [f"trouble {worker.mirror.name} {worker.mirror.endpoint}:model/{REPO}"]:
        assert rig.store.ledger.meta(name)
        rig.store.ledger.set_meta(name, "{broken")

    assert again(rig).trouble is None


def test_each_push_that_arrives_ends_the_trouble(make_rig: Callable[..., Rig], server: PlainServer) -> None:
    """A backlog may take hours after an outage: from the newest unit's push on the mirror works again, and says so."""
    rig = make_rig(server, units=("checkpoint-*",), complete_when=("DONE",))
    worker = rig.work.workers[0]
    rig.update()
    for step in (1, 2):
        for name in ("w.bin", "DONE"):
            os.utime(rig.write(f"checkpoint-{step}/{name}", b"\0%d" % step), (1_600_000_000 + step,) * 2)
    rig.commit()
    server.before = refuse(503)
    worker.run()
    pushes: list[Request] = []

    def refuse_second(request: Request) -> None:
        if request.is_push:
            pushes.append(request)
            if len(pushes) > 1:
                raise AnswerError(503, b"")

    server.before = refuse_second
    with capture_logs() as log:
        worker.run(now=True)

    said = [entry for entry in log if entry["event"] in {"mirror.recovered", "mirror.failed"}]
    told = [(entry["event"], entry.get("attempt")) for entry in said]
    assert [("mirror.recovered", None), ("mirror.failed", 1)] == told
