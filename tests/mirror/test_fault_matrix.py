"""Every fault at every route of a Hub: known for what it is, harmless to the other mirror, and over when it is over.

A short table runs with the other tests; ``HUBSYNC_MATRIX=whole`` (``make soak``) runs all of it.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from support import fault_proxy as faults
from support.fault_proxy import FaultProxy
from support.rig import REPO, Rig, safetensors
from support.running import digests, download

from hubsync.localhub import LocalHub, Settings
from hubsync.mirror.worker import MirrorWorker

_STALL_S = 1.5
_MOST_REQUESTS = 60  # of one try: three lost races, each with a fetch
_PART_BYTES = 100_000
_THEIRS = "hf_" + "t" * 34  # hubsync's own token goes to the proxy alone
LATE = "Sun, 29 Nov 2099 00:00:00 GMT"
COMMITS = b'{"error":"You have exceeded the rate limit for repository commits (128 per hour). You can retry this action in \
about 1 hour."}'

Outcome = tuple[str, bool] | None  # error kind and whether it is retryable; None: nothing went wrong
SERVER, NETWORK, TIMEOUT, STALLED = ("server", True), ("network", True), ("timeout", True), ("stalled", True)
AUTH, FORBIDDEN, NOT_FOUND = ("auth", False), ("forbidden", False), ("not_found", False)


@dataclass(frozen=True)
class Route:
    """Where a fault is shown: requests of the *transport* that match *pattern*."""

    transport: str
    pattern: str
    is_json: bool = True
    part_bytes: int | None = None
    exists: bool = True


ROUTES = {
    "refs": Route("git", r"GET .*/info/refs\?service=git-upload-pack", is_json=False),
    "refs-push": Route("git", r"GET .*/info/refs\?service=git-receive-pack", is_json=False),
    "upload-pack": Route("git", r"POST .*/git-upload-pack", is_json=False),
    "receive-pack": Route("git", r"POST .*/git-receive-pack", is_json=False),
    "batch": Route("git", r"POST .*/objects/batch"),
    "put": Route("git", r"PUT /_lfs/", is_json=False),
    "verify": Route("git", r"POST .*/info/lfs/verify", is_json=False),
    "part": Route("git", r"PUT /_lfs/", is_json=False, part_bytes=_PART_BYTES),
    "complete": Route("git", r"POST /api/complete_multipart", is_json=False, part_bytes=_PART_BYTES),
    "info": Route("git", rf"GET /api/models/{REPO}\?expand="),
    "create": Route("git", r"POST /api/repos/create", exists=False),
    "http-refs": Route("http", rf"GET /api/models/{REPO}/refs"),
    "http-tree": Route("http", rf"GET /api/models/{REPO}/tree"),
    "http-batch": Route("http", r"POST .*/objects/batch"),
    "http-put": Route("http", r"PUT /_lfs/", is_json=False),
    "http-verify": Route("http", r"POST .*/info/lfs/verify", is_json=False),
    "http-yaml": Route("http", r"POST /api/validate-yaml"),
    "http-commit": Route("http", rf"POST /api/models/{REPO}/commit/"),
}

STATUSES: dict[int, Outcome] = {
    401: AUTH, 403: FORBIDDEN, 404: NOT_FOUND, 409: ("conflict", True), 412: ("conflict", True), 413: ("too_large", False),
    416: SERVER, 422: ("rejected", False), 429: ("rate_limited", True), **dict.fromkeys((500, 502, 503, 504), SERVER),
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What is shown, what it shall be taken for (one of *outcomes*), and how long a wait is asked for."""

    act: faults.Fault
    outcomes: tuple[Outcome, ...]
    wait_s: tuple[float, float] | None = None


LIMITED = (STATUSES[429],)
FAULTS = {
    **{str(code): Fault(faults.status(code), (outcome,)) for code, outcome in STATUSES.items()},
    "retry-after": Fault(faults.status(429, Retry_After="77"), LIMITED, (60, 78)),
    "retry-date": Fault(faults.status(429, Retry_After=LATE), LIMITED, (3500, 3601)),
    "ratelimit": Fault(faults.status(429, RateLimit='"api";r=0;t=55'), LIMITED, (40, 56)),
    "unavailable": Fault(faults.status(503, Retry_After="44"), (SERVER,), (30, 45)),
    "reset": Fault(faults.reset(), (NETWORK,)),
    "reset-late": Fault(faults.reset(50_000), (NETWORK,)),
    "hole": Fault(faults.hole, (TIMEOUT, STALLED)),
    "drip": Fault(faults.drip, (TIMEOUT, STALLED)),
    "slow-reader": Fault(faults.read_slowly, (TIMEOUT, STALLED, NETWORK)),
    "endless-error": Fault(faults.endless(500), (SERVER,)),
    "ansi": Fault(faults.status(403, b'{"error":"\\u001b[2J\\u001b[31mred \\u202e"}'), (FORBIDDEN,)),
}
# Answers that are no errors, to what ought to be answered with JSON.
BODIES = {
    "garbage": faults.content(b"\x00\xff<html>"),
    "empty": faults.content(b""),
    "page": faults.content(b"<html>sign in</html>", Content_Type="text/html"),
    "deep-list": faults.content(b"[" * 500_000),
    "deep-object": faults.content(b'{"a":' * 300_000),
    "list": faults.content(b"[]"),
    "null": faults.content(b"null"),
    "huge-number": faults.content(b'{"id":1e999,"sha":' + b"9" * 5000 + b',"objects":[{"oid":1e999}]}'),
    "bomb": faults.bomb(),
    "endless": faults.endless(),
}
FAULTS |= {name: Fault(act, (SERVER,)) for name, act in BODIES.items()}
FAULTS["chatter"] = Fault(faults.chatter, (STALLED,))  # a server that talks beside its answer to git

_STORAGE = ("put", "part", "complete", "verify", "http-put", "http-verify")
# Where the general rule does not hold, and why.
OTHERWISE: dict[tuple[str, str], tuple[Outcome, ...]] = {
    ("info", "404"): (None,),  # a server without the Hub's API is no error: git tells
    ("create", "404"): (NOT_FOUND,),
    ("http-tree", "list"): (None,),  # an empty repository is none, either
    ("create", "409"): (SERVER,),  # it is there already, says the client, and looks for its address in the answer
    **{("info", name): (None,) for name in BODIES if name not in {"bomb", "endless"}},
    # git reads an answer without end to its end, and is ended for making no progress.
    **{(route, "endless-error"): (STALLED,) for route in ("refs", "refs-push", "upload-pack", "receive-pack")},
    # The address that the Hub gave is refused: a new one comes with the next try.
    **{(route, code): (SERVER,) for route in _STORAGE for code in ("401", "403", "404", "ansi")},
}


def cases(route: str) -> Iterator[str]:
    """Yield the faults that make sense at a route."""
    for name in FAULTS:
        if name == "chatter":
            if route == "receive-pack":
                yield name
        elif name not in BODIES or ROUTES[route].is_json:
            yield name


WHOLE = [(route, fault) for route in ROUTES for fault in cases(route)]
SHORT = [
    ("refs", "retry-after"),
    ("upload-pack", "401"),
    ("receive-pack", "hole"),
    ("batch", "deep-list"),
    ("batch", "retry-date"),
    ("put", "ratelimit"),
    ("put", "reset-late"),
    ("part", "422"),
    ("put", "401"),
    ("complete", "404"),
    ("info", "drip"),
    ("create", "bomb"),
    ("http-batch", "retry-date"),
    ("http-put", "403"),
    ("http-put", "endless-error"),
    ("http-commit", "endless"),
]
TABLE = WHOLE if os.environ.get("HUBSYNC_MATRIX") == "whole" else SHORT


@dataclass
class Scene:
    """One target with a mirror behind a proxy and another one that is well."""

    hub: LocalHub
    proxy: FaultProxy
    rig: Rig

    @property
    def worker(self) -> MirrorWorker:
        """What keeps the mirror behind the proxy going."""
        return self.rig.work.workers[0]

    def outcome(self) -> Outcome:
        """Return how the last try went; what the mirror refuses of single files counts."""
        if (trouble := self.worker.trouble) is not None:
            return trouble.error.error_kind, trouble.error.retryable
        kinds = self.worker.publisher.refusals.kinds()
        return (min(kinds), False) if kinds else None

    def is_done(self) -> bool:
        """Tell whether nothing is left to do."""
        return self.outcome() is None and not self.worker.publisher.backlog()


MakeScene = Callable[[Route], Scene]


@pytest.fixture
def make_scene(tmp_path: Path, make_rig: Callable[..., Rig]) -> Iterator[MakeScene]:
    """Give what sets the scene: two Hubs, a foreign commit to graft on, and files of all kinds, committed."""
    with (
        LocalHub(tmp_path / "hub", users={_THEIRS: "they"}) as hub,
        LocalHub(tmp_path / "other") as other,
        FaultProxy(hub) as proxy,
    ):

        def make(route: Route) -> Scene:
            if route.part_bytes:
                hub.settings = Settings(single_max_bytes=route.part_bytes, part_bytes=route.part_bytes)
            if route.exists:
                api = HfApi(endpoint=hub.url, token=_THEIRS)
                api.create_repo(REPO, private=True)
                api.create_commit(REPO, [CommitOperationAdd("theirs.md", b"theirs")], commit_message="theirs")
            patience = {"timeout_s": _STALL_S, "stall_s": _STALL_S}
            rig = make_rig(proxy, other, mirror={"transport": route.transport}, endpoint=patience)
            rig.write("model.safetensors", safetensors(3 * _PART_BYTES))
            rig.write("config.json", b"{}")
            rig.write("README.md", b"---\nlicense: mit\n---\n# A model\n")
            rig.commit()

            return Scene(hub, proxy, rig)

        yield make


def expect_recovery(scene: Scene, tmp_path: Path) -> None:
    """Let the fault be over: what is left arrives by itself, within the waits that were announced."""
    scene.proxy.clear()
    for _ in range(6):
        is_long = scene.worker.wait_s() > 3 or bool(scene.worker.publisher.refusals.reasons())
        time.sleep(0 if is_long else scene.worker.wait_s())
        scene.worker.run(now=is_long)
        if scene.is_done():
            break
    wanted = digests(scene.rig.source)
    got = download(SimpleNamespace(url=scene.hub.url, token=_THEIRS), REPO, tmp_path / "got")

    assert scene.is_done(), scene.worker.trouble or scene.worker.publisher.refusals.reasons()
    assert wanted == {path: digest for path, digest in got.items() if path != "theirs.md"}


def children_of(rig: Rig) -> list[str]:
    """Return the command lines of processes that work on the rig's state."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            lines.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in lines if str(rig.state) in line]


@pytest.mark.parametrize(("route", "fault"), TABLE, ids=[f"{route}-{fault}" for route, fault in TABLE])
def test_a_fault_is_known_and_harmless_and_ends(route: str, fault: str, make_scene: MakeScene, tmp_path: Path) -> None:
    """One try fails as it should, asks little, shows the token to nobody; the other mirror gets all; then all arrives."""
    scene = make_scene(ROUTES[route])
    shown = FAULTS[fault]
    scene.proxy.show(ROUTES[route].pattern, shown.act)

    scene.worker.run()
    wait_s = scene.worker.wait_s()
    scene.rig.work.workers[1].run()

    outcome, trouble = scene.outcome(), scene.worker.trouble
    assert scene.proxy.shown
    assert outcome in OTHERWISE.get((route, fault), shown.outcomes), trouble or scene.worker.publisher.refusals.reasons()
    assert not scene.rig.work.workers[1].publisher.backlog()
    assert len(scene.proxy.requests) < _MOST_REQUESTS
    assert [] == children_of(scene.rig)
    assert trouble is None or (trouble.hint and str(trouble.error).isprintable())
    if shown.wait_s and trouble is not None:
        assert shown.wait_s[0] < wait_s <= shown.wait_s[1]
    expect_recovery(scene, tmp_path)
    hosts = {request.host.partition(":")[0] for request in scene.proxy.requests if "Authorization" in request.headers}
    assert {"127.0.0.1"} == hosts
