"""The Hub as a process, and as a context."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi

from hubsync.errors import StateError
from hubsync.localhub import LocalHub

PROGRAM = "import sys, pathlib, hubsync.localhub as l; l.serve(pathlib.Path(sys.argv[1]), 0)"


@contextmanager
def serving(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Run ``serve`` and yield the process, and the address and the token that it told."""
    process = subprocess.Popen(
        (sys.executable, "-c", PROGRAM, str(directory)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        said = {}
        for line in process.stderr:
            name, _, value = line.strip().removeprefix("export ").partition("=")
            said[name] = value
            if "Ctrl-C" in line:
                break
        yield process, said["HF_ENDPOINT"], said["HF_TOKEN"]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """With status 0, nothing on standard output and no more words."""
    with serving(tmp_path / "hub") as (process, url, token):
        api = HfApi(endpoint=url, token=token)
        api.create_repo("acme/x")
        process.send_signal(number)
        out, err = process.communicate(timeout=10)

    assert (0, "", "") == (process.returncode, out, err)


def test_no_process_outlives_it(tmp_path: Path) -> None:
    """A push that still runs when the Hub ends is ended with it."""
    with serving(tmp_path / "hub") as (process, url, token):
        HfApi(endpoint=url, token=token).create_repo("acme/x")
        with half_a_push(url, token):
            backends = wait_for(lambda: children_of(process.pid))
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)

    assert backends
    assert [] == [pid for pid in backends if Path(f"/proc/{pid}/status").exists()]


@pytest.mark.parametrize("leaves", ["client", "hub"])
def test_a_push_that_breaks_off_leaves_no_process(tmp_path: Path, leaves: str) -> None:
    """Whoever leaves, even by a kill; without care ``git http-backend`` would wait for the rest at full speed."""
    with serving(tmp_path / "hub") as (process, url, token):
        HfApi(endpoint=url, token=token).create_repo("acme/x")
        with half_a_push(url, token):
            backends = wait_for(lambda: children_of(process.pid))
            if leaves == "hub":
                process.kill()
                process.communicate()
        gone = wait_for(lambda: not [pid for pid in backends if Path(f"/proc/{pid}/status").exists()])

    assert backends
    assert gone


def test_what_was_pushed_is_there_after_a_restart(tmp_path: Path) -> None:
    """The directory is all there is, the token included."""
    with LocalHub(tmp_path / "hub") as first:
        api = HfApi(endpoint=first.url, token=first.token)
        api.create_repo("acme/x", private=True)
        api.upload_file(path_or_fileobj=b"\0x", path_in_repo="a.bin", repo_id="acme/x")
    with LocalHub(tmp_path / "hub") as second:
        again = HfApi(endpoint=second.url, token=second.token)
        files, private = again.list_repo_files("acme/x"), again.model_info("acme/x").private

    assert first.token == second.token
    assert ([".gitattributes", "a.bin"], True) == (files, private)


def test_the_token_is_the_owners_alone(tmp_path: Path) -> None:
    """Nobody else on the machine reads it."""
    with LocalHub(tmp_path / "hub") as hub:
        path = tmp_path / "hub" / "token"

        assert (0o600, hub.token) == (path.stat().st_mode & 0o777, path.read_text().strip())


def test_more_tokens_have_users_of_their_own(tmp_path: Path) -> None:
    """Who commits is who the token belongs to."""
    with LocalHub(tmp_path / "hub", token="hf_one", users={"hf_two": "ada"}) as hub:
        ada = HfApi(endpoint=hub.url, token="hf_two")
        ada.create_repo("ada/x")
        ada.upload_file(path_or_fileobj=b"x", path_in_repo="a", repo_id="ada/x")
        names = [HfApi(endpoint=hub.url, token=token).whoami()["name"] for token in ("hf_one", "hf_two")]
        commits = ada.list_repo_commits("ada/x")

    assert ["localhub", "ada"] == names
    assert ["ada"] == commits[0].authors


def test_tokens_come_and_go(tmp_path: Path) -> None:
    """While the Hub runs: a revoked one is refused, a new one is let in."""
    with LocalHub(tmp_path / "hub", users={"hf_old": "ada"}) as hub:

        def ask(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return httpx2.get(f"{hub.url}/api/whoami-v2", headers=headers).status_code

        before = ask("hf_old"), ask("hf_new")
        hub.revoke("hf_old")
        hub.admit("hf_new", "ada")

        assert ((200, 401), (401, 200)) == (before, (ask("hf_old"), ask("hf_new")))


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """The second Hub says which address it cannot have."""
    with LocalHub(tmp_path / "one") as hub:
        port = int(hub.url.rpartition(":")[2])
        with pytest.raises(StateError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            LocalHub(tmp_path / "two", port).start()


def test_half_made_things_are_cleared_at_the_start(tmp_path: Path) -> None:
    """What a killed Hub was receiving is gone; what it had is there."""
    with LocalHub(tmp_path / "hub") as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("acme/x")
    half = tmp_path / "hub" / "models" / "acme" / "x.git" / "lfs" / "incoming" / "half"
    half.parent.mkdir()
    half.write_bytes(b"half")
    pushed = half.parents[2] / "objects" / "tmp_objdir-incoming-aBcDeF" / "pack"
    pushed.mkdir(parents=True)
    (tmp_path / "hub" / "incoming" / "repo").mkdir()
    with LocalHub(tmp_path / "hub") as hub:
        names = [repo.id for repo in HfApi(endpoint=hub.url, token=hub.token).list_models()]

    assert ["acme/x"] == names
    assert not half.exists()
    assert not pushed.parent.exists()
    assert [] == list((tmp_path / "hub" / "incoming").iterdir())


def test_a_push_whose_client_leaves_in_the_middle_leaves_nothing(hub: LocalHub, tmp_path: Path, repo_id: str) -> None:
    """What git had received of it is cleared away by the running Hub, and the next push arrives."""
    work = tmp_path / "work"
    address = hub.url.replace("://", f"://user:{hub.token}@")
    subprocess.run(["git", "clone", "-q", f"{address}/{repo_id}", work], check=True)
    for number in range(60):
        (work / f"{number}.txt").write_text(os.urandom(100_000).hex())
    commands = "git add -A && git -c user.name=a -c user.email=a@b commit -qm 1"
    subprocess.run(commands, shell=True, cwd=work, check=True)
    objects = hub.directory / "models" / f"{repo_id}.git" / "objects"
    push = ("git", "push", "-q", "origin", "main")
    with subprocess.Popen(push, cwd=work, stderr=subprocess.DEVNULL, start_new_session=True) as client:
        while not list(objects.glob("tmp_objdir-*")):
            assert client.poll() is None
        os.killpg(client.pid, signal.SIGKILL)

    deadline = time.monotonic() + 20
    while list(objects.glob("tmp_objdir-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    subprocess.run(push, cwd=work, check=True)


def test_a_lock_that_a_killed_git_left_stops_no_push(tmp_path: Path) -> None:
    """It is cleared at the start."""
    with LocalHub(tmp_path) as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("acme/x")
    locks = [tmp_path / "models/acme/x.git" / name for name in ("HEAD.lock", "refs/heads/main.lock")]
    for lock in locks:
        lock.touch()

    with LocalHub(tmp_path) as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="acme/x")
        assert api.file_exists("acme/x", "x.txt")
    assert [] == [lock for lock in locks if lock.exists()]


def test_requests_are_remembered(hub: LocalHub, http: httpx2.Client, repo_id: str) -> None:
    """With what was sent and what was answered, for the caller and for whoever asks."""
    hub.forget_requests()
    http.post(f"/api/models/{repo_id}/paths-info/main", data={"paths": ["a"]})
    (request,) = [request for request in hub.requests if request.path.endswith("/paths-info/main")]
    shown = [entry for entry in http.get("/_requests").json() if entry["path"] == request.path]

    assert ("POST", f"/api/models/{repo_id}/paths-info/main", 200) == (request.method, request.path, request.status)
    assert (7, 2) == (request.bytes_in, request.bytes_out)
    assert request.path == shown[0]["path"]


def test_pages_show_what_arrived(api: HfApi, repo_id: str, http: httpx2.Client) -> None:
    """Repositories, files with their marks, commits, and names that HTML must not obey."""
    name = '<b>&".bin'
    api.upload_file(path_or_fileobj=b"\0" * 1500, path_in_repo=f"dir/{name}", repo_id=repo_id, commit_message="<i>new</i>")
    home, page = http.get("/").text, http.get(f"/{repo_id}").text
    below = http.get(f"/{repo_id}/tree/main/dir").text

    assert f'<a href="/{repo_id}">{repo_id}</a>' in home
    assert "&lt;i&gt;new&lt;/i&gt;" in home
    assert "initial commit" in page
    assert f'<a href="/{repo_id}/tree/main/dir">dir/</a>' in page
    assert "&lt;b&gt;&amp;&quot;.bin" in below
    assert "1.5&nbsp;KB" in below
    assert ">LFS<" in below
    assert "<b>&" not in below


def test_every_link_of_a_page_leads_somewhere(api: HfApi, repo_id: str, http: httpx2.Client) -> None:
    """Odd names included."""
    api.upload_file(path_or_fileobj=b"x", path_in_repo="a b/ü?#%.txt", repo_id=repo_id)
    api.create_tag(repo_id, tag="v/1")
    api.create_pull_request(repo_id, "A <b>bold</b> change")
    seen: set[str] = set()
    waiting = [f"/{repo_id}"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = http.get(path)
        assert 200 == answer.status_code, path
        assert "<b>bold" not in answer.text
        if answer.headers["content-type"].startswith("text/html"):
            waiting += [link for link in links_in(answer.text) if link.startswith(f"/{repo_id}") and link not in seen]

    assert f"/{repo_id}/discussions/1" in seen
    assert f"/{repo_id}/resolve/main/a%20b/%C3%BC%3F%23%25.txt" in seen


def test_pages_hide_private_repositories_from_strangers(api: HfApi, http: httpx2.Client, anonymous: httpx2.Client) -> None:
    """A browser that has logged in sees them."""
    api.create_repo("closed/page", private=True, exist_ok=True)

    assert ("closed/page" in http.get("/").text, "closed/page" in anonymous.get("/").text) == (True, False)
    assert 401 == anonymous.get("/closed/page").status_code
    assert anonymous.get("/login").headers["WWW-Authenticate"].startswith("Basic")
    assert 303 == http.get("/login").status_code


@contextmanager
def half_a_push(url: str, token: str) -> Iterator[None]:
    """Begin a push, announce more than is sent, and leave at the end."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = (
            "POST /acme/x/git-receive-pack HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {token}",
            "Content-Type: application/x-git-receive-pack-request",
            "Content-Length: 1000",
        )
        client.sendall("\r\n".join([*head, "", "00"]).encode())
        yield


def links_in(page: str) -> list[str]:
    return [part.partition('"')[0] for part in page.split('href="')[1:]]


def children_of(pid: int) -> list[int]:
    found = subprocess.run(("pgrep", "-P", str(pid)), capture_output=True, text=True, check=False).stdout.split()
    return [int(child) for child in found]


def wait_for(look: object, at_most_s: float = 10) -> object:
    deadline = time.monotonic() + at_most_s
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
