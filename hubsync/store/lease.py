"""Asks the kernel whether somebody writes a file. Nothing is held: a lease would keep its writer waiting."""

import fcntl
import signal


def is_being_written(fd: int) -> bool:
    """Tell whether somebody has the file open for writing, as far as the kernel tells us: its owner is told.

    It gives no read lease then, fcntl(2). One that it gives is given back at once, and meanwhile breaks with a harmless
    signal.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    return False
