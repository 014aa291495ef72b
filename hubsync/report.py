"""Describes targets and mirrors as the status document has them."""

import time
from datetime import UTC, datetime, timedelta

from hubsync.config.model import Target
from hubsync.errors import HubsyncError
from hubsync.mirror.worker import MirrorWorker, Trouble
from hubsync.monitor.status import LastError, MirrorState, MirrorStatus, Status, TargetState, TargetStatus
from hubsync.service import TargetWork


def describe_target(work: TargetWork, *, mode: str, is_paused: bool) -> TargetStatus:
    """Return the status of one target and its mirrors."""
    pipeline = work.pipeline
    mirrors = tuple(_describe_mirror(worker) for worker in work.workers)
    state: TargetState = "ok"
    if pipeline.halted is not None:
        state = "halted"
    elif is_paused:
        state = "paused"
    held = pipeline.held()

    return TargetStatus(
        name=work.target.name,
        source=str(work.target.source),
        state=state,
        watch_mode=mode,
        settled=pipeline.count_settled(),
        held=len(held),
        newest_unit_local=pipeline.newest_unit,
        disk_held_bytes=pipeline.store.disk_held()[0],
        last_error=None if pipeline.halted is None else LastError(
            str(pipeline.halted), pipeline.halted.error_kind, pipeline.halted.hint
        ),
        mirrors=mirrors,
    )  # fmt: skip


def describe_unopened(target: Target, error: HubsyncError) -> TargetStatus:
    """Return the status of a target whose store could not be opened."""
    return TargetStatus(
        target.name, str(target.source), "halted", last_error=LastError(str(error), error.error_kind, error.hint)
    )


def describe_rejected(error: HubsyncError) -> LastError:
    """Return how a config is shown that a running daemon does not take over."""
    return LastError(
        str(error), error.error_kind, error.hint or "correct it, then run `hubsync reload`; the former one is in force"
    )


def summarize(status: Status) -> str:
    """Return one line for ``systemctl status``."""
    well = sum(target.state == "ok" for target in status.targets)
    troubles = [
        f"{target.name}/{mirror.name} {mirror.state}: {mirror.last_error.error_kind}"
        for target in status.targets
        for mirror in target.mirrors
        if mirror.last_error is not None
    ]
    halted = [f"{target.name} halted" for target in status.targets if target.state == "halted"]

    rejected = ["config rejected"] if status.daemon.config_error else []

    return "; ".join([f"{well}/{len(status.targets)} targets ok", *rejected, *halted, *troubles])


def _describe_mirror(worker: MirrorWorker) -> MirrorStatus:
    backlog = worker.publisher.measure_backlog()
    state: MirrorState = "publishing" if worker.is_running else "ok"
    if worker.trouble is not None:
        state = "parked" if worker.trouble.is_parked else "failing"

    return MirrorStatus(
        name=worker.mirror.name,
        repo=worker.mirror.repo_id,
        state=state,
        required=worker.mirror.required,
        published_commit=worker.publisher.head(),
        newest_unit_published=worker.newest_unit,
        backlog_files=backlog.files,
        backlog_bytes=backlog.bytes,
        behind_s=0.0 if backlog.since is None else max(0.0, time.time() - backlog.since),
        last_success=worker.last_success,
        last_error=_describe_trouble(worker.trouble),
    )


def _describe_trouble(trouble: Trouble | None) -> LastError | None:
    if trouble is None:
        return None
    wait = timedelta(seconds=max(0.0, trouble.next_try - time.monotonic()))
    return LastError(
        str(trouble.error), trouble.error.error_kind, trouble.hint, trouble.since_utc, trouble.failures,
        datetime.now(UTC) + wait,
    )  # fmt: skip
