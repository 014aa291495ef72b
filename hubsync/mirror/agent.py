"""Speaks git-lfs's custom transfer protocol on standard input and output; a program of its own, which git-lfs starts.

https://github.com/git-lfs/git-lfs/blob/main/docs/custom-transfers.md. git-lfs does not let go of ``basic`` uploads, so the
agent is a standalone one: git-lfs names the objects and is told how each went, the agent asks for the addresses itself.
It knows beforehand what will be named, and uploads several objects at once while git-lfs waits for one after the other.

It is started for each upload, and one for each mirror runs at a time: only the standard library and xxhash are imported.
"""

import base64
import gc
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any

from hubsync.mirror.agent_batch import Batch
from hubsync.mirror.agent_client import Client, TransferError
from hubsync.mirror.agent_handover import VARIABLE, Order, Reporter, Thing, read_things
from hubsync.mirror.agent_upload import Costs, Uploader
from hubsync.priority import stand_back_further
from hubsync.store.hashing import Hashing
from hubsync.store.throttle import Throttle

_OBJECTS_AT_ONCE = 4
_TELL_S = 0.5


class _Progress:
    """Counts bytes for all threads, and says how far they are."""

    def __init__(self, reporter: Reporter, client: Client) -> None:
        self._reporter = reporter
        self._client = client
        self._lock = threading.Lock()
        self._by_oid: dict[str, int] = {}
        self._figures = (0, 0)
        self._told = (0, 0, 0)

    def sent(self, oid: str, count: int) -> None:
        with self._lock:
            self._by_oid[oid] = self._by_oid.get(oid, 0) + count
            self._figures = (self._figures[0] + count, self._figures[1])

    def checked(self, count: int) -> None:
        with self._lock:
            self._figures = (self._figures[0], self._figures[1] + count)

    def of(self, oid: str) -> int:
        return self._by_oid.get(oid, 0)

    def tell(self) -> None:
        """Report, if anything moved."""
        figures = (*self._figures, self._client.moved)
        if figures != self._told:
            self._told = figures
            self._reporter.write(sent=figures[0], checked=figures[1], moved=figures[2])


class Agent:
    """Uploads what *order* lists, from the directory that git-lfs names."""

    def __init__(self, order: Order) -> None:
        self._things = {thing.oid: thing for thing in read_things(order.things_fd)}
        self._reporter = Reporter(order.report_fd)
        authorization = _read_authorization(order.credential_fd)
        client = Client(order.lfs_url, authorization, stall_s=order.stall_s, connect_s=order.connect_s)
        self._progress = _Progress(self._reporter, client)
        batch = Batch(client, order.lfs_url, tuple(self._things.values()))
        costs = Costs(Throttle(order.throttle_fd), Hashing(fd=order.hashing_fd), self._progress)
        self._uploader = Uploader(client, batch, costs, Path(order.uploads_dir))
        self._objects = ThreadPoolExecutor(_OBJECTS_AT_ONCE, "object")
        self._results: dict[str, Future[None]] = {}

    def serve(self, requests: Iterator[str], answers: IO[str]) -> None:
        """Answer git-lfs until it has had enough."""
        for line in requests:
            request = json.loads(line)
            if request["event"] == "terminate":
                break
            for answer in self._answer(request):
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
        self._objects.shutdown(wait=False, cancel_futures=True)

    def _answer(self, request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if request["event"] == "init":
            is_upload = request["operation"] == "upload"
            yield {} if is_upload else {"error": {"code": 1, "message": "hubsync's agent only uploads"}}
            return
        thing = Thing(request["oid"], request["size"], is_shared=True)
        path = Path(request["path"])
        if not self._results:
            self._start_all(path.parents[2])
        result = self._results.get(thing.oid) or self._start(thing, path)
        while not wait((result,), _TELL_S).done:
            self._progress.tell()
            yield self._progress_of(thing)
        yield self._complete(thing, result.exception())

    def _start_all(self, directory: Path) -> None:
        for thing in self._things.values():
            self._start(thing, directory / thing.oid[:2] / thing.oid[2:4] / thing.oid)

    def _start(self, thing: Thing, path: Path) -> "Future[None]":
        result = self._results[thing.oid] = self._objects.submit(self._uploader.upload, thing, path)
        result.add_done_callback(lambda done: self._report(thing.oid, done))

        return result

    def _report(self, oid: str, result: "Future[None]") -> None:
        if result.cancelled():
            return
        if (error := result.exception()) is None:
            self._reporter.write(oid=oid)
        else:
            self._reporter.write(oid=oid, error=_spell(error), is_general=getattr(error, "is_general", False))

    def _progress_of(self, thing: Thing) -> Mapping[str, Any]:
        so_far = min(self._progress.of(thing.oid), thing.size)
        return {"event": "progress", "oid": thing.oid, "bytesSoFar": so_far, "bytesSinceLast": 0}

    def _complete(self, thing: Thing, error: BaseException | None) -> Mapping[str, Any]:
        self._progress.tell()
        complete: dict[str, Any] = {"event": "complete", "oid": thing.oid}
        if error is not None:
            complete["error"] = {"code": getattr(error, "status", 0) or 1, "message": _spell(error)}

        return complete


def main() -> None:
    """Be the agent that the environment describes."""
    if VARIABLE not in os.environ:
        sys.exit("the transfer agent is started by hubsync's own git-lfs; to publish: hubsync run, or hubsync once")
    stand_back_further()
    Agent(Order.decode(os.environ[VARIABLE])).serve(sys.stdin, sys.stdout)
    gc.freeze()  # what is left ends with the process, without a look for circles in it


def _spell(error: BaseException) -> str:
    return str(error) if isinstance(error, TransferError) else f"{type(error).__name__}: {error}"


def _read_authorization(fd: int | None) -> str | None:
    """Return the header for what git's credential helper would answer."""
    if fd is None:
        return None
    with open(f"/proc/self/fd/{fd}") as file:  # noqa: PTH123 - a descriptor is no path
        answer = dict(line.rstrip("\n").split("=", 1) for line in file)
    pair = f"{answer.get('username', '')}:{answer.get('password', '')}"

    return "Basic " + base64.b64encode(pair.encode()).decode()


if __name__ == "__main__":
    main()
