"""Shows the status file on a terminal or as JSON."""

import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hubsync.errors import ConfigError, NotRunningError, StateError
from hubsync.monitor.status import Status, choose_exit_code, encode_status, read_status, render_status
from hubsync.report import describe_rejected
from hubsync.service import is_locked

_REFRESH_S = 1.0


def show_status(
    state_dir: Path, target: str | None, rejected: ConfigError | None = None, *, watch: bool, as_json: bool
) -> int:
    """Print the status (of *target* only, if it is named) and return the exit code.

    A config on disk that is *rejected* is shown as the running daemon's trouble.

    Raises:
        ConfigError: it is rejected, and no daemon runs with a former one.
        NotRunningError: no daemon ever ran on this state directory, or none does that would mend its status.
        StateError: the status of a running daemon cannot be read.
    """
    if watch and not as_json and sys.stdout.isatty():
        return _watch(state_dir, target, rejected)
    status, running = _read(state_dir, target, rejected)
    if as_json:
        sys.stdout.write(encode_status(status))
    else:
        from rich.console import Console  # noqa: PLC0415 - 50 ms that --json need not pay

        Console().print(render_status(status, datetime.now(UTC), running=running))

    return choose_exit_code(status, datetime.now(UTC), running=running)


def _watch(state_dir: Path, target: str | None, rejected: ConfigError | None) -> int:
    from rich.live import Live  # noqa: PLC0415 - as above

    with Live(auto_refresh=False) as live:
        while True:
            status, running = _read(state_dir, target, rejected)
            live.update(render_status(status, datetime.now(UTC), running=running), refresh=True)
            time.sleep(_REFRESH_S)


def _read(state_dir: Path, target: str | None, rejected: ConfigError | None) -> tuple[Status, bool]:
    running = is_locked(state_dir)
    if rejected is not None and not running:
        raise rejected
    try:
        status = read_status(state_dir / "status.json")
    except StateError as exc:
        if running:
            raise
        raise NotRunningError(f"no hubsync is running here, and {exc}", hint="start it: hubsync run") from exc
    if rejected is not None:
        status = replace(status, daemon=replace(status.daemon, config_error=describe_rejected(rejected)))
    if target is not None:
        status = replace(status, targets=tuple(one for one in status.targets if one.name == target))

    return status, running
