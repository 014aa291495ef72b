"""Event files, of which the last whole record counts, and ``.metadata``, which is searched and never unpickled."""

import pickle
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory import opened
from support.records import record

from hubsync.watch.format_records import masked_crc32c
from hubsync.watch.formats import check_structure, index_members, last_record_end

NAME = "runs/events.out.tfevents.1700000000.host.1.0"


def record_end(content: bytes, start: int = 0) -> int:
    with opened(content) as fd:
        return last_record_end(fd, len(content), start)


# --- tfevents

FIRST = record(b"\x09\0\0\0\0\0\0\0\0\x1a\rbrain.Event:2")
EVENTS = FIRST + record(b"loss" * 10) + record(b"") + record(b"acc" * 7)


def test_the_checksum_is_that_of_tfrecord() -> None:
    """CRC-32C of "123456789" is e3069283 (RFC 3720, B.4), then masked."""
    crc = 0xE3069283

    assert (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF == masked_crc32c(b"123456789")
    assert zlib.crc32(b"123456789") != crc


def test_the_last_whole_record_is_found_at_every_length() -> None:
    """A record that is cut is not counted, the one before it is."""
    ends = [0, len(FIRST), len(FIRST) + len(record(b"loss" * 10))]
    ends += [ends[-1] + len(record(b"")), len(EVENTS)]

    assert [max(end for end in ends if end <= size) for size in range(len(EVENTS) + 1)] == [
        record_end(EVENTS[:size]) for size in range(len(EVENTS) + 1)
    ]


def test_reading_goes_on_from_an_earlier_answer() -> None:
    """A file that grew is not read from its start."""
    assert len(EVENTS) == record_end(bytes(len(FIRST)) + EVENTS[len(FIRST) :], start=len(FIRST))


@pytest.mark.parametrize("at", [0, 8, 12, -1, -5])
def test_a_broken_record_ends_what_is_whole(at: int) -> None:
    """Its length, the checksum of that, its data or the checksum of that."""
    last = bytearray(record(b"loss" * 10))
    last[at] ^= 1

    assert len(FIRST) == record_end(FIRST + bytes(last))


def test_zeros_are_no_records() -> None:
    """A file that was extended before it was written is whole up to there."""
    assert len(FIRST) == record_end(FIRST + bytes(500))


def test_large_records_are_stepped_over() -> None:
    """An image of megabytes lies between two scalars."""
    content = FIRST + record(b"x" * (1 << 16)) * 40 + record(b"y" * (2 << 20)) + FIRST

    assert len(content) == record_end(content)
    assert len(content) - len(FIRST) == record_end(content[:-1])


@pytest.mark.parametrize(("content", "whole"), [(b"", True), (FIRST, True), (FIRST[:-1], False), (EVENTS[:-3], True)])
def test_an_event_file_always_grows(content: bytes, whole: bool) -> None:  # noqa: FBT001  one of a pair
    """It is taken as soon as it has a record; the last may be half written at any time."""
    with opened(content) as fd:
        assert whole == check_structure(fd, NAME, len(content)).whole


@given(st.binary(max_size=200), st.integers(0, 300))
def test_hostile_events_never_raise(content: bytes, start: int) -> None:
    """Nor does the answer lie before the start."""
    assert record_end(FIRST + content, min(start, len(FIRST))) >= min(start, len(FIRST))


# --- .metadata


def members(content: bytes, name: str = "step-5/.metadata") -> tuple[str, ...] | None:
    with opened(content) as fd:
        return index_members(fd, name)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_metadata_names_its_files(protocol: int) -> None:
    """In every protocol that has binary texts."""
    infos = [{"relative_path": f"__{rank}_{part}.distcp", "offset": 0} for rank in (0, 11) for part in (0, 1)] * 2

    assert ("__0_0.distcp", "__0_1.distcp", "__11_0.distcp", "__11_1.distcp") == members(pickle.dumps(infos, protocol))


def test_a_name_within_another_text_is_none() -> None:
    """Only a text that is nothing but the name counts."""
    texts = ["see __0_0.distcp", "__1_0.distcp or so", "dir/__2_0.distcp", "__3_0.distcpx", "__4_0.distcp"]

    assert ("__4_0.distcp",) == members(pickle.dumps(texts))


def test_a_name_across_two_reads_is_found() -> None:
    """Whatever lies before it."""
    for padding in range((1 << 20) - 30, (1 << 20) + 5):
        assert ("__7_0.distcp",) == members(pickle.dumps([b"x" * padding, "__7_0.distcp"]))


class Bomb:
    """What unpickling would call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Name a function that fails."""
        return pytest.fail, ("unpickled",)


def test_metadata_is_never_unpickled() -> None:
    """Whoever writes it may write anything."""
    assert ("__0_0.distcp",) == members(pickle.dumps([Bomb(), "__0_0.distcp"]))


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80", pickle.dumps([]), b"\x8c\x0c__0_0.distcp"])
def test_metadata_that_names_nothing_has_no_members(content: bytes) -> None:
    """Another writer's file of that name, or one without shards."""
    assert members(content) is None


def test_only_the_name_makes_it_metadata() -> None:
    """Other pickles are not searched."""
    assert members(pickle.dumps(["__0_0.distcp"]), "a.metadata") is None
