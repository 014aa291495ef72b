"""Reads TensorBoard event files without TensorFlow: scalars, and the texts that trainers leave there. Pure.

Records are length, CRC, data, CRC; data is the protobuf message ``Event``. Only the fields named below are looked at, what
cannot be read ends the file, as its last record may be half written.
https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/summary.proto
"""

import math
import struct
from collections.abc import Iterator

from msgspec import Struct, field

_HEAD = struct.Struct("<QI")
_CRC_BYTES = 4
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EVENT_STEP, _EVENT_SUMMARY = 2, 5
_SUMMARY_VALUE = 1
_VALUE_TAG, _VALUE_SIMPLE, _VALUE_TENSOR = 1, 2, 8
_TENSOR_TYPE, _TENSOR_CONTENT, _TENSOR_FLOAT, _TENSOR_DOUBLE, _TENSOR_STRING = 1, 4, 5, 6, 8
_TYPE_FLOAT, _TYPE_DOUBLE = 1, 2

_Field = tuple[int, "int | bytes"]


class Events(Struct, frozen=True):
    """What an event file holds: tag → (step, value) in the order of writing, and tag → text."""

    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def read_events(content: bytes) -> Events:
    """Return the scalars and texts of an event file."""
    events = Events()
    for record in _records(content):
        try:
            _add_event(events, record)
        except (ValueError, struct.error, IndexError):
            continue

    return events


def _records(content: bytes) -> Iterator[bytes]:
    at = 0
    while at + _HEAD.size <= len(content):
        length, _ = _HEAD.unpack_from(content, at)
        start = at + _HEAD.size
        at = start + length + _CRC_BYTES
        if at > len(content):
            return
        yield content[start : start + length]


def _add_event(events: Events, record: bytes) -> None:
    step, summaries = 0, []
    for number, value in _fields(record):
        if number == _EVENT_STEP and isinstance(value, int):
            step = value
        elif number == _EVENT_SUMMARY and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for number, value in _fields(summary):
            if number == _SUMMARY_VALUE and isinstance(value, bytes):
                _add_value(events, step, value)


def _add_value(events: Events, step: int, message: bytes) -> None:
    tag, scalar, text = "", None, None
    for number, value in _fields(message):
        if number == _VALUE_TAG and isinstance(value, bytes):
            tag = value.decode()
        elif number == _VALUE_SIMPLE and isinstance(value, bytes):
            scalar = float(_FLOAT.unpack(value)[0])
        elif number == _VALUE_TENSOR and isinstance(value, bytes):
            scalar, text = _read_tensor(value)
    if tag and scalar is not None and math.isfinite(scalar):
        events.scalars.setdefault(tag, []).append((step, scalar))
    if tag and text is not None:
        events.texts[tag] = text


def _read_tensor(message: bytes) -> tuple[float | None, str | None]:
    """Return the single number or the first text that a tensor holds."""
    fields = dict(_fields(message))
    string = fields.get(_TENSOR_STRING)
    if isinstance(string, bytes):
        return None, string.decode("utf-8", "replace")
    kinds = ((_TYPE_FLOAT, _FLOAT, _TENSOR_FLOAT), (_TYPE_DOUBLE, _DOUBLE, _TENSOR_DOUBLE))
    for kind, form, number in kinds:
        raw = fields.get(number, fields.get(_TENSOR_CONTENT))
        if fields.get(_TENSOR_TYPE) == kind and isinstance(raw, bytes) and len(raw) == form.size:
            return float(form.unpack(raw)[0]), None

    return None, None


def _fields(message: bytes) -> Iterator[_Field]:
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _read_varint(message, at)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(kind, len(message))
        if at + length > len(message):
            raise ValueError(number)
        yield number, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
