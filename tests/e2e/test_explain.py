"""`hubsync explain` says the whole chain of one path, with a daemon and without."""

import json
import os
from pathlib import Path
from typing import Any

from support.plain_server import AnswerError, PlainServer, Request
from support.running import Daemon, hubsync, write_checkpoint, write_config

from hubsync.localhub import LocalHub


def explained(config: Path, path: Path | str) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code and what is said of *path*."""
    done = hubsync(config, "explain", str(path), "--json")
    return done.returncode, json.loads(done.stdout)["paths"]


def test_what_is_published_names_its_commits(config: Path, source: Path, hub: LocalHub) -> None:
    """Rule, unit, route, snapshot and the mirror's commit, for a file and for each file of a directory."""
    write_checkpoint(source / "checkpoint-5")
    assert 0 == hubsync(config, "once").returncode

    code, [one] = explained(config, source / "checkpoint-5" / "model-00001-of-00002.safetensors")
    many_code, many = explained(config, source / "checkpoint-5")

    assert (0, 0, 5) == (code, many_code, len(many))
    assert ("checkpoint-5", True, True) == (one["unit"], one["taken"], one["published"])
    assert "complete" in one["unit_state"]
    assert one["route"].startswith("lfs")
    [mirror] = one["mirrors"]
    head = hub.directory / "models" / "acme/x.git" / "refs" / "heads" / "main"
    assert (head.read_text().strip(), True) == (mirror["commit"], mirror["object_uploaded"])


def test_what_is_not_published_says_why(config: Path, source: Path) -> None:
    """Excluded, incomplete, gone, or never there: each has its reason, and the exit code is 1."""
    write_checkpoint(source / "checkpoint-5")
    (source / "checkpoint-5" / "trainer_state.json").unlink()
    (source / "a.tmp").write_text("x")
    assert 1 == hubsync(config, "once").returncode

    incomplete = explained(config, source / "checkpoint-5" / "config.json")
    temporary = explained(config, source / "a.tmp")
    absent = explained(config, source / "nowhere.txt")

    assert [1, 1, 1] == [incomplete[0], temporary[0], absent[0]]
    assert ["trainer_state.json"] == incomplete[1][0]["missing"]
    assert "not taken" in temporary[1][0]["rule"]
    assert "is not there" == absent[1][0]["state"]
    assert "no snapshot has it yet" == incomplete[1][0]["mirrors"][0]["reason"]


def test_a_mirror_that_leaves_it_out_says_so(tmp_path: Path, source: Path, hub: LocalHub) -> None:
    """Without state, and with a mirror's own filter; a path outside of every source is a wrong command line."""
    config = write_config(tmp_path / "hubsync.toml", source, {f'url = "{hub.url}"': "acme/x"})
    config.write_text(config.read_text().replace('"m0:acme/x"', '{ repo = "m0:acme/x", include = ["weights"] }'))
    (source / "notes.txt").write_text("notes")
    assert "no snapshot has it yet" == explained(config, source / "notes.txt")[1][0]["mirrors"][0]["reason"]
    hubsync(config, "once", HF_TOKEN=hub.token)

    code, [one] = explained(config, source / "notes.txt")

    assert 1 == code
    assert "leaves it out" in one["mirrors"][0]["reason"]
    assert 2 == hubsync(config, "explain", "/etc/passwd").returncode


def refuse(_: Request) -> None:
    raise AnswerError(403)


def test_a_parked_mirror_beside_a_running_daemon(plain_config: Path, source: Path, plain: PlainServer) -> None:
    """The daemon's own error and hint are the reason, while it runs and after it died; nothing is disturbed."""
    write_checkpoint(source / "checkpoint-1")
    plain.before = refuse
    with Daemon(plain_config) as daemon:
        daemon.wait_for("mirror.parked")
        running = wait_until_explained(plain_config, source, "is parked")
    dead = hubsync(plain_config, "explain", str(source / "checkpoint-1/config.json"))

    assert 1 == running.returncode == dead.returncode
    assert running.stdout == dead.stdout
    assert "→" in running.stdout
    assert "" == running.stderr


def wait_until_explained(config: Path, source: Path, word: str) -> Any:
    """Ask until the daemon's status file, written each second, has it."""
    for _ in range(20):
        done = hubsync(config, "explain", str(source / "checkpoint-1/config.json"))
        if word in done.stdout:
            break
    return done


def test_names_and_links_that_are_refused_are_explained_too(config: Path, source: Path) -> None:
    """A name that is not UTF-8, in a file's and a directory's name, and a loop of links beside an index."""
    broken = os.fsdecode(b"bad\xff.txt")
    (source / broken).write_text("x")
    (source / os.fsdecode(b"dir\xff")).mkdir()
    (source / os.fsdecode(b"dir\xff") / "inside.txt").write_text("x")
    (source / "loop").symlink_to("loop")
    (source / "model.safetensors.index.json").write_text('{"weight_map": {}}')

    everything = explained(config, source)
    one = explained(config, source / broken)
    directory = explained(config, source / os.fsdecode(b"dir\xff"))
    index = explained(config, source / "model.safetensors.index.json")

    assert [1, 1, 1, 1] == [everything[0], one[0], directory[0], index[0]]
    assert "not valid UTF-8" in one[1][0]["state"]
    assert 4 <= len(everything[1])
