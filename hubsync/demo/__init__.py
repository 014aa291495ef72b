"""Shows hubsync at work on this machine: two Hubs, the daemon, a run that saves checkpoints, and the proof.

``run_demo`` returns the exit code: 0 only if everything that was written is on both Hubs, the same.
"""

import contextlib
import importlib.util
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hubsync.errors import HubsyncError

if TYPE_CHECKING:
    from hubsync.demo.place import Place
    from hubsync.demo.run import Demo, Scale
    from hubsync.demo.show import Screen

__all__ = ["run_demo"]

_INTERRUPTED = 130


def run_demo(directory: Path | None, *, keep: bool = False, scale: "Scale | None" = None) -> int:
    """Play the demo with *directory*, or with a run of its own as large as *scale* says; return the exit code.

    With *keep* the Hubs stay up at the end until Ctrl-C, and the demo's files stay for good.

    Raises:
        HubsyncError: a package or disk space is missing, or a part of the demo failed.
    """
    _check_packages(own=directory is not None)
    # Only now: these need the packages that may have been missing.
    from hubsync.demo.disk import measure_files  # noqa: PLC0415
    from hubsync.demo.place import make_place  # noqa: PLC0415
    from hubsync.demo.run import Demo, Scale  # noqa: PLC0415
    from hubsync.demo.show import Screen  # noqa: PLC0415

    scale = scale or Scale()
    screen = Screen()
    needed = measure_files(directory) if directory else int(scale.size_mb * 1e6 * 2)
    with _stopped_by_signals():
        place = make_place(directory, needed)
        try:
            return _play(Demo(place, scale, screen, is_own=directory is not None), place, screen, keep=keep)
        except KeyboardInterrupt:
            screen.say_text("Interrupted. Everything that was started has been ended.")
            return _INTERRUPTED
        finally:
            if not keep:
                place.remove()


def _play(demo: "Demo", place: "Place", screen: "Screen", *, keep: bool) -> int:
    from hubsync.demo.report import make_report  # noqa: PLC0415 - as above

    with contextlib.ExitStack() as stack:
        stack.push(_ignore_further_signals)
        report = make_report(demo.play(stack))
        screen.say_result(report)
        if keep:
            _wait(demo, place, screen)

    return 0 if report.is_good else 1
