"""Who works on a state directory: one hubsync, which is told from one that is gone, and from what it left running."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from support.running import PATIENCE_S, ROOT, Daemon

from hubsync.presence import is_locked
from hubsync.service import hold_state


def test_a_look_at_the_status_locks_nothing(config: Path, tmp_path: Path) -> None:
    """A daemon that is just starting must not take `status` for another one."""
    trace = tmp_path / "trace"
    argv = ["strace", "-f", "-e", "trace=flock,fcntl", "-o", trace, sys.executable, "-m", "hubsync", "status", "-c", config]
    with Daemon(config) as daemon:
        daemon.wait_for("heartbeat")
        assert 0 == subprocess.run(argv, capture_output=True, check=False).returncode
        assert 0 == daemon.stop()

    assert not [line for line in trace.read_text().splitlines() if "flock(" in line or "LK" in line]


def test_only_what_inherited_the_lock_is_an_orphan(tmp_path: Path) -> None:
    """A hubsync that just starts has the lock open too, and must not be ended as if it were somebody's child."""
    lock = f"pathlib.Path({str(tmp_path)!r}, 'lock')"
    look = f"import pathlib; from hubsync.service import find_holders; print(find_holders({lock}))"
    starting = f"import os, time; os.open({str(tmp_path / 'lock')!r}, os.O_RDWR); print(flush=True); time.sleep(60)"
    with (
        hold_state(tmp_path) as fd,
        subprocess.Popen(["sleep", "60"], pass_fds=(fd,)) as child,
        subprocess.Popen([sys.executable, "-c", starting], stdout=subprocess.PIPE) as other,
    ):
        assert other.stdout is not None
        other.stdout.readline()
        done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
        child.kill()
        other.kill()

    assert ({str(os.getpid()), str(other.pid)}, {str(child.pid)}) == ast.literal_eval(done.stdout)


def test_an_orphan_is_ended_by_the_next_hubsync(tmp_path: Path) -> None:
    """A child that outlived its hubsync holds the lock; the next one ends it instead of failing, and starts at once."""
    with hold_state(tmp_path) as fd:
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=(fd,))
    (tmp_path / "lock").write_text("999999999\n")
    with hold_state(tmp_path):
        assert -15 == orphan.wait(PATIENCE_S)


def test_orphans_that_start_others_are_ended_too(tmp_path: Path) -> None:
    """As git-lfs starts an agent: one that was started after the orphans were looked for is found the next time."""
    leaves_one = (
        "import os, signal, time\n"
        "def leave(number, frame):\n"
        "    if os.fork(): os._exit(0)\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print(flush=True)\n"
        "time.sleep(60)"
    )
    with hold_state(tmp_path) as fd:
        first = subprocess.Popen([sys.executable, "-c", leaves_one], pass_fds=(fd,), stdout=subprocess.PIPE)
        assert first.stdout is not None
        with first.stdout as ready:
            ready.readline()
    (tmp_path / "lock").write_text("999999999\n")
    with hold_state(tmp_path):
        assert 0 == first.wait(PATIENCE_S)


def test_a_lock_without_its_owner_is_no_running_hubsync(tmp_path: Path) -> None:
    """Neither a dead process, nor one that got its number, nor a damaged file counts; one that has it open does."""
    lock = tmp_path / "lock"
    assert not is_locked(tmp_path)
    for owner in ("", "999999999\n", "1 2\n", "-1\n", f"{os.getppid()}\n", f"{os.getpid()}\n", "\xb2"):
        lock.write_text(owner)
        assert not is_locked(tmp_path), owner

    with hold_state(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
