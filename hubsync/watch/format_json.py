"""Judges JSON by parsing it, and reads the shards that an index names."""

import json
import os
import re
from typing import Any

from hubsync.watch.verdict import Verdict, read_exactly

_JSON_MOST = 16 << 20  # larger ones are looked at by their end only
_TAIL = 4096
_INDEX = re.compile(r".*\.index(?:\.[\w-]+)?\.json", re.DOTALL)  # with the variant: model.safetensors.index.fp16.json


def check_json(fd: int, size: int) -> Verdict:
    """Judge by parsing all of it, or by its last bytes if it is too large for that."""
    if size > _JSON_MOST:
        return _check_json_end(fd, size)
    text = read_exactly(fd, size, 0)
    try:
        json.loads(text, object_pairs_hook=_forget, parse_int=len)  # int() refuses thousands of digits
    except RecursionError:
        return Verdict(True, "JSON: nested too deep to parse")
    except ValueError as exc:
        if _is_json_lines(text):
            return Verdict(True, "JSON: one document per line")
        return Verdict(False, f"JSON: {exc}"[:200])

    return Verdict(True, "JSON: parses")


def _check_json_end(fd: int, size: int) -> Verdict:
    tail = read_exactly(fd, _TAIL, size - _TAIL).rstrip()
    if tail.endswith((b"}", b"]")):
        return Verdict(True, "JSON: ends with a bracket, too large to parse")

    return Verdict(False, "JSON: does not end with a bracket")


def _is_json_lines(text: bytes) -> bool:
    """Return whether *text* has more than one line and its first and last are documents: many data sets call that .json."""
    lines = text.strip().split(b"\n")
    try:
        ends = [json.loads(line, parse_int=len) for line in (lines[0], lines[-1])]
        return len(lines) > 1 and all(isinstance(end, dict | list) for end in ends)
    except (ValueError, RecursionError):
        return False


def _forget(_pairs: list[tuple[str, Any]]) -> None:
    """Keep nothing of an object that parsed."""


# --- indexes


def weight_map_members(fd: int, name: str) -> tuple[str, ...] | None:
    """Return the shards that the index *fd* maps weights to; ``None`` if it is no index.

    A member that is no plain file name (``../x``, ``a/b``) is dropped: no writer makes one, and nobody may follow it.
    """
    if not _INDEX.fullmatch(name):
        return None
    try:
        loaded = json.loads(os.pread(fd, _JSON_MOST, 0), parse_int=len)
    except (ValueError, RecursionError):
        return None
    members = loaded.get("weight_map") if isinstance(loaded, dict) else None
    if not isinstance(members, dict):
        return None

    return tuple(sorted({member for member in members.values() if _is_plain_name(member)}))


def _is_plain_name(member: object) -> bool:
    return isinstance(member, str) and member not in {"", ".", ".."} and not set(member) & {"/", "\\", "\0"}
