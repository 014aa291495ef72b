"""Lowers this process beside a training job. All that it starts from then on, threads and children, inherits that.

Where the scheduler weighs sessions first (sched(7), autogroup), a service's own session is lowered as well.
Its turn at the disk follows: without an I/O priority of its own, a process has the one that belongs to its niceness, or
idle with SCHED_IDLE (ioprio_set(2)).
"""

import contextlib
import os
from pathlib import Path
from typing import Literal

Priority = Literal["idle", "low", "normal"]

_BULK_NICE = 19
_STANDINGS = {"idle": (19, os.SCHED_IDLE), "low": (10, os.SCHED_BATCH)}


def stand_back(priority: Priority) -> None:
    """Take processor and disk only as *priority* says; what is lower already stays so."""
    if priority == "normal":
        return
    nice, policy = _STANDINGS[priority]
    os.nice(max(0, nice - os.nice(0)))
    if os.getsid(0) == os.getpid():  # else it is a shell's, and what else runs there would be lowered too
        with contextlib.suppress(OSError):  # a kernel without it
            Path("/proc/self/autogroup").write_text(str(nice))
    with contextlib.suppress(OSError):  # a sandbox may forbid it, and set it itself
        os.sched_setscheduler(0, policy, os.sched_param(0))


def stand_back_further() -> None:
    """Lower this thread, and all that it starts, once more: it moves bytes in bulk. Only what stands back already does.

    Where others want all processors, nice 10 leaves them nine tenths, which a training feels, and nice 19 all but a
    hundredth. The rest of hubsync stays above that: it takes little, and is to answer and to come up on a busy machine too.
    """
    if os.sched_getscheduler(0) == os.SCHED_BATCH:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, 0, _BULK_NICE)
