"""Judges zip files by the central directory: it is written last, and the record at the very end says where it is.

https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.14 to 4.3.16. ``torch.save`` and ``numpy.savez`` write zip.
"""

import os
import struct

from hubsync.watch.verdict import Verdict, read_exactly

_MANY, _FAR = 0xFFFF, 0xFFFFFFFF  # in the end record: the real figure is in the zip64 record
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


def check_zip(fd: int, size: int) -> Verdict:
    """Judge by the central directory."""
    if not os.pread(fd, 4, 0).startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Verdict(False, "zip: does not begin with a zip header")
    directory = _find_directory(fd, size)
    if isinstance(directory, Verdict):
        return directory
    entries, length, start, end = directory
    if start + length > end or (entries and read_exactly(fd, 4, start) != b"PK\x01\x02"):
        return Verdict(False, "zip: the central directory is not where the end record says")

    return Verdict(True, "zip: the central directory is in place")


def directory_bytes(fd: int, size: int) -> int:
    """Return the length of the central directory; 0 if there is none."""
    try:
        directory = _find_directory(fd, size)
    except EOFError:
        return 0

    return 0 if isinstance(directory, Verdict) else directory[1]


def _find_directory(fd: int, size: int) -> tuple[int, int, int, int] | Verdict:
    """Return entries, length and start of the central directory, and its bound; or what is wrong with it."""
    tail_at = max(0, size - _END.size - 0xFFFF)
    tail = read_exactly(fd, size - tail_at, tail_at)
    found = _find_end(tail)
    if found is None:
        return Verdict(False, "zip: the end-of-central-directory record is missing")
    entries, length, start = _END.unpack_from(tail, found)[4:7]
    end = tail_at + found
    if entries == _MANY or _FAR in {length, start}:
        wide = _read_end64(fd, end)
        return Verdict(False, "zip: the zip64 end record is missing") if wide is None else wide

    return entries, length, start, end


def _find_end(tail: bytes) -> int | None:
    """Return where the end record starts: the one whose comment ends with the file."""
    found = tail.rfind(b"PK\x05\x06")
    while found >= 0:
        if found + _END.size <= len(tail) and found + _END.size + _END.unpack_from(tail, found)[7] == len(tail):
            return found
        found = tail.rfind(b"PK\x05\x06", 0, found + 3)

    return None


def _read_end64(fd: int, end: int) -> tuple[int, int, int, int] | None:
    """Return entries, length and start of the central directory, and its bound, from the zip64 record before *end*."""
    locator_at = end - _END64_LOCATOR.size
    locator = read_exactly(fd, _END64_LOCATOR.size, locator_at) if locator_at >= 0 else b""
    if not locator.startswith(b"PK\x06\x07"):
        return None
    at = _END64_LOCATOR.unpack(locator)[2]
    if at + _END64.size > locator_at:
        return None
    record = _END64.unpack(read_exactly(fd, _END64.size, at))

    return (record[7], record[8], record[9], at) if record[0] == b"PK\x06\x06" else None


def check_torch(fd: int, size: int) -> Verdict:
    """Judge what may be a zip file; older torch files, and anything else called ``.bin``, say nothing of their length."""
    if os.pread(fd, 4, 0).startswith(b"PK"):
        return check_zip(fd, size)

    return Verdict(True, "not a zip file: nothing to check")
