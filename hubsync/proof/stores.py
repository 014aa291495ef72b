"""Opens what is known of a target here for reading, beside a daemon or without one. It changes nothing there."""

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hubsync.config.model import Target
from hubsync.errors import StateError, UsageError
from hubsync.pipeline import store_directory
from hubsync.store.ledger import Ledger, copy_ledger
from hubsync.store.snapshot import Store


class ReadStore(Store):
    """A store that is only read; its ledger is a copy in *scratch*."""

    def __init__(self, directory: Path, source: Path, scratch: Path) -> None:
        super().__init__(directory, source)
        self.ledger = Ledger(scratch / "ledger.sqlite")
        self._scratch = scratch

    def open(self) -> None:
        """Copy the ledger: a daemon may be writing the original."""
        if (original := self.directory / "ledger.sqlite").exists():
            with contextlib.suppress(StateError):  # it is a cache
                copy_ledger(original, self._scratch / "ledger.sqlite")
        self.ledger.open()
        self.follow_branch()


@contextmanager
def opened_store(target: Target, state_dir: Path) -> Iterator[ReadStore]:
    """Give the store of *target*.

    Raises:
        UsageError: nothing was ever captured here.
    """
    directory = store_directory(target, state_dir)
    if not (directory / "store.git").exists():
        raise UsageError(
            f"nothing of target {target.name!r} was captured on this machine", hint=f"hubsync once {target.name}"
        )
    with tempfile.TemporaryDirectory(prefix="hubsync-verify-") as scratch:
        store = ReadStore(directory, target.source, Path(scratch))
        store.open()
        try:
            yield store
        finally:
            store.close()
