"""In whatever state target and mirrors are, ``safe`` says yes if and only if every required mirror holds all there is.

Each seed is one history of saves, changes (with forged times), publications, foreign commits, lost objects, squashes, lost
ledgers and mirrors that become required.
After each act ``safe`` is asked, and so are the mirrors themselves, by other means.
``HUBSYNC_SEEDS=100`` runs more of them.
"""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from proof.conftest import api, ask, change, git_of
from support.plain_server import CutError, PlainServer, Request
from support.rig import REPO, Rig, safetensors

from hubsync.localhub import LocalHub
from hubsync.store.pointer import decode_pointer

MakeRig = Callable[..., Rig]
SEEDS = int(os.environ.get("HUBSYNC_SEEDS", "1"))
ACTS = int(os.environ.get("HUBSYNC_ACTS", "8" if SEEDS < 10 else "30"))
QUIET_S = 0.02


class Server(Protocol):
    """A mirror, with means to look at it, and to harm it, that are not hubsync's."""

    remote: PlainServer | LocalHub

    def shows(self) -> dict[str, bytes | None]:
        """Return what main shows; ``None`` where an object is lost."""

    def commit(self, files: dict[str, bytes | None]) -> None:
        """Commit as somebody else."""

    def lose(self, luck: random.Random) -> None:
        """Lose one object."""

    def squash(self) -> None:
        """Make one commit of the history."""

    def set_down(self, *, down: bool) -> None:
        """Answer nothing from now on, or again."""


class Plain:
    """A server of git and LFS."""

    def __init__(self, root: Path) -> None:
        self.remote = PlainServer(root)

    def shows(self) -> dict[str, bytes | None]:
        """Return what main shows."""
        found: dict[str, bytes | None] = {}
        if not self.remote.git(REPO, "branch"):
            return found
        for path in self.remote.git(REPO, "ls-tree", "-r", "-z", "--name-only", "main").split("\0")[:-1]:
            try:
                found[path] = self.remote.read(REPO, path)
            except KeyError:
                found[path] = None
        return found

    def commit(self, files: dict[str, bytes | None]) -> None:
        """Commit as somebody else."""
        self.remote.commit(REPO, files)

    def lose(self, luck: random.Random) -> None:
        """Lose one object."""
        if self.remote.objects:
            del self.remote.objects[luck.choice(sorted(self.remote.objects))]

    def squash(self) -> None:
        """Make one commit of the history."""
        if self.remote.git(REPO, "branch"):
            who = ("-c", "user.name=o", "-c", "user.email=o@x")
            commit = self.remote.git(REPO, *who, "commit-tree", "-m", "squashed", "main^{tree}")
            self.remote.git(REPO, "update-ref", "refs/heads/main", commit)

    def set_down(self, *, down: bool) -> None:
        """Answer nothing, or again."""

        def cut(_: Request) -> None:
            raise CutError

        self.remote.before = cut if down else lambda _: None


class Hub:
    """A Hub of ours, read from its files."""

    def __init__(self, root: Path) -> None:
        self.remote = LocalHub(root)

    def _objects(self) -> dict[str, Path]:
        found = (path for path in self.remote.directory.rglob("*") if len(path.name) == 64 and path.is_file())
        return {path.name: path for path in found}

    def shows(self) -> dict[str, bytes | None]:
        """Return what main shows."""
        found: dict[str, bytes | None] = {}
        objects = self._objects()
        for line in git_of(self.remote, "ls-tree", "-r", "-z", "main").split("\0")[:-1]:
            facts, _, path = line.partition("\t")
            content = git_of(self.remote, "cat-file", "blob", facts.split()[2], strip=False).encode()
            pointer = decode_pointer(content)
            file = objects.get(pointer.oid) if pointer else None
            found[path] = content if pointer is None else file.read_bytes() if file else None
        return found

    def commit(self, files: dict[str, bytes | None]) -> None:
        """Commit as somebody else."""
        there = self.shows()
        change(self.remote, {path: content for path, content in files.items() if content is not None or path in there})

    def lose(self, luck: random.Random) -> None:
        """Lose one object."""
        if objects := self._objects():
            objects[luck.choice(sorted(objects))].unlink()

    def squash(self) -> None:
        """Make one commit of the history."""
        api(self.remote).super_squash_history(REPO)

    def set_down(self, *, down: bool) -> None:
        """Answer nothing, or again."""
        del down  # it stays up: its port would be another one


class States:
    """One random history, and what must be true in each state."""

    def __init__(self, seed: int, rig: Rig, servers: list[Server]) -> None:
        self.random = random.Random(seed)
        self.rig = rig
        self.servers = servers
        self.down: set[int] = set()
        self.done: list[str] = []
        self.ever: list[dict[str, set[bytes]]] = [{} for _ in servers]  # what each server ever showed
        self.answers = {True: 0, False: 0}
        self.number = 0
        self.require(both=False)

    def require(self, *, both: bool) -> None:
        """Let the second mirror be required, or not."""
        [target] = self.rig.config.targets
        first, second = target.mirrors
        mirrors = (first, second.model_copy(update={"required": both}))
        self.required = [0, 1] if both else [0]
        self.rig.config = self.rig.config.model_copy(update={"targets": (target.model_copy(update={"mirrors": mirrors}),)})

    def act(self) -> None:
        """Do one thing."""
        acts: dict[Callable[[], object], int] = {
            self._save: 5, self._change: 3, self._delete: 1, self._publish: 9, self._edit: 2, self._remove: 1,
            self._lose: 2, self._squash: 1, self._lose_ledger: 1, self._keep: 2, self._require: 2, self._down: 1,
            self._junk: 1, self._unjunk: 2,
        }  # fmt: skip
        act = self.random.choices(list(acts), list(acts.values()))[0]
        act()
        self.done.append(act.__name__)

    def _files(self) -> list[str]:
        return sorted(str(p.relative_to(self.rig.source)) for p in self.rig.source.rglob("*") if p.is_file())

    def _save(self) -> None:
        self.number += 1
        unit = f"checkpoint-{self.random.randint(1, 3)}"
        self.rig.write(f"{unit}/model.safetensors", safetensors(300, b"%d" % self.number))
        self.rig.write(f"{unit}/config.json", b'{"v": %d}' % self.number)

    def _change(self) -> None:
        """Change one byte in place, with the size and times that it had."""
        if not (files := [path for path in self._files() if not path.endswith(".tmp")]):
            return
        file = self.rig.source / self.random.choice(files)
        before = file.stat()
        content = bytearray(file.read_bytes())
        content[-2] ^= self.random.randint(0, 3)
        if self.random.random() < 0.5:
            file.write_bytes(content)
        else:
            with file.open("r+b") as opened:
                opened.write(content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _delete(self) -> None:
        if directories := [path for path in self.rig.source.iterdir() if path.is_dir()]:
            shutil.rmtree(self.random.choice(directories))
            self.rig.commit(confirm_deletes=True)

    def begin(self) -> None:
        """Bring a first unit to all mirrors."""
        self._save()
        self._publish(share=1.0)

    def _publish(self, share: float = 0.85) -> None:
        self.rig.commit()
        for number in range(len(self.servers)):
            if number not in self.down and self.random.random() < share:
                self.rig.work.workers[number].run(now=True)
                self.rig.work.release()

    def _edit(self) -> None:
        if files := self._files():
            self._server().commit({self.random.choice(files): b"theirs %d" % self.random.randint(1, 9)})

    def _remove(self) -> None:
        server = self._server()
        if paths := sorted(server.shows().keys() - {".gitattributes"}):
            server.commit({self.random.choice(paths): None})

    def _lose(self) -> None:
        self._server().lose(self.random)

    def _squash(self) -> None:
        self._server().squash()

    def _lose_ledger(self) -> None:
        self.rig.work.close()
        for file in self.rig.store.directory.glob("ledger.sqlite*"):
            file.unlink()
        self.rig.restart()

    def _keep(self) -> None:
        self.rig.work.keepers[self.random.randrange(2)].keep()

    def _require(self) -> None:
        self.require(both=self.random.random() < 0.5)

    def _down(self) -> None:
        number = self.random.randrange(2)
        self.down ^= {number} if isinstance(self.servers[number], Plain) else set()
        self.servers[number].set_down(down=number in self.down)

    def _junk(self) -> None:
        if files := self._files():
            (self.rig.source / files[0]).with_name("left.tmp").write_bytes(b"t")

    def _unjunk(self) -> None:
        for file in self.rig.source.rglob("left.tmp"):
            file.unlink()

    def _server(self) -> Server:
        return self.random.choice(self.servers)

    # --- what must be true

    def check(self) -> None:
        """Compare what ``safe`` says with what is true."""
        shown = [server.shows() for server in self.servers]
        for ever, now in zip(self.ever, shown, strict=True):
            for path, content in now.items():
                ever.setdefault(path, set()).add(content or b"")
        paths = sorted({*self._files(), *(path.partition("/")[0] for path in self._files()), ""})
        asked = self.random.sample(paths, min(4, len(paths)))
        self._grow_quiet()
        cached = ask(self.rig, *asked, cached=True)
        for proof in ask(self.rig, *asked):
            expected = all(self._is_held(file, shown) for file in self._below(proof.path))
            assert expected == proof.is_safe, (proof, self.done)
            self.answers[expected] += 1
        for proof in cached:
            assert not proof.is_safe or all(self._was_held(file) for file in self._below(proof.path)), (proof, self.done)

    def _grow_quiet(self) -> None:
        newest = max((path.lstat().st_mtime for path in [self.rig.source, *self.rig.source.rglob("*")]), default=0.0)
        while 0 <= time.time() - newest <= QUIET_S:
            time.sleep(QUIET_S / 4)

    def _below(self, path: str) -> list[str]:
        return [file for file in self._files() if not path or file == path or file.startswith(f"{path}/")]

    def _is_held(self, path: str, shown: list[dict[str, bytes | None]]) -> bool:
        content = (self.rig.source / path).read_bytes()
        return not path.endswith(".tmp") and all(
            number not in self.down and shown[number].get(path) == content for number in self.required
        )

    def _was_held(self, path: str) -> bool:
        content = (self.rig.source / path).read_bytes()
        return all(content in self.ever[number].get(path, ()) for number in self.required)


@pytest.fixture
def servers(tmp_path: Path, seed: int) -> Iterator[list[Server]]:
    """Give two servers, of one kind or of both."""
    kinds: list[Callable[[Path], Plain | Hub]] = [(Plain, Plain), (Hub, Plain), (Plain, Hub)][seed % 3]  # type: ignore[assignment]
    made: list[Plain | Hub] = [kind(tmp_path / f"server-{number}") for number, kind in enumerate(kinds)]
    with ExitStack() as stack:
        for one in made:
            stack.enter_context(one.remote)
            if isinstance(one, Plain):
                one.remote.create(REPO)
            else:
                api(one.remote).create_repo(REPO, private=True)
        yield list(made)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_safe_is_true_in_any_state(seed: int, servers: list[Server], make_rig: MakeRig) -> None:
    """Never a wrong yes, and no wrong no."""
    rig = make_rig(*(server.remote for server in servers), quiet_s=QUIET_S, exclude=("*.tmp",))
    states = States(seed, rig, servers)
    states.begin()
    for _ in range(ACTS):
        states.check()
        states.act()
    states.check()

    assert states.answers[True] > 0
