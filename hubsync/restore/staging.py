"""Owns the hidden directory in which a restore is made, and the step by which it becomes DEST: whole, or not at all.

Everything is opened relative to descriptors and follows no link, so that neither a name on a mirror nor somebody who may
write beside DEST leads it elsewhere. What was got so far outlives a killed restore: a piece is a file named by its hash.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from hubsync.errors import NO_ROOM, BusyError, DiskFullError, StateError

_FICLONE = 0x40049409  # ioctl_ficlone(2)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
_LONGEST_NAME = 200
_COPY_BYTES = 8 << 20


class DestinationError(StateError):
    """DEST cannot be used."""

    exit_code = 1


class Staging:
    """The hidden directory beside *dest*. Use it as a context manager; what is in it stays if that ends with an error."""

    def __init__(self, dest: Path) -> None:
        absolute = Path(os.path.abspath(dest))  # noqa: PTH100 - a link as DEST itself must not be followed
        self.dest = absolute
        name = absolute.name
        if len(os.fsencode(name)) > _LONGEST_NAME:
            name = hashlib.sha256(os.fsencode(name)).hexdigest()
        self.directory = absolute.with_name(f".{name}.partial") if name else absolute  # no source takes such a name
        self.root = self._pieces = -1
        self.is_dest_filled = False  # whether something is there: then it has to be just what is wanted

    def __enter__(self) -> Self:
        """Make or find the directory, and keep others out of it."""
        self._check_dest()
        with explained(self.dest):
            self.dest.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.directory.mkdir(mode=0o700)
            self.root = self._open_own()
        try:
            self._lock()
            if self.is_dest_filled:  # a killed run may have begun to remove what is in it
                shutil.rmtree(self.git_directory, ignore_errors=True)
            with explained(self.dest):
                with contextlib.suppress(FileExistsError):
                    os.mkdir("pieces", 0o700, dir_fd=self.root)
                self._pieces = os.open("pieces", _DIRECTORY, dir_fd=self.root)
        except BaseException:
            os.close(self.root)
            raise

        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self._pieces, self.root):
            os.close(fd)

    def _check_dest(self) -> None:
        if not self.dest.name:
            raise DestinationError(f"{self.dest} cannot be restored to", hint="name a directory that does not exist yet")
        try:
            status = self.dest.lstat()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise DestinationError(f"{self.dest}: {exc.strerror}") from exc
        if not stat.S_ISDIR(status.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
            raise DestinationError(f"{self.dest} is {kind}", hint="name a directory that is empty or does not exist")
        try:
            with os.scandir(self.dest) as items:
                is_empty = not any(items)
        except OSError as exc:
            raise DestinationError(f"{self.dest}: {exc.strerror}") from exc
        self.is_dest_filled = not is_empty

    def refuse_filled(self) -> DestinationError:
        """Return what is said of a DEST that holds something else than is wanted; nothing is left beside it."""
        self.remove_unused()
        return DestinationError(
            f"{self.dest} exists and is not empty", hint="name a directory that is empty or does not exist"
        )

    def _open_own(self) -> int:
        try:
            root = os.open(self.directory, _DIRECTORY)
        except OSError as exc:
            if exc.errno in {errno.ELOOP, errno.ENOTDIR}:
                raise DestinationError(f"{self.directory} is in the way, and is no directory of ours") from exc
            raise
        status = os.fstat(root)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            os.close(root)
            raise DestinationError(f"{self.directory} is in the way: others may write it", hint="remove it")

        return root

    def _lock(self) -> None:
        try:
            fcntl.flock(self.root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise BusyError(f"another hubsync restores to {self.dest} now") from exc

    @property
    def git_directory(self) -> Path:
        """Where the repositories of mirrors may lie meanwhile."""
        return self.directory / "git"

    def free_bytes(self) -> int:
        """Return how much room there is."""
        with explained(self.dest):
            status = os.fstatvfs(self.root)
        return status.f_bavail * status.f_frsize

    # --- pieces

    def open_piece(self, name: str) -> int:
        """Open the file that gets the bytes called *name*, as far as they came before."""
        return os.open(name, _PIECE, 0o600, dir_fd=self._pieces)

    def drop_piece(self, name: str) -> None:
        """Drop what came of *name*."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._pieces)

    def list_pieces(self) -> dict[str, int]:
        """Return the files that came before, and how many bytes of the disk each one takes."""
        with os.scandir(self._pieces) as items:
            return {item.name: item.stat(follow_symlinks=False).st_blocks * 512 for item in items}

    # --- the tree

    def new_tree(self) -> int:
        """Begin the directory that becomes DEST; return its descriptor."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree("tree", dir_fd=self.root)
        os.mkdir("tree", 0o777, dir_fd=self.root)
        return os.open("tree", _DIRECTORY, dir_fd=self.root)

    def write_file(self, parent: int, name: str, content: bytes, mode: int) -> None:
        """Write a small file, durably."""
        fd = os.open(name, _NEW, mode, dir_fd=parent)
        try:
            write_all(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)

    def place_piece(self, piece: str, parent: int, name: str, mode: int, *, is_first: bool) -> None:
        """Put the piece, which is whole and durable, at *name*: at once the first time, as a copy after that."""
        if is_first:
            try:
                os.link(piece, name, src_dir_fd=self._pieces, dst_dir_fd=parent, follow_symlinks=False)
            except OSError as exc:
                if exc.errno not in _NO_LINK:
                    raise
            else:
                os.chmod(name, mode & ~_umask(), dir_fd=parent)
                return
        source = os.open(piece, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._pieces)
        try:
            goal = os.open(name, _NEW, mode, dir_fd=parent)
            try:
                _copy(source, goal)
                os.fsync(goal)
            finally:
                os.close(goal)
        finally:
            os.close(source)

    def finish(self) -> None:
        """Let the tree be DEST, and forget all else.

        Raises:
            DestinationError: something has come to be at DEST meanwhile.
        """
        os.fsync(self.root)
        with contextlib.suppress(FileNotFoundError):
            os.chmod("tree", stat.S_IMODE(self.dest.lstat().st_mode), dir_fd=self.root)
        try:
            os.rename("tree", self.dest, src_dir_fd=self.root)
        except OSError as exc:
            raise DestinationError(
                f"{self.dest}: {exc.strerror}", hint="everything is here; empty or move what is there, and run it again"
            ) from exc
        sync_path(self.dest.parent)
        self.remove()

    def remove_unused(self) -> None:
        """Remove the hidden directory unless something came before that may still be of use."""
        if not self.list_pieces():
            self.remove()

    def remove(self) -> None:
        """Remove the hidden directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def explained(dest: Path) -> Iterator[None]:
    """Turn what the disk says into errors for a person."""
    try:
        yield
    except OSError as exc:
        if exc.errno in NO_ROOM:
            raise disk_full(dest) from exc
        raise StateError(f"{dest}: {exc.strerror or exc}", hint="restore to a place that this user may write") from exc


def disk_full(dest: Path) -> DiskFullError:
    """Return what is said when there is no room for DEST."""
    return DiskFullError(f"{dest}: there is no room left", hint="free space, and run the same again: it goes on")


def write_all(fd: int, content: bytes | memoryview, at: int | None = None) -> None:
    """Write all of *content*, at a position or where the file stands."""
    view = memoryview(content)
    while view:
        count = os.write(fd, view) if at is None else os.pwrite(fd, view, at)
        at = None if at is None else at + count
        view = view[count:]


def sync_path(directory: Path) -> None:
    """Make the names in *directory* durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy(source: int, goal: int) -> None:
    try:
        fcntl.ioctl(goal, _FICLONE, source)
    except OSError:
        while os.sendfile(goal, source, None, _COPY_BYTES):
            pass


def _umask() -> int:
    umask = os.umask(0o77)
    os.umask(umask)
    return umask
