"""Works out what ``once`` would do, with reasons. It reads the source and the ledger; it changes nothing."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hubsync.config.model import Config, Target
from hubsync.mirror.publish import read_published
from hubsync.store.ledger import Ledger
from hubsync.store.route import RouteRules, choose_route
from hubsync.store.scan import scan_file
from hubsync.store.secrets import Secret, SecretRules, judge_name
from hubsync.store.snapshot import SNAPSHOTS, Store
from hubsync.units import check_file, read_facts, unit_of
from hubsync.watch.beneath import open_entry
from hubsync.watch.entry import Entry
from hubsync.watch.inventory import look, take_inventory
from hubsync.watch.layouts import judge
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
    backlog: dict[str, int]  # mirror → snapshots that were committed before and wait for it


def make_plan(config: Config, target: Target) -> Plan:
    """Compare *target*'s source with what was captured before.

    Raises:
        SourceError: the source is missing or no directory.
    """
    rules = PathRules(target.include, target.exclude)
    inventory = take_inventory(target.source, rules)
    known = _read_known(store_directory(config, target) / "ledger.sqlite")
    routes = RouteRules(target.lfs.patterns, target.lfs.threshold_bytes)
    changed = [entry for path, entry in inventory.entries.items() if known.get(path) != entry.identity]
    held = dict(_find_held(target, rules, changed))
    steps = [
        Step("hold", entry.path, entry.identity.size, "", held[entry.path], unit_of(target, entry.path))
        if entry.path in held
        else _plan_entry(target, entry, routes)
        for entry in sorted(changed)
    ]
    steps += [
        Step("hold", path, 0, "", skip.reason)
        for path, skip in sorted(inventory.skipped.items())
        if skip.kind is not Kind.IGNORED
    ]
    steps += _plan_removed(target, set(inventory.entries), known.keys())
    mirrors = tuple(mirror.name for mirror in target.mirrors)

    return Plan(
        target.name, str(target.source), mirrors, len(inventory.entries) - len(changed), tuple(steps),
        _count_backlogs(config, target),
    )  # fmt: skip


def _find_held(target: Target, rules: PathRules, changed: Iterable[Entry]) -> Iterator[tuple[str, str]]:
    """Yield the files that would be held back once all is quiet, and why; a unit is held back whole."""
    secrets = SecretRules(target.secrets, target.secrets_allow)
    reasons = {entry.path: reason for entry in changed if (reason := _why_held(target, secrets, entry))}
    by_unit: dict[str, list[str]] = {}
    for entry in changed:
        if unit := unit_of(target, entry.path):
            by_unit.setdefault(unit, []).append(entry.path)
    for unit, paths in by_unit.items():
        completion = judge(read_facts(target, rules, unit, {p: r for p, r in reasons.items() if p.startswith(f"{unit}/")}))
        if not completion.complete:
            reasons = {**dict.fromkeys(paths, f"{unit} is not complete: {completion.reason}"), **reasons}
    yield from reasons.items()


def _why_held(target: Target, secrets: SecretRules, entry: Entry) -> str:
    reason, members = check_file(target.source, entry)
    if reason:
        return reason
    if members is not None and unit_of(target, entry.path) is None:
        directory = PurePosixPath(entry.path).parent
        missing = [name for name in members if look(target.source, str(directory / name)) is None]
        if missing:
            return f"shard {missing[0]} is missing"
    if secrets.mode != "block" or secrets.allows_path(entry.path):
        return ""
    found = judge_name(entry.path) or _scan(target, entry)

    return f"holds a secret: {found.rule}" if found else ""


def _scan(target: Target, entry: Entry) -> Secret | None:
    fd = open_entry(target.source, entry)
    try:
        return scan_file(fd, entry.identity.size)
    finally:
        os.close(fd)


def _count_backlogs(config: Config, target: Target) -> dict[str, int]:
    store = Store(store_directory(config, target), target.source)
    if not store.git.git_dir.exists() or store.git.resolve(SNAPSHOTS) is None:
        return dict.fromkeys((mirror.name for mirror in target.mirrors), 0)
    counts = {}
    for mirror in target.mirrors:
        published = read_published(store, mirror.name)
        span = f"{published}..{SNAPSHOTS}" if published else SNAPSHOTS
        counts[mirror.name] = int(store.git.text("rev-list", "--count", "--first-parent", span))

    return counts


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
