"""Tells which file system a directory lies on, and which are mounted below it.

On some, changes by other machines make no inotify event, and what was on one that is unmounted is not gone.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_NETWORK = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "beegfs_nodev",
        "ceph",
        "cifs",
        "dfs",
        "fuse",
        "gfs2",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "quobyte",
        "smb3",
        "smbfs",
        "virtiofs",
        "wekafs",
        "vboxsf",
    }
)  # fmt: skip  overlay is none: a change made here is seen here; so is fuseblk, a local disk

_MOUNT = re.compile(r"(?:\S+ ){4}(?P<point>\S+) .*? - (?P<kind>\S+)")  # proc_pid_mountinfo(5)
_TABLE = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


def network_file_system(source: Path, mountinfo: Path = _TABLE) -> str | None:
    """Return the type of the network (or FUSE) file system that holds *source*; ``None`` if it is a local one."""
    kind = _read_mount(source, mountinfo)[1] or ""

    return kind if kind in _NETWORK or kind.startswith("fuse.") else None


def is_volatile(directory: Path, mountinfo: Path = _TABLE) -> bool:
    """Tell whether *directory* lies on a file system that is empty after a restart of the machine."""
    return _read_mount(directory, mountinfo)[1] in {"tmpfs", "ramfs"}


def mount_point(source: Path, mountinfo: Path = _TABLE) -> str | None:
    """Return where the file system is mounted that holds *source*, without a slash at its end; ``None`` if nobody knows."""
    return _read_mount(source, mountinfo)[0]


def mounts_below(source: Path, mountinfo: Path = _TABLE) -> set[str]:
    """Return where file systems are mounted below *source*, relative to it: disks, bind mounts, also single files."""
    top = os.path.realpath(source).rstrip("/") + "/"
    try:
        mounts = _read_table(os.fsdecode(mountinfo.read_bytes()))
    except OSError:
        return set()
    # An automounter's own mount stays where the disk that it is to mount cannot be mounted.
    return {point.removeprefix(top) for point, kind in mounts if point.startswith(top) and kind != "autofs"}


def _read_mount(source: Path, mountinfo: Path) -> tuple[str | None, str | None]:
    """Return the point and the type of the mount that holds *source*."""
    try:
        return _mount_of(os.path.realpath(source), os.fsdecode(mountinfo.read_bytes()))
    except OSError:
        return None, None  # no /proc: no way to know, and the periodic inventory sees everything anyway


def file_system_of(path: str, table: str) -> str:
    """Return the type of the file system that holds *path* by the text of a mountinfo file."""
    return _mount_of(path, table)[1]


def _mount_of(path: str, table: str) -> tuple[str, str]:
    """Return the point and the type of the mount that holds *path*."""
    found = "", ""
    for point, kind in _read_table(table):
        holds = path == point or path.startswith(point + "/")
        if holds and len(point) >= len(found[0]):  # the last of two mounts on one point lies on top
            found = point, kind

    return found


def _read_table(table: str) -> Iterator[tuple[str, str]]:
    """Yield the point and the type of each mount."""
    for line in table.splitlines():
        if (mount := _MOUNT.match(line)) is not None:
            yield _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), mount["point"]).rstrip("/"), mount["kind"]
