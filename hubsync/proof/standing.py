"""Remembers how a mirror failed its last verification, until it passes one or is proved whole by receipts.

It lies in the target's ledger, so that a daemon tells of what a command found, and still does after a restart.
"""

import json
import time

from msgspec import Struct
from msgspec.structs import asdict, replace

from hubsync.store.ledger import Ledger


class Failure(Struct, frozen=True):
    """Why a mirror failed, *since* when (seconds since the epoch).

    *is_provable*: receipts for all that it should hold show that it is over; else only a verification does.
    """

    error: str
    error_kind: str
    hint: str
    is_provable: bool
    since: float = 0.0


def read_failure(ledger: Ledger, mirror: str) -> Failure | None:
    """Return how *mirror* failed; ``None`` if it is well, or was never verified."""
    noted = ledger.meta(_key(mirror))
    return Failure(**json.loads(noted)) if noted else None


def note_failure(ledger: Ledger, mirror: str, failure: Failure | None) -> None:
    """Remember that *mirror* failed, since the first time in a row; or (``None``) that it is well."""
    with ledger.transaction():
        before = read_failure(ledger, mirror)
        if failure is None:
            if before is not None:
                ledger.set_meta(_key(mirror), "")
            return
        since = before.since if before is not None else time.time()
        ledger.set_meta(_key(mirror), json.dumps(asdict(replace(failure, since=since))))


def _key(mirror: str) -> str:
    return f"verify_failed:{mirror}"
