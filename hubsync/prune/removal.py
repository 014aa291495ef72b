"""Removes one unit from a source so that whoever writes into it meanwhile loses nothing.

The unit's directory is renamed to a hidden name beside it, which is one step for everybody. Only there is it looked at for
the last time: nobody has a file of it open, nobody can find one by its name, and everything is what was proved. Then it is
deleted; else it gets its name back. Killed at any moment, it is ended or undone by ``recover``.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from hubsync.errors import HubsyncError
from hubsync.prune.journal import Begun, Journal
from hubsync.prune.listing import Listing, list_directory
from hubsync.prune.users import InUseError, Leases, find_user
from hubsync.store.pruned import Pruned
from hubsync.watch.beneath import opened_parent, opened_source, words
from hubsync.watch.entry import Identity

SUFFIX = ".pruned.partial"  # a temporary name by the rules: never published
_LONGEST_NAME = 200
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR})


class LeftBehindError(HubsyncError):
    """Something of a unit could not get its name back, because something else has it."""

    error_kind = "left_behind"


class Removal:
    """Removes units of *source*; the caller lets only one work at a time."""

    def __init__(self, source: Path, journal: Journal, pruned: Pruned) -> None:
        self._source = source
        self._journal = journal
        self._pruned = pruned

    def look(self, unit: str) -> Listing:
        """List *unit* as it is.

        Raises:
            InUseError: it changed while it was listed, or somebody is at work in it.
        """
        with self._opened(unit) as (parent, name):
            listing = list_directory(name, parent)
            _expect_unused(listing)
            with Leases(name, parent, listing):
                pass

        return listing

    def remove(self, unit: str, proven: Listing) -> None:
        """Remove *unit*, all of which was *proven* to be on the mirrors as it was listed.

        Raises:
            InUseError: somebody is, or was, at work in it; it is where it was.
            LeftBehindError: as that, but something has its name; what was hidden stays hidden.
        """
        with self._opened(unit) as (parent, name):
            hidden = hidden_name(name)
            begun = Begun(unit, hidden, is_proven=False, listing=proven)
            self._pruned.add(f"{unit}/{path}" for path in proven.files)
            self._journal.write(begun)
            try:
                os.rename(name, hidden, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError:
                self._forget(unit, proven)
                raise
            os.fsync(parent)
            self._finish(begun, parent, name)

    def recover(self) -> str:
        """End or undo what a killed process began; return what was done, for people, or nothing."""
        begun = self._journal.read()
        if begun is None:
            self._journal.end()
            return ""
        with self._opened(begun.unit) as (parent, name):
            if not _exists(begun.hidden, parent):
                if _exists(name, parent) and not begun.is_proven:
                    self._pruned.discard([f"{begun.unit}/{path}" for path in begun.listing.files])
                self._journal.end()
                return ""
            if not begun.is_proven:
                self._put_back(begun, parent, name)
                return f"{begun.unit} has its name again: nothing was removed"
            try:
                self._delete(begun, parent)
            except InUseError as exc:
                self._put_back(begun, parent, name)
                return f"what is left of {begun.unit} has its name again: {exc}"
            self._journal.end()

        return f"{begun.unit} is removed"

    def put_back_unknown(self, hidden: str) -> str:
        """Give a unit its name back whose removal nobody remembers; return the name."""
        with self._opened(hidden) as (parent, name):
            unit = name[1 : -len(SUFFIX)]
            _merge_back(name, unit, parent, {})
            os.fsync(parent)

        return unit

    # --- the steps

    def _finish(self, begun: Begun, parent: int, name: str) -> None:
        try:
            with Leases(begun.hidden, parent, begun.listing) as leases:
                _expect_unused(begun.listing)
                if changed := begun.listing.difference(list_directory(begun.hidden, parent)):
                    raise InUseError(f"{changed} changed meanwhile")  # noqa: TRY301 - it is put back below
                self._journal.write(Begun(begun.unit, begun.hidden, is_proven=True, listing=begun.listing))
                _delete_all(begun, parent, leases)
        except InUseError:
            self._put_back(begun, parent, name)
            raise
        except OSError as exc:
            self._put_back(begun, parent, name)
            raise InUseError(f"it cannot be removed: {words(exc)}", hint="see the rights of its directories") from exc
        os.fsync(parent)
        self._journal.end()

    def _delete(self, begun: Begun, parent: int) -> None:
        """Delete what a killed process left of a proven unit."""
        left = list_directory(begun.hidden, parent)
        for path, identity in left.files.items():
            if begun.listing.files.get(path) != identity:
                raise InUseError(f"{path} changed meanwhile")
        _expect_unused(left)
        with Leases(begun.hidden, parent, left) as leases:
            _delete_all(Begun(begun.unit, begun.hidden, is_proven=True, listing=left), parent, leases)
        os.fsync(parent)

    def _put_back(self, begun: Begun, parent: int, name: str) -> None:
        _merge_back(begun.hidden, name, parent, begun.listing.files)
        os.fsync(parent)
        self._forget(begun.unit, begun.listing)

    def _forget(self, unit: str, listing: Listing) -> None:
        """Forget the removal; files that went before it was undone stay known as pruned."""
        was_begun = (begun := self._journal.read()) is not None and begun.is_proven
        back = [path for path in listing.files if not was_begun or os.path.lexists(self._source / unit / path)]
        self._pruned.discard([f"{unit}/{path}" for path in back])
        self._journal.end()

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield the descriptor of the directory that *path* is in, and its name there."""
        try:
            with opened_source(self._source) as root, opened_parent(root, path) as (parent, name):
                own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
                try:
                    yield own, name
                finally:
                    os.close(own)
        except OSError as exc:
            raise InUseError(f"{path}: {words(exc)}") from exc


def hidden_name(name: str) -> str:
    """Return what a unit of that *name* is called while it is being removed."""
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}{SUFFIX}"


def _expect_unused(listing: Listing) -> None:
    if (process := find_user(listing)) is not None:
        raise InUseError(f"process {process} has it open", hint="ask again when it has ended")


def _delete_all(begun: Begun, parent: int, leases: Leases) -> None:
    """Delete what was listed, file by file; stop at what was not, and at what somebody wants to open."""
    hidden = begun.hidden
    for place, directories, names, fd in os.fwalk(hidden, topdown=False, dir_fd=parent, follow_symlinks=False):
        inside = place[len(hidden) + 1 :]
        for name in names:
            path = f"{inside}/{name}" if inside else name
            now = Identity.of(os.stat(name, dir_fd=fd, follow_symlinks=False))
            if begun.listing.files.get(path) != now or leases.is_broken(path):
                raise InUseError(f"{path} changed meanwhile")
            os.unlink(name, dir_fd=fd)
        for name in directories:
            _remove_directory(name, fd)
    _remove_directory(hidden, parent)


def _remove_directory(name: str, parent: int) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as exc:
        if exc.errno in _TAKEN:
            raise InUseError("a file came meanwhile") from exc
        raise


def _merge_back(hidden: str, name: str, parent: int, proven: Mapping[str, Identity]) -> None:
    """Give *hidden* its *name* back; if that was made anew meanwhile, put into it what it lacks.

    A file that was written anew replaces the former one, if that was *proven* and is as it was.
    """
    try:
        os.rename(hidden, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as exc:
        if exc.errno not in _TAKEN:
            raise
    else:
        return
    left = []
    for path, identity in list_directory(hidden, parent).files.items():
        if _move(f"{hidden}/{path}", f"{name}/{path}", parent):
            continue
        if proven.get(path) == identity:
            os.unlink(f"{hidden}/{path}", dir_fd=parent)
        else:
            left.append(path)
    if left:
        raise LeftBehindError(
            f"{name}/{left[0]} was written anew while {name} was hidden, and the former one is kept in {hidden}",
            hint=f"compare both, and remove {hidden}",
        )
    _remove_empty(hidden, parent)


def _move(hidden: str, goal: str, parent: int) -> bool:
    """Move a file to *goal* unless something is there; tell whether it was moved."""
    directories = goal.split("/")[:-1]
    for count in range(1, len(directories) + 1):
        with contextlib.suppress(FileExistsError):
            os.mkdir("/".join(directories[:count]), dir_fd=parent)
    try:
        os.link(hidden, goal, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in _TAKEN:
            return False
        raise
    os.unlink(hidden, dir_fd=parent)

    return True


def _remove_empty(hidden: str, parent: int) -> None:
    for _, directories, _, fd in os.fwalk(hidden, topdown=False, dir_fd=parent, follow_symlinks=False):
        for name in directories:
            _remove_directory(name, fd)
    _remove_directory(hidden, parent)


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False

    return True
