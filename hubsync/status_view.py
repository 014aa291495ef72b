"""Shows the status file on a terminal or as JSON."""

import contextlib
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from msgspec.structs import replace

from hubsync.config.glance import Glance
from hubsync.errors import ConfigError, HubsyncError, NotRunningError, StateError
from hubsync.monitor.screen import draw_status
from hubsync.monitor.status import (
    Status,
    Waiting,
    choose_exit_code,
    decode_status,
    describe_rejected,
    encode_status,
    read_status,
)
from hubsync.presence import ONCE_HINT, Owner, describe_once, find_owner
from hubsync.signals import stop_on_signals

_REFRESH_S = 1.0
_BEGUN_S = 60.0  # whoever has begun to run has written a status by then
_UNWRITTEN = "its file could not be written; the service was asked"
_UNWRITTEN_HINT = "see what is wrong with the disk of state_dir: it may be full, without inodes (`df -i`), or not writable"
_NO_STATUS = "ask again in a moment; if it stays so, its log says why: the disk of state_dir may be full"


def is_in_force(seen: Glance | None, target: str | None) -> bool:
    """Tell whether the daemon loaded the config just as it stands, *target* included: then it needs no check."""
    if seen is None or not seen.mark:
        return False
    try:
        status = read_status(seen.state_dir / "status.json")
    except HubsyncError:
        return False
    is_declared = target is None or target in {one.name for one in status.targets}

    return status.daemon.config_mark == seen.mark and is_declared


def show_status(
    state_dir: Path, target: str | None, rejected: ConfigError | None = None, *, watch: bool, as_json: bool, colour: bool
) -> int:
    """Print the status (of *target* only, if it is named) and return the exit code.

    A config on disk that is *rejected* is shown as the running daemon's trouble.

    Raises:
        ConfigError: it is rejected, and no daemon runs with a former one.
        NotRunningError: no daemon ever ran on this state directory, or none does that would mend its status, or one has
            just begun to run.
        HubsyncError: one runs that has not written any status.
        StateError: the status of a running daemon cannot be read.
    """
    if watch and not as_json and sys.stdout.isatty():
        _watch(state_dir, target, rejected, colour=colour)
    status, running = _read(state_dir, target, rejected)
    if as_json:
        if not running and status.daemon.state != "stopped":  # a killed daemon could not say so
            status = replace(status, daemon=replace(status.daemon, state="dead"))
        sys.stdout.write(encode_status(status))
    else:
        sys.stdout.write(_draw(status, running=running, colour=colour))

    return choose_exit_code(status, datetime.now(UTC), running=running)


def _watch(state_dir: Path, target: str | None, rejected: ConfigError | None, *, colour: bool) -> NoReturn:
    from rich.live import Live  # noqa: PLC0415 - 100 ms that only this need pay
    from rich.text import Text  # noqa: PLC0415

    stop = stop_on_signals()  # a KeyboardInterrupt may come while Python calls what swallows it
    with Live(auto_refresh=False) as live:
        while not stop.is_set():
            status, running = _read(state_dir, target, rejected)
            live.update(Text.from_ansi(_draw(status, running=running, colour=colour)), refresh=True)
            stop.wait(_REFRESH_S)
    raise KeyboardInterrupt


def _draw(status: Status, *, running: bool, colour: bool) -> str:
    width = shutil.get_terminal_size().columns
    return draw_status(status, datetime.now(UTC), running=running, width=width, colour=colour)


def _read(state_dir: Path, target: str | None, rejected: ConfigError | None) -> tuple[Status, bool]:
    owner = find_owner(state_dir)
    running = owner is not None and not owner.is_once
    if rejected is not None and not running:
        raise rejected
    try:
        status = read_newest(state_dir, owner)
    except NotRunningError as exc:
        if owner is None:
            raise
        raise _why_none(owner, state_dir) from exc
    except StateError as exc:
        if running:
            raise
        raise NotRunningError(f"no hubsync is running here, and {exc}", hint="start it: hubsync run") from exc
    if owner is not None and (outdated := _find_outdated(status, owner)) is not None:
        status = replace(status, daemon=replace(status.daemon, stalled=(outdated, *status.daemon.stalled)))
    if rejected is not None:
        known = status.daemon.config_error
        error = describe_rejected(rejected, known.since if known else None)
        status = replace(status, daemon=replace(status.daemon, config_error=error))
    if target is not None:
        status = replace(status, targets=tuple(one for one in status.targets if one.name == target))

    return status, running


def read_newest(state_dir: Path, owner: Owner | None) -> Status:
    """Return what the status file says; if the service *owner* could not write it, what that says itself.

    Raises:
        NotRunningError: there is none, and nobody to ask.
        StateError: it cannot be read, and there is nobody to ask.
    """
    status, failure = None, None
    try:
        status = read_status(state_dir / "status.json")
    except (NotRunningError, StateError) as exc:
        failure = exc
    if owner is not None and not owner.is_once and (status is None or _find_outdated(status, owner) is not None):
        with contextlib.suppress(HubsyncError, TimeoutError, ValueError):  # one that hangs, or has just begun to run
            return _ask_status(state_dir)
    if failure is not None:
        raise failure
    assert status is not None  # noqa: S101 - it was read

    return status


def _ask_status(state_dir: Path) -> Status:
    from hubsync.control import send_command  # noqa: PLC0415 - mostly not needed

    status = decode_status(send_command(state_dir / "control.sock", "status", ())["status"])
    unwritten = Waiting("status", _UNWRITTEN, None, _UNWRITTEN_HINT, needs_attention=True)

    return replace(status, daemon=replace(status.daemon, stalled=(unwritten, *status.daemon.stalled)))


def _why_none(owner: Owner, state_dir: Path) -> HubsyncError:
    """Return why there is no status although *owner* is there."""
    if owner.is_once:
        return NotRunningError(describe_once(owner), hint=ONCE_HINT)
    if time.time() - (state_dir / "lock").stat().st_mtime > _BEGUN_S:
        return HubsyncError("a service runs here, and could not write its status", hint=_NO_STATUS)
    return NotRunningError("hubsync has begun to run here, and has not written its status yet", hint=_NO_STATUS)


def _find_outdated(status: Status, owner: Owner) -> Waiting | None:
    """Return why *status* does not tell how it is with the process *owner*; ``None`` if it does."""
    daemon = status.daemon
    if owner.is_once:
        reason = f"{describe_once(owner)}: what is shown was left by process {daemon.pid}"
        return Waiting("status", reason, daemon.updated_at, ONCE_HINT, needs_attention=True)
    if daemon.pid != owner.pid:
        reason = f"what is shown was left by process {daemon.pid}; {owner.pid} runs now, and has not written its own yet"
    elif daemon.is_outdated:
        reason = "it could not be written anew: things may have changed since"
    else:
        return None
    return Waiting("status", reason, daemon.updated_at, _NO_STATUS, needs_attention=True)
