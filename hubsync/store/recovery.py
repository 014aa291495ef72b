"""Opens what a killed hubsync, a power cut or a bad disk left of a target, and says what it had to put right.

The queue is brought back as far as it is whole; what is missing of it is made again from the source and the ledger where
that is possible. What can be fetched again is dropped: the repositories of the mirrors. It must never know a server.
"""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from hubsync.errors import HubsyncError, NewerStateError, StateError
from hubsync.monitor.logger import get_logger
from hubsync.store.git import Git, sync_directory
from hubsync.store.ledger import Ledger
from hubsync.store.mend import (
    drop_broken_refs,
    drop_damaged_objects,
    find_line,
    find_newest_whole,
    is_id,
    is_whole,
    list_missing,
    shows_damage,
)
from hubsync.store.trouble import MARK
from hubsync.watch.beneath import open_entry
from hubsync.watch.inventory import look

SNAPSHOTS = "refs/heads/snapshots"
MIRRORS = "mirrors"
_FORMAT = 1
_FORMAT_FILE = "format"  # so that an older hubsync does not take a newer one's store for damaged
_MOST_BYTES = 50_000_000  # a larger file is no blob
_OPEN_FILE = "open"  # there while the store is in use: who finds it was not closed

log = get_logger()


def expect_known_format(directory: Path) -> None:
    """Expect that the store in *directory* was made by no newer hubsync; raises NewerStateError."""
    file = directory / _FORMAT_FILE
    text = file.read_text("ascii", "replace").strip() if file.exists() else ""
    if text.isdecimal() and int(text) > _FORMAT:
        raise NewerStateError(
            f"{directory} was written by a newer hubsync (format {text}, this one knows {_FORMAT})",
            hint="run that version again, or set another state_dir (or store_dir)",
        )
    if text != str(_FORMAT):
        file.write_text(f"{_FORMAT}\n")


def was_left_open(directory: Path) -> bool:
    """Tell whether whoever used the store in *directory* last had no time to close it."""
    return (directory / _OPEN_FILE).exists()


def note_opened(directory: Path) -> None:
    """Note that the store in *directory* is in use."""
    (directory / _OPEN_FILE).touch()
    sync_directory(directory)


def note_closed(directory: Path) -> None:
    """Note that nothing is being written any more."""
    with contextlib.suppress(OSError):  # a full or lost disk; then it is looked through at the next start
        (directory / _OPEN_FILE).unlink(missing_ok=True)


def recover(directory: Path, source: Path, git: Git, ledger: Ledger) -> bool:
    """Put the store in *directory* right; return whether all of it had to be read.

    Raises:
        StateError: it is damaged so that nothing of its queue is left.
    """
    # A disk or a hand can damage what was closed in order; all content is read only where that shows.
    was_killed = was_left_open(directory) or shows_damage(git)
    was_killed = was_killed or ((tip := git.read_ref(SNAPSHOTS)) is not None and not is_whole(git, tip))
    damaged = drop_damaged_objects(git) if was_killed else []
    broken = drop_broken_refs(git)  # not before: git reads nothing beside a pack that it cannot open
    head, known = git.read_ref(SNAPSHOTS), ledger.meta("snapshot") or None
    is_cut = False
    if damaged or broken or (head is None and (known is not None or ledger.was_rebuilt)):
        is_cut = _restore_queue(directory, source, git, ledger, known)
        broken = broken or ([SNAPSHOTS] if head is None and git.read_ref(SNAPSHOTS) is not None else [])
    (git.git_dir / MARK).unlink(missing_ok=True)
    if ledger.was_rebuilt and git.read_ref(SNAPSHOTS) is not None:
        _tell("ledger", directory, "it was missing or damaged, and is made again")
    if broken and not damaged:  # else it named what was damaged
        _tell("refs", git.git_dir, "a ref named no commit, or was missing", broken)
    if damaged:
        _tell("objects", git.git_dir, "git objects were damaged", damaged)
    if is_cut:
        _tell("queue", git.git_dir, "some of its snapshots are lost; the source is read again")

    return was_killed


def _restore_queue(directory: Path, source: Path, git: Git, ledger: Ledger, known: str | None) -> bool:
    """Let the branch lead to the newest snapshot that is whole; return whether there were others after it."""
    line = find_line(git, git.read_ref(SNAPSHOTS) or known)
    if line and not is_whole(git, line[0]):
        _make_again(set(list_missing(git, line[0])), source, git, ledger)
    newest = find_newest_whole(git, line)
    if newest is None and (line or known):
        raise StateError(
            f"{git.git_dir} is damaged: no snapshot in it is whole",
            hint=f"move {directory} away: a new one is begun with all that the source and the mirrors hold",
        )
    if newest is not None and newest != git.read_ref(SNAPSHOTS):
        git.update_refs({SNAPSHOTS: newest})
    is_cut = newest != next(iter(line), None) or (known is not None and known not in line)
    if is_cut:  # what is lost may be what the mirrors were shown last
        shutil.rmtree(directory / MIRRORS, ignore_errors=True)

    return is_cut


def _make_again(missing: set[str], source: Path, git: Git, ledger: Ledger) -> None:
    """Write those of the *missing* blobs again that are pointers, or files that the source still holds."""
    for _, pointer in ledger.pointers(missing):
        if pointer is not None and pointer.oid:
            git.write_blob(pointer.encode())
    for path in ledger.paths_of_blobs(missing):
        with contextlib.suppress(HubsyncError, OSError):  # what cannot be read is not had
            entry = look(source, path)
            if entry is not None and entry.identity.size <= _MOST_BYTES:
                with open(open_entry(source, entry), "rb") as file:  # noqa: PTH123 - a descriptor
                    git.write_blob(file.read())


def recover_mirror(git: Git, borrow: Path, *, was_killed: bool) -> bool:
    """Drop what is damaged of a mirror's repository, and tell whether anything was.

    It is fetched again, and compared with what was published.
    """
    broken = drop_broken_refs(git)
    damaged = [*drop_damaged_objects(git), *_damaged_boundary(git)] if was_killed else []
    is_lost = bool(damaged) or shows_damage(git) or not is_whole(git, "--all")
    if is_lost:
        shutil.rmtree(git.git_dir)
        git.open(borrow=borrow)
        _tell("mirror", git.git_dir, "git objects were damaged; it is fetched again", damaged)
    elif broken:  # what is remembered holds together, or not at all
        shutil.rmtree(git.git_dir / "refs" / "mirror", ignore_errors=True)
        _tell("mirror", git.git_dir, "a ref named no commit; the mirror is compared anew", broken)

    return is_lost or bool(broken)


def tell_mended(git: Git, leftovers: int = 0, *, is_gone: bool) -> None:
    """Say how a mirror's repository was found when it was opened: with *leftovers* in it, or not at all."""
    if is_gone:
        _tell("mirror", git.git_dir, "it was gone; the mirror is compared anew")
    if leftovers:
        log.warning("state.recovered", what="leftovers", path=str(git.git_dir), reason="killed", files=leftovers)


def _damaged_boundary(git: Git) -> list[str]:
    """Return the file that says where a fetched history was cut off, if it says nothing of use."""
    shallow = git.git_dir / "shallow"
    if not shallow.exists() or all(is_id(line) for line in shallow.read_text("ascii", "replace").splitlines() or [""]):
        return []
    return [shallow.name]


def _tell(what: str, path: Path, reason: str, files: Sequence[str] = ()) -> None:
    log.warning("state.recovered", what=what, path=str(path), reason=reason, files=len(files) or None)
