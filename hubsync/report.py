"""Describes targets and mirrors as the status document has them, and says so in the log at each heartbeat."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from hubsync.config.model import Target
from hubsync.errors import HubsyncError, StateError
from hubsync.mirror.publish import Publisher
from hubsync.mirror.worker import MirrorWorker, Trouble
from hubsync.monitor.logger import get_logger
from hubsync.monitor.status import (
    LastError,
    MirrorState,
    MirrorStatus,
    ProvenUnit,
    Status,
    TargetState,
    TargetStatus,
    Waiting,
    elapsed_s,
)
from hubsync.monitor.text import format_bytes, format_duration
from hubsync.proof.standing import read_failure
from hubsync.service import TargetWork
from hubsync.store.trouble import find_longest
from hubsync.watch.layout_words import choose_newest

_WELL = frozenset(("ok", "publishing", "waiting"))
_SHOWN, _LOGGED = 20, 3  # of what is held: in the status, in a heartbeat

_NO_ERROR = LastError("", "")

log = get_logger()


def describe_target(
    work: TargetWork, *, mode: str, is_paused: bool, watch_trouble: LastError | None = None
) -> TargetStatus:
    """Return the status of one target and its mirrors."""
    pipeline = work.pipeline
    settled_s = pipeline.oldest_settled_s()
    proven = {keeper.mirror.name: keeper.proven for keeper in work.keepers}
    mirrors = tuple(
        _describe_mirror(work, worker, settled_s, proven.get(worker.mirror.name, {})) for worker in work.workers
    )
    refused = _describe_refused(work)
    held = [*refused, *pipeline.describe_held(_SHOWN)][:_SHOWN]
    disk_held, disk_own = pipeline.store.disk_held()
    required = [mirror for mirror in mirrors if mirror.required] or mirrors
    trouble = pipeline.trouble or watch_trouble
    state: TargetState = "ok"
    if pipeline.halted is not None:
        state = "halted"
    elif is_paused:
        state = "paused"
    elif trouble or any(mirror.last_error for mirror in required) or any(one.needs_attention for one in held):
        state = "degraded"

    return TargetStatus(
        name=work.target.name,
        source=str(work.target.source),
        state=state,
        watch_mode=mode,
        settled=pipeline.count_settled(),
        held=len(pipeline.held()) + len(refused),
        waiting=tuple(held),
        behind_s=max((mirror.behind_s for mirror in required), default=0.0),
        at_risk_s=max((mirror.at_risk_s for mirror in required), default=0.0),
        newest_unit_local=pipeline.newest_unit,
        disk_held_bytes=disk_held,
        disk_own_bytes=disk_own,
        last_error=trouble,
        being_read=pipeline.being_read(),
        mirrors=mirrors,
    )  # fmt: skip


def describe_busy(work: TargetWork, before: TargetStatus | None) -> TargetStatus:
    """Return the status of a target that cannot be looked at, since its store is at work: as it was *before*."""
    known = before or TargetStatus(work.target.name, str(work.target.source))
    longest = find_longest(work.pipeline.store.git.git_dir)
    command, since = longest or ("", time.monotonic())
    reason = f"git {command} is at work" if command else "files are being read"
    began = datetime.now(UTC) - timedelta(seconds=time.monotonic() - since)
    was_busy = known.busy.since if known.busy is not None and known.busy.reason == reason else None

    return replace(known, busy=Waiting("store", reason, was_busy or began))


def describe_unopened(target: Target, error: HubsyncError, since: datetime) -> TargetStatus:
    """Return the status of a target whose store could not be opened."""
    failure = LastError(str(error), error.error_kind, error.hint, since)
    return TargetStatus(target.name, str(target.source), "halted", last_error=failure)


def log_heartbeat(status: Status) -> None:
    """Say how every target is, and every mirror of it: a line each."""
    now = status.daemon.updated_at
    rejected_s = None if status.daemon.config_error is None else _failing_s(status.daemon.config_error, now)
    uptime_s = _age_s(status.daemon.started_at, now)
    for target in status.targets:
        failure = _worst_of(target)
        log.info(
            "heartbeat", target=target.name, state=target.state,
            behind_s=target.behind_s, at_risk_s=target.at_risk_s,
            newest_unit_local=target.newest_unit_local,
            newest_unit_published={mirror.name: mirror.newest_unit_published for mirror in target.mirrors},
            backlog_files=max((mirror.backlog_files for mirror in target.mirrors), default=0),
            backlog_bytes=max((mirror.backlog_bytes for mirror in target.mirrors), default=0),
            oldest_unpublished_s=max((mirror.behind_s for mirror in target.mirrors), default=0.0),
            disk_held_bytes=target.disk_held_bytes, settled=target.settled, held=target.held,
            busy=target.busy and target.busy.reason,
            waiting=[_describe_waiting(one, now) for one in target.waiting[:_LOGGED]],
            held_s=max((_age_s(one.since, now) for one in target.waiting if one.since), default=None),
            mirrors_ok=sum(mirror.state in _WELL for mirror in target.mirrors),
            mirrors_failing=sum(mirror.state not in _WELL for mirror in target.mirrors),
            uptime_s=uptime_s, error_kind=failure.error_kind or None, failing_s=_failing_s(failure, now),
            hint=failure.hint or None, config_rejected_s=rejected_s,
        )  # fmt: skip
        for mirror in target.mirrors:
            failure = mirror.last_error or _NO_ERROR
            log.info(
                "heartbeat", target=target.name, mirror=mirror.name, repo=mirror.repo, required=mirror.required,
                state=mirror.state, behind_s=mirror.behind_s, at_risk_s=mirror.at_risk_s,
                newest_unit=mirror.newest_unit_published,
                backlog_files=mirror.backlog_files, backlog_bytes=mirror.backlog_bytes, uptime_s=uptime_s,
                error_kind=failure.error_kind or None, failing_s=_failing_s(failure, now), hint=failure.hint or None,
            )  # fmt: skip


def _worst_of(target: TargetStatus) -> LastError:
    """Return what is wrong with the target itself: its own error, else what is held until a person acts."""
    needy = (LastError(f"{one.what}: {one.reason}", "held", one.hint, one.since)
             for one in target.waiting if one.needs_attention)  # fmt: skip
    return target.last_error or next(needy, _NO_ERROR)


def _failing_s(failure: LastError, now: datetime) -> int | None:
    return None if failure.since is None else _age_s(failure.since, now)


def _age_s(since: datetime, now: datetime) -> int:
    return round(elapsed_s(since, now))


def _describe_waiting(one: Waiting, now: datetime) -> str:
    since = f" (for {format_duration(_age_s(one.since, now))})" if one.since else ""
    return f"{one.what}: {one.reason}{since}"


def summarize(status: Status) -> str:
    """Return one line for ``systemctl status``."""
    well = sum(target.state == "ok" for target in status.targets)
    troubles = [
        f"{target.name}/{mirror.name} {'trying again after' if mirror.last_error.is_retrying else f'{mirror.state}:'} "
        f"{mirror.last_error.error_kind}"
        for target in status.targets
        for mirror in target.mirrors
        if mirror.last_error is not None
    ]
    own = [
        ": ".join(part for part in (f"{target.name} {target.state}", _worst_of(target).error_kind) if part)
        for target in status.targets
        if target.state in {"halted", "paused"} or _worst_of(target).error_kind
    ]
    own += [f"{target.name} busy: {target.busy.reason}" for target in status.targets if target.busy is not None]
    own += [f"{target.name} reads {one.path}, {one}" for target in status.targets for one in target.being_read]
    sending = [
        f"{target.name}/{mirror.name} {mirror.transfer.sent_bytes / max(1, mirror.transfer.bytes):.0%} of "
        f"{format_bytes(mirror.transfer.bytes)}, {format_bytes(mirror.transfer.bytes_per_s)}/s"
        for target in status.targets
        for mirror in target.mirrors
        if mirror.transfer is not None
    ]
    rejected = ["config rejected"] if status.daemon.config_error else []
    rejected += [f"{part.what} {part.reason}" for part in status.daemon.stalled]

    return "; ".join([f"{well}/{len(status.targets)} targets ok", *rejected, *own, *troubles, *sending])


def _describe_refused(work: TargetWork) -> list[Waiting]:
    """Return what a mirror refuses and a person has to see to, by path."""
    hint = "mend it, or leave it out with exclude; `hubsync flush` sends it again"
    return [
        Waiting(path, f"{worker.mirror.name} refuses it" + f": {why}" * bool(why), None, hint, needs_attention=True)
        for worker in work.workers
        for path, why in sorted(worker.publisher.refusals.standing().items())
    ]


def _describe_mirror(work: TargetWork, worker: MirrorWorker, settled_s: float, proven: Mapping[str, float]) -> MirrorStatus:
    backlog = worker.publisher.measure_backlog()
    behind_s = 0.0 if backlog.since is None else time.time() - backlog.since
    waits_for = worker.waits_for()
    pull = worker.publisher.pull_request
    transfer, trouble, is_running = worker.publisher.transfer, worker.trouble, worker.is_running
    state: MirrorState = "publishing" if is_running else "waiting" if waits_for else "ok"
    if trouble is not None and not (is_running and transfer is not None and transfer.bytes_per_s):
        state = "parked" if trouble.is_parked else "failing"
    failure = _read_failure(work, worker.mirror.name)
    if failure is not None and state in {"ok", "waiting"}:
        state = "degraded"

    return MirrorStatus(
        name=worker.mirror.name,
        repo=worker.mirror.repo_id,
        state=state,
        required=worker.mirror.required,
        published_commit=worker.publisher.head(),
        newest_unit_published=choose_newest(worker.publisher.unit_times()),
        backlog_files=backlog.files,
        backlog_bytes=backlog.bytes,
        behind_s=round(max(0.0, behind_s, settled_s), 1),
        at_risk_s=round(_measure_risk(work, worker.publisher), 1),
        last_success=worker.last_success,
        transfer=transfer,
        waits_for=waits_for,
        pull_request=None if pull is None else pull.url,
        last_error=_describe_trouble(trouble, is_running=is_running) or failure,
        proven=tuple(
            ProvenUnit(unit, datetime.fromtimestamp(at, UTC))
            for unit, at in sorted(proven.items(), key=lambda item: (item[1], item[0]), reverse=True)[:_SHOWN]
        ),
    )


def _measure_risk(work: TargetWork, publisher: Publisher) -> float:
    """Return the time between the newest write and that of the newest unit (without units: snapshot) on the mirror.

    Nothing was ever published: all the time since the oldest thing that waits was written.
    """
    pipeline, published = work.pipeline, publisher.published()
    safe = list(publisher.unit_times().values())
    if publisher.head() is not None and published is not None and not work.target.units:
        safe = [snapshot.written_at for snapshot in pipeline.store.read_snapshots([published])]
    since = max(safe, default=pipeline.first_write)
    return max(0.0, pipeline.last_write - since) if since else 0.0


def _read_failure(work: TargetWork, mirror: str) -> LastError | None:
    """Return how *mirror* failed its last verification; ``None`` if it is well."""
    try:
        failure = read_failure(work.pipeline.store.ledger, mirror)
    except StateError:
        return None  # a ledger in trouble is told of by what needs it
    if failure is None:
        return None
    return LastError(failure.error, failure.error_kind, failure.hint, datetime.fromtimestamp(failure.since, UTC))


def _describe_trouble(trouble: Trouble | None, *, is_running: bool) -> LastError | None:
    if trouble is None:
        return None
    wait = timedelta(seconds=max(0.0, trouble.next_try - time.monotonic()))
    return LastError(
        str(trouble.error), trouble.error.error_kind, trouble.hint, trouble.since_utc, trouble.failures,
        None if is_running else datetime.now(UTC) + wait, is_running,
    )  # fmt: skip
