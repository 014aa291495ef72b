"""Owns child processes: how they are started in a closed environment, fed, watched and ended as a group.

It must never know what a child is for. Every child leads a process group of its own, and is ended with its children.
"""

import contextlib
import io
import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import IO

from msgspec import Struct

from hubsync.errors import HubsyncError

PIPE = subprocess.PIPE

# What a child may see of the environment that hubsync was started in. No token, no GIT_*, no proxy, no LD_*.
_ALLOWED = frozenset({
    "PATH", "HOME", "LANG", "TZ", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME", "HF_TOKEN_PATH",
    "TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES",
})  # fmt: skip
_FIXED = {
    "LC_ALL": "C.UTF-8",
    "GIT_PYTHON_REFRESH": "quiet",  # a missing git is reported by `check`, not by an import
    "GIT_PYTHON_GIT_EXECUTABLE": "/dev/null",  # an import would run `git version`, twice; our commands name their git
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_XET": "1",
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # else it looks through all that is installed for some
    "MALLOC_ARENA_MAX": "2",  # each arena of a thread keeps what it once held
}

_OUTPUT_CAP = 64 * 1024 * 1024  # of stdout, where a server has a say in it
LONGEST_LISTING = 1 << 30  # of what is our own: ten million paths
_ERRORS_CAP = 64 * 1024  # of stderr; a hostile server may send more
_SLACK = 1 << 20  # what is kept grows by so much before what is too much is cut off
_TERM_GRACE_S = 10.0
_TALK_STALLS = 2.0  # a server that only talks is believed for so many times as long as one that is silent
_POLL_S = 0.2
_PROGRESS_BYTES = 1 << 20
_LINES = re.compile(rb"[^\r\n]*[\r\n]|[^\r\n]+")


class ChildStalledError(HubsyncError):
    """A child made no progress for too long and was ended."""

    error_kind = "stalled"
    retryable = True


class OutputTooLongError(HubsyncError):
    """A child printed more than anybody may need; it was ended, since half of a listing is none."""

    error_kind = "internal"
    retryable = True


class StoppedError(HubsyncError):
    """The work was interrupted because hubsync is stopping."""

    error_kind = "stopped"
    retryable = True
    exit_code = 130


class Finished(Struct, frozen=True):
    """What a child left behind; ``stderr`` is cut to its last 64 KiB."""

    returncode: int
    stdout: bytes
    stderr: str


class Watch(Struct, frozen=True):
    """How a running child is watched.

    Attributes:
        stop: ends the child when it is set.
        stall_s: seconds without progress after which the child is ended; ``None`` waits for ever.
        progress: a figure that changes while the child gets on; output counts as progress too.
        talk: how lines of standard error begin that come from elsewhere and may be endless: they are progress for twice
            as long, no longer.
        on_progress: called when it has got on, and at the beginning.
        limit_s: seconds after which the child is ended, whatever it does; ``None`` is no limit.
        output: bytes that it may print.
        memory: bytes that the child, and each that it starts, may have of its own; ``None`` is no limit.
    """

    stop: threading.Event | None = None
    stall_s: float | None = None
    progress: Callable[[], object] | None = None
    talk: bytes = b""
    on_progress: Callable[[], None] = lambda: None
    limit_s: float | None = None
    output: int = _OUTPUT_CAP
    memory: int | None = None


def close_environment(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Reduce *environment* (in place) to what children may see; return what it was."""
    before = dict(environment)
    for name in before.keys() - _ALLOWED:
        del environment[name]
    places = environment.get("PATH", os.defpath).split(os.pathsep)
    environment["PATH"] = os.pathsep.join(place for place in places if place.startswith("/"))  # not where we stand
    environment.update(_FIXED)

    return before


def read_command(argv: tuple[str, ...], environment: Mapping[str, str], *, timeout_s: float) -> Finished:
    """Run *argv* to its end and return what it printed; it sees *environment* and no terminal."""
    with subprocess.Popen(  # noqa: S603 - the operator's own command, from the config
        argv,
        stdin=subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=dict(environment),
        start_new_session=True,
    ) as child:
        return finish(child, watch=Watch(stall_s=timeout_s))


def tell_command(argv: tuple[str, ...], environment: Mapping[str, str], text: bytes, *, timeout_s: float) -> Finished:
    """Run *argv*, which sees *environment* and reads *text*, for at most *timeout_s*; what it prints is not kept.

    *text* must fit into a pipe (64 KiB): a program need not read it.

    Raises:
        ChildStalledError: it did not end in time.
    """
    with subprocess.Popen(  # noqa: S603 - the operator's own command, from the config
        argv, stdin=PIPE, stdout=subprocess.DEVNULL, stderr=PIPE, env=dict(environment), start_new_session=True, cwd="/"
    ) as child:  # fmt: skip
        return finish(child, (text,), Watch(limit_s=timeout_s))


def stream_command(argv: tuple[str, ...]) -> Iterator[bytes]:
    """Yield the lines that *argv* prints, as they come; the child is ended when the caller wants no more.

    What it says on standard error goes to ours: it is for the person who asked.
    """
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=PIPE, start_new_session=True)  # noqa: S603 - ours
    try:
        if child.stdout is not None:
            with child.stdout:
                yield from child.stdout
    finally:
        end_group(child)


def finish(child: "subprocess.Popen[bytes]", feed: Iterable[bytes] = (), watch: Watch | None = None) -> Finished:
    """Feed *child*, read it to its end and return the outcome; its group is gone when this returns.

    Raises:
        ChildStalledError: no progress for ``watch.stall_s``.
        OutputTooLongError: it printed more than 64 MiB.
        StoppedError: ``watch.stop`` was set.
    """
    watch = watch or Watch()
    if watch.memory is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it may have ended; a lower limit may hold already
            resource.prlimit(child.pid, resource.RLIMIT_DATA, (watch.memory, watch.memory))
    out, err = _Collector(child.stdout, watch.output), _Collector(child.stderr, _ERRORS_CAP, watch.talk)
    try:
        _write(child.stdin, feed)
        _wait(child, watch, out, err)
    except BaseException:
        end_group(child)
        raise
    finally:
        out.join()
        err.join()

    _expect_whole(out)
    return Finished(child.returncode, out.data(), err.data().decode("utf-8", "replace"))


def end_group(child: "subprocess.Popen[bytes]", grace_s: float = _TERM_GRACE_S) -> None:
    """End *child* and all that it started: SIGTERM, then SIGKILL after *grace_s*."""
    _signal_group(child, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace_s)
    _signal_group(child, signal.SIGKILL)
    child.kill()  # should it lead no group
    child.wait()


def _signal_group(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _write(stdin: IO[bytes] | None, feed: Iterable[bytes]) -> None:
    if stdin is None:
        return
    with contextlib.suppress(BrokenPipeError):  # a child that gave up early says why in its status and stderr
        for piece in feed:
            stdin.write(piece)
    with contextlib.suppress(BrokenPipeError):
        stdin.close()


def _wait(child: "subprocess.Popen[bytes]", watch: Watch, out: "_Collector", err: "_Collector") -> None:
    began = talked = moved = time.monotonic()
    last_figure: object = None
    last_total = 0
    pause_s = 0.005
    while True:
        # ``wait`` only looks now and then, and would see most ends 20 ms late; the end of the output is seen at once.
        is_over = out.join(pause_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(pause_s if is_over else 0)
            return
        pause_s = min(pause_s * 2, _POLL_S)
        now = time.monotonic()
        _expect_whole(out)
        if watch.stop is not None and watch.stop.is_set():
            raise StoppedError("interrupted: hubsync is stopping")
        if watch.limit_s is not None and now - began > watch.limit_s:
            raise ChildStalledError(f"did not end within {watch.limit_s:g} s; ended")
        if err.total != last_total:
            last_total, talked = err.total, now
        figure = (out.total, err.own, watch.progress() if watch.progress else None)
        if figure != last_figure:
            last_figure, moved = figure, now
            watch.on_progress()
        elif watch.stall_s is not None and _is_stalled(now - moved, now - talked, watch.stall_s):
            raise ChildStalledError(f"no progress for {now - moved:.0f} s; ended")


def _is_stalled(still_s: float, silent_s: float, stall_s: float) -> bool:
    """Tell whether a child stalls that made no progress for *still_s*, and said nothing at all for *silent_s*."""
    return still_s > (stall_s if silent_s > stall_s else _TALK_STALLS * stall_s)


def _expect_whole(out: "_Collector") -> None:
    if out.total > out.cap:
        raise OutputTooLongError(f"a command printed more than {out.cap >> 20} MiB")


@contextlib.contextmanager
def counted_file() -> Iterator[tuple[int, Callable[[], int]]]:
    """Yield the descriptor of an anonymous file for children to append to, and what returns how much they wrote.

    git-lfs reports its progress into a file, a line for each 32 KiB sent, and syncs it, so that a pipe will not do. What
    was counted is cut off, or it would grow with what is sent.
    """
    fd = os.memfd_create("hubsync-progress", 0)
    cut = 0

    def count() -> int:
        nonlocal cut
        size = os.fstat(fd).st_size
        if size > _PROGRESS_BYTES:
            os.ftruncate(fd, 0)
            cut += size
            size = 0
        return cut + size

    try:
        yield fd, count
    finally:
        os.close(fd)


class _Collector:
    """Reads a pipe to its end in a thread and keeps the last *cap* bytes; ``own`` counts those that are no *talk*."""

    def __init__(self, pipe: IO[bytes] | None, cap: int, talk: bytes = b"") -> None:
        self.total = self.own = 0
        self._pipe = pipe
        self.cap = cap
        self._prefix = talk
        self._line = b""  # how the line begins that has not ended yet
        self._kept = io.BytesIO()  # gives its bytes away without a copy of them, as a list of pieces could not
        self._thread = threading.Thread(target=self._read, name="hubsync-pipe", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        if self._pipe is None:
            return
        with contextlib.suppress(ValueError, OSError), self._pipe:
            while piece := os.read(self._pipe.fileno(), 1 << 16):
                self.own += self._count_own(piece) if self._prefix else len(piece)
                self.total += len(piece)
                self._keep(piece)

    def _count_own(self, piece: bytes) -> int:
        """Return how many bytes of *piece* stand on lines that do not begin as talk does."""
        own = 0
        for part in _LINES.findall(piece):
            self._line = (self._line + part)[: len(self._prefix)]
            if not self._prefix.startswith(self._line.rstrip()):
                own += len(part)
            if part[-1:] in b"\r\n":
                self._line = b""

        return own

    def _keep(self, piece: bytes) -> None:
        if self._kept.tell() > self.cap + _SLACK:
            tail = self.data()
            self._kept = io.BytesIO()
            self._kept.write(tail)
        self._kept.write(piece)

    def join(self, timeout_s: float = _TERM_GRACE_S) -> bool:
        """Wait for the end of the pipe; tell whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def data(self) -> bytes:
        return self._kept.getvalue()[-self.cap :]
