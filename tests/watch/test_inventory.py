import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hubsync.errors import FileChangedError, SourceError
from hubsync.watch.inventory import Identity, Kind, look, open_beneath, open_entry, take_inventory
from hubsync.watch.names import find_collisions
from hubsync.watch.rules import PathRules

RULES = PathRules()


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as opened:
        return opened.read()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(name="source")
def make_source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    return source


def test_lists_regular_files_by_relative_path(source: Path) -> None:
    """Every file is listed with its identity, and nothing is skipped in a plain source."""
    file = write(source / "checkpoint-1" / "model.safetensors", b"weights")
    write(source / "config.json")

    inventory = take_inventory(source, RULES)

    assert {"checkpoint-1/model.safetensors", "config.json"} == set(inventory.entries)
    assert Identity.of(file.stat()) == inventory.entries["checkpoint-1/model.safetensors"].identity
    assert {} == inventory.skipped


def test_identity_sees_a_forged_time(source: Path) -> None:
    """A rewrite that restores size and mtime still changes the ctime."""
    file = write(source / "a", b"1234")
    before = look(source, "a").identity
    file.write_bytes(b"5678")
    os.utime(file, ns=(before.mtime_ns, before.mtime_ns))
    after = look(source, "a").identity

    assert (before.size, before.mtime_ns, before.ino) == (after.size, after.mtime_ns, after.ino)
    assert before != after


def test_excluded_paths_are_not_entered_nor_listed(source: Path) -> None:
    """What the operator excludes is silent; a temporary file is listed apart, for it says that a writer is at work."""
    write(source / "wandb" / "run.json")
    write(source / "a.log")
    write(source / "checkpoint-1" / ".tmpAb12Cd")
    write(source / "checkpoint-1" / "secret.tmp")
    os.mkfifo(source / "b.log")

    inventory = take_inventory(source, PathRules(exclude=("wandb/", "*.log", "secret*")))

    assert {} == inventory.entries
    assert {} == inventory.skipped
    assert {"checkpoint-1/.tmpAb12Cd"} == set(inventory.temporary)


def test_reserved_names_are_skipped_with_a_reason(source: Path) -> None:
    """Git's own directory is skipped quietly, what a Hub refuses is told; nothing below either is seen."""
    write(source / ".git" / "config")
    write(source / "sub" / ".GIT" / "config")
    write(source / ".gitattributes")
    write(source / ".gitignore")

    inventory = take_inventory(source, RULES)

    assert {".gitignore"} == set(inventory.entries)
    assert {".git": Kind.IGNORED, "sub/.GIT": Kind.REJECTED, ".gitattributes": Kind.IGNORED} == {
        path: skip.kind for path, skip in inventory.skipped.items()
    }


def test_a_name_that_is_not_utf8_is_skipped(source: Path) -> None:
    """It keeps its bytes, so that it can be shown and found again."""
    name = b"weights-\xff.bin"
    Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(b"x")
    write(source / "tab\tnew\nline-é.bin")

    inventory = take_inventory(source, RULES)

    assert {"tab\tnew\nline-é.bin"} == set(inventory.entries)
    assert [os.fsdecode(name)] == list(inventory.skipped)
    assert "UTF-8" in inventory.skipped[os.fsdecode(name)].reason


def test_a_symlink_inside_the_source_stands_for_its_target(source: Path) -> None:
    """It has the identity of the file it leads to, and opens as that file."""
    target = write(source / "blobs" / "abc", b"weights")
    (source / "model.bin").symlink_to("blobs/abc")

    entry = take_inventory(source, RULES).entries["model.bin"]

    assert entry.link
    assert Identity.of(target.stat()) == entry.identity
    assert entry == look(source, "model.bin")
    assert b"weights" == read(open_entry(source, entry))


def test_other_symlinks_are_rejected_with_the_reason(source: Path, tmp_path: Path) -> None:
    """A link that leaves the source, leads nowhere or to a directory is never followed."""
    outside = write(tmp_path / "outside" / "secret")
    write(source / ".git" / "config")
    write(source / "d" / "f")
    links = {
        "absolute": outside,
        "relative": "../outside/secret",
        "dangling": "nothing",
        "loop": "loop",
        "dir": "d",
        "self": ".",
        "up": "..",
        "git": ".git/config",
        "throughfile": "d/f/g",
    }
    for name, target in links.items():
        (source / name).symlink_to(target)

    inventory = take_inventory(source, RULES)
    skipped = {path: skip.reason for path, skip in inventory.skipped.items() if path != ".git"}

    assert {"d/f"} == set(inventory.entries)
    assert set(links) == set(skipped)
    assert all(Kind.REJECTED is inventory.skipped[name].kind for name in links)
    assert skipped["absolute"] == skipped["relative"] == skipped["up"] == "symlink leaves the source"
    assert skipped["dir"] == skipped["self"] == "symlink to a directory is not followed"
    assert [None] * len(links) == [look(source, name) for name in links]


def test_a_source_that_is_a_symlink_itself_is_followed(source: Path, tmp_path: Path) -> None:
    """The operator named it; links inside still may not leave where it leads."""
    write(source / "a")
    (source / "b").symlink_to("a")
    alias = tmp_path / "alias"
    alias.symlink_to(source)

    assert {"a", "b"} == set(take_inventory(alias, RULES).entries)


def test_what_is_no_file_is_rejected_and_never_opened(source: Path) -> None:
    """A FIFO does not make the inventory wait."""
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))

    inventory = take_inventory(source, RULES)

    assert {"fifo", "socket"} == set(inventory.skipped)
    assert "FIFO" in inventory.skipped["fifo"].reason
    assert {Kind.REJECTED} == {skip.kind for skip in inventory.skipped.values()}


def test_deep_nesting_ends(source: Path) -> None:
    """Directories below a sane depth are skipped with a reason, and all descriptors are given back."""
    here = source
    for _ in range(300):
        here = here / "d"
    here.mkdir(parents=True)
    before = open_files()

    inventory = take_inventory(source, RULES)

    assert before == open_files()
    assert ["deeper than 100 directories"] == [skip.reason for skip in inventory.skipped.values()]


def test_the_part_below_a_directory(source: Path) -> None:
    """Paths stay relative to the source; a directory that is gone, excluded or reserved gives nothing."""
    write(source / "a" / "b" / "f")
    write(source / "c")
    write(source / ".git" / "hooks" / "x")
    write(source / "tmp-checkpoint-1" / "x")
    (source / "link").symlink_to("a")

    assert {"a/b/f"} == set(take_inventory(source, RULES, "a").entries)
    assert {"a/b/f"} == set(take_inventory(source, RULES, "a/b").entries)
    for under in ("gone", "a/gone/x", "c", "link", "link/b", ".git/hooks", "tmp-checkpoint-1", "../source/a", "a//b"):
        assert {} == take_inventory(source, RULES, under).entries


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    """It is never taken for an empty one."""
    write(tmp_path / "file")
    for source in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(SourceError):
            take_inventory(source, RULES)
        with pytest.raises(SourceError):
            take_inventory(source, RULES, "a")
        with pytest.raises(SourceError):
            look(source, "a")


def run_script(source: Path, lines: str) -> str:
    """Run *lines* as a process that may read no more than the owner of its files, whoever runs the tests."""
    script = f"""
import resource, sys
from pathlib import Path
from hubsync.errors import FileUnreadableError
from hubsync.watch.inventory import open_beneath, take_inventory
from hubsync.watch.rules import PathRules
source = Path({str(source)!r})
{lines}
"""
    prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if prefix and shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv to give that up")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [*prefix, sys.executable, "-c", script]

    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def test_what_cannot_be_read_is_not_gone(source: Path) -> None:
    """An unreadable directory hides what is known below it, and the rest is listed."""
    write(source / "closed" / "f")
    write(source / "open")
    (source / "closed").chmod(0)

    said = run_script(
        source,
        """
inventory = take_inventory(source, PathRules())
below = take_inventory(source, PathRules(), "closed/f")
print(sorted(inventory.entries), inventory.skipped["closed"].kind.value)
print(inventory.hides("closed/deep/f"), inventory.hides("closed2/f"), below.hides("closed/f"))
""",
    )

    assert "['open'] unreadable\nTrue False True" == said


def test_a_source_that_cannot_be_listed_is_an_error(source: Path) -> None:
    """It is never taken for an empty one."""
    write(source / "f")
    source.chmod(0o100)

    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_script(source, "take_inventory(source, PathRules())")

    assert "SourceError" in caught.value.stderr


def test_a_file_that_may_not_be_read_says_so(source: Path) -> None:
    """It is listed all the same, and the hint tells the operator which user to run as."""
    write(source / "f").chmod(0)

    said = run_script(
        source,
        """
print(sorted(take_inventory(source, PathRules()).entries))
try:
    open_beneath(source, "f")
except FileUnreadableError as exc:
    print(exc, "user" in exc.hint)
""",
    )

    assert "['f']\nf: Permission denied True" == said


def test_a_directory_that_fails_to_open_hides_what_is_below(source: Path) -> None:
    """No free descriptor is a failure of ours, never a deletion."""
    write(source / "a" / "b" / "f")
    write(source / "c")

    said = run_script(
        source,
        """
resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))  # 0, 1, 2, the source, its listing and scandir's copy of that
inventory = take_inventory(source, PathRules())
print(sorted(inventory.entries), inventory.hides("a/b/f"))
""",
    )

    assert "['c'] True" == said


def test_opening_reads_what_is_there(source: Path) -> None:
    """A file below directories opens for reading, without blocking and without leaking to children."""
    write(source / "a" / "b" / "f", b"content")

    fd = open_beneath(source, "a/b/f")

    assert not os.get_inheritable(fd)
    assert b"content" == read(fd)


def test_opening_refuses_what_is_no_file_of_the_source(source: Path, tmp_path: Path) -> None:
    """Links in any part, other kinds of files, and paths that climb are refused as changed."""
    write(tmp_path / "outside" / "f")
    write(source / "a" / "f")
    (source / "file-link").symlink_to("a/f")
    (source / "dir-link").symlink_to(tmp_path / "outside")
    os.mkfifo(source / "fifo")
    before = open_files()

    for path in ("gone", "a", "fifo", "file-link", "dir-link/f", "../outside/f", "a/../a/f", "a/f/g", "", "/a/f"):
        with pytest.raises(FileChangedError):
            open_beneath(source, path)

    assert before == open_files()


def test_a_link_that_was_turned_outwards_is_refused(source: Path, tmp_path: Path) -> None:
    """What an inventory saw is checked again when it is opened."""
    write(source / "f")
    (source / "link").symlink_to("f")
    entry = look(source, "link")
    (source / "link").unlink()
    (source / "link").symlink_to(write(tmp_path / "secret"))

    with pytest.raises(FileChangedError):
        open_entry(source, entry)
    (source / "link").unlink()
    with pytest.raises(FileChangedError):
        open_entry(source, entry)


def test_a_directory_swapped_for_a_link_leads_nowhere(source: Path, tmp_path: Path) -> None:
    """However the swap is timed, nothing outside of the source is listed or read."""
    write(source / "real" / "f", b"inside")
    write(tmp_path / "outside" / "f", b"outside")
    write(tmp_path / "outside" / "only-outside", b"outside")
    (source / "d").symlink_to(source / "real")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in (tmp_path / "outside", None):
                (source / "new").symlink_to(target) if target else (source / "new").mkdir()
                if not target:
                    write(source / "new" / "f", b"inside")
                _replace(source / "new", source / "d")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = set()
        deadline = time.monotonic() + 2
        for _ in range(2_000):
            seen |= set(take_inventory(source, RULES).entries)
            with contextlib.suppress(FileChangedError):
                seen.add(read(open_beneath(source, "d/f")))
            if time.monotonic() > deadline:
                break
    finally:
        stop.set()
        thread.join()

    assert b"inside" in seen
    assert not {b"outside", "d/only-outside", "new/only-outside"} & seen


def _replace(new: Path, old: Path) -> None:
    aside = old.with_name("aside")
    old.rename(aside)
    new.rename(old)
    if aside.is_symlink():
        aside.unlink()
    else:
        (aside / "f").unlink()
        aside.rmdir()


def test_the_mode_is_the_files_own(source: Path) -> None:
    """An executable script stays one."""
    write(source / "run.sh").chmod(0o755)

    assert stat.S_IXUSR & look(source, "run.sh").mode


def test_files_are_asked_about_in_the_order_of_their_paths(source: Path) -> None:
    """So that they can be compared with a sorted list as they come; what is known is not listed."""
    paths = ["a-b", "a.txt", "a/b", "a/c/d", "a/c.d", "a0", "b", "é", "ö/x", "\U0001f600"]
    for path in paths:
        write(source / path)
    asked: list[str] = []

    def is_known(path: str, _: Identity) -> bool:
        asked.append(path)
        return path != "a/b"

    inventory = take_inventory(source, RULES, is_known=is_known)

    assert sorted(paths, key=str.encode) == asked
    assert ["a/b"] == list(inventory.entries)


def test_names_that_are_one_elsewhere_are_told_known_or_not(source: Path) -> None:
    """Case and Unicode are folded, in the names of the files and in those of the directories above them."""
    for path in ("A/x", "a/X", "a/y", "b/Model", "b/model", "c/e\u0301", "c/\xe9", "d/x", "e"):
        write(source / path)

    inventory = take_inventory(source, RULES, is_known=lambda *_: True)

    assert {"a/X": "A/x", "b/model": "b/Model", "c/\xe9": "c/e\u0301"} == find_collisions(inventory.alike)
    assert "d/x" not in inventory.alike


def _count(directory: Path | str) -> int:
    files = 0
    with os.scandir(directory) as items:
        for item in items:
            if item.is_dir(follow_symlinks=False):
                files += _count(item.path)
            else:
                item.stat(follow_symlinks=False)
                files += 1
    return files


def test_costs_little_more_than_a_bare_walk(source: Path) -> None:
    """An inventory of many files takes less than three times what a walk that keeps nothing takes."""
    for directory in range(100):
        (source / f"checkpoint-{directory}").mkdir()
        for number in range(100):
            (source / f"checkpoint-{directory}" / f"model-{number:05}-of-00100.safetensors").touch()
    rules = PathRules(exclude=("*.tmp", "*.partial", "*.lock", ".git/", "__pycache__/"))
    ratios = []
    for _ in range(5):
        started = time.process_time()
        files = _count(source)
        middle = time.process_time()
        found = len(take_inventory(source, rules).entries)
        ratios.append((time.process_time() - middle) / (middle - started))

        assert files == found == 10_000

    assert min(ratios) < 3
