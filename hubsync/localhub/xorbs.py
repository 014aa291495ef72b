"""Reads what a Xet client uploads: xorbs (packed chunks) and shards (which chunks make which file).

https://huggingface.co/docs/xet/xorb and https://huggingface.co/docs/xet/shard. Only what an upload needs: a xorb's own
hash is not checked, since every file that is made of it is checked by its SHA-256.
"""

import struct
from collections.abc import Iterator
from typing import IO, Any

import lz4.frame
from msgspec import Struct

from hubsync.localhub.refusals import RefusedError

_TAG = b"HFRepoMetaData\0UigEj{\x81W\x83\xa5\xbd\xd9\\\xcd\xd1J\xa9"
_SHARD_HEAD = struct.Struct("<32sQQ")  # tag, version, footer's size
_ENTRY_HEAD = struct.Struct("<32sII8x")  # a file's hash, flags, number of segments
_SEGMENT = struct.Struct("<32sIIII")  # xorb's hash, flags, bytes, first chunk, chunk after the last
_HASH = struct.Struct("<32s16x")
_VERSION = 2
_END = b"\xff" * 32
_WITH_VERIFICATION, _WITH_SHA256 = 1 << 31, 1 << 30

_CHUNK_HEAD = struct.Struct("<B3sB3s")  # version, packed size, packing, size
_CHUNK_VERSION = 0  # anything else is a footer, which needs no reading
_PLAIN, _LZ4, _LZ4_BY_PLANES = range(3)
_PLANES = 4


class Segment(Struct, frozen=True):
    """A run of chunks of one xorb."""

    xorb: str
    first: int
    after_last: int
    size: int


class SharedFile(Struct, frozen=True):
    """What a shard says of one file."""

    oid: str
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return sum(segment.size for segment in self.segments)


def read_shard(shard: IO[bytes]) -> Iterator[SharedFile]:
    """Yield the files of a shard; raises RefusedError for what is none."""
    tag, version, _ = _read(shard, _SHARD_HEAD)
    if (tag, version) != (_TAG, _VERSION):
        raise _broken()
    while True:
        name, flags, count = _read(shard, _ENTRY_HEAD)
        if name == _END:
            return
        segments = tuple(_read_segment(shard) for _ in range(count))
        if flags & _WITH_VERIFICATION:
            for _ in range(count):
                _read(shard, _HASH)
        if not flags & _WITH_SHA256:
            raise RefusedError(400, "The shard names no SHA-256 for a file")
        yield SharedFile(hash_text(_read(shard, _HASH)[0]), segments)


def read_chunks(xorb: IO[bytes], segment: Segment) -> Iterator[bytes]:
    """Yield the content of the chunks of *segment*, which lie in *xorb*; raises RefusedError if they do not."""
    for number in range(segment.after_last):
        version, packed_size, packing, size = _read(xorb, _CHUNK_HEAD)
        if version != _CHUNK_VERSION:
            raise _broken()
        packed_bytes = int.from_bytes(packed_size, "little")
        if number < segment.first:
            xorb.seek(packed_bytes, 1)
            continue
        content = _unpack(packing, xorb.read(packed_bytes))
        if len(content) != int.from_bytes(size, "little"):
            raise _broken()
        yield content


def hash_text(name: bytes) -> str:
    """Return a hash as it stands in addresses: four numbers, each with its lowest byte first on disk."""
    return "".join(name[start : start + 8][::-1].hex() for start in range(0, len(name), 8))


def _read_segment(shard: IO[bytes]) -> Segment:
    xorb, _, size, first, after_last = _read(shard, _SEGMENT)
    return Segment(hash_text(xorb), first, after_last, size)


def _read(file: IO[bytes], form: struct.Struct) -> tuple[Any, ...]:
    content = file.read(form.size)
    if len(content) != form.size:
        raise _broken()

    return form.unpack(content)


def _unpack(packing: int, packed: bytes) -> bytes:
    if packing == _PLAIN:
        return packed
    if packing not in (_LZ4, _LZ4_BY_PLANES):
        raise _broken()
    try:
        content: bytes = lz4.frame.decompress(packed)
    except RuntimeError as exc:  # what lz4 says of bytes that it did not write
        raise _broken() from exc

    return _interleave(content) if packing == _LZ4_BY_PLANES else content


def _interleave(planes: bytes) -> bytes:
    """Undo the grouping of bytes by their position in numbers of four bytes; the first groups may have one more."""
    content = bytearray(len(planes))
    start = 0
    for plane in range(_PLANES):
        length = len(range(plane, len(planes), _PLANES))
        content[plane::_PLANES] = planes[start : start + length]
        start += length

    return bytes(content)


def _broken() -> RefusedError:
    return RefusedError(400, "The upload cannot be read: it is cut off or not what was announced")
