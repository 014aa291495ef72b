"""Works out what ``once`` would do, with reasons: it rehearses it, and puts the outcome into steps. It changes nothing."""

from collections.abc import Iterator

from msgspec import Struct

from hubsync.config.model import Config, Mirror, Target
from hubsync.mirror.record import read_published
from hubsync.mirror.view import View
from hubsync.monitor.text import format_duration
from hubsync.rehearsal import Rehearsal, rehearse
from hubsync.store.recovery import SNAPSHOTS
from hubsync.store.route import Route
from hubsync.store.snapshot import Store
from hubsync.units import age_s
from hubsync.watch.inventory import look

_REPLACED = "gone, and its unit was saved anew: a unit is published as one version"


class Step(Struct, frozen=True):
    """What would happen to one path.

    ``action`` is ``capture`` (commit and publish it), ``upload`` (its object only: its unit waits), ``wait`` (with its
    unit), ``hold`` (back, for *reason*; a unit ends in a slash), ``remove`` or ``leave``.
    """

    action: str
    path: str
    bytes: int = 0
    route: str = ""
    reason: str = ""
    unit: str | None = None
    hint: str = ""


class MirrorPlan(Struct, frozen=True):
    """What one mirror would get: *files* and *bytes* in all, of which the backlog was captured before.

    *snapshot* is what it holds now. Left out is what its own rules leave out, not what ``keep_latest`` drops.
    """

    name: str
    repo: str
    snapshot: str | None
    files: int
    bytes: int
    backlog_snapshots: int
    backlog_files: int
    backlog_bytes: int


class Halt(Struct, frozen=True):
    """Why nothing would be captured."""

    error: str
    hint: str


class Plan(Struct, frozen=True):
    """What ``once`` would do for one target."""

    target: str
    source: str
    mirrors: tuple[str, ...]
    unchanged: int
    steps: tuple[Step, ...]
    backlog: dict[str, int]  # mirror → snapshots that were committed before and wait for it
    publishes: tuple[MirrorPlan, ...]
    halted: Halt | None = None


def make_plan(config: Config, target: Target) -> Plan:
    """Rehearse ``once`` for *target*."""
    with rehearse(config, target) as rehearsal:
        views = {mirror.name: View(target, mirror, rehearsal.store) for mirror in target.mirrors}
        backlogs = {mirror.name: _read_backlog(rehearsal.store, mirror) for mirror in target.mirrors}
        rehearsal.run()
        steps = sorted(_make_steps(target, rehearsal), key=lambda step: step.path)
        sizes = {step.path: step.bytes for step in steps if step.action == "capture"}
        gone = {step.path for step in steps if step.action == "remove"}
        halted = rehearsal.pipeline.halted

        return Plan(
            target.name,
            str(target.source),
            tuple(mirror.name for mirror in target.mirrors),
            len(rehearsal.published - {step.path for step in steps}),
            tuple(steps),
            {name: backlog.snapshots for name, backlog in backlogs.items()},
            tuple(_plan_mirror(m, views[m.name], backlogs[m.name], sizes, gone) for m in target.mirrors),
            None if halted is None else Halt(str(halted), halted.hint),
        )


def _make_steps(target: Target, rehearsal: Rehearsal) -> Iterator[Step]:
    pipeline, changes = rehearsal.pipeline, rehearsal.store.changes
    held, hints = pipeline.held(), pipeline.hints()
    for path, entry in changes.items():
        yield (
            Step("remove", path, reason=_REPLACED if target.deletes == "keep" else 'gone, and deletes = "propagate"')
            if entry is None
            else _capture(target, rehearsal, path)
        )
    for path, identity in pipeline.settled().items():
        if path not in held:
            yield _wait(target, rehearsal, path, identity.size)
    for path, reason in held.items():
        yield Step("hold", path, reason=reason, unit=pipeline.unit_of(path), hint=hints.get(path, ""))
    if target.deletes == "keep":
        for path in [path for path in rehearsal.gone if path not in changes]:
            yield Step("leave", path, reason='gone here, kept on the mirrors: deletes = "keep"')


def _capture(target: Target, rehearsal: Rehearsal, path: str) -> Step:
    routing = rehearsal.capturer.routes[path]
    entry = look(target.source, path)
    quiet_in = max(0.0, target.quiet_s - age_s(entry.identity)) if entry else 0.0
    reason = f"{routing.reason}; once it is quiet, in {format_duration(quiet_in)}" if quiet_in else routing.reason

    return Step("capture", path, entry.identity.size if entry else 0, routing.route.value, reason,
                rehearsal.pipeline.unit_of(path))  # fmt: skip


def _wait(target: Target, rehearsal: Rehearsal, path: str, size: int) -> Step:
    """Return the step of a file whose unit is not complete: its object may go up all the same."""
    unit = rehearsal.pipeline.unit_of(path)
    routing = rehearsal.capturer.routes.get(path)
    known = rehearsal.store.ledger.known(path)
    reason = f"{unit} is published whole, and is not complete"
    if routing is None or routing.route is not Route.LFS or known is None or known.oid is None:
        return Step("wait", path, size, routing.route.value if routing else "", reason, unit)
    lacking = [m.name for m in target.mirrors if not rehearsal.store.ledger.uploaded(m.name, [known.oid])]
    action = "upload" if lacking else "wait"

    return Step(action, path, size, routing.route.value, reason, unit)


class _Backlog(Struct, frozen=True):
    published: str | None
    snapshots: int
    sizes: dict[str, int]


def _read_backlog(store: Store, mirror: Mirror) -> _Backlog:
    """Return what *mirror* lacks of what was committed before: path → bytes."""
    published = read_published(store, mirror)
    backlog = store.backlog(published)
    if not backlog:
        return _Backlog(published, 0, {})
    changed = store.git.diff_trees(published, SNAPSHOTS)
    blobs = {change.path: change.after.blob for change in changed if change.after}
    pointers = store.pointers(set(blobs.values()))
    own = store.git.sizes({blob for blob in blobs.values() if blob not in pointers})
    sizes = {path: pointers[blob].size if blob in pointers else own.get(blob, 0) for path, blob in blobs.items()}

    return _Backlog(published, len(backlog), sizes)


def _plan_mirror(mirror: Mirror, view: View, backlog: _Backlog, sizes: dict[str, int], gone: set[str]) -> MirrorPlan:
    before = {path: size for path, size in backlog.sizes.items() if view.gets(path)}
    after = before | {path: size for path, size in sizes.items() if view.gets(path)}
    together = {path: size for path, size in after.items() if path not in gone}

    return MirrorPlan(
        mirror.name, mirror.repo_id, backlog.published, len(together), sum(together.values()), backlog.snapshots,
        len(before), sum(before.values()),
    )  # fmt: skip
