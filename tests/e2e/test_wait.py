"""``hubsync wait`` ends when what it waits for can be downloaded, and says why if that cannot be."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from outside import REPO, paths_at, repository
from support.running import Daemon, endpoint, hubsync, write_checkpoint, write_config, write_safetensors

from hubsync.localhub import LocalHub

UNIT = "checkpoint-5"
Answer = subprocess.CompletedProcess[str]


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Give threads to wait in."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def manual(tmp_path: Path, source: Path, hub: LocalHub) -> Path:
    """Give a config whose schedule never comes."""
    mirrors = {endpoint(hub): "acme/x"}
    return write_config(tmp_path / "hubsync.toml", source, mirrors, schedule='"manual"')


def wait(config: Path, *args: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the answer."""
    done = hubsync(config, "wait", "run", "--json", *args)
    return done.returncode, json.loads(done.stdout or "{}") | {"stderr": done.stderr}


def begin(background: ThreadPoolExecutor, daemon: Daemon, config: Path, *args: str) -> "Future[Answer]":
    """Wait in the background; return when the daemon knows."""
    waiting = background.submit(hubsync, config, "wait", "run", *args)
    daemon.wait_for("control.received", command="wait")
    return waiting


def test_a_wait_for_a_unit_ends_when_it_is_published(
    background: ThreadPoolExecutor, manual: Path, source: Path, hub: LocalHub
) -> None:
    """It begins before the unit is whole, ends when the mirror has all of it, and still knows when no daemon runs."""
    write_safetensors(source / UNIT / "model.safetensors", 100_000)
    with Daemon(manual) as daemon:
        daemon.wait_for("daemon.ready")
        waiting = begin(background, daemon, manual, "--unit", f"{UNIT}/", "--timeout", "50s")
        (source / UNIT / "trainer_state.json").write_text("{}")
        answer = waiting.result()

        assert 0 == answer.returncode, answer.stderr
        assert {f"{UNIT}/model.safetensors", f"{UNIT}/trainer_state.json"} <= paths_at(repository(hub))
        assert (0, {"m0:acme/x": "published"}) == (wait(manual)[0], wait(manual, "--mirror", "m0:acme/x")[1]["mirrors"])
        assert 0 == daemon.stop()

    assert 0 == wait(manual, "--unit", UNIT)[0]
    assert 0 == wait(manual)[0]
    assert 3 == wait(manual, "--unit", "checkpoint-6")[0]
    (source / "more.txt").write_text("more")
    assert 3 == wait(manual)[0]


def test_a_wait_for_all_does_not_wait_for_the_schedule(manual: Path, source: Path, hub: LocalHub) -> None:
    """What is there when it begins is committed as it settles, and is on the mirror when it ends."""
    with Daemon(manual) as daemon:
        daemon.wait_for("daemon.ready")
        assert 0 == wait(manual)[0]
        (source / "a.txt").write_text("a")
        write_checkpoint(source / UNIT)
        code, answer = wait(manual, "--timeout", "50s")

        assert 0 == code, answer
        assert {"a.txt", f"{UNIT}/trainer_state.json"} <= paths_at(repository(hub))


def test_what_cannot_be_is_said_at_once(tmp_path: Path, source: Path, hub: LocalHub) -> None:
    """Unknown names, an abandoned unit, a held file and a pause end a wait that has no timeout."""
    mirrors = {endpoint(hub): "acme/x"}
    config = write_config(tmp_path / "hubsync.toml", source, mirrors, unit_timeout='"2s"')
    write_safetensors(source / UNIT / "model.safetensors", 100)
    (source / UNIT / "optimizer.pt").write_bytes(b"")
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        code, late = wait(config, "--unit", UNIT, "--timeout", "100ms")
        assert (1, False) == (code, late["published"])
        daemon.wait_for("unit.abandoned")
        said = {
            "abandoned": wait(config, "--unit", UNIT),
            "neither": wait(config, "--unit", "checkpoint-6"),
            "no unit": wait(config, "--unit", "logs"),
        }
        (source / "pointer.bin").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1\n")
        (source / UNIT).rename(tmp_path / UNIT)
        daemon.wait_for("file.rejected")
        said["held back"] = wait(config)
        hubsync(config, "pause")
        (source / "a.txt").write_text("a")
        said["paused"] = wait(config)
        wrong = wait(config, "--mirror", "nowhere")

    assert dict.fromkeys(said, 1) == {words: code for words, (code, _) in said.items()}
    assert [] == [(words, answer) for words, (_, answer) in said.items() if words not in answer["reason"]]
    assert 2 == wrong[0]
    assert "acme/x" in wrong[1]["stderr"]


def test_a_parked_mirror_ends_the_wait_unless_another_one_is_meant(
    tmp_path: Path, source: Path, hub: LocalHub, other_hub: LocalHub
) -> None:
    """The reason is the mirror's, and so is the cure; the mirror that works is waited for on its own."""
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x", endpoint(other_hub): "acme/x"})
    (other_hub.directory / "token").rename(other_hub.directory / "right")
    (other_hub.directory / "token").write_text("hf_wrong")
    write_checkpoint(source / UNIT)
    with Daemon(config) as daemon:
        daemon.wait_for("mirror.parked")
        code, answer = wait(config, "--unit", UNIT)
        alone = wait(config, "--unit", UNIT, "--mirror", "m0:acme/x", "--timeout", "50s")

    assert (1, "parked") == (code, answer["mirrors"]["m1:acme/x"])
    assert "hubsync flush" in answer["hint"]
    assert 0 == alone[0], alone


def test_a_wait_outlives_a_reload_and_ends_with_the_daemon(
    background: ThreadPoolExecutor, config: Path, source: Path
) -> None:
    """A changed config does not end it; when the daemon stops, the exit code is that of no daemon."""
    write_safetensors(source / UNIT / "model.safetensors", 100)
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        waiting = begin(background, daemon, config, "--unit", UNIT)
        config.write_text(config.read_text().replace('"300ms"', '"200ms"'))
        hubsync(config, "reload")
        daemon.wait_for("daemon.reloaded", changed=["run"])
        (source / UNIT / "trainer_state.json").write_text("{}")
        assert 0 == waiting.result().returncode

        write_safetensors(source / "checkpoint-6" / "model.safetensors", 100)
        waiting = begin(background, daemon, config, "--unit", "checkpoint-6")
        assert 0 == daemon.stop()
        assert 3 == waiting.result().returncode


def test_a_wait_and_a_reload_make_no_repository_again(config: Path, source: Path, api: HfApi) -> None:
    """Who waits at the end of a training does not wish what somebody deleted; `hubsync flush` does."""
    (source / "a.txt").write_text("a")
    with Daemon(config) as daemon:
        daemon.wait_for("mirror.published")
        api.delete_repo(REPO)
        (source / "b.txt").write_text("b")
        daemon.wait_for("mirror.parked")

        assert 1 == hubsync(config, "wait", "run", "--timeout", "10s").returncode
        assert 0 == hubsync(config, "reload").returncode
        daemon.wait_for("daemon.reloaded")
        daemon.wait_for("heartbeat")
        assert not api.repo_exists(REPO)

        assert 0 == hubsync(config, "flush").returncode
        daemon.wait_for("mirror.created")
        daemon.wait_for("mirror.published")

    assert {"a.txt", "b.txt"} <= set(api.list_repo_files(REPO))


def test_a_wait_for_a_target_that_cannot_be_opened_says_why(config: Path) -> None:
    """It ends when its time is over, with what is wrong with the store, and the cure."""
    (config.parent / "state" / "targets" / "run" / "ledger.sqlite").mkdir(parents=True)
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        waited = hubsync(config, "wait", "run", "--timeout", "1s", "--json")

    answer = json.loads(waited.stdout)
    assert 1 == waited.returncode
    assert "could not be opened: ledger" in answer["reason"]
    assert "may be moved away" in answer["hint"]


def test_what_was_published_in_a_repository_that_is_gone_is_not_published(config: Path, source: Path, api: HfApi) -> None:
    """No hubsync need run to know that."""
    write_checkpoint(source / "checkpoint-1", 1)
    with Daemon(config) as daemon:
        daemon.wait_for("unit.published")
        api.delete_repo(REPO)
        (source / "b.txt").write_text("b")
        daemon.wait_for("mirror.parked")

    code, answer = wait(config, "--unit", "checkpoint-1")
    assert (3, True) == (code, "checkpoint-1 is not published" in answer["stderr"])
