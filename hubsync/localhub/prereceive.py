"""The hook that reads every push before it is taken, in git's quarantine: ``python -m hubsync.localhub.prereceive``.

It looks at every blob that the push brings, in every commit: a file that a later commit deletes is refused too. Two
processes read all of them. It must never know HTTP, nor import what is slow to import.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from msgspec import Struct

from hubsync.localhub.git import ask_git, quarantine_environment, read_objects, reading_git
from hubsync.localhub.objects import holds_object
from hubsync.localhub.rules import (
    CARD,
    REGULAR_MAX_BYTES,
    Offence,
    Pointer,
    check_card,
    check_content,
    check_size,
    denial_lines,
    refusal_lines,
)

_ABSENT = "0" * 40


class RefUpdate(Struct, frozen=True):
    """One line of a push: a ref and the object it shall name."""

    new: str
    ref: str


class NewBlob(Struct, frozen=True):
    """A file's content that the push brings; *path* is the first that it stands at."""

    name: str
    size: int
    path: str


def main() -> int:
    """Check the push on standard input; 1 if it is refused, with the reason on standard error."""
    git_dir = Path(os.environ["GIT_DIR"]).absolute()
    updates = list(read_updates(sys.stdin))
    if denied := [update.ref for update in updates if update.ref in _protected_refs(git_dir)]:
        sys.stderr.write("\n".join(denial_lines(denied)) + "\n")
        return 1
    offences = list(check_push(git_dir, updates, quarantine_environment(os.environ)))
    if offences:
        sys.stderr.write("\n".join(refusal_lines(offences)) + "\n")

    return 1 if offences else 0


def read_updates(lines: Iterable[str]) -> Iterator[RefUpdate]:
    """Yield the refs that receive-pack is about to write or delete."""
    for line in lines:
        _, new, ref = line.rstrip("\n").split(" ", 2)
        yield RefUpdate(new, ref)


def _protected_refs(git_dir: Path) -> set[str]:
    facts = json.loads((git_dir / "hub.json").read_text())
    return {f"refs/heads/{branch}" for branch in facts.get("protected", ())}


def check_push(git_dir: Path, updates: list[RefUpdate], extra: Mapping[str, str]) -> Iterator[Offence]:
    """Yield all that the Hub refuses in a push of *updates*."""
    seen: list[str] = []
    for update in updates:
        if update.new == _ABSENT:
            continue
        blobs = list(_new_blobs(git_dir, update.new, seen, extra))
        seen.append(update.new)
        offences = (check_size(blob.path, blob.size, update.ref) for blob in blobs)
        yield from filter(None, offences)
        yield from _check_contents(git_dir, blobs, update.ref, extra)
        if update.ref.startswith("refs/heads/"):
            yield from _check_card(git_dir, update.new, extra)


def _new_blobs(git_dir: Path, new: str, seen: list[str], extra: Mapping[str, str]) -> Iterator[NewBlob]:
    """Yield the blobs that neither a ref of the Hub nor what was *seen* of this push reaches."""
    with tempfile.TemporaryFile() as listed:
        with reading_git(git_dir, "rev-list", "--objects", new, "--not", "--all", *seen, extra=extra) as objects:
            listed.writelines(objects)
        listed.seek(0)
        yield from _describe(git_dir, listed, extra)


def _describe(git_dir: Path, listed: IO[bytes], extra: Mapping[str, str]) -> Iterator[NewBlob]:
    form = "--batch-check=%(objectname) %(objecttype) %(objectsize) %(rest)"
    with reading_git(git_dir, "cat-file", form, "--buffer", stdin=listed, extra=extra) as described:
        for line in described:
            name, kind, size, path = line.decode(errors="surrogateescape").rstrip("\n").split(" ", 3)
            if kind == "blob":
                yield NewBlob(name, int(size), path)


def _check_contents(git_dir: Path, blobs: list[NewBlob], ref: str, extra: Mapping[str, str]) -> Iterator[Offence]:
    small = [blob for blob in blobs if blob.size <= REGULAR_MAX_BYTES]
    if not small:
        return

    def has_object(pointer: Pointer) -> bool:
        return holds_object(git_dir / "lfs" / "objects", pointer.oid, pointer.size)

    contents = read_objects(git_dir, (blob.name for blob in small), extra)
    for blob, (_, content) in zip(small, contents, strict=True):
        if offence := check_content(blob.path, content, ref, has_object):
            yield offence


def _check_card(git_dir: Path, commit: str, extra: Mapping[str, str]) -> Iterator[Offence]:
    content = ask_git(git_dir, "cat-file", "blob", f"{commit}:{CARD}", extra=extra)
    if content is not None:
        yield from check_card(content.decode(errors="replace"))


if __name__ == "__main__":
    sys.exit(main())
