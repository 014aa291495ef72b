"""What a file was when it was written: its size and digests. Knows no Hub; the digests are how a Hub names content."""

import hashlib
from pathlib import Path
from typing import NamedTuple

_CHUNK = 1 << 20


class Record(NamedTuple):
    """The content of one file: ``sha256`` names it in LFS, ``blob`` (git's object id) in git."""

    size: int
    sha256: str
    blob: str


def digest(path: Path) -> Record:
    """Read the file at *path* once and return what it is."""
    sha256 = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while piece := file.read(_CHUNK):
            sha256.update(piece)
            blob.update(piece)

    return Record(size, sha256.hexdigest(), blob.hexdigest())
