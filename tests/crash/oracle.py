"""What must be true in the end, whatever was killed when: read with plain git from the store and the Hubs, and the disk."""

import hashlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

from trainer import DONE, Trainer, Version, read_source
from world import World, descendants

_ATTRIBUTES = ".gitattributes"
_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_LEFT_BEHIND = ("*.lock", "tmp_*", "*.keep", "fast_import_crash_*", "index-*", "incoming-*")


class Repository:
    """A bare repository; LFS pointers stand for the objects that they name, each of which was looked at."""

    def __init__(self, git_dir: Path) -> None:
        self.git_dir = git_dir
        self._digests: dict[str, str] = {}  # blob → SHA-256 of the file that it stands for
        self._objects = self._hash_objects()

    def git(self, *args: str, feed: bytes = b"") -> bytes:
        """Run git and return what it wrote; it must succeed."""
        done = subprocess.run(["git", "-C", self.git_dir, *args], input=feed, capture_output=True, check=False)
        assert done.returncode == 0, (args, done.stderr)
        return done.stdout

    def branches(self) -> dict[str, str]:
        """Return branch → commit."""
        listed = self.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads").decode()
        return dict(line.rsplit(" ", 1) for line in listed.splitlines())  # type: ignore[arg-type]

    def line(self, branch: str) -> list[str]:
        """Return the commits of a branch, newest first."""
        return self.git("log", "--first-parent", "--format=%H", branch).decode().split()

    def files(self, commit: str) -> Version:
        """Return path → SHA-256 of all files at a commit, of git's and hubsync's own attributes none."""
        entries = [entry.split(b"\t") for entry in self.git("ls-tree", "-r", "-z", commit).split(b"\0")[:-1]]
        blobs = {path.decode(): meta.split()[2].decode() for meta, path in entries}
        self._learn(set(blobs.values()) - self._digests.keys())
        return {path: self._digests[blob] for path, blob in blobs.items() if path != _ATTRIBUTES}

    def expect_sound(self) -> None:
        """Expect that git finds nothing wrong, and that every object is what it is called."""
        self.git("fsck", "--strict", "--no-dangling")
        assert {} == {name: digest for name, digest in self._objects.items() if name != digest}

    def expect_no_repeats(self, branch: str) -> None:
        """Expect that no commit of a branch leaves everything as it was."""
        trees = self.git("log", "--first-parent", "--format=%T", branch).decode().split()
        assert all(tree != before for tree, before in itertools.pairwise(trees)), branch

    def _learn(self, blobs: set[str]) -> None:
        for blob in blobs:
            content = self.git("cat-file", "blob", blob)
            digest = hashlib.sha256(content).hexdigest()
            if content.startswith(_POINTER):
                digest = content.split(b"sha256:")[1][:64].decode()
            self._digests[blob] = digest

    def _hash_objects(self) -> dict[str, str]:
        files = (path for path in (self.git_dir / "lfs" / "objects").glob("*/*/*"))
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def expect_the_end(world: World, trainer: Trainer) -> None:
    """Expect all that hubsync promises."""
    for target, mirrors in {"sft": "ab", "lora": "a", "flow": "ba"}.items():
        store = Repository(world.state / "targets" / target / "store.git")
        store.expect_sound()
        _expect_nothing_forgotten(world, store, target)
        _expect_source(store, target, trainer)
        for name in mirrors:
            Repository(world.state / "targets" / target / "mirrors" / f"{name}.git").expect_sound()
            hub = Repository(world.hubs[name].repository(target))
            hub.expect_sound()
            _expect_whole(hub, target, trainer)
            _expect_pointed_at(hub)
            if target == "lora":
                _expect_revisions(hub, store)
            else:
                assert store.files("snapshots") == hub.files("main"), (target, name)
    assert [] == list(_left_behind(world))
    assert set() == _processes(world)


def _expect_nothing_forgotten(world: World, store: Repository, target: str) -> None:
    """Expect that every snapshot that was ever reported is still there."""
    said = {e["commit"] for e in world.events if e["event"] == "snapshot.committed" and e["target"] == target}
    assert set() == said - set(store.line("snapshots"))


def _expect_source(store: Repository, target: str, trainer: Trainer) -> None:
    """Expect that the newest snapshot holds all of the source as it is."""
    there, source = store.files("snapshots"), read_source(trainer.root / target)
    assert source == {path: there.get(path) for path in source}, target
    if target == "flow":
        assert source == there


def _expect_whole(hub: Repository, target: str, trainer: Trainer) -> None:
    """Expect that every commit of every branch shows each unit as one of its versions, and files as they once were."""
    units, states = trainer.units.get(target, {}), trainer.states.get(target, set())
    every = [version for versions in units.values() for version in versions]
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for branch in hub.branches():
        hub.expect_no_repeats(branch)
        for commit in hub.line(branch):
            files = hub.files(commit)
            if target == "lora":
                known = every if branch == "main" else units[branch]
                assert not files or files in known, (branch, commit, files)
                continue
            by_unit: dict[str, Version] = {}
            for path, digest in files.items():
                unit, _, rest = path.partition("/")
                if unit in units:
                    by_unit.setdefault(unit, {})[rest] = digest
                else:
                    assert digest in states, (commit, path)
            for unit, version in by_unit.items():
                key = (unit, tuple(sorted(version.items())))
                assert key in seen or version in units[unit], (commit, unit, version)
                seen.add(key)


def _expect_pointed_at(hub: Repository) -> None:
    """Expect that no pointer in the history points to nothing."""
    objects = {path.name for path in (hub.git_dir / "lfs" / "objects").glob("*/*/*")}
    listed = hub.git("rev-list", "--objects", "--all", "--filter=object:type=blob", "--no-object-names").decode().split()
    fed = "".join(f"{blob}\n" for blob in listed).encode()
    pointers = hub.git("cat-file", "--batch", feed=fed).split(b"oid sha256:")[1:]
    assert set() == {pointer[:64].decode() for pointer in pointers} - objects


def _expect_revisions(hub: Repository, store: Repository) -> None:
    """Expect that each unit that was ever committed is a branch, as it was committed last."""
    there = store.files("snapshots")
    units = {path.partition("/")[0] for path in there if path.endswith(f"/{DONE}")}
    assert units <= hub.branches().keys()
    for unit in units:
        last = {path.partition("/")[2]: digest for path, digest in there.items() if path.startswith(f"{unit}/")}
        assert last == hub.files(unit), unit


def _left_behind(world: World) -> Iterator[Path]:
    """Yield files that nobody wants any more: locks, halves, and objects that every mirror has."""
    yield from world.state.glob(".*.tmp")
    places = (world.state / "targets", *(hub.directory for hub in world.hubs.values()))
    for place in places:
        for pattern in _LEFT_BEHIND:
            yield from place.rglob(pattern)
    for part in ("objects", "pins", "uploads", "tmp", "incoming"):
        for files in world.state.glob(f"targets/*/store.git/lfs/{part}"):
            yield from (path for path in files.rglob("*") if path.is_file())
    for hub in world.hubs.values():
        yield from hub.directory.glob("incoming/*")
        yield from hub.directory.glob("models/acme/*.git/lfs/incoming/*")


def _processes(world: World) -> set[str]:
    """Return the command lines of processes that work on the state, or below the Hubs."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(world.state) in line:
            found.add(line)
    for hub in world.hubs.values():
        found |= {f"{pid} of the Hub" for pid in descendants(hub.process.pid)}

    return found
