"""Keeps what is ours from others: directories that only we may enter, files that only we may read, no core dumps.

git checks nobody's ownership where the repository is named to it, so that it is done here, before it is used.
"""

import contextlib
import os
import pwd
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

from hubsync.errors import StateError
from hubsync.watch.beneath import words

_GROUP_WRITES, _OTHERS_WRITE = 0o020, 0o002
_ANOTHER = "set another service.state_dir (or store_dir)"


def forbid_core_dumps() -> None:
    """Let neither this process nor its children leave their memory, with the token in it, on disk."""
    with contextlib.suppress(OSError, ValueError):  # a sandbox may have done it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Give every file that is made meanwhile, by us or by a child, to our user alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_private(directory: Path) -> None:
    """Make *directory*, if it is not there, and let nobody else into it.

    Raises:
        StateError: it is a link or somebody else's, others could have put something into it, or it cannot be made.
    """
    try:
        if not directory.is_symlink():
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _opened(directory) as fd:
            os.fchmod(fd, 0o700)
    except OSError as exc:
        raise StateError(f"{directory}: {words(exc)}", hint=f"let this user write it, or {_ANOTHER}") from exc


def expect_private(directory: Path) -> None:
    """Look whether *directory*, which exists, can be made private; raises as ``make_private`` does."""
    try:
        with _opened(directory):
            return
    except OSError as exc:
        raise StateError(f"{directory}: {words(exc)}", hint=f"let this user read it, or {_ANOTHER}") from exc


def expect_no_link(places: Iterable[Path]) -> None:
    """Expect no link at any of *places*, where files of ours go: what it leads to is another's, and would be written.

    Raises:
        StateError: there is one.
    """
    for place in places:
        if place.is_symlink():
            hint = f"remove it: none of our files is one; what it leads to ({os.path.realpath(place)}) was left alone"
            raise StateError(f"{place} is a symlink", hint=hint)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """Open *directory* if nobody but us had a hand in it."""
    if directory.is_symlink():
        goal = os.path.realpath(directory)
        raise StateError(f"{directory} is a symlink", hint=f"name the directory itself ({goal}) as state_dir or store_dir")
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _expect_ours(directory, fd)
        yield fd
    finally:
        os.close(fd)


def _expect_ours(directory: Path, fd: int) -> None:
    """Expect that only we could write to the open *directory*; an empty one is forgiven the umask of its maker."""
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        owner = user_name(status.st_uid)
        raise StateError(f"{directory} belongs to {owner}", hint=f"run hubsync as {owner}, or {_ANOTHER}")
    if status.st_mode & _OTHERS_WRITE or (status.st_mode & _GROUP_WRITES and os.listdir(fd)):
        raise StateError(
            f"others may write to {directory}, and what lies in it may be theirs",
            hint=f"see what is in it, then: chmod 700 {directory}",
        )


def user_name(uid: int) -> str:
    """Return what the user *uid* is called."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
