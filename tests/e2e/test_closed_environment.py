"""What stands in a user's home, in the system's config or in the environment is never run, obeyed, or told a token."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import canary
import pytest
from outside import repository, strace
from support.plain_server import PlainServer
from support.running import Daemon, digests, download, endpoint, hubsync, write_checkpoint, write_config

from hubsync.localhub import LocalHub

HOOKS = ("pre-push", "post-commit", "reference-transaction", "post-checkout", "pre-auto-gc", "update", "pre-receive")
GIT_CONFIG = """
[core]
    hooksPath = {home}/hooks
    fsmonitor = {evil}
    sshCommand = {evil}
    pager = {evil}
    editor = {evil}
    askPass = {evil}
    gitProxy = {evil}
    alternateRefsCommand = {evil}
    attributesFile = {home}/attributes
[pager]
    push = {evil}
[alias]
    push = !{evil}
    lfs = !{evil}
[credential]
    helper = !{evil}
[credential "{url}"]
    helper = store
[url "{elsewhere}/"]
    insteadOf = {url}/
    pushInsteadOf = {url}/
[http]
    proxy = {elsewhere}
    extraHeader = X-Evil: 1
    cookieFile = {home}/cookies
    sslVerify = false
[lfs]
    url = {elsewhere}/lfs
    pushurl = {elsewhere}/lfs
    standalonetransferagent = evil
[lfs "customtransfer.evil"]
    path = {evil}
[filter "lfs"]
    process = {evil}
    clean = {evil}
    required = true
[uploadpack]
    packObjectsHook = {evil}
[gpg]
    program = {evil}
[commit]
    gpgSign = true
[include]
    path = {home}/more
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[PlainServer]:
    """Give the server that everything hostile points to."""
    with PlainServer(tmp_path / "elsewhere") as server:
        yield server


@pytest.fixture
def hostile(tmp_path: Path, hub: LocalHub, elsewhere: PlainServer) -> dict[str, str]:
    """Give an environment with a home in which every setting runs something or leads elsewhere."""
    home = tmp_path / "home"
    evil = home / "evil"
    (home / "hooks").mkdir(parents=True)
    (home / ".config" / "git").mkdir(parents=True)
    for script in (evil, *(home / "hooks" / name for name in HOOKS)):
        script.write_text(f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/ran\necho username=u\necho password=evil\n')
        script.chmod(0o755)
    text = GIT_CONFIG.format(home=home, evil=evil, url=hub.url, elsewhere=elsewhere.url)
    for path in (home / ".gitconfig", home / ".config" / "git" / "config", home / "system", home / "more"):
        path.write_text(text if path.name != "more" else f"[core]\n\tfsmonitor = {evil}\n")
    (home / "attributes").write_text("* filter=lfs\n")
    (home / ".git-credentials").write_text(f"{hub.url.replace('://', '://u:evil@')}\n")
    for name in (".netrc", "_netrc"):
        (home / name).write_text("machine 127.0.0.1\nlogin u\npassword evil\n")
        (home / name).chmod(0o600)
    for name in ("profile", "python/sitecustomize.py", ".lfsconfig", ".curlrc"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(f"{evil}\n" if name == "profile" else f"url = {elsewhere.url}\n")
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"), elsewhere.url)
    commands = {
        name: str(evil)
        for name in ("GIT_ASKPASS", "SSH_ASKPASS", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_PROXY_COMMAND", "GIT_EXTERNAL_DIFF",
                     "GIT_PAGER", "PAGER", "EDITOR", "VISUAL", "GIT_EDITOR")
    }  # fmt: skip
    files = {
        name: str(tmp_path / f"written-{name}")
        for name in ("GIT_TRACE", "GIT_TRACE2", "GIT_TRACE_CURL", "GIT_TRACE_PACKET", "GIT_TRACE_SETUP", "SSLKEYLOGFILE")
    }
    return {
        **proxies, **commands, **files, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"),
        "GIT_CONFIG_SYSTEM": str(home / "system"), "GIT_CONFIG_GLOBAL": str(home / "system"), "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": str(evil),
        "GIT_CONFIG_PARAMETERS": f"'core.sshCommand'='{evil}'", "GIT_EXEC_PATH": str(home / "hooks"),
        "GIT_TEMPLATE_DIR": str(home), "GIT_DIR": "/nonexistent", "GIT_WORK_TREE": str(home),
        "GIT_INDEX_FILE": "/nonexistent",
        "GIT_OBJECT_DIRECTORY": "/nonexistent", "GIT_NAMESPACE": "evil", "GIT_LFS_SKIP_PUSH": "1", "GIT_SSL_NO_VERIFY": "1",
        "GIT_ALLOW_PROTOCOL": "ext:file", "BASH_ENV": str(home / "profile"), "ENV": str(home / "profile"),
        "CURL_HOME": str(home), "NETRC": str(home / ".netrc"), "PERL5LIB": str(home), "IFS": "/", "TERM": "dumb",
        "HF_ENDPOINT": elsewhere.url, "HF_HUB_ENABLE_HF_TRANSFER": "1",
    }  # fmt: skip


@pytest.mark.parametrize("transport", ["git", "http"])
def test_nothing_of_a_home_or_an_environment_is_obeyed(
    tmp_path: Path, source: Path, hub: LocalHub, elsewhere: PlainServer, hostile: dict[str, str], transport: str
) -> None:
    """Everything arrives at the mirror; no command runs, no other server hears of it, no file is written by a trace."""
    write_checkpoint(source / "checkpoint-1")
    (source / "notes.txt").write_text("x")
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    config.write_text(config.read_text().replace('"m0:acme/x"', f'{{ repo = "m0:acme/x", transport = "{transport}" }}'))

    done = hubsync(config, "once", **hostile)
    checked = hubsync(config, "check", "--online", **hostile)

    assert (0, 0) == (done.returncode, checked.returncode), done.stderr + checked.stdout
    assert digests(source) == download(hub, "acme/x", tmp_path / "downloaded")
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    assert [] == elsewhere.requests
    assert [] == list(tmp_path.glob("written-*"))


def test_each_process_sees_what_it_needs_and_no_token(
    tmp_path: Path, source: Path, hub: LocalHub, hostile: dict[str, str]
) -> None:
    """Also those that git starts: nothing of the hostile environment, no prompt, no other program.

    GitPython asks /dev/null for the version of git when it is imported, which nobody may run.
    """
    write_checkpoint(source / "checkpoint-1")
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    environment = {**hostile, "HF_TOKEN": hub.token, "AWS_SECRET_ACCESS_KEY": "CaNySecret", "LD_AUDIT": ""}
    with Daemon(config, *strace(tmp_path / "trace", "execve"), **environment) as daemon:
        daemon.wait_for("unit.published")
        assert 0 == daemon.stop()

    lines = (tmp_path / "trace").read_text().splitlines()[1:]
    calls = [read_execve(line) for line in lines if "execve(" in line and "= -1 EACCES" not in line]
    ran = {Path(program).name for program, _, _ in calls}
    foreign = {name for name in hostile if name not in {"HOME", "TERM"} and not name.startswith("GIT_CONFIG")}
    assert {"git", "git-lfs", "git-remote-http"} <= ran
    assert ran <= {"git", "git-lfs", "git-remote-http", "git-receive-pack", "sh", "python", "python3", "dash"}, ran
    for program, argv, seen in calls:
        assert not canary.sees(" ".join([*argv, *seen.values()])), argv
        assert set() == {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "LD_AUDIT"} & seen.keys(), argv
        if Path(program).name.startswith("git"):
            assert set() == {name for name in foreign if seen.get(name) == hostile[name]}, argv
            assert ("/dev/null", "1", "0") == tuple(
                seen.get(name) for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_TERMINAL_PROMPT")
            ), argv
            assert seen["HOME"] != hostile["HOME"]
    assert (repository(hub) / "refs").exists()


def read_execve(line: str) -> tuple[str, list[str], dict[str, str]]:
    """Return the program, the arguments and the environment of a traced call."""
    found = re.search(r'execve\("([^"]*)", \[(.*?)\], \[(.*)\](\)| <unfinished)', line)
    assert found, line[:300]
    argv, environment = (json.loads(f"[{part}]".replace("\\'", "'"), strict=False) for part in (found[2], found[3]))
    return os.fspath(found[1]), argv, dict(pair.split("=", 1) for pair in environment)
