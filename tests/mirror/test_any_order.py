"""Whatever happens in whatever order (saves, rotation, foreign commits, faults, lost records), the mirrors end right.

Each seed is one history; a failure names its seed and what was done. ``HUBSYNC_SEEDS=100`` runs more of them.
"""

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.catalogue import find_strange
from support.plain_server import AnswerError, CutError, PlainServer, Request
from support.rig import REPO, Rig, safetensors

from hubsync.errors import HubsyncError

MakeRig = Callable[..., Rig]
SEEDS = int(os.environ.get("HUBSYNC_SEEDS", "1"))
ACTS = 30


class History:
    """One random history, and what must be true of it."""

    def __init__(self, seed: int, rig: Rig, servers: tuple[PlainServer, ...]) -> None:
        self.random = random.Random(seed)
        self.rig = rig
        self.servers = servers
        self.done: list[str] = []
        self.versions: dict[str, list[dict[str, bytes]]] = {}  # unit → its complete versions
        self.loose: dict[str, bytes] = {}  # our files outside units, as they are or were last
        self.theirs: list[dict[str, bytes]] = [{} for _ in servers]
        self.checked: list[set[str]] = [set() for _ in servers]
        self.number = 0
        self.newest = ""

    def act(self) -> None:
        """Do one thing."""
        acts: dict[Callable[[], str], int] = {
            self._save_unit: 4, self._save_again: 2, self._rotate: 2, self._write_loose: 3, self._delete_loose: 1,
            self._commit: 3, self._publish: 6, self._foreign: 2, self._squash: 1, self._restart: 1, self._lose_record: 2,
        }  # fmt: skip
        act = self.random.choices(list(acts), list(acts.values()))[0]
        self.done.append(f"{act.__name__}: {act()}")

    def _content(self) -> bytes:
        self.number += 1
        return f"content {self.number}".encode()

    # --- the trainer

    def _save_unit(self) -> str:
        unit = f"checkpoint-{len(self.versions) + 1}"
        self.versions[unit] = []
        return self._save(unit)

    def _save_again(self) -> str:
        there = [unit for unit in self.versions if (self.rig.source / unit).is_dir()]
        return self._save(self.random.choice(there)) if there else "-"

    def _save(self, unit: str) -> str:
        version = {
            "a.safetensors": safetensors(400, self._content()),
            "b.safetensors": safetensors(400, self._content()),
            "config.json": b'{"v": "%s"}' % self._content(),
            "DONE": b"",
        }
        (self.rig.source / unit / "DONE").unlink(missing_ok=True)
        for name, content in version.items():
            self.rig.write(f"{unit}/{name}", content)
        self.versions[unit].append(version)
        self.newest = unit
        return unit

    def _rotate(self) -> str:
        """Delete a unit; what no commit has yet is gone."""
        there = [unit for unit in self.versions if (self.rig.source / unit).is_dir()]
        if not there:
            return "-"
        self._commit()
        unit = self.random.choice(there)
        shutil.rmtree(self.rig.source / unit)
        return unit

    def _write_loose(self) -> str:
        path = self.random.choice(["a.txt", "b.bin", "deep/c.txt", "README.md"])
        self.loose[path] = (b"\0" if path.endswith("bin") else b"") + self._content()
        self.rig.write(path, self.loose[path])
        return path

    def _delete_loose(self) -> str:
        there = [path for path in self.loose if (self.rig.source / path).is_file()]
        if not there:
            return "-"
        self._commit()
        path = self.random.choice(there)
        (self.rig.source / path).unlink()
        return path

    # --- hubsync

    def _commit(self) -> str:
        return str(len(self.rig.commit()))

    def _publish(self) -> str:
        number = self.random.randrange(len(self.servers))
        fault = self.random.choice(["", "", "503", "cut", "object", "batch", "answer"])
        server = self.servers[number]
        server.before, server.after = self._faults(fault)
        with contextlib.suppress(HubsyncError):
            self.rig.publish(number)
        server.before = server.after = lambda _: None
        self._check(number)
        return f"{number} {fault}"

    def _faults(self, fault: str) -> tuple[Callable[[Request], None], Callable[[Request], None]]:
        """Return hooks that break one kind of request, from a random one of them on."""
        left = [self.random.randrange(3)]

        def break_it(wanted: Callable[[Request], bool], how: Callable[[], BaseException]) -> Callable[[Request], None]:
            def hook(request: Request) -> None:
                if wanted(request):
                    left[0] -= 1
                    if left[0] < 0:
                        raise how()

            return hook

        nothing: Callable[[Request], None] = lambda _: None  # noqa: E731 - a hook
        return {
            "503": (break_it(lambda r: r.is_push, lambda: AnswerError(503)), nothing),
            "cut": (break_it(lambda r: r.is_push, CutError), nothing),
            "object": (break_it(lambda r: r.method == "PUT", lambda: AnswerError(500)), nothing),
            "batch": (break_it(lambda r: r.path.endswith("/batch"), lambda: AnswerError(503)), nothing),
            "answer": (nothing, break_it(lambda r: r.is_push, CutError)),
        }.get(fault, (nothing, nothing))

    def _restart(self) -> str:
        self.rig.restart()
        return ""

    def _lose_record(self) -> str:
        """Publish, but be killed before that is recorded."""
        number = self.random.randrange(len(self.servers))
        git = self.rig.publisher(number)._git
        before = git.list_refs("refs/mirror")
        with contextlib.suppress(HubsyncError):
            self.rig.publish(number)
        now = git.list_refs("refs/mirror")
        moved = {ref: before.get(ref) for ref in {*before, *now} if before.get(ref) != now.get(ref)}
        if moved:
            git.update_refs(moved)
        self.rig.restart()
        self._check(number)
        return str(number)

    # --- other people

    def _foreign(self) -> str:
        number = self.random.randrange(len(self.servers))
        path = self.random.choice(["theirs.txt", "docs/theirs.md", "README.md", "a.txt", "b.bin"])
        content = b"theirs " + self._content()
        self.servers[number].commit(REPO, {path: content})
        self.theirs[number][path] = content
        return f"{number} {path}"

    def _squash(self) -> str:
        number = self.random.randrange(len(self.servers))
        server = self.servers[number]
        if not server.git(REPO, "branch"):
            return "-"
        tree = server.git(REPO, "rev-parse", "main^{tree}")
        names = ["-c", "user.name=x", "-c", "user.email=x@x"]
        server.git(REPO, "update-ref", "refs/heads/main", server.git(REPO, *names, "commit-tree", "-m", "squashed", tree))
        return str(number)

    # --- what must be true

    def _check(self, number: int) -> None:
        """Every commit on the mirror shows each unit as one of its versions, whole, with all objects there."""
        server = self.servers[number]
        for line in server.git(REPO, "log", "--branches", "--source", "--format=%H %S").splitlines():
            commit, _, branch = line.partition(" ")
            if commit in self.checked[number]:
                continue
            self.checked[number].add(commit)
            trees = server.git(REPO, "log", "-2", "--first-parent", "--format=%T", commit).split()
            assert len(set(trees)) == len(trees), f"{commit} changes nothing"
            if branch.endswith("main"):
                units = self._units_of(server, commit)
            else:
                units = {branch.removeprefix("refs/heads/"): self._files(server, commit)}
            for unit, files in units.items():
                assert files in self.versions[unit], (commit, unit, sorted(files))

    def _files(self, server: PlainServer, commit: str) -> dict[str, bytes]:
        listed = server.git(REPO, "ls-tree", "-r", "--name-only", commit).splitlines()
        return {path: self._read(server, commit, path) for path in listed if path != ".gitattributes"}

    def _units_of(self, server: PlainServer, commit: str) -> dict[str, dict[str, bytes]]:
        units: dict[str, dict[str, bytes]] = {}
        for path in server.git(REPO, "ls-tree", "-r", "--name-only", commit).splitlines():
            unit, _, name = path.partition("/")
            if unit.startswith("checkpoint-"):
                units.setdefault(unit, {})[name] = self._read(server, commit, path)
        return units

    @staticmethod
    def _read(server: PlainServer, commit: str, path: str) -> bytes:
        argv = ["git", "-C", str(server.root / f"{REPO}.git"), "cat-file", "blob", f"{commit}:{path}"]
        content = subprocess.run(argv, check=True, capture_output=True).stdout
        if content.startswith(b"version https://git-lfs"):
            return server.objects[content.split(b"sha256:")[1][:64].decode()]
        return content

    def expect_the_end(self) -> None:
        """With all faults gone, every mirror has the newest version of everything, theirs where it is theirs."""
        self.rig.restart()
        self.loose["end.txt"] = b"end"  # with nothing to publish, nobody looks at what others did
        self.rig.write("end.txt", b"end")
        self._commit()
        ours = {**self.loose, **self._units_on_main()}
        for number, server in enumerate(self.servers):
            self.rig.publish(number)
            self._check(number)
            assert [] == self.rig.publisher(number).backlog()
            card = {path: content for path, content in self.theirs[number].items() if path == "README.md"}
            assert {**self.theirs[number], **ours, **card} == server.read_all(REPO), number
            assert self.rig.publish(number) is None
            if self.rig.config.targets[0].publish == "revisions":
                for unit, versions in self.versions.items():
                    assert versions[-1] == self._files(server, unit), unit

    def _units_on_main(self) -> dict[str, bytes]:
        if self.rig.config.targets[0].publish == "revisions":
            return self.versions[self.newest][-1] if self.versions else {}
        return {f"{unit}/{n}": content for unit, versions in self.versions.items() for n, content in versions[-1].items()}


@pytest.mark.parametrize("publish", ["tree", "revisions"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_in_any_order_the_mirrors_end_right(
    make_rig: MakeRig, server: PlainServer, second: PlainServer, seed: int, publish: str
) -> None:
    """No unit in part in any commit, nothing of others lost, nothing of ours missing in the end, and no strange event."""
    settings: dict[str, Any] = {"units": ("checkpoint-*",), "complete_when": ("DONE",), "quiet_s": 0.0, "publish": publish}
    rig = make_rig(server, second, **settings)
    history = History(seed, rig, (server, second))
    try:
        with capture_logs() as said:
            for _ in range(ACTS):
                history.act()
            history.expect_the_end()
    except AssertionError as exc:
        raise AssertionError(f"seed {seed}: " + "; ".join(history.done)) from exc

    assert set() == {strange for one in said if (strange := find_strange(one))}
