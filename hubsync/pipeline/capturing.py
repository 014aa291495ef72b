"""Captures files for a pipeline: each state of a file is read once, whatever happens until it is committed.

A large file is read a part at a time, so that others are captured, and what is complete is committed, in between.
"""

import threading
import time
from collections.abc import Collection

from msgspec import Struct

from hubsync.monitor.logger import FilteringBoundLogger
from hubsync.monitor.status import BeingRead
from hubsync.pipeline.files import Files
from hubsync.pipeline.reading import Reading
from hubsync.store.capture import Captured, Capturer, Prefix, has_grown, has_same_content
from hubsync.store.hashing import Steps
from hubsync.store.ledger import Known
from hubsync.store.pointer import Pointer
from hubsync.store.process import StoppedError
from hubsync.store.secrets import HINT as SECRET_HINT
from hubsync.store.snapshot import Store
from hubsync.units import age_s as age_of
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.logs import is_text_log

_LARGE_BITS = 24  # 16 MB are read in no time; from there on, a file waits for one of a fourth of its size
_SHOWN_S = 1.0  # what is read faster is nothing to show


class _Begun(Struct):
    """A file of which a part was read."""

    entry: Entry
    since: float
    steps: Steps[Captured]
    bytes: int = 0


class Capturing:
    """Captures the files of one target; *stop* interrupts it."""

    def __init__(
        self,
        capturer: Capturer,
        files: Files,
        store: Store,
        quiet_s: float,
        stop: threading.Event,
        log: FilteringBoundLogger,
    ) -> None:
        self._capturer = capturer
        self._files = files
        self._store = store
        self._quiet_s = quiet_s
        self._stop = stop
        self._log = log
        self.reading = Reading()
        self._looked_at: set[str] = set()  # captured by this process: under the present rules for secrets
        self._begun: dict[str, _Begun] = {}

    def is_early(self, path: str, size: int) -> bool:
        """Tell whether *path* is captured as soon as it settles: it is an object, and no log."""
        return not self._files.grows(path) and self._capturer.is_early(path, size)

    def is_object(self, entry: Entry) -> bool:
        """Tell whether *entry* goes through git-lfs whatever it holds."""
        return self._capturer.is_early(entry.path, entry.identity.size)

    def is_only_pinned(self, path: str, identity: Identity) -> bool:
        """Tell whether *path* is being read, and is as it was but for a ctime that our own pin moves.

        If something else moved it, who reads it gives up.
        """
        begun = self._begun.get(path)
        return begun is not None and has_same_content(identity, begun.entry.identity)

    def forget(self, path: str) -> None:
        """Look for secrets in *path* again when it is captured next."""
        self._looked_at.discard(path)

    def has_room_for(self, size: int) -> bool:
        """Tell whether a copy of so many bytes fits."""
        return self._capturer.has_room_for(size)

    def rank(self, entry: Entry) -> tuple[int, bool]:
        """Return when it is the turn of *entry*: the less there is left to read the sooner, first what was begun."""
        begun = self._begun.get(entry.path)
        left = entry.identity.size - (begun.bytes if begun else 0)
        return max(0, left.bit_length() - _LARGE_BITS) // 2, begun is None

    def being_read(self) -> tuple[BeingRead, ...]:
        """Return what is being read for longer than a moment, and how far it is."""
        now = time.monotonic()
        begun = [one for one in list(self._begun.values()) if now - one.since > _SHOWN_S]
        return tuple(BeingRead(one.entry.path, one.bytes, one.entry.identity.size) for one in begun)

    def keep_begun(self, paths: Collection[str]) -> None:
        """Give up what was begun and is not among *paths*."""
        for path in self._begun.keys() - set(paths):
            self._give_up(path)

    def capture(self, entry: Entry) -> Captured:
        """Capture *entry*, or return what was captured of just this state before; raises as ``Capturer.capture`` does.

        Raises:
            StoppedError: hubsync is stopping.
        """
        captured = self.capture_until(entry, float("inf"))
        assert captured is not None  # noqa: S101 - it ended before that
        return captured

    def capture_until(self, entry: Entry, deadline: float) -> Captured | None:
        """Capture *entry* as ``capture`` does, or a part of it: ``None`` if it was not through by then. Then go on."""
        begun = self._begin(entry)
        try:
            while True:
                count = next(begun.steps)
                begun.bytes += count
                self._note_read(count)
                if time.monotonic() >= deadline:
                    return None
        except StopIteration as read:
            del self._begun[entry.path]
            captured: Captured = read.value
            return captured
        except BaseException:
            self._give_up(entry.path)
            raise

    def _begin(self, entry: Entry) -> _Begun:
        begun = self._begun.get(entry.path)
        if begun is not None and has_same_content(begun.entry.identity, entry.identity):
            return begun
        self._give_up(entry.path)
        begun = self._begun[entry.path] = _Begun(entry, time.monotonic(), self._capture_steps(entry))

        return begun

    def _give_up(self, path: str) -> None:
        if (begun := self._begun.pop(path, None)) is not None:
            begun.steps.close()

    def _capture_steps(self, entry: Entry) -> Steps[Captured]:
        known = self._store.ledger.known(entry.path)
        if known is not None and known.oid is not None and known.identity == entry.identity:
            pointer = Pointer(known.oid, known.identity.size)
            if self._store.has_intact(known.oid) or self._files.is_committed(entry.path, known.mode, known.blob):
                if entry.path not in self._looked_at:
                    self._capturer.check_again(entry)
                return self._capturer.recall(entry, pointer, known.mode, known.blob)
        started = time.monotonic()
        is_log = self._files.grows(entry.path)
        captured = self._capture_log(entry, known) if is_log else (yield from self._capturer.capture(entry))
        self.reading.add_file()
        if captured.pointer is not None:
            self._store.ledger.record(captured)
            self._looked_at.add(entry.path)
        if (secret := captured.secret) is not None:
            self._log.warning("secret.found", path=entry.path, rule=secret.rule, line=secret.line, member=secret.member,
                              offset=secret.offset, hint=SECRET_HINT)  # fmt: skip
        self._log.debug(
            "file.captured", path=entry.path, oid=captured.pointer.oid if captured.pointer else None,
            bytes=captured.identity.size, route=captured.routing.route.value, reason=captured.routing.reason,
            pin=captured.kind.value if captured.kind else None, took_s=round(time.monotonic() - started, 3),
        )  # fmt: skip

        return captured

    def _capture_log(self, entry: Entry, known: Known | None) -> Captured:
        """Capture what a log holds by now; what was captured before, if no whole record came since."""
        before = None
        is_committed = known is not None and self._files.is_committed(entry.path, known.mode, known.blob)
        if known and is_committed and has_grown(entry.identity, known.identity):
            before = Prefix(known.identity.size, known.blob, known.oid)
        is_quiet = age_of(entry.identity) >= self._quiet_s
        captured = self._capturer.capture_log(entry, before, self._note_read, is_quiet=is_quiet)
        if captured is None:
            assert known is not None  # noqa: S101 - it was grown from
            pointer = Pointer(known.oid, known.identity.size) if known.oid else None
            same = entry._replace(identity=known.identity)
            captured = self._capturer.recall(same, pointer, known.mode, known.blob)
        if not is_quiet and is_text_log(entry.path) and captured.identity.size < entry.identity.size:
            self._files.settler.feed(entry.path, entry.identity, time.monotonic())  # a line without its end, once quiet

        return captured

    def _note_read(self, count: int) -> None:
        self.reading.add_bytes(count)
        if self._stop.is_set():
            raise StoppedError("interrupted: hubsync is stopping")
