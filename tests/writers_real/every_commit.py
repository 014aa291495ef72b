"""Real libraries train and save while hubsync publishes to two Hubs; then every commit of both is checked out and loaded.

Run by ``make test-writers``, which sets up the environment that trains; not a part of ``make test``.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from support.running import Daemon, endpoint, hubsync, write_config

from hubsync.localhub import LocalHub
from hubsync.store.pointer import decode_pointer

HERE = Path(__file__).parent
VENV = HERE.parents[1] / ".venv-writers"
PYTHON = VENV / "bin" / "python"
UNITS = ("checkpoint-*", "checkpoints/checkpoint_*", "step-*", "final")
WRITERS = (
    "trainer", "trainer_tensorboard", "trainer_callback", "trainer_adapter", "save_pretrained", "dcp", "dcp_ranks",
    "lightning", "accelerate", "safetensors",
)  # fmt: skip
OLD_SAFETENSORS = sorted(path.name.partition("-")[2] for path in VENV.glob("safetensors-*"))

Tree = dict[str, str]  # path → SHA-256 of the content


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[list[LocalHub]]:
    """Give two Hubs."""
    with LocalHub(tmp_path / "first") as first, LocalHub(tmp_path / "second") as second:
        yield [first, second]


@pytest.mark.parametrize("writer", WRITERS)
def test_every_commit_is_whole(tmp_path: Path, hubs: list[LocalHub], writer: str) -> None:
    """Each commit holds each unit as one save left it, or not at all; all can be loaded; the last ones are there."""
    watch(writer, tmp_path, hubs)


@pytest.mark.parametrize("writer", ["trainer", "dcp_ranks", "accelerate", "save_pretrained", "safetensors"])
def test_every_commit_is_whole_when_saves_follow_at_once(tmp_path: Path, hubs: list[LocalHub], writer: str) -> None:
    """Nearly all is rotated away, or saved again in place, before it was quiet."""
    watch(writer, tmp_path, hubs, PAUSE_S="0.04")


@pytest.mark.parametrize("version", OLD_SAFETENSORS)
def test_every_commit_of_older_safetensors_is_whole(tmp_path: Path, hubs: list[LocalHub], version: str) -> None:
    """Older versions write under the final name from the start."""
    watch("safetensors", tmp_path, hubs, PYTHONPATH=str(VENV / f"safetensors-{version}"))


def watch(writer: str, tmp_path: Path, hubs: list[LocalHub], **environment: str) -> None:
    """Run *writer* under the eyes of hubsync, then look at all that came of it."""
    source = tmp_path / "run"
    source.mkdir()
    mirrors = {endpoint(hub): "acme/x" for hub in hubs}
    config = write_config(tmp_path / "hubsync.toml", source, mirrors, units=json.dumps(UNITS), quiet='"500ms"')
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        saves = train(writer, source, config, **environment)
        waited = hubsync(config, "wait", "run", "--timeout", "50s")
        assert 0 == waited.returncode, waited.stderr + held(daemon)
        assert 0 == daemon.stop()

    histories = [history(hub) for hub in hubs]
    seen = [expect_whole(commits, saves) for commits in histories]
    for states, hub in zip(seen, hubs, strict=True):
        expect_loadable(writer, states, hub, tmp_path)
    last = {unit for unit, _ in saves if (source / unit).exists()}
    published = [{unit for unit, _ in states} for states in seen]
    assert [] == [last - units for units in published if last - units]
    report(writer, saves, published, histories)


def train(writer: str, source: Path, config: Path, **environment: str) -> list[tuple[str, Tree]]:
    """Run *writer* to its end; return what each of its saves left."""
    done = subprocess.run(
        [PYTHON, HERE / "write.py", writer, source, config],
        env={**os.environ, **environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    assert "hubsync:" not in done.stderr, done.stderr[-2000:]  # no warning of a callback
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"unit"')]

    return [(record["unit"], record["files"]) for record in records]


def held(daemon: Daemon) -> str:
    """Return what the daemon said lately."""
    while not daemon._new.empty():
        daemon.events.append(daemon._new.get())
    return "\n".join(event["message"] for event in daemon.events[-40:] if event["event"] != "heartbeat")


def history(hub: LocalHub) -> list[Tree]:
    """Return the tree of every commit of main, oldest first."""
    repository = hub.directory / "models" / "acme" / "x.git"
    blobs: dict[str, str] = {}

    def git(*args: str) -> bytes:
        return subprocess.run(["git", "-C", repository, *args], capture_output=True, check=True).stdout

    def digest(blob: str) -> str:
        if blob not in blobs:
            content = git("cat-file", "blob", blob)
            pointer = decode_pointer(content)
            blobs[blob] = pointer.oid if pointer else hashlib.sha256(content).hexdigest()
            place = objects(hub) / blobs[blob]
            place.parent.mkdir(exist_ok=True)
            if pointer:
                oid = pointer.oid
                place.write_bytes((repository / "lfs" / "objects" / oid[:2] / oid[2:4] / oid).read_bytes())
                assert oid == hashlib.sha256(place.read_bytes()).hexdigest(), f"object {oid} is torn"
            else:
                place.write_bytes(content)
        return blobs[blob]

    trees = []
    for commit in git("rev-list", "--reverse", "--first-parent", "main").decode().split():
        listed = git("ls-tree", "-r", "-z", commit).decode().split("\0")[:-1]
        named = [(line.split("\t", 1)[1], line.split()[2]) for line in listed]
        trees.append({path: digest(blob) for path, blob in named if path != ".gitattributes"})

    return trees


def objects(hub: LocalHub) -> Path:
    """Return where the contents of *hub* are put, each under its digest."""
    return hub.directory / "contents"


def unit_of(path: str) -> str:
    """Return the unit of *path*, by UNITS; the path itself if it is a loose file."""
    parents = [*PurePosixPath(path).parents][:-1]
    return next((str(parent) for parent in parents if any(parent.match(unit) for unit in UNITS)), path)


def expect_whole(commits: list[Tree], saves: list[tuple[str, Tree]]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Expect that each unit in each commit is what one save left, never a part of it; return all states of all units."""
    left: dict[str, list[frozenset[tuple[str, str]]]] = {}
    for unit, files in saves:
        left.setdefault(unit, []).append(frozenset(files.items()))
    seen = set()
    for tree in commits:
        units: dict[str, set[tuple[str, str]]] = {}
        for item in tree.items():
            units.setdefault(unit_of(item[0]), set()).add(item)
        seen |= {(unit, frozenset(files)) for unit, files in units.items()}
    wrong = [(unit, sorted(path for path, _ in files)) for unit, files in seen if unit in left and files not in left[unit]]
    unknown = [unit for unit, _ in seen if unit not in left and "tfevents" not in unit]

    assert ([], []) == (wrong, unknown), wrong

    return seen


def expect_loadable(
    writer: str, states: set[tuple[str, frozenset[tuple[str, str]]]], hub: LocalHub, tmp_path: Path
) -> None:
    """Check out every state of every unit and load it with the library that wrote it."""
    wanted = []
    for number, (unit, files) in enumerate(sorted(states, key=lambda state: state[0])):
        root = tmp_path / "out" / hub.directory.name / str(number)
        for path, digest in files:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).hardlink_to(objects(hub) / digest)
        wanted.append(f"{writer} {root / unit}")
    done = subprocess.run(
        [PYTHON, HERE / "load.py"], input="\n".join(wanted), env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def report(writer: str, saves: list[tuple[str, Tree]], published: list[set[str]], histories: list[list[Tree]]) -> None:
    """Say how much was seen."""
    units = {unit for unit, _ in saves}
    text = ", ".join(
        f"{len(units & there)} of them in {len(commits)} commits"
        for there, commits in zip(published, histories, strict=True)
    )
    sys.stderr.write(f"\n{writer}: {len(saves)} saves of {len(units)} units; on the mirrors {text}; all loaded\n")
