"""What a store survives: its files are damaged while hubsync is away, as a power cut or a bad disk does."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from structlog.testing import capture_logs
from support.plain_server import PlainServer
from support.rig import REPO, Rig, safetensors

from hubsync.errors import GitError, MirrorError, StateError

MakeRig = Callable[..., Rig]
SNAPSHOTS = "store.git/refs/heads/snapshots"
PUBLISHED = "mirrors/m0.git/refs/mirror/published"
LEFT = "mirrors/m0.git/refs/mirror/left/main"
QUEUED = {"checkpoint-2/a.safetensors": safetensors(400, b"2"), "checkpoint-2/b.json": b"[2]", "checkpoint-2/DONE": b""}


@pytest.fixture
def rig(server: PlainServer, make_rig: MakeRig) -> Rig:
    """Give a target that has published twice, and has a unit in its queue that is gone from the source."""
    rig = make_rig(server, units=("checkpoint-*",), complete_when=("DONE",))
    rig.write("notes.txt", b"first")
    rig.write("model.bin", b"\0first")
    rig.update()
    rig.write("notes.txt", b"second")
    rig.write("checkpoint-1/a.safetensors", safetensors(400, b"1"))
    rig.write("checkpoint-1/DONE", b"")
    rig.update()
    for path, content in QUEUED.items():
        rig.write(path, content)
    rig.commit()
    shutil.rmtree(rig.source / "checkpoint-2")
    return rig


def damage(rig: Rig, how: Callable[[Path], object]) -> list[str]:
    """Damage what lies below the target's directory while hubsync is away; return what the next start recovers."""
    rig.__exit__()
    how(rig.state / "targets" / "run")
    with capture_logs() as said:
        rig.__enter__()
    return [event["what"] for event in said if event["event"] == "state.recovered"]


def expect_all(rig: Rig, server: PlainServer, gone: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Expect that everything that was ever captured is published, once, and that nothing is shown as it was before.

    That is what the source has, and what is *gone* from it as ``QUEUED`` is.
    """
    before = server.history(REPO)
    rig.write("after.txt", b"after")
    rig.update()
    here = {str(path.relative_to(rig.source)): path.read_bytes() for path in rig.source.rglob("*") if path.is_file()}
    assert {**here, **QUEUED, **gone} == server.read_all(REPO)
    new = server.history(REPO)[: -len(before)]
    assert {"second"} == {server.git(REPO, "show", f"{commit}:notes.txt") for commit in new}
    server.git(REPO, "fsck", "--strict")
    rig.store.git.run("fsck", "--strict")
    assert rig.update() is None


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda target: (target / name).write_bytes(content)


def zero(name: str) -> Callable[[Path], object]:
    return lambda target: (target / name).write_bytes(bytes((target / name).stat().st_size))


LEDGERS: dict[str, Callable[[Path], object]] = {
    "missing": lambda target: [path.unlink() for path in target.glob("ledger.sqlite*")],
    "cut": lambda target: (target / "ledger.sqlite").write_bytes((target / "ledger.sqlite").read_bytes()[:5000]),
    "zeros": zero("ledger.sqlite"),
}


@pytest.mark.parametrize("how", LEDGERS.values(), ids=LEDGERS.keys())
def test_a_ledger_is_rebuilt(rig: Rig, server: PlainServer, how: Callable[[Path], object]) -> None:
    """A ledger that is lost costs work, and no file; it is said."""
    assert ["ledger"] == damage(rig, how)
    expect_all(rig, server)


REFS = {"empty": b"", "zeros": bytes(41), "garbage": b"garbage", "of nothing": b"1" * 40 + b"\n"}


@pytest.mark.parametrize("content", REFS.values(), ids=REFS.keys())
def test_the_queue_is_found_without_its_ref(rig: Rig, server: PlainServer, content: bytes) -> None:
    """A ref that a power cut left without its content is restored, and so the queue."""
    assert ["refs"] == damage(rig, write(SNAPSHOTS, content))
    expect_all(rig, server)


@pytest.mark.parametrize("ref", [PUBLISHED, LEFT])
def test_what_a_mirror_shows_is_compared_anew(rig: Rig, server: PlainServer, ref: str) -> None:
    """If the record of a mirror is damaged, what the mirror shows is looked at, and nothing is published twice."""
    assert ["mirror"] == damage(rig, write(ref, b""))
    expect_all(rig, server)


def test_a_lost_queue_is_found_without_the_ledger(rig: Rig, server: PlainServer) -> None:
    """With the ref and the ledger gone, the newest whole snapshot is looked for."""
    recovered = damage(rig, lambda target: (write(SNAPSHOTS, b"")(target), LEDGERS["missing"](target)))
    assert {"ledger", "refs"} == set(recovered)
    expect_all(rig, server)


# --- git's own files


def newest_pack(target: Path) -> Path:
    return max((target / "store.git" / "objects" / "pack").glob("*.pack"), key=lambda path: path.stat().st_mtime_ns)


def flip(path: Path, at: int) -> None:
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def was_killed(target: Path) -> None:
    """Leave what a process leaves that had no time to close."""
    (target / "open").touch()


def test_a_damaged_pack_costs_what_was_in_it(rig: Rig, server: PlainServer) -> None:
    """If a power cut spoiled the newest pack, the queue ends before it, and what the source holds is taken again."""

    def spoil(target: Path) -> None:
        was_killed(target)
        pack = newest_pack(target)
        pack.chmod(0o600)
        pack.write_bytes(bytes(pack.stat().st_size))

    for path, content in QUEUED.items():
        rig.write(path, content)
    assert ["objects", "queue"] == damage(rig, spoil)  # that the ref led there is no second cause
    expect_all(rig, server)


def test_of_a_damaged_pack_the_rest_is_kept(rig: Rig, server: PlainServer) -> None:
    """A single damaged object takes no other with it; a pointer is written again."""

    def spoil(target: Path) -> None:
        was_killed(target)
        pack = newest_pack(target)
        index = rig.store.git.run("show-index", feed=[pack.with_suffix(".idx").read_bytes()]).stdout.decode()
        places = {line.split()[1]: int(line.split()[0]) for line in index.splitlines()}
        pointer = rig.store.git.text("rev-parse", "refs/heads/snapshots:checkpoint-2/a.safetensors")
        flip(pack, places[pointer] + 10)

    assert ["objects"] == damage(rig, spoil)
    expect_all(rig, server)


def test_a_gap_in_the_queue_costs_what_was_in_it(rig: Rig, server: PlainServer) -> None:
    """Damage to an older snapshot that waits takes neither those before it nor those after it."""
    target = rig.state / "targets" / "run"
    rig.write("between.txt", b"between")
    before = set((target / "store.git/objects/pack").glob("*.pack"))
    rig.commit()
    [pack] = set((target / "store.git/objects/pack").glob("*.pack")) - before
    later = {"checkpoint-3/a.json": b"[3]", "checkpoint-3/DONE": b""}
    for path, content in later.items():
        rig.write(path, content)
    rig.commit()
    shutil.rmtree(rig.source / "checkpoint-3")
    rig.write("last.txt", b"last")
    rig.commit()

    def spoil(target: Path) -> None:
        was_killed(target)
        pack.chmod(0o600)
        pack.write_bytes(bytes(pack.stat().st_size))

    assert ["objects", "queue"] == damage(rig, spoil)
    expect_all(rig, server, later)


@pytest.mark.parametrize("suffix", [".idx", ".pack"])
def test_a_store_that_was_closed_in_order_is_mended_too(rig: Rig, server: PlainServer, suffix: str) -> None:
    """A bad disk or a hand empties a file of git between two runs: an index is made again, of a pack the rest is kept."""
    for path, content in QUEUED.items():
        rig.write(path, content)

    def empty(target: Path) -> None:
        file = newest_pack(target).with_suffix(suffix)
        file.chmod(0o600)
        file.write_bytes(b"")

    done = damage(rig, empty)

    assert {".idx": set(), ".pack": {"objects", "queue"}}[suffix] <= set(done)
    expect_all(rig, server)


def test_half_a_pack_is_nothing(rig: Rig, server: PlainServer) -> None:
    """A pack without its index, and an index without its pack, do no harm, nor do locks and halves of any kind."""
    names = ("objects/pack/tmp_pack_x", "objects/pack/pack-1.idx", "objects/pack/pack-2.pack", "objects/pack/pack-3.keep",
             "objects/ab/tmp_obj_x", "refs/heads/snapshots.lock", "HEAD.lock", "packed-refs.lock", "config.lock",
             "fast_import_crash_1", "lfs/tmp/x", "lfs/pins/x")  # fmt: skip

    def leave(target: Path) -> None:
        was_killed(target)
        for git_dir in (target / "store.git", target / "mirrors" / "m0.git"):
            for name in names:
                (git_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (git_dir / name).write_bytes(b"half")

    assert "leftovers" in damage(rig, leave)
    expect_all(rig, server)
    target = rig.state / "targets" / "run"
    assert [] == [path for name in names for path in target.rglob(Path(name).name)]


def test_nothing_but_a_start_from_the_source_helps_a_store_that_is_gone(rig: Rig, server: PlainServer) -> None:
    """With all packs gone hubsync does not begin anew by itself: it says what is lost and what to do."""
    with pytest.raises(StateError, match="no snapshot in it is whole") as refused:
        damage(rig, lambda target: (was_killed(target), shutil.rmtree(target / "store.git/objects/pack")))
    assert "move" in refused.value.hint
    shutil.move(rig.state / "targets" / "run", rig.state / "aside")
    for path, content in QUEUED.items():
        rig.write(path, content)
    rig.__enter__()
    expect_all(rig, server)


def newest_packs_content(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def spoil(target: Path) -> None:
        pack = newest_pack(target)
        pack.chmod(0o600)
        pack.write_bytes(change(pack.read_bytes()))

    return spoil


@pytest.mark.parametrize("change", [lambda pack: pack[: len(pack) // 2], lambda pack: bytes(len(pack))])
def test_a_pack_that_git_cannot_open_costs_no_more_than_itself(
    rig: Rig, server: PlainServer, change: Callable[[bytes], bytes]
) -> None:
    """A disk or a hand spoils the newest pack of a store that was closed in order."""
    for path, content in QUEUED.items():
        rig.write(path, content)
    assert {"objects", "queue"} <= set(damage(rig, newest_packs_content(change)))
    expect_all(rig, server)


def test_a_pack_that_lacks_its_end_costs_only_that(rig: Rig, server: PlainServer) -> None:
    """What stands before it is kept, also of what the source has no more."""
    assert ["objects"] == damage(rig, newest_packs_content(lambda pack: pack[:-15]))
    expect_all(rig, server)
    assert not list(rig.state.rglob("tmp_*"))


def test_indexes_are_made_again(rig: Rig, server: PlainServer) -> None:
    """A pack without its index is whole; nothing of it is lost, and it is said once."""
    done = damage(rig, lambda target: [path.unlink() for path in (target / "store.git/objects/pack").glob("*.idx")])
    assert ["objects"] == done
    expect_all(rig, server)


def test_lost_refs_are_found(rig: Rig, server: PlainServer) -> None:
    """Without ``refs/`` git takes a repository for none."""
    assert ["refs"] == damage(rig, lambda target: shutil.rmtree(target / "store.git/refs"))
    expect_all(rig, server)


def test_lost_objects_are_said_with_the_cure(rig: Rig) -> None:
    """Without ``objects/`` as well; nothing of the queue is left then."""
    with pytest.raises(StateError, match="no snapshot in it is whole") as refused:
        damage(rig, lambda target: shutil.rmtree(target / "store.git/objects"))
    assert "move" in refused.value.hint
    shutil.move(rig.state / "targets" / "run", rig.state / "aside")
    rig.__enter__()


def test_a_flipped_bit_is_no_fault_of_the_server(rig: Rig, server: PlainServer) -> None:
    """It shows as the server refuses what it is sent; the next start mends it, and all is published."""
    damage(rig, newest_packs_content(lambda pack: pack[:60] + bytes([pack[60] ^ 0xFF]) + pack[61:]))
    for path, content in QUEUED.items():
        rig.write(path, content)
    with pytest.raises(StateError, match="is damaged") as refused:
        rig.update()
    assert "read again" in refused.value.hint

    assert "objects" in damage(rig, lambda _: None)
    expect_all(rig, server)


def test_an_empty_file_of_git_is_written_again(rig: Rig, server: PlainServer) -> None:
    """A power cut that emptied HEAD or the config costs nothing."""
    empty = [f"{repository}/{name}" for repository in ("store.git", "mirrors/m0.git") for name in ("HEAD", "config")]
    damage(rig, lambda target: [write(name, b"")(target) for name in empty])
    expect_all(rig, server)


def test_a_setting_in_a_repository_of_ours_is_not_obeyed(rig: Rig, server: PlainServer) -> None:
    """A proxy would get the token, and another address all that is pushed."""
    planted = b'[http]\n\tproxy = http://127.0.0.1:9\n[url "http://127.0.0.1:9/"]\n\tinsteadOf = http://\n'
    repositories = ("store.git", "mirrors/m0.git")

    def plant(target: Path) -> None:
        for repository in repositories:
            with (target / repository / "config").open("ab") as file:
                file.write(planted)

    damage(rig, plant)
    expect_all(rig, server)
    for repository in repositories:
        assert b"proxy" not in (rig.state / "targets" / "run" / repository / "config").read_bytes()


def cut(path: Path) -> None:
    """Leave the first half of a file, as when the rest was never written."""
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(("how", "closed"), [
    (lambda path: flip(path, path.stat().st_size // 2), False),
    (lambda path: path.write_bytes(bytes(path.stat().st_size)), False),
    (cut, True),
], ids=["flipped", "zeroed", "cut"])  # fmt: skip
def test_a_mirrors_damaged_repository_is_fetched_again(
    rig: Rig, server: PlainServer, how: Callable[[Path], object], *, closed: bool
) -> None:
    """What was fetched can be fetched again: after a power cut, and where a disk or a hand did it later."""

    def spoil(target: Path) -> None:
        if not closed:
            was_killed(target)
        for path in (target / "mirrors/m0.git/objects").rglob("*"):
            if path.is_file() and path.name != "alternates":
                path.chmod(0o600)
                how(path)

    assert ["mirror"] == damage(rig, spoil)
    expect_all(rig, server)


def test_a_damaged_tree_of_a_mirror_is_noticed_although_it_was_closed_in_order(rig: Rig, server: PlainServer) -> None:
    """Its refs name commits that are there; what these name is looked at as well."""

    def spoil(target: Path) -> None:
        git_dir = target / "mirrors/m0.git"
        for pack in (git_dir / "objects/pack").glob("*.pack"):
            subprocess.run(["git", "unpack-objects", "-q"], env={"GIT_DIR": str(git_dir)}, input=move_out(pack), check=True)
        tree = subprocess.run(["git", "rev-parse", f"{LEFT.partition('.git/')[2]}^{{tree}}"], env={"GIT_DIR": str(git_dir)},
                              capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
        cut(git_dir / "objects" / tree[:2] / tree[2:])

    assert ["mirror"] == damage(rig, spoil)
    expect_all(rig, server)


def spoil_objects(mirror: Path, how: Callable[[Path], object]) -> None:
    """Damage all objects of a mirror's own repository."""
    for path in (mirror / "objects").rglob("*"):
        if path.is_file() and path.name != "alternates":
            path.chmod(0o600)
            how(path)


SPOILS: dict[str, Callable[[Path], object]] = {
    "empty": lambda mirror: spoil_objects(mirror, lambda path: path.write_bytes(b"")),
    "flipped": lambda mirror: spoil_objects(mirror, lambda path: flip(path, path.stat().st_size // 2)),
    "gone": lambda mirror: spoil_objects(mirror, Path.unlink),
    "boundary": lambda mirror: (mirror / "shallow").write_bytes(b"garbage"),
    "refs": lambda mirror: shutil.rmtree(mirror / "refs"),
    "all": shutil.rmtree,
    "all mirrors": lambda mirror: shutil.rmtree(mirror.parent),
    "lock": lambda mirror: (mirror / "refs/mirror/published.lock").write_bytes(b""),
}
LIKE_OTHERS = ("gone", "refs", "all mirrors")  # their tests take the same ways as those of "empty" and "all"


@pytest.mark.parametrize(
    ("how", "is_running"),
    [
        *(pytest.param(how, True, marks=[pytest.mark.slow] * (how in LIKE_OTHERS)) for how in SPOILS),
        ("boundary", False),
        pytest.param("empty", False, marks=pytest.mark.slow),
        pytest.param("refs", False, marks=pytest.mark.slow),
    ],
)
def test_a_mirrors_repository_is_made_anew_when_git_fails_on_it(
    rig: Rig, server: PlainServer, how: str, *, is_running: bool
) -> None:
    """While hubsync runs, too, and it is said once; all is compared with the mirror, so that nothing is published twice."""
    mirror, spoil = "mirrors/m0.git", SPOILS[how]
    if is_running:
        spoil(rig.state / "targets/run" / mirror)
    else:
        damage(rig, lambda target: spoil(target / mirror))
    with capture_logs() as said:
        expect_all(rig, server)
    assert is_running == ("state.recovered" in [event["event"] for event in said])


def test_a_mirrors_repository_that_is_gone_is_told_at_the_start(rig: Rig, server: PlainServer) -> None:
    """It is made anew, as while hubsync runs, and all is compared with the mirror."""
    rig.work.workers[0].run()
    assert ["mirror"] == damage(rig, lambda target: shutil.rmtree(target / "mirrors"))
    expect_all(rig, server)


def test_the_place_of_the_pins_is_made_again(make_rig: Callable[..., Rig], server: PlainServer) -> None:
    """Somebody removes it while hubsync runs: what waits in it is taken from the source again, and it is said once."""
    rig = make_rig(server)
    for name, is_there in (("a", True), ("b", False)):
        rig.write(f"{name}.safetensors", safetensors(400, name.encode()))
        rig.settle()
        if is_there:
            rig.commit()
    shutil.rmtree(rig.store.git.git_dir / "lfs")
    with capture_logs() as said:
        rig.commit()
        rig.update()

    assert ["pins"] == [event["what"] for event in said if event["event"] == "state.recovered"]
    assert {"a.safetensors", "b.safetensors"} == server.read_all(REPO).keys()


def move_out(pack: Path) -> bytes:
    """Return the content of a pack, which is there no more."""
    content = pack.read_bytes()
    for beside in pack.parent.glob(f"{pack.stem}.*"):
        beside.unlink()
    return content


@pytest.mark.parametrize("name", ["shallow.lock", "packed-refs.lock", "refs/mirror/left/main.lock"])
def test_a_mirror_goes_on_after_a_lock_that_a_killed_git_left(rig: Rig, server: PlainServer, name: str) -> None:
    """Nobody restarts hubsync for it; what others commit is fetched, and all is published at the next try at the latest."""
    server.commit(REPO, {"theirs.txt": b"theirs"})
    lock = rig.state / "targets/run/mirrors/m0.git" / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    errors: list[GitError] = []
    try:
        rig.update()
    except GitError as exc:
        errors.append(exc)

    assert not lock.exists()
    assert all(error.retryable and "tried again" in error.hint for error in errors)
    rig.update()
    assert {"theirs.txt": b"theirs", **QUEUED}.items() <= server.read_all(REPO).items()


# --- pins, and whose store it is


@pytest.mark.parametrize("capture", ["link", "copy"])
@pytest.mark.parametrize("how", [lambda path: path.write_bytes(b"x"), lambda path: flip(path, 300)], ids=["cut", "flipped"])
def test_a_damaged_pin_is_never_published(
    server: PlainServer, make_rig: MakeRig, capture: str, how: Callable[[Path], object]
) -> None:
    """An object whose bytes are not its oid's is taken from the source again, and never sent as it is."""
    rig = make_rig(server, capture=capture)
    content = safetensors(400, b"1")
    rig.write("model.safetensors", content)
    rig.commit()

    def spoil(target: Path) -> None:
        [pin] = (path for path in (target / "store.git/lfs/objects").rglob("*") if path.is_file())
        aside = pin.with_name("aside")  # the pin alone, not the file that shares its bytes
        shutil.copy2(pin, aside)
        aside.replace(pin)
        how(pin)

    damage(rig, spoil)
    for _ in range(3):
        try:
            rig.update()
        except MirrorError:
            continue
    assert content == server.read(REPO, "model.safetensors")


def test_a_newer_store_is_left_alone(rig: Rig) -> None:
    """What a newer hubsync wrote is not touched; the message says what to do."""
    with pytest.raises(StateError, match="newer hubsync") as refused:
        damage(rig, write("format", b"2\n"))
    assert 78 == refused.value.exit_code
    write("format", b"1\n")(rig.state / "targets" / "run")
    rig.__enter__()
