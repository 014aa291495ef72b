"""Tells whether a hubsync is there, by its lock; imports nothing that takes long."""

import contextlib
import os
from pathlib import Path


def is_locked(state_dir: Path) -> bool:
    """Tell whether a hubsync runs on *state_dir*: whether the process that the lock names is there and has it open.

    Nothing is locked or opened for it: a hubsync that is just starting would take us for another one.
    """
    lock = state_dir / "lock"
    try:
        owner = lock.read_text("ascii").strip()
        return owner.isdecimal() and _has_open(owner, lock.stat())
    except (OSError, UnicodeDecodeError):
        return False


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
