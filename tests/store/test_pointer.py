import hashlib
import re
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hubsync.store.pointer import MAX_BYTES, Pointer, decode_pointer

OID = "ab" * 32

oids = st.binary(min_size=32, max_size=32).map(bytes.hex)
sizes = st.integers(min_value=0, max_value=2**63 - 1)


@given(oids, sizes)
def test_a_pointer_survives_being_written_and_read(oid: str, size: int) -> None:
    """What is encoded is decoded to the same value, and is short enough to be a pointer."""
    pointer = Pointer(oid, size)

    assert pointer == decode_pointer(pointer.encode())
    assert len(pointer.encode()) < MAX_BYTES


@given(st.binary(max_size=2000))
def test_any_content_is_a_pointer_or_none(content: bytes) -> None:
    """Decoding never raises, and what it takes for a pointer is one in all its parts."""
    found = decode_pointer(content)

    assert found is None or re.fullmatch("[0-9a-f]{64}", found.oid)


@given(oids, sizes, st.integers(0, 130), st.binary(min_size=1, max_size=3))
def test_what_was_tampered_with_names_no_other_object(oid: str, size: int, at: int, inserted: bytes) -> None:
    """Text that only resembles a pointer is content: it is never read as one to an object that it does not name."""
    text = Pointer(oid, size).encode()
    changed = text[:at] + inserted + text[at:]

    found = decode_pointer(changed)

    assert found is None or b"\noid sha256:%s\nsize " % found.oid.encode() in changed


def test_the_text_is_that_of_git_lfs(tmp_path: Path) -> None:
    """git-lfs makes the very same pointer, so that a clone shows no difference."""
    content = b"weights\0"
    (tmp_path / "file").write_bytes(content)
    argv = ["git", "lfs", "pointer", f"--file={tmp_path}/file"]

    made = subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True).stdout

    assert Pointer(hashlib.sha256(content).hexdigest(), len(content)).encode() == made


def test_older_spellings_are_pointers_too() -> None:
    """The name of git-lfs before its release, and extensions, are part of the specification."""
    old = f"version https://hawser.github.com/spec/v1\noid sha256:{OID}\nsize 3\n".encode()
    extended = f"version https://git-lfs.github.com/spec/v1\next-0-foo sha256:{OID}\noid sha256:{OID}\nsize 3\n".encode()

    assert [Pointer(OID, 3)] * 2 == [decode_pointer(old), decode_pointer(extended)]


def test_a_long_text_is_content() -> None:
    """A file of 1024 bytes or more is no pointer, whatever it begins with."""
    padded = Pointer(OID, 3).encode().ljust(MAX_BYTES, b"\n")

    assert decode_pointer(padded) is None
