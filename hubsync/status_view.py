"""Shows the status file on a terminal or as JSON."""

import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

from hubsync.config.model import Config
from hubsync.monitor.status import Status, choose_exit_code, encode_status, read_status, render_status
from hubsync.service import is_locked

_REFRESH_S = 1.0


def show_status(config: Config, target: str | None, *, watch: bool, as_json: bool) -> int:
    """Print the status (of *target* only, if it is named) and return the exit code.

    Raises:
        NotRunningError: no daemon ever ran on this state directory.
    """
    if watch and not as_json and sys.stdout.isatty():
        return _watch(config, target)
    status, running = _read(config, target)
    if as_json:
        sys.stdout.write(encode_status(status))
    else:
        from rich.console import Console  # noqa: PLC0415 - 50 ms that --json need not pay

        Console().print(render_status(status, datetime.now(UTC), running=running))

    return choose_exit_code(status, datetime.now(UTC), running=running)


def _watch(config: Config, target: str | None) -> int:
    from rich.live import Live  # noqa: PLC0415 - as above

    with Live(auto_refresh=False) as live:
        while True:
            status, running = _read(config, target)
            live.update(render_status(status, datetime.now(UTC), running=running), refresh=True)
            time.sleep(_REFRESH_S)


def _read(config: Config, target: str | None) -> tuple[Status, bool]:
    state_dir = config.service.state_dir
    status = read_status(state_dir / "status.json")
    if target is not None:
        status = replace(status, targets=tuple(one for one in status.targets if one.name == target))

    return status, is_locked(state_dir)
