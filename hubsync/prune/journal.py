"""Remembers on disk which unit is being removed and how far that is, so that a killed removal is ended or undone."""

import json
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from hubsync.errors import StateError
from hubsync.prune.listing import Directory, Listing
from hubsync.store.pruned import write_durably
from hubsync.watch.entry import Identity


class Begun(Struct, frozen=True):
    """A removal that was begun: *unit* was to be called *hidden*. Once it *is_proven*, what is as it was listed may go."""

    unit: str
    hidden: str
    is_proven: bool
    listing: Listing


class Journal:
    """The removal that goes on, in *file*; there is one at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, begun: Begun) -> None:
        """Note *begun*, durably."""
        listing = begun.listing
        files: Mapping[str, list[int]] = {path: list(identity) for path, identity in listing.files.items()}
        directories = {path: list(each) for path, each in listing.directories.items()}
        note = {
            "unit": begun.unit, "hidden": begun.hidden, "is_proven": begun.is_proven, "files": files,
            "directories": directories, "size": listing.size,
        }  # fmt: skip
        try:
            write_durably(self._file, json.dumps(note))
        except OSError as exc:
            raise StateError(f"{self._file}: {exc.strerror}", hint="see the state directory and its disk") from exc

    def read(self) -> Begun | None:
        """Return what was begun and not ended; a note that cannot be read proves nothing, and names no unit."""
        try:
            note = json.loads(self._file.read_text("utf-8"))
            listing = Listing(
                {path: Identity(*identity) for path, identity in note["files"].items()},
                {path: Directory(*each) for path, each in note["directories"].items()},
                note["size"],
            )
            return Begun(note["unit"], note["hidden"], note["is_proven"] is True, listing)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def end(self) -> None:
        """Forget it."""
        self._file.unlink(missing_ok=True)
