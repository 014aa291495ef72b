"""Remembers in the ledger how a mirror fails, over restarts. A note that cannot be read or written is none."""

import contextlib
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from hubsync.config.model import Mirror
from hubsync.errors import HubsyncError
from hubsync.monitor.redact import redact
from hubsync.store.ledger import Ledger


@dataclass(frozen=True, slots=True)
class TroubleNote:
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
        self._adapter = TypeAdapter(TroubleNote)

    def read(self) -> TroubleNote | None:
        """Return the note, if there is one."""
        try:
            return self._adapter.validate_json(self._ledger.meta(self._name) or "")
        except ValidationError:
            return None

    def write(self, note: TroubleNote) -> None:
        """Remember *note* instead of what was known."""
        self._set(redact(self._adapter.dump_json(note).decode()))

    def clear(self) -> None:
        """Forget it: the mirror works."""
        self._set("")

    def _set(self, text: str) -> None:
        with contextlib.suppress(HubsyncError):  # a full disk is said elsewhere
            self._ledger.set_meta(self._name, text)
