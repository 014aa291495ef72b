"""Makes the published ``.gitattributes`` agree with the pointers: git is asked, exact lines are added where it differs.

A path that is a pointer must have ``filter=lfs``, any other must not. The line goes to the nearest ``.gitattributes``
above the path, at its end, because there it wins over all others.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from hubsync.mirror.graft import parents
from hubsync.store.git import Git, quote_path, split
from hubsync.store.route import LFS_ATTRIBUTES, hub_attributes

NAME = ".gitattributes"
_NOT_LFS = "!filter !diff !merge !text"
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\*?["})


def attributes_to_publish(
    git: Git, head: str | None, pointers: Mapping[str, bool], patterns: tuple[str, ...],
    texts: dict[str, bytes] | None = None,
) -> dict[str, bytes]:  # fmt: skip
    """Return the ``.gitattributes`` files (path → content) that must change on *head* for *pointers* to agree.

    *pointers* says of each path in the repository whether it is a pointer. A head without a root file gets the Hub's
    default one; the operator's *patterns* are written as they are. *texts* (blob → content) are known, and are learnt.
    """
    files = _read_attributes(git, head, pointers, {} if texts is None else texts) if head else {}
    root = files.get(NAME, hub_attributes())
    lines = [f"{pattern} {LFS_ATTRIBUTES}".encode() for pattern in patterns]
    wanted = {**files, NAME: _append(root, [line for line in lines if line not in root.splitlines()])}
    for path, is_pointer in _disagreeing(git, wanted, pointers):
        home = _nearest(path, wanted)
        wanted[home] = _append(wanted[home], [exact_line(path, home, is_pointer=is_pointer)])

    return {path: content for path, content in wanted.items() if files.get(path) != content}


def exact_line(path: str, home: str, *, is_pointer: bool) -> bytes:
    """Return the line for exactly *path* in the attributes file *home*."""
    relative = PurePosixPath(path).relative_to(PurePosixPath(home).parent)
    pattern = "/" + str(relative).translate(_SPECIAL)
    plain = os.fsencode(pattern)
    needs_quotes = any(byte <= 32 or byte in b'"' or byte == 127 for byte in plain)  # noqa: PLR2004 - ASCII
    attributes = (LFS_ATTRIBUTES if is_pointer else _NOT_LFS).encode()

    return (quote_path(pattern) if needs_quotes else plain) + b" " + attributes


def _append(content: bytes, lines: list[bytes]) -> bytes:
    if not lines:
        return content
    joint = b"" if not content or content.endswith(b"\n") else b"\n"
    return content + joint + b"\n".join(lines) + b"\n"


def _nearest(path: str, files: Iterable[str]) -> str:
    known = set(files)
    for parent in PurePosixPath(path).parents:
        if (candidate := str(parent / NAME)) in known:
            return candidate

    return NAME


def above(paths: Iterable[str]) -> set[str]:
    """Return where attributes files may lie that have a say about *paths*."""
    return {NAME} | {f"{parent}/{NAME}" for path in paths for parent in parents(path)}


def _read_attributes(git: Git, head: str, paths: Iterable[str], texts: dict[str, bytes]) -> dict[str, bytes]:
    """Return the attributes files of *head* that have a say about *paths*."""
    blobs = {path: e.blob for path, e in git.find_files(head, above(paths)).items() if e.mode.startswith("100")}
    texts |= git.read_blobs(set(blobs.values()) - texts.keys())
    for blob in texts.keys() - blobs.values():  # each commit may bring another one, of any size
        del texts[blob]
    return {path: texts[blob] for path, blob in blobs.items()}


def _disagreeing(git: Git, files: Mapping[str, bytes], pointers: Mapping[str, bool]) -> Iterator[tuple[str, bool]]:
    """Yield the paths whose filter attribute, as git reads *files*, is not what it should be."""
    with git.scratch_files(files) as place:
        answer = git.run(
            f"--work-tree={place}", "check-attr", "--stdin", "-z", "filter",
            feed=(os.fsencode(path) + b"\0" for path in pointers),
        ).stdout  # fmt: skip
    fields = split(answer)
    for raw, _, value in zip(fields, fields, fields, strict=True):
        path = os.fsdecode(raw)
        if (value == b"lfs") != pointers[path]:
            yield path, pointers[path]
