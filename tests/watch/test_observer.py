import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, WatchDescriptor

from hubsync.errors import SourceError
from hubsync.watch.observer import SourceObserver

PATIENCE_S = 10.0


class Heard:
    """What an observer told, in order; the tests wait for what they expect and no longer."""

    def __init__(self) -> None:
        self._told: queue.Queue[tuple[str, str]] = queue.Queue()
        self.seen: list[tuple[str, str]] = []
        self.facts: list[Mapping[str, object]] = []

    def change(self, path: str) -> None:
        """Hear of a file."""
        self._told.put(("change", path))

    def tree(self, path: str) -> None:
        """Hear of a directory."""
        self._told.put(("tree", path))

    def trouble(self, kind: str, facts: Mapping[str, object]) -> None:
        """Hear of trouble."""
        self.facts.append(facts)
        self._told.put(("trouble", kind))

    def wait_for(self, *expected: tuple[str, str]) -> None:
        """Wait until all of *expected* was heard."""
        deadline = time.monotonic() + PATIENCE_S
        while not set(expected) <= set(self.seen):
            try:
                self.seen.append(self._told.get(timeout=max(0.01, deadline - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"heard only {self.seen}, not {set(expected) - set(self.seen)}")


@pytest.fixture(name="source")
def make_source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    return source


@pytest.fixture(name="heard")
def make_heard() -> Heard:
    return Heard()


def observer_of(source: Path, heard: Heard, is_excluded: Callable[[str], bool] = lambda _path: False) -> SourceObserver:
    return SourceObserver(
        source, on_change=heard.change, on_change_tree=heard.tree, on_trouble=heard.trouble, is_excluded=is_excluded
    )


@contextmanager
def watching(observer: SourceObserver) -> Iterator[SourceObserver]:
    observer.start()
    try:
        yield observer
    finally:
        observer.stop()


def wait_until(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not claim() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return claim()


def test_tells_of_files(source: Path, heard: Heard) -> None:
    """Written, renamed and deleted files are told by their paths in the source; a rename tells both."""
    (source / "d").mkdir()
    with watching(observer_of(source, heard)) as observer:
        (source / "d" / "a").write_bytes(b"x")
        (source / "d" / "a").rename(source / "b")
        (source / "b").unlink()
        (source / os.fsdecode(b"not-utf8-\xff")).touch()
        heard.wait_for(("change", "d/a"), ("change", "b"), ("change", os.fsdecode(b"not-utf8-\xff")))

        assert observer.check() is None
        assert 2 == observer.directories


def test_a_temporary_file_that_gets_its_name_is_told(source: Path, heard: Heard) -> None:
    """The rename is all that happens to the final name: no other event comes for it."""
    with watching(observer_of(source, heard)):
        (source / ".tmpAb12Cd").write_bytes(b"x")
        (source / ".tmpAb12Cd").rename(source / "model.safetensors")
        heard.wait_for(("change", "model.safetensors"))


def test_a_directory_that_appears_is_told_as_a_tree(source: Path, heard: Heard, tmp_path: Path) -> None:
    """Files may be in it before anyone could watch it: made at once, moved in, or renamed."""
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "f").write_bytes(b"x")
    with watching(observer_of(source, heard)):
        (source / "a" / "b" / "c").mkdir(parents=True)
        (source / "a" / "b" / "c" / "f").write_bytes(b"x")
        heard.wait_for(("tree", "a"))
        (tmp_path / "elsewhere").rename(source / "moved-in")
        heard.wait_for(("tree", "moved-in"))
        (source / "moved-in").rename(source / "renamed")
        heard.wait_for(("tree", "renamed"), ("tree", "moved-in"))
        (source / "renamed" / "deep" / "later").write_bytes(b"x")
        heard.wait_for(("change", "renamed/deep/later"))
        (source / "renamed").rename(tmp_path / "away")
        heard.wait_for(("tree", "renamed"))


def test_a_source_that_is_a_symlink_is_watched_where_it_leads(source: Path, heard: Heard, tmp_path: Path) -> None:
    """And turning the link to another directory is noticed."""
    alias = tmp_path / "alias"
    alias.symlink_to(source)
    with watching(observer_of(alias, heard)) as observer:
        (source / "a").write_bytes(b"x")
        heard.wait_for(("change", "a"))
        alias.unlink()
        alias.symlink_to(tmp_path)

        assert "another directory has taken the source's name" == observer.check()


def test_a_source_that_vanishes_and_comes_back(source: Path, heard: Heard) -> None:
    """It is told, check says why, and a new start watches the new directory."""
    observer = observer_of(source, heard)
    with watching(observer):
        source.rmdir()
        heard.wait_for(("tree", ""))

        assert "the source cannot be reached: No such file or directory" == observer.check()

        source.mkdir()

        assert observer.check() is not None  # the thread has ended, and the inode may or may not be the old one

        observer.stop()
        observer.start()
        (source / "a").write_bytes(b"x")
        heard.wait_for(("change", "a"))

        assert observer.check() is None


def test_a_missing_source_cannot_be_watched(tmp_path: Path, heard: Heard) -> None:
    """Starting says so, leaves nothing open, and may be tried again."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    observer = observer_of(tmp_path / "absent", heard)
    for _ in range(2):
        with pytest.raises(SourceError):
            observer.start()

    assert "not started" == observer.check()
    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_stopping_gives_everything_back(source: Path, heard: Heard) -> None:
    """No thread and no descriptor is left, however often it is started."""
    before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    observer = observer_of(source, heard)
    for _ in range(5):
        with watching(observer):
            pass
    observer.stop()

    assert wait_until(lambda: before == (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))))


def test_a_callback_that_fails_ends_no_thread(source: Path, heard: Heard) -> None:
    """The failure is what check answers, and events go on."""

    def fail_once(path: str) -> None:
        heard.change(path)
        if path == "first":
            raise RuntimeError("broken")

    observer = SourceObserver(source, on_change=fail_once, on_change_tree=heard.tree, on_trouble=heard.trouble)
    with watching(observer):
        (source / "first").write_bytes(b"x")
        (source / "second").write_bytes(b"x")
        heard.wait_for(("change", "second"))

        assert "a callback failed: RuntimeError('broken')" == observer.check()


def test_a_dead_thread_is_noticed(source: Path, heard: Heard) -> None:
    """Whichever of watchdog's threads ends, check says so."""
    observer = observer_of(source, heard)
    for victim in (lambda: observer._observer, lambda: observer._fd, lambda: next(iter(observer._observer.emitters))):
        with watching(observer):
            thread = victim()
            thread.stop()
            thread.join(PATIENCE_S)

            assert "a watching thread has ended" == observer.check()


def test_an_overflow_is_told_and_watching_goes_on(source: Path, heard: Heard) -> None:
    """Watchdog only rebuilds its watches; what was lost must be looked for by an inventory."""
    (source / "d").mkdir()
    with watching(observer_of(source, heard)) as observer:
        event = InotifyEvent(WatchDescriptor(-1), InotifyConstants.IN_Q_OVERFLOW, 0, b"")
        observer._fd.handle_event(event)
        heard.wait_for(("trouble", "overflowed"))
        (source / "d" / "a").write_bytes(b"x")
        heard.wait_for(("change", "d/a"))

        assert observer.check() is None
        assert 2 == observer.directories


def test_excluded_directories_are_not_watched(source: Path, heard: Heard) -> None:
    """They cost no watch, now or when they appear, and are no trouble."""
    (source / "wandb" / "run").mkdir(parents=True)
    (source / "kept").mkdir()
    with watching(observer_of(source, heard, lambda path: path.startswith("wandb"))) as observer:
        assert 2 == observer.directories

        (source / "wandb2" / "new").mkdir(parents=True)
        (source / "wandb" / "run" / "f").write_bytes(b"x")
        (source / "kept" / "f").write_bytes(b"x")
        heard.wait_for(("change", "kept/f"))

    assert [] == heard.facts
    assert ("change", "wandb/run/f") not in heard.seen


def run_script(source: Path, lines: str, *prefix: str) -> str:
    """Run *lines* with an observer as a process of its own; *prefix* is what runs python."""
    script = f"""
import queue, time
from pathlib import Path
from hubsync.errors import SourceError
from hubsync.watch.observer import SourceObserver
source, told = Path({str(source)!r}), queue.Queue()
observer = SourceObserver(source, on_change=lambda path: told.put(path), on_change_tree=lambda path: None,
                          on_trouble=lambda kind, facts: print(kind, facts["unwatched"], facts["limit"], facts["hint"]))
{lines}
observer.stop()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [*prefix, sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    # Under load watchdog says this of an emitter that is told to stop in the middle of its work.
    assert "" == done.stderr.replace("InotifyEmitter.queue_events() called when the thread is inactive\n", "")

    return done.stdout


def limited(setting: str, value: int) -> tuple[str, ...]:
    """Return what runs a command with a limit of inotify lowered, in a user namespace of its own."""
    prefix = (
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        f'echo {value} > /proc/sys/user/{setting} && exec "$@"',
        "sh",
    )
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("user namespaces are not available here")

    return prefix


def test_directories_beyond_the_watch_limit_are_told_once(source: Path) -> None:
    """Watchdog starts as if all were well; the operator must hear how many directories are not covered."""
    for number in range(10):
        (source / f"d{number}").mkdir()

    said = run_script(
        source,
        """
observer.start()
(source / "new").mkdir()
(source / "a").touch()
told.get(timeout=10)
print(observer.directories)
""",
        *limited("max_inotify_watches", 5),
    )
    first, *rest = said.splitlines()

    assert first.startswith("degraded 6 user.max_inotify_watches raise it with `sysctl user.max_inotify_watches=N` (now 5)")
    assert ["5"] == rest


def test_a_limit_that_allows_no_watch_is_an_error_with_a_hint(source: Path) -> None:
    """The caller falls back to inventories and tells which limit to raise."""
    lines = """
try:
    observer.start()
except SourceError as exc:
    print(exc, exc.hint)
"""
    said = run_script(source, lines, *limited("max_inotify_instances", 0))

    assert "inotify instance limit reached raise it with `sysctl user.max_inotify_instances=N` (now 0)" in said


def test_an_unreadable_directory_is_told(source: Path) -> None:
    """Watchdog takes "permission denied" for success."""
    (source / "closed").mkdir(mode=0)
    (source / "closed2").mkdir(mode=0)
    prefix = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()

    assert "degraded 2  the periodic" in run_script(source, "observer.start()", *prefix)


def test_ten_thousand_directories_come_to_rest(source: Path) -> None:
    """With watchdog's default events its own walk would overflow the queue for ever, and no event would arrive."""
    for number in range(9_000):
        (source / f"d{number // 100}" / f"e{number}").mkdir(parents=True)

    said = run_script(
        source,
        """
observer.start()
used = time.process_time()
time.sleep(1)
print(time.process_time() - used < 0.2, observer.directories, observer.check())
(source / "d89" / "e8999" / "model.safetensors").touch()
print(told.get(timeout=10))
""",
    )

    assert "True 9091 None\nd89/e8999/model.safetensors\n" == said
