"""Reads what is known of a unit from the source, for ``watch.layouts`` to judge. It decides nothing and keeps nothing."""

import functools
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from hubsync.config.model import Target
from hubsync.errors import FileError, FileUnreadableError, SourceError
from hubsync.store.provenance import own_patterns
from hubsync.watch.beneath import open_entry
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.formats import check_structure, index_members
from hubsync.watch.inventory import Inventory, look, take_inventory
from hubsync.watch.layouts import LINKS, MARKERS, FileFact, UnitFacts
from hubsync.watch.logs import is_event_log
from hubsync.watch.names import Kind
from hubsync.watch.rules import PathRules
from hubsync.watch.unit_facts import UNFINISHED

_NEWLY_WRITTEN_S = 600.0  # a temporary file older than this was left by a writer that is gone
_MARKER_BYTES = 65_536


def unit_of(target: Target, path: str) -> str | None:
    """Return the unit that *path* belongs to: the topmost of its directories that ``units`` names."""
    return unit_among(target.units, path)


def unit_among(patterns: tuple[str, ...], path: str) -> str | None:
    """Return the unit that *path* belongs to if *patterns* name the units."""
    return _unit_of_directory(patterns, path.rpartition("/")[0]) if patterns else None


def target_rules(target: Target) -> PathRules:
    """Return the rules that say what of a source is looked at."""
    own = own_patterns(target.units) if target.provenance else ()
    return PathRules(target.include, (*target.exclude, *own))


def read_facts(target: Target, rules: PathRules, unit: str, known: Mapping[str, str]) -> UnitFacts:
    """Return what is known of *unit*; *known* says of paths of the source why they are held already.

    Its event files, which grow as long as the run does, count for nothing unless there is nothing else.
    """
    source = target.source
    inventory = take_inventory(source, rules, unit)
    inside = len(unit) + 1
    held = {path[inside:]: reason for path, reason in known.items() if path.startswith(f"{unit}/")}
    logs = {path: entry for path, entry in inventory.entries.items() if is_event_log(path)}
    if len(logs) < len(inventory.entries):
        for path in logs:
            del inventory.entries[path]
    else:
        held |= {p[inside:]: "still being written" for p, log in logs.items() if age_s(log.identity) < target.quiet_s}
    indexes: dict[str, tuple[str, ...]] = {}
    unreadable: dict[str, str] = {}
    for path, entry in inventory.entries.items():
        name = path[inside:]
        try:
            reason, members = ("", None) if name in held else check_file(source, entry)
        except FileUnreadableError as exc:
            reason, members = exc.reason, None
            unreadable[name] = exc.hint
        if reason:
            held[name] = reason
        if members is not None:
            indexes[name] = members
    held |= {path[inside:]: skip.reason for path, skip in inventory.skipped.items() if skip.kind is not Kind.IGNORED}
    markers = dict(_read_markers(source, unit))

    return UnitFacts(
        name=PurePosixPath(unit).name,
        files={p[inside:]: FileFact(e.identity.size, e.identity.mtime_ns) for p, e in inventory.entries.items()},
        indexes=indexes,
        parent_files=_names_beside(source / unit),
        markers={name: text for name, (text, _) in markers.items()} | dict(_read_links(source, unit)),
        marker_times={name: mtime_ns for name, (_, mtime_ns) in markers.items()},
        complete_when=target.complete_when,
        held=held,
        unreadable=unreadable,
        writing=frozenset(p[inside:] for p, i in inventory.temporary.items() if _is_being_written(p, i)),
        unchanged_s=_unchanged_s(inventory),
    )


def _is_being_written(path: str, identity: Identity) -> bool:
    """Tell whether a temporary name speaks of a writer at work; NeMo's mark does so for as long as it is there."""
    return path.endswith(UNFINISHED) or age_s(identity) < _NEWLY_WRITTEN_S


def check_file(source: Path, entry: Entry) -> tuple[str, tuple[str, ...] | None]:
    """Return (why *entry* is not whole: empty if it is, the files that it names if it is an index).

    Raises:
        FileUnreadableError: it cannot be opened.
    """
    try:
        fd = open_entry(source, entry)
    except FileUnreadableError:
        raise
    except FileError as exc:
        return exc.reason, None
    except SourceError as exc:
        return str(exc), None
    try:
        verdict = check_structure(fd, entry.path, os.fstat(fd).st_size)
        members = index_members(fd, entry.path)
    finally:
        os.close(fd)

    return "" if verdict.whole else verdict.reason, members


def age_s(identity: Identity) -> float:
    """Return how long ago the file was changed in any way, in seconds; never negative."""
    return max(0.0, time.time() - max(identity.mtime_ns, identity.ctime_ns) / 1e9)


def _unchanged_s(inventory: Inventory) -> float:
    # By mtime alone: our own pins move the ctime.
    newest_ns = max((entry.identity.mtime_ns for entry in inventory.entries.values()), default=0)
    return max(0.0, time.time() - newest_ns / 1e9)


def _names_beside(directory: Path) -> frozenset[str]:
    try:
        with os.scandir(directory.parent) as items:
            return frozenset(item.name for item in items)
    except OSError:
        return frozenset()


def _read_markers(source: Path, unit: str) -> Iterator[tuple[str, tuple[str, int]]]:
    for marker in MARKERS:
        entry = look(source, os.path.normpath(f"{unit}/{marker}"))
        if entry is None or entry.identity.size > _MARKER_BYTES:
            continue
        try:
            fd = open_entry(source, entry)
        except FileError:  # no signal to us; as a file of the source it is told of
            continue
        try:
            text = os.pread(fd, _MARKER_BYTES, 0).decode("utf-8", "replace").strip()
        finally:
            os.close(fd)
        yield marker, (text, entry.identity.mtime_ns)


def _read_links(source: Path, unit: str) -> Iterator[tuple[str, str]]:
    for link in LINKS:
        try:
            yield link, str((source / os.path.normpath(f"{unit}/{link}")).readlink())
        except OSError:
            continue


@functools.lru_cache(maxsize=256)
def _unit_of_directory(units: tuple[str, ...], directory: str) -> str | None:
    if not directory:
        return None
    above = _unit_of_directory(units, directory.rpartition("/")[0])
    if above is not None:
        return above

    return directory if _unit_patterns(units).match_file(f"{directory}/") else None


@functools.lru_cache(maxsize=64)
def _unit_patterns(units: tuple[str, ...]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(units)
