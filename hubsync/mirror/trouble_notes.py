"""Remembers in the ledger how a mirror fails, over restarts. A note that cannot be read or written is none."""

import contextlib

import msgspec

from hubsync.config.model import Mirror
from hubsync.errors import HubsyncError
from hubsync.monitor.redact import redact
from hubsync.store.ledger import Ledger


class TroubleNote(msgspec.Struct, frozen=True):
    """A row of failures; *since* and *next_try* are seconds since the epoch, *is_asked*: the Hub asked for the wait."""

    error: str
    error_kind: str
    hint: str
    failures: int
    since: float
    next_try: float
    retryable: bool
    is_asked: bool


class TroubleNotes:
    """The note on one mirror."""

    def __init__(self, ledger: Ledger, mirror: Mirror) -> None:
        self._ledger = ledger
        self._name = f"trouble {mirror.name} {mirror.endpoint}:{mirror.repo_type}/{mirror.repo_id}"

    def read(self) -> TroubleNote | None:
        """Return the note, if there is one."""
        try:
            return msgspec.json.decode(self._ledger.meta(self._name) or "", type=TroubleNote)
        except msgspec.DecodeError:
            return None

    def write(self, note: TroubleNote) -> None:
        """Remember *note* instead of what was known."""
        self._set(redact(msgspec.json.encode(note).decode()))

    def clear(self) -> None:
        """Forget it: the mirror works."""
        self._set("")

    def _set(self, text: str) -> None:
        with contextlib.suppress(HubsyncError):  # a full disk is said elsewhere
            self._ledger.set_meta(self._name, text)
