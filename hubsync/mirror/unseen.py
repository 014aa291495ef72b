"""Looks for secrets in what has waited for a mirror since before ``secrets`` was made to block them, before it is sent.

What waited is remembered when the stricter rule begins, so that nothing else is looked at twice. Of mirrors nothing is
known here.
"""

import json
import os
from collections.abc import Iterable
from hashlib import sha256

from hubsync.config.model import Target
from hubsync.mirror.view import Step
from hubsync.store.ledger import Ledger
from hubsync.store.scan import scan_content, scan_file
from hubsync.store.secrets import Secret, SecretRules, judge_name
from hubsync.store.snapshot import Store

_KEY = "secrets unseen"  # in the ledger: blobs


def note_unseen(ledger: Ledger, blobs: Iterable[str]) -> None:
    """Remember that *blobs* were captured when secrets were let through."""
    with ledger.transaction():
        ledger.set_meta(_KEY, json.dumps(sorted(_read(ledger) | set(blobs))))


def written(steps: Iterable[Step]) -> dict[tuple[str, str], None]:
    """Return what *steps* write: (path, blob), each once."""
    return {(change.path, change.after.blob): None for step in steps for change in step.changes if change.after}


class Unseen:
    """What *target* would not let into *store* any more."""

    def __init__(self, target: Target, store: Store) -> None:
        self._rules = SecretRules(target.secrets, target.secrets_allow)
        self._store = store

    def is_any(self) -> bool:
        """Tell whether there is something to be looked at."""
        return self._rules.mode == "block" and bool(_read(self._store.ledger))

    def find(self, steps: Iterable[Step]) -> dict[tuple[str, str], Secret]:
        """Return what of *steps* holds a secret that is not let through, by path and blob; the rest is seen from now on."""
        ledger = self._store.ledger
        unseen = _read(ledger)
        asked = [(path, blob) for path, blob in written(steps) if blob in unseen]
        contents = {path_blob: self._look(*path_blob) for path_blob in asked if not self._rules.allows_path(path_blob[0])}
        kept = {blob for path, blob in asked if (path, blob) not in contents or contents[path, blob] is not None}
        with ledger.transaction():
            ledger.set_meta(_KEY, json.dumps(sorted(_read(ledger) - ({blob for _, blob in asked} - kept))))

        return {path_blob: secret for path_blob, secret in contents.items() if secret and not self._allows(path_blob[1])}

    def _look(self, path: str, blob: str) -> Secret | None:
        if (secret := judge_name(path)) is not None:
            return secret
        pointer = self._store.pointers([blob]).get(blob)
        if pointer is None:
            return next((scan_content(content) for _, content in self._store.git.read_blobs([blob])), None)
        if not self._store.objects.has(pointer.oid):  # it cannot be sent either
            return None
        with self._store.objects.path(pointer.oid).open("rb") as pin:
            return scan_file(pin.fileno(), os.fstat(pin.fileno()).st_size)

    def _allows(self, blob: str) -> bool:
        if not self._rules.asks_for_hash:
            return False
        pointer = self._store.pointers([blob]).get(blob)
        if pointer is not None:
            return self._rules.allows_hash(pointer.oid)
        return any(self._rules.allows_hash(sha256(text).hexdigest()) for _, text in self._store.git.read_blobs([blob]))


def _read(ledger: Ledger) -> set[str]:
    return set(json.loads(ledger.meta(_KEY) or "[]"))
