"""Writes what was captured as snapshots, and says so once they are in the store: one line, however many there are."""

import time
from collections.abc import Collection, Sequence

from msgspec import Struct

from hubsync.monitor.logger import FilteringBoundLogger
from hubsync.monitor.text import format_bytes, format_count
from hubsync.pipeline.provenance import Describe, Provenance
from hubsync.store.capture import Captured
from hubsync.store.snapshot import SnapshotWriter, Store
from hubsync.watch.entry import Entry
from hubsync.watch.layout_words import step_of


class Written(Struct, frozen=True):
    """One snapshot that was written."""

    commit: str
    files: int
    bytes: int
    lfs_files: int
    units: tuple[str, ...] = ()


def write_snapshot(
    writer: SnapshotWriter, captured: Sequence[Captured], *, subject: str = "", units: tuple[str, ...] = (),
    written_ns: int | None = None, describe: Describe | None = None,
) -> list[Written]:  # fmt: skip
    """Write one snapshot of *captured* and return it; none if nothing differs from the newest one.

    *describe* adds what is published beside it, and what goes with it; that alone makes no snapshot.
    """
    changes = {c.path: entry for c in captured if (entry := writer.add(c)) is not None}
    if not changes:
        return []
    described = describe(writer, captured) if describe is not None else {}
    size = sum(c.identity.size for c in captured if c.path in changes)
    if not subject:
        named = next(iter(changes)) if len(changes) == 1 else format_count(len(changes), "file")
        subject = f"{_on_one_line(named)}, {format_bytes(size)}"
    if written_ns is None:
        written_ns = max(c.identity.mtime_ns for c in captured)
    commit = writer.commit(
        {**described, **changes}, subject, units=units, written_at=written_ns // 1_000_000_000, now=int(time.time())
    )
    lfs_files = sum(1 for c in captured if c.pointer is not None and c.path in changes)

    return [Written(commit, len(changes), size, lfs_files, units)]


def tell_written(written: Sequence[Written], log: FilteringBoundLogger) -> list[str]:
    """Say what was committed, and return the commits."""
    if written:
        log.info(
            "snapshot.committed", commit=written[-1].commit, files=sum(one.files for one in written),
            bytes=sum(one.bytes for one in written), units=[unit for one in written for unit in one.units],
            lfs_files=sum(one.lfs_files for one in written), snapshots=len(written),
        )  # fmt: skip

    return [one.commit for one in written]


def write_removal(store: Store, gone: Collection[str], provenance: Provenance, log: FilteringBoundLogger) -> str:
    """Write a snapshot without the paths *gone* and return its commit."""
    now = int(time.time())
    with store.write() as writer:
        subject = f"Remove {format_count(len(gone), 'file')}"
        changes = {**dict.fromkeys(gone), **provenance.without(writer, gone)}
        commit = writer.commit(changes, subject, units=(), written_at=now, now=now)
    log.info("snapshot.committed", commit=commit, files=0, bytes=0, removed=len(gone))

    return commit


def unit_subject(unit: str, entries: Collection[Entry]) -> str:
    """Return the first line of a unit's commit: its name, step, files and bytes."""
    step, size = step_of(unit), sum(entry.identity.size for entry in entries)
    stepped = "" if step == float("-inf") else f"step {step}, "
    return f"{_on_one_line(unit)}: {stepped}{format_count(len(entries), 'file')}, {format_bytes(size)}"


def _on_one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
