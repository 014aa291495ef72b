"""Decides which names a Hub repository cannot hold, or must not be given by a source.

git refuses ``.git`` in every spelling that some file system folds to it (git's ``is_ntfs_dotgit`` and ``is_hfs_dotgit``,
https://github.com/git/git/blob/master/path.c), and a Hub rejects the push. ``.gitattributes`` and the like are git's
own orders: hubsync writes those that its mirrors need and obeys none that lies in a source. Knows names only.
"""

import re
from dataclasses import dataclass
from enum import Enum

_HFS_IGNORABLE = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_SHORT_NAMES = {  # NTFS keeps an 8.3 alias, whose number is 1 to 4; the second form has a hash of the name
    ".git": re.compile(r"git~1"),
    ".gitattributes": re.compile(r"gitatt~[1-4]|gi7d29~[0-9]"),
    ".gitmodules": re.compile(r"gitmod~[1-4]|gi7eba~[0-9]"),
    ".lfsconfig": re.compile(r"lfscon~[1-4]"),
}
_WHY = {
    ".git": "a Hub refuses it in any spelling",
    ".gitattributes": "hubsync writes the one that the mirror needs",
    ".gitmodules": "a Hub repository has no submodules of ours",
    ".lfsconfig": "it would send those who download to another server",
}


class Kind(Enum):
    """How much a path that is not taken matters."""

    IGNORED = "ignored"  # by rule, nothing to tell
    REJECTED = "rejected"  # waiting does not help; the operator may want to know
    UNREADABLE = "unreadable"  # this process may not read it; it is not gone


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a path is not taken."""

    reason: str
    kind: Kind
    hint: str = ""


def judge_name(name: str) -> Skip | None:
    """Return why no path may have *name* as a part; ``None`` if it may."""
    if name.isascii() and name and name[0] not in ".gGlL" and "\\" not in name:
        return None  # nearly every name

    return _judge_unusual_name(name)


def judge_names(path: str) -> Skip | None:
    """Return what :func:`judge_name` says of the first refused part of *path*."""
    return next((skip for name in path.split("/") if (skip := judge_name(name))), None)


def _judge_unusual_name(name: str) -> Skip | None:
    if name in {"", ".", ".."}:
        return Skip("not a name", Kind.REJECTED)
    if name == ".git":
        return Skip("git's own directory is never published", Kind.IGNORED)
    if name == ".gitattributes":  # every clone of a Hub repository has one
        return Skip(_WHY[name], Kind.IGNORED)
    if not _is_utf8(name):
        return Skip("the name is not valid UTF-8, which a Hub requires", Kind.REJECTED)
    if "\\" in name:
        return Skip("the name has a backslash, which Windows reads as a directory", Kind.REJECTED)
    reserved = _reserved_name(name)
    spelt = "" if reserved == name else f" (read as {reserved})"

    return Skip(f"reserved name{spelt}: {_WHY[reserved]}", Kind.REJECTED) if reserved else None


def _is_utf8(name: str) -> bool:
    """Return whether *name* came from bytes that are UTF-8: ``os.fsdecode`` leaves a lone surrogate for any other byte."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False

    return True


def _reserved_name(name: str) -> str:
    """Return the reserved name that some file system takes *name* for, or an empty string."""
    folded = _HFS_IGNORABLE.sub("", name).casefold()
    plain = folded.split(":", 1)[0].rstrip(". ")  # NTFS drops them, and reads what follows a colon as a stream
    for reserved, short_name in _SHORT_NAMES.items():
        if plain == reserved or short_name.fullmatch(plain):
            return reserved

    return ""
