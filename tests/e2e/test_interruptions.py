"""hubsync is killed, stopped and reloaded in the middle of its work."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from outside import (
    Holdup,
    expect_sound_history,
    is_object,
    is_push,
    paths_at,
    pinned,
    processes_of,
    repository,
    wait_until,
)
from support.plain_server import PlainServer, Request
from support.running import ROOT, Daemon, endpoint, hubsync, write_checkpoint, write_config, write_safetensors

from hubsync.localhub import LocalHub

UNIT = "checkpoint-5"
QUICKLY_S = 10.0


def contents(source: Path) -> dict[str, bytes]:
    return {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}


def count_settled(config: Path) -> int:
    """Return how many settled files wait for a commit, as the status says."""
    path = config.parent / "state" / "status.json"
    status = json.loads(path.read_text()) if path.exists() else {"targets": []}
    return int(status["targets"][0]["settled"]) if status["targets"] else 0


@pytest.mark.parametrize(
    ("moment", "answered"),
    [(is_object, False), (is_push, False), (is_push, True)],
    ids=["objects sent", "before the push", "after the push"],
)
def test_a_killed_daemon_goes_on_where_it_was(
    tmp_path: Path, source: Path, state: Path, plain: PlainServer, hub: LocalHub, moment: Callable[[Request], bool],
    *, answered: bool,
) -> None:  # fmt: skip
    """Killed at one moment of a publication, it ends its orphans, loses nothing and commits nothing twice."""
    config = write_config(tmp_path / "hubsync.toml", source, {f'url = "{plain.url}"': "acme/x", endpoint(hub): "acme/x"})
    write_checkpoint(source / UNIT)
    (source / "notes.txt").write_text("notes")
    holdup = Holdup(plain, moment, answered=answered)
    with Daemon(config) as daemon:
        assert holdup.reached.wait(60)
        daemon.process.kill()
        daemon.process.wait()
    assert processes_of(state)  # the upload goes on without its parent, and holds the lock
    assert 3 == hubsync(config, "status").returncode

    with Daemon(config) as daemon:
        daemon.wait_for("state.recovered", what="orphans")
        holdup.let_go()
        wait_until(lambda: plain.git("acme/x", "branch") and plain.read_all("acme/x") == contents(source), "all is there")
        wait_until(lambda: paths_at(repository(hub)) - {".gitattributes"} == set(contents(source)), "on the other as well")
        wait_until(lambda: not pinned(state), "the objects are let go")
        assert 0 == daemon.stop()

    for directory in (tmp_path / "server" / "acme" / "x.git", repository(hub)):
        expect_sound_history(directory)


def test_a_stop_in_mid_upload_leaves_no_child(plain_config: Path, source: Path, state: Path, plain: PlainServer) -> None:
    """When the grace is over and an upload hangs, the daemon ends with 0, and says what it gave up and the mirror lacks."""
    plain_config.write_text(plain_config.read_text().replace("[service]", '[service]\nshutdown_grace = "1s"'))
    write_safetensors(source / "model.safetensors", 100_000)
    holdup = Holdup(plain, is_object)
    with Daemon(plain_config) as daemon:
        assert holdup.reached.wait(60)
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)

        stopped = daemon.wait_for("daemon.stopped")
        assert 0 == daemon.process.wait(QUICKLY_S)
        assert time.monotonic() - began < QUICKLY_S

    assert (False, "SIGTERM") == (stopped["clean"], stopped["reason"])
    assert ["run to m0:acme/x"] == stopped["given_up"]
    [left] = stopped["unfinished"]
    assert left.startswith("run to m0:acme/x: 1 file, 100.")
    assert [] == processes_of(state)
    holdup.let_go()
    assert 0 == hubsync(plain_config, "once").returncode
    assert contents(source) == plain.read_all("acme/x")


def test_a_stop_at_any_time_of_the_start_is_clean(config: Path, source: Path, state: Path) -> None:
    """Told to stop before it is ready, the daemon ends with 0 as well; what it had begun is done at the next start."""
    for number, event in enumerate(("daemon.started", "snapshot.committed")):
        write_checkpoint(source / f"checkpoint-{number}")
        with Daemon(config) as daemon:
            daemon.wait_for(event)
            assert 0 == daemon.stop()
            assert [] == processes_of(state)

    assert 0 == hubsync(config, "once").returncode


def test_a_reload_does_not_wait_for_an_upload(tmp_path: Path, plain_config: Path, source: Path, plain: PlainServer) -> None:
    """A target that is changed or removed while its upload hangs is ended and started anew at once; so is a stop heard."""
    write_safetensors(source / "model.safetensors", 100_000)
    holdup = Holdup(plain, is_object)
    text = plain_config.read_text()
    (tmp_path / "other").mkdir()
    other = f'[[target]]\nname = "other"\nsource = "{tmp_path}/other"\nmirrors = ["m0:acme/y"]\n'
    with Daemon(plain_config) as daemon:
        assert holdup.reached.wait(60)
        began = time.monotonic()
        plain_config.write_text(f"{text}\n{other}".replace('quiet = "300ms"', 'quiet = "200ms"'))
        hubsync(plain_config, "reload")
        reloaded = daemon.wait_for("daemon.reloaded")
        assert (["run"], ["other"]) == (reloaded["changed"], reloaded["added"])
        plain_config.write_text(text[: text.index("[[target]]")] + other)
        hubsync(plain_config, "reload")
        assert ["run"] == daemon.wait_for("daemon.reloaded")["removed"]
        assert time.monotonic() - began < 2 * QUICKLY_S
        plain_config.write_text(text)
        hubsync(plain_config, "reload")
        daemon.wait_for("daemon.reloaded", added=["run"])
        holdup.let_go()
        daemon.wait_for("mirror.published", target="run")
        assert 0 == daemon.stop()

    assert contents(source) == plain.read_all("acme/x")


def test_once_ends_with_130_in_mid_upload(plain_config: Path, source: Path, state: Path, plain: PlainServer) -> None:
    """Ctrl-C ends `once` while an upload hangs, with its children; the next run publishes."""
    write_safetensors(source / "model.safetensors", 100_000)
    holdup = Holdup(plain, is_object)
    argv = [sys.executable, "-m", "hubsync", "once", "-c", str(plain_config)]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert holdup.reached.wait(60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=QUICKLY_S)

    assert 130 == process.returncode
    assert "Traceback" not in said
    assert [] == processes_of(state)
    holdup.let_go()
    assert 0 == hubsync(plain_config, "once").returncode


def test_what_is_settled_gets_through_before_the_end(config: Path, source: Path, hub: LocalHub) -> None:
    """Told to stop long before the schedule, the daemon commits and publishes what is whole; the exit says so."""
    config.write_text(config.read_text().replace('schedule = "1s"', 'schedule = "1h"'))
    with Daemon(config) as daemon:
        daemon.wait_for("watch.started")
        (source / "notes.txt").write_text("the last words")
        write_safetensors(source / "model.safetensors", 100_000)
        wait_until(lambda: count_settled(config) == 2, "both files settled")
        assert 0 == daemon.stop()
        stopped = daemon.wait_for("daemon.stopped")

    assert {"notes.txt", "model.safetensors"} == paths_at(repository(hub)) - {".gitattributes"}
    assert ([], [], True) == (stopped["unfinished"], stopped["given_up"], stopped["clean"])


def test_what_is_left_at_the_end_is_counted_as_what_it_is(config: Path, source: Path) -> None:
    """A unit that is not complete is one thing, however many files it has; others are counted by themselves."""
    config.write_text(config.read_text().replace('quiet = "300ms"', 'quiet = "1h"'))
    write_checkpoint(source / UNIT)
    (source / "notes.txt").write_text("notes")
    with Daemon(config) as daemon:
        daemon.wait_for("watch.started")
        assert 0 == daemon.stop()
        stopped = daemon.wait_for("daemon.stopped")

    assert ["run: 1 unit, 1 other file not committed yet"] == stopped["unfinished"]


def test_a_second_stop_ends_the_last_flush(plain_config: Path, source: Path, plain: PlainServer) -> None:
    """Whoever cannot wait says it twice."""
    write_safetensors(source / "model.safetensors", 100_000)
    holdup = Holdup(plain, is_object)
    with Daemon(plain_config) as daemon:
        assert holdup.reached.wait(60)
        daemon.process.send_signal(signal.SIGINT)
        daemon.wait_for("daemon.stopping", reason="SIGINT")
        began = time.monotonic()
        assert 0 == daemon.stop()
        assert time.monotonic() - began < 4
    holdup.let_go()
