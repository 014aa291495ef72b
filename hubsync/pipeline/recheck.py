"""Looks once more, before it is committed, whether a unit is still what it was."""

from pathlib import Path

from hubsync.errors import FileChangedError
from hubsync.store.ledger import Ledger
from hubsync.watch.inventory import Inventory, take_inventory
from hubsync.watch.logs import is_event_log
from hubsync.watch.rules import PathRules


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
