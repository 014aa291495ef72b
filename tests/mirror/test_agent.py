"""The transfer agent, as git-lfs runs it, against a server that is not ours."""

import hashlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from support.lfs_server import LfsRequest, LfsServer
from support.plain_server import AnswerError, CutError
from support.rig import NO_LOGIN

from hubsync.config.model import Endpoint, Mirror, TokenSource
from hubsync.config.rates import parse_rate
from hubsync.errors import MirrorError
from hubsync.mirror.remote import Remote
from hubsync.mirror.token import Tokens
from hubsync.mirror.uploads import UploadError, declare_limit
from hubsync.store.capture import Capturer
from hubsync.store.git import Git
from hubsync.store.hashing import run
from hubsync.store.objects import Objects, Pin, PinKind
from hubsync.store.route import RouteRules
from hubsync.watch.inventory import look

TOKEN = "hf_agentcanary"
PART = 100_000


@dataclass
class Store:
    """A store whose objects go to *server*."""

    root: Path
    server: LfsServer
    endpoint: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.git = Git(self.root / "store.git")
        self.git.open()
        self.objects = Objects(self.git.git_dir)
        self.objects.open()

    def pin(self, content: bytes, *, oid: str | None = None) -> str:
        """Lay down an object, under a wrong *oid* if one is given."""
        oid = oid or hashlib.sha256(content).hexdigest()
        path = self.objects.path(oid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return oid

    def capture(self, content: bytes) -> tuple[str, Path]:
        """Capture a file with *content*; return its oid, and the file, which shares its bytes with the pin."""
        source = self.root / "source"
        source.mkdir()
        file = source / "a.bin"
        file.write_bytes(content)
        entry = look(source, file.name)
        assert entry
        captured = run(Capturer(source, self.objects, RouteRules(("*.bin",), 0), "link").capture(entry))
        assert captured.pointer
        return captured.pointer.oid, file

    def remote(self) -> Remote:
        """Return the way to the server."""
        (self.root / "token").write_text(TOKEN)
        source = TokenSource(file=self.root / "token")
        options = {"timeout_s": 10.0, "stall_s": 20.0, **self.endpoint}
        endpoint = Endpoint(name="e", url=self.server.url, token=source, **options)
        mirror = Mirror(name="m", endpoint="e", repo_id="acme/x", repo_type="model")
        return Remote(self.git, self.objects, mirror, endpoint, Tokens(NO_LOGIN), threading.Event())

    def upload(self, *oids: str, **options: Any) -> None:
        """Upload objects."""
        self.remote().upload_objects(oids, **options)

    def fail(self, *oids: str) -> UploadError:
        """Upload objects and return why that failed."""
        with pytest.raises(MirrorError) as caught:
            self.upload(*oids)
        assert isinstance(caught.value, UploadError), caught.value
        return caught.value


@pytest.fixture
def server() -> Iterator[LfsServer]:
    with LfsServer() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, server: LfsServer) -> Store:
    return Store(tmp_path, server)


def at(where: str, act: Callable[[], None]) -> Callable[[LfsRequest], None]:
    """Return a hook that does *act* at requests with *where* in their path."""

    def hook(request: LfsRequest) -> None:
        if where in request.path:
            act()

    return hook


def refuse(*answers: Exception) -> Callable[[], None]:
    """Return what raises *answers* in turn, then nothing."""
    left = list(answers)

    def act() -> None:
        if left:
            raise left.pop(0)

    return act


def test_objects_arrive_whole_and_are_asked_for_together(server: LfsServer, store: Store) -> None:
    """Many objects cost one request to the Batch API, and each is put once and verified."""
    oids = [store.pin(os.urandom(5000)) for _ in range(30)]

    store.upload(*oids)

    assert set(oids) == server.objects
    assert (1, 30, 30) == tuple(
        map(server.count, ("POST /acme/x.git/info/lfs/objects/batch", "PUT /whole", "POST /verify"))
    )


def test_the_token_is_shown_to_the_lfs_api_only(server: LfsServer, store: Store) -> None:
    """Storage on another host gets the headers that came with its address, and nothing else of ours."""
    server.part_bytes = PART

    store.upload(store.pin(os.urandom(3 * PART)), store.pin(b"small"))

    shown = {request.path.split("/")[1] for request in server.requests if "Authorization" in request.headers}
    assert {"acme"} == shown


def test_an_address_on_another_host_gets_no_token(server: LfsServer, store: Store) -> None:
    """Also where the answer leaves it to us to sign in: only the API's own host is told the token then."""
    plain = server.batch

    def batch(asked: dict[str, Any]) -> dict[str, Any]:
        answer = plain(asked)
        for thing in answer["objects"]:
            del thing["authenticated"]
        return answer

    server.batch = batch  # type: ignore[method-assign]

    store.upload(store.pin(b"small"))

    signed = {request.path.split("/")[1]: "Authorization" in request.headers for request in server.requests}
    assert {"acme": True, "whole": False, "verify": True} == signed


def test_what_the_server_has_is_not_sent(server: LfsServer, store: Store) -> None:
    """An object without actions is done."""
    oid = store.pin(b"known")
    server.objects.add(oid)

    store.upload(oid)

    assert 0 == server.count("PUT")


@pytest.mark.parametrize("numbers", ["{:05}", "{}"])
def test_a_large_object_arrives_in_parts(server: LfsServer, store: Store, numbers: str) -> None:
    """Parts go where the Hub says, also if it does not pad their numbers, and are completed in order."""
    server.part_bytes, server.numbers = PART, numbers
    content = os.urandom(12 * PART + 1)

    oid = store.pin(content)
    store.upload(oid)

    (parts,) = server.uploads.values()
    expected = {n + 1: hashlib.sha256(content[n * PART : (n + 1) * PART]).digest() for n in range(13)}
    assert expected == parts
    assert {oid} == server.objects


@pytest.mark.parametrize("answer", [AnswerError(503), CutError(), AnswerError(429, Retry_After="0")])
def test_a_part_that_fails_is_sent_again_alone(server: LfsServer, store: Store, answer: Exception) -> None:
    """The other parts are sent once."""
    server.part_bytes = PART
    server.before = at("/3?", refuse(answer))

    oid = store.pin(os.urandom(6 * PART))
    store.upload(oid)

    assert {oid} == server.objects
    assert [1, 1, 1, 1, 1, 2] == sorted(server.puts().values())


def test_parts_that_arrived_are_not_sent_again_after_a_restart(server: LfsServer, store: Store) -> None:
    """A new run goes on with the upload that an earlier one began, although the server offers a new one."""
    server.part_bytes = PART
    server.before = at("/5?", refuse(*[AnswerError(503, Retry_After="3600")] * 9))
    oid = store.pin(os.urandom(5 * PART))
    failure = store.fail(oid)
    server.before = lambda _: None

    store.upload(oid)

    assert ("server", 3600.0) == (failure.error_kind, failure.retry_after_s)
    assert {oid} == server.objects
    assert [1, 1, 1, 1, 2] == sorted(server.puts().values())
    assert [] == list((store.git.git_dir / "lfs" / "uploads").iterdir())


def test_an_upload_that_the_server_forgot_begins_anew(server: LfsServer, store: Store) -> None:
    """Parts of an upload that is gone are sent to a new one."""
    server.part_bytes = PART
    server.before = at("/2?", refuse(*[AnswerError(503, Retry_After="3600")] * 9))
    oid = store.pin(os.urandom(3 * PART))
    store.fail(oid)
    (forgotten,) = server.uploads
    server.before = at(forgotten, refuse(*[AnswerError(404)] * 9))

    store.upload(oid)

    assert {oid} == server.objects


def test_spoiled_bytes_never_arrive_whole(server: LfsServer, store: Store) -> None:
    """The last block is held back until the hash is right."""
    oid = store.pin(b"x" * 3_000_000, oid="0" * 64)

    failure = store.fail(oid)

    assert ("spoiled", True) == (failure.error_kind, failure.retryable)
    assert set() == server.objects
    assert 0 < sum(count for _, count in server.arrivals) < 3_000_000


def test_spoiled_parts_are_never_completed(server: LfsServer, store: Store) -> None:
    """A writer that changes a hard-linked file while its parts are sent spoils the upload, even after they are sent."""
    server.part_bytes = PART
    oid = store.pin(bytes(5 * PART))

    def write() -> None:
        with store.objects.path(oid).open("r+b") as file:
            file.seek(4 * PART)
            file.write(b"changed")

    server.before = at("/5?", write)

    assert "spoiled" == store.fail(oid).error_kind
    assert 0 == server.count("POST /complete")


@pytest.mark.parametrize("part_bytes", [None, PART])
@pytest.mark.parametrize("offset", [0, 2_999_999])
def test_what_changed_since_it_was_hashed_never_arrives(
    server: LfsServer, store: Store, part_bytes: int | None, offset: int
) -> None:
    """A byte that a writer changed in place, the first or the last, makes the upload a spoiled one."""
    server.part_bytes = part_bytes
    oid, file = store.capture(bytes(3_000_000))
    with file.open("r+b") as writer:
        writer.seek(offset)
        writer.write(b"!")

    assert "spoiled" == store.fail(oid).error_kind
    assert (set(), 0) == (server.objects, server.count("POST /complete"))


def test_bytes_that_were_hashed_by_this_process_are_not_hashed_again(server: LfsServer, store: Store) -> None:
    """The fingerprint of what was hashed stands for it, whatever it is called; another process hashes anew."""
    content = os.urandom(3_000_000)
    oid, _ = store.capture(content)
    wrong = store.pin(content, oid="0" * 64)
    store.objects.keep(Pin(store.root / "pin", PinKind.LINK), wrong, store.objects.fingerprint(oid))

    store.upload(oid, wrong)

    assert {oid, wrong} == server.objects
    assert not Objects(store.git.git_dir).fingerprint(oid)


def test_bytes_that_cannot_change_are_not_hashed(server: LfsServer, store: Store) -> None:
    """Who says that a pin is no link saves the time."""
    oid = store.pin(b"whatever", oid="0" * 64)

    store.upload(oid, immutable={oid})

    assert {oid} == server.objects


@pytest.mark.parametrize(("status", "kind"), [(413, "too_large"), (422, "rejected")])
def test_one_refused_object_does_not_stop_the_others(server: LfsServer, store: Store, status: int, kind: str) -> None:
    """The error names what arrived, and what went wrong with the one that did not."""
    oids = [store.pin(os.urandom(1000)) for _ in range(5)]
    server.before = at(oids[1], refuse(*[AnswerError(status, b'{"message": "not this one"}')] * 9))

    failure = store.fail(*oids)

    assert set(oids) - {oids[1]} == server.objects == failure.uploaded
    assert {oids[1]: (kind, False)} == {oid: (one.error_kind, one.retryable) for oid, one in failure.refused.items()}
    assert "not this one" in str(failure)


@pytest.mark.parametrize(
    ("status", "kind"),
    [*((status, "server") for status in (401, 402, 403, 404, 410, 451)), (507, "quota"), (509, "quota")],
)
@pytest.mark.parametrize("where", ["/whole", "/verify"])
def test_a_storage_that_refuses_its_address_has_nothing_against_the_object(
    server: LfsServer, store: Store, status: int, kind: str, where: str
) -> None:
    """Whatever it answers to a new address too is tried again later, and the others arrive."""
    oids = [store.pin(os.urandom(1000)) for _ in range(3)]
    answer = AnswerError(status, b"Insufficient storage: Forbidden")
    server.before = at(where, refuse(*[answer] * 99))

    failure = store.fail(*oids)

    assert (kind, True) == (failure.error_kind, failure.retryable)
    assert "storage" in failure.hint
    assert len(server.puts()) <= 3 * 2


def test_a_full_storage_tells_more_than_a_refused_object(server: LfsServer, store: Store) -> None:
    """One object is too large, the next ones are not taken for now: the mirror is tried again."""
    oids = [store.pin(os.urandom(1000)) for _ in range(3)]
    status = dict(zip(oids, (413, 401, 200), strict=True))

    def answer(request: LfsRequest) -> None:
        for oid in oids[:2]:
            if request.method == "PUT" and oid in request.path:
                raise AnswerError(status[oid])

    server.before = answer

    failure = store.fail(*oids)

    assert ("server", True) == (failure.error_kind, failure.retryable)
    assert {oids[2]} == failure.uploaded


def test_an_object_that_the_batch_refuses_is_told_apart_too(server: LfsServer, store: Store) -> None:
    """An error inside the Batch API's answer is that object's own."""
    oids = [store.pin(os.urandom(1000)) for _ in range(3)]
    plain = server.batch

    def batch(asked: dict[str, Any]) -> dict[str, Any]:
        answer = plain(asked)
        answer["objects"][0] = {"oid": oids[0], "error": {"code": 413, "message": "too much"}}
        return answer

    server.batch = batch  # type: ignore[method-assign]

    failure = store.fail(*oids)

    assert {oids[0]} == failure.refused.keys()
    assert set(oids[1:]) == failure.uploaded


@pytest.mark.parametrize(
    ("status", "headers", "kind", "wait_s"),
    [(429, {"Retry_After": "77"}, "rate_limited", 77.0), (503, {}, "server", None), (401, {}, "auth", None)],
)
def test_a_batch_that_is_refused_is_no_matter_of_one_object(
    server: LfsServer, store: Store, status: int, headers: dict[str, str], kind: str, wait_s: float | None
) -> None:
    """A server in trouble is asked as often as there are addresses to try, whatever there is to send."""
    server.before = at("/objects/batch", refuse(*[AnswerError(status, b"", **headers)] * 9))

    failure = store.fail(*(store.pin(os.urandom(100)) for _ in range(20)))

    assert (kind, wait_s, {}) == (failure.error_kind, failure.retry_after_s, failure.refused)
    assert len(server.requests) <= 2


def test_a_date_until_which_to_wait_is_kept(server: LfsServer, store: Store) -> None:
    """A Hub may name it in place of seconds (RFC 9110), and is asked once until then."""
    late = time.time() + 300
    answer = AnswerError(429, b"", Retry_After=formatdate(late, usegmt=True))
    server.before = at("/objects/batch", refuse(*[answer] * 9))

    failure = store.fail(store.pin(b"x"))

    assert failure.retry_at == pytest.approx(late, abs=1)
    assert 1 == len(server.requests)


def test_an_object_that_the_batch_is_refused_for_is_found(server: LfsServer, store: Store) -> None:
    """A 422 is about some objects of a request (docs/api/batch.md), and does not say of which: the others arrive."""
    oids = [store.pin(os.urandom(1000)) for _ in range(9)]
    plain = server.batch

    def batch(asked: dict[str, Any]) -> dict[str, Any]:
        if oids[4] in {thing["oid"] for thing in asked["objects"]}:
            raise AnswerError(422, b'{"message": "not this one"}')
        return plain(asked)

    server.batch = batch  # type: ignore[method-assign]
    failure = store.fail(*oids)

    assert set(oids) - {oids[4]} == server.objects == failure.uploaded
    assert {oids[4]: ("rejected", False)} == {oid: (one.error_kind, one.retryable) for oid, one in failure.refused.items()}
    assert "not this one" in str(failure)
    assert not failure.is_general


def test_an_expired_address_is_asked_for_again(server: LfsServer, store: Store) -> None:
    """Storage that refuses an address gets the object at a new one."""
    oid = store.pin(b"late")
    server.before = at("/whole", refuse(AnswerError(403, b"Request has expired")))

    store.upload(oid)

    assert {oid} == server.objects
    assert (2, 2) == (server.count("POST /acme"), server.count("PUT"))


def test_a_redirect_to_another_host_is_not_told_our_headers(server: LfsServer, store: Store) -> None:
    """An upload follows its storage, but what was meant for one host stays there."""
    plain = server.batch

    def batch(asked: dict[str, Any]) -> dict[str, Any]:
        answer = plain(asked)
        for thing in answer["objects"]:
            thing["actions"]["upload"] |= {
                "href": f"{server.url}/moved/{thing['oid']}",
                "header": {"Authorization": "secret", "X-Own": "1"},
            }
        return answer

    server.batch = batch  # type: ignore[method-assign]

    def redirect(request: LfsRequest) -> None:
        if request.path.startswith("/moved"):
            raise AnswerError(307, Location=f"{server.storage_url}/whole{request.path.removeprefix('/moved')}")

    server.before = redirect
    oid = store.pin(b"x" * 10)

    store.upload(oid)

    assert {oid} == server.objects
    (put,) = (request for request in server.requests if request.path.startswith("/whole"))
    assert not {"Authorization", "X-Own"} & put.headers.keys()


def test_an_upload_without_progress_is_ended(server: LfsServer, store: Store) -> None:
    """A server that answers nothing is a stall, known after `stall`, however long the upload may take otherwise."""
    store.endpoint["stall_s"] = 0.5
    over = threading.Event()
    server.before = at("/whole", lambda: over.wait(30) or None)  # type: ignore[func-returns-value]

    failure = store.fail(store.pin(b"x"))
    over.set()

    assert ("stalled", True) == (failure.error_kind, failure.retryable)


def test_an_agent_that_dies_is_a_failure_that_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a report, git-lfs's own words are kept, and it is tried again."""
    monkeypatch.setattr("sys.executable", "/bin/false")  # what git-lfs starts as the agent; git and git-lfs are real

    assert store.fail(store.pin(b"x")).retryable


def _rate(arrivals: Sequence[tuple[float, int]]) -> float:
    began, ended = arrivals[0][0], arrivals[-1][0]
    return sum(count for _, count in arrivals) / (ended - began)


def test_a_person_who_starts_the_agent_is_told() -> None:
    """It speaks with git-lfs only."""
    done = subprocess.run([sys.executable, "-m", "hubsync.mirror.agent"], capture_output=True, text=True, check=False)

    assert (1, "") == (done.returncode, done.stdout)
    assert "hubsync run" in done.stderr


def test_the_agent_imports_nothing_beyond_the_standard_library_but_xxhash() -> None:
    """One is started for each upload, and has to be small and quick."""
    code = "import sys, hubsync.mirror.agent; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout

    assert {"hubsync", "xxhash"} == {n for n in imported.split() if n not in sys.stdlib_module_names and not _is_of_site(n)}


def _is_of_site(name: str) -> bool:
    """Tell whether the interpreter imports it at every start: itself, and what .pth files of an environment name."""
    return name.startswith(("__", "_virtualenv", "sitecustomize", "_distutils_hack"))


def test_uploads_at_the_same_time_share_the_rate(server: LfsServer, tmp_path: Path) -> None:
    """Two mirrors' uploads to one endpoint are together as fast as it says, and follow when it says otherwise."""
    stores = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        stores.append(Store(tmp_path / name, server, {"upload_rate": parse_rate("4MB/s")}))
    threads = [threading.Thread(target=store.upload, args=(store.pin(os.urandom(5_000_000)),)) for store in stores]
    for thread in threads:
        thread.start()
    while not sum(count for _, count in server.arrivals) > 8_000_000:
        time.sleep(0.01)
    slow = list(server.arrivals)
    declare_limit(stores[0].remote()._endpoint.model_copy(update={"upload_rate": parse_rate("0")}))
    for thread in threads:
        thread.join()

    total = list(itertools.accumulate(count for _, count in slow))
    # Half a second's worth was saved up.
    steady = [one for one, so_far in zip(slow, total, strict=True) if so_far > 3_000_000]
    assert 3_600_000 < _rate(steady) < 4_400_000
    assert 2 == len(server.objects)
    assert _rate(server.arrivals[len(slow) :]) > 10_000_000


@pytest.mark.slow
def test_the_rate_holds_over_half_a_minute(server: LfsServer, store: Store) -> None:
    """Within a tenth of what is set."""
    store.endpoint["upload_rate"] = parse_rate("10MB/s")
    server.part_bytes = 5_000_000

    store.upload(*(store.pin(os.urandom(size)) for size in (150_000_000, 100_000_000, 30_000_000, 20_000_000)))

    assert 9_000_000 < _rate(server.arrivals) < 11_000_000


@pytest.mark.parametrize(
    "part_bytes", [32 << 20, pytest.param(512 << 20, marks=pytest.mark.slow, id="more than S3 takes at once")]
)
def test_a_large_file_takes_little_memory(server: LfsServer, store: Store, tmp_path: Path, part_bytes: int) -> None:
    """All of it arrives, in parts, and none of it stays in the agent."""
    server.part_bytes = part_bytes
    size = 10 * part_bytes + 12_345
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
    with sparse.open("rb") as file:
        oid = hashlib.file_digest(file, "sha256").hexdigest()
    goal = store.objects.path(oid)
    goal.parent.mkdir(parents=True)
    sparse.rename(goal)
    peaks: list[int] = []
    done = threading.Event()
    watcher = threading.Thread(target=_watch_memory, args=(peaks, done))
    watcher.start()

    store.upload(oid)
    done.set()
    watcher.join()

    assert {oid} == server.objects
    assert 11 == len(server.puts())
    assert 0 < max(peaks) < 150 << 20


def _watch_memory(peaks: list[int], done: threading.Event) -> None:
    """Note the resident size of agents that descend from this process."""
    while not done.wait(0.1):
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if b"hubsync.mirror.agent" in (path / "cmdline").read_bytes():
                    status = dict(line.split(":", 1) for line in (path / "status").read_text().splitlines())
                    peaks.append(int(status["VmHWM"].split()[0]) << 10)
            except (OSError, KeyError):
                continue
