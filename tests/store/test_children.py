"""How running children are watched: what counts as getting on, and how much they may say."""

import subprocess
import sys
import tracemalloc

import pytest

from hubsync.mirror.agent_client import Action, Client, TransferError
from hubsync.mirror.failures import read_failure
from hubsync.store.process import (
    PIPE,
    ChildStalledError,
    Finished,
    OutputTooLongError,
    Watch,
    close_environment,
    finish,
    read_command,
)

SAY = "import sys, time\nfor _ in range({times}):\n    sys.stderr.write({words!r}); sys.stderr.flush(); time.sleep(0.02)\n"


def watch(words: str, times: int, stall_s: float) -> Finished:
    """Run a child that says *words* every now and then, of which those after ``remote: `` are talk."""
    argv = (sys.executable, "-c", SAY.format(times=times, words=words))
    with subprocess.Popen(argv, stdout=PIPE, stderr=PIPE, start_new_session=True) as child:
        return finish(child, watch=Watch(stall_s=stall_s, talk=b"remote: "))


@pytest.mark.parametrize("path", [":/usr/bin::/bin:", ".:/usr/bin:bin:/bin", "/usr/bin:/bin"])
def test_no_program_is_looked_for_where_we_stand(path: str) -> None:
    """An empty or relative entry of the PATH is the current directory, which may be a source."""
    environment = {"PATH": path}
    close_environment(environment)

    assert "/usr/bin:/bin" == environment["PATH"]


def test_a_listing_that_is_too_long_is_no_listing() -> None:
    """It is an error, not the end of it."""
    with pytest.raises(OutputTooLongError):
        read_command(("head", "-c", "70000000", "/dev/zero"), {"PATH": "/usr/bin:/bin"}, timeout_s=60)


def test_what_a_child_prints_is_held_once() -> None:
    """A listing of very many files is megabytes."""
    tracemalloc.start()
    try:
        said = read_command(("head", "-c", "20000000", "/dev/zero"), {"PATH": "/usr/bin:/bin"}, timeout_s=60).stdout
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 20_000_000 == len(said)
    assert most < 1.5 * len(said)


def test_the_end_of_what_a_child_says_on_its_errors_is_kept() -> None:
    """However much comes before it."""
    said = "import sys; sys.stderr.write('x' * 5_000_000 + 'the end')"
    done = read_command((sys.executable, "-c", said), {}, timeout_s=60)

    assert done.stderr.endswith("xthe end")
    assert 64 * 1024 == len(done.stderr)


@pytest.mark.parametrize("words", ["remote: at work\n", "remote: 5%\rremote: 6%\r", "remote: no end of the line "])
def test_a_server_that_only_talks_does_not_get_on(words: str) -> None:
    """Its words are believed for a while, however many there are."""
    with pytest.raises(ChildStalledError):
        watch(words, 100_000, stall_s=0.5)


def test_what_the_tool_says_itself_is_progress() -> None:
    """Also with talk in between, and for longer than a stall may last."""
    assert 0 == watch("remote: at work\nWriting objects: 5%\r", 100, stall_s=1.0).returncode


def test_bytes_for_https_do_not_go_out_in_the_open() -> None:
    """An LFS API on https that names a plain address is wrong; nothing is sent there, not even asked."""
    client = Client("https://hub.invalid/x.git/info/lfs", None, stall_s=1, connect_s=1)

    with pytest.raises(TransferError, match="plain http") as caught:
        client.put(Action("http://127.0.0.1:9/x"), lambda: iter((b"x",)), 1)

    assert ("tls", True) == (read_failure("upload", str(caught.value)).error_kind, caught.value.is_general)
