"""Remembers which paths hubsync itself removed from a source, so that their absence is nobody's wish to delete them.

It is a file, not part of the ledger: that is a cache, and to forget this would remove units from mirrors where deletions
are propagated. It is written before anything is removed. Several processes may use it.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from hubsync.errors import StateError
from hubsync.watch.entry import Identity


class Pruned:
    """The paths in *file*; with *read_only* what is discarded is so for this object only."""

    def __init__(self, file: Path, *, read_only: bool = False) -> None:
        self._file = file
        self._read_only = read_only
        self._seen: Identity | None = None
        self._paths: frozenset[str] = frozenset()

    def paths(self) -> frozenset[str]:
        """Return the paths that were removed and have not come back."""
        try:
            now = Identity.of(self._file.stat())
        except FileNotFoundError:
            return frozenset() if not self._read_only else self._paths
        if now != self._seen:
            self._paths = _read(self._file)
            self._seen = now

        return self._paths

    def add(self, paths: Iterable[str]) -> None:
        """Note *paths*, durably, before they are removed."""
        added = frozenset(paths)
        self._change(lambda before: before | added)

    def discard(self, paths: Collection[str]) -> None:
        """Forget those of *paths* that are there again: to delete them is a person's wish from now on."""
        back = self.paths().intersection(paths)
        if self._read_only:
            self._paths -= back
        elif back:
            self._change(lambda before: before - back)

    def _change(self, change: Callable[[frozenset[str]], frozenset[str]]) -> None:
        try:
            with self._locked():
                after = change(_read(self._file) if self._file.exists() else frozenset())
                write_durably(self._file, json.dumps(sorted(after), indent=0))
        except OSError as exc:
            raise StateError(f"{self._file}: {exc.strerror}", hint="let this user write it, and see its disk") from exc

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def write_durably(file: Path, text: str) -> None:
    """Replace *file* by one that holds *text*: whole, and still so after a power failure."""
    beside = file.with_name(f"{file.name}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as new:  # noqa: PTH123 - a descriptor
        new.write(text)
        new.flush()
        os.fsync(new.fileno())
    beside.replace(file)
    fd = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(file: Path) -> frozenset[str]:
    try:
        return frozenset(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as exc:
        raise StateError(
            f"{file} cannot be read: {exc}",
            hint="it says what hubsync pruned; without it nothing may be removed from mirrors",
        ) from exc
