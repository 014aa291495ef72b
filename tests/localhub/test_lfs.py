"""The LFS storage: what is taken in, what is given out, and to whom."""

import hashlib
import os
import threading

import httpx2
import pytest
from huggingface_hub import HfApi

from hubsync.localhub import LocalHub

CONTENT = os.urandom(100_000)
OID = hashlib.sha256(CONTENT).hexdigest()


def ask(http: httpx2.Client, repo_id: str, operation: str, oid: str = OID, size: int = len(CONTENT)) -> dict[str, dict]:
    """Return the actions for one object."""
    body = {"operation": operation, "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
    answer = http.post(f"/{repo_id}.git/info/lfs/objects/batch", json=body)
    return answer.json()["objects"][0].get("actions", {})


def objects_of(hub: LocalHub, repo_id: str) -> list[str]:
    lfs = hub.directory / "models" / f"{repo_id}.git" / "lfs"
    return sorted(path.name for path in lfs.rglob("*") if path.is_file())


def test_the_right_bytes_are_kept(hub: LocalHub, repo_id: str, http: httpx2.Client, anonymous: httpx2.Client) -> None:
    """The signed address needs no token, and lies on another host than the Hub."""
    actions = ask(http, repo_id, "upload")
    put = anonymous.put(actions["upload"]["href"], content=CONTENT)
    verified = anonymous.post(actions["verify"]["href"], json={"oid": OID, "size": len(CONTENT)})

    assert [200, 200] == [put.status_code, verified.status_code]
    assert [OID] == objects_of(hub, repo_id)
    assert httpx2.URL(hub.url).host != httpx2.URL(actions["upload"]["href"]).host
    assert {} == ask(http, repo_id, "upload")


@pytest.mark.parametrize("sent", [b"\0" * len(CONTENT), CONTENT[:-1], CONTENT + b"x", b"", CONTENT * 200], ids=len)
def test_wrong_bytes_are_refused(hub: LocalHub, repo_id: str, http: httpx2.Client, sent: bytes) -> None:
    """Nothing is kept of what is not the object."""
    actions = ask(http, repo_id, "upload")
    put = httpx2.put(actions["upload"]["href"], content=sent)
    verified = http.post(actions["verify"]["href"], json={"oid": OID, "size": len(CONTENT)})

    assert [400, 404] == [put.status_code, verified.status_code]
    assert [] == objects_of(hub, repo_id)


def test_a_wrong_size_is_refused(hub: LocalHub, repo_id: str, http: httpx2.Client) -> None:
    """The right bytes under a wrong size are no object."""
    href = ask(http, repo_id, "upload", size=len(CONTENT) + 1)["upload"]["href"]

    assert 400 == httpx2.put(href, content=CONTENT).status_code
    assert [] == objects_of(hub, repo_id)


def test_a_client_that_leaves_leaves_nothing(hub: LocalHub, repo_id: str, http: httpx2.Client) -> None:
    """Half an upload is not kept."""
    href = ask(http, repo_id, "upload")["upload"]["href"]

    def half() -> object:
        yield CONTENT[:50_000]
        raise InterruptedError

    with pytest.raises(InterruptedError):
        httpx2.put(href, content=half(), headers={"Content-Length": str(len(CONTENT))})
    http.get("/api/whoami-v2")

    assert OID not in objects_of(hub, repo_id)


def test_an_address_grants_one_thing(hub: LocalHub, repo_id: str, http: httpx2.Client) -> None:
    """Another object, size, method or time needs another signature."""
    href = ask(http, repo_id, "upload")["upload"]["href"]
    other = hashlib.sha256(b"x").hexdigest()
    answers = [
        httpx2.put(href.replace(OID, other), content=b"x"),
        httpx2.put(href.replace("size=100000", "size=1"), content=b"x"),
        httpx2.put(href.replace("expires=1", "expires=2"), content=CONTENT),
        httpx2.put(href.partition("?")[0], content=CONTENT),
        httpx2.get(href),
    ]

    assert [403] * len(answers) == [answer.status_code for answer in answers]
    assert [] == objects_of(hub, repo_id)


def test_a_batch_answers_each_object_for_itself(repo_id: str, http: httpx2.Client) -> None:
    """One that is missing, or no object at all, does not spoil the others."""
    objects = [{"oid": OID, "size": 5}, {"oid": "../../etc/passwd", "size": 5}, {"oid": OID, "size": -1}, "x"]
    answer = http.post(f"/{repo_id}/info/lfs/objects/batch", json={"operation": "download", "objects": objects})

    assert "application/vnd.git-lfs+json" == answer.headers["content-type"]
    assert [404, 422, 422, 422] == [thing["error"]["code"] for thing in answer.json()["objects"]]


def test_locks_are_not_known(repo_id: str, http: httpx2.Client) -> None:
    """git-lfs goes on without them after a 404."""
    assert 404 == http.post(f"/{repo_id}.git/info/lfs/locks/verify", json={}).status_code


def test_uploads_run_side_by_side(hub: LocalHub, repo_id: str, http: httpx2.Client) -> None:
    """Several objects arrive at once, each whole."""
    contents = [os.urandom(9_000_000) for _ in range(4)]
    oids = [hashlib.sha256(content).hexdigest() for content in contents]
    hrefs = [ask(http, repo_id, "upload", oid, 9_000_000)["upload"]["href"] for oid in oids]
    threads = [
        threading.Thread(target=httpx2.put, args=(href,), kwargs={"content": content})
        for href, content in zip(hrefs, contents, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(oids) == objects_of(hub, repo_id)


def test_a_large_file_is_found_by_redirect(api: HfApi, repo_id: str, http: httpx2.Client) -> None:
    """The headers that the client relies on stand on the first answer."""
    api.upload_file(path_or_fileobj=CONTENT, path_in_repo="a.bin", repo_id=repo_id)
    answer = http.head(f"/{repo_id}/resolve/main/a.bin")

    assert 302 == answer.status_code
    assert (f'"{OID}"', str(len(CONTENT))) == (answer.headers["X-Linked-Etag"], answer.headers["X-Linked-Size"])
    assert api.model_info(repo_id).sha == answer.headers["X-Repo-Commit"]
    assert CONTENT == httpx2.get(answer.headers["Location"]).content


def test_another_host_name_gets_the_file_at_once(api: HfApi, repo_id: str, http: httpx2.Client) -> None:
    """Where there is no second name for the storage, the Hub itself answers, with all headers."""
    api.upload_file(path_or_fileobj=CONTENT, path_in_repo="a.bin", repo_id=repo_id)
    answer = http.get(f"/{repo_id}/resolve/main/a.bin", headers={"Host": "hub.example.org:80"})

    assert (200, CONTENT) == (answer.status_code, answer.content)
    assert f'"{OID}"' == answer.headers["X-Linked-Etag"] == answer.headers["ETag"]
    assert api.model_info(repo_id).sha == answer.headers["X-Repo-Commit"]


@pytest.mark.parametrize("name", ["a.txt", "a.bin"])
def test_ranges(api: HfApi, repo_id: str, http: httpx2.Client, name: str) -> None:
    """A part of a file is given alone, from git and from the storage."""
    api.upload_file(path_or_fileobj=b"0123456789", path_in_repo=name, repo_id=repo_id)
    expected = {
        "bytes=2-4": (206, b"234", "bytes 2-4/10"),
        "bytes=7-": (206, b"789", "bytes 7-9/10"),
        "bytes=-2": (206, b"89", "bytes 8-9/10"),
        "bytes=5-99": (206, b"56789", "bytes 5-9/10"),
    }
    got = {}
    for asked in expected:
        answer = http.get(f"/{repo_id}/resolve/main/{name}", headers={"Range": asked}, follow_redirects=True)
        got[asked] = (answer.status_code, answer.content, answer.headers["Content-Range"])

    assert expected == got


@pytest.mark.parametrize("name", ["a.txt", "a.bin"])
def test_a_range_beyond_the_end_is_refused(api: HfApi, repo_id: str, http: httpx2.Client, name: str) -> None:
    """There is nothing to give."""
    api.upload_file(path_or_fileobj=b"0123456789", path_in_repo=name, repo_id=repo_id)
    answer = http.get(f"/{repo_id}/resolve/main/{name}", headers={"Range": "bytes=10-"}, follow_redirects=True)

    assert (416, "bytes */10") == (answer.status_code, answer.headers["Content-Range"])


def test_a_small_file_is_answered_at_once(api: HfApi, repo_id: str, http: httpx2.Client) -> None:
    """Its ETag is git's own name for the content."""
    api.upload_file(path_or_fileobj=b"text", path_in_repo="a.txt", repo_id=repo_id)
    head, got = http.head(f"/{repo_id}/resolve/main/a.txt"), http.get(f"/{repo_id}/resolve/main/a.txt")

    assert (200, "4", b"") == (head.status_code, head.headers["Content-Length"], head.content)
    assert (200, b"text", head.headers["ETag"]) == (got.status_code, got.content, got.headers["ETag"])
    assert '"f3a34851d44d6b97c90fbb99dd3d18c261b9a237"' == got.headers["ETag"]


def test_raw_shows_what_git_holds(api: HfApi, repo_id: str, http: httpx2.Client) -> None:
    """A pointer is seen as text."""
    api.upload_file(path_or_fileobj=CONTENT, path_in_repo="a.bin", repo_id=repo_id)

    assert f"oid sha256:{OID}" in http.get(f"/{repo_id}/raw/main/a.bin").text
