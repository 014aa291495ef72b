"""Owns the LFS objects of a repository: where they lie, and how one is taken in only if it is what it claims to be."""

import contextlib
import hashlib
import uuid
from pathlib import Path

from hubsync.localhub.refusals import RefusedError


def object_path(objects_dir: Path, oid: str) -> Path:
    """Return where the object *oid* lies, or would."""
    return objects_dir / oid[:2] / oid[2:4] / oid


def holds_object(objects_dir: Path, oid: str, size: int) -> bool:
    """Whether the object is there, whole."""
    try:
        return object_path(objects_dir, oid).stat().st_size == size
    except FileNotFoundError:
        return False


def list_objects(objects_dir: Path) -> list[Path]:
    """Return all objects, the newest first."""
    return sorted(objects_dir.glob("*/*/*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


class IncomingObject:
    """An object while it is received: it gets its name only when its bytes are the right ones."""

    def __init__(self, objects_dir: Path, oid: str, size: int) -> None:
        self._goal = object_path(objects_dir, oid)
        self._oid = oid
        self._size = size
        self._received = 0
        self._hash = hashlib.sha256()
        incoming = objects_dir.parent / "incoming"
        incoming.mkdir(exist_ok=True)
        self._path = incoming / uuid.uuid4().hex
        self._file = self._path.open("wb", buffering=0)

    def write(self, chunk: bytes | bytearray) -> None:
        """Add *chunk*; what comes after the announced size is counted, and not kept."""
        self._received += len(chunk)
        if self._received > self._size:
            return
        self._hash.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]

    def keep(self) -> None:
        """Give the object its name; raises RefusedError if these are not its bytes."""
        if self._received != self._size:
            raise RefusedError(400, f"Object has {self._received} bytes, {self._size} were announced")
        if self._hash.hexdigest() != self._oid:
            raise RefusedError(400, f"Content does not match its SHA-256: {self._oid}")
        self._goal.parent.mkdir(parents=True, exist_ok=True)
        self._path.rename(self._goal)

    def close(self) -> None:
        """Let go; what was not kept is gone."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
