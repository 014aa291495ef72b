"""What the daemon and its transfer agent tell each other: the order on the way in, the report on the way out.

Both lie in anonymous memory that only our children inherit; the environment says at which descriptors. No secret stands in
the environment: the token is read from the descriptor that git's credential helper reads too.
"""

import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

VARIABLE = "HUBSYNC_LFS_AGENT"


class Thing(NamedTuple):
    """An object to upload; *is_shared* if its bytes may still be changed by whoever wrote them.

    *fingerprint* is that of the bytes that were hashed, if it is known.
    """

    oid: str
    size: int
    is_shared: bool
    fingerprint: str = ""


class Order(NamedTuple):
    """What an agent has to know. Descriptors are numbers in the agent's process.

    Attributes:
        lfs_url: the LFS API of the repository.
        uploads_dir: where multipart uploads that were begun are remembered.
        stall_s: the longest wait for any progress of one request.
        connect_s: the longest wait for a connection.
        credential_fd: holds git's answer with the token; ``None`` if the endpoint has none.
        things_fd: holds what is to be uploaded.
        report_fd: takes the report.
        throttle_fd: the endpoint's allowance.
        hashing_fd: the allowance for hashing.
    """

    lfs_url: str
    uploads_dir: str
    stall_s: float
    connect_s: float
    credential_fd: int | None
    things_fd: int
    report_fd: int
    throttle_fd: int
    hashing_fd: int

    def encode(self) -> str:
        """Return the order as the environment carries it."""
        return json.dumps(self._asdict())

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return the order that *text* holds."""
        return cls(**json.loads(text))


def write_things(things: Iterable[Thing]) -> int:
    """Return a descriptor that holds *things*."""
    fd = os.memfd_create("hubsync-objects", 0)
    with os.fdopen(os.dup(fd), "w") as file:
        file.writelines(json.dumps(thing._asdict()) + "\n" for thing in things)

    return fd


def read_things(fd: int) -> list[Thing]:
    """Return what ``write_things`` put there."""
    with open(f"/proc/self/fd/{fd}") as file:  # noqa: PTH123 - a descriptor is no path
        return [Thing(**json.loads(line)) for line in file]


class Reporter:
    """The agent's end of the report: lines that only grow."""

    def __init__(self, fd: int) -> None:
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def write(self, **fields: object) -> None:
        """Add one line."""
        os.write(self._fd, json.dumps(fields).encode() + b"\n")


class Refusal(NamedTuple):
    """Why an object was not uploaded; *is_general* if that is no matter of this object."""

    said: str
    is_general: bool


class Report:
    """The daemon's end of the report: how far the agent is."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("hubsync-report", 0)
        self.moved = (0, 0, 0)  # bytes of blocks sent, bytes checked, bytes that servers took
        self.done: set[str] = set()
        self.refused: dict[str, Refusal] = {}
        self._at = 0

    def close(self) -> None:
        """Forget it."""
        os.close(self.fd)

    def read(self) -> object:
        """Take in what is new; return a figure that changes while the agent gets on."""
        written = os.pread(self.fd, os.fstat(self.fd).st_size - self._at, self._at)
        whole = written[: written.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))

        return self.moved, len(self.done), len(self.refused)

    def _take(self, line: dict[str, Any]) -> None:
        if "sent" in line:
            self.moved = (line["sent"], line["checked"], line["moved"])
        elif "error" in line:
            self.refused[line["oid"]] = Refusal(line["error"], line["is_general"])
        else:
            self.done.add(line["oid"])
