"""Gets pieces from mirrors, several at once: from the first mirror that is well, and from the next when that fails."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hubsync.errors import HubsyncError, MirrorError
from hubsync.mirror.agent_client import Action, TransferError
from hubsync.mirror.failures import read_failure
from hubsync.restore.choice import Health, Refusals, gave_wrong, is_stale, lacks_piece, pick, why_not
from hubsync.restore.get import Getter, Span
from hubsync.restore.pieces import Incoming, Piece
from hubsync.restore.progress import Meter
from hubsync.restore.sources import Source
from hubsync.restore.staging import Staging, explained
from hubsync.store.buffer import new_buffer

THREADS = 8
_BLOCK_BYTES = 1 << 20
_CONNECT_S = 10.0
_POLL_S = 0.2
_PROBE_BYTES = 512 << 10
_PROBE_LEAST_S = 1.0
_WRONG_HINT = (
    "restore from another mirror that has it; without --mirror all are tried. "
    "hubsync verify TARGET --read-data lists all that is damaged"
)


class _Work:
    """A piece, what came of it, and who was asked."""

    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.refusals = Refusals()
        self.left = 1  # parts; the others are begun when the first has shown that the server gives ranges
        self.lock = threading.Lock()


class _Addresses:
    """The addresses that one mirror gave, as long as they are good."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[str, tuple[Action, float]] = {}

    def find(self, piece: Piece) -> tuple[Action, bool]:
        """Return the address of *piece*, and whether it is fresh. Raises TransferError."""
        known = self._known.get(piece.name)
        if known is not None and known[1] > time.monotonic():
            return known[0], False
        if not piece.is_object:
            return self._source.blob_address(piece.name), True
        actions = self._source.address(piece.name, piece.size)
        if actions.download is None:
            raise TransferError("not found: the LFS Batch API names no address", status=404)
        self._known[piece.name] = (actions.download, actions.until)
        return actions.download, True

    def forget(self, piece: Piece) -> None:
        """Ask for it again the next time."""
        self._known.pop(piece.name, None)


class Download:
    """Gets *pieces* into *staging*. ``run`` returns when all are there and right. *names* are the files they are for."""

    def __init__(
        self,
        sources: Sequence[Source],
        pieces: Iterable[Piece],
        staging: Staging,
        meter: Meter,
        stall_s: float,
        names: Mapping[str, str],
    ) -> None:
        self._names = names
        self._mirrors = [Health(source.mirror.name) for source in sources]
        self._addresses = {source.mirror.name: _Addresses(source) for source in sources}
        self._staging = staging
        self._meter = meter
        self._stall_s = stall_s
        largest_first = sorted(pieces, key=lambda piece: -piece.size)
        self._works = [_Work(Incoming(piece, staging)) for piece in largest_first]
        self._jobs = deque((work, 0) for work in self._works)
        self._running = 0
        self._turn = threading.Condition()
        self._error: BaseException | None = None
        self._reading: dict[Getter, str] = {}  # which mirror each thread reads from

    def run(self, stop: threading.Event) -> None:
        """Get all.

        Raises:
            MirrorError: a piece is not to be had from any mirror.
            DiskFullError: there is no room left; what came stays.
            KeyboardInterrupt: *stop* was set.
        """
        parts = sum(work.incoming.parts for work in self._works)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(THREADS, parts))]
        for thread in threads:
            thread.start()
        try:
            with self._turn:
                while self._running + len(self._jobs) and self._error is None:
                    self._turn.wait(_POLL_S)
                    if stop.is_set():
                        self._error = KeyboardInterrupt()
                    self._leave_slow()
        except BaseException as exc:
            self._fail(exc)
            raise
        finally:
            self._end(threads)
        if self._error is not None:
            raise self._error

    def _leave_slow(self) -> None:
        """Break off transfers from a mirror that has become much slower than another one; what came of them stays."""
        now = time.monotonic()
        for mirror in self._mirrors:
            if mirror.judge(self._mirrors, now):
                self._meter.note(f"{mirror.name} has become slow: the next mirror goes on")
                for getter, name in list(self._reading.items()):
                    if name == mirror.name:
                        getter.abort()

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        """Let the threads end; one that waits for a server holds its file open until it does, and is not waited for."""
        for thread in threads:
            thread.join(_POLL_S)
        if not any(thread.is_alive() for thread in threads):
            for work in self._works:
                work.incoming.close()

    def rank(self) -> None:
        """Put the mirrors in the order in which they give the first bytes of the largest object."""
        objects = [work.incoming.piece for work in self._works if work.incoming.piece.is_object]
        if len(self._mirrors) == 1 or not objects or objects[0].size < 2 * _PROBE_BYTES:
            return
        took: dict[str, float] = {}
        began = time.monotonic()
        threads = [threading.Thread(target=self._probe, args=(m, objects[0], took), daemon=True) for m in self._mirrors]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            waited_s = time.monotonic() - began
            if waited_s > (2 * min(took.values()) + _PROBE_LEAST_S if took else self._stall_s):
                break
            time.sleep(_POLL_S / 20)
        order = {mirror.name: number for number, mirror in enumerate(self._mirrors)}
        self._mirrors.sort(key=lambda mirror: (took.get(mirror.name, float("inf")), order[mirror.name]))

    def _probe(self, mirror: Health, piece: Piece, took: dict[str, float]) -> None:
        began = time.monotonic()
        getter = Getter(connect_s=_CONNECT_S, stall_s=self._stall_s)
        try:
            action, _ = self._addresses[mirror.name].find(piece)
            for _ in getter.read(action, Span(0, _PROBE_BYTES, piece.size), new_buffer(_BLOCK_BYTES)):
                pass
        except HubsyncError:
            return
        finally:
            getter.close()
        took[mirror.name] = time.monotonic() - began
        mirror.rate = _PROBE_BYTES / took[mirror.name]

    # --- one thread's work

    def _work(self) -> None:
        getter = Getter(connect_s=_CONNECT_S, stall_s=self._stall_s)
        buffer = new_buffer(_BLOCK_BYTES)
        try:
            for work, part in self._take_jobs():
                with explained(self._staging.dest):
                    self._do(work, part, getter, buffer)
        except BaseException as exc:  # noqa: BLE001 - it is raised in the thread that waits
            self._fail(exc)
        finally:
            getter.close()

    def _take_jobs(self) -> Iterator[tuple[_Work, int]]:
        while True:
            with self._turn:
                while not self._jobs and self._running and self._error is None:
                    self._turn.wait()
                if self._error is not None or not self._jobs:
                    self._turn.notify_all()
                    return
                job = self._jobs.popleft()
                self._running += 1
            try:
                yield job
            finally:
                with self._turn:
                    self._running -= 1
                    self._turn.notify_all()

    def _do(self, work: _Work, part: int, getter: Getter, buffer: memoryview) -> None:
        """Get one part, from whichever mirror, and finish its piece if it was the last."""
        if part == 0:
            self._meter.note_present(work.incoming.piece.name, work.incoming.open())
            if work.incoming.lacking(0) is None:
                self._begin_parts(work)
        while (span := work.incoming.lacking(part)) is not None:
            mirror = self._wait_for_mirror(work)
            if mirror is None:
                return
            try:
                self._get(work, part, span, mirror, getter, buffer)
            except TransferError as exc:
                self._note_failure(work, mirror, exc)
        with work.lock:
            work.left -= 1
            is_last = work.left == 0
        if work.incoming.catch_up() and is_last:
            self._finish(work)
        elif is_last:
            self._begin_anew(work)

    def _get(self, work: _Work, part: int, span: Span, mirror: Health, getter: Getter, buffer: memoryview) -> None:
        piece = work.incoming.piece
        action, is_fresh = self._addresses[mirror.name].find(piece)
        self._note_begun(mirror, getter)
        try:
            with contextlib.closing(getter.read(action, span, buffer)) as blocks:
                for block in blocks:
                    if part == 0 and work.left == 1 < work.incoming.parts:
                        self._begin_parts(work, has_ranges=getter.has_ranges)
                    work.incoming.mirrors.add(mirror.name)
                    work.incoming.write(part, block)
                    mirror.note_bytes(len(block))
                    self._meter.add(len(block), mirror.name)
                    if self._error is not None:
                        return
        except TransferError as exc:
            if is_stale(exc):
                self._addresses[mirror.name].forget(piece)
                if not is_fresh:
                    return  # asked for again at once
            if mirror.slow_until > time.monotonic():
                return  # it was broken off here
            raise
        finally:
            with self._turn:
                self._reading.pop(getter, None)
                mirror.note_ended()

    def _note_begun(self, mirror: Health, getter: Getter) -> None:
        with self._turn:
            self._reading[getter] = mirror.name
            mirror.note_begun(time.monotonic())

    def _begin_parts(self, work: _Work, *, has_ranges: bool = True) -> None:
        """Let the other parts come too, before anything else."""
        if not has_ranges:
            work.incoming.join_parts()
            return
        with self._turn:
            work.left = work.incoming.parts
            self._jobs.extendleft((work, part) for part in range(work.incoming.parts - 1, 0, -1))
            self._turn.notify_all()

    def _wait_for_mirror(self, work: _Work) -> Health | None:
        """Return the mirror to ask; ``None`` if all has ended. Raises MirrorError if there is none left for this piece."""
        while self._error is None:
            mirror, wait_s = pick(self._mirrors, work.refusals, time.monotonic())
            if mirror is not None:
                return mirror
            if wait_s <= 0:
                raise self._explain(work)
            with self._turn:
                self._turn.wait(min(wait_s, _POLL_S))

        return None

    def _explain(self, work: _Work) -> MirrorError:
        """Return why the piece of *work* cannot be had."""
        if not (wrong := gave_wrong(self._mirrors, work.refusals)):
            return read_failure("download", str(why_not(self._mirrors, work.refusals)))
        name = work.incoming.piece.name
        file, kind = self._names.get(name, name), "object" if work.incoming.piece.is_object else "content"

        return MirrorError(f"{file}: the {kind} on {', '.join(wrong)} does not have the bytes it should ({name})",
                           error_kind="lost", retryable=False, hint=_WRONG_HINT)  # fmt: skip

    def _note_failure(self, work: _Work, mirror: Health, exc: TransferError) -> None:
        if lacks_piece(exc):
            work.refusals.reasons[mirror.name] = exc
        else:
            mirror.note_failure(exc, time.monotonic())
        self._meter.note(f"{mirror.name}: {exc}")

    def _finish(self, work: _Work) -> None:
        if not work.incoming.is_right():
            self._begin_anew(work)
            return
        work.incoming.keep()
        self._meter.add_piece()

    def _begin_anew(self, work: _Work) -> None:
        """Get a piece again whose bytes are wrong: from a mirror that did not give them."""
        mirrors = set(work.incoming.mirrors)
        if not work.incoming.is_resumed:
            work.refusals.note_wrong(mirrors, len(self._mirrors))
            self._meter.note(f"{', '.join(sorted(mirrors))}: other bytes came than {work.incoming.piece.name} has")
        self._meter.add(-work.incoming.begin_anew())
        with self._turn:
            work.left = 1
            self._jobs.append((work, 0))
            self._turn.notify_all()

    def _fail(self, exc: BaseException) -> None:
        with self._turn:
            self._error = self._error or exc
            self._turn.notify_all()
