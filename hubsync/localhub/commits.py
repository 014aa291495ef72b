"""Writes commits, branches and tags, by git plumbing; a ref moves only if it is still what the writer saw.

It reads a commit request twice: first to judge it, then, line by line, into ``git fast-import``.
"""

import base64
import binascii
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from hubsync.localhub.access import User
from hubsync.localhub.attributes import NAME as ATTRIBUTES
from hubsync.localhub.attributes import add_lfs_lines, find_lfs_paths, quote
from hubsync.localhub.git import ask_git, feeding_git, run_git
from hubsync.localhub.objects import holds_object
from hubsync.localhub.refusals import ENTRY_NOT_FOUND, RefusedError
from hubsync.localhub.repos import HIDDEN_REFS, Repo
from hubsync.localhub.rules import CARD, Offence, Pointer, check_card, check_content, check_size, is_oid, refusal_text
from hubsync.localhub.trees import find_commit, find_entries, read_file

_ABSENT = "0" * 40
_STALE = "A commit has happened since. Please refresh and try again."
_FORBIDDEN_PARTS = frozenset({"", ".", "..", ".git"})


@dataclass(slots=True)
class _Summary:
    """What a commit request asks for, without its contents."""

    message: str = ""
    parent: str = ""
    pointers: dict[str, Pointer] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    attributes: dict[str, bytes] = field(default_factory=dict)
    offences: list[Offence] = field(default_factory=list)


def commit_request(repo: Repo, branch: str, user: User, lines: IO[bytes]) -> str:
    """Make the commit that *lines* (ndjson) describe on *branch* and return it; raises RefusedError."""
    head = find_commit(repo.git_dir, f"refs/heads/{branch}")
    wanted = _summarize(repo, f"refs/heads/{branch}", lines)
    if wanted.parent and not (len(wanted.parent) >= 7 and head.startswith(wanted.parent)):  # noqa: PLR2004 - git's least
        raise RefusedError(412, _STALE)
    if wanted.offences:
        raise RefusedError(400, refusal_text(wanted.offences))
    _check_deleted(repo, head, wanted.deleted)

    return _write_commit(repo, branch, head, user, wanted, lines)


def _summarize(repo: Repo, ref: str, lines: IO[bytes]) -> _Summary:
    found = _Summary()
    for key, value in _read_operations(lines):
        if key == "header":
            found.message = "\n\n".join(filter(None, [value.get("summary"), value.get("description")]))
            found.parent = value.get("parentCommit") or ""
        elif key == "file":
            _judge_file(repo, ref, _path(value), _content(value), found)
        elif key == "lfsFile":
            _judge_object(repo, value, found)
        elif key in ("deletedFile", "deletedFolder"):
            found.deleted.append(_path(value))
        else:
            raise RefusedError(400, f"Invalid operation: {key}")

    return found


def _read_operations(lines: IO[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    lines.seek(0)
    for line in lines:
        if line.strip():
            try:
                operation = json.loads(line)
                yield operation["key"], dict(operation["value"])
            except (ValueError, TypeError, KeyError) as exc:
                raise RefusedError(400, "Invalid commit: each line holds a key and a value") from exc


def _path(value: dict[str, Any]) -> str:
    path = str(value.get("path", "")).removesuffix("/")
    if any(part.lower() in _FORBIDDEN_PARTS for part in path.split("/")) or "\0" in path:
        raise RefusedError(400, f"Invalid path: {path}")

    return path


def _content(value: dict[str, Any]) -> bytes:
    content = str(value.get("content", ""))
    if value.get("encoding") != "base64":
        return content.encode()
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as exc:
        raise RefusedError(400, f"Invalid content: {exc}") from exc


def _judge_file(repo: Repo, ref: str, path: str, content: bytes, found: _Summary) -> None:
    def has_object(pointer: Pointer) -> bool:
        return holds_object(repo.objects_dir, pointer.oid, pointer.size)

    offences = [check_size(path, len(content), ref) or check_content(path, content, ref, has_object)]
    if path == CARD:
        offences += check_card(content.decode(errors="replace"))
    if path.rpartition("/")[2] == ATTRIBUTES:
        found.attributes[path] = content
    found.offences += filter(None, offences)


def _judge_object(repo: Repo, value: dict[str, Any], found: _Summary) -> None:
    path, oid = _path(value), value.get("oid")
    size = value.get("size")
    if not is_oid(oid):
        raise RefusedError(400, f"Invalid oid of {path}")
    if size is None:  # the size may be left out for an object that is there
        size = _known_size(repo, str(oid))
    found.pointers[path] = Pointer(str(oid), int(size))
    found.offences += filter(
        None,
        [
            check_content(
                path, found.pointers[path].encode(), "", lambda wanted: holds_object(repo.objects_dir, wanted.oid, wanted.size)
            )
        ],
    )


def _known_size(repo: Repo, oid: str) -> int:
    from hubsync.localhub.objects import object_path

    try:
        return object_path(repo.objects_dir, oid).stat().st_size
    except FileNotFoundError:
        return 0


def _check_deleted(repo: Repo, head: str, deleted: list[str]) -> None:
    there = {entry.path for entry in find_entries(repo.git_dir, head, deleted)}
    if missing := [path for path in deleted if path not in there]:
        raise RefusedError(404, f'A file with this name doesn\'t exist: "{missing[0]}"', code=ENTRY_NOT_FOUND)


def _write_commit(repo: Repo, branch: str, head: str, user: User, wanted: _Summary, lines: IO[bytes]) -> str:  # noqa: PLR0913 - internal
    attributes = _attributes(repo.git_dir, head, wanted)
    with _temporary_ref(repo.git_dir) as ref:
        with feeding_git(repo.git_dir, "fast-import", "--quiet", "--date-format=raw") as importer:
            importer.write(_commit_head(ref, user, wanted.message, head))
            for key, value in _read_operations(lines):
                importer.write(_operation(key, value, wanted))
            if attributes is not None:
                importer.write(_modify(ATTRIBUTES, attributes))
        commit = run_git(repo.git_dir, "rev-parse", ref).decode().strip()
        move_ref(repo, f"refs/heads/{branch}", commit, head)

    return commit
