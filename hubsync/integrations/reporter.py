"""What every callback does: mark a directory as complete, and wait for its publication at the end.

A mark is a small file that the training process writes into its own directory. It is durable and needs neither a running
hubsync nor access to it, as a message would; hubsync reads it and never publishes it.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hubsync.config.load import load_config
from hubsync.config.model import Config, Target
from hubsync.config.units import parse_duration
from hubsync.control import send_command
from hubsync.errors import HubsyncError
from hubsync.units import unit_of
from hubsync.watch.unit_facts import MARK

log = logging.getLogger("hubsync")


class Reporter:
    """Tells hubsync about the checkpoints of one process.

    Args:
        wait: how long to wait at the end for the publication of what was saved last, such as "30m"; ``None``: not at all.
        config: the config file; looked for in the usual places if it is not given.
    """

    def __init__(self, wait: str | None = None, config: str | os.PathLike[str] | None = None) -> None:
        self._wait_s = None if wait is None else parse_duration(wait)
        self._config = None if config is None else Path(config)
        self._last: Path | None = None

    def note_saved(self, path: str | os.PathLike[str], *, complete: bool = True) -> None:
        """Take note of a checkpoint; mark it if it is *complete* and a directory (a file says itself that it is whole)."""
        self._last = Path(path)
        if complete and self._last.is_dir():
            mark_complete(self._last)

    def wait(self) -> bool:
        """Wait for the last checkpoint to be published, if that is wanted; return whether it is."""
        if self._wait_s is None or self._last is None:
            return False
        try:
            answer = self._ask(self._last, self._wait_s)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the training has done its work
            log.warning("hubsync: %s is not known to be published: %s", self._last, exc)
            return False
        said = log.info if answer["published"] else log.warning
        said("hubsync: %s", answer["reason"])

        return bool(answer["published"])

    def _ask(self, path: Path, limit_s: float) -> dict[str, Any]:
        config = load_config(self._config, os.environ)
        target, inside = find_target(config, path)
        options = {"unit": unit_of(target, f"{inside}/x"), "limit_s": limit_s}
        socket = config.service.state_dir / "control.sock"
        try:
            return send_command(socket, "wait", (target.name,), timeout_s=limit_s + 5, **options)
        except TimeoutError:
            return {"published": False, "reason": f"no answer about {path} within {limit_s:g} s"}


def mark_complete(directory: Path) -> bool:
    """Mark *directory* as complete; return whether that worked. Call it when all that belongs to it is written."""
    beside = directory / f"{MARK}.tmp"
    try:
        beside.touch()
        beside.replace(directory / MARK)
    except OSError as exc:
        log.warning("hubsync: %s cannot be marked as complete: %s", directory, exc.strerror)
        return False

    return True


def find_target(config: Config, path: Path) -> tuple[Target, str]:
    """Return the target whose source holds *path*, and the path inside of it; the innermost source wins.

    Raises:
        HubsyncError: none does.
    """
    path = path.resolve()
    found = list(_holding(config.targets, path))
    if not found:
        raise HubsyncError(f"no target of {config.path} has {path} in its source")
    target = max(found, key=lambda target: len(target.source.parts))

    return target, path.relative_to(target.source.resolve()).as_posix()


def _holding(targets: Iterable[Target], path: Path) -> Iterable[Target]:
    return (target for target in targets if path.is_relative_to(target.source.resolve()))
