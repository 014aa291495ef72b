"""Compares a listing of a source with what was captured of it, file by file: both come in the order of their paths.

So neither of them has to be held: of a million files that nothing happened to, none is remembered. Knows no ledger and no
source, and decides nothing about what differs.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from hubsync.watch.entry import Identity
from hubsync.watch.logs import may_be_log

_END: tuple[Any, ...] = ("\U0010ffff",)  # after every path


class Comparison:
    """One comparison: ``is_known`` is asked for each file that is there, ``finish`` ends it.

    *rows* are what was captured, ``(path, *identity)``; *uncommitted* are the paths of those that are not in the newest
    snapshot just so. *pruned* are paths that are not missed, *missed* those that are if they are not there.

    Attributes:
        files: how many files are there.
        differing: those that were captured otherwise, or are not committed.
        gone: paths of *rows*, and *missed* ones, that are not there, or are not as they were captured.
        back: those of *pruned* that are.
        logs: what may be a log.
        first_ns: the oldest ctime.
        last_ns: the newest mtime.
    """

    def __init__(
        self,
        rows: Iterator[tuple[Any, ...]],
        uncommitted: AbstractSet[str],
        pruned: AbstractSet[str],
        missed: set[str],
    ) -> None:
        self.files = 0
        self.differing: set[str] = set()
        self.gone = missed
        self.back: list[str] = []
        self.logs: list[str] = []
        self.first_ns, self.last_ns = 1 << 63, 0
        self._rows = rows
        self._row = next(rows, _END)
        self._uncommitted = uncommitted
        self._pruned = pruned

    def is_known(self, path: str, identity: Identity) -> bool:
        """Tell whether the file at *path* is what was captured and committed."""
        self.files += 1
        if identity[4] < self.first_ns:  # noqa: PLR1730 - a third of what min takes, for each file
            self.first_ns = identity[4]
        if identity[3] > self.last_ns:  # noqa: PLR1730
            self.last_ns = identity[3]
        if may_be_log(path):
            self.logs.append(path)
        if self._pruned and path in self._pruned:
            self.back.append(path)
        if self.gone:
            self.gone.discard(path)
        row = self._row
        while row[0] < path:
            self.gone.add(row[0])
            row = next(self._rows, _END)
        if row[0] != path:
            self._row = row
            return False
        self._row = next(self._rows, _END)
        if row[1:] == identity and path not in self._uncommitted:
            return True
        self.differing.add(path)

        return False

    def finish(self) -> None:
        """Note what comes after the last file that is there."""
        if self._row is not _END:
            self.gone.add(self._row[0])
            self.gone.update(row[0] for row in self._rows)
            self._row = _END
