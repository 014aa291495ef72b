"""Remembers which units a mirror was made to drop, so that they are never published there again.

It is a file of its own: the ledger and the mirror's repository here are caches, and what they forget is published anew.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from hubsync.errors import StateError
from hubsync.store.pruned import write_durably
from hubsync.store.snapshot import Store


class Drop(Struct, frozen=True):
    """A unit that was dropped as it was *written_at* (seconds since the epoch); saved again, it is another one.

    Attributes:
        is_gone: whether the mirror does not show it any more; before that it was only decided.
        objects: what it had (oid → size), to be freed.
        is_freed: whether nothing of it is left to be freed.
    """

    written_at: int
    is_gone: bool = False
    objects: Mapping[str, int] = field(default_factory=dict)
    is_freed: bool = False


class Dropped:
    """The units that the mirror called *mirror* dropped."""

    def __init__(self, store: Store, mirror: str) -> None:
        self._file = store.directory / f"dropped-{quote(mirror, safe='')}.json"
        self.units: dict[str, Drop] = _read(self._file)

    @property
    def written_at(self) -> dict[str, int]:
        """The units, and when those that were dropped had been written."""
        return {unit: drop.written_at for unit, drop in self.units.items()}

    @property
    def pending(self) -> dict[str, Drop]:
        """Those that are still to go."""
        return {unit: drop for unit, drop in self.units.items() if not drop.is_gone}

    @property
    def unfreed(self) -> dict[str, Drop]:
        """Those whose storage is still to be freed."""
        return {unit: drop for unit, drop in self.units.items() if drop.is_gone and not drop.is_freed}

    def add(self, units: Mapping[str, Drop]) -> None:
        """Note that *units* are to go, before they do."""
        self._write({**self.units, **units})

    def note_gone(self, units: Mapping[str, Drop]) -> None:
        """Note that *units* went."""
        self._write({**self.units, **{unit: replace(drop, is_gone=True) for unit, drop in units.items()}})

    def note_freed(self, units: Mapping[str, Drop]) -> None:
        """Note that the storage of *units* is freed."""
        freed = {unit: replace(drop, is_freed=True, objects={}) for unit, drop in units.items()}
        self._write({**self.units, **freed})

    def _write(self, units: dict[str, Drop]) -> None:
        try:
            write_durably(self._file, json.dumps({unit: asdict(drop) for unit, drop in sorted(units.items())}))
        except OSError as exc:
            raise StateError(f"{self._file}: {exc.strerror}", hint="let this user write it, and see its disk") from exc
        self.units = units


def _read(file: Path) -> dict[str, Drop]:
    try:
        return {unit: Drop(**drop) for unit, drop in json.loads(file.read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise StateError(
            f"{file} cannot be read: {exc}", hint="it says which units the mirror dropped; mend or remove it"
        ) from exc
