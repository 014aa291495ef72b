"""Unpacks what lies in an archive, to be looked through: zip, tar, and what gzip, bzip2, xz or lzma packed, also nested.

What is hostile costs little: at most ``WHOLE_BYTES`` are unpacked in all, from no more than that, to a depth of ``_DEPTH``.
What cannot be unpacked holds nothing that anybody could read. It must never know what is looked for.
"""

import bz2
import contextlib
import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from hubsync.watch.format_zip import directory_bytes

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

WHOLE_BYTES = 16 << 20
MEMBER_BYTES = 4 << 20

_DEPTH = 3  # a packed tar file within a zip file
_PIECE = 1 << 20
_MOST_MEMBERS_BYTES = 8 << 20  # of a zip's directory: some 100,000 members; torch writes hundreds
_MOST_TAR_MEMBERS = 100_000
_MOST_STREAMS = 1000  # one after the other; bgzip begins a new one each 64 KiB
_XZ_MEMORY = 128 << 20  # `xz -9` takes 65 MiB
_TAR_BLOCK, _TAR_KIND, _TAR_LENGTH, _TAR_MAGIC = 512, 156, slice(124, 136), slice(257, 262)  # POSIX.1-1988
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, NotImplementedError, RuntimeError, EOFError, ValueError,
)  # fmt: skip

Member = tuple[str, bytes]


class _Budget(Struct):
    left: int = WHOLE_BYTES


class _Gzip:
    """``zlib`` as ``bz2`` and ``lzma`` have it: what was not unpacked yet stays inside."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(31)  # zlib's way to say "with gzip's header"

    def decompress(self, packed: bytes, most: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + packed, most)

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data


_STREAMS: tuple[tuple[bytes, Callable[[], "_Gzip | bz2.BZ2Decompressor | lzma.LZMADecompressor"]], ...] = (
    (b"\x1f\x8b\x08", _Gzip),  # RFC 1952
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)),
    (b"\x5d\0\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, _XZ_MEMORY)),  # has no magic: how it mostly begins
)
_LONGEST_MAGIC = max(len(magic) for magic, _ in _STREAMS)


def is_archive(head: bytes) -> bool:
    """Tell whether a file that begins with *head* (at least 262 bytes, if it has them) is something packed."""
    return head.startswith((b"PK", *(magic for magic, _ in _STREAMS))) or head[_TAR_MAGIC] == b"ustar"


def unpack(fd: int, size: int) -> Iterator[Member]:
    """Yield the small members (name, content) of the archive *fd* of *size* bytes, and what is packed in them."""
    return _unpack(_File(fd, size), size, _Budget(), _DEPTH)


def _unpack(file: RawIOBase | io.BytesIO, size: int, budget: _Budget, depth: int) -> Iterator[Member]:
    head = _read_at(file, 0, _TAR_BLOCK)
    members = _unzip if head.startswith(b"PK") else _untar if head[_TAR_MAGIC] == b"ustar" else _inflate
    for name, content in members(file, size, budget):
        yield name, content
        if depth > 1 and budget.left > 0 and is_archive(content):  # zlib takes a limit of nothing for none
            for inner, unpacked in _unpack(io.BytesIO(content), len(content), budget, depth - 1):
                yield f"{name}/{inner}", unpacked


def _unzip(file: RawIOBase | io.BytesIO, size: int, budget: _Budget) -> Iterator[Member]:
    if isinstance(file, _File) and not 0 < directory_bytes(file.fileno(), size) <= _MOST_MEMBERS_BYTES:
        return
    try:
        with zipfile.ZipFile(BufferedReader(file) if isinstance(file, RawIOBase) else file) as archive:
            for info in archive.infolist():
                if info.is_dir() or not 0 < info.file_size <= min(MEMBER_BYTES, budget.left):
                    continue
                content = _read_member(archive, info)
                budget.left -= len(content)
                yield info.filename, content
    except _UNREADABLE:
        return


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return what a member holds, up to the size that it claims: what is behind that is hardly unpacked."""
    if info.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        with archive.open(info) as member:
            return member.read(info.file_size)
    packed = _read_packed(archive, info)  # zipfile unpacks the others without a limit: a gigabyte from a thousand bytes
    if info.compress_type == zipfile.ZIP_BZIP2:
        with contextlib.suppress(OSError):  # bz2 says so what is damaged
            return bz2.BZ2Decompressor().decompress(packed, info.file_size)
    if info.compress_type == zipfile.ZIP_LZMA:  # a version, a length, five bytes of properties (APPNOTE.TXT 5.8.8)
        alone = packed[4:9] + b"\xff" * 8 + packed[9:]
        return lzma.LZMADecompressor(lzma.FORMAT_ALONE, _XZ_MEMORY).decompress(alone, info.file_size)

    return b""


def _read_packed(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    file = cast(BufferedReader, archive.fp)
    lengths = struct.unpack("<2H", _read_at(file, info.header_offset + 26, 4))  # of its name and of extra fields
    return _read_at(file, info.header_offset + 30 + sum(lengths), min(info.compress_size, MEMBER_BYTES))


def _untar(file: RawIOBase | io.BytesIO, size: int, budget: _Budget) -> Iterator[Member]:
    at = 0
    for _ in range(_MOST_TAR_MEMBERS):
        header = _read_at(file, at, _TAR_BLOCK)
        length = _tar_length(header)
        if length is None:
            return
        at += _TAR_BLOCK
        if header[_TAR_KIND] in {0, ord("0")} and length <= min(MEMBER_BYTES, budget.left):
            budget.left -= length
            yield header[:100].rstrip(b"\0").decode("utf-8", "replace"), _read_at(file, at, length)
        at += -(-length // _TAR_BLOCK) * _TAR_BLOCK
        if at >= size:
            return


def _inflate(file: RawIOBase | io.BytesIO, size: int, budget: _Budget) -> Iterator[Member]:
    """Yield what was packed, a tar file or a text, as one; what a bomb holds beyond the limit is not unpacked."""
    pieces: list[bytes] = []
    try:
        for piece in _inflate_streams(file, min(size, WHOLE_BYTES), budget.left):
            pieces.append(piece)
            budget.left -= len(piece)
    except (*_UNREADABLE, OSError):  # bz2 says so what is damaged; what came before that was read
        pass
    if pieces:
        yield "what it unpacks to", b"".join(pieces)


def _inflate_streams(file: RawIOBase | io.BytesIO, end: int, left: int) -> Iterator[bytes]:
    """Yield up to *left* bytes of what is packed in the first *end* bytes, in one stream after the other."""
    packed, at = b"", 0
    for _ in range(_MOST_STREAMS):
        if len(packed) < _LONGEST_MAGIC:
            packed, at = packed + _read_at(file, at, min(_PIECE, end - at)), at + _PIECE
        make = next((make for magic, make in _STREAMS if packed.startswith(magic)), None)
        if make is None:
            return
        stream = make()
        while not stream.eof:
            if stream.needs_input and not packed:
                packed, at = _read_at(file, at, min(_PIECE, end - at)), at + _PIECE
                if not packed:
                    return
            content, packed = stream.decompress(packed, min(_PIECE, left)), b""
            yield content
            left -= len(content)
            if left <= 0:
                return
        packed = stream.unused_data.lstrip(b"\0")  # padding


def _tar_length(header: bytes) -> int | None:
    """Return how long the member of a tar *header* is; ``None`` if it is no header."""
    if len(header) < _TAR_BLOCK or header[_TAR_MAGIC] != b"ustar":
        return None
    field = header[_TAR_LENGTH]
    if field[0] & 0x80:  # a number instead of digits: from 8 GiB on
        return int.from_bytes(field[4:], "big")
    digits = field.strip(b"\0 ")

    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


def _read_at(file: RawIOBase | BufferedReader | io.BytesIO, at: int, count: int) -> bytes:
    if count <= 0:
        return b""
    file.seek(at)
    return file.read(count) or b""


class _File(RawIOBase):
    """A descriptor as ``zipfile`` wants it; it reads with ``pread``, so that the descriptor's own place stays."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._at = 0

    def fileno(self) -> int:
        """Return the descriptor, which stays open."""
        return self._fd

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it has places."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what fits into *buffer*."""
        count = os.preadv(self._fd, [buffer], self._at)
        self._at += count

        return count
