"""Shows hubsync at work on this machine: two Hubs, the daemon, a run that saves checkpoints, and the proof.

``run_demo`` returns the exit code: 0 only if everything that was written is on both Hubs, the same.
"""
# ruff: noqa: PLC0415 - most modules need packages that may be missing, which is said before they are loaded

import contextlib
import importlib.util
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hubsync.errors import HubsyncError

if TYPE_CHECKING:
    from hubsync.demo.place import Place
    from hubsync.demo.run import Demo, Scale
    from hubsync.demo.show import Screen

__all__ = ["run_demo"]

_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_COPIES = 2  # the run's own checkpoints, and the final model


def run_demo(
    directory: Path | None,
    *,
    keep: bool = False,
    scale: "Scale | None" = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Play the demo with *directory*, or with a run of its own as large as *scale* says; return the exit code.

    With *keep* the Hubs stay up at the end until Ctrl-C, and the demo's files are not removed. *environment* tells of the
    terminal (``TERM``, ``NO_COLOR``), if that is not in ``os.environ``.

    Raises:
        HubsyncError: a package or disk space is missing, or a part of the demo failed.
    """
    _check_packages("starlette", "uvicorn", *(("numpy", "safetensors") if directory is None else ()))
    from hubsync.demo.disk import measure_files
    from hubsync.demo.place import make_place
    from hubsync.demo.run import Demo, Scale
    from hubsync.demo.show import Screen

    scale = scale or Scale()
    screen = Screen(environment)
    needed = measure_files(directory) if directory else int(scale.size_mb * 1e6 * _COPIES)
    with _interrupted_by_signals():
        place = make_place(directory, needed)
        try:
            return _play(Demo(place, scale, screen, is_own=directory is not None), place, screen, keep=keep)
        except KeyboardInterrupt:
            screen.say_text("Interrupted; all that was started has been ended.")
            return _INTERRUPTED
        finally:
            if not keep:
                place.remove()


def _play(demo: "Demo", place: "Place", screen: "Screen", *, keep: bool) -> int:
    from hubsync.demo.report import make_report

    with contextlib.ExitStack() as stack:
        try:
            report = make_report(demo.play(stack))
            screen.say_result(report)
            if keep:
                _wait(demo, place, screen)
        finally:
            _ignore_signals()  # a second Ctrl-C must not leave a daemon behind

    return 0 if report.is_good else 1


def _wait(demo: "Demo", place: "Place", screen: "Screen") -> None:
    """Leave the Hubs up until Ctrl-C."""
    screen.say_text(f"The Hubs stay up until Ctrl-C. What the demo wrote stays in {place.directory}.")
    for name, hub in demo.hubs.items():
        screen.say_text(f"\n{name}: {hub.url}\ntoken: {hub.token}")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def _check_packages(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise HubsyncError(f"the demo needs {' and '.join(missing)}", hint="pip install 'hubsync[demo]'")


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: end the demo in order."""

    def interrupt(_number: int, _frame: object) -> None:
        _ignore_signals()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
