"""Everything that hubsync raises on purpose.

An error says what happened (the message), what to do about it (``hint``), of which kind it is (``error_kind``, a field
of the log), and whether it may succeed later with nothing changed here (``retryable``). It knows no log and no exit;
``cli.py`` turns ``exit_code`` into the process's status.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from typing import ClassVar


class HubsyncError(Exception):
    """The root of all deliberate errors."""

    error_kind: str = "internal"
    retryable: bool = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(HubsyncError):
    """The config cannot be used; the message holds every problem, one per line, and ``problems`` each as a document."""

    error_kind = "config"
    exit_code = 78

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[Mapping[str, object]] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class UsageError(HubsyncError):
    """The command line asks for something that does not exist."""

    error_kind = "usage"
    exit_code = 2


class NotRunningError(HubsyncError):
    """A command needs the daemon, and none is running on this state directory."""

    error_kind = "not_running"
    exit_code = 3


class StateError(HubsyncError):
    """The state directory or a store cannot be used or written."""

    error_kind = "local_io"
    exit_code = 73


class NewerStateError(StateError):
    """The state was written by a newer hubsync."""

    exit_code = 78


class DiskFullError(StateError):
    """There is no room for state; capture waits until there is."""

    error_kind = "disk_full"
    retryable = True


FULL_HINT = "free space, or inodes (`df -i`), on the file system of the state directory"
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
TASKS_HINT = "raise the limit of processes and threads (TasksMax= in the unit, ulimit -u)"
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_CURES = {
    **dict.fromkeys(NO_ROOM, FULL_HINT),
    **dict.fromkeys(_OUT_OF_FILES, "raise the limit of open files (LimitNOFILE= in the unit, ulimit -n)"),
    errno.EFBIG: "raise the limit of the size of files (LimitFSIZE= in the unit, ulimit -f)",
    errno.EAGAIN: TASKS_HINT,
    errno.ENOMEM: "free memory, or allow hubsync more of it (MemoryMax= in the unit, ulimit -v)",
}
_DISK_HINT = "see whether the disk of the state directory is mounted, whole and writable"


def is_limit(exc: OSError) -> bool:
    """Tell whether hubsync, or the machine, has too many files open."""
    return exc.errno in _OUT_OF_FILES


def find_cure(exc: OSError) -> str:
    """Return what to do about a limit that *exc* speaks of; nothing if it speaks of none."""
    return _CURES.get(exc.errno or 0, "")


def read_os_error(exc: OSError) -> StateError:
    """Return what the system says of a disk, or of a limit, as an error with a cure; it may pass."""
    kind = DiskFullError if exc.errno in NO_ROOM else StateError
    error = kind(str(exc), hint=find_cure(exc) or _DISK_HINT)
    error.retryable = True
    error.__cause__ = exc

    return error


def find_known(exc: Exception) -> HubsyncError | None:
    """Return *exc* as an error with a cure; ``None`` if nobody foresaw it."""
    if isinstance(exc, MemoryError):
        exc = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    elif isinstance(exc, RuntimeError) and str(exc) == "can't start new thread":  # Python drops what the system said
        exc = OSError(errno.EAGAIN, str(exc))
    if isinstance(exc, OSError):
        return read_os_error(exc)

    return exc if isinstance(exc, HubsyncError) else None


class BusyError(HubsyncError):
    """Another hubsync holds the lock of this state directory."""

    error_kind = "busy"
    retryable = True
    exit_code = 75


class ToolMissingError(HubsyncError):
    """git or git-lfs is not installed, or too old."""

    error_kind = "tool"
    exit_code = 78


class SourceError(HubsyncError):
    """A target's source is missing, empty, or lost more than half of its paths at once."""

    error_kind = "source"
    retryable = True


class FileError(HubsyncError):
    """Something is wrong with one file; the message names it, ``reason`` does not."""

    def __init__(self, path: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {reason}" if path else reason, hint=hint)
        self.path = path
        self.reason = reason


class FileChangedError(FileError):
    """A file changed while it was read; it is held and taken when it is quiet again."""

    error_kind = "changed"
    retryable = True


class FileUnreadableError(FileError):
    """A file could not be opened or read."""

    error_kind = "local_io"
    retryable = True


class GitError(HubsyncError):
    """git failed on the local store."""

    error_kind = "local_io"
    retryable = True
    exit_code = 73


class GitKilledError(GitError):
    """git was killed by other hands than ours, and has answered nothing."""


class MirrorError(HubsyncError):
    """Publishing to a mirror failed; ``error_kind`` says how.

    Attributes:
        retry_after_s: the wait that the Hub asked for, in seconds; ``None`` if it asked for none.
        retry_at: until when it asked to wait, in seconds since the epoch; ``None`` as before.
        paths: the paths in the repository that the Hub refused, if it named any.
        said: all the words of the tool or the Hub, which the message shortens.
        lacks_object: whether the Hub refused because it does not hold an object that it was thought to hold.
    """

    _EXIT_CODES: ClassVar[dict[str, int]] = {"auth": 77, "forbidden": 77, "network": 69, "timeout": 69, "server": 69}

    def __init__(
        self,
        message: str,
        *,
        error_kind: str,
        retryable: bool,
        hint: str = "",
        retry_after_s: float | None = None,
        paths: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.error_kind = error_kind
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.paths = paths
        self.retry_at: float | None = None
        self.said = ""
        self.lacks_object = False

    @property
    def status(self) -> int:
        """The exit code that this kind of failure stands for."""
        return self._EXIT_CODES.get(self.error_kind, 1)
