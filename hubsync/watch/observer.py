"""Owns the events of one source: the only module that knows watchdog.

An event is a hint that a path may have changed; the inventory is the truth. So nothing is judged here, and whatever makes
events incomplete (an overflow of the kernel's queue, a directory that could not be watched, a thread that died, another
directory under the source's name) is told, for the caller to take an inventory.

Callbacks run on this module's threads: they must only put what they are given into a queue.
"""

import contextlib
import errno
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import CallbackId, InotifyEvent, InotifyFD, Mask, Watch, WatchCallback, WatchDescriptor

from hubsync.errors import SourceError

# Without a filter watchdog asks for opened and closed-unwritten events too. Its own walk over more than 8,192 directories
# then overflows the kernel's queue (16,384), the overflow makes it walk again, and it never comes to rest.
# Modified events are left out as well: a file that stays open for days is seen by the periodic inventory.
EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]

_LIMITS = {  # of the machine, and of the user namespace, such as a container's
    errno.ENOSPC: ("fs.inotify.max_user_watches", "user.max_inotify_watches"),
    errno.EMFILE: ("fs.inotify.max_user_instances", "user.max_inotify_instances"),
}
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # it vanished while it was about to be watched
_JOIN_S = 10.0

OnPath = Callable[[str], None]
OnTrouble = Callable[[str, Mapping[str, object]], None]


class SourceObserver:
    """Tells what may have changed below *source*, in paths relative to it (``""`` is the source itself).

    ``on_change(path)`` is for a file; ``on_change_tree(path)`` for a directory that appeared, vanished or was renamed, of
    which an inventory must be taken; ``on_trouble(kind, facts)`` says that events were lost (``"overflowed"``) or that
    they do not cover all directories (``"degraded"``). Directories for which ``is_excluded(path)`` is true are not watched.
    """

    def __init__(
        self,
        source: Path,
        *,
        on_change: OnPath,
        on_change_tree: OnPath,
        on_trouble: OnTrouble,
        is_excluded: Callable[[str], bool] = lambda _path: False,
    ) -> None:
        self._source = source
        self._on_change = on_change
        self._on_change_tree = on_change_tree
        self._on_trouble = on_trouble
        self._is_excluded = is_excluded
        self._handler: _Handler | None = None
        self._fd: _ReportingFD | None = None
        self._observer: BaseObserver | None = None
        self._inode = (0, 0)

    def start(self) -> None:
        """Watch the source. May be called again after :meth:`stop`.

        Raises:
            SourceError: the source is missing, or a limit of the system allows no watch at all.
        """
        _quieten_watchdog()
        top = os.path.realpath(self._source)  # watchdog would watch a symbolic link, not where it leads
        self._handler = _Handler(top, self._on_change, self._on_change_tree)
        try:
            self._inode = _inode_of(self._source)
            self._fd = _ReportingFD(top, self._on_trouble, self._is_excluded)
            self._fd.start()
            self._observer = BaseObserver(InotifyEmitter, inotify_fd=self._fd)
            self._observer.schedule(self._handler, top, recursive=True, event_filter=EVENTS)
            self._observer.start()
        except OSError as exc:
            self.stop()
            raise SourceError(f"{self._source}: cannot be watched: {exc.strerror}", hint=_hint(exc)) from exc
        self._fd.report_unwatched()

    def stop(self) -> None:
        """End the threads and give back the descriptors; not from within a callback."""
        for thread in (self._observer, self._fd):
            if thread is not None:
                thread.stop()
                if thread.is_alive():
                    thread.join(_JOIN_S)
        self._observer = self._fd = None

    def check(self) -> str | None:
        """Return why no (more) events can be relied on, so that the caller starts anew; ``None`` if all is well."""
        if self._observer is None or self._fd is None or self._handler is None:
            return "not started"
        if self._handler.failure is not None:
            return f"a callback failed: {self._handler.failure!r}"
        try:
            if _inode_of(self._source) != self._inode:
                return "another directory has taken the source's name"
        except OSError as exc:
            return f"the source cannot be reached: {exc.strerror}"
        threads = (self._observer, self._fd, *self._observer.emitters)
        if not self._observer.emitters or not all(thread.is_alive() for thread in threads):
            return "a watching thread has ended"

        return None

    @property
    def directories(self) -> int:
        """How many directories are watched."""
        return 0 if self._fd is None else len(self._fd.watched)


class _Handler(FileSystemEventHandler):
    """Passes paths on. An exception here would end watchdog's thread without a word, so it is kept for ``check``."""

    def __init__(self, source: str, on_change: OnPath, on_change_tree: OnPath) -> None:
        self.failure: BaseException | None = None
        self._prefix = source.rstrip("/") + "/"
        self._on_change = on_change
        self._on_change_tree = on_change_tree

    def dispatch(self, event: FileSystemEvent) -> None:
        """Pass on both ends of *event*."""
        try:
            tell = self._on_change_tree if event.is_directory else self._on_change
            for path in (event.src_path, event.dest_path):
                if path:
                    tell(os.fsdecode(path).removeprefix(self._prefix) if path != self._prefix[:-1] else "")
        except BaseException as exc:  # noqa: BLE001  check() reports it, and the caller starts anew
            self.failure = exc


class _ReportingFD(InotifyFD):
    """watchdog's inotify reader, which alone knows of lost events and unwatched directories and tells nobody."""

    def __init__(self, source: str, on_trouble: OnTrouble, is_excluded: Callable[[str], bool]) -> None:
        self.watched: set[WatchDescriptor] = set()
        self._top = os.fsencode(source)
        self._on_trouble = on_trouble
        self._is_excluded = is_excluded
        self._unwatched: dict[bytes, OSError] = {}
        self._reporting = False
        self._reported = False
        self._report_lock = threading.Lock()
        super().__init__()

    def handle_event(self, event: InotifyEvent) -> None:
        """Handle an event as watchdog does, and tell of an overflow when the watches are rebuilt."""
        if not event.is_queue_overflow:
            super().handle_event(event)
            if event.is_ignored:
                self.watched.discard(event.wd)
            return
        with self._report_lock:
            self._reporting, self._reported = False, False
            self._unwatched.clear()
            self.watched.clear()
        super().handle_event(event)
        self._on_trouble("overflowed", {"reason": "the kernel's event queue overflowed"})
        self.report_unwatched()

    def add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        """Watch one directory; of a failure watchdog tells nobody, and it takes "permission denied" for success."""
        if path != self._top and self._is_excluded(os.fsdecode(path[len(self._top) :].lstrip(b"/"))):
            raise OSError(errno.ECANCELED, "excluded")
        try:
            if not os.access(path, os.R_OK, effective_ids=True):
                raise OSError(errno.EACCES if os.path.lexists(path) else errno.ENOENT, "not readable")  # noqa: TRY301
            descriptor = super().add_callback(path, mask, callback, id_)
        except OSError as exc:
            if exc.errno not in _GONE and path != self._top:
                self._note_unwatched(path, exc)
            raise
        self.watched.add(descriptor)

        return descriptor

    def report_unwatched(self) -> None:
        """Tell once, until the watches are rebuilt, of directories that could not be watched: those so far, or the next."""
        with self._report_lock:
            self._reporting = True
            facts = None if self._reported else self._unwatched_facts()
            self._reported = self._reported or facts is not None
        if facts is not None:
            self._on_trouble("degraded", facts)

    def _note_unwatched(self, path: bytes, exc: OSError) -> None:
        with self._report_lock:
            self._unwatched[path] = exc
            reporting = self._reporting
        if reporting:
            self.report_unwatched()

    def _unwatched_facts(self) -> dict[str, object] | None:
        if not self._unwatched:
            return None
        path, exc = next(iter(self._unwatched.items()))

        return {
            "reason": f"{_count_of(len(self._unwatched))} not watched, first {os.fsdecode(path)}: {exc.strerror}",
            "directories": len(self.watched),
            "unwatched": len(self._unwatched),
            "limit": find_limit(exc.errno)[0],
            "hint": _hint(exc),
        }


def find_limit(number: int | None) -> tuple[str, int]:
    """Return the lowest sysctl by which a watch fails with that errno, and what it allows; no name if there is none."""
    found: dict[str, int] = {}
    for name in _LIMITS.get(number or 0, ()):
        with contextlib.suppress(OSError):
            found[name] = int(Path("/proc/sys", *name.split(".")).read_text())

    return min(found.items(), key=lambda limit: limit[1], default=("", 0))


def _count_of(directories: int) -> str:
    return "1 directory is" if directories == 1 else f"{directories} directories are"


def _hint(exc: OSError) -> str:
    limit, now = find_limit(exc.errno)
    if not limit:
        return "the periodic inventory finds what changes there"

    return f"raise it with `sysctl {limit}=N` (now {now}); the periodic inventory finds what changes meanwhile"


def _inode_of(source: Path) -> tuple[int, int]:
    status = source.stat()
    return status.st_dev, status.st_ino


def _quieten_watchdog() -> None:
    """Keep watchdog from dumping its table of watches.

    A directory that appears while it is being walked is registered twice, harmlessly; the warning about it formats
    the bound method ``watch.short_str`` instead of calling it, hundreds of kilobytes for each one.
    """
    warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
    Watch.__repr__ = Watch.short_str  # type: ignore[method-assign, assignment]
