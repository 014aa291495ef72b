"""Owns fingerprints: what tells whether bytes are still those that were hashed, at the speed of memory.

A fingerprint is taken of the very bytes that SHA-256 gets, so that bytes which are used later need no second SHA-256 to
be known for those of an oid. It is XXH3 of 128 bits (https://xxhash.com) with a seed of its own, by chance: no writer
can aim at it, but it proves nothing to anybody else, and is kept in memory only.
"""

import os
from typing import Self

from xxhash import xxh3_128

_SEED_HEX = 16


class Fingerprint:
    """The fingerprint of what it is fed; ``begin_like`` begins one to compare with another."""

    def __init__(self, seed: int | None = None) -> None:
        self._seed = int.from_bytes(os.urandom(8)) if seed is None else seed
        self._sum = xxh3_128(seed=self._seed)

    @classmethod
    def begin_like(cls, text: str) -> Self:
        """Return one that has the same text as the one that *text* is of, once it was fed the same bytes."""
        return cls(int(text[:_SEED_HEX], 16))

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._sum.update(piece)

    def text(self) -> str:
        """Return the seed, and what came of the bytes so far, in hexadecimal digits."""
        return f"{self._seed:0{_SEED_HEX}x}{self._sum.hexdigest()}"
