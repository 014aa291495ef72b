"""Tells whether a hubsync is there, by its lock; imports nothing that takes long."""

import os
import re
from pathlib import Path
from typing import NamedTuple

ONCE_HINT = "it says itself what is published and what is not, and ends by itself"
_OWNER = re.compile(r"([0-9]+)( once)?\s*")


class Owner(NamedTuple):
    """Whose a state directory is; *is_once*: ``hubsync once``, which writes no status and takes no commands."""

    pid: int
    is_once: bool

    def __str__(self) -> str:
        """Return it as the lock has it."""
        return f"{self.pid}{' once' if self.is_once else ''}"


def describe_once(owner: Owner) -> str:
    """Say that no service runs, but ``hubsync once``."""
    return f"`hubsync once` (pid {owner.pid}) is at work here, and no service runs"


def read_owner(text: str) -> Owner | None:
    """Return whom the lock names that holds *text*."""
    found = _OWNER.fullmatch(text)
    return Owner(int(found[1]), found[2] is not None) if found else None


def is_locked(state_dir: Path) -> bool:
    """Tell whether a hubsync runs on *state_dir*."""
    return find_owner(state_dir) is not None


def find_owner(state_dir: Path) -> Owner | None:
    """Return whom the lock of *state_dir* names, if that process is there and has it open.

    Nothing is locked or opened for it: a hubsync that is just starting would take us for another one.
    """
    lock = state_dir / "lock"
    try:
        owner = read_owner(lock.read_text("ascii"))
        return owner if owner is not None and _has_open(owner.pid, lock.stat()) else None
    except (OSError, UnicodeDecodeError):
        return None


def _has_open(pid: int, file: os.stat_result) -> bool:
    try:
        opened = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return True  # it has rights that we lack, and may not be looked into
    return any(is_same_file(path, file) for path in opened)


def why_another(path: Path, file: os.stat_result) -> str:
    """Return why what is at *path* now is not *file*; nothing if it is."""
    try:
        return "" if os.path.samestat(path.stat(), file) else "is gone: another one is in its place"
    except FileNotFoundError:
        return "is gone"
    except OSError as exc:
        return f"cannot be read any more: {exc.strerror}"


def is_same_file(path: Path, file: os.stat_result) -> bool:
    """Tell whether what is at *path* now is *file*."""
    return not why_another(path, file)
