"""Works out what ``once`` would do, with reasons. It reads the source and the ledger; it changes nothing."""

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hubsync.config.model import Config, Target
from hubsync.store.ledger import Ledger
from hubsync.store.route import RouteRules, choose_route
from hubsync.units import unit_of
from hubsync.watch.entry import Entry
from hubsync.watch.inventory import take_inventory
from hubsync.watch.names import Kind
from hubsync.watch.rules import PathRules


@dataclass(frozen=True, slots=True)
class Step:
    """What would happen to one path: ``capture``, ``hold`` or ``leave``."""

    action: str
    path: str
    bytes: int
    route: str
    reason: str
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``once`` would do for one target."""

    target: str
    source: str
    mirrors: tuple[str, ...]
    unchanged: int
    steps: tuple[Step, ...]


def make_plan(config: Config, target: Target) -> Plan:
    """Compare *target*'s source with what was captured before.

    Raises:
        SourceError: the source is missing or no directory.
    """
    inventory = take_inventory(target.source, PathRules(target.include, target.exclude))
    known = _read_known(store_directory(config, target) / "ledger.sqlite")
    routes = RouteRules(target.lfs.patterns, target.lfs.threshold_bytes)
    changed = [entry for path, entry in inventory.entries.items() if known.get(path) != entry.identity]
    steps = [_plan_entry(target, entry, routes) for entry in sorted(changed)]
    steps += [
        Step("hold", path, 0, "", skip.reason)
        for path, skip in sorted(inventory.skipped.items())
        if skip.kind is not Kind.IGNORED
    ]
    steps += _plan_removed(target, set(inventory.entries), known.keys())
    mirrors = tuple(mirror.name for mirror in target.mirrors)

    return Plan(target.name, str(target.source), mirrors, len(inventory.entries) - len(changed), tuple(steps))


def _plan_entry(target: Target, entry: Entry, routes: RouteRules) -> Step:
    routing = choose_route(entry.path, entry.identity.size, routes)
    route, reason = (routing.route.value, routing.reason) if routing else ("git or lfs", "its content decides")
    return Step("capture", entry.path, entry.identity.size, route, reason, unit_of(target, entry.path))


def _plan_removed(target: Target, present: set[str], known: Iterable[str]) -> list[Step]:
    gone = sorted(path for path in known if path not in present)
    if target.deletes == "propagate":
        return [Step("remove", path, 0, "", 'gone, and deletes = "propagate"') for path in gone]
    return [Step("leave", path, 0, "", 'gone here, kept on the mirrors: deletes = "keep"') for path in gone]


def _read_known(path: Path) -> dict[str, object]:
    """Read a copy of the ledger: a daemon may be writing the original, and a plan must not touch it."""
    if not path.exists():
        return {}
    with tempfile.TemporaryDirectory() as directory:
        for suffix in ("", "-wal"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                shutil.copy(part, directory)
        ledger = Ledger(Path(directory) / path.name)
        ledger.open()
        try:
            return dict(ledger.all_known())
        finally:
            ledger.close()


def store_directory(config: Config, target: Target) -> Path:
    """Return where the store of *target* lies."""
    return (target.store_dir or config.service.state_dir / "targets") / target.name
