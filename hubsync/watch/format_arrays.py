"""Judges files of arrays and tables that say in a header or footer how long they are: npy, HDF5, parquet."""

import ast
import math
import os
import re
import struct

from hubsync.watch.verdict import Verdict, read_exactly

_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")

# --- npy: magic, version, header length, a Python literal, the array
# (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)

_NPY = b"\x93NUMPY"
_NPY_HEADER_MOST = 1 << 16
_NPY_LONG_LENGTH = 2  # from this version on the length has four bytes
_DTYPE = re.compile(r"[<>|=]?(?P<kind>[biufcSUVmM])(?P<size>\d{1,9})(?:\[[^\]]*\])?")
_UNICODE_BYTES = 4


def check_npy(fd: int, size: int) -> Verdict:
    """Judge by the header; ``numpy.save`` may have been called on one open file more than once."""
    at = arrays = 0
    while at < size or not arrays:
        try:
            end = _npy_end(fd, size, at)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return Verdict(False, f"npy: there is no header at {at}")
        if end is None:
            return Verdict(True, "npy: a dtype whose size is not in the header")
        if end > size:
            return Verdict(False, f"npy: {end} bytes by its header, {size} on disk")
        at = end
        arrays += 1
        if arrays > _NPY_HEADER_MOST:
            break

    return Verdict(True, "npy: header and size agree")


def _npy_end(fd: int, size: int, at: int) -> int | None:
    """Return where the array at *at* ends; ``None`` if its dtype does not tell."""
    start = os.pread(fd, 12, at)
    if len(start) < 12 or not start.startswith(_NPY):  # noqa: PLR2004 - magic, version, length
        raise ValueError(start)
    length_at, field = 8, _U32 if start[6] >= _NPY_LONG_LENGTH else _U16
    (length,) = field.unpack_from(start, length_at)
    data_at = at + length_at + field.size + length
    if length > _NPY_HEADER_MOST or data_at > size:
        raise ValueError(length)
    header = ast.literal_eval(read_exactly(fd, length, data_at - length).decode("latin-1").strip())
    match header:
        case {"descr": str(descr), "shape": tuple(shape)} if all(isinstance(n, int) and n >= 0 for n in shape):
            item = _item_size(descr)
            return None if item is None else data_at + item * math.prod(shape)
        case {"descr": list(), "shape": tuple()}:
            return None
    raise ValueError(length)


def _item_size(descr: str) -> int | None:
    found = _DTYPE.fullmatch(descr)
    if found is None:
        return None

    return int(found["size"]) * (_UNICODE_BYTES if found["kind"] == "U" else 1)


# --- HDF5: the superblock says where the file ends, and is brought up to date when the file is closed
# (https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, II.A)

_HDF5 = b"\x89HDF\r\n\x1a\n"
_USER_BLOCK_MOST = 1 << 20
_SUPERBLOCK_MOST = 128
_OPEN_FOR_WRITING = 1


def check_hdf5(fd: int, size: int) -> Verdict:
    """Judge by the end-of-file address of the superblock."""
    at = _find_superblock(fd, size)
    if at is None:
        return Verdict(False, "HDF5: the superblock is missing")
    block = os.pread(fd, _SUPERBLOCK_MOST, at)
    try:
        flags, end = _read_superblock(block)
    except (IndexError, ValueError):
        return Verdict(False, "HDF5: the superblock is not what the format says")
    if flags & _OPEN_FOR_WRITING:
        return Verdict(False, "HDF5: open for writing, says the superblock")
    if end != size:
        return Verdict(False, f"HDF5: {end} bytes by its superblock, {size} on disk")

    return Verdict(True, "HDF5: superblock and size agree")


def _find_superblock(fd: int, size: int) -> int | None:
    """Return where the superblock is: at the start, or behind a user block of 512, 1024, 2048 ... bytes."""
    at = 0
    while at < min(size, _USER_BLOCK_MOST):
        if os.pread(fd, len(_HDF5), at) == _HDF5:
            return at
        at = at * 2 or 512

    return None


def _read_superblock(block: bytes) -> tuple[int, int]:
    """Return the flags that mark a writer, and the end-of-file address."""
    version = block[8]
    if version in {0, 1}:
        width, addresses_at, flags = block[13], 24 if version == 0 else 28, 0
    elif version in {2, 3}:
        width, addresses_at, flags = block[9], 12, block[11]
    else:
        raise ValueError(version)
    end = block[addresses_at + 2 * width : addresses_at + 3 * width]
    if width not in {2, 4, 8, 16} or len(end) < width:
        raise ValueError(width)

    return flags, int.from_bytes(end, "little")


# --- parquet: magic, columns, footer, length of the footer, magic (https://parquet.apache.org/docs/file-format/)

_PARQUET_MAGIC = (b"PAR1", b"PARE")  # PARE: an encrypted footer
_PARQUET_LEAST = 12


def check_parquet(fd: int, size: int) -> Verdict:
    """Judge by the footer, which is written last."""
    if size < _PARQUET_LEAST or read_exactly(fd, 4, 0) not in _PARQUET_MAGIC:
        return Verdict(False, "parquet: the magic at the start is missing")
    tail = read_exactly(fd, 8, size - 8)
    if tail[4:] not in _PARQUET_MAGIC:
        return Verdict(False, "parquet: the magic at the end is missing")
    (length,) = _U32.unpack_from(tail)
    if not 0 < length <= size - _PARQUET_LEAST:
        return Verdict(False, f"parquet: a footer of {length} bytes in a file of {size}")

    return Verdict(True, "parquet: the footer is in place")
