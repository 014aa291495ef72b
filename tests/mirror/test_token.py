import os
import socket
from pathlib import Path

import pytest

from hubsync.config.model import Endpoint, TokenSource
from hubsync.errors import MirrorError
from hubsync.mirror.token import Tokens, basic_authorization, hand_over
from hubsync.store.git import Git

TOKEN = "hf_canary0123456789"
URL = "http://127.0.0.1:8000/acme/x.git"


def endpoint(**source: object) -> Endpoint:
    token = TokenSource(**source) if source else None  # type: ignore[arg-type]
    return Endpoint(name="hub", url="http://127.0.0.1:8000", token=token)


@pytest.fixture
def git(tmp_path: Path) -> Git:
    made = Git(tmp_path / "store.git")
    made.open()
    return made


# --- where a token comes from


@pytest.mark.parametrize("written", [TOKEN, f"{TOKEN}\n", f"  {TOKEN}\r\n"])
def test_a_token_file_may_end_with_a_newline(tmp_path: Path, written: str) -> None:
    """White space around a token is no part of it."""
    (tmp_path / "token").write_bytes(written.encode())

    assert TOKEN == Tokens({}).read(endpoint(file=tmp_path / "token"))


def test_a_replaced_file_takes_effect_at_once(tmp_path: Path) -> None:
    """The file is read at each use: a rotated token needs no restart."""
    tokens, source = Tokens({}), endpoint(file=tmp_path / "token")
    (tmp_path / "token").write_text("old")
    before = tokens.read(source)
    (tmp_path / "token").write_text("new")

    assert ("old", "new") == (before, tokens.read(source))


def test_a_token_comes_from_the_environment_a_credential_or_a_command(tmp_path: Path) -> None:
    """The environment is the one that hubsync was started with; a command prints the token."""
    (tmp_path / "hub-token").write_text(f"{TOKEN}\n")
    environment = {"MY_TOKEN": TOKEN, "CREDENTIALS_DIRECTORY": str(tmp_path), "PATH": os.environ["PATH"]}
    tokens = Tokens(environment)
    sources = ({"env": "MY_TOKEN"}, {"credential": "hub-token"}, {"command": ("sh", "-c", 'echo "$MY_TOKEN"')})

    assert [TOKEN] * 3 == [tokens.read(endpoint(**source)) for source in sources]


def test_a_token_command_sees_no_other_token() -> None:
    """It has the environment that its program may need, but neither the Hub's login nor the service manager's socket."""
    hidden = {"HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN, "NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1"}
    environment = {**hidden, "VAULT_ADDR": "here", "PATH": os.environ["PATH"]}
    seen = "env | grep -v ^_= | cut -d= -f1 | sort | tr '\\n' -"

    told = Tokens(environment).read(endpoint(command=("sh", "-c", seen)))

    assert {"VAULT_ADDR", "PATH", "PWD"} >= set((told or "").strip("-").split("-")) >= {"VAULT_ADDR", "PATH"}


def test_without_a_source_the_login_of_the_hub_counts(tmp_path: Path) -> None:
    """HF_TOKEN wins over the file of ``hf auth login``; with neither there is no token."""
    (tmp_path / "token").write_text("from-login")
    path = {"HF_TOKEN_PATH": str(tmp_path / "token")}
    none = {"HF_TOKEN_PATH": str(tmp_path / "none")}

    found = [Tokens(environment).read(endpoint()) for environment in ({**path, "HF_TOKEN": TOKEN}, path, none)]

    assert [TOKEN, "from-login", None] == found


@pytest.mark.parametrize("content", [b"\xffhf_secret", "hf_secretépart".encode(), b"hf_secret part"])
def test_a_login_that_is_no_token_is_none(tmp_path: Path, content: bytes) -> None:
    """It could stand in no request; who needs a token is told that there is none."""
    (tmp_path / "token").write_bytes(content)

    assert Tokens({"HF_TOKEN_PATH": str(tmp_path / "token")}).read(endpoint()) is None


@pytest.mark.parametrize(
    "source",
    [
        {"file": Path("/nonexistent/token")},
        {"env": "UNSET"},
        {"credential": "none"},
        {"command": ("false",)},
        {"command": ("/nonexistent/program",)},
        {"command": ("echo", "hf_secret part")},
        {"command": ("echo", "hf_secretépart")},
        {"command": ("printf", r"hf_secret\033[2J")},
        {"command": ("printf", r"\377hf_secret")},
        {"file": Path("/")},
    ],
)
def test_a_token_that_cannot_be_read_is_an_error_that_shows_none(source: dict[str, object]) -> None:
    """The mirror is parked with a hint, and what was read stands in no message."""
    with pytest.raises(MirrorError) as caught:
        Tokens({"PATH": os.environ["PATH"]}).read(endpoint(**source))

    assert ("auth", False) == (caught.value.error_kind, caught.value.retryable)
    assert "token" in caught.value.hint
    assert "hf_secret" not in str(caught.value)
    assert "file" not in source or str(source["file"]) in str(caught.value)


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a character device", "a directory"])
@pytest.mark.parametrize("is_linked", [False, True])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str, *, is_linked: bool) -> None:
    """Nobody writes to the FIFO: to open it would wait for good. What is said names the place, the reason and a cure."""
    path = Path("/dev/null") if kind == "a character device" else tmp_path / "token"
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "a socket":
            listener.bind(str(path))
        if is_linked:
            (tmp_path / "link").symlink_to(path)
            path = tmp_path / "link"
        login = Tokens({"HF_TOKEN_PATH": str(path)})

        with pytest.raises(MirrorError) as caught:
            login.read(endpoint(file=path))

        assert kind.removeprefix("a ") in str(caught.value)
        assert str(path) in str(caught.value)
        assert "regular file" in caught.value.hint
        assert login.read(endpoint()) is None
        assert login.find_exposed(endpoint(file=path)) is None


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    """So that a secret that is mounted by links, as Kubernetes does, can be replaced as a whole."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "token").write_text(TOKEN)
    (tmp_path / "token").symlink_to("data/token")

    assert TOKEN == Tokens({}).read(endpoint(file=tmp_path / "token"))


# --- how git gets it


def ask(git: Git, protocol: str, host: str, config: dict[str, str], fds: tuple[int, ...]) -> str:
    """Return what git would send to *host*; empty if it knows nothing."""
    asked = [f"protocol={protocol}\nhost={host}\n\n".encode()]
    done = git.run("credential", "fill", feed=asked, config=config, pass_fds=fds, check=False)
    assert TOKEN not in done.stderr
    return done.stdout.decode()


def test_git_lfs_gets_the_token_for_its_host(git: Git) -> None:
    """For the mirror's host and port it has user and token, as often as it asks."""
    with hand_over(TOKEN, URL, to_lfs=True) as lfs:
        answers = [ask(git, "http", "127.0.0.1:8000", lfs.config, lfs.fds) for _ in range(3)]

    assert [True] * 3 == [f"password={TOKEN}" in answer and "username=hf_user" in answer for answer in answers]


OTHERS = [
    ("http", "127.0.0.1:8001"),
    ("http", "127.0.0.1"),
    ("https", "127.0.0.1:8000"),
    ("http", "localhost:8000"),
    ("http", "x.127.0.0.1:8000"),
    ("https", "storage.example.org"),
]


def header_for(git: Git, url: str) -> str:
    """Return the header that git adds to its requests to *url*."""
    with hand_over(TOKEN, URL, to_lfs=False) as signed_in:
        asked = ("config", "--get-urlmatch", "http.extraHeader", url)
        return git.run(*asked, config=signed_in.config, pass_fds=signed_in.fds, check=False).stdout.decode()


def test_git_sends_the_token_to_its_host(git: Git) -> None:
    """With the first request to the mirror's host and port, and without a program to ask."""
    assert f"Authorization: {basic_authorization(TOKEN)}\n" == header_for(git, URL)


@pytest.mark.parametrize(("protocol", "host"), OTHERS)
def test_git_sends_the_token_to_no_other_host(git: Git, protocol: str, host: str) -> None:
    """Another port, protocol or name is another host."""
    assert "" == header_for(git, f"{protocol}://{host}/acme/x.git")


@pytest.mark.parametrize(("protocol", "host"), OTHERS)
def test_no_other_host_gets_the_token(git: Git, protocol: str, host: str) -> None:
    """Another port, protocol or name is another host: the helper is silent."""
    with hand_over(TOKEN, URL, to_lfs=True) as lfs:
        answer = ask(git, protocol, host, lfs.config, lfs.fds)

    assert "" == answer


def test_a_refused_token_is_not_offered_again(git: Git) -> None:
    """After git was told that the credential is wrong, the helper is silent: nobody asks for ever."""
    with hand_over(TOKEN, URL, to_lfs=True) as lfs:
        answer = ask(git, "http", "127.0.0.1:8000", lfs.config, lfs.fds)
        git.run("credential", "reject", feed=[f"{answer}\n".encode()], config=lfs.config, pass_fds=lfs.fds)

        assert "" == ask(git, "http", "127.0.0.1:8000", lfs.config, lfs.fds)


@pytest.mark.parametrize("to_lfs", [True, False])
def test_the_token_stands_in_no_setting(git: Git, *, to_lfs: bool) -> None:
    """What goes into the environment of git names the token nowhere, and neither does what git-lfs writes down of it."""
    with hand_over(TOKEN, URL, to_lfs=to_lfs) as credential:
        assert TOKEN not in str(credential.config)
        assert basic_authorization(TOKEN).split()[1] not in str(credential.config)
        if to_lfs:
            assert TOKEN not in git.text("config", "--list", config=credential.config, pass_fds=credential.fds)


@pytest.mark.parametrize("to_lfs", [True, False])
def test_the_answer_is_gone_with_the_command(*, to_lfs: bool) -> None:
    """Afterwards no descriptor is left from which it could be read."""
    before = set(Path("/proc/self/fd").iterdir())
    with hand_over(TOKEN, URL, to_lfs=to_lfs) as credential:
        assert Path(f"/proc/self/fd/{credential.fds[0]}").exists()

    assert before == set(Path("/proc/self/fd").iterdir())


def test_without_a_token_nobody_is_asked(git: Git, tmp_path: Path) -> None:
    """The helpers of the account are not called, neither with a token nor without one."""
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    helper.chmod(0o755)
    (git.git_dir / "config").write_text((git.git_dir / "config").read_text() + f"[credential]\n\thelper = {helper}\n")

    for token in (None, TOKEN):
        with hand_over(token, URL, to_lfs=True) as lfs:
            ask(git, "http", "elsewhere", lfs.config, lfs.fds)

    assert not (tmp_path / "asked").exists()
