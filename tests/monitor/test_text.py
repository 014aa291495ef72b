import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsync.monitor.text import (
    escape_surrogates,
    escape_unsafe,
    format_bytes,
    format_count,
    format_duration,
    format_field,
)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (12_400_000_000, "12.4 GB")],
)
def test_bytes_are_decimal(count: int, expected: str) -> None:
    """As the config takes them: a MB is 10^6 bytes."""
    assert expected == format_bytes(count)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0s"),
        (0.04, "0s"),
        (0.44, "0.4s"),
        (9.96, "10s"),
        (59.6, "1m"),
        (130.2, "2m10s"),
        (7322, "2h2m"),
        (86_399.7, "1d"),
        (90_061, "1d1h"),
        (-130, "-2m10s"),
        (40 * 86_400, "40d"),
    ],
)
def test_durations_have_two_units(seconds: float, expected: str) -> None:
    """The two largest; tenths only below ten seconds."""
    assert expected == format_duration(seconds)


@given(seconds=st.floats(-1e9, 1e9))
def test_any_duration_is_readable(seconds: float) -> None:
    """No number breaks the format."""
    assert re.fullmatch(r"-?(\d+(\.\d)?s|\d+[dhms](\d+[hms])?)", format_duration(seconds))


def test_fields_follow_their_names() -> None:
    """The unit stands in the name; commits and oids are shortened, lists too."""
    values = {"bytes": 1500, "free_bytes": 0, "took_s": 61, "files": 3, "commit": "a" * 40, "oid": "b" * 64, "flag": True}

    expected = ["1.5 kB", "0 B", "1m1s", "3", "a" * 9, "b" * 12, "True"]

    assert expected == [format_field(name, value) for name, value in values.items()]
    assert "a, b" == format_field("paths", ["a", "b"])
    assert "1.5 kB/s" == format_field("bytes_per_s", 1500)
    assert "0, 1, 2, 3, 4 and 3 more" == format_field("paths", list(range(8)))


def test_counts_have_a_number() -> None:
    """One file, two files."""
    assert ["0 files", "1 file", "2 files"] == [format_count(count, "file") for count in range(3)]


@given(text=st.text(st.characters()))
def test_unsafe_characters_are_escaped(text: str) -> None:
    """What is left can be encoded and moves no cursor."""
    escaped = escape_unsafe(text)

    assert escaped == escaped.encode().decode()
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", escaped)


@given(path=st.binary())
def test_bytes_of_a_path_show_as_numbers(path: bytes) -> None:
    """Both escapes agree on what a byte looks like, and leave valid text alone."""
    text = path.decode("utf-8", "surrogateescape")

    assert path.decode("utf-8", "backslashreplace") == escape_surrogates(text)
    assert "\\xff\\x1b" == escape_unsafe("\udcff\x1b")
