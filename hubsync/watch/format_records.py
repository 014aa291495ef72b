"""Reads two formats of records without trusting them: TensorBoard's event files, and torch's ``.metadata``.

An event file grows as long as its run does and is never whole; what is of use is where its last whole record ends.
``.metadata`` is a pickle: it is never unpickled, only searched for the names of the files it speaks of.
"""

import os
import re
import struct
from collections.abc import Iterator

from hubsync.watch.verdict import Verdict

# --- tfevents: length, masked CRC-32C of the length, data, masked CRC-32C of the data
# (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details)

_HEAD = struct.Struct("<QI")
_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")
_WINDOW = 1 << 20
_CHECKED_MOST = 1 << 20  # of the last record's data: Python counts some megabytes in a second
_CASTAGNOLI = 0x82F63B78
_MASK = 0xA282EAD8


def check_events(fd: int, size: int) -> Verdict:
    """Judge an event file by its first record; the last may be half written at any time."""
    if size and next(_walk_records(fd, min(size, _WINDOW), 0), None) is None and size < _WINDOW:
        return Verdict(False, "tfevents: the first record is not whole")

    return Verdict(True, "tfevents: grows with its run")


def last_record_end(fd: int, size: int, start: int = 0) -> int:
    """Return where the last whole record before *size* ends; *start* is an earlier answer, to go on from."""
    end, last = start, None
    for record in _walk_records(fd, size, start):
        end, last = record[1], record
    if last is not None and not _has_sound_data(fd, *last):
        return last[0]

    return end


def _walk_records(fd: int, size: int, at: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each record whose head is sound and whose end is not behind *size*."""
    window, window_at = b"", at
    while at + _HEAD.size <= size:
        if at < window_at or at + _HEAD.size > window_at + len(window):
            window, window_at = os.pread(fd, min(_WINDOW, size - at), at), at
            if len(window) < _HEAD.size:
                return
        length, crc = _HEAD.unpack_from(window, at - window_at)
        end = at + _HEAD.size + length + _CRC.size
        if end > size or crc != masked_crc32c(_LENGTH.pack(length)):
            return
        yield at, end
        at = end


def _has_sound_data(fd: int, start: int, end: int) -> bool:
    length = end - start - _HEAD.size - _CRC.size
    if length > _CHECKED_MOST:
        return True
    content = os.pread(fd, length + _CRC.size, start + _HEAD.size)

    return len(content) == length + _CRC.size and _CRC.unpack_from(content, length)[0] == masked_crc32c(content[:length])


def masked_crc32c(content: bytes) -> int:
    """Return the CRC-32C of *content* as TFRecord stores it: turned by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF

    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_CASTAGNOLI if byte & 1 else 0)

    return byte


_TABLE = tuple(_table_entry(byte) for byte in range(256))


# --- .metadata of torch.distributed.checkpoint: FileSystemWriter names its files __<rank>_<number>.distcp
# (https://github.com/pytorch/pytorch/blob/main/torch/distributed/checkpoint/filesystem.py)

_METADATA_MOST = 64 << 20
_CHUNK = 1 << 20
_OVERLAP = 128
_MARK = b"\x80"  # the first byte of every pickle since protocol 2
_PICKLED_NAME = re.compile(  # a pickled text: its opcode, its length, itself
    rb"(?:\x8c(?P<short>.)|X(?P<long>.{4}))(?P<name>__\d{1,9}_\d{1,9}\.distcp)", re.DOTALL
)


def distcp_members(fd: int) -> tuple[str, ...] | None:
    """Return the ``.distcp`` files that the open ``.metadata`` names; ``None`` if it names none.

    Of a very large one only the start is searched: what is found there is needed whatever follows.
    """
    if os.pread(fd, 1, 0) != _MARK:
        return None
    names: set[str] = set()
    for start in range(0, _METADATA_MOST, _CHUNK):
        chunk = os.pread(fd, _CHUNK + _OVERLAP, start)
        names.update(found["name"].decode() for found in _PICKLED_NAME.finditer(chunk) if _is_whole_text(found))
        if len(chunk) <= _CHUNK:
            break

    return tuple(sorted(names)) or None


def _is_whole_text(found: re.Match[bytes]) -> bool:
    """Return whether the length before the name is the name's: then it is a text of its own, not a part of one."""
    return int.from_bytes(found["short"] or found["long"], "little") == len(found["name"])
