"""Decides what the two files say that are published with a unit: what is in it, and where it comes from. Pure.

``hubsync.json`` is for programs; ``SHA256SUMS`` is what ``sha256sum -c`` reads, with the hash of the former in it. Both
name files relative to the unit, and neither says when it was made: the same unit gives the same bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import asdict

RECORD = "hubsync.json"
SUMS = "SHA256SUMS"
NAMES = (RECORD, SUMS)

_VERSION = 1
_NANOSECONDS = 1_000_000_000


class Origin(Struct, frozen=True):
    """Where a unit comes from; *layout* is what wrote it, as its files tell."""

    target: str
    unit: str
    host: str
    layout: str


class Described(Struct, frozen=True):
    """One file of a unit; *mtime_ns* is ``None`` where it is not known any more."""

    sha256: str
    size: int
    mtime_ns: int | None


def encode_provenance(origin: Origin, files: Mapping[str, Described]) -> dict[str, bytes]:
    """Return both files, by name; *files* are all others of the unit."""
    newest = max((file.mtime_ns for file in files.values() if file.mtime_ns is not None), default=None)
    record = {
        "schema_version": _VERSION,
        **asdict(origin),
        "written_at": _spell_time(newest),
        "bytes": sum(file.size for file in files.values()),
        "files": [
            {"path": path, "sha256": file.sha256, "size": file.size, "modified": _spell_time(file.mtime_ns)}
            for path, file in sorted(files.items())
        ],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n"
    hashes = {path: file.sha256 for path, file in files.items()} | {RECORD: hashlib.sha256(text).hexdigest()}
    sums = "".join(_line(path, sha256) for path, sha256 in sorted(hashes.items()))

    return {RECORD: text, SUMS: sums.encode()}


def decode_origin(record: bytes, target: str, unit: str) -> Origin:
    """Return the origin that an earlier *record* names."""
    try:
        read = json.loads(record)
        return Origin(target, unit, str(read["host"]), str(read["layout"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return Origin(target, unit, "", "")


def own_patterns(units: Iterable[str]) -> tuple[str, ...]:
    """Return what excludes files of these names from a source: those that came back with a restored unit, say."""
    anchored = [unit.rstrip("/") if "/" in unit.rstrip("/") else f"**/{unit.rstrip('/')}" for unit in units]
    return tuple(f"{unit}/{name}" for unit in anchored for name in NAMES)


def _line(path: str, sha256: str) -> str:
    """Return a line as sha256sum writes it: names that would break it are escaped, and the line says so."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == path else chr(92)}{sha256}  {escaped}\n"


def _spell_time(time_ns: int | None) -> str | None:
    if time_ns is None:
        return None
    whole = datetime.fromtimestamp(time_ns // _NANOSECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{time_ns % _NANOSECONDS:09d}Z"
