"""Decides which settled files become which snapshot: a unit is never split, other files fill batches in order."""

from collections.abc import Iterable, Iterator

from msgspec import Struct


class BatchLimits(Struct, frozen=True):
    """How much one snapshot may hold, unless a single unit is larger."""

    max_files: int
    max_bytes: int


def split_batches(sized: Iterable[tuple[str, int]], limits: BatchLimits) -> Iterator[list[str]]:
    """Yield lists of paths from (path, size in bytes) pairs, each within *limits* but never empty."""
    batch: list[str] = []
    held = 0
    for path, size in sized:
        if batch and (len(batch) >= limits.max_files or held + size > limits.max_bytes):
            yield batch
            batch, held = [], 0
        batch.append(path)
        held += size
    if batch:
        yield batch
