"""Tells whether a hubsync is there, by its lock; imports nothing that takes long."""

import contextlib
import os
from pathlib import Path


def is_locked(state_dir: Path) -> bool:
    """Tell whether a hubsync runs on *state_dir*."""
    return find_owner(state_dir) is not None


def find_owner(state_dir: Path) -> int | None:
    """Return the process that the lock of *state_dir* names, if it is there and has it open.

    Nothing is locked or opened for it: a hubsync that is just starting would take us for another one.
    """
    lock = state_dir / "lock"
    try:
        owner = lock.read_text("ascii").strip()
        return int(owner) if owner.isdecimal() and _has_open(owner, lock.stat()) else None
    except (OSError, UnicodeDecodeError):
        return None


def _has_open(pid: str, file: os.stat_result) -> bool:
    try:
        opened = list(Path("/proc", pid, "fd").iterdir())
    except PermissionError:
        return True  # it has rights that we lack, and may not be looked into
    return any(is_same_file(path, file) for path in opened)


def is_same_file(path: Path, file: os.stat_result) -> bool:
    """Tell whether what is at *path* now is *file*."""
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), file)

    return False
