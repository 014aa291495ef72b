"""Uploads objects: whole or in parts, as the server wants each, and never one whose bytes are not those of its oid.

Bytes that a writer may still change are checked: by the fingerprint of those that were hashed, or hashed once more if that
is not known. An object that goes as a whole is checked as it leaves, and its last block is held back until all is right.
One that goes in parts is checked behind its parts, each when it has arrived, and is completed only if all is right. Memory
does not grow with size: only blocks are held, of which a few are under way.
"""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeVar

from hubsync.mirror.agent_batch import Actions, Batch
from hubsync.mirror.agent_client import Action, Client, TransferError
from hubsync.mirror.agent_handover import Thing
from hubsync.mirror.agent_parts import Journal, Multipart, read_multipart
from hubsync.priority import stand_back_further
from hubsync.store.buffer import new_buffer, read_into
from hubsync.store.fingerprint import Fingerprint
from hubsync.store.hashing import Hashing
from hubsync.store.throttle import Throttle

_BLOCK_BYTES = 1 << 20
_PARTS_AT_ONCE = 4
_WHOLE_TRIES, _PART_TRIES, _CALL_TRIES = 2, 4, 4  # what was sent is lost with a whole object, not so with the others
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0
_EXPIRED = frozenset({401, 403})  # how storage says that an address has expired
_STALE = _EXPIRED | {400, 404, 410}  # or that an upload is gone

_T = TypeVar("_T")


class Meter(Protocol):
    """Is told of bytes that moved."""

    def sent(self, oid: str, count: int) -> None:
        """*count* bytes of *oid* were sent."""

    def checked(self, count: int) -> None:
        """*count* bytes were checked."""


class SpoiledError(TransferError):
    """The bytes are no longer those that the oid names."""

    def __init__(self, oid: str) -> None:
        super().__init__(f"spoiled: the bytes of {oid} were changed since they were captured")
        self.retryable = False


class Costs(NamedTuple):
    """What bytes cost: those that leave, those that are hashed, and who counts both."""

    leaving: Throttle
    hashing: Hashing
    meter: Meter


class Uploader:
    """Uploads what *batch* has addresses for; safe to use from several threads."""

    def __init__(self, client: Client, batch: Batch, costs: Costs, uploads_dir: Path) -> None:
        self._client = client
        self._batch = batch
        self._costs = costs
        self._uploads_dir = uploads_dir
        self._parts = ThreadPoolExecutor(_PARTS_AT_ONCE, "part", stand_back_further)

    def upload(self, thing: Thing, path: Path) -> None:
        """Make sure that the server has *thing*, whose bytes are at *path*.

        Raises:
            TransferError: it was refused, or cannot be reached.
            OSError: the bytes cannot be read.
        """
        actions = self._batch.find(thing)
        with _Content(thing, path, self._costs) as content:
            try:
                self._send(content, actions)
            except TransferError as exc:
                if exc.status not in _STALE:
                    raise
                actions = self._batch.find_again(thing)
                self._send_again(content, actions)
        if verify := actions.verify:
            question = {"oid": thing.oid, "size": thing.size}
            _insist(lambda: self._client.post(verify, question), _CALL_TRIES)

    def _send(self, content: "_Content", actions: Actions) -> None:
        if actions.upload is None:
            return
        multipart = read_multipart(actions.upload, content.thing.size)
        if multipart is None:
            self._send_whole(content, actions.upload)
        else:
            self._send_parts(content, multipart)

    def _send_again(self, content: "_Content", actions: Actions) -> None:
        """Send with new addresses; if they are refused too, what was begun is of no use."""
        try:
            self._send(content, actions)
        except TransferError as exc:
            if not exc.retryable:
                self._journal(content).drop()
            raise

    def _journal(self, content: "_Content") -> Journal:
        return Journal.load(self._uploads_dir / content.thing.oid)

    def _send_whole(self, content: "_Content", action: Action) -> None:
        _insist(lambda: self._client.put(action, content.whole, content.thing.size), _WHOLE_TRIES)

    def _send_parts(self, content: "_Content", offered: Multipart) -> None:
        """Send the parts that the server lacks, of the upload that was begun earlier if it still takes them."""
        journal = self._journal(content)
        begun = journal.upload
        if begun is not None and begun.session != offered.session:
            try:
                self._finish_parts(content, begun, journal)
            except TransferError as exc:
                if exc.retryable or isinstance(exc, SpoiledError):
                    raise
                journal.drop()
            else:
                return
        is_same = begun is not None and begun.session == offered.session and begun.part_size == offered.part_size
        journal.begin(offered, journal.etags if is_same else {})
        self._finish_parts(content, offered, journal)

    def _finish_parts(self, content: "_Content", upload: Multipart, journal: Journal) -> None:
        size = content.thing.size
        numbers = range(1, len(upload.urls) + 1)
        broken = threading.Event()
        missing = [number for number in numbers if number not in journal.etags]
        waiting = {n: self._parts.submit(self._send_part, content, upload, n, journal, broken) for n in missing}
        check = content.check()
        try:
            for number in numbers:
                if number in waiting:
                    waiting[number].result()
                content.look_at(upload.span(number, size), check)
            check.expect_right()
            self._complete_parts(content, upload, journal)
        except TransferError as exc:
            if not exc.retryable and exc.status not in _EXPIRED:
                journal.drop()
            raise
        finally:
            broken.set()
            for part in waiting.values():
                part.cancel()
            wait(waiting.values())

    def _complete_parts(self, content: "_Content", upload: Multipart, journal: Journal) -> None:
        parts = [{"partNumber": number, "etag": journal.etags[number]} for number in sorted(journal.etags)]
        question = {"oid": content.thing.oid, "parts": parts}
        _insist(lambda: self._client.post(upload.complete, question), _CALL_TRIES)
        journal.drop()

    def _send_part(
        self, content: "_Content", upload: Multipart, number: int, journal: Journal, broken: threading.Event
    ) -> None:
        span = upload.span(number, content.thing.size)
        action = Action(upload.urls[number - 1])
        etag = _insist(lambda: self._client.put(action, lambda: content.part(span, broken), len(span)), _PART_TRIES)
        if not etag:
            raise TransferError(f"the server gave no ETag for part {number}", status=422)
        journal.note(number, etag)


class _Content:
    """The bytes of one object."""

    def __init__(self, thing: Thing, path: Path, costs: Costs) -> None:
        self.thing = thing
        self._costs = costs
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def whole(self) -> Iterator[memoryview]:
        """Yield all bytes; the last ones only if all are right."""
        check, left = self.check(), self.thing.size
        for block in self._read(range(left), check.allow):
            left -= len(block)
            check.update(block)
            if not left:
                check.expect_right()
            yield block
            self._costs.meter.sent(self.thing.oid, len(block))

    def part(self, span: range, broken: threading.Event) -> Iterator[memoryview]:
        """Yield the bytes of *span*, unless the upload that it belongs to is *broken* off."""
        for block in self._read(span):
            if broken.is_set():
                raise TransferError("broken off", status=409)
            yield block
            self._costs.meter.sent(self.thing.oid, len(block))

    def check(self) -> "_Check":
        """Begin to check the bytes, from the first one."""
        if not self.thing.is_shared:
            return _Check(self.thing)
        return _FingerprintCheck(self.thing) if self.thing.fingerprint else _OidCheck(self.thing, self._costs.hashing)

    def look_at(self, span: range, check: "_Check") -> None:
        """Feed *check* with the bytes of *span*, if they may have been changed."""
        if not self.thing.is_shared:
            return
        buffer = new_buffer(_BLOCK_BYTES)
        at = span.start
        while at < span.stop:
            block = self._block(buffer, at, self._costs.hashing.take(min(_BLOCK_BYTES, span.stop - at)))
            at += len(block)
            check.update(block)
            self._costs.meter.checked(len(block))

    def _read(self, span: range, allowed: Callable[[int], int] = int) -> Iterator[memoryview]:
        """Yield the bytes of *span*, as many at once as is *allowed*; each block is good until the next."""
        buffer = new_buffer(min(_BLOCK_BYTES, len(span)))
        at = span.start
        while at < span.stop:
            block = self._block(buffer, at, self._costs.leaving.take(allowed(min(_BLOCK_BYTES, span.stop - at))))
            at += len(block)
            yield block

    def _block(self, buffer: memoryview, at: int, length: int) -> memoryview:
        block = buffer[:length]
        if read_into(block, self._fd, at) < length:
            raise SpoiledError(self.thing.oid)  # it was cut shorter

        return block


class _Check:
    """Takes what goes by for right: nobody can change it."""

    def __init__(self, thing: Thing) -> None:
        self.thing = thing

    def allow(self, wanted: int) -> int:
        """Wait, then return how many of *wanted* bytes may be read now."""
        return wanted

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""

    def expect_right(self) -> None:
        """Expect that all bytes went by, and that they were those of the oid.

        Raises:
            SpoiledError: they were not.
        """


class _FingerprintCheck(_Check):
    """Compares with the bytes that were hashed when they were captured."""

    def __init__(self, thing: Thing) -> None:
        super().__init__(thing)
        self._fingerprint = Fingerprint.begin_like(thing.fingerprint)

    def update(self, block: memoryview) -> None:
        self._fingerprint.update(block)

    def expect_right(self) -> None:
        if self._fingerprint.text() != self.thing.fingerprint:
            raise SpoiledError(self.thing.oid)


class _OidCheck(_Check):
    """Hashes all again, within the allowance for that."""

    def __init__(self, thing: Thing, hashing: Hashing) -> None:
        super().__init__(thing)
        self._hashing = hashing
        self._digest = hashlib.sha256()

    def allow(self, wanted: int) -> int:
        return self._hashing.take(wanted)

    def update(self, block: memoryview) -> None:
        with self._hashing.turn():
            self._digest.update(block)

    def expect_right(self) -> None:
        if self._digest.hexdigest() != self.thing.oid:
            raise SpoiledError(self.thing.oid)


def _insist(send: Callable[[], _T], tries: int) -> _T:
    """Do *send*, up to *tries* times if it may succeed the next time and the server does not ask for a long wait."""
    for done in range(1, tries + 1):
        try:
            return send()
        except TransferError as exc:
            asked = exc.retry_after
            wait_s = float(asked) if asked.isdecimal() else min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**done) * random.random()  # noqa: S311 - jitter
            if not exc.retryable or done == tries or wait_s > _LONGEST_WAIT_S or (asked and not asked.isdecimal()):
                if not exc.status:
                    raise
                # The same answer means another thing if the Batch API gives it.
                raise TransferError(
                    f"storage: {exc}", status=exc.status, retry_after=asked, is_general=exc.is_general
                ) from exc
            time.sleep(wait_s)

    raise AssertionError("tries is positive")
