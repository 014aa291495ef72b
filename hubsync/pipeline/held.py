"""Files and units that wait for something else than time, and why. Each reason is logged once, and few of many."""

import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from hubsync.monitor.logger import FilteringBoundLogger
from hubsync.store.secrets import Secret
from hubsync.watch.names import Kind, judge_names

_MOST_TOLD = 50  # between two inventories


class Pending(Struct, frozen=True):
    """Why a file or unit is not committed as it stands. *settled*: the next commit takes it. *final*: waiting is no use."""

    reason: str
    settled: bool = False
    final: bool = False
    hint: str = ""


def since_change(path: Path, seen: datetime | None) -> datetime | None:
    """Return since when what is at *path* waits: since *seen*, or since its last change if a restart was between."""
    try:
        status = path.lstat()
        changed = datetime.fromtimestamp(max(status.st_mtime, status.st_ctime), UTC)
    except (OSError, OverflowError, ValueError):  # it is gone, or of a year that has no name
        return seen

    return changed if seen is None else min(seen, changed)


class Held:
    """What is held back, by path (a unit's with a trailing slash).

    Attributes:
        reasons: path → why.
        hints: path → what the operator can do.
        since: path → since when, for this reason.
        needy: the paths for which only a person can do something.
    """

    def __init__(self, log: FilteringBoundLogger, unit_of: Callable[[str], str | None]) -> None:
        self.reasons: dict[str, str] = {}
        self.hints: dict[str, str] = {}
        self.since: dict[str, datetime] = {}
        self.needy: set[str] = set()
        self._log = log
        self._unit_of = unit_of
        self._news = 0
        self._last = ""
        self._collided: dict[str, str] = {}

    def hold(self, path: str, reason: str, hint: str = "", *, needs_attention: bool = False) -> None:
        """Hold *path* until its next version."""
        if self._is_news(path, reason, hint, needs_attention=needs_attention):
            self._log.info("file.held", path=path, reason=reason, hint=hint)

    def reject(self, path: str, reason: str, hint: str, secret: Secret | None = None) -> None:
        """Hold *path*, which must not be published as it is."""
        unit = self._unit_of(path)
        if unit:
            hint = f"{hint}; until then {unit} is not published" if hint else ""
        if not self._is_news(path, reason, hint, needs_attention=True):
            return
        rule, line, member, offset = (secret.rule, secret.line, secret.member, secret.offset) if secret else (None,) * 4
        self._log.warning("file.rejected", path=path, unit=unit, reason=reason, rule=rule, line=line, member=member,
                          offset=offset, hint=hint)  # fmt: skip

    def note_name(self, source: Path, path: str) -> None:
        """Say that the file at *path* is refused by its name, or that it is gone. Of directories an inventory says it."""
        parent = path.rpartition("/")[0]
        if parent and judge_names(parent, is_dir=True) is not None:
            return
        skip = judge_names(path)
        if skip is None or skip.kind is not Kind.REJECTED:
            return
        try:
            mode = (source / path).lstat().st_mode
        except OSError:
            self.forget(path)
            return
        if stat.S_ISREG(mode):
            self.reject(path, skip.reason, skip.hint)

    def hold_unreadable(self, path: str, reason: str, hint: str = "") -> None:
        """Hold *path*, which this process may not read."""
        if self._is_news(path, reason, hint, needs_attention=True):
            self._log.warning("file.unreadable", path=path, reason=reason, hint=hint)

    def tell_collisions(self, collisions: dict[str, str]) -> None:
        """Say which paths are one name elsewhere, each once; they are not held."""
        for path, other in list(collisions.items())[:_MOST_TOLD]:
            if self._collided.get(path) != other:
                self._log.warning("name.collided", path=path, other=other, hint="rename one of them, or exclude it")
        self._collided = collisions

    def sum_up(self) -> None:
        """Say how many were not told one by one, and tell the next ones again."""
        if self._news > _MOST_TOLD and self._last:
            self._log.warning("log.abridged", files=self._news - _MOST_TOLD, path=self._last,
                              reason=self.reasons.get(self._last))  # fmt: skip
        self._news, self._last = 0, ""

    def forget(self, path: str) -> None:
        """Wait for *path* no longer."""
        if self.reasons.pop(path, None) is None:  # asked of each file; nearly none was held
            return
        self.hints.pop(path, None)
        self.since.pop(path, None)
        self.needy.discard(path)

    def _is_news(self, path: str, reason: str, hint: str, *, needs_attention: bool = False) -> bool:
        """Remember why *path* is held; tell whether to say so."""
        known = self.reasons.get(path) == reason
        self.reasons[path], self.hints[path] = reason, hint
        (self.needy.add if needs_attention else self.needy.discard)(path)
        if known:
            return False
        self.since[path] = datetime.now(UTC)
        self._news += 1
        if self._news > _MOST_TOLD:
            self._last = path

        return self._news <= _MOST_TOLD
