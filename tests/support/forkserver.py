"""Starts hubsync from a process that has imported all of it: the imports are most of what a short command takes.

What runs is a process of its own as ever, which is killed, waited for and looked at as any other. It begins where ``python
-m hubsync`` begins when it has imported everything, with its own arguments, environment and standard streams, and ends as
an interpreter ends. What a test is about when hubsync is started (imports, memory, limits, who runs it, another ``PATH``)
needs the real start: ``Daemon`` with a prefix, or ``subprocess``.
"""

import atexit
import functools
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_OURS = "HUBSYNC_"  # variables that are read when they are needed, not when something is imported
_REQUEST_BYTES = 1 << 20
_NUMBER_BYTES = 8
_ABSENT = ("hubsync.__main__", "hubsync.integrations")  # the start itself, and what needs a trainer's packages


class Forked:
    """What ``subprocess.Popen`` offers of a process, as far as tests use it."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, or minus the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("hubsync", timeout or 0)
            self.returncode = _read_number(self._ended)
            os.close(self._ended)
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that has imported hubsync, with the environment that it was started with."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip

    def may_start(self, environment: Mapping[str, str]) -> bool:
        """Tell whether nothing that was imported would be another with that environment."""
        given = environment.items() ^ self._environment.items()
        return all(name.startswith((_OURS, "PYTEST_")) for name, _ in given)

    def start(self, argv: Sequence[str], environment: Mapping[str, str], stdout: int, stderr: int) -> Forked:
        """Start ``hubsync`` *argv* with its output into those descriptors, and nothing to read."""
        ours, theirs = os.pipe()
        request = json.dumps({"argv": list(argv), "environment": dict(environment)}).encode()
        socket.send_fds(self._requests, [request], [stdout, stderr, theirs])
        os.close(theirs)
        return Forked(_read_number(ours), ours)

    def close(self) -> None:
        """End it; what it has started goes on."""
        self._requests.close()
        self._process.wait()


@functools.cache
def fork_server() -> ForkServer:
    """Return the one of this process, which ends with it."""
    server = ForkServer()
    atexit.register(server.close)
    return server


def _read_number(descriptor: int) -> int:
    if len(number := os.read(descriptor, _NUMBER_BYTES)) != _NUMBER_BYTES:
        raise ChildProcessError("the fork server, or who waited for hubsync, is gone")
    return int.from_bytes(number, signed=True)


def _write_number(descriptor: int, number: int) -> None:
    os.write(descriptor, number.to_bytes(_NUMBER_BYTES, signed=True))


def _serve(requests: socket.socket) -> None:
    """Fork for each request, and return in that child only."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 3)
        if not request:
            sys.exit()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            _fork_and_wait(json.loads(request), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_and_wait(request: dict[str, Any], stdout: int, stderr: int, ended: int) -> None:
    """Return in the child that becomes hubsync; its parent tells its number and, when it has ended, how."""
    pid = os.fork()
    if pid:
        os.close(stdout)
        os.close(stderr)
        _write_number(ended, pid)
        _, status = os.waitpid(pid, 0)
        _write_number(ended, os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(ended)
    for number, descriptor in enumerate((stdout, stderr), start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["argv"]


def _import_all() -> None:
    import hubsync  # noqa: PLC0415 - only where it is served

    for module in pkgutil.walk_packages(hubsync.__path__, "hubsync."):
        if not module.name.startswith(_ABSENT):
            importlib.import_module(module.name)
    from huggingface_hub import HfApi, get_session  # noqa: F401, PLC0415

    from hubsync.store.git_python import load_git_python  # noqa: PLC0415

    load_git_python()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        _import_all()
        _serve(requests)
    import killing

    killing.kill_as_told()
    runpy.run_module("hubsync", run_name="__main__", alter_sys=True)
