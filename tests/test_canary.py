"""The lookout for leaked tokens, which stands beside every test (support/site/canary.py), is not blind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import canary
import pytest
from support.running import PATIENCE_S, ROOT, Daemon, write_config

TOKEN = "hf_" + "CaNy" * 8


@pytest.mark.parametrize("where", ["argv", "environ"])
def test_a_token_given_to_a_child_is_seen(where: str) -> None:
    """In the arguments and in the environment of a process that our package starts, in whatever process that runs."""
    given = {name: TOKEN if where == name else "" for name in ("argv", "environ")}
    script = f"""
from hubsync.store.process import read_command
read_command(("true", {given["argv"]!r}), {{"A": {given["environ"]!r}}}, timeout_s=9)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)

    noted = Path(os.environ[canary.PLACE])
    seen = noted.read_text()
    noted.unlink()
    assert f"{where} of ['true'" in seen


def test_a_token_in_a_file_is_seen(tmp_path: Path) -> None:
    """In the state and in a log, not in what a test keeps beside them."""
    for name in ("state/targets/run/x", "a/state/status.json", "hubsync.log", "token"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"a{TOKEN}\n")

    found = {str(path.relative_to(tmp_path)) for path in canary.search(tmp_path)}
    for path in canary.search(tmp_path):
        path.unlink()

    assert {"state/targets/run/x", "a/state/status.json", "hubsync.log"} == found


@pytest.mark.parametrize(("where", "script"), [
    ("argv", "read t; sh -c 'read x; :' $t; :"),
    ("environ", "read t; A=$t sh -c 'read x; :'; :"),
], ids=["argv", "environ"])  # fmt: skip
def test_a_token_given_to_a_grandchild_is_seen(where: str, script: str) -> None:
    """By a process that is not ours, such as git, which was given it where nobody looks."""
    given = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, process_group=0)
    assert given.stdin is not None
    given.stdin.write(f"{TOKEN}\n".encode())
    given.stdin.flush()
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (seen := list(canary.search_processes(given.pid))) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.killpg(given.pid, signal.SIGKILL)
        given.communicate()

    assert [f"{where} of b'sh"] == [place[: len(where) + 8] for place in seen]


def test_a_token_that_is_printed_is_seen(tmp_path: Path) -> None:
    """A line of the log with a token fails the test."""
    (tmp_path / "run").mkdir()
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "run", {'url = "http://127.0.0.1:9"': "acme/x"})
    said = json.dumps({"event": TOKEN})
    with pytest.raises(AssertionError), Daemon(config, "sh", "-c", f"echo '{said}' >&2", "sh") as daemon:
        daemon.process.wait()
    assert daemon.leaks
