"""Owns git's processes on the Hub's bare repositories: a closed environment, one way to run, one way to read objects.

The only module here that starts processes. It must never know what a Hub is.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
from asyncio.subprocess import Process
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from hubsync.errors import GitError

# What git may see of our environment. The hook's git needs the rest, which receive-pack sets for it: the quarantine.
_ALLOWED = ("PATH", "HOME", "TMPDIR", "TZ")
_QUARANTINE = ("GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH")
_FIXED = {
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
_PIPE_BYTES = 1 << 20


def closed_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the whole environment of a git process."""
    kept = {name: os.environ[name] for name in _ALLOWED if name in os.environ}
    return {**kept, **_FIXED, **(extra or {})}


def quarantine_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a hook must hand on, so that its git sees the objects of the push."""
    return {name: environment[name] for name in _QUARANTINE if name in environment}


def run_git(git_dir: Path, *args: str, feed: bytes = b"", extra: Mapping[str, str] | None = None) -> bytes:
    """Run one git command on *git_dir* and return what it wrote; *feed* is its standard input."""
    finished = _run(git_dir, args, feed, extra)
    if finished.returncode:
        said = finished.stderr.decode(errors="replace").strip()
        raise GitError(f"git {args[0]} failed: {said[-2000:]}")

    return finished.stdout


def ask_git(git_dir: Path, *args: str, feed: bytes = b"", extra: Mapping[str, str] | None = None) -> bytes | None:
    """Run a git command that answers by its status; ``None`` if it says no."""
    finished = _run(git_dir, args, feed, extra)
    return None if finished.returncode else finished.stdout


def _run(
    git_dir: Path, args: tuple[str, ...], feed: bytes, extra: Mapping[str, str] | None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - git; what a client sent stands after "--" or inside one word
        _argv(git_dir, args), env=closed_environment(extra), input=feed, capture_output=True, check=False
    )


def _argv(git_dir: Path, args: tuple[str, ...]) -> tuple[str, ...]:
    return ("git", f"--git-dir={git_dir}", *args)


@contextlib.contextmanager
def reading_git(
    git_dir: Path, *args: str, stdin: IO[bytes] | None = None, extra: Mapping[str, str] | None = None
) -> Iterator[IO[bytes]]:
    """Start a git command and give its output as it comes; it is ended if the caller leaves early."""
    process = subprocess.Popen(  # noqa: S603 - as in _run
        _argv(git_dir, args),
        env=closed_environment(extra),
        stdin=stdin or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        bufsize=_PIPE_BYTES,
    )
    try:
        yield _pipe(process.stdout)
        if process.wait():
            raise GitError(f"git {args[0]} failed with status {process.returncode}")
    finally:
        process.kill()
        process.wait()
        _pipe(process.stdout).close()


@contextlib.contextmanager
def feeding_git(git_dir: Path, *args: str) -> Iterator[IO[bytes]]:
    """Start a git command that reads what the caller writes; it is ended without success if the caller fails."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 - as in _run
            _argv(git_dir, args),
            env=closed_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            bufsize=_PIPE_BYTES,
        )
        stdin = _pipe(process.stdin)
        try:
            with contextlib.suppress(BrokenPipeError):  # its own words, below, say more
                yield stdin
                stdin.close()
            if process.wait():
                errors.seek(0)
                raise GitError(f"git {args[0]} failed: {errors.read(2000).decode(errors='replace').strip()}")
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                stdin.close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise GitError("the process was started without a pipe")
    return pipe


def read_objects(
    git_dir: Path, names: Iterable[str], extra: Mapping[str, str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield the content of each object in *names*, in order, from one process; all must exist."""
    with tempfile.TemporaryFile() as asked:
        asked.writelines(f"{name}\n".encode() for name in names)
        asked.seek(0)
        with reading_git(git_dir, "cat-file", "--batch", "--buffer", stdin=asked, extra=extra) as answers:
            while header := answers.readline():
                name, _, size = header.decode().split()
                yield name, answers.read(int(size))
                answers.read(1)


async def start_http_backend(extra: Mapping[str, str]) -> Process:
    """Start ``git http-backend`` (a CGI program) in a process group of its own."""
    return await asyncio.create_subprocess_exec(
        "git",
        "http-backend",
        env=closed_environment(extra),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        limit=_PIPE_BYTES,
    )


async def end_process(process: Process) -> None:
    """End *process* and all it started, and wait for it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
