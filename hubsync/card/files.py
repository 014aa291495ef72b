"""Reads what a card is made from: small texts, and digests of large files. It decides nothing about the card.

Nothing is ever unpickled: what a digest needs stands in a header, or in records with a form of their own.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from hubsync.card.tfevents import Events, read_events
from hubsync.card.weights import count_parameters, header_end
from hubsync.config.model import Target
from hubsync.errors import HubsyncError
from hubsync.units import target_rules
from hubsync.watch.beneath import open_entry
from hubsync.watch.inventory import take_inventory
from hubsync.watch.rules import PathRules

TEXT_MOST = 16 << 20
_EVENTS_MOST = 32 << 20  # some seconds
_POINTS_MOST = 300  # of one tag: more is not seen in a picture
_TAGS_MOST = 100
_DIGEST_TEXT_MOST = 1 << 16

Digest = dict[str, Any]
Read = Callable[[int], bytes]  # the first bytes of a file, as many as asked for


class Files(Protocol):
    """The files of a target, by their paths in the source."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Those that the mirror gets, and how large they are."""
        ...

    @property
    def sources(self) -> Collection[str]:
        """All that facts may be read from: a mirror of weights alone tells of their training as well."""
        ...

    def text(self, path: str) -> str | None:
        """Return the text of *path*; ``None`` if there is none, or it is too large or no text."""
        ...

    def digest(self, path: str) -> Digest | None:
        """Return what ``digest_file`` says of *path*; ``None`` if that is not known."""
        ...


class SourceFiles:
    """The files of a source as it stands, of which a mirror gets what *shown* takes."""

    def __init__(self, target: Target, shown: PathRules | None = None) -> None:
        self._source = target.source
        self._entries = take_inventory(target.source, target_rules(target)).entries
        self.sources = self._entries.keys()
        got = {path: entry for path, entry in self._entries.items() if shown is None or shown.verdict(path).taken}
        self.sizes = {path: entry.identity.size for path, entry in got.items()}
        self.times = {path: entry.identity.mtime_ns // 1_000_000_000 for path, entry in self._entries.items()}

    def text(self, path: str) -> str | None:
        """Return the text of *path*."""
        content = self._read(path, TEXT_MOST + 1) if path in self._entries else None
        return decode(content)

    def digest(self, path: str) -> Digest | None:
        """Return the digest of *path*."""
        return digest_file(path, lambda count: self._read(path, count) or b"")

    def _read(self, path: str, count: int) -> bytes | None:
        try:
            fd = open_entry(self._source, self._entries[path])
        except HubsyncError:
            return None
        try:
            return read_start(fd, count)
        finally:
            os.close(fd)


def read_start(fd: int, count: int) -> bytes:
    """Return the first *count* bytes of an open file, or all of it."""
    pieces, at = [], 0
    while at < count and (piece := os.pread(fd, min(count - at, 1 << 24), at)):
        pieces.append(piece)
        at += len(piece)

    return b"".join(pieces)


def read_path(path: Path, count: int) -> bytes:
    """Return the first *count* bytes of the file at *path*; nothing if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return read_start(fd, count)
    finally:
        os.close(fd)


def decode(content: bytes | None) -> str | None:
    """Return *content* as text, unless it is too large or not UTF-8."""
    if content is None or len(content) > TEXT_MOST:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def digest_file(path: str, read: Read) -> Digest | None:
    """Return what a card needs of a large file: ``dtypes`` of weights, ``scalars`` and ``texts`` of events."""
    if path.endswith(".safetensors"):
        end = header_end(read(8))
        counts = count_parameters(read(end)) if end else None
        return None if counts is None else {"dtypes": counts}
    if is_events(path):
        return _digest_events(read_events(read(_EVENTS_MOST)))

    return None


def is_events(path: str) -> bool:
    """Tell whether *path* is an event file of TensorBoard."""
    return ".tfevents." in path.rpartition("/")[2]


def _digest_events(events: Events) -> Digest | None:
    if not events.scalars and not events.texts:
        return None
    scalars = {tag: thin_out(points) for tag, points in list(events.scalars.items())[:_TAGS_MOST]}
    texts = {tag: text for tag, text in events.texts.items() if len(text) <= _DIGEST_TEXT_MOST}

    digest: Digest = json.loads(json.dumps({"scalars": scalars, "texts": texts}))  # as it comes back from a cache
    return digest


def thin_out(points: list[Any], most: int = _POINTS_MOST) -> list[Any]:
    """Return at most *most* of *points*, evenly chosen, the first and the last among them."""
    if len(points) <= most:
        return points
    last = len(points) - 1

    return [points[round(number * last / (most - 1))] for number in range(most)]
