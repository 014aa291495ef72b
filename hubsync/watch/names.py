"""Decides which names a Hub repository cannot hold, or must not be given by a source.

git refuses ``.git`` in every spelling that some file system folds to it (git's ``is_ntfs_dotgit`` and ``is_hfs_dotgit``,
https://github.com/git/git/blob/master/path.c), and a Hub rejects the push. ``.gitattributes`` and the like are git's
own orders: hubsync writes those that its mirrors need and obeys none that lies in a source. A name that huggingface_hub
refuses makes the whole repository impossible to download, so it counts as well (``_validate_relative_filename`` in
https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/_local_folder.py). Knows names only.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from enum import Enum

from msgspec import Struct

_SUSPECT = ".gGlL"  # what a name begins with that some file system takes for a reserved one
_UNUSUAL = re.compile(r"[\\:]")
_SUSPECTS = re.compile(f"/[{re.escape(_SUSPECT)}]")
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
_IGNORED = {
    ".git": "git's own directory is never published",
    ".gitattributes": _WHY[".gitattributes"],  # every clone of a Hub repository has one
}
LONGEST_PATH_BYTES = 3072  # of the 4,096 that a system takes, some are for the directory that it is downloaded to
LONGEST_BYTES = 246  # huggingface_hub keeps a file ``NAME.metadata`` for each; 255 is what most file systems take

_RENAME = "rename it, or exclude it"


class Kind(Enum):
    """How much a path that is not taken matters."""

    IGNORED = "ignored"  # by rule, nothing to tell
    REJECTED = "rejected"  # waiting does not help; the operator may want to know
    UNREADABLE = "unreadable"  # this process may not read it; it is not gone


class Skip(Struct, frozen=True):
    """Why a path is not taken, and what the operator can do about it."""

    reason: str
    kind: Kind
    hint: str = ""


def is_plain(path: str, name: str) -> bool:
    """Tell whether neither :func:`judge_name` nor :func:`judge_length` has anything against the file *name* at *path*.

    It says so of nearly every file, and faster; of others they do.
    """
    return (
        len(path) <= LONGEST_BYTES and name[0] not in _SUSPECT and ":" not in name and "\\" not in name and name.isascii()
    )


def are_plain(prefix: str, names: str) -> bool:
    """Tell whether :func:`is_plain` says so of all *names*, which a slash divides, of the directory *prefix*."""
    return (
        len(prefix) + len(names) <= LONGEST_BYTES or len(prefix) + max(map(len, names.split("/"))) <= LONGEST_BYTES
    ) and (names.isascii() and _UNUSUAL.search(names) is None and _SUSPECTS.search(f"/{names}") is None)


def judge_name(name: str, *, is_dir: bool = False) -> Skip | None:
    """Return why no path may have *name* as a part (of a directory if *is_dir*); ``None`` if it may."""
    if name.isascii() and name and name[0] not in _SUSPECT and not _UNUSUAL.search(name) and len(name) <= LONGEST_BYTES:
        return None  # nearly every name

    return _judge_unusual_name(name, is_dir=is_dir)


def judge_names(path: str, *, is_dir: bool = False) -> Skip | None:
    """Return what :func:`judge_name` says of the first refused part of *path*."""
    if skip := judge_length(path):
        return skip
    *parents, last = path.split("/")
    above = (skip for name in parents if (skip := judge_name(name, is_dir=True)))

    return next(above, None) or judge_name(last, is_dir=is_dir)


def judge_length(path: str) -> Skip | None:
    """Return why *path* is too long as a whole; ``None`` if it is not."""
    if len(path) <= LONGEST_PATH_BYTES // 4 or len(path.encode("utf-8", "surrogateescape")) <= LONGEST_PATH_BYTES:
        return None

    return Skip(f"the path is longer than {LONGEST_PATH_BYTES} bytes, and nobody could download it", Kind.REJECTED, _RENAME)


def fold(path: str) -> str:
    """Return what a file system that folds case and Unicode takes *path* for."""
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold()


def find_collisions(paths: Iterable[str]) -> dict[str, str]:
    """Return each of *paths* that a file system which folds case and Unicode takes for one before it → that one."""
    first: dict[str, str] = {}
    found = {}
    for path in sorted(paths):
        if (other := first.setdefault(fold(path), path)) is not path:
            found[path] = other

    return found


def _judge_unusual_name(name: str, *, is_dir: bool) -> Skip | None:
    if reason := _IGNORED.get(name):
        return Skip(reason, Kind.IGNORED)
    if reason := _find_refusal(name, is_dir=is_dir):
        return Skip(reason, Kind.REJECTED, _RENAME)

    return None


def _find_refusal(name: str, *, is_dir: bool) -> str:
    """Return why *name* is refused, or an empty string."""
    if not _is_utf8(name):
        return "the name is not valid UTF-8, which a Hub requires"
    refused = (why for is_so, why in _REFUSALS if is_so(name))
    if reason := next(refused, ""):
        return reason
    if not is_dir and len(name.encode()) > LONGEST_BYTES:
        return f"the name is longer than {LONGEST_BYTES} bytes, and nobody could download the repository"
    reserved = _reserved_name(name)
    spelt = "" if reserved == name else f" (read as {reserved})"

    return f"reserved name{spelt}: {_WHY[reserved]}" if reserved else ""


_REFUSALS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda name: name in {"", ".", ".."}, "not a name"),
    (lambda name: "\\" in name, "the name has a backslash, which Windows reads as a directory"),
    (lambda name: name[1:2] == ":", "the name begins as a Windows drive does, and nobody could download the repository"),
)


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
