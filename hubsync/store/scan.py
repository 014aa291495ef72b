"""Looks for secrets in a file as it is read, piece by piece, and in the members of a zip file. Nothing is ever unpickled.

A look costs more than a hash, so there are limits: a file of up to ``WHOLE_BYTES`` is looked through whole, a larger text
up to ``TEXT_BYTES``, of other large files the first ``HEAD_BYTES``; of a zip or tar file also each member of up to
``MEMBER_BYTES``, all together at most ``WHOLE_BYTES``; of what gzip packed the first ``WHOLE_BYTES``, unpacked.
"""

import codecs
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING

from hubsync.store.secrets import Secret, find_secret
from hubsync.watch.format_zip import directory_bytes

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

WHOLE_BYTES = 16 << 20
TEXT_BYTES = 256 << 20
HEAD_BYTES = 1 << 20
MEMBER_BYTES = 4 << 20

_PIECE = 1 << 20
_OVERLAP = 4096  # no secret is longer than what its pattern needs of it
_SAMPLE = 8192
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell writes text
_GZIP, _GZIP_WINDOW = b"\x1f\x8b\x08", 31  # RFC 1952; zlib's way to say "with gzip's header"
_TAR_BLOCK, _TAR_KIND, _TAR_LENGTH, _TAR_MAGIC = 512, 156, slice(124, 136), slice(257, 262)  # POSIX.1-1988
_MOST_TAR_MEMBERS = 100_000
_MOST_MEMBERS_BYTES = 8 << 20  # of a zip's directory: some 100,000 members; torch writes hundreds


class Scanner:
    """Looks through a file of *size* bytes as somebody reads it, from the beginning; ``found`` is the first secret."""

    def __init__(self, size: int) -> None:
        self.found: Secret | None = None
        self.is_zip = self.is_tar = self.is_gzip = False
        self._size = size
        self._is_text = False
        self._is_wide = False
        self._end = 0
        self._at = 0
        self._lines = 0
        self._tail = b""

    @property
    def is_done(self) -> bool:
        """Whether what comes next is of no interest."""
        return self.found is not None or (self._at > 0 and self._at >= self._end)

    def feed(self, piece: "ReadableBuffer") -> None:
        """Take the next bytes."""
        if self.is_done:
            return
        content = self._tail + bytes(piece)
        if self._at == 0:
            self._begin(content)
        begin = self._at - len(self._tail)
        self._at += len(content) - len(self._tail)
        plain = content.replace(b"\0", b"") if self._is_wide else content
        found = find_secret(plain)
        if found is not None:
            line = self._lines + plain.count(b"\n", 0, found.offset) + 1 if self._is_text else None
            self.found = replace(found, offset=begin + (found.offset or 0) * (2 if self._is_wide else 1), line=line)
        cut = max(0, len(content) - _OVERLAP)
        self._lines += content.count(b"\n", 0, cut) if self._is_text else 0
        self._tail = content[cut:]

    def finish(self, fd: int) -> Secret | None:
        """Return what was found; in a zip or tar file, which *fd* is, by member if possible."""
        look = _scan_zip if self.is_zip else _scan_tar if self.is_tar else _scan_gzip if self.is_gzip else None
        return (look and look(fd, self._size)) or self.found

    def _begin(self, content: bytes) -> None:
        self.is_zip = content.startswith(b"PK")
        self.is_tar = content[_TAR_MAGIC] == b"ustar"  # what NeMo saves, and data sets
        self.is_gzip = content.startswith(_GZIP)
        self._is_wide = content.startswith(_WIDE)
        self._is_text = self._is_wide or b"\0" not in content[:_SAMPLE]
        limit = TEXT_BYTES if self._is_text else HEAD_BYTES
        self._end = self._size if self._size <= WHOLE_BYTES else limit


def scan_file(fd: int, size: int) -> Secret | None:
    """Return the first secret in the open file *fd* of *size* bytes."""
    scanner = Scanner(size)
    at = 0
    while not scanner.is_done and (piece := os.pread(fd, _PIECE, at)):
        scanner.feed(piece)
        at += len(piece)

    return scanner.finish(fd)


def scan_content(content: bytes) -> Secret | None:
    """Return the first secret in *content*, a whole file."""
    if not content.startswith(_WIDE) and find_secret(content) is None:
        return None
    scanner = Scanner(len(content))
    scanner.feed(content)

    return scanner.found


def _scan_zip(fd: int, size: int) -> Secret | None:
    """Look into the small members: what is hostile or cannot be unpacked holds nothing that anybody could read."""
    if not 0 < directory_bytes(fd, size) <= _MOST_MEMBERS_BYTES:
        return None
    try:
        with zipfile.ZipFile(BufferedReader(_File(fd, size))) as archive:
            return next(_scan_members(archive), None)
    except (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError, ValueError):
        return None


def _scan_members(archive: zipfile.ZipFile) -> Iterator[Secret]:
    left = WHOLE_BYTES
    for info in archive.infolist():
        if info.is_dir() or info.file_size > min(MEMBER_BYTES, left):
            continue
        with archive.open(info) as member:
            content = member.read(MEMBER_BYTES)
        left -= len(content)
        if found := scan_content(content):
            yield replace(found, member=info.filename)


def _scan_tar(fd: int, size: int) -> Secret | None:
    """Look into the small members; what follows a header that is none holds nothing that anybody could read."""
    at, left = 0, WHOLE_BYTES
    for _ in range(_MOST_TAR_MEMBERS):
        header = os.pread(fd, _TAR_BLOCK, at)
        length = _tar_length(header)
        if length is None:
            return None
        at += _TAR_BLOCK
        if header[_TAR_KIND] in {0, ord("0")} and length <= min(MEMBER_BYTES, left):
            left -= length
            if found := scan_content(os.pread(fd, length, at)):
                return replace(found, member=header[:100].rstrip(b"\0").decode("utf-8", "replace"))
        at += -(-length // _TAR_BLOCK) * _TAR_BLOCK
        if at >= size:
            return None

    return None


def _scan_gzip(fd: int, size: int) -> Secret | None:
    """Look into what was packed, a tar file or a text; what a bomb holds beyond the limit is not unpacked."""
    inflate, scanner = zlib.decompressobj(_GZIP_WINDOW), Scanner(WHOLE_BYTES)
    at, left, packed = 0, WHOLE_BYTES, b""
    while left > 0 and at <= size and not (inflate.eof or scanner.is_done):
        if not packed:
            packed = os.pread(fd, _PIECE, at)
            at += len(packed) or size + 1
        try:
            content = inflate.decompress(packed, min(_PIECE, left))
        except zlib.error:
            break
        packed, left = inflate.unconsumed_tail, left - len(content)
        if content:
            scanner.feed(content)

    return scanner.found and replace(scanner.found, member="what it unpacks to")


def _tar_length(header: bytes) -> int | None:
    """Return how long the member of a tar *header* is; ``None`` if it is no header."""
    if len(header) < _TAR_BLOCK or header[_TAR_MAGIC] != b"ustar":
        return None
    field = header[_TAR_LENGTH]
    if field[0] & 0x80:  # a number instead of digits: from 8 GiB on
        return int.from_bytes(field[4:], "big")
    digits = field.strip(b"\0 ")

    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


class _File(RawIOBase):
    """A descriptor as ``zipfile`` wants it; it reads with ``pread``, so that the descriptor's own place stays."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._at = 0

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
