"""Judges safetensors: 8 bytes of header length, a JSON header, then the tensors without a gap between them.

https://github.com/huggingface/safetensors#format; the limit is MAX_HEADER_SIZE of its src/tensor.rs.
"""

import json
import struct
from typing import Any

from hubsync.watch.verdict import Verdict, read_exactly

_SAFETENSORS_HEADER_MOST = 100_000_000
_LENGTH = struct.Struct("<Q")


def check_safetensors(fd: int, size: int) -> Verdict:
    """Judge by the header: it lists where each tensor lies."""
    if size < _LENGTH.size:
        return Verdict(False, "safetensors: shorter than its header's length field")
    (length,) = _LENGTH.unpack(read_exactly(fd, _LENGTH.size, 0))
    if length > _SAFETENSORS_HEADER_MOST:
        return Verdict(False, f"safetensors: a header of {length} bytes is over the format's limit")
    data_at = _LENGTH.size + length
    if data_at > size:
        return Verdict(False, f"safetensors: the header ends at {data_at}, the file at {size}")
    try:
        spans = _read_spans(read_exactly(fd, length, _LENGTH.size))
    except (ValueError, RecursionError):
        return Verdict(False, "safetensors: the header is not what the format says")

    return _judge_spans(spans, data_at, size)


def _judge_spans(spans: list[tuple[int, int]], data_at: int, size: int) -> Verdict:
    end = 0
    for start, stop in spans:
        if start != end:
            return Verdict(False, f"safetensors: tensor data {'overlaps' if start < end else 'is missing'} at {start}")
        end = stop
    if data_at + end != size:
        return Verdict(False, f"safetensors: {data_at + end} bytes by its header, {size} on disk")

    return Verdict(True, "safetensors: header and size agree")


def _read_spans(header: bytes) -> list[tuple[int, int]]:
    """Return where each tensor lies, in order of place; a header may be 100 MB, so nothing else of it is kept."""
    tensors: list[list[Any]] = []

    def keep_span(pairs: list[tuple[str, Any]]) -> None:
        tensors.extend(value for key, value in pairs if key == "data_offsets" and isinstance(value, list))

    if not header.startswith(b"{"):
        raise ValueError(header[:1])
    json.loads(header.decode(), object_pairs_hook=keep_span)

    return sorted(_require_span(span) for span in tensors)


def _require_span(span: object) -> tuple[int, int]:
    match span:
        case [int(start), int(stop)] if 0 <= start <= stop:
            return start, stop
    raise ValueError(span)
