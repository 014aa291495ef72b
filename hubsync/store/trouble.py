"""Reads from git's own words what is wrong with a repository of ours: a lock that a killed git left, or damage.

hubsync has its repositories to itself, so that a lock which none of its running commands can hold is nobody's. It must
never know what a command is for.
"""

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hubsync.monitor.logger import get_logger

MARK = "damaged"  # a file in a repository: all of it is read when it is opened next
DAMAGE_HINT = (
    "what is whole is kept and the rest read again from the source: by the service by itself, else by the next run; "
    "if it comes back, look at the disk of the state directory"
)

_LOCKED = re.compile(r"^(?:error|fatal): .*?Unable to create '(.+\.lock)': File exists", re.MULTILINE)
_READERS = frozenset({"cat-file", "diff-tree", "for-each-ref", "log", "ls-tree", "merge-base", "rev-list", "rev-parse",
                      "verify-pack"})  # fmt: skip
# Of a push, the server may be the first to see it: git sends what it has in packs as it is.
_DAMAGED = re.compile(
    r"inflate|is corrupt|CRC|does not match index|not a GIT packfile|cannot be accessed|object file .* is empty"
    r"|unable to read(?! askpass)|could not read(?! Username| Password)|bad object|hash mismatch|unpack failed"
    r"|missing (?:blob|tree|commit)|not a git repository"
)

_at_work: Counter[Path] = Counter()  # commands that may hold a lock now, by repository
_commands: dict[object, tuple[Path, str, float]] = {}  # all that run: of which repository, which, since when
_counting = threading.Lock()

log = get_logger()


@contextlib.contextmanager
def at_work(git_dir: Path, args: tuple[str, ...]) -> Iterator[None]:
    """Note for so long that the command *args* may hold locks of the repository at *git_dir*."""
    weight, key = int(_READERS.isdisjoint(args[:2])), object()
    with _counting:
        _at_work[git_dir] += weight
        _commands[key] = git_dir, args[0], time.monotonic()
    try:
        yield
    finally:
        with _counting:
            _at_work[git_dir] -= weight
            del _commands[key]


def find_longest(git_dir: Path) -> tuple[str, float] | None:
    """Return the command that has run for the longest time on the repository at *git_dir*, and since when (monotonic)."""
    with _counting:
        running = [(since, command) for place, command, since in _commands.values() if place == git_dir]
    since, command = min(running, default=(0.0, ""))
    return (command, since) if command else None


def clear_lock(git_dir: Path, said: str) -> Path | None:
    """Remove the lock that a command failed for, by what it *said*, unless one that runs may hold it; return its path."""
    found = _LOCKED.search(said)
    if found is None or not (lock := Path(found[1])).is_relative_to(git_dir):
        return None
    with _counting:
        if _at_work[git_dir]:
            return None
        lock.unlink(missing_ok=True)
    log.warning("state.recovered", what="leftovers", path=str(lock), reason="a killed git left its lock", files=1)

    return lock


def tells_damage(said: str) -> bool:
    """Tell whether git may have met damage, by what it *said*."""
    return _DAMAGED.search(said) is not None
