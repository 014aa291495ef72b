"""Decides from a file's headers whether it is whole, for the formats that say so themselves.

Reads an open descriptor with ``pread``, a bounded number of bytes, and never runs or unpickles anything. Content is
hostile until proven otherwise: whatever stands in a header, the answer is a verdict. A format that is not known here is
whole as far as this module can tell; :mod:`hubsync.watch.settle` saw that it was quiet. YAML is not looked at: nearly
every beginning of a YAML file is one itself.
"""

import re
from collections.abc import Callable

from hubsync.errors import FileUnreadableError
from hubsync.watch.beneath import words
from hubsync.watch.format_arrays import check_hdf5, check_npy, check_parquet
from hubsync.watch.format_gguf import check_gguf
from hubsync.watch.format_json import check_json, weight_map_members
from hubsync.watch.format_records import check_events, distcp_members, last_record_end
from hubsync.watch.format_safetensors import check_safetensors
from hubsync.watch.format_zip import check_torch, check_zip
from hubsync.watch.verdict import Verdict, read_exactly

__all__ = ["Verdict", "check_structure", "index_members", "last_record_end"]

_POINTER_MOST = 1024  # git-lfs: a pointer is smaller (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)
_POINTER = re.compile(
    rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v1\n(?s:.)*oid sha256:[0-9a-f]{64}"
)


def check_structure(fd: int, name: str, size: int) -> Verdict:
    """Judge the open file *fd* of *size* bytes by the format that the last part of *name* promises.

    Raises:
        FileUnreadableError: reading failed.
    """
    check = _find_check(name.rpartition("/")[2].lower())
    try:
        if size == 0:
            return Verdict(False, "empty") if check in _NEVER_EMPTY else Verdict(True, "empty")
        if size < _POINTER_MOST and _POINTER.match(read_exactly(fd, size, 0)):
            return Verdict(False, "pointer file, the real content is absent", rejected=True)

        return check(fd, size)
    except EOFError:
        return Verdict(False, "it was cut short while it was looked at")
    except OSError as exc:
        raise FileUnreadableError(name, words(exc)) from exc


def index_members(fd: int, name: str) -> tuple[str, ...] | None:
    """Return the files that the index *fd* needs, relative to its directory; ``None`` if it is no index.

    An index is a ``*.index.json`` with a weight map, or the ``.metadata`` of a distributed checkpoint.

    Raises:
        FileUnreadableError: reading failed.
    """
    try:
        return distcp_members(fd) if name.rpartition("/")[2] == ".metadata" else weight_map_members(fd, name)
    except OSError as exc:
        raise FileUnreadableError(name, words(exc)) from exc


def _accept(_fd: int, _size: int) -> Verdict:
    return Verdict(True, "no structural check for this format")


def _check_anything(fd: int, size: int) -> Verdict:
    """Judge a ``.bin``: torch's if it is a zip file, and it may be empty, since anything may be called that."""
    return check_torch(fd, size)


_CHECKS: dict[str, Callable[[int, int], Verdict]] = {
    ".safetensors": check_safetensors,
    ".json": check_json,
    ".bin": _check_anything,
    ".pt": check_torch,
    ".pth": check_torch,
    ".ckpt": check_torch,
    ".npz": check_zip,
    ".keras": check_zip,
    ".zip": check_zip,
    ".npy": check_npy,
    ".gguf": check_gguf,
    ".parquet": check_parquet,
    ".h5": check_hdf5,
    ".hdf5": check_hdf5,
}
_NEVER_EMPTY = frozenset(_CHECKS.values()) - {_check_anything}


def _find_check(name: str) -> Callable[[int, int], Verdict]:
    if "tfevents" in name:  # events.out.tfevents.<time>.<host>.<pid>.<number>
        return check_events

    return _CHECKS.get(name[name.rfind(".") :], _accept)
