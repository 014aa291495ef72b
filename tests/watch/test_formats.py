import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from support.memory import opened

from hubsync.watch.formats import Verdict, check_structure, index_members

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n".encode()
WEIGHTS = save(
    {"a": np.arange(12, dtype=np.float32), "b": np.zeros((3, 2), np.int8), "empty": np.zeros(0)}, {"format": "pt"}
)


def judge(name: str, content: bytes) -> Verdict:
    with opened(content) as fd:
        return check_structure(fd, name, len(content))


def members(name: str, content: bytes) -> tuple[str, ...] | None:
    with opened(content) as fd:
        return index_members(fd, name)


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}


def zipped(tmp_path: Path, **options: Any) -> bytes:
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", b"pickle" * 100)
        archive.writestr("archive/data/0", bytes(5000))
    return path.read_bytes()


# --- safetensors


def test_a_whole_safetensors_file_passes() -> None:
    """What the library writes is whole, with metadata and empty tensors."""
    assert judge("model.safetensors", WEIGHTS).whole


def test_every_truncation_of_a_safetensors_file_is_noticed() -> None:
    """No prefix of a file is taken for the file, and neither is the file with something after it."""
    assert [] == [size for size in range(len(WEIGHTS)) if judge("model.safetensors", WEIGHTS[:size]).whole]
    assert not judge("model.safetensors", WEIGHTS + b"\0").whole


@given(st.data())
def test_a_corrupt_safetensors_header_never_raises(data: st.DataObject) -> None:
    """Whatever bytes are changed, cut or put in, the answer is a verdict."""
    content = bytearray(WEIGHTS)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))

    verdict = judge("x.safetensors", bytes(content))

    assert isinstance(verdict.whole, bool)
    assert verdict.reason


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["a", "data_offsets", "__metadata__", "dtype"]), inner)))  # fmt: skip
def test_a_header_of_any_json_never_raises(header: Any) -> None:
    """The header is the format's or it is refused."""
    assert isinstance(judge("x.safetensors", safetensors(header)).whole, bool)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": tensor(0, 4), "b": tensor(5, 8)}, bytes(8)),
        ({"a": tensor(0, 4), "b": tensor(3, 8)}, bytes(8)),
        ({"a": tensor(1, 4)}, bytes(4)),
        ({"a": tensor(0, 4)}, bytes(3)),
        ({"a": tensor(0, 4)}, bytes(5)),
        ({"a": tensor(4, 0)}, b""),
        ({"a": {"data_offsets": [0, 4.0]}}, bytes(4)),
        ({"a": {"data_offsets": [0]}}, b""),
        ({"a": tensor(0, 1 << 200)}, b""),
        (b"[" * 100_000, b""),
        (b'{"a":' * 100_000, b""),
        (b"{" + b"1" * 5000, b""),
        (b"\xff{}", b""),
        (b"", b""),
        (b"[]", b""),
    ],
)
def test_a_header_that_does_not_describe_the_file_is_refused(header: Any, data: bytes) -> None:
    """Holes, overlaps, wrong sizes and hostile JSON are not whole."""
    assert not judge("x.safetensors", safetensors(header, data)).whole


def test_header_names_cannot_confuse() -> None:
    """A tensor may be called what it likes; a file without tensors is whole."""
    assert judge("x.safetensors", safetensors({"data_offsets": tensor(0, 4), "__metadata__": {"a": "b"}}, bytes(4))).whole
    assert judge("x.safetensors", safetensors({})).whole


def test_a_header_over_the_limit_is_not_read() -> None:
    """A length field may claim anything; nothing is allocated for it."""
    verdict = judge("x.safetensors", struct.pack("<Q", (1 << 64) - 1) + b"{}")

    assert Verdict(False, f"safetensors: a header of {(1 << 64) - 1} bytes is over the format's limit") == verdict


# --- zip


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "optimizer.pt", "rng_state.pth", "last.ckpt", "a.npz", "m.keras", "d.zip"]
)
def test_zip_files_are_whole_with_their_central_directory(tmp_path: Path, name: str) -> None:
    """The directory is written last: no prefix of a zip file is taken for it."""
    content = zipped(tmp_path)

    assert judge(name, content).whole
    assert [] == [size for size in range(2, len(content), 7) if judge(name, content[:size]).whole]


def test_zip_with_a_comment_and_compression(tmp_path: Path) -> None:
    """A comment after the end record, even one that looks like another, does not hide it."""
    content = zipped(tmp_path, compression=zipfile.ZIP_DEFLATED)
    comment = b"PK\x05\x06 is here"
    with_comment = content[:-2] + struct.pack("<H", len(comment)) + comment

    assert judge("a.zip", with_comment).whole
    assert not judge("a.zip", with_comment[:-1]).whole


def test_zip64(tmp_path: Path) -> None:
    """What torch writes for large files: the real figures stand in the zip64 record."""
    content = zipped(tmp_path)
    *_, entries, length, start, _ = struct.unpack("<4s4H2LH", content[-22:])
    end_at = len(content) - 22
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, length, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end_at, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)

    assert judge("a.pt", content[:end_at] + record + locator + end).whole
    assert not judge("a.pt", content[:end_at] + locator + end).whole
    assert not judge("a.pt", content[:end_at] + end).whole
    assert not judge("a.pt", content[: end_at - 10] + record + locator + end).whole


def test_a_zip_whose_directory_was_cut_is_noticed(tmp_path: Path) -> None:
    """An end record that claims more than lies before it is not believed, even where the directory starts in place."""
    content = zipped(tmp_path)
    (length,) = struct.unpack("<L", content[-10:-6])

    assert not judge("a.zip", content[:-10] + struct.pack("<L", length + 1) + content[-6:]).whole


def test_an_empty_zip_is_whole(tmp_path: Path) -> None:
    """It is an end record and nothing else."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass

    assert judge("a.zip", (tmp_path / "a.zip").read_bytes()).whole


def test_a_legacy_pickle_passes_unchecked() -> None:
    """Old torch files say nothing of their length."""
    assert judge("pytorch_model.bin", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.").whole
    assert not judge("a.npz", b"\x93NUMPY").whole


@given(st.binary(max_size=300), st.booleans())
def test_hostile_zip_bytes_never_raise(content: bytes, end: bool) -> None:  # noqa: FBT001  a strategy draws it
    """Whatever the records claim, the answer is a verdict."""
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 1, 5, 0xFFFFFFFF, 0) if end else b""

    assert isinstance(judge("a.pt", b"PK\x03\x04" + content + tail).whole, bool)


# --- JSON


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[1, 2]\n",
        b'"word"',
        b"1",
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        '{"é": "模"}'.encode(),
        b'{"a": 1}\n{"a": 2}\n',
        b'{"a": %s}' % (b"9" * 5000),
    ],
)
def test_json_that_parses_is_whole(content: bytes) -> None:
    """So is one document per line, which many data sets call .json."""
    assert judge("config.json", content).whole


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"a": 1', b'{"a": 1,}', b"\xff\xfe\xfd", b" ", b'{"a": 1}\n{"a": ', b"1\n2\n3"]
)
def test_json_that_does_not_parse_is_held(content: bytes) -> None:
    """A prefix of a document is none."""
    assert not judge("trainer_state.json", content).whole


def test_deep_json_is_no_trap() -> None:
    """What is nested too deep to parse cannot be judged, and does not raise."""
    assert judge("a.json", b"[" * 200_000 + b"]" * 200_000).whole


def test_large_json_is_looked_at_by_its_end() -> None:
    """Above a bound only the last bytes count."""
    large = b'{"a": "' + b"x" * (17 << 20) + b'"}'

    assert judge("tokenizer.json", large + b"\n").whole
    assert not judge("tokenizer.json", large[:-2]).whole


def test_json_lines_grow_and_are_always_whole() -> None:
    """A log of lines has no end."""
    assert judge("log.jsonl", b'{"a": 1').whole


# --- others


def test_empty_files() -> None:
    """An empty file is whole unless its format has a header."""
    held = ["model.safetensors", "a.pt", "a.npz", "a.gguf", "a.parquet", "a.npy", "m.h5", "config.json"]

    assert [] == [name for name in held if judge(name, b"") != Verdict(False, "empty")]
    assert judge("__init__.py", b"").whole
    assert judge("_SUCCESS", b"").whole
    assert judge("pytorch_model.bin", b"").whole


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "pytorch_model.bin", "README.md"])
def test_a_pointer_in_place_of_the_content_is_rejected(name: str) -> None:
    """A half-cloned repository has them; publishing one would name an object that nobody holds."""
    assert Verdict(False, "pointer file, the real content is absent", rejected=True) == judge(name, POINTER)


def test_a_text_about_pointers_is_no_pointer() -> None:
    """Only a small file that is one from its first byte counts."""
    assert judge("README.md", b"See:\n" + POINTER).whole
    assert judge("README.md", POINTER + b"x" * 1024).whole
    assert judge("README.md", POINTER.replace(b"sha256", b"sha1")).whole


def test_a_file_that_shrinks_meanwhile_is_not_whole() -> None:
    """The size was taken before; a short read says that it is not true any more."""
    for name in ("a.safetensors", "a.zip", "a.json", "a.gguf", "a.parquet", "a.npy", "a.h5", "a.txt"):
        with opened(b"PK\x03\x04" + bytes(10)) as fd:
            verdict = check_structure(fd, name, 500)

        assert not verdict.whole


# --- indexes


def test_an_index_names_its_shards() -> None:
    """Each is listed once."""
    index = {"metadata": {}, "weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}

    assert ("m-1.safetensors", "m-2.safetensors") == members("model.safetensors.index.json", json.dumps(index).encode())


def test_an_index_of_a_variant_is_one() -> None:
    """Transformers and diffusers put the variant before the suffix."""
    assert ("m.bin",) == members("unet/diffusion_pytorch_model.bin.index.fp16.json", b'{"weight_map": {"a": "m.bin"}}')


def test_an_index_with_a_giant_number_is_one() -> None:
    """Its shards are waited for like those of any."""
    index = b'{"metadata": {"total_size": %s}, "weight_map": {"a": "m.bin"}}' % (b"9" * 5000)

    assert ("m.bin",) == members("model.safetensors.index.json", index)


def test_hostile_members_are_dropped() -> None:
    """A name that leads elsewhere is none."""
    index = {
        "weight_map": dict(enumerate(["../x", "/etc/passwd", "a/b", "..", "", "a\\b", "a\0", 7, None, ["x"], "ok.bin"]))
    }

    assert ("ok.bin",) == members("a.index.json", json.dumps(index).encode())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"weight_map": []}', b"[" * 100_000, b"\xff"])
def test_what_is_no_index_has_no_members(content: bytes) -> None:
    """Neither a broken one nor another file of that name."""
    assert members("a.index.json", content) is None


def test_only_the_name_makes_an_index() -> None:
    """An ordinary JSON file is not looked at."""
    assert members("config.json", b'{"weight_map": {"a": "b"}}') is None


def test_reading_is_by_position(tmp_path: Path) -> None:
    """The caller's descriptor is where it was."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(WEIGHTS)
    with path.open("rb") as file:
        verdict = check_structure(file.fileno(), path.name, len(WEIGHTS))

        assert verdict.whole
        assert 0 == os.lseek(file.fileno(), 0, os.SEEK_CUR)
