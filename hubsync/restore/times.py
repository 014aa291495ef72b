"""Reads when units were written, from the store of a target if there is one on this machine. It changes nothing there."""

from pathlib import Path

from hubsync.config.model import Target
from hubsync.errors import HubsyncError
from hubsync.pipeline import store_directory
from hubsync.store.git import Git
from hubsync.store.recovery import SNAPSHOTS
from hubsync.store.snapshot import Store


def read_unit_times(target: Target, state_dir: Path) -> dict[str, int]:
    """Return the units that were ever completed here, and when each was last written; nothing if there is no store."""
    directory = store_directory(target, state_dir)
    if not (directory / "store.git").exists():
        return {}
    store = Store(directory, target.source)
    try:
        head = Git(directory / "store.git").resolve(SNAPSHOTS)
        return dict(store.unit_times(head))
    except HubsyncError:
        return {}
