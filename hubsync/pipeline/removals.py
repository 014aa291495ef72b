"""Decides which published paths go from the next snapshot: those of a unit never one by one, for it is one version."""

from hubsync.config.model import Target
from hubsync.pipeline.files import Files
from hubsync.pipeline.provenance import Provenance
from hubsync.pipeline.unit import Units
from hubsync.store.snapshot import Store
from hubsync.watch.inventory import Inventory, look, take_inventory, why_unseen
from hubsync.watch.logs import is_event_log
from hubsync.watch.rules import PathRules


class Removals:
    """What goes from the snapshots of one target."""

    def __init__(
        self, target: Target, store: Store, rules: PathRules, files: Files, units: Units, provenance: Provenance
    ) -> None:
        self._target = target
        self._store = store
        self._rules = rules
        self._files = files
        self._units = units
        self._provenance = provenance

    def replaced(self, unit: str, now: Inventory) -> frozenset[str]:
        """Return what was published of *unit* and is not of the version that is there *now*.

        What a rule hides by now was not deleted, and logs are of no version.
        """
        gone = [path for path in self._store.ledger.tree_below(unit) if path not in now.entries and not now.hides(path)]
        kept = {path for path in gone if is_event_log(path) or self._provenance.is_own(path)}

        return frozenset(path for path in gone if path not in kept and self._rules.verdict(path).taken)

    def take(self) -> list[str]:
        """Return the paths that are to be removed by now; the others wait, if deletions are propagated at all."""
        removed = self._files.removed
        if self._target.deletes != "propagate":
            removed.clear()
            return []
        units = {unit for path in removed if (unit := self._units.unit_of(path))}
        ended = {unit for unit in units if self._is_gone(unit)}
        changing = (units - ended) & self._units.by_name.keys()  # it goes with their commit, or if they do without it
        waiting = {path for path in removed if self._units.unit_of(path) in changing}
        candidates = removed.union(*map(self._published, ended)) - waiting
        in_tree = self._store.ledger.in_tree  # a directory may have taken its place; that is not removed
        source = self._target.source
        gone = [
            path
            for path in sorted(candidates)
            if in_tree(path) is not None and look(source, path) is None and not why_unseen(source, path)
        ]
        removed.intersection_update(waiting)
        for unit in ended:
            self._units.forget(unit)

        return gone

    def _is_gone(self, unit: str) -> bool:
        """Tell whether nothing is left of *unit*; an empty directory may be there."""
        now = take_inventory(self._target.source, self._rules, unit)
        return not now.entries and not now.unreadable

    def _published(self, unit: str) -> set[str]:
        """Return what was published of *unit* and is nowhere meant to stay."""
        below = self._store.ledger.tree_below(unit).keys() - self._store.pruned.paths()
        return {path for path in below if not self._provenance.is_own(path)}
