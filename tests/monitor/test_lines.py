import json
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from pathlib import PurePosixPath

from hypothesis import given, settings
from hypothesis import strategies as st

from hubsync.monitor.lines import (
    MAX_LINE_BYTES,
    encode_journal,
    encode_json,
    format_console,
    format_time,
    journal_fields,
    message_id,
)
from hubsync.monitor.redact import MASK

HEAD = {"timestamp": "2026-11-23T12:43:42.050388Z", "level": "info", "event": "file.held", "message": "held x"}
HOSTILE = 'a\udcff\x1b[31m\n\r\x00\x9b2J\u2028\u202e\ud800"\\ü'


class Colour(Enum):
    RED = "red"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def reject_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@given(path=st.binary(max_size=300), value=values)
def test_any_value_becomes_one_valid_line(path: bytes, value: object) -> None:
    """Whatever bytes a path has: one line of valid UTF-8 and valid JSON, without lone surrogates."""
    line = encode_json({**HEAD, "path": path.decode("utf-8", "surrogateescape"), "value": value})
    document = json.loads(line.encode("utf-8"), parse_constant=reject_constant)

    assert "held x" == document["message"]
    assert 1 == len(line.splitlines())
    assert document == json.loads(json.dumps(document, ensure_ascii=False).encode("utf-8"))


def test_a_hostile_path_cannot_reach_the_terminal() -> None:
    """Control characters and direction marks are escaped in every readable output."""
    shown = format_console({**HEAD, "path": HOSTILE, "other": HOSTILE}, colour=False)
    line = encode_json({**HEAD, "path": HOSTILE})

    assert [] == [char for char in shown + line if not char.isprintable()]


def test_bytes_of_a_path_stay_readable() -> None:
    """A byte that is not UTF-8 shows as its number."""
    assert '"path":"a\\\\xff/ü"' in encode_json({**HEAD, "path": "a\udcff/ü"})


def test_a_line_is_bounded() -> None:
    """Long values are cut in the middle, and the line says so."""
    line = encode_json({**HEAD, "exception": "begin" + "x" * 10**6 + "end"})
    document = json.loads(line)

    assert len(line.encode()) <= MAX_LINE_BYTES
    assert document["exception"].startswith("begin")
    assert document["exception"].endswith("end")
    assert document["truncated"] is True


@settings(max_examples=20)
@given(count=st.integers(0, 1000), text=st.sampled_from(["x" * 50, "ü" * 3000, "\x00" * 9000, "\udcff" * 2000]))
def test_no_shape_breaks_the_bound(count: int, text: str) -> None:
    """Many fields, long lists, deep nesting and characters that grow when escaped stay within the bound."""
    fields: dict[str, object] = {f"field{number}": text for number in range(count)}
    line = encode_json({**HEAD, "list": [[text] * 20] * 20, **fields})

    assert len(line.encode()) <= MAX_LINE_BYTES
    assert "file.held" == json.loads(line)["event"]


def test_a_short_line_is_not_marked() -> None:
    """What is whole does not claim to be cut; nothing but the fields is in it, head first."""
    assert [*HEAD, "path"] == list(json.loads(encode_json({**HEAD, "path": "x"})))


def test_a_secret_is_not_cut_in_half() -> None:
    """Redaction comes before cutting: half a token matches no pattern."""
    token = "hf_" + "a1B2" * 9
    line = encode_json({**HEAD, "error": "x" * (4096 - 9) + token + "y" * 9000})

    assert "hf_" not in line


def test_credentials_in_nested_values_go() -> None:
    """Headers in a dict are masked by name, URLs and tokens by shape."""
    headers = {"Authorization": "opaque", "x": ["https://u:p@h/"], ("t",): b"Bearer abcdefghi"}
    document = json.loads(encode_json({**HEAD, "headers": headers, "hub_token": "opaque"}))

    assert {"Authorization": MASK, "x": [f"https://{MASK}@h/"], "('t',)": f"Bearer {MASK}"} == document["headers"]
    assert MASK == document["hub_token"]


def test_values_keep_their_kind() -> None:
    """Numbers stay numbers; paths, enums and times become text; what JSON lacks becomes text too."""
    now = datetime(2026, 11, 23, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    values = [1, 1.5, True, None, PurePosixPath("x/y"), Colour.RED, now, float("nan")]
    document = json.loads(encode_json({**HEAD, "values": values}))

    assert [1, 1.5, True, None, "x/y", "red", "2026-11-23T12:00:00Z", "nan"] == document["values"]


def test_a_time_is_rfc_3339_in_utc() -> None:
    """Shippers read the timestamp without a time zone of their own."""
    assert "2026-11-23T12:43:42.050388Z" == format_time(datetime(2026, 11, 23, 12, 43, 42, 50388, tzinfo=UTC))


def test_the_console_says_each_thing_once() -> None:
    """The sentence first, then the event and the fields that the sentence left out, quoted where needed."""
    entry = {**HEAD, "message": "sft: held x: short", "target": "sft", "path": "x", "reason": "short", "bytes": 2500}
    line = format_console({**entry, "rule": "a b", "held_s": 61}, colour=False)

    assert 'info    sft: held x: short  file.held bytes="2.5 kB" rule="a b" held_s=1m1s' == line.split(" ", 1)[1]


def test_colour_comes_only_when_asked_for() -> None:
    """A file or a pipe gets no escape sequences."""
    assert "\x1b" in format_console(HEAD, colour=True)
    assert "\x1b" not in format_console(HEAD, colour=False)


def test_the_console_shows_a_traceback_below() -> None:
    """A traceback is indented, line by line."""
    line = format_console({**HEAD, "exception": "Traceback:\n  x\nValueError: \x1b[2J"}, colour=False)

    assert ["    Traceback:", "      x", "    ValueError: \\x1b[2J"] == line.splitlines()[1:]


def test_the_console_is_bounded_too() -> None:
    """A library that says a megabyte does not fill the screen."""
    assert len(format_console({**HEAD, "message": "x" * 10**6, "exception": "y" * 10**6}, colour=False)) < 20_000


def test_a_message_for_the_journal_holds_no_control_characters() -> None:
    """Journalctl would hide it as a blob; line breaks stay."""
    assert "a\\x1b\nb" == journal_fields({**HEAD, "message": "a\x1b\nb"})["MESSAGE"]


def test_the_journal_gets_every_field() -> None:
    """The sentence is the message; all fields stand under one prefix, with the priority and a fixed id."""
    entry = {**HEAD, "level": "warning", "bytes": 7, "paths": ["a"], "odd-näme": "x", "none": None, "exception": "T\nE"}

    expected = {
        "MESSAGE": "held x\nT\nE",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "hubsync",
        "MESSAGE_ID": message_id("file.held"),
        "HUBSYNC_LEVEL": "warning",
        "HUBSYNC_EVENT": "file.held",
        "HUBSYNC_BYTES": "7",
        "HUBSYNC_PATHS": '["a"]',
        "HUBSYNC_ODD_N_ME": "x",
        "HUBSYNC_EXCEPTION": "T\nE",
    }

    assert expected == journal_fields(entry)


def test_the_id_of_an_event_never_changes() -> None:
    """Journal catalogues and saved searches name it."""
    assert "b1340d4a9e005907803a2199d0643c07" == message_id("file.held")


def test_values_with_newlines_are_framed_by_length() -> None:
    """The native protocol: NAME=value, or NAME, the length in eight bytes, and the value."""
    assert b"A=x\nB\n\x03\x00\x00\x00\x00\x00\x00\x00p\nq\n" == encode_journal({"A": "x", "B": "p\nq"})
