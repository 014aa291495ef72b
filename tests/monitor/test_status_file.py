import json
import os
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hubsync.errors import NotRunningError, StateError
from hubsync.monitor.screen import draw_status
from hubsync.monitor.status import (
    DaemonStatus,
    LastError,
    MirrorStatus,
    ProvenUnit,
    Status,
    StatusFile,
    TargetStatus,
    Transfer,
    Waiting,
    choose_exit_code,
    encode_status,
    read_status,
    write_status,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ERROR = LastError(
    "403: you may not write to onprem:team/llama-sft",
    error_kind="forbidden",
    hint="give the token write access to team/llama-sft, then: hubsync flush llama-sft",
    since=NOW - timedelta(minutes=61),
    attempt=4,
    next_try_at=NOW + timedelta(minutes=15),
)
HUB = MirrorStatus(
    "acme/llama-sft",
    "https://huggingface.co/acme/llama-sft",
    published_commit="9d5940" * 6,
    newest_unit_published="checkpoint-1000",
    last_success=NOW,
)
ONPREM = MirrorStatus(
    "onprem:team/llama-sft@experiments",
    "https://hub.example.internal/team/llama-sft",
    state="parked",
    required=False,
    newest_unit_published="checkpoint-500",
    backlog_files=11,
    backlog_bytes=26_900_000_000,
    behind_s=7322,
    last_error=ERROR,
)
TARGET = TargetStatus(
    "llama-sft", "/data/runs/llama-sft", newest_unit_local="checkpoint-1000", held=2, mirrors=(HUB, ONPREM)
)
DAEMON = DaemonStatus(4711, "0.1.0", NOW - timedelta(hours=30), NOW)
STATUS = Status(DAEMON, (TARGET,), disk_held_bytes=26_900_000_000)
WELL = Status(DAEMON, (replace(TARGET, mirrors=(HUB,)),))


def shown(status: Status, now: datetime = NOW, *, running: bool = True, width: int = 80) -> str:
    return draw_status(status, now, running=running, width=width)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """The document goes round without loss, times and nested errors included."""
    write_status(tmp_path / "status.json", STATUS)

    assert STATUS == read_status(tmp_path / "status.json")


def test_the_document_is_plain_json() -> None:
    """Scripts read it: a version of the schema, numbers as numbers, times in RFC 3339."""
    document = json.loads(encode_status(STATUS))

    assert 1 == document["schema_version"]
    assert "2026-11-23T12:00:00Z" == document["daemon"]["updated_at"]
    assert "forbidden" == document["targets"][0]["mirrors"][1]["last_error"]["error_kind"]


def test_the_document_is_for_its_owner_only(tmp_path: Path) -> None:
    """Paths and repositories are nobody else's business; nothing is left beside the file."""
    path = tmp_path / "status.json"
    write_status(path, STATUS)
    write_status(path, WELL)

    assert 0o600 == path.stat().st_mode & 0o777
    assert [path] == list(tmp_path.iterdir())


@given(name=st.binary(min_size=1, max_size=40))
def test_any_path_can_be_written(name: bytes) -> None:
    """A unit whose name is not UTF-8 does not break the document, a token in an error does not enter it."""
    error = LastError("PUT https://u:p4ssw0rd@h/ failed with hf_abcdefghijklmn")
    status = replace(STATUS, targets=(replace(TARGET, newest_unit_local=os.fsdecode(name), last_error=error),))
    text = encode_status(status)

    assert json.loads(text.encode())
    assert "p4ssw0rd" not in text
    assert "hf_abcdefghijklmn" not in text


def test_a_reader_never_sees_half_a_document(tmp_path: Path) -> None:
    """Replaced, not rewritten: every read while it is written succeeds."""
    path = tmp_path / "status.json"
    write_status(path, STATUS)
    writer = threading.Thread(target=lambda: [write_status(path, STATUS) for _ in range(300)])
    writer.start()
    seen = {read_status(path) == STATUS for _ in range(300)}
    writer.join()

    assert {True} == seen


def test_the_file_is_written_once_a_second(tmp_path: Path) -> None:
    """A busy daemon does not wear out the disk; the last word is written all the same."""
    times = iter((0.0, 0.5, 0.99, 1.0, 1.5, 1.6))
    file = StatusFile(tmp_path / "status.json", clock=lambda: next(times))

    assert [True, False, False, True, False] == [file.write(STATUS) for _ in range(5)]
    assert file.write(WELL, force=True)
    assert WELL == read_status(tmp_path / "status.json")


def test_several_may_write_at_once(tmp_path: Path) -> None:
    """A heartbeat comes while a change is being written down: both succeed."""
    file = StatusFile(tmp_path / "status.json")

    def write() -> bool:
        return all(file.write(STATUS, force=True) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda _: write(), range(4)))

    assert [True] * 4 == written


def test_no_document_means_no_daemon(tmp_path: Path) -> None:
    """The error names the file and the way out."""
    with pytest.raises(NotRunningError, match="no daemon has run here") as caught:
        read_status(tmp_path / "status.json")

    assert "hubsync run" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"daemon": {}}', b"\xff"])
def test_a_damaged_document_is_an_error(tmp_path: Path, content: bytes) -> None:
    """It is never taken for an empty one."""
    (tmp_path / "status.json").write_bytes(content)

    with pytest.raises(StateError):
        read_status(tmp_path / "status.json")


def test_a_later_version_may_say_more(tmp_path: Path) -> None:
    """Unknown keys are passed over: within a schema version they are only added."""
    document = {**json.loads(encode_status(STATUS)), "weather": "fair"}
    (tmp_path / "status.json").write_text(json.dumps(document))
    os.utime(tmp_path / "status.json", (NOW.timestamp(), NOW.timestamp()))

    assert STATUS == read_status(tmp_path / "status.json")


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The daemon hears of it as an error of its state."""
    with pytest.raises(StateError, match="cannot write"):
        write_status(tmp_path / "none" / "status.json", STATUS)


@pytest.mark.parametrize(
    ("status", "passed_s", "running", "expected"),
    [
        (WELL, 0, True, 0),
        (STATUS, 0, True, 1),
        (replace(WELL, targets=(replace(TARGET, state="halted", mirrors=()),)), 0, True, 1),
        (replace(WELL, targets=(replace(TARGET, state="paused", mirrors=(HUB,)),)), 0, True, 0),
        (WELL, 301, True, 1),
        (WELL, 0, False, 3),
        (STATUS, 301, False, 3),
    ],
)
def test_the_exit_code_tells_how_it_is(status: Status, passed_s: int, running: bool, expected: int) -> None:  # noqa: FBT001 - a table
    """0 all is well, 1 something needs attention or the daemon hangs, 3 it does not run."""
    assert expected == choose_exit_code(status, NOW + timedelta(seconds=passed_s), running=running)


def test_the_table_fits_a_terminal() -> None:
    """At 80 columns nothing is cut: a row for each target and mirror, errors with what to do below."""
    text = shown(STATUS)
    lines = text.splitlines()

    assert max(map(len, lines)) <= 80
    assert "hubsync 0.1.0; running, pid 4711; up 1d6h; 26.9 GB held on disk," in lines[0]
    assert [] == [
        word
        for word in ("llama-sft", "acme/llama-sft", "parked", "26.9 GB", "2h2m", "checkpoint-1000", "2 more held")
        if word not in text
    ]
    assert re.search(r"forbidden for 1h1m \(since \d\d:\d\d\), attempt 4, next try in 15m", text)
    assert "→ give the token write access" in text
    assert "…" not in text


def test_one_cure_is_told_once() -> None:
    """What stops several targets for one reason has one cure, and the others point to it."""
    late = LastError("changes are noticed late", "watch", "raise the limit", NOW - timedelta(minutes=2))
    targets = tuple(replace(TARGET, name=name, mirrors=(), last_error=late) for name in ("a", "b"))
    text = shown(Status(DAEMON, targets))

    assert 1 == text.count("→ raise the limit")
    assert 1 == text.count("→ as for a")


def test_what_is_held_stands_below_its_target() -> None:
    """What waits by itself is told with its age and reason; what needs a person is a trouble with its cure."""
    held = (
        Waiting("checkpoint-3/", "a secret in a.txt", None, "take it out", needs_attention=True),
        Waiting("checkpoint-2/", "trainer_state.json is missing", NOW - timedelta(minutes=90)),
    )
    status = Status(DAEMON, (replace(TARGET, state="degraded", mirrors=(), held=2, waiting=held),))
    text = shown(status)

    assert "    held for 1h30m: checkpoint-2/: trainer_state.json is missing" in text.splitlines()
    assert "llama-sft: checkpoint-3/: a secret in a.txt" in text.splitlines()
    assert "→ take it out" in text
    assert 1 == choose_exit_code(status, NOW, running=True)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_keeps_to_its_width(width: int) -> None:
    """Long names, units and errors are folded, so that no line is longer than the terminal is wide."""
    long = replace(ONPREM, name="a-very-long-name/" * 3, newest_unit_published="runs/seed-17/checkpoint-1000000")
    text = shown(replace(WELL, targets=(replace(TARGET, mirrors=(HUB, long)),)), width=width)

    assert max(map(len, text.splitlines())) <= width
    assert "runs/seed-17/checkpoint-1000000" in re.sub(r"\s", "", text)


def test_an_upload_shows_how_far_it_is() -> None:
    """A bar, the share, the rate and the time that is left, below its mirror."""
    sending = replace(HUB, state="publishing", transfer=Transfer(3, 12_400_000_000, 7_564_000_000, 42_000_000, 115))
    lines = shown(Status(DAEMON, (replace(TARGET, mirrors=(sending,)),))).splitlines()
    row = next(index for index, line in enumerate(lines) if "acme/llama-sft" in line)

    assert "████████████░░░░░░░░  61%  7.6 GB of 12.4 GB, 42.0 MB/s, 1m55s left" in lines[row + 1]


def test_what_is_tried_again_is_said_to_be() -> None:
    """The error is the last one, with no time for the next try: that is now."""
    error = replace(ERROR, next_try_at=None, is_retrying=True)
    text = shown(replace(WELL, targets=(replace(TARGET, mirrors=(replace(HUB, state="failing", last_error=error),)),)))

    assert "acme/llama-sft: last error: 403" in text
    assert "attempt 4, trying again now" in text


@pytest.mark.parametrize("times", [{}, {"next_try_at": NOW}, {"next_try_at": None, "is_retrying": True}])
def test_without_a_daemon_nothing_is_tried_again(times: dict[str, Any]) -> None:
    """What failed last is still shown, with its cure, but no time for a next try."""
    failing = replace(HUB, state="failing", last_error=replace(ERROR, **times))
    text = shown(replace(WELL, targets=(replace(TARGET, mirrors=(failing,)),)), running=False)

    assert "acme/llama-sft: 403" in text
    assert "attempt 4" in text
    assert "→ give the token" in text
    assert not re.search(r"next try|trying again", text)


def test_no_span_is_negative_after_the_clock_was_set_back() -> None:
    """What began at a time that is yet to come has lasted for no time."""
    held = Waiting("checkpoint-2/", "it lacks a shard", NOW)
    failing = replace(HUB, last_error=replace(ERROR, next_try_at=None), proven=(ProvenUnit("checkpoint-1", NOW),))
    target = replace(TARGET, held=1, waiting=(held,), busy=held, mirrors=(failing,))
    text = shown(Status(replace(DAEMON, started_at=NOW, stalled=(held,)), (target,)), NOW - timedelta(hours=2))
    spans = "up 0s", "busy for 0s", "held for 0s", "1 0s ago", "for 0s (since"

    assert not re.search(r"-\d+(d|h|m|s)", text.replace("checkpoint-", ""))
    assert [] == [words for words in spans if words not in text]


def test_colours_add_nothing_but_colours() -> None:
    """Without its escape sequences the coloured form is the plain one."""
    coloured = draw_status(STATUS, NOW, running=True, colour=True)

    assert "\x1b[31;1mparked" in coloured
    plain = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert shown(STATUS).split("\n") == [line.rstrip() for line in plain.split("\n")]


def test_a_dead_daemon_is_said_first() -> None:
    """The picture is old, and its age is shown."""
    first = shown(STATUS, NOW + timedelta(minutes=9), running=False).splitlines()[0]

    assert "not running (was running, pid 4711)" in first
    assert "as of 9m ago" in " ".join(shown(STATUS, NOW + timedelta(minutes=9), running=False).split())


def test_names_cannot_paint_the_terminal() -> None:
    """Neither control characters nor markup in a name have an effect."""
    text = shown(replace(WELL, targets=(replace(TARGET, name="[red]x\x1b[2J", newest_unit_local="a\udcff"),)))

    assert "[red]x\\x1b[2J" in text
    assert "a\\xff" in text


def test_a_very_long_path_takes_a_few_lines() -> None:
    """Its beginning and its end are shown; programs get all of it."""
    path = "/".join(["begin", "ddd", *["\1" * 240] * 14, "ddd", "end"])
    text = shown(replace(WELL, targets=(replace(TARGET, waiting=(Waiting(path, "why", NOW, needs_attention=True),)),)))

    assert "begin/ddd" in text
    assert "ddd/end: why" in "".join(text.split("\n    "))
    assert text.count("\n") < shown(replace(WELL, targets=(TARGET,))).count("\n") + 8


def test_while_nothing_changes_only_the_time_of_the_file_moves(tmp_path: Path) -> None:
    """Nothing is written then, and a reader sees all the same until when it held; what somebody broke is written anew."""
    path = tmp_path / "status.json"
    file = StatusFile(path)
    file.write(WELL, force=True)
    first = path.stat()

    later = replace(WELL, daemon=replace(WELL.daemon, updated_at=NOW + timedelta(minutes=5)))
    assert file.write(later, force=True)

    assert first.st_ino == path.stat().st_ino
    assert later == read_status(path)

    path.write_text("broken")
    assert file.write(later, force=True)
    assert later == read_status(path)

    changed = replace(later, disk_held_bytes=WELL.disk_held_bytes + 1)
    assert file.write(changed, force=True)
    assert changed == read_status(path)


def test_what_a_killed_writer_left_is_cleaned(tmp_path: Path) -> None:
    """The kill came before the rename; what another process is writing stays."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, of_another = (tmp_path / f".status.json.{pid}.tmp" for pid in (ended.pid, os.getppid()))
    left.touch()
    of_another.touch()

    write_status(tmp_path / "status.json", WELL)

    assert {"status.json", of_another.name} == {path.name for path in tmp_path.iterdir()}
