"""Restores: looks at the mirrors, chooses, gets what is lacking into a hidden directory, and lets that be DEST."""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct, field

from hubsync.config.model import Endpoint, Mirror
from hubsync.errors import DiskFullError, HubsyncError, MirrorError
from hubsync.mirror.token import Tokens
from hubsync.monitor.text import format_bytes
from hubsync.restore.catalog import (
    STATE,
    Choice,
    File,
    Files,
    Layout,
    Shown,
    Wish,
    check_names,
    choose,
    complete,
    is_whole,
    newest_first,
    units_in,
    wanted_revisions,
)
from hubsync.restore.download import Download
from hubsync.restore.pieces import Piece
from hubsync.restore.present import holds_exactly
from hubsync.restore.progress import Meter
from hubsync.restore.sources import ApiSource, GitSource, no_such_mirror, open_source
from hubsync.restore.staging import Staging, explained
from hubsync.watch.beneath import opened_parent

_MARGIN_BYTES = 16 << 20
_LEAST_GRACE_S = 1.0  # for mirrors that answer later than the first
_POLL_S = 0.02
_WRITERS = 8


class From(Struct, frozen=True):
    """A mirror that may be restored from, and how it shows the target."""

    mirror: Mirror
    endpoint: Endpoint
    layout: Layout


class Restored(Struct, frozen=True):
    """What was restored; *by_mirror* are the bytes of objects that each mirror gave."""

    dest: Path
    unit: str | None
    revision: str
    mirror: str
    files: int
    bytes: int
    got_bytes: int
    took_s: float
    by_mirror: Mapping[str, int] = field(default_factory=dict)


class _Plan(Struct, frozen=True):
    """The files to be made, and the mirrors to ask, the best first."""

    choice: Choice
    first: str
    files: Files
    sources: Sequence[GitSource | ApiSource]

    def pieces(self, here: Mapping[str, int]) -> dict[str, Piece]:
        """Return what is to be got of *files*: objects, and contents that are not *here*."""
        pieces = {}
        for file in self.files.values():
            if file.pointer is not None:
                pieces[file.pointer.oid] = Piece(file.pointer.oid, file.pointer.size, is_object=True)
            elif file.blob not in here:
                pieces[file.blob] = Piece(file.blob, file.size, is_object=False)

        return pieces


def restore(
    wish: Wish, mirrors: Sequence[From], dest: Path, tokens: Tokens, meter: Meter, stop: threading.Event
) -> Restored:
    """Bring what *wish* says to *dest*, from whichever of *mirrors* is the fastest.

    Raises:
        MirrorError: no mirror has it, or none can be reached; what was got stays for the next time.
        UsageError: there is no such thing.
        HostileNameError: it has a name that must not be written.
        DiskFullError, StateError: DEST cannot be written.
    """
    began = time.monotonic()
    staging = Staging(dest)
    with staging:
        try:
            plan = _plan(wish, mirrors, staging, tokens, stop)
            check_names(plan.files)
        except HubsyncError as exc:
            if staging.is_dest_filled:
                raise staging.refuse_filled() from exc
            staging.remove_unused()
            raise
        except BaseException:
            staging.remove_unused()
            raise
        if staging.is_dest_filled:
            return _say_again(plan, staging, began)
        try:
            by_mirror = _get(plan, mirrors, staging, meter, stop)
        finally:
            for source in plan.sources:
                source.lfs.close()
        with explained(staging.dest):
            _build(plan, staging)
            staging.finish()
    size = sum(file.size for file in plan.files.values())
    return Restored(staging.dest, plan.choice.unit, plan.choice.revision, plan.first, len(plan.files), size, meter.got,
                    round(time.monotonic() - began, 3), by_mirror)  # fmt: skip


def _say_again(plan: _Plan, staging: Staging, began: float) -> Restored:
    """Return what a former run brought to DEST, which was killed before it could say so; refuse a DEST of other files."""
    for source in plan.sources:
        source.lfs.close()
    with explained(staging.dest):
        if not holds_exactly(staging.dest, plan.files):
            raise staging.refuse_filled()
    staging.remove()
    size = sum(file.size for file in plan.files.values())
    return Restored(staging.dest, plan.choice.unit, plan.choice.revision, plan.first, len(plan.files), size, 0,
                    round(time.monotonic() - began, 3))  # fmt: skip


# --- what there is


def _plan(wish: Wish, mirrors: Sequence[From], staging: Staging, tokens: Tokens, stop: threading.Event) -> _Plan:
    ended = threading.Event()  # ends what still asks a mirror that is not waited for
    sources = {
        each.mirror.name: open_source(
            each.mirror, each.endpoint, tokens, staging.git_directory / str(number) / "mirror.git", ended
        )
        for number, each in enumerate(mirrors)
    }
    try:
        found, failed = _look_at_all(wish, {each.mirror.name: each for each in mirrors}, sources, stop)
    finally:
        ended.set()
    if not found:
        raise no_such_mirror(failed)
    _expect_all_parts(found, failed, mirrors)
    layouts = {each.mirror.name: each.layout for each in mirrors}
    chosen = newest_first(found, layouts) if wish.latest else found
    first, files = complete(chosen, {each.mirror.name: each.mirror for each in mirrors})
    order = [*chosen, *(name for name in sources if name not in chosen)]

    return _Plan(chosen[first], first, files, [sources[name] for name in order])


def _expect_all_parts(found: Mapping[str, Choice], failed: Mapping[str, Exception], mirrors: Sequence[From]) -> None:
    """Raise MirrorError if those that were *found* have parts only, and one that *failed* may have the rest."""
    if any(each.mirror.name in found and is_whole(each.mirror) for each in mirrors):
        return
    for name, exc in failed.items():
        if isinstance(exc, MirrorError):
            raise MirrorError(
                f"{name}, which may have what the others leave out, cannot be asked: {exc}",
                error_kind=exc.error_kind, retryable=exc.retryable,
                hint=f"try again; --mirror {next(iter(found))} restores the part that is there",
            ) from exc  # fmt: skip


def _look_at_all(
    wish: Wish, mirrors: Mapping[str, From], sources: Mapping[str, GitSource | ApiSource], stop: threading.Event
) -> tuple[dict[str, Choice], dict[str, Exception]]:
    """Ask all mirrors at once; return what was chosen of each, the fastest first, and why there is nothing of others."""
    found: dict[str, Choice] = {}
    failed: dict[str, Exception] = {}

    def look(name: str) -> None:
        try:
            found[name] = _look(wish, mirrors[name].layout, sources[name])
        except HubsyncError as exc:
            failed[name] = exc
        except Exception as exc:  # noqa: BLE001 - one mirror must not keep the others from being used
            failed[name] = HubsyncError(f"{type(exc).__name__}: {exc}")

    began = time.monotonic()
    for name in sources:
        threading.Thread(target=look, args=(name,), daemon=True).start()
    first_s = 0.0
    while len(found) + len(failed) < len(sources):
        if stop.wait(_POLL_S):
            raise KeyboardInterrupt
        waited_s = time.monotonic() - began
        first_s = first_s or (waited_s if found else 0.0)
        has_all = any(is_whole(mirrors[name].mirror) for name in found)  # else each may have what the others lack
        if has_all and waited_s > 2 * first_s + _LEAST_GRACE_S:
            break

    return dict(found), dict(failed)


def _look(wish: Wish, layout: Layout, source: GitSource | ApiSource) -> Choice:
    refs = source.list_refs()
    revisions = wanted_revisions(wish, layout, refs)
    files = source.fetch(revisions, refs) if revisions else {}
    shown = [Shown(revision, files[revision], unit) for revision, unit in revisions.items()]
    states = _read_states(layout, shown, source) if wish.best else {}

    return choose(wish, layout, shown, states)


def _read_states(layout: Layout, shown: Sequence[Shown], source: GitSource | ApiSource) -> dict[str, str]:
    blobs: dict[str, list[str]] = {}
    for unit, files in units_in(layout, shown).items():
        if (state := files.get(STATE)) is not None and state.pointer is None:
            blobs.setdefault(state.blob, []).append(unit)
    contents = source.read_all(blobs)

    return {unit: content.decode("utf-8", "replace") for blob, content in contents for unit in blobs[blob]}


# --- what is lacking


def _get(plan: _Plan, mirrors: Sequence[From], staging: Staging, meter: Meter, stop: threading.Event) -> dict[str, int]:
    """Get all pieces; return how many bytes came from each mirror."""
    here = _present(plan)
    pieces = plan.pieces(here)
    objects = sorted((piece for piece in pieces.values() if piece.is_object), key=lambda piece: -piece.size)
    for source in plan.sources:
        source.lfs.expect({piece.name: piece.size for piece in objects})
    with explained(staging.dest):
        _check_room(plan, pieces, staging)
    meter.expect(sum(piece.size for piece in pieces.values()), len(pieces))
    stall_s = min(each.endpoint.timeout_s for each in mirrors)
    names = {file.pointer.oid if file.pointer else file.blob: path for path, file in plan.files.items()}
    download = Download(plan.sources, pieces.values(), staging, meter, stall_s, names)
    if pieces:
        download.rank()
        download.run(stop)

    return dict(meter.by_mirror())


def _present(plan: _Plan) -> dict[str, int]:
    """Return the contents (→ size) that lie in git and came with the listing."""
    wanted = {file.blob for file in plan.files.values() if file.pointer is None}
    present: dict[str, int] = {}
    for source in plan.sources:
        if isinstance(source, GitSource):
            present |= source.sizes(wanted - present.keys())

    return present


def _check_room(plan: _Plan, pieces: Mapping[str, Piece], staging: Staging) -> None:
    """Raise DiskFullError if it cannot fit; a file that is there twice takes its place twice."""
    before = staging.list_pieces()
    for name in before:
        if name.removesuffix(".parts") not in pieces:
            staging.drop_piece(name)
    held = sum(min(size, pieces[name].size) for name, size in before.items() if name in pieces)
    wanted = sum(file.size for file in plan.files.values()) - held + _MARGIN_BYTES
    free = staging.free_bytes()
    if wanted > free:
        if not held:
            staging.remove()
        raise DiskFullError(
            f"{staging.dest}: {format_bytes(wanted)} are needed and {format_bytes(free)} are free",
            hint="free space, and run it again: it goes on" if held else "free space, or restore to another disk",
        )


# --- the tree


def _build(plan: _Plan, staging: Staging) -> None:
    """Make the whole tree inside the hidden directory, durably."""
    root = staging.new_tree()
    try:
        directories = sorted({parent for path in plan.files for parent in _parents(path)})
        for directory in directories:
            with opened_parent(root, directory) as (parent, name):
                os.mkdir(name, 0o777, dir_fd=parent)
        _write_contents(plan, staging, root)
        _place_objects(plan, staging, root)
        for directory in directories:
            with opened_parent(root, directory) as (parent, name):
                _sync(parent, name)
        os.fsync(root)
    finally:
        os.close(root)


def _write_contents(plan: _Plan, staging: Staging, root: int) -> None:
    places: dict[str, list[tuple[str, File]]] = {}
    for path, file in plan.files.items():
        if file.pointer is None:
            places.setdefault(file.blob, []).append((path, file))

    def write(path: str, file: File, content: bytes) -> None:
        with opened_parent(root, path) as (parent, name):
            staging.write_file(parent, name, content, file.permissions)

    with ThreadPoolExecutor(_WRITERS) as writers:
        written = [
            writers.submit(write, path, file, content)
            for blob, content in _read(plan, places)
            for path, file in places[blob]
        ]
        for each in written:
            each.result()


def _read(plan: _Plan, blobs: Mapping[str, object]) -> Iterator[tuple[str, bytes]]:
    left = set(blobs)
    for source in plan.sources:
        if isinstance(source, GitSource):
            yield from source.read(left)
            left -= source.sizes(left).keys()


def _place_objects(plan: _Plan, staging: Staging, root: int) -> None:
    present = _present(plan)
    seen: set[str] = set()
    for path, file in plan.files.items():
        if file.pointer is None and file.blob in present:
            continue
        piece = file.pointer.oid if file.pointer else file.blob
        with opened_parent(root, path) as (parent, name):
            staging.place_piece(piece, parent, name, file.permissions, is_first=piece not in seen)
        seen.add(piece)


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _sync(parent: int, name: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
