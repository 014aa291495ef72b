"""The Hub's API, spoken to an embedded Hub: whether a repository is there, is private, and can be made."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import NO_LOGIN, REPO, Rig

from hubsync.config.model import Endpoint, Mirror, TokenSource
from hubsync.errors import MirrorError
from hubsync.localhub import LocalHub
from hubsync.mirror.hub import Hub
from hubsync.mirror.hub_facts import Visibility
from hubsync.mirror.token import Tokens


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as hub:
        yield hub


def mirror(**settings: object) -> Mirror:
    return Mirror(name="m", endpoint="hub", **{"repo_type": "model", "repo_id": REPO, **settings})  # type: ignore[arg-type]


def hub_at(url: str, token: Path | None) -> Hub:
    source = TokenSource(file=token) if token else None
    return Hub(Endpoint(name="hub", url=url, token=source, timeout_s=5.0), Tokens(NO_LOGIN))


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_a_missing_repository_is_made_as_private_as_declared(local: LocalHub, repo_type: str) -> None:
    """What is not there is told apart from what may not be seen, and is made once."""
    hub = hub_at(local.url, local.directory / "token")
    private, public = mirror(repo_type=repo_type), mirror(repo_type=repo_type, repo_id="acme/open", private=False)

    before = [hub.look(private).visibility, hub.look(public).visibility]
    made = [hub.create(private), hub.create(public), hub.create(private)]

    assert [Visibility.MISSING] * 2 == before
    assert [True] * 3 == made
    assert [Visibility.PRIVATE, Visibility.PUBLIC] == [hub.look(private).visibility, hub.look(public).visibility]


def test_a_token_that_cannot_be_read_is_said_to_be_that(local: LocalHub, tmp_path: Path) -> None:
    """It is no failure of the network, whoever asks first."""
    with pytest.raises(MirrorError, match="cannot be read") as caught:
        hub_at(local.url, tmp_path / "missing").list_heads(mirror())

    assert ("auth", False) == (caught.value.error_kind, caught.value.retryable)


def test_a_wrong_token_is_refused(local: LocalHub, tmp_path: Path) -> None:
    """A Hub that does not know the token says so: the mirror waits for a person, and the token is in no message."""
    (tmp_path / "wrong").write_text("hf_wrong")

    with pytest.raises(MirrorError) as caught:
        hub_at(local.url, tmp_path / "wrong").create(mirror())

    assert ("auth", False) == (caught.value.error_kind, caught.value.retryable)
    assert "hf_wrong" not in str(caught.value)


def test_a_server_without_the_api_is_no_error(server: PlainServer) -> None:
    """Plain git and LFS: nothing is known, nothing can be made, and nobody is stopped."""
    hub = hub_at(server.url, None)

    assert Visibility.UNKNOWN == hub.look(mirror()).visibility
    assert not hub.create(mirror())


@pytest.mark.parametrize(
    ("status", "headers", "kind", "wait_s"),
    [
        (401, {"X_Request_Id": "1"}, "auth", None),
        (403, {"X_Request_Id": "1"}, "forbidden", None),
        (429, {"X_Request_Id": "1", "Retry_After": "7"}, "rate_limited", 7),
        (500, {}, "server", None),
        (503, {"Retry_After": "11"}, "server", 11),
    ],
)
def test_a_refusal_is_known_by_its_status(
    server: PlainServer, status: int, headers: dict[str, str], kind: str, wait_s: float | None
) -> None:
    """The status of the API is read as that of git is, with the wait that the Hub asks for."""

    def refuse(_: Request) -> None:
        raise AnswerError(status, b'{"error": "no"}', Content_Type="application/json", **headers)

    server.before = refuse

    with pytest.raises(MirrorError) as caught:
        hub_at(server.url, None).look(mirror())

    assert (kind, wait_s) == (caught.value.error_kind, caught.value.retry_after_s), str(caught.value)
    assert 1 == len(server.requests)


def test_a_captive_portal_is_no_hub(server: PlainServer) -> None:
    """A page in the place of an answer means that nothing is known."""

    def greet(_: Request) -> None:
        raise AnswerError(200, b"<html>please sign in</html>" * 100, Content_Type="text/html")

    server.before = greet

    assert Visibility.UNKNOWN == hub_at(server.url, None).look(mirror()).visibility


def test_the_token_stays_with_its_hub_wherever_an_answer_points(server: PlainServer, tmp_path: Path) -> None:
    """The next page of a listing, and who is to verify an upload, may be said to be anywhere."""
    (tmp_path / "token").write_text("hf_secret")
    hub = hub_at(server.url, tmp_path / "token")
    (tmp_path / "x.bin").write_bytes(b"x" * 100)
    oid = hashlib.sha256(b"x" * 100).hexdigest()

    def answer(request: Request) -> None:
        if request.host == "storage":
            raise AnswerError(200, b"[]", Content_Type="application/json")
        if request.path.endswith("/objects/batch"):
            href = {name: {"href": f"{server.storage_url}/{name}"} for name in ("upload", "verify")}
            told = {"objects": [{"oid": oid, "size": 100, "actions": href}]}
            raise AnswerError(200, json.dumps(told).encode(), Content_Type="application/vnd.git-lfs+json")
        raise AnswerError(200, b"[]", Content_Type="application/json", Link=f'<{server.storage_url}/2>; rel="next"')

    server.before = answer
    hub.list_files(mirror(), "main")
    hub.upload(mirror(), {oid: tmp_path / "x.bin"}, lambda path: path.open("rb"))

    told = [(request.path, request.authorization) for request in server.requests]
    assert any(authorization for _, authorization in told)
    assert {"/2": "", "/upload": "", "/verify": ""}.items() <= dict(told).items()


def test_a_hub_that_is_not_there_is_tried_again() -> None:
    """A refused connection may be over soon."""
    with pytest.raises(MirrorError) as caught:
        hub_at("http://127.0.0.1:9", None).look(mirror())

    assert ("network", True) == (caught.value.error_kind, caught.value.retryable)


def test_a_slow_hub_is_left_after_the_timeout(server: PlainServer) -> None:
    """The client's own default would wait for ever, for a question as well as for a wish."""
    hub = Hub(Endpoint(name="hub", url=server.url, timeout_s=0.2), Tokens(NO_LOGIN))
    released = threading.Event()
    server.before = lambda _: released.wait(5)  # type: ignore[assignment, return-value]

    kinds = []
    for act in (hub.look, hub.create):
        with pytest.raises(MirrorError) as caught:
            act(mirror())
        kinds.append((caught.value.error_kind, caught.value.retryable))
    released.set()

    assert [("timeout", True)] * 2 == kinds


def test_hubs_have_their_own_patience(server: PlainServer, local: LocalHub) -> None:
    """An endpoint that is waited for otherwise breaks no request of another one off, nor changes its deadline."""
    slow = Hub(Endpoint(name="slow", url=local.url, token=TokenSource(env="T"), timeout_s=20.0), Tokens({"T": local.token}))
    fault = local.add_fault("GET */api/models/* delay=2s")
    seen: list[Visibility] = []
    waiting = threading.Thread(target=lambda: seen.append(slow.look(mirror()).visibility))
    waiting.start()
    while not fault.met:
        time.sleep(0.01)
    quick = Hub(Endpoint(name="quick", url=server.url, timeout_s=0.2), Tokens(NO_LOGIN))

    quick.look(mirror())
    waiting.join()

    assert [Visibility.MISSING] == seen


def test_what_was_private_and_became_public_is_not_published(server: PlainServer, make_rig: Callable[..., Rig]) -> None:
    """Before anything is sent, the repository is looked at: private models go to no public place."""
    visibility = {"private": False}

    def answer(request: Request) -> None:
        if request.path.startswith("/api/"):
            body = b'{"id": "acme/x", "private": %s}' % (b"true" if visibility["private"] else b"false")
            raise AnswerError(200, body, Content_Type="application/json")

    server.before = answer
    rig = make_rig(server)
    rig.write("model.bin", b"\0secret")
    with pytest.raises(MirrorError) as caught:
        rig.update()
    assert ("forbidden", False) == (caught.value.error_kind, caught.value.retryable)
    assert {} == server.objects

    visibility["private"] = True
    rig.update()

    assert {"model.bin": b"\0secret"} == server.read_all(REPO)
