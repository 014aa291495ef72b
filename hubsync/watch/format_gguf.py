"""Judges GGUF: magic, version, counts, metadata, one record for each tensor, then the tensors at aligned offsets.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The size follows from the records; a quantizer that writes
its header last leaves zeros at the start until then. Metadata holds vocabularies, so a header has megabytes.
"""

import math
import os
import struct

from hubsync.watch.verdict import Verdict

_LEAST = 24  # magic, version, two counts
_READS = (1 << 20, 8 << 20, 64 << 20)  # how much of the file is tried as the header, in turn
_COUNTS = struct.Struct("<QQ")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_KNOWN_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT, _MOST_ALIGNMENT = 32, 1 << 20
_MOST_DIMENSIONS, _DEEPEST = 8, 4
_STRING, _ARRAY = 8, 9
_UINT32 = 4
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type of a value -> its bytes

# type of a tensor -> elements in a block, bytes of a block (GGML_QUANT_SIZES in
# https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py); others count as one byte, the least.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


class _ShortError(Exception):
    """The header goes on behind what was read."""


def check_gguf(fd: int, size: int) -> Verdict:
    """Judge by the header: it says where the last tensor ends."""
    start = os.pread(fd, _LEAST, 0)
    if len(start) < _LEAST or not start.startswith(b"GGUF"):
        return Verdict(False, "GGUF: the header is missing")
    (version,) = _U32.unpack_from(start, 4)
    if version not in _KNOWN_VERSIONS:
        odd = version == 0 or (version > 0xFF and version & 0xFFFF)  # noqa: PLR2004 - a big-endian 3 is 0x03000000
        return Verdict(not odd, f"GGUF: version {version:#x} is not parsed")
    for most in _READS:
        header = os.pread(fd, most, 0)
        try:
            return _judge_end(_Header(header).read_end(), size)
        except ValueError as exc:
            return Verdict(False, f"GGUF: {exc}")
        except _ShortError:
            if len(header) < most:
                return Verdict(False, f"GGUF: the header goes on behind the end at {len(header)}")

    return Verdict(True, "GGUF: the header is too large to parse")


def _judge_end(end: int, size: int) -> Verdict:
    if size < end:
        return Verdict(False, f"GGUF: {end} bytes by its header, {size} on disk")

    return Verdict(True, "GGUF: no tensor ends behind the end of the file")


class _Header:
    """The first bytes of a file, read from front to back."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 8
        self._alignment = _DEFAULT_ALIGNMENT

    def read_end(self) -> int:
        """Return where the last tensor ends.

        Raises:
            ValueError: this is no header.
            _ShortError: it goes on.
        """
        tensors, pairs = self._take_u64(), self._take_u64()
        if tensors * _LEAST > 1 << 40 or pairs * _LEAST > 1 << 40:
            raise ValueError(f"{tensors} tensors and {pairs} pairs are not plausible")
        for _ in range(pairs):
            self._skip_pair()
        ends = [self._take_tensor_end() for _ in range(tensors)]
        data_at = -(-self._at // self._alignment) * self._alignment

        return data_at + max(ends) if ends else self._at

    def _skip_pair(self) -> None:
        key = self._take_string()
        kind = self._take_u32()
        if key == b"general.alignment" and kind == _UINT32:
            self._alignment = self._take_u32()
            if not 0 < self._alignment <= _MOST_ALIGNMENT:
                raise ValueError(f"alignment {self._alignment}")
            return
        self._skip_value(kind, 0)

    def _skip_value(self, kind: int, depth: int) -> None:
        if kind == _STRING:
            self._take_string()
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self._take_u32(), self._take_u64()
            if inner in _SCALARS:
                self._skip(count * _SCALARS[inner])
                return
            if inner == _STRING:
                self._skip_strings(count)
                return
            for _ in range(count):
                self._skip_value(inner, depth + 1)
        elif kind in _SCALARS:
            self._skip(_SCALARS[kind])
        else:
            raise ValueError(f"a value of type {kind}")

    def _skip_strings(self, count: int) -> None:
        """Skip a vocabulary, which is most of a header: a few hundred thousand texts, so nothing is called for each."""
        content, at, unpack, last = self._content, self._at, _U64.unpack_from, len(self._content) - _U64.size
        for _ in range(count):
            if at > last:
                raise _ShortError
            at += _U64.size + unpack(content, at)[0]
        self._at = at
        self._skip(0)

    def _take_tensor_end(self) -> int:
        self._take_string()
        dimensions = self._take_u32()
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        elements = math.prod(self._take_u64() for _ in range(dimensions))
        kind = self._take_u32()
        offset = self._take_u64()
        block, length = _BLOCKS.get(kind, (max(elements, 1), 1))

        return offset + elements // block * length

    def _take_string(self) -> bytes:
        length = self._take_u64()
        start = self._at
        self._skip(length)

        return self._content[start : self._at] if length < _LEAST else b""

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > len(self._content):
            raise _ShortError

    def _take_u32(self) -> int:
        self._skip(_U32.size)

        return int(_U32.unpack_from(self._content, self._at - _U32.size)[0])

    def _take_u64(self) -> int:
        self._skip(_U64.size)

        return int(_U64.unpack_from(self._content, self._at - _U64.size)[0])
