"""Takes files in: looks at each once more, captures it, and sorts out what cannot be captured as it stands.

It captures on a few threads; what it decides of the outcome, it decides in the caller's.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from typing import TypeVar

from hubsync.config.model import Target
from hubsync.errors import FileChangedError, FileError, FileUnreadableError
from hubsync.monitor.status import BeingRead
from hubsync.pipeline.capturing import Capturing
from hubsync.pipeline.files import Files
from hubsync.pipeline.held import Held
from hubsync.priority import stand_back_further
from hubsync.store.capture import HELD_HINT, Captured, CopyTooLargeError, FileHeldError, FileRefusedError, has_same_content
from hubsync.store.hashing import shared
from hubsync.units import check_file, unit_of
from hubsync.watch.beneath import held_directories
from hubsync.watch.entry import Entry
from hubsync.watch.inventory import look
from hubsync.watch.logs import is_event_log

_EARLY_BYTES = 1 << 30  # hashed in about a second
_EARLY_S = 1.0

_T = TypeVar("_T")


class Intake:
    """Captures the files of one target; *feed* and *forget* are told of what changed meanwhile, or went.

    Attributes:
        early: settled objects that wait to be captured before their commit, those to come first at the end.
    """

    def __init__(
        self,
        target: Target,
        files: Files,
        held: Held,
        capturing: Capturing,
        feed: Callable[[Entry], None],
        forget: Callable[[str], None],
    ) -> None:
        self.early: list[Entry] = []
        self._target = target
        self._files = files
        self._held = held
        self._capturing = capturing
        self._feed = feed
        self._forget = forget
        self._unfitting: dict[str, int] = {}

    def take_early(self) -> list[Entry]:
        """Take some of the settled objects, to be captured before their commit; the others stay in ``early``.

        What was captured can go up while they are.
        """
        first: list[Entry] = []
        size = 0
        while self.early and (size < _EARLY_BYTES or len(first) < shared().threads):
            entry = self.early.pop()
            first.append(entry)
            size += entry.identity.size
        self._files.early.update(entry.path for entry in first)

        return first

    def capture_early(self, first: Sequence[Entry]) -> list[Captured | FileError | None]:
        """Capture *first*, or what can be read of it in a moment (``None`` for what is not through).

        A large file takes minutes, and the next turn goes on with it. This changes nothing but the store, so that nobody
        who only looks has to wait for it.
        """
        deadline = time.monotonic() + _EARLY_S
        read = partial(self._capturing.capture_until, deadline=deadline)
        return self._map(lambda entry: _try(read, entry) if time.monotonic() < deadline else None, first)

    def sort_early(self, first: Sequence[Entry], outcomes: Sequence[Captured | FileError | None]) -> bool:
        """Hold back, and say, which of *first* could not be captured; tell whether any was. Those without are left."""
        tried = {entry: outcome for entry, outcome in zip(first, outcomes, strict=True) if outcome is not None}
        self.leave_early([entry for entry in first if entry not in tried])
        captured = [self._sort(entry, outcome) for entry, outcome in tried.items()]

        return any(one is not None for one in captured)

    def leave_early(self, entries: Sequence[Entry]) -> None:
        """Have *entries* captured another time."""
        self._files.early.difference_update(entry.path for entry in entries)
        self.early += reversed(entries)

    def unread(self) -> set[str]:
        """Return the settled files that wait to be captured before their commit."""
        return {entry.path for entry in self.early}

    def being_read(self) -> tuple[BeingRead, ...]:
        """Return the large files that are being read, and how far they are."""
        return self._capturing.being_read()

    def unfitting(self) -> set[str]:
        """Return the files of which there is no room for a copy; each is tried again once there is."""
        return set(self._unfitting)

    def _retry_fitting(self) -> None:
        for path, size in list(self._unfitting.items()):
            if path not in self._files.settled or self._capturing.has_room_for(size):
                del self._unfitting[path]
                self._files.early.discard(path)

    def find_early(self, *, newest_first: bool = False) -> None:
        """Note which settled objects were not captured yet, small ones first; what is none any more is not read on.

        *newest_first*: those of the unit that was written last.
        """
        self.early = []
        self._retry_fitting()
        for path, identity in list(self._files.settled.items()):  # a look at one may drop it
            if path not in self._files.early and self._capturing.is_early(path, identity.size):
                entry = self._look_settled(path)
                if entry is not None:
                    self.early.append(entry)
        if newest_first:
            written = self._written_last(self.early)
            self.early.sort(key=lambda entry: written.get(unit_of(self._target, entry.path), 0), reverse=True)
        else:
            self.early.sort(key=self._capturing.rank)
        self._capturing.keep_begun([entry.path for entry in self.early])
        self.early.reverse()  # they are taken from its end

    def _written_last(self, entries: Iterable[Entry]) -> dict[str | None, int]:
        """Return the units of *entries* → when the newest of each was written; what is in no unit counts as old."""
        written: dict[str | None, int] = {}
        for entry in entries:
            if (unit := unit_of(self._target, entry.path)) is not None:
                written[unit] = max(entry.identity.mtime_ns, written.get(unit, 0))

        return written

    def capture_unit(self, entries: Sequence[Entry]) -> list[Captured]:
        """Capture *entries*; raise the first failure, but tell of all that are refused.

        A log that cannot be captured is left out: no unit waits for one.

        Raises:
            FileRefusedError: one must not be published as it is.
            FileError: one cannot be read, or changed.
        """
        captured: list[Captured] = []
        changed: list[FileError] = []
        refused: list[FileError] = []
        for entry, outcome in zip(entries, self._capture_objects_first(entries), strict=True):
            if isinstance(outcome, Captured):
                captured.append(outcome)
            elif isinstance(outcome, FileRefusedError):
                self._refuse(entry, outcome)
                refused.append(outcome)
            elif not is_event_log(entry.path):
                if isinstance(outcome, FileUnreadableError):
                    self._held.hold_unreadable(entry.path, outcome.reason, outcome.hint)
                changed.append(outcome)
        for failed in (*changed, *refused):
            raise failed

        return captured

    def capture_settled(self, paths: Iterable[str]) -> list[Captured]:
        """Capture what settled at *paths*; what fails is held back alone, and said."""
        with held_directories():
            entries = [entry for path in paths if (entry := self._look_settled(path)) and not self._lacks_members(entry)]
            captured = [self._sort(entry, self._try(entry)) for entry in entries]

        return [one for one in captured if one is not None]

    def feed_again(self, entries: Iterable[Entry]) -> None:
        """Have *entries* settle anew, as they are now."""
        for entry in entries:
            self._files.unsettle(entry.path)
            now = look(self._target.source, entry.path)
            if now is None:
                self._forget(entry.path)
            else:
                self._feed(now)

    # --- outcomes

    def _capture_objects_first(self, entries: Sequence[Entry]) -> list[Captured | FileError]:
        large = [entry for entry in entries if self._capturing.is_object(entry)]
        done = dict(zip((entry.path for entry in large), self._map(self._try, large), strict=True))

        return [done.get(entry.path) or self._try(entry) for entry in entries]

    def _try(self, entry: Entry) -> Captured | FileError:
        return _try(self._capturing.capture, entry)

    def _sort(self, entry: Entry, outcome: Captured | FileError) -> Captured | None:
        """Return what was captured; if it failed, *entry* is held back alone, and said."""
        if isinstance(outcome, Captured):
            self._held.forget(entry.path)
            return outcome
        if isinstance(outcome, FileHeldError):
            is_loose = unit_of(self._target, entry.path) is None  # else its unit says it
            if is_too_large := isinstance(outcome, CopyTooLargeError):
                self._unfitting[entry.path] = entry.identity.size
            self._held.hold(entry.path, outcome.reason, outcome.hint, needs_attention=is_loose and is_too_large)
        elif isinstance(outcome, FileChangedError):
            self.feed_again([entry])
        elif isinstance(outcome, FileRefusedError):
            self._refuse(entry, outcome)
        elif isinstance(outcome, FileUnreadableError):
            self._held.hold_unreadable(entry.path, outcome.reason, outcome.hint)
        else:
            raise outcome

        return None

    def _refuse(self, entry: Entry, exc: FileRefusedError) -> None:
        """Take *entry* no more until it changes."""
        now = look(self._target.source, entry.path)  # a pin that was dropped again has moved the ctime
        same = now is not None and has_same_content(now.identity, entry.identity)
        self._files.refuse(entry.path, now.identity if now is not None and same else entry.identity)
        self._held.reject(entry.path, exc.reason, exc.hint, exc.secret)

    def _map(self, act: Callable[[Entry], _T], entries: Sequence[Entry]) -> list[_T]:
        """Do *act* with each of *entries*, on a few threads that stand back further than this one."""
        if not entries:
            return []
        with ThreadPoolExecutor(shared().threads, "hubsync-hash", stand_back_further) as pool:
            return list(pool.map(act, entries))

    # --- looks

    def _look_settled(self, path: str) -> Entry | None:
        """Return the entry of a settled path if it still is what settled; else it is fed again or forgotten."""
        entry = look(self._target.source, path)
        if entry is None:
            self._forget(path)
            return None
        if self._files.grows(path):
            return entry
        if self._files.is_settled(entry) or self._capturing.is_only_pinned(path, entry.identity):
            return entry
        self._feed(entry)

        return None

    def _lacks_members(self, entry: Entry) -> bool:
        """Hold back a sharded index until all its shards are there and settled."""
        if not entry.path.endswith(".index.json"):
            return False
        try:
            reason, named = check_file(self._target.source, entry)
        except FileUnreadableError:  # as to capture it will say
            return False
        waiting = self._files.waiting()
        directory = PurePosixPath(entry.path).parent
        members = [str(directory / member) for member in named or ()]
        held = self._held.reasons
        missing = [m for m in members if m in waiting or m in held or look(self._target.source, m) is None]
        if missing:
            reason = f"shard {PurePosixPath(missing[0]).name} is missing or still being written"
        if reason:
            self._held.hold(entry.path, reason, HELD_HINT)

        return bool(reason)


def _try(capture: Callable[[Entry], _T], entry: Entry) -> _T | FileError:
    try:
        return capture(entry)
    except FileError as exc:
        return exc
