"""Reads what a repository holds: revisions and files. It changes nothing and knows no HTTP.

Paths are text with surrogates for bytes that are not UTF-8 (``os.fsdecode``), as git does not ask for UTF-8.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct
from msgspec.structs import replace

from hubsync.localhub.git import ask_git, read_objects, run_git
from hubsync.localhub.refusals import entry_not_found, revision_not_found
from hubsync.localhub.rules import POINTER_MAX_BYTES, Pointer, read_pointer

_COMMIT_LIKE = re.compile(r"[0-9a-f]{7,40}")
_POINTER_MIN_BYTES = 100  # three lines, one of them with a SHA-256
_NO_NAMES = frozenset({"", ".", ".."})
_PATHS_AT_ONCE = 500  # as arguments of one process


class Entry(Struct, frozen=True):
    """A file or directory at a revision; *blob* is git's name of its content, *size* that of the file itself."""

    path: str
    is_directory: bool
    blob: str
    blob_size: int
    pointer: Pointer | None = None

    @property
    def size(self) -> int:
        """The file's size in bytes, in LFS or not."""
        return self.pointer.size if self.pointer else self.blob_size


def find_commit(git_dir: Path, revision: str) -> str:
    """Return the commit that a branch, tag, ref or commit name stands for; raises RefusedError."""
    names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
    if revision.startswith("refs/") or _COMMIT_LIKE.fullmatch(revision):
        names.insert(0, revision)
    if any(character.isspace() or character in "^~:\0" for character in revision):
        raise revision_not_found(revision)
    asked = "".join(f"{name}^{{commit}}\n" for name in names).encode(errors="surrogateescape")
    for line in run_git(git_dir, "cat-file", "--batch-check", feed=asked).decode(errors="replace").splitlines():
        oid, _, kind = line.partition(" ")
        if kind.startswith("commit "):
            return oid

    raise revision_not_found(revision)


def list_entries(git_dir: Path, commit: str, directory: str = "", *, recursive: bool = False) -> list[Entry]:
    """Return what *directory* holds, pointers unread; raises RefusedError if it is not there."""
    where = f"{commit}:{directory}" if directory else f"{commit}^{{tree}}"
    recursion = ("-r", "-t") if recursive else ()
    listed = ask_git(git_dir, "ls-tree", "-z", "-l", "--full-tree", *recursion, where)
    if listed is None:
        raise entry_not_found(commit)
    prefix = f"{directory}/" if directory else ""

    return list(_read_listing(listed, prefix))


def find_entries(git_dir: Path, commit: str, paths: Sequence[str]) -> list[Entry]:
    """Return those of *paths* that exist, with their pointers read."""
    found: list[Entry] = []
    for apart in _set_apart({path for path in paths if _is_plain(path)}):
        for start in range(0, len(apart), _PATHS_AT_ONCE):
            some = apart[start : start + _PATHS_AT_ONCE]
            found += _read_listing(run_git(git_dir, "ls-tree", "-z", "-l", "--full-tree", commit, "--", *some))
    asked = set(paths)

    return read_pointers(git_dir, [entry for entry in found if entry.path in asked])


def _is_plain(path: str) -> bool:
    """Whether a tree could hold *path*; git fails on what leads out of the repository."""
    return "\0" not in path and not _NO_NAMES & set(path.split("/"))


def _set_apart(paths: set[str]) -> Iterator[list[str]]:
    """Yield *paths* in groups in which none lies below another: ``ls-tree`` would leave the upper one out."""
    while paths:
        above = {str(parent) for path in paths for parent in PurePosixPath(path).parents} & paths
        yield sorted(paths - above)
        paths = above


def find_file(git_dir: Path, commit: str, path: str) -> Entry:
    """Return the file at *path*; raises RefusedError if there is none."""
    for entry in find_entries(git_dir, commit, [path]):
        if not entry.is_directory:
            return entry

    raise entry_not_found(commit)


def _read_listing(listed: bytes, prefix: str = "") -> Iterator[Entry]:
    for line in listed.split(b"\0")[:-1]:
        facts, _, path = line.partition(b"\t")
        _, kind, blob, size = facts.decode().split()
        if kind != "commit":  # a submodule; the Hub has none
            yield Entry(prefix + os.fsdecode(path), kind == "tree", blob, 0 if kind == "tree" else int(size))


def read_pointers(git_dir: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Return *entries* with the pointer of each that is one."""
    small = {entry.blob for entry in entries if _POINTER_MIN_BYTES < entry.blob_size < POINTER_MAX_BYTES}
    pointers = {blob: read_pointer(content) for blob, content in read_blobs(git_dir, small)}

    return [replace(entry, pointer=pointers.get(entry.blob)) for entry in entries]


def read_blobs(git_dir: Path, blobs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the content of each of *blobs*."""
    names = list(blobs)
    if names:
        yield from read_objects(git_dir, names)


def read_blob(git_dir: Path, blob: str) -> bytes:
    """Return the content of one blob."""
    return run_git(git_dir, "cat-file", "blob", blob)


def read_file(git_dir: Path, commit: str, path: str) -> bytes | None:
    """Return what git holds at *path*: a pointer's own text; ``None`` if nothing."""
    return ask_git(git_dir, "cat-file", "blob", f"{commit}:{path}")


def find_pointed_paths(git_dir: Path) -> dict[str, str]:
    """Return, for each object that a pointer in any commit names, one path of that pointer."""
    listed = run_git(git_dir, "rev-list", "--objects", "--filter=blob:limit=1k", "--all").decode(errors="surrogateescape")
    paths = dict(line.split(" ", 1) for line in listed.splitlines() if " " in line)
    kinds = run_git(git_dir, "cat-file", "--batch-check=%(objectname) %(objecttype)", feed="\n".join(paths).encode())
    blobs = [name for name, kind in map(str.split, kinds.decode().splitlines()) if kind == "blob"]
    pointers = ((read_pointer(content), blob) for blob, content in read_blobs(git_dir, blobs))

    return {pointer.oid: paths[blob] for pointer, blob in pointers if pointer}
