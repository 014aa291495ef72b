"""What tools say, and what it is taken for: their own words, as they were recorded, and those of the tools here."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.plain_server import AnswerError, CutError, PlainServer, Request
from support.rig import NO_LOGIN, REPO, declare

from hubsync.errors import MirrorError
from hubsync.mirror.failures import find_named, read_failure
from hubsync.mirror.remote import Remote
from hubsync.mirror.token import Tokens, hand_over
from hubsync.store.git import Git
from hubsync.store.objects import Objects

LINE = "remote: -------------------------------------------------------------------------\n"
TOO_LARGE = f"""{LINE}remote: Your push was rejected because it contains files larger than 10 MiB.
remote: Please use https://git-lfs.github.com/ to store large files.
remote: See also: https://hf.co/docs/hub/repositories-getting-started#terminal
remote:
remote: Offending files:
remote:   - model.pkl (ref: refs/heads/main)
remote:   - deep/with space.json (ref: refs/heads/main)
{LINE} ! [remote rejected] main -> main (pre-receive hook declined)
"""
BINARY = f"""{LINE}remote: Your push was rejected because it contains binary files.
remote: Please use https://huggingface.co/docs/hub/xet to store binary files.
remote: See also: https://huggingface.co/docs/hub/xet/using-xet-storage#git
remote:
remote: Offending files:
remote:   - cover.mp4 (ref: refs/heads/main)
{LINE} ! [remote rejected] main -> main (pre-receive hook declined)
"""
YAML = f"""{LINE}remote: Sorry, your push was rejected during YAML metadata verification:
remote:   - Error: "license" must be one of [apache-2.0, mit]
{LINE} ! [remote rejected] main -> main (pre-receive hook declined)
"""
COMMITS = """HTTP 429 You have exceeded the rate limit for repository commits (128 per hour). You can retry this action in \
about 1 hour. If you're a new user, your limits will raise progressively over time."""

HELPER = """error: f() { case "$1" in get) while IFS= read -r line; do printf "%s\\n" "$line"; done < /proc/self/fd/20;; \
erase) : > /proc/self/fd/20;; esac; }; f get died of signal 9
error: unable to read askpass response from '/bin/false'
fatal: could not read Username for 'http://127.0.0.1:18800': terminal prompts disabled
"""

SAID = {
    HELPER: ("local_io", True),
    "error: git-remote-http died of signal 9\n": ("local_io", True),
    "error: pack-objects died of signal 9\nerror: remote unpack failed: eof before pack header": ("local_io", True),
    "error: pack-objects died of signal 13\nfatal: the remote end hung up unexpectedly": ("network", True),
    "remote: error: git-receive-pack died of signal 9\n": ("server", True),
    TOO_LARGE: ("rejected", False),
    TOO_LARGE.replace("10 MiB", "10M"): ("rejected", False),
    BINARY: ("rejected", False),
    YAML: ("rejected", False),
    "remote: error: LFS pointer pointed to a file that does not exist: model.bin\n ! [remote rejected] main -> main"
    " (pre-receive hook declined)": ("server", True),
    COMMITS: ("commit_quota", True),
    "HTTP 403 Private repository storage limit reached, please upgrade your plan": ("quota", False),
    " ! [rejected] main -> main (fetch first)\nerror: failed to push some refs": ("conflict", True),
    " ! [rejected] main -> main (non-fast-forward)": ("conflict", True),
    " ! [remote rejected] main -> main (cannot lock ref 'refs/heads/main': is at 12 but expected 34)": ("conflict", True),
    "HTTP 412 A commit has happened since. Please refresh and try again.": ("conflict", True),
    "fatal: Authentication failed for 'https://huggingface.co/acme/x.git/'": ("auth", False),
    "fatal: could not read Username for 'https://huggingface.co': terminal prompts disabled": ("auth", False),
    "HTTP 401 Invalid username or password.": ("auth", False),
    "HTTP 401 Invalid user token.": ("auth", False),
    "remote: You are not authorized to push to this repo.\nfatal: unable to access 'https://huggingface.co/acme/x.git/':"
    " The requested URL returned error: 403": ("forbidden", False),
    "fatal: repository 'https://huggingface.co/acme/x.git/' not found": ("not_found", False),
    "fatal: unable to access 'https://h/acme/x.git/': Could not resolve host: h": ("network", True),
    "fatal: unable to access 'https://h/x.git/': Failed to connect to h port 443: Connection refused": ("network", True),
    "error: RPC failed; curl 56 GnuTLS recv error (-110): The TLS connection was non-properly terminated.\n"
    "send-pack: unexpected disconnect while reading sideband packet\nfatal: the remote end hung up": ("network", True),
    "error: RPC failed; curl 18 transfer closed with 404 bytes remaining to read\nfatal: early EOF": ("network", True),
    "error: RPC failed; curl 28 Operation too slow. Less than 100 bytes/sec transferred the last 60 s": ("timeout", True),
    "error: RPC failed; HTTP 503 curl 22 The requested URL returned error: 503": ("server", True),
    "fatal: unable to access 'https://h/x.git/': server certificate verification failed. CAfile: none": ("tls", False),
    "fatal: unable to access 'https://h/x.git/': SSL certificate problem: certificate has expired": ("tls", False),
    "fatal: unable to access 'https://h/x.git/': The requested URL returned error: 301": ("not_found", False),
    "error: RPC failed; curl 92 HTTP/2 stream 403 was not closed cleanly: CANCEL (err 8)": ("network", True),
    "error: file write error: No space left on device": ("disk_full", True),
    "error: file write error: Disk quota exceeded": ("disk_full", True),
    "batch response: Rate limit exceeded: https://h/acme/x.git/info/lfs/objects/batch": ("rate_limited", True),
    "batch response: Insufficient server storage: https://h/acme/x.git/info/lfs/objects/batch": ("quota", False),
    "batch response: Bandwidth limit exceeded: https://h/acme/x.git/info/lfs/objects/batch": ("quota", False),
    "batch response: Repository or object not found: https://h/x.git/info/lfs\nCheck that it exists": ("not_found", False),
    "LFS: Client error: https://s3.example/ab from HTTP 413": ("too_large", False),
    "Git LFS upload failed:\n  (missing) /state/store.git/lfs/objects/5c/2f/5c2f (5c2f)": ("local_io", True),
    "Unable to stat local media path: stat /state/lfs/objects/5c/2f/5c2f: no such file or directory": ("local_io", True),
    "storage: redirected without end": ("server", True),
    "connection error: Exceeded maximum allowed redirects.": ("server", True),
    "something that nobody has seen before": ("server", True),
    "": ("server", True),
}  # fmt: skip


@pytest.mark.parametrize(("said", "expected"), SAID.items(), ids=[said[:50] for said in SAID])
def test_a_failure_is_known_by_its_words(said: str, expected: tuple[str, bool]) -> None:
    """Each recorded text is taken for what it is, and waiting is said to help only where it does."""
    failure = read_failure("push", said)

    assert expected == (failure.error_kind, failure.retryable)
    assert failure.retryable or failure.hint


def test_a_refused_token_is_told_as_such() -> None:
    """After a 401 git speaks of an askpass and of a terminal, neither of which hubsync has."""
    asked = "error: unable to read askpass response from '/bin/false'\n"
    asked += "fatal: could not read Username for 'https://h': terminal prompts disabled\n"
    failure = read_failure("push", f"{asked}send-pack: unexpected disconnect while reading sideband packet\n")

    assert ("auth", "push: https://h answered 401: it wants a token, or another one") == (failure.error_kind, str(failure))


@pytest.mark.parametrize("name", ["run-404", "401", "step-500", "lossless", "tls", "redirected", "forbidden", "timeout"])
def test_a_repositorys_name_is_no_failure(name: str) -> None:
    """Numbers and words in an address say nothing: a mirror is not parked because of what it is called."""
    said = f"fatal: unable to access 'https://h/acme/{name}.git/': Could not resolve host: h"

    assert ("network", True) == (read_failure("push", said).error_kind, read_failure("push", said).retryable)


def test_the_paths_that_a_hub_refuses_are_read() -> None:
    """The list under a rejection is told apart from its words, spaces and all."""
    assert ("model.pkl", "deep/with space.json") == read_failure("push", TOO_LARGE).paths
    assert ("cover.mp4",) == read_failure("push", BINARY).paths


def test_the_words_of_a_rejection_are_no_paths() -> None:
    """The metadata check lists what is wrong in the same form as others list files; the file is always the card."""
    assert ("README.md",) == read_failure("push", YAML).paths


def test_of_several_reasons_the_first_is_told_with_its_paths() -> None:
    """A Hub lists all that is wrong; a file's reason and cure are its own."""
    first = read_failure("push", TOO_LARGE.replace(" ! [remote rejected]", YAML + " ! [remote rejected]"))
    second = read_failure("push", YAML.replace(" ! [remote rejected]", TOO_LARGE + " ! [remote rejected]"))

    assert (("model.pkl", "deep/with space.json"), ("README.md",)) == (first.paths, second.paths)
    assert ("metadata" in str(first), "10 MiB" in str(second)) == (False, False)
    assert ("lfs.threshold" in first.hint, "metadata" in second.hint) == (True, True)


def test_files_that_a_hub_names_in_its_own_words_are_found() -> None:
    """Whole paths only, and a name that may be a mere word only in quotes."""
    said = """remote: error: GH013: Repository rule violations found for refs/heads/main.
remote:     - Push cannot contain secrets
remote:          - commit: 4bf073e580aa9a04d176c077b197128e07d7dc7e
remote:            path: conf/keys.json:3
remote: and 'LICENSE' is not allowed, see https://h/rules.txt
 ! [remote rejected] main -> main (push declined due to repository rule violations)"""
    paths = ["conf/keys.json", "keys.json", "LICENSE", "main", "rules.txt", "json", "a.txt"]

    assert ("conf/keys.json", "LICENSE") == find_named(said, paths)
    assert ("rejected", False) == (read_failure("push", said).error_kind, read_failure("push", said).retryable)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (COMMITS, 3600),
        ("Retry-After: 120", 120),
        ("Retry-After: 99999999999999", 99999999999999),
        ("retry after 30 seconds", 30),
        ("You can retry this action in about 5 minutes", 300),
        ("try again later", None),
    ],
)
def test_the_wait_that_is_asked_for_is_read(said: str, expected: float | None) -> None:
    """The commit quota stands in the text only, by the hour."""
    assert expected == read_failure("push", f"HTTP 429 {said}").retry_after_s


def test_a_long_answer_is_cut() -> None:
    """A captive portal's page does not fill the log, and a rejection stays readable."""
    assert len(str(read_failure("push", "x" * 100_000))) < 3000
    assert "files larger than 10 MiB" in str(read_failure("push", TOO_LARGE))
    assert "remote:" not in str(read_failure("push", TOO_LARGE))


def test_the_reason_of_an_unknown_rejection_is_said() -> None:
    """It stands between two lines, as the known ones do, and git's own words follow."""
    frame = "error: failed to push some refs to 'https://h/a.git'\n!\tx:y\t[remote rejected] (pre-receive hook declined)\n"
    failure = read_failure("push", f"{LINE}remote: Computer says no\n{LINE}{frame}")

    assert "Computer says no" in str(failure)
    assert "rejected" == failure.error_kind


# --- what the tools that are installed here really say


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[tuple[PlainServer, Remote, Git]]:
    """Give a server with a repository, the way there, and a store with one object, ``abc``."""
    with PlainServer(tmp_path / "server") as server:
        server.create(REPO)
        config = declare(tmp_path, [server], {}, {})
        git = Git(tmp_path / "store.git")
        git.open()
        objects = Objects(git.git_dir)
        objects.open()
        mirror = config.targets[0].mirrors[0]
        endpoint = config.endpoints["e0"].model_copy(update={"stall_s": 1.0})
        yield server, Remote(git, objects, mirror, endpoint, Tokens(NO_LOGIN), threading.Event()), git


OID = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of abc


def upload(remote: Remote, git: Git) -> None:
    path = git.git_dir / "lfs/objects" / OID[:2] / OID[2:4] / OID
    path.parent.mkdir(parents=True)
    path.write_bytes(b"abc")
    remote.upload_objects([OID])


def push(remote: Remote, git: Git) -> None:
    tree = git.text("hash-object", "-t", "tree", "-w", "--stdin")
    names = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    remote.push({"main": git.text("commit-tree", "-m", "x", tree, environment=names)})


def look(remote: Remote, _: Git) -> None:
    remote.read_heads(["main"])


REFS, BATCH, PUT, PUSH = "/info/refs", "/objects/batch", "", "/git-receive-pack"
ANSWERS = [
    (look, REFS, 401, "auth"),
    (look, REFS, 403, "forbidden"),
    (look, REFS, 404, "not_found"),
    (look, REFS, 429, "rate_limited"),
    (look, REFS, 500, "server"),
    (look, REFS, 503, "server"),
    (look, REFS, 302, "not_found"),
    (upload, BATCH, 401, "auth"),
    (upload, BATCH, 403, "forbidden"),
    (upload, BATCH, 404, "not_found"),
    (upload, BATCH, 429, "rate_limited"),
    (upload, BATCH, 503, "server"),
    (upload, BATCH, 507, "quota"),
    (upload, PUT, 403, "server"),
    (upload, PUT, 413, "too_large"),
    (push, PUSH, 403, "forbidden"),
    (push, PUSH, 413, "too_large"),
    (push, PUSH, 503, "server"),
]


@pytest.mark.parametrize(("act", "where", "status", "expected"), ANSWERS)
def test_a_status_is_known_through_the_tools(
    failing: tuple[PlainServer, Remote, Git], act: Callable[[Remote, Git], None], where: str, status: int, expected: str
) -> None:
    """A server's status comes through git and git-lfs as what it means, at each step of a publication."""
    server, remote, git = failing

    def refuse(request: Request) -> None:
        if (request.host == "storage") if where == PUT else (where in request.path):
            raise AnswerError(status, b"<html>no</html>", Location="http://localhost:9/elsewhere", Content_Type="text/html")

    server.before = refuse

    with pytest.raises(MirrorError) as caught:
        act(remote, git)

    assert expected == caught.value.error_kind, str(caught.value)
    assert len(server.requests) <= 12


def cut(request: Request) -> None:
    if "/info/refs" not in request.path:
        raise CutError


def test_a_login_page_in_place_of_a_git_server_is_called_what_it_may_be(
    failing: tuple[PlainServer, Remote, Git],
) -> None:
    """Git takes it for a server without a protocol, and speaks of WebDAV."""
    server, remote, git = failing

    def show(*_: object) -> None:
        raise AnswerError(200, b"<html>sign in</html>", Content_Type="text/html")

    server.before = show
    with pytest.raises(MirrorError) as caught:
        push(remote, git)

    assert ("server", True) == (caught.value.error_kind, caught.value.retryable)
    assert "login page" in caught.value.hint


@pytest.mark.parametrize("status", [413, 422])
@pytest.mark.parametrize(("act", "where"), [(look, REFS), (upload, BATCH), (push, PUSH)])
def test_a_request_that_is_refused_is_called_no_file(
    failing: tuple[PlainServer, Remote, Git], act: Callable[[Remote, Git], None], where: str, status: int
) -> None:
    """Most have none to them; of one that is too large it is said which limit to raise, as a sentence that goes on."""
    server, remote, git = failing

    def refuse(request: Request) -> None:
        if where in request.path:
            raise AnswerError(status, b"no")

    server.before = refuse
    with pytest.raises(MirrorError) as caught:
        act(remote, git)

    assert "file" not in caught.value.hint
    assert ("raise its limit (nginx: client_max_body_size)" in caught.value.hint) == (status == 413)


@pytest.mark.parametrize("body", [b"", b"0000"])
def test_progress_is_no_reason(failing: tuple[PlainServer, Remote, Git], body: bytes) -> None:
    """An answer with nothing in it is called that, and not by the last that git counted."""
    server, remote, git = failing

    def say_nothing(request: Request) -> None:
        if request.path.endswith(PUSH):
            raise AnswerError(200, body, Content_Type="application/x-git-receive-pack-result")

    server.before = say_nothing
    with pytest.raises(MirrorError) as caught:
        push(remote, git)

    assert "push: the server closed the connection without an answer" == str(caught.value)
    assert ("network", True) == (caught.value.error_kind, caught.value.retryable)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Counting objects:  14% (1/7)\rCounting objects:  28% (2/7)\nerror: failed to push some refs to 'x'\n",
         "push: error: failed to push some refs to 'x'"),
        ("Counting objects:  14% (1/7)\rfatal: a reason\n", "push: fatal: a reason"),
    ],
)  # fmt: skip
def test_of_what_git_says_its_last_word_is_the_reason(said: str, expected: str) -> None:
    """Progress is none, however little else there is."""
    assert expected == str(read_failure("push", said))


@pytest.mark.parametrize("act", [upload, push])
def test_a_connection_that_ends_is_a_failure_of_the_network(
    failing: tuple[PlainServer, Remote, Git], act: Callable[[Remote, Git], None]
) -> None:
    """A server that dies in the middle of a request is tried again."""
    server, remote, git = failing
    server.before = cut

    with pytest.raises(MirrorError) as caught:
        act(remote, git)

    assert ("network", True) == (caught.value.error_kind, caught.value.retryable), str(caught.value)


def test_a_server_that_is_not_there_is_a_failure_of_the_network(failing: tuple[PlainServer, Remote, Git]) -> None:
    """A refused connection is tried again."""
    server, remote, _ = failing
    server.__exit__()

    with pytest.raises(MirrorError) as caught:
        remote.read_heads(["main"])
    server.__enter__()

    assert ("network", True) == (caught.value.error_kind, caught.value.retryable), str(caught.value)


def test_a_rejection_by_the_hub_comes_through_git(failing: tuple[PlainServer, Remote, Git]) -> None:
    """A hook's words arrive with the paths that it names, and the failure is no race with somebody else."""
    server, remote, git = failing
    said = "\n".join(line.removeprefix("remote:").strip() for line in TOO_LARGE.splitlines()[:-1])
    hook = server.root / f"{REPO}.git" / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said.replace('- model', '  - model')}\nEND\nexit 1\n")
    hook.chmod(0o755)

    with pytest.raises(MirrorError) as caught:
        push(remote, git)

    assert ("rejected", False) == (caught.value.error_kind, caught.value.retryable), str(caught.value)
    assert "model.pkl" in caught.value.paths


def test_a_killed_helper_is_not_shown_by_its_source() -> None:
    """Git calls it by its whole text; a message says what it is."""
    with hand_over("secret", "http://h", to_lfs=True) as lfs:
        source = lfs.config["credential.http://h.helper"].removeprefix("!")
    failure = read_failure("list", f"error: {source} get died of signal 9\n")

    assert "list: error: the credential helper died of signal 9" == str(failure)


def test_a_killed_git_is_a_failure_of_this_machine(failing: tuple[PlainServer, Remote, Git]) -> None:
    """Whoever kills it, it was not the server; it is tried again."""
    server, remote, git = failing
    server.before = kill_git

    with pytest.raises(MirrorError) as caught:
        look(remote, git)

    assert ("local_io", True) == (caught.value.error_kind, caught.value.retryable), str(caught.value)


def kill_git(_: Request) -> None:
    me = os.getpid()
    for child in (int(pid) for listed in Path(f"/proc/{me}/task").glob("*/children") for pid in listed.read_text().split()):
        if "ls-remote" in Path(f"/proc/{child}/cmdline").read_text():
            os.kill(child, signal.SIGKILL)
