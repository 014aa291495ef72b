"""Reads what git keeps to itself: the headers of the answers that it got, of which some say how long to wait.

git writes them into anonymous memory as it traces its requests (GIT_TRACE_CURL, without data; it redacts credentials).
Nothing of it is ever shown but the headers that are asked for here.
"""

import contextlib
import os
import re
from collections.abc import Iterator

_READ_BYTES = 64 << 10  # of the end; the last answer is what matters
_STATUS = re.compile(r"<= Recv header: HTTP/", re.IGNORECASE)
_TELLING = re.compile(r"<= Recv header: (retry-after|ratelimit): ([^\r\n]{1,200})", re.IGNORECASE)
_SPELLED = {"retry-after": "Retry-After", "ratelimit": "RateLimit"}


class Headers:
    """The headers of one command's answers; *fd* must be passed on to it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.environment = {"GIT_TRACE_CURL": f"/proc/self/fd/{fd}", "GIT_TRACE_CURL_NO_DATA": "1", "GIT_TRACE_REDACT": "1"}

    def waits(self) -> str:
        """Return the headers of the last answer that ask for a wait, a line each; else nothing."""
        size = os.fstat(self.fd).st_size
        text = os.pread(self.fd, _READ_BYTES, max(0, size - _READ_BYTES)).decode("latin-1")
        last = _STATUS.split(text)[-1]
        return "".join(f"\n{_SPELLED[name.lower()]}: {value.strip()}" for name, value in _TELLING.findall(last))


@contextlib.contextmanager
def kept_headers() -> Iterator[Headers]:
    """Yield where a command's headers are kept as long as the context is open."""
    fd = os.memfd_create("hubsync-headers", 0)
    try:
        yield Headers(fd)
    finally:
        os.close(fd)
