"""Knows which paths a repository's ``.gitattributes`` send to LFS, by asking git, and adds lines for those it must.

git reads attributes from a work tree: one with nothing but the ``.gitattributes`` files above the paths in question.
"""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from hubsync.localhub.git import run_git
from hubsync.localhub.trees import find_entries, read_blobs

NAME = ".gitattributes"
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\*?["})


def find_lfs_paths(
    git_dir: Path, commit: str, paths: Iterable[str], changed: Mapping[str, bytes] | None = None
) -> set[str]:
    """Return those of *paths* that go to LFS at *commit*, with the attribute files in *changed* put in place."""
    asked = sorted(set(paths))
    with tempfile.TemporaryDirectory() as tree:
        for path, content in {**_read_attributes(git_dir, commit, asked), **(changed or {})}.items():
            file = Path(tree, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        feed = b"".join(os.fsencode(path) + b"\0" for path in asked)
        answers = run_git(git_dir, f"--work-tree={tree}", "check-attr", "-z", "--stdin", "filter", feed=feed).split(b"\0")

    return {os.fsdecode(path) for path, value in zip(answers[0::3], answers[2::3], strict=False) if value == b"lfs"}


def _read_attributes(git_dir: Path, commit: str, paths: Iterable[str]) -> dict[str, bytes]:
    homes = {parent / NAME for path in paths for parent in PurePosixPath(path).parents}
    entries = [entry for entry in find_entries(git_dir, commit, sorted(map(str, homes))) if not entry.is_directory]
    contents = dict(read_blobs(git_dir, {entry.blob for entry in entries}))

    return {entry.path: contents[entry.blob] for entry in entries}


def add_lfs_lines(content: bytes, paths: Iterable[str]) -> bytes:
    """Return the root's attributes with a line for each of *paths*, as the Hub itself adds them."""
    if content and not content.endswith(b"\n"):
        content += b"\n"
    return content + b"".join(b"%s filter=lfs diff=lfs merge=lfs -text\n" % _pattern(path) for path in paths)


def _pattern(path: str) -> bytes:
    plain = os.fsencode(path.translate(_SPECIAL) if "/" in path else "/" + path.translate(_SPECIAL))
    if path.startswith("/") or not any(byte <= 32 or byte in b'"#!' for byte in plain):  # noqa: PLR2004 - ASCII's blanks
        return plain

    return quote(plain)


def quote(path: bytes) -> bytes:
    """Return *path* in double quotes, as git reads it in its own files."""
    return b'"' + b"".join(_quoted(byte) for byte in path) + b'"'


def _quoted(byte: int) -> bytes:
    if byte in b'"\\':
        return b"\\%c" % byte
    if byte < 32 or byte == 127:  # noqa: PLR2004 - ASCII's control characters
        return b"\\%03o" % byte

    return b"%c" % byte
