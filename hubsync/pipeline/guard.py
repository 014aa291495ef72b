"""Stops a target whose source looks like an accident, and capture where there is no room. Each is said once."""

import contextlib
from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from hubsync.config.model import Target
from hubsync.errors import FileUnreadableError, HubsyncError, SourceError, find_known
from hubsync.monitor.logger import FilteringBoundLogger
from hubsync.monitor.status import LastError
from hubsync.monitor.text import format_count
from hubsync.pipeline.recheck import Mounts
from hubsync.pipeline.room import Room, find_lack
from hubsync.store.process import StoppedError
from hubsync.store.snapshot import Store

_NO_ROOM = "capture is paused: there is too little free space"
_UNMOUNTED = "what was mounted there is not any more, and files of it are gone"
_MOST_LOST = 0.5  # of the published paths at once; more is an accident until a person says otherwise


class Guard:
    """Whether a target may go on.

    Attributes:
        halted: why the target does nothing until a person has looked; ``None`` if it does.
        is_paused: whether nothing is captured because there is too little free space.
        mounts: what was mounted below the source.
    """

    def __init__(self, target: Target, store: Store, min_free_bytes: int, log: FilteringBoundLogger) -> None:
        self.halted: HubsyncError | None = None
        self.is_paused = False
        self.mounts = Mounts(target.source, store.ledger)
        self._confirm_hint = (
            f"if they were meant to go, stop the service if one runs, run `hubsync once {target.name} "
            "--confirm-deletes` as its user, and start it again"
        )
        self._failures: dict[str, LastError] = {}  # of the last commit, and of the last capture
        self._since = datetime.now(UTC)
        self._target = target
        self._store = store
        self._min_free_bytes = min_free_bytes
        self._log = log

    def check(self, files: int, gone: Collection[str], *, is_all: bool) -> None:
        """Raise SourceError if a listing of that many *files* looks like an accident: an unmounted disk is empty.

        *gone* are paths that are not in it; *is_all*: nothing was unreadable. Else a target that was halted goes on.
        """
        count = self._store.ledger.count_tree()
        if count and not files and is_all:
            raise SourceError(
                f"{self._target.source} is empty, but {format_count(count, 'path')} of it were captured",
                hint="see whether its disk is mounted; nothing is deleted on the mirrors",
            )
        if self._target.deletes == "propagate" and self.halted is not None:
            in_tree, pruned = self._store.ledger.in_tree, self._store.pruned.paths()
            lost = [path for path in gone if path not in pruned and in_tree(path) is not None]
            if self._find_accident(lost) is not None:
                raise self.halted
        self.resume()

    def check_removal(self, gone: Collection[str]) -> bool:
        """Tell whether *gone* may be removed from the mirrors; if that looks like an accident, the target is halted."""
        accident = self._find_accident(gone)
        if accident is not None:
            self.halt(accident)

        return accident is None

    def expect_mounted(self, replaced: Collection[str]) -> None:
        """Raise FileUnreadableError if what a new version of a unit lacks lay on what is not mounted any more."""
        if (point := self.mounts.find_lost(replaced)) is not None:
            raise FileUnreadableError(point, _UNMOUNTED, hint=f"mount it again; {self._confirm_hint}")

    def lets_commit(self, *, confirmed: bool) -> bool:
        """Tell whether anything may be committed; if what is gone is *confirmed* to be deleted, no mount is missed."""
        if (self.halted is not None and not confirmed) or not self.has_room():
            return False
        if confirmed:
            self.mounts.forget_lost()

        return True

    def _find_accident(self, gone: Collection[str]) -> SourceError | None:
        """Return why that *gone* is gone may be no wish; ``None`` if nothing says so."""
        count = self._store.ledger.count_tree()
        if (point := self.mounts.find_lost(gone)) is not None:
            said, hint = f"{self._target.source}/{point}: {_UNMOUNTED}", f"mount it again; {self._confirm_hint}"
            return SourceError(said, hint=hint)
        if len(gone) > _MOST_LOST * count:
            said = f"{len(gone)} of {count} captured paths are gone from {self._target.source}"
            return SourceError(said, hint=self._confirm_hint)

        return None

    def halt(self, exc: HubsyncError) -> None:
        """Stop the target."""
        if self.halted is None:
            self._since = datetime.now(UTC)
        if self.halted is None or str(self.halted) != str(exc):
            self._log.error("target.halted", source=str(self._target.source), error=str(exc), error_kind=exc.error_kind,
                            hint=exc.hint)  # fmt: skip
        self.halted = exc

    def resume(self) -> None:
        """Let the target go on."""
        if self.halted is not None:
            self.halted = None
            self._log.info("target.resumed", source=str(self._target.source))

    @contextlib.contextmanager
    def note_failure(self, step: str) -> Iterator[None]:
        """Note why a *step* (commit, capture) fails, if it does, until ``end_failure``."""
        try:
            yield
        except StoppedError:
            raise
        except Exception as exc:
            known = find_known(exc)
            kind, hint = (known.error_kind, known.hint) if known else ("internal", "")
            since = self._failures[step].since if step in self._failures else datetime.now(UTC)
            self._failures[step] = LastError(f"the last {step} failed: {known or exc}", kind, hint, since)
            raise

    def end_failure(self, step: str) -> None:
        """Note that a *step* went through."""
        self._failures.pop(step, None)

    def has_room(self) -> bool:
        """Tell whether the disk of the store has room."""
        lack = self._find_lack()
        if lack is not None and not self.is_paused:
            self._since = datetime.now(UTC)
            inodes = self._store.inodes()
            self._log.warning("capture.paused", path=str(self._store.directory), free_bytes=self._store.free_bytes(),
                              min_free_bytes=self._min_free_bytes, free_inodes=inodes and inodes.free,
                              reason=f"too little free space: {lack}", hint=lack.hint)  # fmt: skip
        elif lack is None and self.is_paused:
            self._log.info("capture.resumed", path=str(self._store.directory), free_bytes=self._store.free_bytes())
        self.is_paused = lack is not None

        return not self.is_paused

    def why_stuck(self) -> str:
        """Return why what is settled is not committed, without figures that change; nothing if it is committed next."""
        return _NO_ROOM if self.is_paused else next((failure.error for failure in self._failures.values()), "")

    def _find_lack(self) -> Room | None:
        return find_lack(self._store.free_bytes(), self._store.inodes(), self._min_free_bytes, is_paused=self.is_paused)

    def hint_of(self, reason: str) -> str:
        """Return what to do about what is held for *reason*, if that is why all is stuck."""
        trouble = self.trouble() if reason == self.why_stuck() else None
        return trouble.hint if trouble is not None else ""

    def trouble(self) -> LastError | None:
        """Return why the target does not go on, for people; ``None`` if it does."""
        if self.halted is not None:
            return LastError(str(self.halted), self.halted.error_kind, self.halted.hint, self._since)
        lack = self._find_lack() if self.is_paused else None
        if lack is None:
            return next(iter(self._failures.values()), None)
        paused = f"capture is paused: {lack}, on the disk of {self._store.directory}"
        return LastError(f"{paused}; it goes on at {lack.show(lack.resume_at)}", "disk_full", lack.hint, self._since)
