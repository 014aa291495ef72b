"""Reads what git-lfs tells of its own requests (GIT_TRACE), to see when it repeats one for ever.

git-lfs sends an object again without end, hundreds of times a second, where storage answers 401 to an address that the
server has signed (tq/basic_upload.go, makeRequest, in 3.3). It writes into anonymous memory; nothing of it is shown but
the host.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from hubsync.errors import MirrorError

_MOST = 5  # times that one address is sent to: git-lfs is told to try each twice
_PUT = re.compile(rb"HTTP: PUT (\S+)")
_STATUS = re.compile(rb"HTTP: (\d{3})\b")


class Trace:
    """The requests of one run of git-lfs; *fd* must be passed on to it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.environment = {"GIT_TRACE": f"/proc/self/fd/{fd}"}
        self._puts: Counter[int] = Counter()

    def look(self) -> None:
        """Read what is new.

        Raises:
            MirrorError: an object was sent to the same address again and again.
        """
        said = os.pread(self.fd, os.fstat(self.fd).st_size, 0)
        os.ftruncate(self.fd, 0)  # it is appended to
        for url in _PUT.findall(said):
            self._puts[hash(url)] += 1
            if self._puts[hash(url)] > _MOST:
                raise _refused(url.decode("latin-1"), _STATUS.findall(said))


@contextlib.contextmanager
def traced() -> Iterator[Trace]:
    """Yield where git-lfs tells of its requests as long as the context is open."""
    fd = os.memfd_create("hubsync-trace", 0)
    try:
        yield Trace(fd)
    finally:
        os.close(fd)


def _refused(url: str, statuses: list[bytes]) -> MirrorError:
    answer = f"answers {statuses[-1].decode()} to" if statuses else "refuses"
    return MirrorError(
        f"upload: the storage at {urlsplit(url).netloc} {answer} an address that the Hub gave; git-lfs would ask for ever",
        error_kind="server",
        retryable=True,
        hint='see what is wrong with that storage; with transfer = "hubsync" each refusal is asked about once',
    )
