"""A unit goes whole or not at all, and who writes into it meanwhile loses nothing. Real processes, real kills."""

import mmap
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hubsync.prune.journal import Journal
from hubsync.prune.removal import LeftBehindError, Removal, hidden_name
from hubsync.prune.users import InUseError
from hubsync.store.pruned import Pruned

UNIT = "runs/checkpoint-1"
FILES = {"config.json": b"{}", "model.bin": b"w" * 5000, "deep/er/state.pt": b"s" * 300, "empty": b""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a source with a unit in it, and another one."""
    source = tmp_path / "source"
    fill(source / UNIT)
    fill(source / "runs/checkpoint-2")
    return source


def fill(unit: Path) -> None:
    for path, content in FILES.items():
        (unit / path).parent.mkdir(parents=True, exist_ok=True)
        (unit / path).write_bytes(content)
    (unit / "link").symlink_to("model.bin")


def make(source: Path) -> Removal:
    state = source.parent
    return Removal(source, Journal(state / "pruning.json"), Pruned(state / "pruned.json"))


def pruned(source: Path) -> frozenset[str]:
    return Pruned(source.parent / "pruned.json").paths()


def read(unit: Path) -> dict[str, bytes]:
    return {str(path.relative_to(unit)): path.read_bytes() for path in unit.rglob("*") if path.is_file()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def is_clean(source: Path) -> bool:
    """Tell whether nothing of a removal is left, hidden or noted."""
    return (
        names(source / "runs") in (["checkpoint-1", "checkpoint-2"], ["checkpoint-2"])
        and not (source.parent / "pruning.json").exists()
    )


def test_a_unit_goes_and_its_neighbour_stays(source: Path) -> None:
    """Files, links and directories of one unit are gone, and it is known that it was pruned."""
    removal = make(source)
    removal.remove(UNIT, removal.look(UNIT))

    assert ["checkpoint-2"] == names(source / "runs")
    assert {f"{UNIT}/{path}" for path in (*FILES, "link")} == pruned(source)
    assert is_clean(source)


HOLD = {
    "reads": "f = open('model.bin', 'rb')",
    "writes": "f = open('model.bin', 'ab')",
    "maps": "import mmap; f = open('model.bin', 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()",
    "stands in it": "import os; os.chdir('deep')",
    "lists it": "import os; fd = os.open('.', os.O_RDONLY)",
}


@contextmanager
def holding(unit: Path, how: str) -> Iterator[None]:
    """Have a process at work in *unit*, and nowhere else."""
    code = f"import os; home = os.getcwd()\n{HOLD[how]}\n"
    code += "" if how == "stands in it" else "os.chdir('/')\n"
    code += "print('ready', flush=True)\nimport sys; sys.stdin.read()"
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, cwd=unit, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        yield
        process.communicate()


@pytest.mark.parametrize("how", HOLD)
def test_a_unit_in_use_stays(source: Path, how: str) -> None:
    """Whoever reads, writes or maps a file of it, or stands in it, keeps it; once that has ended, it goes."""
    removal = make(source)
    listing = removal.look(UNIT)
    with holding(source / UNIT, how):
        with pytest.raises(InUseError):
            removal.look(UNIT)
        with pytest.raises(InUseError):
            removal.remove(UNIT, listing)
        assert FILES == {path: content for path, content in read(source / UNIT).items() if path != "link"}
    assert is_clean(source)
    assert frozenset() == pruned(source)
    removal.remove(UNIT, listing)
    assert not (source / UNIT).exists()


def test_a_file_that_this_process_has_mapped_stays(source: Path) -> None:
    """An upload of our own, by a hard link to the same file, is a use like any other."""
    removal = make(source)
    with (
        (source / UNIT / "model.bin").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ),
        pytest.raises(InUseError, match="open"),
    ):
        removal.look(UNIT)


CHANGES = {
    "appended": lambda unit: append(unit / "config.json"),
    "rewritten with its old times": lambda unit: rewrite(unit / "model.bin"),
    "replaced": lambda unit: (unit / "new").replace(unit / "config.json") if (unit / "new").write_bytes(b"{}") else None,
    "came": lambda unit: (unit / "deep/er/more").write_bytes(b"x"),
    "came and went": lambda unit: (unit / "deep/x").unlink() if (unit / "deep/x").write_bytes(b"x") else None,
    "removed": lambda unit: (unit / "empty").unlink(),
    "a directory came": lambda unit: (unit / "deep/other").mkdir(),
    "the link leads elsewhere": lambda unit: (unit / "link").unlink() or (unit / "link").symlink_to("config.json"),
}


def rewrite(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"v" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("how", CHANGES)
def test_what_changed_since_the_proof_stays(source: Path, how: str) -> None:
    """Any change, also one that hides itself, brings the unit back as it is now."""
    removal = make(source)
    listing = removal.look(UNIT)
    CHANGES[how](source / UNIT)
    before = read(source / UNIT)

    with pytest.raises(InUseError, match="changed"):
        removal.remove(UNIT, listing)
    assert before == read(source / UNIT)
    assert is_clean(source)
    assert frozenset() == pruned(source)


WRITER = """
import os, sys, time
for line in sys.stdin:
    unit, kind, delay = line.split()
    time.sleep(float(delay))
    try:
        if kind == "append":
            with open(f"{unit}/model.bin", "r+b") as file:
                file.seek(0, 2)
                time.sleep(float(delay) / 3)
                file.write(b"more")
        elif kind == "new":
            with open(f"{unit}/new", "xb") as file:
                file.write(b"more")
        else:
            os.makedirs(unit, exist_ok=True)
            with open(f"{unit}/config.json", "wb") as file:
                file.write(b"more")
        print("written", flush=True)
    except OSError as exc:
        print("refused", flush=True)
"""


def test_a_writer_loses_nothing_whenever_it_writes(source: Path) -> None:
    """A process that writes at any moment of a removal finds what it wrote, or was told that the unit is gone."""
    luck = random.Random(7)
    removal = make(source)
    seen: set[tuple[str, str]] = set()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for number in range(80):
            name = f"runs/checkpoint-{number + 10}"
            unit = source / name
            fill(unit)
            listing = removal.look(name)
            kind = luck.choice(["append", "new", "again"])
            writer.stdin.write(f"{unit} {kind} {luck.uniform(0, 0.012):.6f}\n")
            writer.stdin.flush()
            try:
                removal.remove(name, listing)
                ended = "removed"
            except InUseError:
                ended = "kept"
            said = writer.stdout.readline().strip()
            seen.add((ended, said))
            now = read(unit)
            if said == "written":
                path, end = {"append": ("model.bin", FILES["model.bin"] + b"more"), "new": ("new", b"more")}.get(
                    kind, ("config.json", b"more")
                )
                assert end == now.get(path), (kind, ended)
            if ended == "kept":
                assert FILES.keys() <= now.keys(), (kind, said)
        writer.communicate()

    assert {("removed", "written"), ("kept", "written")} <= seen
    assert [] == [name for name in names(source / "runs") if name.startswith(".")]


KILLED = """
import os, signal, sys
from pathlib import Path
from hubsync.prune.journal import Journal
from hubsync.prune.removal import Removal
from hubsync.store.pruned import Pruned
source, last = Path(sys.argv[1]), int(sys.argv[2])
removal = Removal(source, Journal(source.parent / "pruning.json"), Pruned(source.parent / "pruned.json"))
listing = removal.look("runs/checkpoint-1")
count = 0
def hook(event, args):
    global count
    if event in {"os.rename", "os.remove", "os.rmdir"}:
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
sys.addaudithook(hook)
removal.remove("runs/checkpoint-1", listing)
"""


@pytest.mark.parametrize("step", range(13))
def test_a_kill_at_any_step_leaves_a_whole_unit_or_none(source: Path, step: int) -> None:
    """After a kill the next run ends the removal or undoes it, and what was pruned is known as that."""
    done = subprocess.run([sys.executable, "-c", KILLED, source, str(step)], check=False)
    make(source).recover()

    assert done.returncode in {-9, 0}
    assert is_clean(source)
    if (source / UNIT).exists():
        assert FILES == {path: content for path, content in read(source / UNIT).items() if path != "link"}
    else:
        assert {f"{UNIT}/{path}" for path in (*FILES, "link")} == pruned(source)
    assert FILES.items() <= read(source / "runs/checkpoint-2").items()


@pytest.mark.parametrize("step", [5, 8])
def test_what_changed_after_a_kill_is_not_removed(source: Path, step: int) -> None:
    """A rerun removes only what was proved; what was written into the hidden directory meanwhile gets its name back."""
    assert -9 == subprocess.run([sys.executable, "-c", KILLED, source, str(step)], check=False).returncode
    hidden = source / "runs" / hidden_name("checkpoint-1")
    left = min(path for path in hidden.rglob("*") if path.is_file() and not path.is_symlink())
    left.write_bytes(b"other")
    make(source).recover()

    assert b"other" == (source / UNIT / left.relative_to(hidden)).read_bytes()
    assert is_clean(source)


def test_a_unit_that_was_made_anew_meanwhile_is_completed(source: Path) -> None:
    """A unit that comes back beside files of its name takes those that are new over those that were proved."""
    removal = make(source)
    assert -9 == subprocess.run([sys.executable, "-c", KILLED, source, "3"], check=False).returncode
    assert not (source / UNIT).exists()
    (source / UNIT).mkdir()
    (source / UNIT / "config.json").write_bytes(b"new")
    removal.recover()

    assert {**FILES, "config.json": b"new", "link": FILES["model.bin"]} == read(source / UNIT)
    assert is_clean(source)


def test_a_hidden_unit_that_nobody_knows_gets_its_name_back(source: Path) -> None:
    """With the state directory lost, nothing is deleted; where the name is taken, both stay."""
    hidden = source / "runs" / hidden_name("checkpoint-1")
    (source / UNIT).rename(hidden)
    removal = make(source)

    assert "checkpoint-1" == removal.put_back_unknown(f"runs/{hidden.name}")
    assert FILES.items() <= read(source / UNIT).items()
    fill(hidden)
    with pytest.raises(LeftBehindError, match="written anew"):
        removal.put_back_unknown(f"runs/{hidden.name}")
    assert FILES.items() <= read(hidden).items()
