"""Kills a hubsync, which a test has started, at a named step of its work: SIGKILL, as nothing else is as sudden.

It is done from outside, to the real program: the function that the step is named by is wrapped as it is imported. Children
are left at work, as they are when the kernel ends their parent.
"""

import functools
import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEP = "HUBSYNC_TEST_KILL_AT"  # the variable that holds the step, and the how manieth time it is ("after pin:2")
MARK = "HUBSYNC_TEST_KILLED"  # names the file that says that it was reached

_BEFORE, _AFTER = True, False
STEPS: dict[str, tuple[str, str, str, bool]] = {
    "after pin": ("hubsync.store.objects", "Objects", "pin", _AFTER),
    "after hash": ("hubsync.store.objects", "Objects", "keep", _BEFORE),
    "after the pin has its name": ("hubsync.store.objects", "Objects", "keep", _AFTER),
    "before the ledger knows the object": ("hubsync.store.ledger", "Ledger", "record", _BEFORE),
    "before the snapshot's ref": ("hubsync.store.snapshot", "SnapshotWriter", "__exit__", _BEFORE),
    "between the snapshot's ref and the ledger": ("hubsync.store.git", "FastImport", "__exit__", _AFTER),
    "after the snapshot": ("hubsync.store.snapshot", "SnapshotWriter", "__exit__", _AFTER),
    "in mid upload": ("hubsync.mirror.uploads", "Upload", "progress", _AFTER),
    "between upload and its record": ("hubsync.mirror.uploader", "Uploader", "_note_sent", _BEFORE),
    "between upload and push": ("hubsync.mirror.remote", "Remote", "push", _BEFORE),
    "between push and record": ("hubsync.mirror.record", "Record", "note_published", _BEFORE),
    "before the mirror's ref": ("hubsync.store.git", "Git", "update_refs", _BEFORE),
    "after the mirror's ref": ("hubsync.store.git", "Git", "update_refs", _AFTER),
    "before a pin is let go": ("hubsync.store.objects", "Objects", "release", _BEFORE),
    "after a pin is let go": ("hubsync.store.objects", "Objects", "release", _AFTER),
}
_REACHED: dict[str, Callable[[Any], bool]] = {  # of what the function belongs to; else whenever it is called
    "in mid upload": lambda upload: 0 < upload._report.moved[0] < sum(thing.size for thing in upload._things),
    "before the snapshot's ref": lambda writer: bool(writer._changes),
    "after the snapshot": lambda writer: bool(writer._changes),
}


def kill_as_told() -> None:
    """Have this process killed as its environment says, if it does."""
    if STEP in os.environ:
        _kill_at(os.environ[STEP], Path(os.environ[MARK]))


def _kill_at(order: str, mark: Path) -> None:
    step, _, count = order.partition(":")
    module, kind, name, before = STEPS[step]
    owner = getattr(importlib.import_module(module), kind)
    function = getattr(owner, name)
    left = int(count or 1)

    def note(it: object) -> None:
        nonlocal left
        if _REACHED.get(step, lambda _: True)(it):
            left -= 1
            if left == 0:
                mark.write_text(step)
                os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    def wrapped(it: object, *args: object, **options: object) -> object:
        if before:
            note(it)
        answer = function(it, *args, **options)
        if not before:
            note(it)
        return answer

    setattr(owner, name, wrapped)
