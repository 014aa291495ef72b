import bz2
import gzip
import json
import lzma
import os
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hubsync.monitor.lines import encode_journal, encode_json, journal_fields
from hubsync.views.history import (
    LogUnreadableError,
    decode_journal,
    find_parts,
    follow_file,
    read_file,
    read_journal,
    read_parts,
)

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout,
}


def line(minute: int, **fields: Any) -> str:
    moment = START + timedelta(minutes=minute)
    head = {"timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S.5Z"), "level": "info", "event": "heartbeat", "message": "m"}
    return encode_json({**head, "number": minute, **fields}) + "\n"


def write(path: Path, minutes: range, pack: str = "") -> None:
    path.write_bytes(PACK[pack]("".join(line(minute) for minute in minutes).encode()))
    written = (START + timedelta(minutes=minutes[-1])).timestamp()
    os.utime(path, (written, written))


def numbers(entries: Any) -> list[int]:
    return [entry["number"] for entry in entries]


@pytest.mark.parametrize(
    "names",
    [
        ["hubsync.jsonl.10.gz", "hubsync.jsonl.9.gz", "hubsync.jsonl.1", "hubsync.jsonl"],
        ["hubsync.jsonl-20261121.zst", "hubsync.jsonl-20261122.xz", "hubsync.jsonl-20261123", "hubsync.jsonl"],
        ["hubsync-20261121.jsonl.bz2", "hubsync-20261122.jsonl.gz", "hubsync-20261123.jsonl", "hubsync.jsonl"],
    ],
)
def test_rotated_parts_are_read_oldest_first(tmp_path: Path, names: list[str]) -> None:
    """All ways in which logrotate names and packs its parts are known, and nothing beside them is taken."""
    for index, name in enumerate(names):
        write(tmp_path / name, range(index * 10, index * 10 + 10), Path(name).suffix if Path(name).suffix in PACK else "")
    for other in ("hubsync.jsonl.swp~", "other.jsonl", "hubsync.txt", "xhubsync.jsonl.1"):
        write(tmp_path / other, range(900, 901))

    assert names == [path.name for path in find_parts(tmp_path / "hubsync.jsonl")]
    assert list(range(40)) == numbers(read_parts(tmp_path / "hubsync.jsonl"))


def test_what_is_older_than_asked_for_is_passed_over(tmp_path: Path) -> None:
    """--since begins in the middle of a part, and old parts are not even opened."""
    (tmp_path / "hubsync.jsonl.2.gz").write_bytes(b"not packed at all")
    os.utime(tmp_path / "hubsync.jsonl.2.gz", (0, 0))
    write(tmp_path / "hubsync.jsonl.1", range(10))
    write(tmp_path / "hubsync.jsonl", range(10, 20))

    since = START + timedelta(minutes=7)
    assert list(range(7, 20)) == numbers(read_parts(tmp_path / "hubsync.jsonl", since))


def test_torn_lines_cost_themselves_only(tmp_path: Path) -> None:
    """A line cut by a crash, one that is not ours, and the last one under way do not hide the others."""
    path = tmp_path / "hubsync.jsonl"
    path.write_text(line(1) + line(2)[:40] + "\n\nhello\n[1]\n{}\n" + line(3) + line(4)[:-9])

    assert [1, 3] == numbers(read_file(path))


def test_a_log_that_is_not_there_says_so(tmp_path: Path) -> None:
    """No file is an error with its cure, not an empty answer."""
    with pytest.raises(LogUnreadableError, match="there is no log file") as caught:
        list(read_parts(tmp_path / "hubsync.jsonl"))

    assert caught.value.hint


def test_a_damaged_part_is_an_error(tmp_path: Path) -> None:
    """What cannot be unpacked is said, not silently left out."""
    (tmp_path / "hubsync.jsonl.1.gz").write_bytes(gzip.compress(line(1).encode())[:-9])

    with pytest.raises(LogUnreadableError, match=r"hubsync\.jsonl\.1\.gz"):
        list(read_parts(tmp_path / "hubsync.jsonl"))


def test_following_goes_over_to_the_new_file(tmp_path: Path) -> None:
    """Nothing is lost or repeated when the file is renamed, also what was still written to the old one."""
    path = tmp_path / "hubsync.jsonl"
    path.write_text(line(0))
    seen: list[int] = []
    follower = follow_file(path, pause=lambda _: None)
    assert next(follower) is None

    def take() -> None:
        while (entry := next(follower)) is not None:
            seen.append(entry["number"])

    with path.open("a") as old:
        old.write(line(1) + line(2)[:30])
        old.flush()
        take()
        old.write(line(2)[30:])
        old.flush()
        path.rename(tmp_path / "hubsync.jsonl.1")
        take()
        old.write(line(3))
    path.write_text(line(4))
    take()
    take()
    path.write_text(line(5)[:-1])  # copytruncate: the same file, shorter
    take()
    with path.open("a") as file:
        file.write("\n")
    take()

    assert [1, 2, 3, 4, 5] == seen


def test_following_waits_for_a_file_to_come(tmp_path: Path) -> None:
    """The log may be followed before the daemon's first start."""
    path = tmp_path / "hubsync.jsonl"
    follower = follow_file(path, pause=lambda _: None)
    assert next(follower) is None
    path.write_text(line(1))

    assert 1 == (next(follower) or {})["number"]


def as_journal(entry: dict[str, Any]) -> bytes:
    """Return what `journalctl -o json` prints for an entry that went to the journal."""
    fields = {**journal_fields(entry), "__REALTIME_TIMESTAMP": str(int(START.timestamp() * 1_000_000)), "_PID": "7"}
    assert encode_journal(fields)
    return json.dumps(fields).encode()


def test_the_journal_gives_back_what_was_logged() -> None:
    """Numbers, lists and flags are what they were; text that looks like a number stays text."""
    entry = {
        "timestamp": "2026-11-23T12:00:00Z",
        "level": "warning",
        "event": "mirror.failed",
        "message": "went wrong",
        "target": "42",
        "commit": "1234567",
        "bytes": 12,
        "took_s": -0.5,
        "units": ["a", "b"],
        "retryable": True,
        "hint": "no",
        "error": "[Errno 5] x",
        "exception": "Traceback:\n  x",
    }

    assert entry == decode_journal(as_journal(entry))


def test_the_journal_may_hold_lines_of_json_and_bytes() -> None:
    """With format = "json" the message is the entry; a message that is not text comes as numbers; the rest is not ours."""
    head = {"__REALTIME_TIMESTAMP": "1"}
    inner = line(3).strip()

    assert 3 == (decode_journal(json.dumps({**head, "MESSAGE": inner}).encode()) or {})["number"]
    assert 3 == (decode_journal(json.dumps({**head, "MESSAGE": list(inner.encode())}).encode()) or {})["number"]
    assert decode_journal(json.dumps({**head, "MESSAGE": "Started hubsync."}).encode()) is None
    assert decode_journal(b"-- No entries --") is None


def test_the_journal_is_asked_for_hubsync_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is asked with the time in the journal's own form, and what it prints is read."""
    tool = tmp_path / "journalctl"
    entry = {"timestamp": "2026-11-23T12:00:00Z", "level": "info", "event": "daemon.ready", "message": "ready"}
    (tmp_path / "line").write_bytes(as_journal(entry) + b"\n")
    tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/argv\ncat {tmp_path}/line\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    assert [entry] == list(read_journal(START))
    argv = (tmp_path / "argv").read_text().split("\n")
    assert {"SYSLOG_IDENTIFIER=hubsync", f"--since=@{START.timestamp():.0f}", "--output=json"} <= set(argv)


def test_without_a_journal_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without systemd the reader is told to configure a file."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LogUnreadableError) as caught:
        list(read_journal())

    assert "[log] file" in caught.value.hint
