"""Permission lost and given back, a disk unmounted and mounted again, a state that turned read-only: nothing is deleted."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.plain_server import PlainServer
from support.rig import NO_LOGIN, REPO, Rig
from support.running import ROOT, Daemon, digests, download, endpoint, write_checkpoint, write_config

from hubsync.localhub import LocalHub

# Root without its capabilities is refused what its files' modes refuse, as any other user is.
POWERLESS = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
WEIGHTS = "model-00001-of-00002.safetensors"
AS_ROOT = () if os.geteuid() == 0 else ("--user", "--map-root-user")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    for name in ("a", "b", "c", "d"):
        (directory / f"{name}.txt").write_text(name)
    return directory


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, source: Path, hub: LocalHub) -> Path:
    return write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"},
                        deletes='"propagate"', inventory_every='"1s"')  # fmt: skip


def apart(command: str = "true") -> tuple[str, ...]:
    """Return what runs a command with mounts of its own, after *command*."""
    return ("unshare", *AS_ROOT, "--mount", "sh", "-c", f'{command} && exec "$@"', "sh")


def inside(daemon: Daemon, *argv: str) -> None:
    """Run a command that sees the mounts that *daemon* sees."""
    user = ("--user", "--preserve-credentials") if AS_ROOT else ()
    subprocess.run(["nsenter", "-t", str(daemon.process.pid), *user, "--mount", *argv], check=True)


@pytest.mark.parametrize("inventory_every", ["1s", "1h"])
def test_what_may_not_be_read_any_more_is_not_gone(config: Path, source: Path, hub: LocalHub, inventory_every: str) -> None:
    """A directory is closed while a file of it is written: both are held, with the cure, and taken when it opens again."""
    config.write_text(config.read_text().replace('inventory_every = "1s"', f'inventory_every = "{inventory_every}"'))
    (source / "closed").mkdir()
    (source / "closed" / "log.csv").write_text("1\n")
    (source / "closed" / "other.csv").write_text("1\n")
    with Daemon(config, *POWERLESS) as daemon:
        daemon.wait_for("mirror.published")
        with (source / "closed" / "log.csv").open("a") as file:
            file.write("2\n")
            (source / "closed").chmod(0)
        said = daemon.wait_for("file.unreadable")
        (source / "a.txt").write_text("changed")
        daemon.wait_for("mirror.published")
        (source / "closed").chmod(0o755)
        closed = download(hub, "acme/x", config.parent / "then")
        (source / "closed" / "new.csv").write_text("3\n")
        (source / "closed" / "log.csv").write_text("1\n2\n3\n")
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    assert "Permission denied" in said["reason"]
    assert "user" in said["hint"]
    assert {"closed/log.csv", "closed/other.csv"} <= closed.keys()
    assert digests(source) == download(hub, "acme/x", config.parent / "back")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_may_not_be_read_holds_itself_and_its_unit(
    config: Path, source: Path, hub: LocalHub, name: str
) -> None:
    """What is beside it goes on; with the permission back it is taken without a restart."""
    with Daemon(config, *POWERLESS) as daemon:
        daemon.wait_for("mirror.published")
        write_checkpoint(source / "checkpoint.tmp", 1000)
        (source / "checkpoint.tmp" / name).chmod(0)
        (source / "checkpoint.tmp").rename(source / "checkpoint-1")
        said = daemon.wait_for("file.unreadable", path=f"checkpoint-1/{name}")
        (source / "b.txt").write_text("changed")
        daemon.wait_for("mirror.published")
        held = download(hub, "acme/x", config.parent / "then")
        (source / "checkpoint-1" / name).chmod(0o644)
        daemon.wait_for("unit.published", unit="checkpoint-1")
        assert 0 == daemon.stop()

    assert "user" in said["hint"]
    assert not [path for path in held if path.startswith("checkpoint-1/")]
    assert digests(source) == download(hub, "acme/x", config.parent / "back")


def test_an_unmounted_disk_deletes_nothing(config: Path, source: Path, hub: LocalHub) -> None:
    """The empty directory below it halts the target, with the cure; mounted again, it goes on by itself."""
    before = digests(source)
    (config.parent / "below").mkdir()
    with Daemon(config, *apart(f"mount --bind {source} {source}")) as daemon:
        daemon.wait_for("mirror.published")
        inside(daemon, "mount", "--bind", str(config.parent / "below"), str(source))
        halted = daemon.wait_for("target.halted")
        daemon.wait_for("heartbeat", count=3)
        meanwhile = download(hub, "acme/x", config.parent / "then")
        inside(daemon, "umount", "-l", str(source))
        daemon.wait_for("target.resumed")
        (source / "a.txt").write_text("changed")
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    assert "mounted" in halted["hint"]
    assert before == meanwhile
    assert digests(source) == download(hub, "acme/x", config.parent / "back")


def test_what_lies_below_an_unmounted_disk_is_not_published(config: Path, source: Path, hub: LocalHub) -> None:
    """Files there, also some that were just about to be committed under that name, are another source's."""
    config.write_text(config.read_text().replace('"propagate"', '"keep"'))
    disk = config.parent / "disk"
    disk.mkdir()
    (disk / "model.txt").write_text("model")
    with Daemon(config, *apart(f"mount --bind {disk} {source}")) as daemon:
        daemon.wait_for("mirror.published")
        (disk / "a.txt").write_text("of the disk")
        inside(daemon, "umount", "-l", str(source))
        halted = daemon.wait_for("target.halted")
        assert 0 == daemon.stop()
    meanwhile = download(hub, "acme/x", config.parent / "back")

    assert "mount its disk again" in halted["hint"]
    assert "model.txt" in meanwhile
    assert not {*digests(source).values()} & {*meanwhile.values()}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Give what may be mounted in a source, with fewer files than lie beside it."""
    directory = tmp_path / "disk"
    directory.mkdir()
    for name in ("x", "y"):
        (directory / f"{name}.csv").write_text(name)
    return directory


@pytest.fixture
def unmounted(tmp_path: Path, server: PlainServer, disk: Path, make_rig: Callable[..., Rig]) -> Callable[..., Rig]:
    """Give what makes a target that took files of *disk*, while it was mounted at a place in the source."""

    def make(place: str, **settings: str) -> Rig:
        rig = make_rig(server, units=("checkpoint-*",), **settings)
        rig.work.close()
        write_checkpoint(rig.source / "checkpoint-1", 1000)
        (rig.source / place).mkdir()
        config = write_config(tmp_path / "once.toml", rig.source, {f'url = "{server.url}"': REPO}, quiet='"20ms"')
        argv = [*apart(f"mount --bind {disk} {rig.source / place}"), sys.executable, "-m", "hubsync", "once", "-c", config]
        subprocess.run(argv, cwd=ROOT, env={**os.environ, **NO_LOGIN}, check=True, capture_output=True)
        rig.restart()
        return rig

    return make


def tree(rig: Rig) -> set[str]:
    """Return what is to be published."""
    return set(rig.store.git.list_tree(rig.store.head() or ""))


def test_a_disk_unmounted_below_a_source_deletes_nothing(config: Path, source: Path, hub: LocalHub, disk: Path) -> None:
    """It halts the target, with the cure; mounted again, it goes on by itself, and what is deleted there goes."""
    (source / "data").mkdir()
    with Daemon(config, *apart(f"mount -t tmpfs tmpfs {source}/data && cp {disk}/* {source}/data")) as daemon:
        daemon.wait_for("mirror.published")
        inside(daemon, "umount", "-l", f"{source}/data")
        halted = daemon.wait_for("target.halted")
        (source / "new.txt").write_text("new")
        daemon.wait_for("heartbeat", count=2)
        meanwhile = download(hub, "acme/x", config.parent / "then")
        inside(daemon, "mount", "--bind", str(disk), f"{source}/data")
        daemon.wait_for("target.resumed")
        (disk / "x.csv").unlink()
        daemon.wait_for("snapshot.committed", removed=1)
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    assert f"{source}/data" in halted["error"]
    assert "mount it again" in halted["hint"]
    assert 1 == sum(event["event"] == "target.halted" for event in daemon.events)
    assert {"data/x.csv", "data/y.csv", "a.txt"} <= meanwhile.keys()
    assert "new.txt" not in meanwhile
    assert digests(source).keys() | {"data/y.csv"} == download(hub, "acme/x", config.parent / "back").keys()


def test_a_disk_below_a_source_is_missed_until_its_loss_is_confirmed(unmounted: Callable[..., Rig]) -> None:
    """Also after restarts; from then on its place is a directory as any other."""
    rig = unmounted("data", deletes="propagate")
    rig.write("data/x.csv", b"below")
    for _ in range(2):
        rig.commit()
        assert rig.pipeline.halted is not None
        assert f"{rig.source}/data" in str(rig.pipeline.halted)
        assert "--confirm-deletes" in rig.pipeline.halted.hint
        assert rig.pipeline.take_inventory("checkpoint-1")  # which says nothing of it
        assert rig.pipeline.halted is not None
        assert not rig.pipeline.take_inventory()
        assert {"data/x.csv", "data/y.csv"} <= tree(rig)
        rig.restart()

    rig.commit(confirm_deletes=True)
    assert "data/y.csv" not in tree(rig)
    (rig.source / "data" / "x.csv").unlink()
    rig.commit()

    assert rig.pipeline.halted is None
    assert digests(rig.source).keys() == tree(rig)


@pytest.mark.parametrize("deletes", ["keep", "propagate"])
def test_a_unit_is_not_replaced_by_what_is_left_of_it(unmounted: Callable[..., Rig], deletes: str) -> None:
    """Saved again while a disk in it is not mounted, it is held with the cure; also where deletions are not propagated."""
    rig = unmounted("checkpoint-1/data", deletes=deletes)
    before = tree(rig)
    rig.write("checkpoint-1/config.json", b'{"model_type": "other"}')

    assert [] == rig.commit()
    assert "checkpoint-1/data" in rig.pipeline.held()["checkpoint-1/"]
    assert "mount it again" in rig.pipeline.hints()["checkpoint-1/"]
    assert "checkpoint-1/data/x.csv" in before == tree(rig)

    rig.commit(confirm_deletes=True)

    assert digests(rig.source).keys() == tree(rig)


def test_where_nothing_that_is_deleted_goes_a_disk_below_a_source_may(unmounted: Callable[..., Rig]) -> None:
    """Nothing is halted, and nothing is lost."""
    rig = unmounted("data", deletes="keep")
    rig.write("new.txt")
    rig.commit()

    assert rig.pipeline.halted is None
    assert {"data/x.csv", "data/y.csv", "new.txt"} <= tree(rig)


def test_a_source_that_turned_read_only_is_published_as_before(config: Path, source: Path, hub: LocalHub) -> None:
    """It is only read."""
    with Daemon(config, *apart(f"mount --bind {source} {source}")) as daemon:
        daemon.wait_for("mirror.published")
        inside(daemon, "mount", "-o", "remount,bind,ro", str(source))
        (source / "a.txt").write_text("changed")
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    assert digests(source) == download(hub, "acme/x", config.parent / "back")


def test_a_state_that_turned_read_only_is_said_and_loses_nothing(config: Path, source: Path, hub: LocalHub) -> None:
    """As a disk does after an error; made writable again, all goes on by itself."""
    state = config.parent / "state"
    state.mkdir(0o700)
    with Daemon(config, *apart()) as daemon:
        daemon.wait_for("mirror.published")
        inside(daemon, "mount", "--bind", str(state), str(state))
        inside(daemon, "mount", "-o", "remount,bind,ro", str(state))
        (source / "a.txt").write_text("changed")
        while "writable" not in (daemon.wait_for("schedule.failed").get("hint") or ""):
            pass
        inside(daemon, "mount", "-o", "remount,bind,rw", str(state))
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    assert digests(source) == download(hub, "acme/x", config.parent / "back")


def test_a_state_that_may_not_be_read_any_more_ends_hubsync(config: Path) -> None:
    """As one that was taken away: with 73, in order, and with the cure in the log."""
    state = config.parent / "state"
    with Daemon(config, *POWERLESS) as daemon:
        daemon.wait_for("mirror.published")
        state.chmod(0)
        try:
            assert 73 == daemon.process.wait(60)
        finally:
            state.chmod(0o700)
        stopping = daemon.wait_for("daemon.stopping")
        daemon.wait_for("daemon.stopped")

    assert f"{state} cannot be read any more: Permission denied" == stopping["reason"]
    assert "give the state directory back" in stopping["hint"]
    assert not [event for event in daemon.events if event["event"] == "thread.failed"]


@pytest.mark.parametrize(("place", "is_refused"), [("data", True), ("../beside", False)])
def test_a_bind_mount_hides_no_overlap(config: Path, source: Path, tmp_path: Path, place: str, *, is_refused: bool) -> None:
    """A state that lies in a source under another name would be published, and change with each commit."""
    (tmp_path / "else where").mkdir()
    (source / place).mkdir()
    text = config.read_text()
    config.write_text(text.replace(f'state_dir = "{tmp_path}/', f'state_dir = "{tmp_path}/else where/'))
    mounted = apart(f"mount --bind {source / place} '{tmp_path}/else where'")
    argv = [*mounted, sys.executable, "-m", "hubsync", "check", "-c", config]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (78 if is_refused else 0) == done.returncode
    assert is_refused == ("must not watch its own files" in done.stderr)
