"""Owns the pins: what keeps the content of captured files alive until every mirror has it.

A pin is a reflink, else a hard link, else a copy. A hard link costs nothing but shares its bytes with the source, so
whoever rewrites the file in place spoils the object; ``ledger`` remembers the identity that the bytes were hashed at.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from msgspec import Struct

from hubsync.errors import FULL_HINT, NO_ROOM, DiskFullError, FileUnreadableError, StateError, find_cure
from hubsync.monitor.logger import get_logger
from hubsync.store.cache import let_go
from hubsync.store.git import sync_directory

_FICLONE = 0x40049409  # ioctl_ficlone(2)
_NOT_HERE = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ETXTBSY})
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES, errno.ENOENT})

log = get_logger()


class PinKind(Enum):
    """How a pin holds its bytes; only a link shares them with the source."""

    REFLINK = "reflink"
    LINK = "link"
    COPY = "copy"


SPOILED_HINTS = {
    PinKind.LINK: "its writer wrote into the file, and its next state is published instead; to publish each state, "
    'let it write a new file and rename it, or set capture = "copy" for this target',
    **dict.fromkeys(
        (PinKind.COPY, PinKind.REFLINK),
        "it is taken from the source or another mirror again, if one has it; only the disk or a hand can have changed it: "
        "see `dmesg`, and the disk of the state directory",
    ),
}


class Pin(Struct, frozen=True):
    """A pin that has no oid yet, at a temporary path."""

    path: Path
    kind: PinKind


class Objects:
    """The LFS objects of one store, laid out as git-lfs expects them (``lfs/objects/aa/bb/<oid>``)."""

    def __init__(self, git_dir: Path) -> None:
        self.directory = git_dir / "lfs" / "objects"
        self._pending = git_dir / "lfs" / "pins"
        self._reflinks = True
        self._naming = threading.Lock()  # of two files of the same content, one gives the pin; it makes the place, too
        self._fingerprints: dict[str, str] = {}

    def open(self) -> None:
        """Make the directories and drop pins that a crash left without an oid."""
        for directory in (self.directory, self._pending):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in self._pending.iterdir():
            leftover.unlink()

    def _expect_pending(self) -> Path:
        """Return where pins lie that have no oid yet; it is made again if a hand removed it, but not without the store."""
        with self._naming, state_errors():
            if not self._pending.exists():
                for directory in (self._pending.parent, self.directory, self._pending):
                    directory.mkdir(exist_ok=True, mode=0o700)
                reason = "it was gone; what waited in it is taken from the source again"
                log.warning("state.recovered", what="pins", path=str(self._pending), reason=reason)

        return self._pending

    def path(self, oid: str) -> Path:
        """Return where the object *oid* lies, or would lie."""
        return self.directory / oid[:2] / oid[2:4] / oid

    def has(self, oid: str) -> bool:
        """Tell whether the object is pinned."""
        return self.path(oid).exists()

    def pin(self, fd: int, capture: str) -> Pin:
        """Pin the open file *fd* as *capture* says; a ``COPY`` pin is empty and waits for its bytes.

        Raises:
            StateError: *capture* demands a way that this file system does not offer.
            DiskFullError: there is no room.
        """
        path = self._expect_pending() / secrets.token_hex(8)
        if capture in {"auto", "reflink"} and self._reflink(fd, path):
            return Pin(path, PinKind.REFLINK)
        if capture in {"auto", "link"} and self._link(fd, path):
            return Pin(path, PinKind.LINK)
        if capture in {"auto", "copy"}:
            with state_errors():
                path.touch(mode=0o600, exist_ok=False)
            return Pin(path, PinKind.COPY)

        raise StateError(
            f"capture = {capture!r} does not work between the source and {self.directory}",
            hint='set store_dir to a directory on the file system of the source, or capture = "auto"',
        )

    def free_bytes(self) -> int:
        """Return how much room there is for objects."""
        return shutil.disk_usage(self._expect_pending()).free

    def fingerprint(self, oid: str) -> str:
        """Return the fingerprint of the bytes that have *oid*; nothing if they were hashed before this process began."""
        return self._fingerprints.get(oid, "")

    def keep(self, pin: Pin, oid: str, fingerprint: str = "") -> bool:
        """Name *pin* by its oid, durably; return False if the object was pinned already (then *pin* is dropped)."""
        goal = self.path(oid)
        if fingerprint:
            self._fingerprints[oid] = fingerprint
        with self._naming:
            is_new = not goal.exists()
            if is_new:
                with state_errors():
                    goal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    pin.path.rename(goal)
        if not is_new:
            self.discard(pin)
            return False

        try:
            with state_errors():
                for directory in (goal.parent, goal.parent.parent, self.directory):
                    sync_directory(directory)
        except BaseException:  # whoever tries again would find it, and take it for durable
            self.discard(Pin(goal, pin.kind))
            raise

        return True

    def discard(self, pin: Pin) -> None:
        """Drop a pin that did not become an object."""
        pin.path.unlink(missing_ok=True)

    def release(self, oid: str) -> None:
        """Drop the object *oid*, which nobody will read again soon: its pages leave the cache to the data loader."""
        path = self.path(oid)
        self._fingerprints.pop(oid, None)
        let_go(path)
        path.unlink(missing_ok=True)
        for directory in (path.parent, path.parent.parent):
            with contextlib.suppress(OSError):  # not empty
                directory.rmdir()

    def held(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the oid and status of every pinned object."""
        for directory, _, names in os.walk(self.directory):  # which passes over what goes meanwhile; a glob fails on it
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    yield name, Path(directory, name).stat()

    def _reflink(self, fd: int, path: Path) -> bool:
        if not self._reflinks:
            return False
        with state_errors(), path.open("xb") as pin:
            try:
                fcntl.ioctl(pin.fileno(), _FICLONE, fd)
            except OSError as exc:
                path.unlink()
                if exc.errno not in _NOT_HERE:
                    raise
                # Remembered only where it is a property of the file system, not of this pair of files.
                self._reflinks = exc.errno == errno.EXDEV
                return False

        return True

    def _link(self, fd: int, path: Path) -> bool:
        # Through /proc the very inode that was opened is linked, whatever its name points to by now.
        # The directory descriptor makes Python call linkat(2), which alone can follow that link.
        with state_errors():
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(f"/proc/self/fd/{fd}", path.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
        except OSError as exc:
            if exc.errno not in _NO_LINK:
                raise
            return False
        finally:
            os.close(directory)

        return True


@contextlib.contextmanager
def state_errors() -> Iterator[None]:
    """Turn what goes wrong under the state directory into an error with a cure."""
    try:
        yield
    except OSError as exc:
        if exc.errno in NO_ROOM:
            raise DiskFullError(str(exc), hint=FULL_HINT) from exc
        if exc.errno == errno.EIO:
            raise FileUnreadableError("", str(exc), hint="the disk reports an error; look at the kernel's log") from exc
        raise StateError(str(exc), hint=find_cure(exc)) from exc
