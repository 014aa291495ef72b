"""Reads a commit request of the HTTP API, line by line, and judges it. Contents are never held all at once."""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import IO, Any

from msgspec import Struct, field

from hubsync.localhub.attributes import NAME as ATTRIBUTES
from hubsync.localhub.objects import holds_object, object_path
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.repos import Repo
from hubsync.localhub.rules import CARD, Offence, Pointer, check_card, check_content, check_size, is_oid

_FORBIDDEN_PARTS = frozenset({"", ".", "..", ".git"})


class Write(Struct, frozen=True):
    """A file gets this content."""

    path: str
    content: bytes


class Point(Struct, frozen=True):
    """A file becomes the pointer to an object."""

    path: str
    pointer: Pointer


class Delete(Struct, frozen=True):
    """A file or directory goes."""

    path: str


class Header(Struct, frozen=True):
    """What the commit says, and on which commit it must stand."""

    message: str
    parent: str


Change = Header | Write | Point | Delete


class Summary(Struct):
    """What a commit request asks for, without its contents, and what is wrong with it."""

    message: str = ""
    parent: str = ""
    objects: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    attributes: dict[str, bytes] = field(default_factory=dict)
    offences: list[Offence] = field(default_factory=list)


def read_changes(repo: Repo, lines: IO[bytes]) -> Iterator[Change]:
    """Yield what the request (ndjson) asks for; raises RefusedError for what cannot be read."""
    lines.seek(0)
    for line in filter(bytes.strip, lines):
        try:
            operation = json.loads(line)
            key, value = operation["key"], dict(operation["value"])
        except (ValueError, TypeError, KeyError) as exc:
            raise RefusedError(400, "Invalid commit: each line holds a key and a value") from exc
        yield _read_change(repo, key, value)


def summarize(repo: Repo, ref: str, lines: IO[bytes]) -> Summary:
    """Return what the request asks for on *ref*, judged."""
    found = Summary()
    for change in read_changes(repo, lines):
        match change:
            case Header():
                found.message, found.parent = change.message, change.parent
            case Delete():
                found.deleted.append(change.path)
            case Point():
                found.objects.append(change.path)
                found.offences += _judge(repo, ref, change.path, change.pointer.encode())
            case Write():
                found.offences += _judge(repo, ref, change.path, change.content)
                if change.path.rpartition("/")[2] == ATTRIBUTES:
                    found.attributes[change.path] = change.content

    return found


def _read_change(repo: Repo, key: str, value: dict[str, Any]) -> Change:
    match key:
        case "header":
            words = [str(value.get(part) or "") for part in ("summary", "description")]
            return Header("\n\n".join(filter(None, words)), str(value.get("parentCommit") or ""))
        case "file":
            return Write(_path(value), _content(value))
        case "lfsFile":
            return Point(_path(value), _pointer(repo, value))
        case "deletedFile" | "deletedFolder":
            return Delete(_path(value))
        case _:
            raise RefusedError(400, f"Invalid operation: {key}")


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


def _pointer(repo: Repo, value: dict[str, Any]) -> Pointer:
    oid, size = value.get("oid"), value.get("size")
    if not (isinstance(oid, str) and is_oid(oid) and isinstance(size, int | None)):
        raise RefusedError(400, f"Invalid object: {oid}")
    if size is None:  # it may be left out for an object that is there
        path = object_path(repo.objects_dir, oid)
        size = path.stat().st_size if path.exists() else 0

    return Pointer(oid, size)


def _judge(repo: Repo, ref: str, path: str, content: bytes) -> list[Offence]:
    def has_object(pointer: Pointer) -> bool:
        return holds_object(repo.objects_dir, pointer.oid, pointer.size)

    offence = check_size(path, len(content), ref) or check_content(path, content, ref, has_object)
    card = check_card(content.decode(errors="replace")) if path == CARD else []

    return [offence, *card] if offence else card
