"""Looks once more, before something is committed, whether source and unit are still what they were."""

import json
from collections.abc import Iterable
from pathlib import Path

from hubsync.errors import FileChangedError, SourceError
from hubsync.store.ledger import Ledger
from hubsync.watch.beneath import source_error
from hubsync.watch.inventory import Inventory, take_inventory
from hubsync.watch.logs import is_event_log
from hubsync.watch.mounts import mount_point, mounts_below
from hubsync.watch.rules import PathRules

_MOUNTS = "mounts"  # in the ledger


class Root:
    """What a source was when it was looked at: where a disk is unmounted, the directory below it is another source."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._known: tuple[int, int] | None = None
        self._point: str | None = None

    def check(self) -> None:
        """Raise SourceError if the file system that *source* lay on is not mounted there any more."""
        try:
            status = Path(f"{self._source}/.").stat()  # has an automounter mount it
        except OSError as exc:
            raise source_error(exc, f"{self._source}: {exc.strerror}") from exc
        identity = status.st_dev, status.st_ino
        if identity == self._known:
            return
        point = mount_point(self._source)
        if point is not None and self._point is not None and _is_above(point, self._point):
            raise SourceError(
                f"what was mounted at {self._point} is not any more, and {self._source} is what lies below it",
                hint="mount its disk again; if the source is meant to lie here now, restart hubsync",
            )
        self._known, self._point = identity, point


class Mounts:
    """What was mounted below a source when files were taken from there, over restarts: unmounted is not deleted."""

    def __init__(self, source: Path, ledger: Ledger) -> None:
        self._source = source
        self._ledger = ledger

    def note(self) -> None:
        """Remember what is mounted now."""
        known = self._known()
        if new := mounts_below(self._source) - known:
            self._remember(known | new)

    def find_lost(self, gone: Iterable[str]) -> str | None:
        """Return a mount that is there no more, and that some of the paths *gone* lay on; ``None`` if there is none."""
        if not (known := self._known()) or not (lost := known - mounts_below(self._source)):
            return None
        return next((point for path in gone for point in lost if f"{path}/".startswith(f"{point}/")), None)

    def forget_lost(self) -> None:
        """Forget what is not mounted now: what is gone there was deleted, a person says."""
        if known := self._known():
            self._remember(known & mounts_below(self._source))

    def _known(self) -> set[str]:
        return set(json.loads(self._ledger.meta(_MOUNTS) or "[]"))

    def _remember(self, points: set[str]) -> None:
        self._ledger.set_meta(_MOUNTS, json.dumps(sorted(points)))


def _is_above(point: str, other: str) -> bool:
    return point != other and f"{other}/".startswith(f"{point}/")


def expect_still(source: Path, rules: PathRules, ledger: Ledger, unit: str, before: Inventory) -> None:
    """Raise FileChangedError unless *unit* is, after it was captured, what it was *before*."""
    now = take_inventory(source, rules, unit)
    changed = [path for path in sorted(now.entries.keys() ^ before.entries.keys()) if not is_event_log(path)]
    if changed:
        raise FileChangedError(changed[0], "came or went while the unit was captured")
    for path, entry in now.entries.items():
        if is_event_log(path):
            continue
        known = ledger.known(path)
        if entry.identity not in {before.entries[path].identity, known.identity if known else None}:
            raise FileChangedError(path, "changed while the unit was captured")
