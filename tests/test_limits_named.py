"""What the system refuses for want of processes, threads or memory is told as that, with the limit to raise."""

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import structlog
from support.rig import Rig

from hubsync.errors import StateError, find_known
from hubsync.jobs import Jobs, every
from hubsync.mirror.failures import read_failure
from hubsync.store.git import read_failure as read_git_failure
from hubsync.store.objects import state_errors
from hubsync.store.process import Finished

_REFUSED = "resource temporarily unavailable"
NO_FORK = {
    "agent": f'failed to start custom transfer command "/usr/bin/python" remote: fork/exec /usr/bin/sh: {_REFUSED}',
    "git-lfs": f"Error reading `git config`: fork/exec /usr/lib/git-core/git: {_REFUSED}\n"
    "Unable to stat local media path: stat lfs/objects/4d/e4/4de4: no such file or directory",
    "git": "fatal: unable to create thread: Resource temporarily unavailable",
}


@pytest.mark.parametrize(
    ("exc", "limit"),
    [
        (OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "TasksMax="),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "MemoryMax="),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "LimitNOFILE="),
        (MemoryError(), "MemoryMax="),
    ],
)
def test_a_limit_of_the_system_is_named(exc: Exception, limit: str) -> None:
    """It may pass, the limit to raise stands in the hint, and the disk is not blamed."""
    known = find_known(exc)

    assert known is not None
    assert known.retryable
    assert limit in known.hint


def test_a_thread_that_the_system_refuses_is_no_fault_of_ours() -> None:
    """Python says it without an errno: this is how the one at hand does."""
    code = """
import resource, threading
from hubsync.errors import find_known

threading.stack_size(1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
try:
    threading.Thread(target=print).start()
except RuntimeError as exc:
    print(find_known(exc).hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "TasksMax=" in done.stdout, done.stderr


def test_a_copy_that_may_not_grow_is_no_fault_of_the_file(make_rig: Callable[..., Rig]) -> None:
    """Other files go on; of this one the limit to raise is said."""
    rig = make_rig(capture="copy")
    rig.write("model.bin", b"\0" * 2_000_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with structlog.testing.capture_logs() as lines:
            rig.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    [line] = [line for line in lines if line["event"] == "file.unreadable"]
    assert "model.bin" == line["path"]
    assert "LimitFSIZE=" in line["hint"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EFBIG])
def test_what_the_state_meets_names_the_limit(number: int) -> None:
    """To open a target meets limits as well."""
    with pytest.raises(StateError) as refused, state_errors():
        raise OSError(number, os.strerror(number))

    assert "ulimit" in refused.value.hint


@pytest.mark.parametrize("said", NO_FORK.values(), ids=NO_FORK)
def test_a_process_that_git_could_not_start_is_no_trouble_of_the_hub(said: str) -> None:
    """Neither is the Hub blamed, nor an object that was not looked for."""
    failure = read_failure("upload", said)

    assert ("local_io", True) == (failure.error_kind, failure.retryable)
    assert "TasksMax=" in failure.hint


def test_a_server_that_has_no_process_left_is_the_servers_trouble() -> None:
    """The same words, said by the other side, name no limit of ours."""
    failure = read_failure("push", "remote: fork: Resource temporarily unavailable")

    assert ("server", True) == (failure.error_kind, failure.retryable)


def test_a_git_that_could_not_fork_here_names_the_limit() -> None:
    """A store's git says it too."""
    finished = Finished(128, b"", "error: cannot fork() for pack-objects: Resource temporarily unavailable")

    assert "TasksMax=" in read_git_failure(("repack",), finished).hint


def test_a_job_says_what_to_raise() -> None:
    """The line in the log has the hint, and no traceback of what nobody has to mend."""

    def work() -> None:
        jobs.remove("commit:run")
        done.set()
        raise MemoryError

    done = threading.Event()
    jobs = Jobs(2)
    with structlog.testing.capture_logs() as lines:
        jobs.add("commit:run", work, every(60), at_once=True)
        jobs.start()
        assert done.wait(20)
        jobs.stop(20)

    [line] = lines
    assert ("schedule.failed", "local_io") == (line["event"], line["error_kind"])
    assert "MemoryMax=" in line["hint"]
