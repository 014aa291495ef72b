"""Lowers this process beside a training job. All that it starts from then on, threads and children, inherits that."""

import contextlib
import os
from typing import Literal

_NICE = 10  # also lowers its turn at the disk: without an I/O priority of its own, that follows from it (ioprio_set(2))


def stand_back(priority: Literal["low", "normal"]) -> None:
    """Take processor and disk only as a batch job does, if *priority* is low; what is lower already stays so."""
    if priority == "normal":
        return
    os.nice(max(0, _NICE - os.nice(0)))
    with contextlib.suppress(OSError):  # a sandbox may forbid it, and set it itself
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
