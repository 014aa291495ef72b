"""A child that hangs is ended, and what waited for it goes on: git that is stopped, and a service that is to end."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.running import ROOT, Daemon, digests, download, endpoint, hubsync, write_checkpoint, write_config

from hubsync.children import Children
from hubsync.localhub import LocalHub

SCRIPT = """
import json, os, signal, subprocess, time
from hubsync.children import Children

def start(*argv):
    return subprocess.Popen(argv, process_group=0)

children = Children()
started = {"stopped": start("sleep", "60"), "idle": start("sleep", "60"), "busy": start("sh", "-c", "while :; do :; done")}
os.kill(started["stopped"].pid, signal.SIGSTOP)
seen = {}
for now, idle_s in ((0, None), (19, None), (20, None), (299, 300), (300, 300)):
    time.sleep(0.2)  # the busy one gets on
    children.end_hung(now, idle_s)
    time.sleep(0.1)
    seen[now] = [name for name, child in started.items() if child.poll() is None]
children.end_all()
print(json.dumps([seen, started["busy"].wait(10)]))
"""


def test_a_child_that_hangs_is_ended() -> None:
    """One that is stopped after 20 s; one that does nothing only where something stalls; one that works never."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)

    left, ended = json.loads(done.stdout.splitlines()[-1])
    three, two = ["stopped", "idle", "busy"], ["idle", "busy"]
    assert {"0": three, "19": three, "20": two, "299": two, "300": ["busy"]} == left
    assert -9 == ended


def test_children_may_end_while_they_are_looked_at() -> None:
    """The system lists what ends at that moment in one way or another; whoever looks goes on."""
    over = threading.Event()
    children = Children()

    def start_many() -> None:
        subprocess.run(["sh", "-c", "i=0; while [ $i -lt 1000 ]; do /bin/true & wait; i=$((i+1)); done"], check=True)
        over.set()

    threading.Thread(target=start_many).start()
    while not over.is_set():
        children.end_hung(0.0)


@pytest.mark.parametrize(("grace", "signals"), [("1s", 1), ("10m", 2), ("10m", 1)])
def test_a_child_that_hangs_does_not_keep_the_service_from_ending(tmp_path: Path, grace: str, signals: int) -> None:
    """Git is stopped as it writes a snapshot: hubsync ends all the same, leaves no process, and the next one has it all.

    With a long grace a second signal ends that: nobody waits for the watch, which waits for git, before it is heard. With
    one signal git is ended soon, since a stopped process never gets on by itself.
    """
    source = tmp_path / "run"
    stopped, first = tmp_path / "bin" / "git", tmp_path / "first"
    stopped.parent.mkdir()
    stopped.write_text(
        f'#!/bin/sh\ncase "$*" in *fast-import*) mkdir {first} && kill -STOP $$;; esac\nexec {shutil.which("git")} "$@"\n'
    )
    stopped.chmod(0o755)
    with LocalHub(tmp_path / "hub") as hub:
        config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
        config.write_text(config.read_text().replace("[service]", f'[service]\nshutdown_grace = "{grace}"'))
        write_checkpoint(source / "checkpoint-1")
        with Daemon(config, PATH=f"{stopped.parent}:{os.environ['PATH']}") as daemon:
            while not first.exists():
                time.sleep(0.05)
            daemon.process.terminate()
            daemon.wait_for("daemon.stopping")
            if signals > 1:
                daemon.process.terminate()
            assert 0 == daemon.process.wait(15)
            if (grace, signals) == ("10m", 1):
                assert daemon.wait_for("child.ended")["stalled_s"] < 15

        assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path / "state") in _read(path)]
        assert 0 == hubsync(config, "once").returncode
        assert digests(source) == download(hub, "acme/x", tmp_path / "back")


def test_a_git_that_hangs_is_named_by_whoever_asks(tmp_path: Path) -> None:
    """The heartbeat and the status do not wait for it: they say what the store has been at work on, and for how long."""
    source = tmp_path / "run"
    stopped, first = tmp_path / "bin" / "git", tmp_path / "first"
    stopped.parent.mkdir()
    stopped.write_text(
        f'#!/bin/sh\ncase "$*" in *fast-import*) mkdir {first} && kill -STOP $$;; esac\nexec {shutil.which("git")} "$@"\n'
    )
    stopped.chmod(0o755)
    with LocalHub(tmp_path / "hub") as hub:
        config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
        write_checkpoint(source / "checkpoint-1")
        with Daemon(config, PATH=f"{stopped.parent}:{os.environ['PATH']}") as daemon:
            daemon.wait_for("heartbeat", target="run", busy="git fast-import is at work")
            assert "git fast-import is at work" in hubsync(config, "status").stdout
            assert "its store is at work" in hubsync(config, "wait", "run", "--timeout", "1s").stderr
            daemon.process.terminate()
            daemon.process.terminate()
            assert 0 == daemon.process.wait(15)


@pytest.mark.parametrize("was_killed", [True, False], ids=["at the start", "while it runs"])
def test_two_signals_end_a_service_in_which_every_git_hangs(tmp_path: Path, *, was_killed: bool) -> None:
    """Before the first target is open, or later: nobody waits until they are ended as what hangs, nor for the last ones."""
    source = tmp_path / "run"
    stopped, first = tmp_path / "bin" / "git", tmp_path / "first"
    stopped.parent.mkdir()
    stopped.write_text(
        f'#!/bin/sh\n[ "$1" != version ] || exec {shutil.which("git")} version\nmkdir {first} 2>/dev/null; kill -STOP $$\n'
    )
    stopped.chmod(0o755)
    with LocalHub(tmp_path / "hub") as hub:
        config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
        write_checkpoint(source / "checkpoint-1")
        assert 0 == hubsync(config, "once").returncode
        if was_killed:
            (tmp_path / "state/targets/run/open").touch()  # all of the store is looked through at the start
        with Daemon(config, PATH=f"{stopped.parent}:{os.environ['PATH']}") as daemon:
            daemon.wait_for("daemon.started")
            while not first.exists():
                time.sleep(0.05)
            daemon.process.terminate()
            time.sleep(0.1)  # or the two might be one
            daemon.process.terminate()
            assert 0 == daemon.process.wait(15)


@pytest.mark.slow
def test_a_child_that_hangs_at_the_start_does_not_keep_the_service_from_starting(tmp_path: Path) -> None:
    """Git is stopped before the first target is open: it is ended, and what it was started for is tried again."""
    source = tmp_path / "run"
    stopped, first = tmp_path / "bin" / "git", tmp_path / "first"
    stopped.parent.mkdir()
    stopped.write_text(
        f'#!/bin/sh\n[ "$1" = version ] || {{ mkdir {first} 2>/dev/null && kill -STOP $$; }}\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    stopped.chmod(0o755)
    with LocalHub(tmp_path / "hub") as hub:
        config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
        write_checkpoint(source / "checkpoint-1")
        with Daemon(config, PATH=f"{stopped.parent}:{os.environ['PATH']}") as daemon:
            daemon.wait_for("child.ended")
            daemon.wait_for("unit.published")
            assert 0 == daemon.stop()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
