"""Decides which files are logs, which grow as long as their run does and never become quiet, and what of one is whole.

Names speak first, and are chosen narrowly: a data set may end in ``.jsonl`` as well, and must not be published by halves.
Reads an open descriptor with ``pread``; knows nothing of schedules.
"""

import os
import re

from hubsync.watch.format_records import last_record_end

_EVENTS = re.compile(r"(?:.*\.)?tfevents\.\d+.*", re.DOTALL)  # events.out.tfevents.<time>.<host>.<pid>.<number>
_LINES = re.compile(r".*\.log|(?:.*[-_.])?(?:logs?|metrics)\.jsonl|metrics\.csv", re.DOTALL)
_ENDS = (".log", ".jsonl", ".csv")
_WINDOW = 1 << 16


def may_be_log(path: str) -> bool:
    """Return whether *path* needs a closer look to tell: nearly none does."""
    return path.endswith(_ENDS) or "tfevents" in path


def is_event_log(path: str) -> bool:
    """Return whether *path* has the name of a TensorBoard event file: records that prove themselves, wherever it lies."""
    return "tfevents" in path and _EVENTS.fullmatch(path.rpartition("/")[2]) is not None


def is_text_log(path: str) -> bool:
    """Return whether *path* has the name of a log that is written line by line."""
    return path.endswith(_ENDS) and _LINES.fullmatch(path.rpartition("/")[2]) is not None


def whole_end(fd: int, path: str, size: int, start: int = 0) -> int:
    """Return where the last whole record, or line, of the log *path* ends; *start* is an earlier answer, to go on from."""
    return last_record_end(fd, size, start) if is_event_log(path) else _last_line_end(fd, size, start)


def _last_line_end(fd: int, size: int, start: int) -> int:
    for end in range(size, start, -_WINDOW):
        begin = max(start, end - _WINDOW)
        found = os.pread(fd, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1

    return start
