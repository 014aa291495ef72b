"""Looks for secrets in a file as it is read, piece by piece, and in what an archive holds. Nothing is ever unpickled.

A look costs more than a hash, so there are limits: a file of up to ``WHOLE_BYTES`` is looked through whole, a larger text
up to ``TEXT_BYTES``, of other large files the first ``HEAD_BYTES``; of what is packed what ``archives`` unpacks.
"""

import codecs
import os
from typing import TYPE_CHECKING

from msgspec.structs import replace

from hubsync.store.archives import WHOLE_BYTES, is_archive, unpack
from hubsync.store.secrets import Secret, find_secret, judge_name

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TEXT_BYTES = 256 << 20
HEAD_BYTES = 1 << 20

_PIECE = 1 << 20
_OVERLAP = 4096  # no secret is longer than what its pattern needs of it
_SAMPLE = 8192
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell writes text


class Scanner:
    """Looks through a file of *size* bytes as somebody reads it, from the beginning; ``found`` is the first secret."""

    def __init__(self, size: int) -> None:
        self.found: Secret | None = None
        self._is_archive = False
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
        view = memoryview(piece)
        for at in range(0, len(view), _PIECE):
            if self.is_done:
                return
            self._look_at(view[at : at + _PIECE])

    def finish(self, fd: int) -> Secret | None:
        """Return what was found; in an archive, which *fd* is, by member if possible."""
        for name, content in unpack(fd, self._size) if self._is_archive else ():
            if found := judge_name(name) or scan_content(content):
                return replace(found, member=name)

        return self.found

    def _look_at(self, piece: memoryview) -> None:
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

    def _begin(self, content: bytes) -> None:
        self._is_archive = is_archive(content)
        self._is_wide = _is_wide(content)
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
    if not _is_wide(content) and find_secret(content) is None:
        return None
    scanner = Scanner(len(content))
    scanner.feed(content)

    return scanner.found


def _is_wide(content: bytes) -> bool:
    """Tell whether *content* is text of two bytes a letter: by its mark, or as every other byte is zero and no other is."""
    if content.startswith(_MARKS):
        return True
    head = content[:_SAMPLE]

    return 0 in head and any(head[at::2].count(0) > len(head) // 4 and 0 not in head[1 - at :: 2] for at in (0, 1))
