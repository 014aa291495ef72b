import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hubsync.errors import StateError
from hubsync.store.capture import Captured
from hubsync.store.git import REGULAR, TreeEntry
from hubsync.store.ledger import Ledger, copy_ledger
from hubsync.store.objects import PinKind
from hubsync.store.pointer import Pointer
from hubsync.store.route import Route, Routing
from hubsync.watch.entry import Identity

IDENTITY = Identity(1, 2, 3, 4, 5)
ROUTING = Routing(Route.LFS, "a test")


def captured(path: str, number: int = 1, ctime_ns: int = 5) -> Captured:
    pointer = Pointer(f"{number:064x}", 3)
    identity = Identity(1, number, 3, 4, ctime_ns)
    return Captured(
        path, identity, REGULAR, ROUTING, f"{number:040x}", b"", pointer=pointer, kind=PinKind.LINK, is_new=True
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite")
    made.open()
    yield made
    made.close()


def fill(path: Path) -> None:
    ledger = Ledger(path)
    ledger.open()
    with ledger.transaction():
        for number in range(2000):
            ledger.record(captured(f"directory/of/files/{number}.bin", number))
    ledger.close()


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        for at in range(8192, path.stat().st_size, 4096):
            file.seek(at)
            file.write(b"\xff" * 4096)


def change_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def keep_an_older_log(path: Path) -> None:
    path.write_bytes(b"")
    path.with_name(path.name + "-wal").write_bytes(b"not a log")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "another file": lambda path: path.write_bytes(b"not a database at all\n" * 1000),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "scribbled over": scribble,
    "of another version": change_version,
    "with a foreign log": keep_an_older_log,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_ledger_that_cannot_be_used_is_begun_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """Whatever happened to the file, opening succeeds with an empty ledger that can be written and opened again."""
    path = tmp_path / "ledger.sqlite"
    fill(path)
    damage(path)

    ledger = Ledger(path)
    ledger.open()

    assert ledger.was_rebuilt
    assert [] == list(ledger.states())
    ledger.record(captured("a"))
    ledger.close()
    again = Ledger(path)
    again.open()
    assert ["a"] == [name for name, *_ in again.states()]
    again.close()


def test_an_intact_ledger_is_kept(tmp_path: Path) -> None:
    """Opening again finds everything, and does not call it rebuilt."""
    fill(tmp_path / "ledger.sqlite")

    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.open()

    assert (2000, False) == (len(list(ledger.states())), ledger.was_rebuilt)
    ledger.close()


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger) -> None:
    """What was written before an exception inside is gone, also in a nested transaction."""

    def write_and_fail() -> None:
        ledger.record(captured("a"))
        with ledger.transaction():
            ledger.set_meta("snapshot", "x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), ledger.transaction():
        write_and_fail()

    assert [] == list(ledger.states())
    assert ledger.meta("snapshot") is None


def test_a_disk_that_fails_may_be_tried_again(ledger: Ledger) -> None:
    """What lies outside of the ledger passes: a mirror that meets it is not parked until somebody comes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # Python ignores the signal, so that each write fails
    try:
        with pytest.raises(StateError, match="disk I/O error") as failure:
            ledger.record_uploads("hf:me/model", ["0" * 64])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    ledger.record_uploads("hf:me/model", ["0" * 64])

    assert failure.value.retryable
    assert ledger.uploaded("hf:me/model", ["0" * 64])


def test_below_a_directory_are_its_own_files_only(ledger: Ledger) -> None:
    """Names that sort beside a directory's slash do not lie below it."""
    for number, path in enumerate(("a", "a/b", "a/b/c", "a.b", "a-b", "a0", "ab/c", "A/b"), 1):
        ledger.record(captured(path, number))

    assert ["a/b", "a/b/c"] == [path for path, *_ in ledger.states("a")]


def test_only_what_is_committed_as_it_was_captured_is_known(ledger: Ledger) -> None:
    """A file whose tree entry is missing, of other content or of another mode still waits for a commit."""
    for number, path in enumerate(("same", "absent", "other", "mode"), 1):
        ledger.record(captured(path, number))
    tree = {"same": TreeEntry(REGULAR, f"{1:040x}"), "other": TreeEntry(REGULAR, "ff" * 20)}
    ledger.replace_tree("c1", tree | {"mode": TreeEntry("100755", f"{4:040x}")})

    assert ["same"] == [path for path, _ in ledger.all_known()]
    assert {f"{2:064x}", f"{3:064x}"} == set(ledger.uncommitted_objects())


def test_the_tree_follows_changes(ledger: Ledger) -> None:
    """Written, rewritten and removed paths give the tree that git has."""
    ledger.replace_tree("c1", {"a": TreeEntry(REGULAR, "1"), "b": TreeEntry(REGULAR, "1")})

    ledger.change_tree("c2", [("a", TreeEntry(REGULAR, "2")), ("b", None), ("c", TreeEntry(REGULAR, "1"))])

    assert ("c2", {"a", "c"}, 2) == (ledger.meta("snapshot"), ledger.tree_paths(), ledger.count_tree())
    assert TreeEntry(REGULAR, "2") == ledger.in_tree("a")


def test_a_ctime_that_we_moved_is_followed_for_every_name_of_the_inode(ledger: Ledger) -> None:
    """A link for one name moves the ctime of all: neither another name nor the pin seems to have changed."""
    ledger.record(captured("a", 7))
    ledger.record(captured("b", 7))

    ledger.move_ctime(Identity(1, 7, 3, 4, ctime_ns=99))

    assert {99} == {row[5] for row in ledger.states()}
    pin = ledger.pin(f"{7:064x}")
    assert pin is not None
    assert 99 == pin[1].ctime_ns


def test_a_ctime_of_other_content_is_not_followed(ledger: Ledger) -> None:
    """The same inode with another size or time holds other bytes: it must seem changed."""
    ledger.record(captured("a", 7))

    ledger.move_ctime(Identity(1, 7, 4, 4, ctime_ns=99))
    ledger.move_ctime(Identity(1, 7, 3, 5, ctime_ns=99))

    assert [5] == [row[5] for row in ledger.states()]


def test_several_threads_may_write(ledger: Ledger) -> None:
    """Writers of several mirrors lose nothing and disturb no transaction."""

    def upload(mirror: str) -> None:
        for number in range(50):
            ledger.record_uploads(mirror, [f"{number:064x}"])

    threads = [threading.Thread(target=upload, args=(f"m{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(50):
        ledger.record(captured(str(number), number))
    for thread in threads:
        thread.join()

    wanted = {f"{number:064x}" for number in range(50)}
    assert [wanted] * 4 == [ledger.uploaded(f"m{number}", wanted) for number in range(4)]
    assert 50 == len(list(ledger.states()))


def test_while_rows_are_read_others_and_then_we_may_write(tmp_path: Path) -> None:
    """As `hubsync verify` does while a large source is compared; no row comes twice, and none is left out."""
    fill(tmp_path / "ledger.sqlite")
    ledger, other = (Ledger(tmp_path / "ledger.sqlite") for _ in range(2))
    ledger.open()
    other.open_existing()
    with closing(ledger), closing(other):
        rows = ledger.states("directory")
        first = next(rows)
        other.record_uploads("m0", ["1" * 64])
        ledger.record_uploads("m0", ["2" * 64])

        assert sorted(f"directory/of/files/{number}.bin" for number in range(2000)) == [row[0] for row in (first, *rows)]
        assert {"1" * 64, "2" * 64} == ledger.uploaded("m0", ["1" * 64, "2" * 64])


def test_uploads_are_remembered_for_each_mirror_alone(ledger: Ledger) -> None:
    """What one mirror has says nothing of another, and can be forgotten alone."""
    ledger.record_uploads("m0", ["a", "b"])
    ledger.record_uploads("m1", ["a"])

    ledger.forget_uploads("m0")

    assert (set(), {"a"}) == (ledger.uploaded("m0", ["a", "b"]), ledger.uploaded("m1", ["a", "b"]))


def test_a_copy_leaves_the_locks_of_this_process_alone(tmp_path: Path) -> None:
    """Else the next program that closes the ledger takes the log of an open one away, and what is written then is lost."""
    path = tmp_path / "ledger.sqlite"
    look = f"import sqlite3; print(sorted(sqlite3.connect({str(path)!r}).execute('SELECT oid FROM damaged')))"

    def seen_outside() -> str:
        return subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True).stdout.strip()

    ledger = Ledger(path)
    ledger.open()
    ledger.record_read("m", (), ["a"])
    copy_ledger(path, tmp_path / "copy.sqlite")
    assert "[('a',)]" == seen_outside()
    ledger.record_read("m", (), ["b"])
    assert "[('a',), ('b',)]" == seen_outside()
    ledger.close()
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy:
        assert [("a",)] == copy.execute("SELECT oid FROM damaged").fetchall()
