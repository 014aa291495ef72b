"""Tells whether a directory holds just what is to be restored to it: a killed restore had only its last word to say."""

import hashlib
import os
import stat
from pathlib import Path

from hubsync.restore.catalog import File, Files

_EXECUTABLE = 0o100


def holds_exactly(directory: Path, files: Files) -> bool:
    """Tell whether *directory* has *files*, byte for byte, and nothing else. Raises OSError."""
    found: dict[str, Path] = {}
    for place, directories, names in os.walk(directory):
        inside = Path(place).relative_to(directory)
        if not directories and not names:
            return False
        found |= {str(inside / name): Path(place, name) for name in names}
        if any(Path(place, name).is_symlink() for name in directories):
            return False
    if found.keys() != files.keys():
        return False

    return all(_is_same(found[path], file) for path, file in files.items())


def _is_same(path: Path, file: File) -> bool:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
        return False
    if bool(status.st_mode & _EXECUTABLE) != bool(file.permissions & _EXECUTABLE):
        return False
    with path.open("rb") as content:
        if file.pointer is not None:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.pointer.oid
        named = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        while block := content.read(1 << 20):
            named.update(block)

    return named.hexdigest() == file.blob
