"""Large objects in parts, and what there may be too much of: requests, commits, bytes."""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from localhub.clones import Clone
from msgspec.structs import replace

from hubsync.localhub import LocalHub, Settings

CONTENT = bytes(range(256)) * 10
OID = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _default_settings(hub: LocalHub) -> Iterator[None]:
    yield
    hub.settings = Settings()


@pytest.fixture
def parts(hub: LocalHub) -> None:
    hub.settings = Settings(single_max_bytes=1000, part_bytes=1000)


def ask(http: httpx2.Client, repo_id: str, *transfers: str) -> httpx2.Response:
    asked = {"operation": "upload", "transfers": transfers, "objects": [{"oid": OID, "size": len(CONTENT)}]}
    return http.post(f"/{repo_id}.git/info/lfs/objects/batch", json=asked)


def put(upload: dict[str, Any], *numbers: int) -> list[dict[str, Any]]:
    parts = []
    for number in numbers:
        answer = httpx2.put(upload["header"][f"{number:05}"], content=CONTENT[(number - 1) * 1000 : number * 1000])
        assert 200 == answer.status_code
        parts.append({"partNumber": number, "etag": answer.headers["ETag"]})
    return parts


@pytest.mark.usefixtures("parts")
def test_the_client_sends_a_large_object_in_parts(hub: LocalHub, api: HfApi, repo_id: str) -> None:
    """huggingface_hub follows the answer; a part's ETag is its MD5, as on S3."""
    hub.forget_requests()
    api.upload_file(path_or_fileobj=b"\0" + CONTENT, path_in_repo="a.bin", repo_id=repo_id)
    sent = [request.bytes_in for request in hub.requests if request.method == "PUT"]

    assert [1000, 1000, 561] == sent
    assert api.file_exists(repo_id, "a.bin")


@pytest.mark.usefixtures("parts")
def test_an_upload_in_parts_can_be_resumed(http: httpx2.Client, repo_id: str) -> None:
    """In any order, a part twice, the completion twice: the object is there once it is whole."""
    answer = ask(http, repo_id, "basic", "multipart").json()
    upload = answer["objects"][0]["actions"]["upload"]
    third, _ = put(upload, 3, 3)
    first, second = put(upload, 1, 2)
    missing = http.post(upload["href"], json={"oid": OID, "parts": [first, {**second, "etag": '"0"'}, third]})
    done = [http.post(upload["href"], json={"oid": OID, "parts": [first, second, third]}).status_code for _ in range(2)]

    assert "multipart" == answer["transfer"]
    assert {"chunk_size", "00001", "00002", "00003"} == upload["header"].keys()
    assert f'"{hashlib.md5(CONTENT[:1000]).hexdigest()}"' == first["etag"]
    assert (400, "InvalidPart") == (missing.status_code, missing.json()["error"][:11])
    assert [200, 200] == done
    assert "actions" not in ask(http, repo_id, "basic", "multipart").json()["objects"][0]


@pytest.mark.usefixtures("parts")
def test_parts_that_are_not_the_object_are_refused(http: httpx2.Client, repo_id: str) -> None:
    """A part of another size, parts in the wrong place, a changed address, an upload that is over."""
    upload = ask(http, repo_id, "basic", "multipart").json()["objects"][0]["actions"]["upload"]
    short = httpx2.put(upload["header"]["00001"], content=b"x")
    swapped = httpx2.put(upload["header"]["00001"], content=CONTENT[1000:2000])
    parts = [{"partNumber": 1, "etag": swapped.headers["ETag"]}, *put(upload, 2, 3)]
    wrong = http.post(upload["href"], json={"oid": OID, "parts": parts})
    forged = httpx2.put(upload["header"]["00001"].replace("partNumber=1", "partNumber=2"), content=CONTENT[:1000])

    assert [400, 400, 403] == [short.status_code, wrong.status_code, forged.status_code]


@pytest.mark.usefixtures("parts")
def test_a_client_that_knows_no_parts_is_told_what_to_do(clone: Clone) -> None:
    """git-lfs alone cannot send an object that large, as on the Hub above 5 GB."""
    clone.git("lfs", "track", "*.bin")
    clone.put("a.bin", CONTENT)
    clone.commit()

    assert "You need to configure your repository to enable upload of files > 5GB" in clone.push()


def test_requests_are_limited_by_user(
    hub: LocalHub, http: httpx2.Client, api: HfApi, repo_id: str, anonymous: httpx2.Client
) -> None:
    """Every answer says what is left; the one too many says how long to wait, in the client's own words."""
    hub.settings = Settings(requests_per_window=1)
    answers = [http.get("/api/whoami-v2"), http.get("/api/whoami-v2")]
    with pytest.raises(HfHubHTTPError, match="you have reached your 'api' rate limit") as caught:
        api.model_info(repo_id)

    assert [200, 429] == [answer.status_code for answer in answers]
    assert '"api";r=0;t=' in answers[1].headers["RateLimit"]
    assert '"fixed window";"api";q=1;w=300' == answers[0].headers["RateLimit-Policy"]
    assert 0 < int(answers[1].headers["Retry-After"]) <= 300
    assert "you hit the quota of 1 api requests" in str(caught.value.response.json()["error"])
    assert 200 == anonymous.get("/api/models").status_code


def test_commits_are_limited_by_repository(hub: LocalHub, api: HfApi, repo_id: str, clone: Clone) -> None:
    """Through the API and through git together; requests are left, and only words say how long to wait."""
    hub.settings = Settings(commits_per_hour=1, requests_per_window=1000)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="a", repo_id=repo_id)
    with pytest.raises(HfHubHTTPError, match=r"rate limit for repository commits \(1 per hour\)") as caught:
        api.upload_file(path_or_fileobj=b"y", path_in_repo="a", repo_id=repo_id)
    clone.git("pull", "--quiet")
    clone.write(b=b"b")
    clone.commit()
    said = clone.push()

    assert 429 == caught.value.response.status_code
    assert "r=0" not in caught.value.response.headers["RateLimit"]
    assert "You can retry this action in about 1 hour" in said or "429" in said
    assert "exit 0" not in said


@pytest.mark.parametrize(
    ("private", "words"), [(True, "Private repository storage limit reached"), (False, "storage patterns")]
)
def test_storage_is_limited_by_namespace(hub: LocalHub, api: HfApi, http: httpx2.Client, private: bool, words: str) -> None:  # noqa: FBT001
    """Objects that are there already are free."""
    repos = [f"full-{private}/one", f"full-{private}/two"]
    for repo_id in repos:
        api.create_repo(repo_id, private=private)
    hub.settings = replace(hub.settings, storage_bytes=3000)
    api.upload_file(path_or_fileobj=b"\0" + CONTENT, path_in_repo="a.bin", repo_id=repos[0])
    api.upload_file(path_or_fileobj=b"\0" + CONTENT, path_in_repo="b.bin", repo_id=repos[0])
    refused = ask(http, repos[1], "basic")

    assert 403 == refused.status_code
    assert words in refused.json()["error"]
