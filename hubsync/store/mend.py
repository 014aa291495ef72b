"""Puts a repository of ours right after a power cut or a bad disk: what is damaged is taken out, what is whole is kept.

It must never know what a commit means. Nobody else may use the repository meanwhile.
"""

import functools
import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from hubsync.monitor.logger import get_logger
from hubsync.store.git import Git, sync_directory

_ID = re.compile("[0-9a-f]{40}")

log = get_logger()


def is_id(text: str) -> bool:
    """Tell whether *text* is the full name of an object."""
    return _ID.fullmatch(text) is not None


def drop_broken_refs(git: Git) -> list[str]:
    """Remove the refs that name no commit; return their names."""
    refs = {
        path: path.read_text("ascii", "replace").strip() for path in (git.git_dir / "refs").rglob("*") if path.is_file()
    }
    named = {commit for commit in refs.values() if is_id(commit)}
    feed = [f"{name}\n".encode() for name in named]
    lines = git.text("cat-file", "--batch-check=%(objectname) %(objecttype)", feed=feed) if feed else ""
    commits = {name for name, _, kind in (line.partition(" ") for line in lines.splitlines()) if kind == "commit"}
    broken = [path for path, commit in refs.items() if commit not in commits]
    for path in broken:
        path.unlink()

    return [str(path.relative_to(git.git_dir)) for path in broken]


def shows_damage(git: Git) -> bool:
    """Tell whether git met damage before, a file of objects has no content (git writes none), or a pack no index."""
    files = [path for path in (git.git_dir / "objects").glob("*/*") if path.suffix in {"", ".pack", ".idx"}]
    packs, indexes = ({path.stem for path in files if path.suffix == suffix} for suffix in (".pack", ".idx"))
    return git.is_damaged or packs != indexes or any(path.stat().st_size == 0 for path in files)


def drop_damaged_objects(git: Git) -> list[str]:
    """Read all objects and take out those that are not what they are called; return the names of their files."""
    objects = git.git_dir / "objects"
    loose = [path for path in objects.glob("??/*") if not _is_whole(path)]
    for path in loose:
        path.unlink()
    packs = list(_damaged_packs(git, objects / "pack"))
    for pack in packs:
        _salvage(git, pack)

    return [path.name for path in (*loose, *packs)]


def _is_whole(path: Path) -> bool:
    try:
        content = zlib.decompress(path.read_bytes())
    except zlib.error:
        return False
    return hashlib.sha1(content, usedforsecurity=False).hexdigest() == path.parent.name + path.name


def _damaged_packs(git: Git, directory: Path) -> Iterator[Path]:
    """Yield the packs that cannot be read whole; an index that is damaged or missing is made again."""
    for index in directory.glob("*.idx"):
        if not index.with_suffix(".pack").exists():
            index.unlink()
    packs = {pack.with_suffix(".idx"): pack for pack in sorted(directory.glob("*.pack"))}
    if not packs or git.run("verify-pack", *map(str, packs), check=False).returncode == 0:
        return
    made_again = 0
    for index, pack in packs.items():
        if git.run("verify-pack", str(index), check=False).returncode == 0:
            continue
        new = git.git_dir / "tmp_index.idx"
        if git.run("index-pack", "-o", str(new), str(pack), check=False).returncode == 0:
            new.replace(index)
            made_again += 1
        else:
            yield pack
    if made_again:
        reason = "indexes were damaged or missing, and are made again"
        log.warning("state.recovered", what="objects", path=str(directory), reason=reason, files=made_again)


def _salvage(git: Git, pack: Path) -> None:
    """Put those objects of a damaged pack that are whole beside it, and drop it."""
    index = pack.with_suffix(".idx")
    listed = git.run("show-index", feed=[index.read_bytes()], check=False).stdout if index.exists() else b""
    for line in listed.decode().splitlines():
        name = line.split()[1]
        found = git.run("cat-file", "--batch", feed=[f"{name}\n".encode()], check=False)
        header, _, content = found.stdout.partition(b"\n")
        match header.split():
            case [_, kind, size] if found.returncode == 0:
                whole = b"%s %s\0%s" % (kind, size, content[: int(size)])
                _write_loose(git.git_dir / "objects" / name[:2] / name[2:], whole)
    # What git will not even open, since its end is missing, can still be read from its beginning.
    aside = pack.replace(
        pack.with_name("tmp_salvaged")
    )  # as long as it is where it was, git does not write again what it has
    for beside in pack.parent.glob(f"{pack.stem}.*"):
        beside.unlink()
    with aside.open("rb") as file:
        git.run("unpack-objects", "-r", "-q", feed=iter(functools.partial(file.read, 1 << 20), b""), check=False)
    aside.unlink()


def _write_loose(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(zlib.compress(content, 1))
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def list_missing(git: Git, commit: str) -> list[str]:
    """Return the objects that *commit* and its history need and that are not there, so far as that can be known."""
    listed = git.run("rev-list", "--objects", "--no-object-names", "--missing=print", commit, check=False).stdout
    return [line[1:] for line in listed.decode().splitlines() if line.startswith("?")]


def is_whole(git: Git, commit: str) -> bool:
    """Tell whether all that *commit* (``--all``: any ref) and its history need is there."""
    return git.run("rev-list", "--objects", "--quiet", commit, check=False).returncode == 0


def find_line(git: Git, tip: str | None) -> list[str]:
    """Return the longest line of commits that is there, newest first, whether a ref leads to it or not.

    If commits below *tip* are lost, those after the gap are written again, on top of the longest line that has a begin.
    """
    if not any(path.is_file() for path in (git.git_dir / "objects").glob("*/*")):
        return []
    kinds = git.text("cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objecttype) %(objectname)")
    commits = [f"{line.removeprefix('commit ')}\n".encode() for line in kinds.splitlines() if line.startswith("commit ")]
    if not commits:
        return []
    listed = git.text("log", "--no-walk=unsorted", "--stdin", "--format=%H %P", feed=commits)
    parents = {
        commit: above.partition(" ")[0] for commit, _, above in (line.partition(" ") for line in listed.splitlines())
    }
    lines = [list(_follow(tip, parents)) for tip in parents.keys() - set(parents.values())]

    own = next((line for line in lines if tip in line), [])
    if not own or not parents[own[-1]]:
        return max(lines, key=len, default=[])
    joined = max((line for line in lines if not parents[line[-1]]), key=len, default=[])
    for commit in reversed(own):
        joined = [_put_on(git, commit, joined[:1]), *joined]

    return joined


def _put_on(git: Git, commit: str, parent: list[str]) -> str:
    """Write *commit* again with that *parent* or none, and return its new name."""
    head, _, message = git.run("cat-file", "commit", commit).stdout.partition(b"\n\n")
    tree, *rest = [line for line in head.split(b"\n") if not line.startswith(b"parent ")]
    lines = [tree, *(f"parent {name}".encode() for name in parent), *rest, b"", message]

    return git.text("hash-object", "-t", "commit", "-w", "--stdin", feed=[b"\n".join(lines)])


def find_newest_whole(git: Git, line: list[str]) -> str | None:
    """Return the first commit of *line* (newest first) that is whole with all its history; ``None`` if none is."""
    low, high = 0, len(line)
    while low < high:
        middle = (low + high) // 2
        if is_whole(git, line[middle]):
            high = middle
        else:
            low = middle + 1

    return line[low] if low < len(line) else None


def _follow(tip: str, parents: dict[str, str]) -> Iterator[str]:
    while tip in parents:
        yield tip
        tip = parents[tip]
