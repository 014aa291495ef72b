"""How a log entry becomes one line: JSON for machines, a sentence for people, fields for the journal.

An entry is a dict that starts with ``timestamp``, ``level``, ``event`` and ``message``. A line is bounded, valid UTF-8
and free of line breaks, whatever a path or an error held. Nothing here knows where a line goes.
"""

import json
import math
import re
import sys
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from enum import Enum
from itertools import islice
from typing import TypeVar

from hubsync.monitor.events import mentioned_fields
from hubsync.monitor.redact import MASK, is_secret_name, redact
from hubsync.monitor.text import escape_surrogates, escape_unsafe, format_field

Entry = Mapping[str, object]
T = TypeVar("T")

MAX_LINE_BYTES = 64 * 1024  # what common log shippers take as one line

# Characters per string, and items of all lists and dicts together; the next, smaller bound is tried when a line is
# still too long.
_BOUNDS = ((8_192, 1_000), (1_024, 100), (128, 10))
_HEAD = ("timestamp", "level", "event", "message")
_NOTHING: tuple[object, ...] = (None, "", [], {})
_FEW = (*_HEAD, "target", "mirror", "unit", "error_kind")

# Legal in JSON, but not safe to print; json.dumps escapes the other controls itself.
_RISKY_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NEEDS_QUOTES = re.compile(r"[\s\"=]|^$")

_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31;1m"}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"

# https://systemd.io/JOURNAL_NATIVE_PROTOCOL/; priorities are syslog's.
_PRIORITIES = {"debug": "7", "info": "6", "warning": "4", "error": "3"}
_MESSAGE_IDS = uuid.uuid5(uuid.NAMESPACE_OID, "hubsync")
_NOT_IN_KEYS = re.compile("[^A-Z0-9_]")
_MAX_KEY_CHARS = 64


def encode_json(entry: Entry) -> str:
    """Return *entry* as one line of JSON of at most ``MAX_LINE_BYTES``; ``truncated`` says that something was cut."""
    for max_chars, max_items in _BOUNDS:
        line = _dump(entry, max_chars, max_items)
        if len(line.encode()) <= MAX_LINE_BYTES:
            return line

    few = {name: str(entry[name]) for name in _FEW if name in entry}
    return _dump({**few, "truncated": True}, *_BOUNDS[-1])


def clean_value(value: object) -> object:
    """Return *value* as plain JSON data without credentials, in full."""
    return _Cleaner(max_chars=sys.maxsize, max_items=sys.maxsize, max_depth=sys.maxsize).clean(value)


def format_console(entry: Entry, *, colour: bool) -> str:
    """Return *entry* for a person: the local time, level, sentence, then the event and what the sentence left out."""
    fields = _clean_fields(entry, *_BOUNDS[0])
    level, event = str(fields["level"]), str(fields["event"])
    said = {*_HEAD, "exception", *mentioned_fields(event)}
    told = {name: value for name, value in fields.items() if name not in said and value not in _NOTHING}
    rest = "".join(f" {name}={_quote(format_field(name, value))}" for name, value in told.items())
    when = datetime.fromisoformat(str(fields["timestamp"])).astimezone().strftime("%H:%M:%S")
    sentence, tail = escape_unsafe(str(fields["message"])), escape_unsafe(event + rest)
    if colour:
        line = f"{_DIM}{when}{_RESET} {_COLOURS.get(level, '')}{level:<7}{_RESET} {sentence}  {_DIM}{tail}{_RESET}"
    else:
        line = f"{when} {level:<7} {sentence}  {tail}"

    trace = str(fields.get("exception", "")).splitlines()
    return "\n".join([line, *(f"    {escape_unsafe(text)}" for text in trace)])


def journal_fields(entry: Entry) -> dict[str, str]:
    """Return the journal's fields for *entry*; every field of ours stands under ``HUBSYNC_``."""
    said = [str(entry[name]) for name in ("message", "exception") if name in entry]
    fields = {
        # journalctl shows a message with control characters as "[blob data]".
        "MESSAGE": "\n".join(escape_unsafe(line) for text in said for line in text.splitlines()),
        "PRIORITY": _PRIORITIES.get(str(entry.get("level")), "6"),
        "SYSLOG_IDENTIFIER": "hubsync",
        "MESSAGE_ID": message_id(str(entry.get("event"))),
    }
    for name, value in entry.items():
        if name not in {"message", "timestamp"} and value is not None:
            key = _NOT_IN_KEYS.sub("_", f"HUBSYNC_{name.upper()}")[:_MAX_KEY_CHARS]
            fields[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return fields


def encode_journal(fields: Mapping[str, str]) -> bytes:
    """Return *fields* as a datagram of the journal's native protocol."""
    return b"".join(_journal_field(name.encode("ascii"), value.encode()) for name, value in fields.items())


def message_id(event: str) -> str:
    """Return the journal's ``MESSAGE_ID`` of *event*; it never changes for a given name."""
    return uuid.uuid5(_MESSAGE_IDS, event).hex


def _journal_field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:
        return name + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"

    return name + b"=" + value + b"\n"


def _dump(entry: Entry, max_chars: int, max_items: int) -> str:
    line = json.dumps(_clean_fields(entry, max_chars, max_items), ensure_ascii=False, separators=(",", ":"))
    return _RISKY_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def _clean_fields(entry: Entry, max_chars: int, max_items: int) -> dict[str, object]:
    cleaner = _Cleaner(max_chars, max_items)
    fields = {name: cleaner.clean_named(name, value) for name, value in entry.items()}
    if cleaner.truncated:
        fields["truncated"] = True

    return fields


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if _NEEDS_QUOTES.search(text) else text


class _Cleaner:
    """Turns any value into bounded JSON data, and remembers whether it cut something."""

    def __init__(self, max_chars: int, max_items: int, max_depth: int = 4) -> None:
        self._max_chars = max_chars
        self._items_left = max_items
        self._max_depth = max_depth
        self.truncated = False

    def clean_named(self, name: str, value: object, depth: int = 0) -> object:
        """Return the cleaned *value* of the field *name*, masked if the name says that it is a credential."""
        if isinstance(value, str) and is_secret_name(name):
            return MASK

        return self.clean(value, depth)

    def clean(self, value: object, depth: int = 0) -> object:
        """Return *value* as JSON data."""
        if value is None or isinstance(value, (bool, int)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, Mapping) and depth < self._max_depth:
            return self._clean_mapping(value, depth + 1)
        if isinstance(value, (list, tuple, set, frozenset)) and depth < self._max_depth:
            return [self.clean(item, depth + 1) for item in self._take(value)]

        return self._clean_text(_as_text(value))

    def _clean_mapping(self, value: Mapping[object, object], depth: int) -> dict[str, object]:
        return {
            self._clean_text(str(name)): self.clean_named(str(name), item, depth)
            for name, item in self._take(value.items())
        }

    def _take(self, items: Collection[T]) -> list[T]:
        taken = list(islice(items, self._items_left))
        self._items_left -= len(taken)
        self.truncated |= len(taken) < len(items)
        return taken

    def _clean_text(self, text: str) -> str:
        # Redacted before it is cut: half a token is recognised by nobody.
        text = escape_surrogates(redact(text))
        if len(text) <= self._max_chars:
            return text

        self.truncated = True
        half = self._max_chars // 2
        return f"{text[:half]} ... {text[-half:]}"  # the end of a traceback or a path tells most


def _as_text(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return format_time(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")

    return str(value)


def format_time(moment: datetime) -> str:
    """Return *moment* as RFC 3339 in UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
