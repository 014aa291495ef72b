"""Decides nothing but the text of a git-lfs pointer (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""

import re

from msgspec import Struct

MAX_BYTES = 1024  # the specification: a pointer is smaller than this

_POINTER = re.compile(
    rb"version https://(?:git-lfs\.github\.com/spec|hawser\.github\.com/spec)/v1\n"
    rb"(?:ext-[^\n]*\n)*oid sha256:(?P<oid>[0-9a-f]{64})\nsize (?P<size>[0-9]{1,19})\n?"
)


class Pointer(Struct, frozen=True):
    """What stands in git for an object; *size* in bytes."""

    oid: str
    size: int

    def encode(self) -> bytes:
        """Return the pointer's canonical text."""
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (self.oid.encode(), self.size)


def decode_pointer(content: bytes) -> Pointer | None:
    """Read *content* as a pointer; ``None`` if it is none."""
    if len(content) >= MAX_BYTES:
        return None
    found = _POINTER.fullmatch(content)

    return Pointer(found["oid"].decode(), int(found["size"])) if found else None
