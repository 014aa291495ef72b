"""Counts parameters by the headers of safetensors files. Pure."""

import json
import math
import struct
from collections.abc import Iterable, Mapping

from msgspec import Struct

_LENGTH = struct.Struct("<Q")
HEADER_MOST = 100_000_000  # MAX_HEADER_SIZE of safetensors' src/tensor.rs


class Weights(Struct, frozen=True):
    """How many parameters there are, of which types (F32 → count), and how many bytes the files take."""

    parameters: int
    dtypes: Mapping[str, int]
    bytes: int


def header_end(start: bytes) -> int:
    """Return where the header ends, from the file's first eight bytes; 0 if there is none."""
    if len(start) < _LENGTH.size:
        return 0
    (length,) = _LENGTH.unpack(start[: _LENGTH.size])

    return _LENGTH.size + length if length <= HEADER_MOST else 0


def count_parameters(header: bytes) -> dict[str, int] | None:
    """Return the number of parameters by type, from the bytes up to the header's end."""
    try:
        tensors = json.loads(header[_LENGTH.size :])
        counts: dict[str, int] = {}
        for name, tensor in tensors.items():
            if name != "__metadata__":
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None

    return counts


def sum_weights(files: Iterable[tuple[Mapping[str, int], int]]) -> Weights | None:
    """Add up (counts, size) of several files; ``None`` if there are none."""
    counts: dict[str, int] = {}
    size = 0
    for by_type, file_size in files:
        size += file_size
        for dtype, count in by_type.items():
            counts[dtype] = counts.get(dtype, 0) + count
    if not counts:
        return None

    return Weights(sum(counts.values()), dict(sorted(counts.items(), key=lambda item: -item[1])), size)
