"""What an operator does to a running daemon, and what it says of itself."""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from outside import Holdup, history, paths_at, processes_of, repository, strace, wait_until
from support.plain_server import PlainServer
from support.running import PATIENCE_S, Daemon, endpoint, hubsync, write_checkpoint, write_config, write_safetensors

from hubsync.localhub import LocalHub

MIRROR = "m0:acme/x"
QUICKLY_S = 10.0


def edit(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def add_target(config: Path, name: str, mirror: str) -> Path:
    """Declare one more target and return its source, with a file in it."""
    source = config.parent / name
    source.mkdir()
    (source / "file.txt").write_text(name)
    with config.open("a") as file:
        file.write(f'\n[[target]]\nname = "{name}"\nsource = "{source}"\nmirrors = ["{mirror}"]\n'
                   'quiet = "200ms"\nschedule = "1s"\n')  # fmt: skip
    return source


# --- the config is read again


def test_a_reload_is_taken_over_whole_or_not_at_all(config: Path, source: Path, state: Path) -> None:
    """A config with mistakes is rejected, all of them said, and changes nothing; a good one starts and ends targets."""
    good = config.read_text()
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        config.write_text(good.replace("quiet", "quite").replace('schedule = "1s"', 'schedule = "1 second"'))
        daemon.process.send_signal(signal.SIGHUP)
        assert 2 == daemon.wait_for("config.rejected")["error"].count(f"{config}:")
        refused = hubsync(config, "reload")
        assert (78, "", 2) == (refused.returncode, refused.stdout, refused.stderr.count(f"{config}:"))
        daemon.wait_for("config.rejected")
        config.write_text(good.replace(f"{state}", f"{state}-elsewhere"))
        daemon.process.send_signal(signal.SIGHUP)
        assert "state_dir" in daemon.wait_for("config.rejected")["error"]
        config.write_text(good)
        wait_until(lambda: hubsync(config, "status").returncode == 1, "the rejection is shown")
        shown = json.loads(hubsync(config, "status", "--json").stdout)
        assert "state_dir" in shown["daemon"]["config_error"]["error"]
        assert "restart hubsync" in hubsync(config, "status").stdout
        (source / "still.txt").write_text("works")
        daemon.wait_for("mirror.published", target="run")
        assert 0 == hubsync(config, "reload").returncode
        daemon.wait_for("daemon.reloaded")
        wait_until(lambda: hubsync(config, "status").returncode == 0, "the rejection is forgotten")

        add_target(config, "other", "m0:acme/y")
        assert 0 == hubsync(config, "reload").returncode
        reloaded = daemon.wait_for("daemon.reloaded")
        assert (["other"], [], []) == (reloaded["added"], reloaded["removed"], reloaded["changed"])
        daemon.wait_for("mirror.published", target="other")

        config.write_text(good)
        daemon.process.send_signal(signal.SIGHUP)
        assert ["other"] == daemon.wait_for("daemon.reloaded")["removed"]
        (source / "more.txt").write_text("works")
        daemon.wait_for("mirror.published", target="run")
        names = {target["name"] for target in json.loads(hubsync(config, "status", "--json").stdout)["targets"]}
        assert {"run"} == names
        assert 0 == daemon.stop()


def test_targets_that_hang_delay_no_other(config: Path, source: Path, plain: PlainServer) -> None:
    """Many targets that came with a reload wait for a server that does not answer; the others publish as ever."""
    holdup = Holdup(plain, lambda _: True)
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        edit(config, "[[target]]", f'[endpoint.hung]\nurl = "{plain.url}"\ntimeout = "15s"\n[[target]]')
        for number in range(11):
            add_target(config, f"hung{number}", f"hung:acme/x{number}")
        hubsync(config, "reload")
        daemon.wait_for("daemon.reloaded")
        wait_until(lambda: len(plain.requests) == 11, "all of them ask")
        (source / "a.txt").write_text("a")
        daemon.wait_for("mirror.published", target="run")
    holdup.let_go()


def test_a_stop_does_not_wait_for_a_hub_that_does_not_answer(plain_config: Path, source: Path, plain: PlainServer) -> None:
    """Told to stop while a request waits for its answer, the daemon gives it the grace time and ends with 0."""
    (source / "a.txt").write_text("a")
    edit(plain_config, "[service]", '[service]\nshutdown_grace = "1s"')
    holdup = Holdup(plain, lambda request: request.path.startswith("/api/"))
    with Daemon(plain_config) as daemon:
        assert holdup.reached.wait(PATIENCE_S)
        began = time.monotonic()
        assert 0 == daemon.stop()
        assert time.monotonic() - began < QUICKLY_S
        assert daemon.wait_for("daemon.stopped")["clean"] is False
    holdup.let_go()


def test_a_reload_that_waits_for_a_hub_holds_up_nothing_else(plain_config: Path, source: Path, plain: PlainServer) -> None:
    """A target is removed while its request waits for an answer: commands, heartbeats, systemd's watchdog go on."""
    (source / "a.txt").write_text("a")
    add_target(plain_config, "other", "m0:acme/y")
    edit(plain_config, '[[target]]\nname = "run"', 'timeout = "30s"\n[[target]]\nname = "run"')
    holdup = Holdup(plain, lambda request: request.path.partition("?")[0].endswith("/api/models/acme/x"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(plain_config.parent / "notify"))
        listener.settimeout(QUICKLY_S)
        with Daemon(plain_config, NOTIFY_SOCKET=str(plain_config.parent / "notify"), WATCHDOG_USEC="400000") as daemon:
            assert holdup.reached.wait(PATIENCE_S)
            text = plain_config.read_text()
            first, second = text.index("[[target]]"), text.rindex("[[target]]")
            plain_config.write_text(text[:first] + text[second:])
            assert 0 == hubsync(plain_config, "reload").returncode
            for _ in range(30):  # far more than the socket queues: the daemon is alive now, not only before
                listener.recv(4096)
            assert 0 == hubsync(plain_config, "flush", "other").returncode
            daemon.wait_for("heartbeat", target="other", count=2)
            assert not any(entry["event"] == "daemon.reloaded" for entry in daemon.events)
            holdup.let_go()
            assert ["run"] == daemon.wait_for("daemon.reloaded")["removed"]
            assert 0 == daemon.stop()


# --- commands


def test_a_paused_target_publishes_nothing(config: Path, source: Path, hub: LocalHub) -> None:
    """Paused, neither a complete unit, nor a flush, nor a changed config publishes; resumed, all of it goes at once."""
    edit(config, 'schedule = "1s"', 'schedule = "manual"')
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        assert 0 == hubsync(config, "pause", "run").returncode
        write_checkpoint(source / "checkpoint-1")
        (source / "a.txt").write_text("a")
        flushed = hubsync(config, "flush")
        assert (1, "") == (flushed.returncode, flushed.stdout)
        assert "run is paused" in flushed.stderr
        assert "hubsync resume run" in flushed.stderr
        daemon.wait_for("heartbeat", state="paused", settled=1)
        assert 0 == daemon.stop()
    with Daemon(config) as daemon:
        daemon.wait_for("target.paused", target="run")
        daemon.wait_for("heartbeat", state="paused", settled=1)
        shown = hubsync(config, "status", "--json")
        assert (0, "paused") == (shown.returncode, json.loads(shown.stdout)["targets"][0]["state"])
        edit(config, '"300ms"', '"200ms"')
        hubsync(config, "reload")
        daemon.wait_for("daemon.reloaded", changed=["run"])
        daemon.wait_for("heartbeat", state="paused", settled=1)
        assert not (hub.directory / "models/acme").exists()
        assert 0 == hubsync(config, "resume").returncode
        daemon.wait_for("unit.published")
        wait_until(lambda: "a.txt" in paths_at(repository(hub)), "the loose file is there too")

        (source / "b.txt").write_text("b")
        daemon.wait_for("heartbeat", settled=1)
        assert "b.txt" not in paths_at(repository(hub))  # the schedule is manual
        assert 0 == hubsync(config, "flush", "run").returncode
        daemon.wait_for("mirror.published")
        wrong = hubsync(config, "flush", "rum")
        assert 2 == wrong.returncode
        assert "run" in wrong.stderr
        assert 0 == daemon.stop()


@pytest.mark.parametrize(
    ("priority", "nice", "policy"),
    [("idle", 19, os.SCHED_IDLE), ("low", 10, os.SCHED_BATCH), ("normal", 0, os.SCHED_OTHER)],
)
def test_the_daemon_stands_back_unless_it_is_told_not_to(config: Path, priority: str, nice: int, policy: int) -> None:
    """All of its threads are scheduled as a batch job is, which its children inherit."""
    config.write_text(config.read_text().replace('priority = "normal"', f'priority = "{priority}"'))
    with Daemon(config) as daemon:
        daemon.wait_for("watch.started")
        threads = [int(task.name) for task in Path(f"/proc/{daemon.process.pid}/task").iterdir()]
        found = {(os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread)) for thread in threads}

    assert {(os.getpriority(os.PRIO_PROCESS, 0) + nice, policy)} == found


def test_what_moves_bytes_in_bulk_stands_back_further(config: Path, source: Path) -> None:
    """Who hashes, and who sends, leaves a busy machine to the training; what answers stays above that."""
    edit(config, 'priority = "normal"', 'priority = "low"\nread_rate = "2MB/s"')
    edit(config, "[endpoint.m0]", '[endpoint.m0]\nupload_rate = "2MB/s"')
    with Daemon(config) as daemon:
        daemon.wait_for("watch.started")
        write_safetensors(source / "slow.safetensors", 3_000_000)
        pid = daemon.process.pid
        wait_until(lambda: {10, 19} == _niceness(pid), "a thread that hashes is lowered")
        wait_until(lambda: {10} == _niceness(pid), "it has hashed")
        wait_until(lambda: any({19} == _niceness(child) for child in _offspring(pid)), "the agent is lowered")


def _offspring(pid: int) -> list[int]:
    """Return the children of *pid*, and theirs."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children = [int(child) for child in (thread / "children").read_text().split()]
            found += children + [each for child in children for each in _offspring(child)]

    return found


def _niceness(pid: int) -> set[int]:
    """Return how much nicer than this process the threads of *pid* are."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found.add(os.getpriority(os.PRIO_PROCESS, int(thread.name)) - os.getpriority(os.PRIO_PROCESS, 0))

    return found


def test_files_are_read_as_fast_as_the_config_says(config: Path, source: Path) -> None:
    """What is more than a second's worth takes its time, captured and sent; another rate needs no restart."""
    edit(config, 'priority = "normal"', 'priority = "normal"\nread_rate = "2MB/s"')
    with Daemon(config, HUBSYNC_LOG_LEVEL="debug") as daemon:
        daemon.wait_for("watch.started")
        write_safetensors(source / "slow.safetensors", 3_000_000)
        slow = daemon.wait_for("file.captured", path="slow.safetensors")
        daemon.wait_for("mirror.published")
        edit(config, 'read_rate = "2MB/s"', "hash_threads = 1")
        hubsync(config, "reload")
        daemon.wait_for("daemon.reloaded", changed=[])

    assert slow["took_s"] > 0.4


def test_a_status_that_cannot_be_written_stops_nothing(config: Path, source: Path, state: Path) -> None:
    """As on a full disk: it is said, the heartbeat goes on, what comes is published, and the end is a good one."""
    with Daemon(config) as daemon:
        daemon.wait_for("heartbeat")
        (state / "status.json").unlink(missing_ok=True)
        (state / "status.json" / "in the way").mkdir(parents=True)
        daemon.wait_for("schedule.failed")
        (source / "a.txt").write_text("a")
        daemon.wait_for("mirror.published")
        daemon.wait_for("heartbeat", count=2)

        assert 0 == daemon.stop()
        daemon.wait_for("daemon.stopped", clean=True)


def test_one_daemon_for_one_state(config: Path) -> None:
    """While one runs, neither a second nor `once` works on its state; both exit with 75 and name its process."""
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        for command in ("run", "once"):
            done = hubsync(config, command)
            assert 75 == done.returncode
            assert f"pid {daemon.process.pid}" in done.stderr
        assert 0 == daemon.stop()


def test_a_killed_daemon_is_not_taken_for_a_running_one(config: Path) -> None:
    """Its socket and status file stay behind; flush and status exit with 3, and another daemon starts."""
    with Daemon(config) as daemon:
        daemon.wait_for("heartbeat")
    assert [3, 3] == [hubsync(config, command).returncode for command in ("flush", "status")]

    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        assert 0 == hubsync(config, "flush").returncode
        assert 0 == daemon.stop()


# --- mirrors that refuse


def test_a_public_repository_is_refused_until_it_is_private(config: Path, source: Path, hub: LocalHub) -> None:
    """Where private is declared, nothing is sent to a public repository; made private, a flush publishes."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("acme/x", private=False)
    write_checkpoint(source / "checkpoint-1")
    hub.forget_requests()
    with Daemon(config) as daemon:
        parked = daemon.wait_for("mirror.parked")
        daemon.wait_for("heartbeat")
        assert ("forbidden", False) == (parked["error_kind"], parked["retryable"])
        assert "private" in parked["hint"]
        assert [] == [request for request in hub.requests if request.method in {"PUT", "POST"}]
        assert 1 == hubsync(config, "status").returncode
        api.update_repo_settings("acme/x", private=True)
        hubsync(config, "flush")
        daemon.wait_for("mirror.recovered")
        assert 0 == daemon.stop()

    assert 2 == len(history(repository(hub)))
    api.update_repo_settings("acme/x", private=False)
    (source / "b.txt").write_text("b")
    assert 77 == hubsync(config, "once").returncode


def with_wrong_token(config: Path, hub: LocalHub) -> Path:
    """Let *config* name a token file of its own, with a token that the Hub does not know."""
    token = config.parent / "token"
    token.write_text("hf_wrongwrongwrongwrong\n")
    edit(config, f"{hub.directory}/token", str(token))
    return token


def test_a_wrong_token_parks_until_it_is_replaced(config: Path, source: Path, hub: LocalHub) -> None:
    """The refusal is said once, with what to do; after the file was replaced, a flush publishes without a restart."""
    (source / "a.txt").write_text("a")
    token = with_wrong_token(config, hub)
    with Daemon(config) as daemon:
        parked = daemon.wait_for("mirror.parked")
        assert ("auth", "token" in parked["hint"]) == (parked["error_kind"], True)
        daemon.wait_for("heartbeat", mirrors_failing=1)
        shown = hubsync(config, "status", "--json")
        (target,) = json.loads(shown.stdout)["targets"]
        assert (1, "degraded", None) == (shown.returncode, target["state"], target["last_error"])
        assert ("parked", "auth") == (target["mirrors"][0]["state"], target["mirrors"][0]["last_error"]["error_kind"])
        assert 1 == sum(entry["event"] == "mirror.parked" for entry in daemon.events)
        token.write_text(hub.token)
        hubsync(config, "flush")
        daemon.wait_for("mirror.recovered")
        assert 0 == daemon.stop()

    assert "a.txt" in paths_at(repository(hub))


@pytest.mark.parametrize("content", ["hf_wrongwrongwrongwrong", "", None], ids=["wrong", "empty", "missing"])
def test_a_replaced_token_takes_effect_by_itself(config: Path, source: Path, hub: LocalHub, content: str | None) -> None:
    """The catalogue says of mirror.parked: flush, or replace the token; nothing else is needed, and few requests made."""
    (source / "a.txt").write_text("a")
    token = with_wrong_token(config, hub)
    if content is None:
        token.unlink()
    else:
        token.write_text(content)
    with Daemon(config) as daemon:
        assert "hubsync flush" in daemon.wait_for("mirror.parked")["hint"]
        hub.forget_requests()
        daemon.wait_for("heartbeat", count=3)
        assert () == hub.requests
        token.write_text("hf_stillstillstillwrong")
        wait_until(lambda: hub.requests, "the new token is tried")
        token.write_text(hub.token)
        daemon.wait_for("mirror.recovered")
        assert 0 == daemon.stop()


# --- what others may see


def test_systemd_hears_how_the_daemon_is(config: Path, tmp_path: Path) -> None:
    """At work on each store, ready, alive, reloading and ready again, stopping; and a line for people."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE_S)
        said: list[str] = []
        with Daemon(config, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000") as daemon:
            daemon.wait_for("daemon.ready")
            while "WATCHDOG=1" not in said or not any(one.startswith("STATUS=") for one in said):
                said.append(listener.recv(4096).decode())
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for("daemon.reloaded")
            while len([one for one in said if one == "READY=1"]) < 2:
                said.append(listener.recv(4096).decode())
            assert 0 == daemon.stop()
        while "STOPPING=1" not in said:
            said.append(listener.recv(4096).decode())

    states = [one.partition("\n")[0] for one in said if not one.startswith(("WATCHDOG", "STATUS"))]
    assert ["EXTEND_TIMEOUT_USEC=300000000", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"] == states
    assert "STATUS=1/1 targets ok" in said


def test_no_token_leaves_the_daemon(tmp_path: Path, source: Path, state: Path, hub: LocalHub, other_hub: LocalHub) -> None:
    """Tokens of $HF_TOKEN and of a file, and systemd's socket, reach no child, no file of the state, no debug log."""
    write_checkpoint(source / "checkpoint-1")
    mirrors = {f'url = "{hub.url}"': "acme/x", endpoint(other_hub): "acme/x"}
    config = write_config(tmp_path / "hubsync.toml", source, mirrors)
    trace = tmp_path / "trace"
    environment = {"HF_TOKEN": hub.token, "HUBSYNC_LOG_LEVEL": "debug", "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with Daemon(config, *strace(trace, "execve"), **environment) as daemon:
        daemon.wait_for("mirror.published", count=2)
        daemon.wait_for("heartbeat")
        assert 0 == daemon.stop()

    itself, *children = trace.read_text().splitlines()
    assert hub.token in itself  # the trace shows what is looked for
    assert sum('"push"' in line for line in children) >= 4  # of git and git-lfs, for both
    log = "\n".join(map(json.dumps, daemon.events))
    files = {path: path.read_bytes().decode("latin-1") for path in state.rglob("*") if path.is_file()}
    for token in (hub.token, other_hub.token):
        for secret in (token, base64.b64encode(f"hf_user:{token}".encode()).decode()):
            assert [] == [line for line in children if secret in line]
            assert secret not in log
            assert [] == [path for path, content in files.items() if secret in content]
    assert [] == [line for line in children if "NOTIFY_SOCKET" in line]
    assert [] == processes_of(state)
    assert re.search(r'"event": ?"object.uploaded"', log)
