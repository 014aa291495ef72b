"""Tells whether files lie as they were left: what was whole then, and was not touched since, need not be read again.

A disk that forgets what it holds is not found out by this, but by whoever reads it. It must never know what the files are.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_SEAL = "seal.json"
_ASIDE = "lfs"  # what lies in a directory of this name is looked at by itself


def seal(directory: Path, names: Iterable[str]) -> None:
    """Remember how all files at *names* (of files or directories) in *directory* lie now."""
    (directory / _SEAL).write_text(json.dumps({name: _describe(directory / name) for name in names}))


def break_seal(directory: Path) -> frozenset[str]:
    """Return those of the names that were sealed at which all lies as it did, and forget them."""
    file = directory / _SEAL
    try:
        sealed = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):  # there is none, or a power cut took it
        sealed = {}
    file.unlink(missing_ok=True)

    return frozenset(name for name, described in sealed.items() if described == _describe(directory / name))


def _describe(place: Path) -> str:
    """Return what tells the files at *place* from what they are once one was written, replaced, added or removed."""
    digest = hashlib.sha256()
    for path in sorted(_files(place)):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path)
            now = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            digest.update(os.fsencode(f"{path} {now}\n"))

    return digest.hexdigest()


def _files(place: Path) -> Iterator[str]:
    if not place.is_dir():
        yield str(place)
    for directory, below, names in os.walk(place):
        if _ASIDE in below:
            below.remove(_ASIDE)
        yield from (f"{directory}/{name}" for name in names)
