"""Decides from a file's headers whether it is whole, for the formats that say so themselves.

Reads an open descriptor with ``pread``, a bounded number of bytes, and never runs or unpickles anything. Content is
hostile until proven otherwise: whatever stands in a header, the answer is a verdict. A format that is not known here is
whole as far as this module can tell; :mod:`hubsync.watch.settle` saw that it was quiet.
"""

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubsync.errors import FileUnreadableError

_JSON_MOST = 16 << 20  # larger ones are looked at by their end only
_POINTER_MOST = 1024  # git-lfs: a pointer is smaller (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)
_POINTER = re.compile(
    rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v1\n(?s:.)*oid sha256:[0-9a-f]{64}"
)
_TAIL = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a file is whole, and why. *rejected*: it never will be, waiting does not help."""

    whole: bool
    reason: str
    rejected: bool = False


def check_structure(fd: int, name: str, size: int) -> Verdict:
    """Judge the open file *fd* of *size* bytes by the format that the last part of *name* promises.

    Raises:
        FileUnreadableError: reading failed.
    """
    check = next((check for suffix, check in _CHECKS if name.lower().endswith(suffix)), _accept)
    try:
        if size == 0:
            return _judge_empty(name.lower())
        if size < _POINTER_MOST and _POINTER.match(_read(fd, size, 0)):
            return Verdict(False, "pointer file, the real content is absent", rejected=True)

        return check(fd, size)
    except EOFError:
        return Verdict(False, "it was cut short while it was looked at")
    except OSError as exc:
        raise FileUnreadableError(f"{name}: {exc.strerror}") from exc


def index_members(fd: int, name: str) -> tuple[str, ...] | None:
    """Return the shards that the sharded index *fd* needs, relative to its directory; ``None`` if it is no such index.

    A member that is no plain file name (``../x``, ``a/b``) is dropped: no writer makes one, and nobody may follow it.
    """
    if not name.endswith(".index.json"):
        return None
    try:
        loaded = json.loads(os.pread(fd, _JSON_MOST, 0))
    except (ValueError, RecursionError):
        return None
    except OSError as exc:
        raise FileUnreadableError(f"{name}: {exc.strerror}") from exc
    members = loaded.get("weight_map") if isinstance(loaded, dict) else None
    if not isinstance(members, dict):
        return None

    return tuple(sorted({member for member in members.values() if _is_plain_name(member)}))


def _is_plain_name(member: object) -> bool:
    return isinstance(member, str) and member not in {"", ".", ".."} and not set(member) & {"/", "\\", "\0"}


def _judge_empty(name: str) -> Verdict:
    return Verdict(False, "empty") if name.endswith(_NEVER_EMPTY) else Verdict(True, "empty")


def _read(fd: int, length: int, start: int) -> bytes:
    """Return exactly *length* bytes; the file may have been truncated since its size was taken."""
    content = os.pread(fd, length, start)
    if len(content) < length:
        raise EOFError

    return content


def _accept(_fd: int, _size: int) -> Verdict:
    return Verdict(True, "no structural check for this format")


# --- safetensors: 8 bytes of header length, a JSON header, then the tensors without a gap between them
# (https://github.com/huggingface/safetensors#format; the limit is MAX_HEADER_SIZE of its src/tensor.rs)

_SAFETENSORS_HEADER_MOST = 100_000_000
_LENGTH = struct.Struct("<Q")


def _check_safetensors(fd: int, size: int) -> Verdict:
    if size < _LENGTH.size:
        return Verdict(False, "safetensors: shorter than its header's length field")
    (length,) = _LENGTH.unpack(_read(fd, _LENGTH.size, 0))
    if length > _SAFETENSORS_HEADER_MOST:
        return Verdict(False, f"safetensors: a header of {length} bytes is over the format's limit")
    data_at = _LENGTH.size + length
    if data_at > size:
        return Verdict(False, f"safetensors: the header ends at {data_at}, the file at {size}")
    try:
        spans = _read_spans(_read(fd, length, _LENGTH.size))
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


# --- zip: the central directory is written last, and the record at the very end says where it is
# (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.14 to 4.3.16; torch.save and numpy.savez write zip)

_MANY, _FAR = 0xFFFF, 0xFFFFFFFF  # in the end record: the real figure is in the zip64 record
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


def _check_zip(fd: int, size: int) -> Verdict:
    if not os.pread(fd, 4, 0).startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Verdict(False, "zip: does not begin with a zip header")
    tail_at = max(0, size - _END.size - 0xFFFF)
    tail = _read(fd, size - tail_at, tail_at)
    found = _find_end(tail)
    if found is None:
        return Verdict(False, "zip: the end-of-central-directory record is missing")
    entries, length, start = _END.unpack_from(tail, found)[4:7]
    end = tail_at + found
    if entries == _MANY or _FAR in {length, start}:
        wide = _read_end64(fd, end)
        if wide is None:
            return Verdict(False, "zip: the zip64 end record is missing")
        entries, length, start, end = wide
    if start + length > end or (entries and _read(fd, 4, start) != b"PK\x01\x02"):
        return Verdict(False, "zip: the central directory is not where the end record says")

    return Verdict(True, "zip: the central directory is in place")


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
    locator = _read(fd, _END64_LOCATOR.size, locator_at) if locator_at >= 0 else b""
    if not locator.startswith(b"PK\x06\x07"):
        return None
    at = _END64_LOCATOR.unpack(locator)[2]
    if at + _END64.size > locator_at:
        return None
    record = _END64.unpack(_read(fd, _END64.size, at))

    return (record[7], record[8], record[9], at) if record[0] == b"PK\x06\x06" else None


def _check_torch(fd: int, size: int) -> Verdict:
    if os.pread(fd, 4, 0).startswith(b"PK"):
        return _check_zip(fd, size)

    return Verdict(True, "not a zip file: nothing to check")


# --- JSON


def _check_json(fd: int, size: int) -> Verdict:
    if size > _JSON_MOST:
        return _check_json_end(fd, size)
    text = _read(fd, size, 0)
    try:
        json.loads(text, object_pairs_hook=_forget)
    except RecursionError:
        return Verdict(True, "JSON: nested too deep to parse")
    except ValueError as exc:
        if _is_json_lines(text):
            return Verdict(True, "JSON: one document per line")
        return Verdict(False, f"JSON: {exc}"[:200])

    return Verdict(True, "JSON: parses")


def _check_json_end(fd: int, size: int) -> Verdict:
    tail = _read(fd, _TAIL, size - _TAIL).rstrip()
    if tail.endswith((b"}", b"]")):
        return Verdict(True, "JSON: ends with a bracket, too large to parse")

    return Verdict(False, "JSON: does not end with a bracket")


def _is_json_lines(text: bytes) -> bool:
    """Return whether *text* has more than one line and its first and last are documents: many data sets call that .json."""
    lines = text.strip().split(b"\n")
    try:
        return len(lines) > 1 and all(isinstance(json.loads(line), dict | list) for line in (lines[0], lines[-1]))
    except (ValueError, RecursionError):
        return False


def _forget(_pairs: list[tuple[str, Any]]) -> None:
    """Keep nothing of an object that parsed."""


# --- magic numbers


_GGUF_LEAST = 24  # magic, version, two counts (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)
_PARQUET_LEAST = 12  # magic, footer length, magic (https://parquet.apache.org/docs/file-format/)


def _check_gguf(fd: int, size: int) -> Verdict:
    if size < _GGUF_LEAST or _read(fd, 4, 0) != b"GGUF":
        return Verdict(False, "GGUF: the header is missing")

    return Verdict(True, "GGUF: the header is in place")


def _check_parquet(fd: int, size: int) -> Verdict:
    magic = (b"PAR1", b"PARE")  # PARE: an encrypted footer
    if size < _PARQUET_LEAST or _read(fd, 4, 0) not in magic or _read(fd, 4, size - 4) not in magic:
        return Verdict(False, "parquet: the magic at an end is missing")

    return Verdict(True, "parquet: the magic is at both ends")


_CHECKS: tuple[tuple[str, Callable[[int, int], Verdict]], ...] = (
    (".safetensors", _check_safetensors),
    (".json", _check_json),
    (".bin", _check_torch),
    (".pt", _check_torch),
    (".pth", _check_torch),
    (".ckpt", _check_torch),
    (".npz", _check_zip),
    (".keras", _check_zip),
    (".zip", _check_zip),
    (".gguf", _check_gguf),
    (".parquet", _check_parquet),
)
_NEVER_EMPTY = tuple(suffix for suffix, _ in _CHECKS if suffix != ".bin")  # anything may be called .bin
