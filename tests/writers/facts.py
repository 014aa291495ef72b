"""Reads from a directory what a judgment needs, as the pipeline does; quiet is taken as given."""

import os
from pathlib import Path, PurePosixPath

from hubsync.watch.beneath import open_entry
from hubsync.watch.formats import check_structure, index_members
from hubsync.watch.inventory import take_inventory
from hubsync.watch.layouts import LINKS, MARKERS, FileFact, UnitFacts
from hubsync.watch.rules import PathRules


def read_facts(source: Path, unit: str, complete_when: tuple[str, ...] = ()) -> UnitFacts:
    """Return the facts of *unit* in *source*."""
    inventory = take_inventory(source, PathRules(), unit)
    inside = len(unit) + 1
    held, indexes = {}, {}
    for path, entry in inventory.entries.items():
        fd = open_entry(source, entry)
        try:
            verdict = check_structure(fd, path, entry.identity.size)
            members = index_members(fd, path)
        finally:
            os.close(fd)
        if not verdict.whole:
            held[path[inside:]] = verdict.reason
        if members is not None:
            indexes[path[inside:]] = members
    directory = source / unit
    found = {marker: directory / marker for marker in MARKERS if (directory / marker).is_file()}
    links = {link: directory / link for link in LINKS if directory.is_dir() and (directory / link).is_symlink()}

    return UnitFacts(
        name=PurePosixPath(unit).name,
        files={p[inside:]: FileFact(e.identity.size, e.identity.mtime_ns) for p, e in inventory.entries.items()},
        indexes=indexes,
        parent_files=frozenset(item.name for item in directory.parent.iterdir())
        if directory.parent.is_dir()
        else frozenset(),
        markers={m: path.read_text() for m, path in found.items()} | {m: str(p.readlink()) for m, p in links.items()},
        marker_times={marker: path.stat().st_mtime_ns for marker, path in found.items()},
        complete_when=complete_when,
        held=held,
        writing=frozenset(path[inside:] for path in inventory.temporary),
    )
