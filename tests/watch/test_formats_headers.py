"""Formats that say in a header, a footer or a superblock how long they are."""

import io
import os
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsync.watch.formats import Verdict, check_structure


def judge(name: str, content: bytes) -> Verdict:
    fd = os.memfd_create("content")
    try:
        os.pwrite(fd, content, 0)
        return check_structure(fd, name, len(content))
    finally:
        os.close(fd)


def whole_prefixes(name: str, content: bytes) -> list[int]:
    return [size for size in range(len(content)) if judge(name, content[:size]).whole]


# --- GGUF


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, values: Iterable[bytes]) -> bytes:
    values = list(values)
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def tensor(name: str, dimensions: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


def gguf(pairs: list[bytes], tensors: list[bytes], data: int, alignment: int = 32, version: int = 3) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs + tensors)
    return header + bytes(-len(header) % alignment) + bytes(data)


PAIRS = [
    pair("general.architecture", 8, text("llama")),
    pair("llama.block_count", 4, struct.pack("<I", 2)),
    pair("tokenizer.ggml.tokens", 9, array(8, [text(f"token {i}") for i in range(20)])),
    pair("tokenizer.ggml.scores", 9, array(6, [struct.pack("<f", i) for i in range(20)])),
    pair("odd", 9, array(9, [array(0, [b"a", b"b"]), array(0, [])])),
    pair("long", 12, struct.pack("<d", 0.5)),
]
TENSORS = [tensor("a", (256, 2), 12, 0), tensor("b", (3,), 0, 288)]  # two blocks of Q4_K, three floats
GGUF = gguf(PAIRS, TENSORS, 300)


def test_a_whole_gguf_file_passes() -> None:
    """What follows the last tensor is padding."""
    assert judge("m.gguf", GGUF).whole
    assert judge("m.gguf", GGUF + bytes(20)).whole
    assert judge("m.gguf", gguf([], [], 0)).whole
    assert judge("m.gguf", gguf(PAIRS, [], 0, version=2)).whole


def test_every_truncation_of_a_gguf_file_is_noticed() -> None:
    """The header says where the last tensor ends."""
    assert [] == whole_prefixes("m.gguf", GGUF)


def test_the_alignment_of_the_header_counts() -> None:
    """Tensors start at a multiple of it."""
    pairs = [pair("general.alignment", 4, struct.pack("<I", 4096))]
    content = gguf(pairs, TENSORS, 300, alignment=4096)

    assert 4096 + 300 == len(content)
    assert judge("m.gguf", content).whole
    assert not judge("m.gguf", content[:-1]).whole


def test_a_vocabulary_of_megabytes_is_read() -> None:
    """A header is longer than what is read of it at first."""
    content = gguf([pair("tokens", 9, array(8, [text("x" * 20)] * 60_000))], TENSORS, 300)

    assert judge("m.gguf", content).whole
    assert not judge("m.gguf", content[:-1]).whole
    assert not judge("m.gguf", content[:1_500_000]).whole


def test_a_gguf_header_that_is_written_last_is_missing_until_then() -> None:
    """llama-quantize leaves room for it and comes back."""
    assert Verdict(False, "GGUF: the header is missing") == judge("m.gguf", bytes(len(GGUF)))


@pytest.mark.parametrize(
    "content",
    [
        b"GGUF" + bytes(20),
        gguf([], [], 0, version=0x0102),
        gguf([pair("a", 77, b"")], [], 64),
        gguf([pair("general.alignment", 4, struct.pack("<I", 0))], TENSORS, 300),
        gguf([], [tensor("a", (1,) * 9, 0, 0)], 64),
        gguf([], [tensor("a", (1,), 0, 1 << 63)], 64),
        gguf([], [tensor("a", ((1 << 64) - 1,) * 8, 0, 0)], 64),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 0) + bytes(64),
        gguf([pair("a", 9, struct.pack("<IQ", 8, 1 << 60))], [], 64),
        gguf([pair("a", 9, struct.pack("<IQ", 6, 1 << 63))], [], 64),
        gguf([pair("a", 9, array(9, [array(9, [array(9, [array(9, [array(9, [])])])])]))], [], 64),
    ],
)
def test_a_gguf_header_that_is_none_is_held(content: bytes) -> None:
    """Types, counts and lengths that no file has."""
    assert not judge("m.gguf", content).whole


@pytest.mark.parametrize("version", [1, 4, 3 << 24])
def test_other_versions_of_gguf_are_let_through(version: int) -> None:
    """The first, a later one and a big-endian file have another header."""
    assert judge("m.gguf", gguf([], [], 8, version=version)).whole


# --- npy


def saved(*arrays: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    for values in arrays:
        np.save(file, values, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(10),
        np.zeros((3, 4), np.float32, order="F"),
        np.array(5),
        np.zeros(0),
        np.array(["ab", "c"]),
        np.array([b"abc"]),
        np.array(["2026-11-23"], "datetime64[ns]"),
        np.zeros(3, ">c16"),
    ],
)
def test_npy_headers_say_the_size(values: Any) -> None:
    """Of every dtype that numpy writes raw."""
    content = saved(values)

    assert judge("a.npy", content).whole
    assert [] == whole_prefixes("a.npy", content)


def test_npy_may_hold_more_than_one_array() -> None:
    """numpy.save appends when it is given an open file."""
    content = saved(np.arange(3), np.arange(4))

    assert judge("a.npy", content).whole
    assert not judge("a.npy", content[:-1]).whole
    assert not judge("a.npy", saved(np.arange(3)) + b"x").whole


def test_npy_of_objects_or_structures_is_let_through() -> None:
    """Their size is not in the header, and a pickle is never read."""
    assert judge("a.npy", saved(np.array([{}], object), allow_pickle=True)).whole
    assert judge("a.npy", saved(np.zeros(2, [("a", "<i4"), ("b", "<f8")]))).whole


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b"{'descr': 5, 'shape': (1,)}",
        b"{'descr': '<f4', 'shape': (-1,)}",
        b"{'descr': '<f4', 'shape': (1.5,)}",
        b"(" * 9000,
        b"\0",
        b"__import__('os')",
    ],
)
def test_a_hostile_npy_header_is_held(header: bytes) -> None:
    """It is a literal, and is only ever read as one."""
    assert not judge("a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(8)).whole


# --- HDF5


def hdf5(version: int, end: int, size: int, *, flags: int = 0, user_block: int = 0) -> bytes:
    addresses = struct.pack("<4Q", user_block, (1 << 64) - 1, end, (1 << 64) - 1)
    if version < 2:
        block = bytes([version, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0) + bytes(4 * version) + addresses
    else:
        block = bytes([version, 8, 8, flags]) + addresses
    return (bytes(user_block) + b"\x89HDF\r\n\x1a\n" + block).ljust(size, b"\0")


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("user_block", [0, 512, 2048])
def test_hdf5_says_where_it_ends(version: int, user_block: int) -> None:
    """In every version of its superblock, behind any user block."""
    end = 3000

    assert judge("m.h5", hdf5(version, end, end, user_block=user_block)).whole
    assert not judge("m.h5", hdf5(version, end, end - 1, user_block=user_block)).whole
    assert not judge("m.hdf5", hdf5(version, end, end + 1, user_block=user_block)).whole


def test_hdf5_that_is_open_for_writing_is_held() -> None:
    """The superblock says so where it can."""
    assert not judge("m.h5", hdf5(3, 500, 500, flags=1)).whole
    assert judge("m.h5", hdf5(3, 500, 500)).whole


@pytest.mark.parametrize("content", [bytes(500), hdf5(9, 500, 500), hdf5(0, 500, 500)[:40], b"\x89HDF\r\n\x1a\n"])
def test_hdf5_without_a_superblock_is_held(content: bytes) -> None:
    """The library may write it late."""
    assert not judge("m.h5", content).whole


# --- parquet


def parquet(footer: int, magic: bytes = b"PAR1") -> bytes:
    return magic + bytes(50) + struct.pack("<I", footer) + magic


def test_parquet_is_whole_with_its_footer() -> None:
    """The magic stands at both ends, and the footer fits between."""
    assert judge("d.parquet", parquet(40)).whole
    assert judge("d.parquet", parquet(40, b"PARE")).whole
    assert [] == whole_prefixes("d.parquet", parquet(40))


@pytest.mark.parametrize("content", [parquet(0), parquet(51), b"PAR1" + bytes(20), bytes(20) + b"PAR1", b"PAR1"])
def test_parquet_without_a_plausible_footer_is_held(content: bytes) -> None:
    """A length of nothing, or of more than there is, is none."""
    assert not judge("d.parquet", content).whole


# --- all of them

SAMPLES = [("a.gguf", GGUF), ("a.npy", saved(np.arange(3))), ("a.h5", hdf5(0, 96, 96)), ("a.parquet", parquet(9))]


@given(
    st.sampled_from(
        [("a.gguf", GGUF), ("a.npy", saved(np.arange(3))), ("a.h5", hdf5(0, 96, 96)), ("d.parquet", parquet(9))]
    ),
    st.data(),
)
def test_hostile_bytes_never_raise(sample: tuple[str, bytes], data: st.DataObject) -> None:
    """Whatever bytes are changed, cut or put in, the answer is a verdict."""
    name, original = sample
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))

    assert isinstance(judge(name, bytes(content)).whole, bool)
