"""Verifies a target as its config schedules it, beside all that is published meanwhile."""

from collections.abc import Sequence

from hubsync.config.model import Target
from hubsync.errors import UsageError
from hubsync.proof.keeper import ReceiptKeeper
from hubsync.proof.verify import Means, Reading, verify

_BYTES_PER_S = 50_000_000  # from each mirror, so that a training's own downloads have room


def verify_by_schedule(target: Target, keepers: Sequence[ReceiptKeeper]) -> None:
    """Verify *target* on all its mirrors; the results are logged and noted."""
    first = keepers[0]
    try:
        verify(Means(first.config, first.tokens, first.stop), target, Reading(target.verify_sample, _BYTES_PER_S))
    except UsageError:
        return  # nothing was captured yet
