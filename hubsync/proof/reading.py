"""Downloads contents from a mirror to hash them, and keeps nothing of them: no second copy comes to lie on a disk."""

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from msgspec import Struct

from hubsync.mirror.agent_client import Action, TransferError
from hubsync.priority import stand_back_further
from hubsync.restore.get import Getter, Span
from hubsync.restore.sources import ApiSource, GitSource
from hubsync.store.buffer import new_buffer
from hubsync.store.throttle import Throttle, open_allowance
from hubsync.watch.format_safetensors import check_safetensors

_THREADS = 4
_TRIES = 4
_PAUSE_S = 0.5
_BLOCK = 1 << 20
_HEADER_MOST = 100_000_008  # the format's own limit, with the length before it
_LENGTH = struct.Struct("<Q")
DAMAGED = "its bytes are not what its hash says"


class Wanted(Struct, frozen=True):
    """A content to be read: an object by its *oid*, or what lies in git by its *blob*."""

    name: str
    size: int
    is_object: bool
    is_safetensors: bool = False


class Reader:
    """Reads from one mirror at *bytes_per_s* at most (0: as fast as it goes); *on_bytes* hears of what came."""

    def __init__(
        self,
        source: ApiSource | GitSource,
        timeout_s: float,
        bytes_per_s: int,
        stop: threading.Event,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self._stop = stop
        self._on_bytes = on_bytes
        self._bytes_per_s = bytes_per_s
        self._throttle: Throttle | None = None

    def read(self, wanted: Mapping[str, Wanted]) -> dict[str, str]:
        """Read all of *wanted* (by name); return why each one that failed did."""
        self._source.lfs.expect({each.name: each.size for each in wanted.values() if each.is_object})
        fd = open_allowance()
        with closing(Throttle(fd)) as throttle:
            os.close(fd)
            throttle.set_rate(self._bytes_per_s)
            self._throttle = throttle
            with ThreadPoolExecutor(_THREADS, initializer=stand_back_further) as pool:
                said = list(pool.map(self._read_one, wanted.values()))

        return {name: reason for name, reason in zip(wanted, said, strict=True) if reason}

    def _read_one(self, wanted: Wanted) -> str:
        """Read one content, going on after an interruption; return what is wrong with it."""
        with closing(Getter(connect_s=min(10.0, self._timeout_s), stall_s=self._timeout_s)) as getter:
            digest = _Digest(wanted)
            tries = _TRIES
            while digest.at < wanted.size or wanted.size == 0:
                before = digest.at
                try:
                    self._read_on(wanted, digest, getter)
                    break
                except TransferError as exc:
                    tries = _TRIES if digest.at > before else tries - 1
                    if self._stop.is_set() or not tries or not exc.retryable or self._stop.wait(_PAUSE_S):
                        return f"it cannot be read: {exc}"

        return digest.judge()

    def _read_on(self, wanted: Wanted, digest: "_Digest", getter: Getter) -> None:
        if not wanted.size:
            return
        buffer = new_buffer(_BLOCK)
        for block in getter.read(self._address(wanted), Span(digest.at, wanted.size, wanted.size), buffer):
            self._slow_down(len(block))
            digest.take(block)
            self._on_bytes(len(block))
            if self._stop.is_set():
                raise TransferError("stopped", status=499)

    def _address(self, wanted: Wanted) -> Action:
        if not wanted.is_object:
            return self._source.blob_address(wanted.name)
        action = self._source.address(wanted.name, wanted.size).download
        if action is None:
            raise TransferError("the LFS Batch API names no address for it", status=404)

        return action

    def _slow_down(self, count: int) -> None:
        assert self._throttle is not None  # noqa: S101 - set while reading
        while count > 0:
            count -= self._throttle.take(count)


class _Digest:
    """The hash of a content as it comes, and of a safetensors file its header."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._sha = hashlib.sha256() if wanted.is_object else hashlib.sha1(usedforsecurity=False)
        if not wanted.is_object:
            self._sha.update(b"blob %d\0" % wanted.size)
        self._header = bytearray()
        self.at = 0

    def take(self, block: memoryview) -> None:
        """Add what came next."""
        self._sha.update(block)
        self.at += len(block)
        while self._wanted.is_safetensors and block and (lacking := self._header_size() - len(self._header)) > 0:
            self._header += block[:lacking]  # first its length, then as much as that says
            block = block[lacking:]

    def _header_size(self) -> int:
        if len(self._header) < _LENGTH.size:
            return _LENGTH.size
        return min(_HEADER_MOST, _LENGTH.size + int(_LENGTH.unpack_from(self._header)[0]))

    def judge(self) -> str:
        """Return what is wrong with the content."""
        if self._sha.hexdigest() != self._wanted.name:
            return DAMAGED
        if not self._wanted.is_safetensors:
            return ""
        fd = os.memfd_create("hubsync-header")
        try:
            os.write(fd, self._header)
            verdict = check_safetensors(fd, self._wanted.size)
        finally:
            os.close(fd)

        return "" if verdict.whole else verdict.reason
