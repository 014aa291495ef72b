import hashlib
import mmap
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.rig import safetensors

from hubsync.errors import FileChangedError, StateError
from hubsync.store.capture import Captured, Capturer, FileHeldError, FileRefusedError
from hubsync.store.git import EXECUTABLE, REGULAR
from hubsync.store.hashing import run
from hubsync.store.objects import Objects, PinKind
from hubsync.store.pointer import Pointer
from hubsync.store.route import RouteRules, choose_route
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.inventory import look

RULES = RouteRules(("*.raw",), 5_000_000)
MIB = 1 << 20


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry_of(source: Path, path: str) -> Entry:
    entry = look(source, path)
    assert entry is not None
    return entry


def held(objects: Objects) -> dict[str, os.stat_result]:
    return dict(objects.held())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    made = Objects(tmp_path / "store.git")
    made.open()
    return made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Give a source on another file system than the store's."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    directory = shared / f"hubsync-{os.getpid()}-{time.monotonic_ns()}"
    directory.mkdir()
    yield directory
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


def capture(source: Path, objects: Objects, path: str, how: str = "link") -> Captured:
    return run(Capturer(source, objects, RULES, how).capture(entry_of(source, path)))


def test_a_link_is_no_second_copy(source: Path, objects: Objects) -> None:
    """The pin of a large file is the file's own inode: it takes no block of the disk."""
    content = os.urandom(3 * MIB)
    file = source / "a.raw"
    file.write_bytes(content)
    blocks = file.stat().st_blocks

    captured = capture(source, objects, "a.raw")

    pin = objects.path(digest(content)).stat()
    assert (PinKind.LINK, True) == (captured.kind, captured.is_new)
    assert (file.stat().st_ino, 2, blocks) == (pin.st_ino, pin.st_nlink, pin.st_blocks)
    others = [path for path in objects.directory.parent.rglob("*") if path.is_file() and path.stat().st_ino != pin.st_ino]
    assert [] == others


def test_what_is_captured_is_the_pointer_of_the_bytes(source: Path, objects: Objects) -> None:
    """The tree gets a pointer with the content's SHA-256 and size, and its git object id is that of the text."""
    content = b"\0weights"
    (source / "a.raw").write_bytes(content)

    captured = capture(source, objects, "a.raw")

    text = Pointer(digest(content), len(content)).encode()
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    assert (text, blob) == (captured.content, captured.blob)


def test_a_copy_has_its_own_bytes(source: Path, objects: Objects) -> None:
    """In copy mode a later rewrite of the file does not reach the pin."""
    content = os.urandom(2 * MIB + 17)
    (source / "a.raw").write_bytes(content)

    captured = capture(source, objects, "a.raw", "copy")
    with (source / "a.raw").open("r+b") as file:
        file.write(b"rewritten in place")

    assert PinKind.COPY == captured.kind
    assert content == objects.path(digest(content)).read_bytes()


def test_a_source_on_another_file_system_is_copied(elsewhere: Path, objects: Objects) -> None:
    """Where no link is possible, auto copies, and the bytes are those of the file."""
    content = os.urandom(2 * MIB)
    (elsewhere / "a.raw").write_bytes(content)

    captured = capture(elsewhere, objects, "a.raw", "auto")

    assert PinKind.COPY == captured.kind
    assert content == objects.path(digest(content)).read_bytes()


def test_a_link_that_is_impossible_is_an_error_with_a_cure(elsewhere: Path, objects: Objects) -> None:
    """Who demands links gets no copy: the error says what to change instead."""
    (elsewhere / "a.raw").write_bytes(b"\0")

    with pytest.raises(StateError) as caught:
        capture(elsewhere, objects, "a.raw", "link")

    assert "store_dir" in caught.value.hint
    assert {} == held(objects)


def test_the_pin_outlives_the_file(source: Path, objects: Objects) -> None:
    """A trainer that rotates a checkpoint away takes no byte from what is queued."""
    content = os.urandom(MIB)
    (source / "a.raw").write_bytes(content)
    capture(source, objects, "a.raw")

    (source / "a.raw").unlink()

    assert content == objects.path(digest(content)).read_bytes()


@pytest.mark.parametrize("how", ["link", "copy"])
@pytest.mark.parametrize("name", ["a.raw", "large.txt"])
def test_a_large_file_is_read_once(source: Path, objects: Objects, name: str, how: str) -> None:
    """The bytes of a large file pass once, by our own count and by the kernel's."""
    size = 12 * MIB
    (source / name).write_bytes(b"t" * size)
    heard: list[int] = []
    capturer = Capturer(source, objects, RULES, how)
    entry = entry_of(source, name)
    before = bytes_read()

    run(capturer.capture(entry), heard.append)

    assert size == sum(heard)
    assert size <= bytes_read() - before < size + MIB


def bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_the_same_content_is_pinned_once(source: Path, objects: Objects) -> None:
    """A second file with the same bytes adds no object and leaves no pin behind."""
    for name in ("a.raw", "b.raw"):
        (source / name).write_bytes(b"\0same")

    captured = [capture(source, objects, name) for name in ("a.raw", "b.raw")]

    assert [True, False] == [one.is_new for one in captured]
    assert [digest(b"\0same")] == list(held(objects))
    assert [1, 2] == sorted((source / name).stat().st_nlink for name in ("a.raw", "b.raw"))


@pytest.mark.parametrize("how", ["link", "copy"])
def test_the_identity_is_that_after_the_pin(source: Path, objects: Objects, how: str) -> None:
    """A link moves the file's ctime; the identity that is remembered is the present one, so nothing seems to change."""
    (source / "a.raw").write_bytes(b"\0" * 100)

    captured = capture(source, objects, "a.raw", how)

    assert Identity.of((source / "a.raw").stat()) == captured.identity


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o644, REGULAR), (0o755, EXECUTABLE), (0o600, REGULAR), (0o641, EXECUTABLE), (0o444, REGULAR)]
)
def test_the_executable_bit_is_kept(source: Path, objects: Objects, mode: int, expected: str) -> None:
    """A file that anybody may execute is executable in the repository; no other permission is."""
    (source / "run").write_bytes(b"#!/bin/sh\n")
    (source / "run").chmod(mode)

    assert expected == capture(source, objects, "run").mode


def test_a_symlink_is_captured_as_the_file_it_leads_to(source: Path, objects: Objects) -> None:
    """What a link inside the source leads to is published as a file, not as a link that breaks elsewhere."""
    (source / "real.raw").write_bytes(b"\0real")
    (source / "last.raw").symlink_to("real.raw")

    captured = capture(source, objects, "last.raw")

    assert (REGULAR, digest(b"\0real")) == (captured.mode, captured.pointer and captured.pointer.oid)


@pytest.mark.parametrize("name", ["empty.txt", "empty.raw"])
def test_an_empty_file_is_the_empty_blob(source: Path, objects: Objects, name: str) -> None:
    """No object is pinned for a file without content, even where a pattern names it."""
    (source / name).touch()

    captured = capture(source, objects, name)

    assert ("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", None) == (captured.blob, captured.pointer)
    assert {} == held(objects)


def test_a_pointer_without_its_content_is_refused(source: Path, objects: Objects) -> None:
    """The text of a pointer would be published as if the content were there; the cure is named."""
    (source / "model.safetensors").write_bytes(Pointer("ab" * 32, 5).encode())
    (source / "model.txt").write_bytes(Pointer("ab" * 32, 5).encode())

    for name in ("model.safetensors", "model.txt"):
        with pytest.raises(FileRefusedError):
            capture(source, objects, name)

    assert {} == held(objects)


def test_a_half_written_file_is_held(source: Path, objects: Objects) -> None:
    """A file whose header promises more than there is waits, and nothing of it is kept."""
    (source / "model.safetensors").write_bytes(safetensors(1000)[:-1])

    with pytest.raises(FileHeldError) as caught:
        capture(source, objects, "model.safetensors")

    assert "on disk" in str(caught.value)
    assert {} == held(objects)


# --- a writer that does not wait


def rewrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"other")


def rewrite_and_forge_time(file: Path) -> None:
    before = file.stat()
    rewrite(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def append(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def replace(file: Path) -> None:
    new = file.with_name(".tmp-new")
    new.write_bytes(b"\0replaced" * 300_000)
    new.rename(file)


WRITERS: tuple[Callable[[Path], None], ...] = (
    rewrite,
    rewrite_and_forge_time,
    append,
    replace,
    lambda file: os.truncate(file, 100),
    lambda file: os.truncate(file, 0),
    Path.unlink,
)


@pytest.mark.parametrize("how", ["link", "copy"])
@pytest.mark.parametrize("name", ["a.raw", "a.txt"])
@pytest.mark.parametrize("change", WRITERS)
def test_a_file_that_changes_while_it_is_read_is_never_torn(
    source: Path, objects: Objects, change: Callable[[Path], None], name: str, how: str
) -> None:
    """Changed after its first bytes were read, a file is refused, or what was captured is the state before."""
    content = b"text" * MIB  # several reads
    file = source / name
    file.write_bytes(content)
    entry = entry_of(source, name)
    time.sleep(0.02)  # a settled file is older than a tick of the file system's clock
    changes = iter([change])
    captured = None

    try:
        captured = run(Capturer(source, objects, RULES, how).capture(entry), lambda _: [one(file) for one in changes])
    except FileChangedError:
        assert {} == held(objects)
    else:
        assert captured.pointer is None or digest(content) == captured.pointer.oid
        assert captured.pointer or content == captured.content

    assert [] == list((objects.directory.parent / "pins").iterdir())


@pytest.mark.parametrize("name", ["a.raw", "a.txt"])
@pytest.mark.parametrize("how", ["written", "mapped"])
def test_a_file_that_somebody_writes_is_no_whole_one(source: Path, objects: Objects, name: str, how: str) -> None:
    """However quiet it is; unless its last change is so long ago that it seems to have been forgotten."""
    with (source / name).open("w+b") as file:
        file.write(b"half" * 1000)
        file.flush()
        writer = mmap.mmap(file.fileno(), 0) if how == "mapped" else file
        if how == "mapped":
            file.close()
        with pytest.raises(FileChangedError, match="open for writing"):
            capture(source, objects, name)
        assert {} == held(objects)
        os.utime(source / name, (0, 0))
        assert capture(source, objects, name)
        os.utime(source / name)
        writer.close()

    assert capture(source, objects, name)


def test_a_writer_that_comes_meanwhile_ends_nobody(source: Path, objects: Objects) -> None:
    """A lease that is asked for to find writers breaks by a signal."""
    path = source / "a.raw"
    path.write_bytes(b"x" * 5000)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            path.open("r+b").close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            with suppress(FileChangedError):
                capture(source, objects, "a.raw")
    finally:
        stop.set()
        writer.join()

    assert capture(source, objects, "a.raw")


@pytest.mark.parametrize("change", WRITERS[:5])
@pytest.mark.parametrize("name", ["a.raw", "a.txt"])
def test_a_file_that_changed_since_it_settled_is_refused(
    source: Path, objects: Objects, change: Callable[[Path], None], name: str
) -> None:
    """What is captured is the state that was quiet, not one that came after it."""
    (source / name).write_bytes(b"text" * 1000)
    entry = entry_of(source, name)
    time.sleep(0.02)
    change(source / name)

    with pytest.raises(FileChangedError):
        run(Capturer(source, objects, RULES, "link").capture(entry))

    assert {} == held(objects)


def test_ordinary_content_is_never_torn(source: Path, objects: Objects) -> None:
    """Written at both ends while it is read into memory, a text is refused."""
    file = source / "a.txt"
    file.write_bytes(b"a" * (48 * MIB))
    entry = entry_of(source, "a.txt")
    time.sleep(0.02)
    before = bytes_read()

    def write() -> None:
        while bytes_read() < before + 4 * MIB:
            time.sleep(0)
        with file.open("r+b", buffering=0) as opened:
            os.pwrite(opened.fileno(), b"b", 0)
            os.pwrite(opened.fileno(), b"b", 48 * MIB - 1)

    writer = threading.Thread(target=write)
    writer.start()
    capturer = Capturer(source, objects, RouteRules((), 1 << 40), "link")
    try:
        content = run(capturer.capture(entry)).content
    except FileChangedError:
        content = b""
    writer.join()

    assert (content[:1], content[-1:]) != (b"a", b"b")


def test_a_pin_without_an_oid_is_dropped_at_open(source: Path, objects: Objects) -> None:
    """What a capture that was killed had pinned holds no space, and is no object."""
    (source / "a.raw").write_bytes(b"\0")
    with (source / "a.raw").open("rb") as file:
        objects.pin(file.fileno(), "link")
    assert 2 == (source / "a.raw").stat().st_nlink

    objects.open()

    assert 1 == (source / "a.raw").stat().st_nlink
    assert {} == held(objects)


class Writer(threading.Thread):
    """Rewrites a file in every way that writers do, and knows each state that it ever had."""

    def __init__(self, file: Path, seed: int) -> None:
        super().__init__()
        self.states: set[str] = set()
        self._file = file
        self._random = random.Random(seed)
        self._content = b""
        self._become(os.urandom(MIB + 300_000), file.write_bytes)

    def _become(self, content: bytes, act: Callable[[bytes], object]) -> None:
        self._content = content
        self.states.add(digest(content))
        act(content)

    def run(self) -> None:
        """Write for a while."""
        for _ in range(12):
            self._random.choice((self._rewrite, self._replace, self._truncate, self._append))()
            time.sleep(self._random.uniform(0.0, 0.05))

    def _rewrite(self) -> None:
        with self._file.open("r+b", buffering=0) as file:
            for at in range(0, len(self._content), 400_000):
                piece = self._random.randbytes(min(400_000, len(self._content) - at))
                changed = self._content[:at] + piece + self._content[at + len(piece) :]
                self._become(changed, lambda _, at=at, piece=piece: os.pwrite(file.fileno(), piece, at))

    def _replace(self) -> None:
        new = self._file.with_name(".tmp-new")
        new.write_bytes(content := self._random.randbytes(MIB + 200_000))
        self._become(content, lambda _: new.rename(self._file))

    def _truncate(self) -> None:
        self._become(self._content[: MIB + 100_000], lambda content: os.truncate(self._file, len(content)))

    def _append(self) -> None:
        with self._file.open("ab", buffering=0) as file:
            piece = self._random.randbytes(50_000)
            self._become(self._content + piece, lambda _: file.write(piece))


@pytest.mark.parametrize("how", ["link", "copy"])
def test_no_capture_is_a_state_that_never_was(source: Path, objects: Objects, how: str) -> None:
    """Beside a writer that rewrites, replaces, truncates and appends, each capture is a state that the file had."""
    file = source / "a.raw"
    writer = Writer(file, seed=7)
    capturer = Capturer(source, objects, RULES, how)
    seen: set[str] = set()
    writer.start()

    while writer.is_alive() or not seen:
        entry = look(source, "a.raw")
        if entry is None or time.time_ns() - max(entry.identity.mtime_ns, entry.identity.ctime_ns) < 10_000_000:
            continue  # it is not quiet
        try:
            captured = run(capturer.capture(entry))
        except FileChangedError:
            continue
        assert captured.pointer is not None
        seen.add(captured.pointer.oid)

    writer.join()
    assert seen <= writer.states


@pytest.mark.parametrize("how", ["auto", "copy"])
def test_what_is_deleted_is_not_read_on(source: Path, objects: Objects, how: str) -> None:
    """However much of it there is: its next piece is the last."""
    with (source / "a.raw").open("wb") as file:
        file.truncate(64 * MIB)
    heard: list[int] = []

    def delete(count: int) -> None:
        heard.append(count)
        time.sleep(0.02)  # a tick of the file system's clock
        (source / "a.raw").unlink(missing_ok=True)

    with pytest.raises(FileChangedError, match="changed while it was read"):
        run(Capturer(source, objects, RULES, how).capture(entry_of(source, "a.raw")), delete)

    assert 1 == len(heard)
    assert {} == held(objects)


def test_a_file_that_is_replaced_once_it_is_open_has_changed(source: Path, objects: Objects) -> None:
    """An inode without a name takes no link, which says nothing of the file system."""
    (source / "a.raw").write_bytes(b"before")
    entry = entry_of(source, "a.raw")
    routing = choose_route("a.raw", 6, RULES)
    assert routing is not None
    fd = os.open(source / "a.raw", os.O_RDONLY)
    (source / "new").write_bytes(b"after!")
    (source / "new").rename(source / "a.raw")

    with pytest.raises(FileChangedError):
        run(Capturer(source, objects, RULES, "link").as_object(fd, entry, entry.identity, routing))

    os.close(fd)
    assert {} == held(objects)


def test_what_is_released_leaves_the_page_cache(tmp_path: Path, objects: Objects) -> None:
    """The source's own pages, behind a hard link: the data loader beside it needs the room more."""
    source = tmp_path / "model.bin"
    source.write_bytes(os.urandom(1 << 20))
    pages = ["fincore", "--raw", "--noheadings", "--output", "PAGES", str(source)]
    with source.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if int(subprocess.check_output(pages)) > 0:
            pytest.skip("this file system lets no page go")
        file.read()
        objects.keep(objects.pin(file.fileno(), "link"), "ab" * 32)
    assert int(subprocess.check_output(pages)) > 0

    objects.release("ab" * 32)

    assert 0 == int(subprocess.check_output(pages))


def test_objects_that_go_while_they_are_listed_do_no_harm(tmp_path: Path) -> None:
    """A mirror lets objects go, with their directories, while the heartbeat counts what is held."""
    for number in range(3):
        file = tmp_path / "lfs" / "objects" / f"0{number}" / f"1{number}" / "oid"
        file.parent.mkdir(parents=True)
        file.touch()
    objects = Objects(tmp_path)
    held = objects.held()
    next(held)
    for directory in objects.directory.iterdir():
        shutil.rmtree(directory)

    assert [] == list(held)
