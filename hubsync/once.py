"""Runs targets through once: capture, commit and publish what is there now, then say what did not get through."""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from msgspec import Struct, field
from msgspec.structs import replace

from hubsync.config.model import Config, Target
from hubsync.errors import HubsyncError, MirrorError
from hubsync.mirror.hub import load_client
from hubsync.mirror.publish import Means
from hubsync.mirror.token import Tokens
from hubsync.mirror.worker import MirrorWorker
from hubsync.monitor.progress import Amount, Progress
from hubsync.monitor.text import format_count
from hubsync.service import TargetWork, hold_state, open_limits, open_target, tell_exposed_tokens
from hubsync.store.git_python import load_git_python
from hubsync.store.hashing import declare_costs
from hubsync.store.process import StoppedError

if TYPE_CHECKING:
    from hubsync.monitor.status import TargetStatus

_TRIES = 5
_PAUSE_S = 0.2
_SHORT_S = 0.3  # what is read in that time is sent all at once: each upload starts a dozen programs


class Outcome(Struct):
    """What ``once`` did for one target: commits made, what was held back, and what failed on which mirror."""

    target: str
    commits: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    failed: dict[str, HubsyncError] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether everything that was there is on every mirror."""
        return not self.held and not self.failed


def run_once(  # noqa: PLR0913 - three of them say how
    config: Config, targets: tuple[Target, ...], tokens: Tokens, stop: threading.Event, *, timeout_s: float,
    confirm_deletes: bool = False, shows_progress: bool = False,
) -> list[Outcome]:  # fmt: skip
    """Bring all mirrors of *targets* up to what is in their sources now; wait at most *timeout_s* for quiet.

    How far it is can be seen on standard error if it *shows_progress*.

    Raises:
        StoppedError: *stop* was set; what was captured is published by the next run.
    """
    deadline = time.monotonic() + timeout_s
    state_dir = config.service.state_dir
    with (
        hold_state(state_dir, is_once=True) as lock_fd,
        ThreadPoolExecutor(len(targets)) as pool,
        ExitStack() as stack,
    ):
        declare_costs(config.service)
        tell_exposed_tokens(config, tokens)
        means = Means(config, tokens, open_limits(state_dir), stop)
        works = [open_target(target, means, lock_fd) for target in targets]
        for work in works:
            stack.callback(work.close)
        if shows_progress:
            stack.enter_context(Progress(look=lambda: [amount for work in works for amount in _look(work)]))

        outcomes = list(pool.map(lambda work: _run(work, stop, deadline, confirm_deletes=confirm_deletes), works))
        for work in works:
            _free_storage(work, means)
        if (state_dir / "status.json").exists() or not all(outcome.is_done for outcome in outcomes):
            _leave_status(config, works)
    if stop.is_set() and not all(outcome.is_done for outcome in outcomes):
        raise StoppedError("interrupted", hint="the next run goes on from here")

    return outcomes


def _leave_status(config: Config, works: Sequence[TargetWork]) -> None:
    """Let `hubsync status` tell how these targets were left; of the others, what it told before."""
    from hubsync import __version__  # noqa: PLC0415 - looked up among all that is installed
    from hubsync.monitor.status import DaemonStatus, Status, read_status, write_status  # noqa: PLC0415 - mostly not needed
    from hubsync.report import describe_target  # noqa: PLC0415

    path, now = config.service.state_dir / "status.json", datetime.now(UTC)
    known: dict[str, TargetStatus] = {}
    with contextlib.suppress(HubsyncError):
        known = {target.name: target for target in read_status(path).targets}
    with contextlib.suppress(HubsyncError):  # a full disk was said where it mattered
        known |= {work.target.name: _at_rest(describe_target(work, mode="once", is_paused=False)) for work in works}
        targets = tuple(known[target.name] for target in config.targets if target.name in known)
        daemon = DaemonStatus(os.getpid(), __version__, now, now, "stopped", config_mark=config.mark)
        write_status(path, Status(daemon, targets, sum(target.disk_held_bytes for target in targets)))


def _at_rest(target: "TargetStatus") -> "TargetStatus":
    """Return *target* as it is when nothing is tried again by itself."""
    mirrors = (replace(mirror, last_error=mirror.last_error and mirror.last_error.at_rest()) for mirror in target.mirrors)
    return replace(target, mirrors=tuple(mirrors))


def exit_code(outcomes: list[Outcome]) -> int:
    """Return 0 if all is published, the kind of a mirror's failure if there is only that, else 1."""
    if all(outcome.is_done for outcome in outcomes):
        return 0
    failures = [error for outcome in outcomes for error in outcome.failed.values()]
    codes = {error.status if isinstance(error, MirrorError) else error.exit_code for error in failures}

    return codes.pop() if len(codes) == 1 and not any(outcome.held for outcome in outcomes) else 1


def _look(work: TargetWork) -> Iterator[Amount]:
    """Yield how far one target is: what is read of its source, then what goes up to each mirror."""
    name, reading = work.target.name, work.pipeline.reading
    busy = [worker for worker in work.workers if worker.is_running]
    if not busy and (waiting := len(work.pipeline.waiting())):
        yield Amount(name, doing=f"waits until {format_count(waiting, 'file')} was quiet for {work.target.quiet_s:g} s")
    if not busy and reading.files < reading.all_files:
        yield Amount(name, reading.files, reading.all_files, reading.bytes, reading.all_bytes, "reading")
    for worker in busy:
        row, sending = f"{name} → {worker.mirror.name}", worker.publisher.transfer
        if sending is None:
            yield Amount(row, doing="publishing")
        else:
            what = format_count(sending.files, "large file")
            yield Amount(row, bytes=sending.sent_bytes, all_bytes=sending.bytes, doing=what)


def _run(work: TargetWork, stop: threading.Event, deadline: float, *, confirm_deletes: bool) -> Outcome:
    outcome = Outcome(work.target.name)
    pipeline = work.pipeline
    with _Mirrors(work.workers) as mirrors:
        try:
            _wait_settled(work, stop, deadline, mirrors.send_early)
            outcome.commits = pipeline.commit(confirm_deletes=confirm_deletes)
        except HubsyncError as exc:
            outcome.failed["source"] = exc
        for worker in mirrors.publish(stop, deadline):
            if (failure := _left(worker)) is not None:
                outcome.failed[worker.mirror.name] = failure
    _finish(work)
    if pipeline.halted is not None:
        outcome.failed["source"] = pipeline.halted
    outcome.held = dict.fromkeys(pipeline.waiting(), "still being written") | pipeline.unread() | pipeline.held()

    return outcome


def _free_storage(work: TargetWork, means: Means) -> None:
    """Free what units take that went from a mirror, where the config says so."""
    rules = [mirror.retention.remote for mirror in work.target.mirrors]
    if not any(rule is not None and rule.free_storage for rule in rules):
        return
    from hubsync.proof.prove import Means as ProofMeans  # noqa: PLC0415 - 50 ms, and few let storage go
    from hubsync.prune.storage import Freer  # noqa: PLC0415

    freer = Freer(work.target, ProofMeans(means.config, means.tokens, means.stop))
    for worker in work.workers:
        if worker.trouble is None and not means.stop.is_set():
            freer.run(worker.publisher)


def _wait_settled(work: TargetWork, stop: threading.Event, deadline: float, on_captured: Callable[[], None]) -> None:
    """Look until nothing is unquiet any more; a file that changes meanwhile starts its wait over.

    *on_captured* is called while there is more to capture, if that takes a while.
    """
    pipeline = work.pipeline
    while pipeline.take_inventory() and not stop.is_set():
        if pipeline.reading.all_files:
            _start_loading()
        began = time.monotonic()
        pipeline.settle()
        while pipeline.has_early() and (now := time.monotonic()) < deadline and not stop.is_set():
            if now > began + _SHORT_S:
                on_captured()
            pipeline.settle()
        due = pipeline.next_due()
        if due is None or time.monotonic() >= deadline:
            return
        stop.wait(max(_PAUSE_S, min(due, deadline) - time.monotonic()))


@functools.cache
def _start_loading() -> None:
    """Import what a publication needs in a thread, while files are read: what is hashed needs no interpreter."""

    def load() -> None:
        load_git_python()
        load_client()
        import hubsync.proof.ask  # noqa: F401, PLC0415 - it asks for proofs in the end

    threading.Thread(target=load, name="hubsync-load", daemon=True).start()


class _Mirrors:
    """The mirrors of one target: each takes what there is while other files are read, then all; none waits for another."""

    def __init__(self, workers: Sequence[MirrorWorker]) -> None:
        self._workers = workers
        self._pool = ThreadPoolExecutor(2 * len(workers))
        self._early: dict[MirrorWorker, Future[object]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def send_early(self) -> None:
        """Let those mirrors that are not at work take what there is; what fails is tried again in the end."""
        for worker in self._workers:
            if worker not in self._early or self._early[worker].done():
                self._early[worker] = self._pool.submit(worker.run)

    def publish(self, stop: threading.Event, deadline: float) -> Iterator[MirrorWorker]:
        """Bring each mirror up to date, and yield the workers."""
        return self._pool.map(lambda worker: self._publish(worker, stop, deadline), self._workers)

    def _publish(self, worker: MirrorWorker, stop: threading.Event, deadline: float) -> MirrorWorker:
        if (early := self._early.get(worker)) is not None:
            wait((early,))
        for _ in range(_TRIES):
            worker.run(now=True)
            if worker.trouble is None or worker.trouble.is_parked or stop.is_set():
                break
            if time.monotonic() + worker.wait_s() > deadline:
                break
            stop.wait(worker.wait_s())

        return worker


def _left(worker: MirrorWorker) -> HubsyncError | None:
    """Return why not all is on a mirror."""
    if worker.trouble is not None:
        return worker.trouble.error
    if waits_for := worker.waits_for():
        said = f"what is left waits for {waits_for}; run again later"
        return MirrorError(said, error_kind="commit_quota", retryable=True)
    if worker.publisher.backlog():
        return MirrorError("a captured object was changed by its writer; run again", error_kind="spoiled", retryable=True)
    if refused := worker.publisher.refusals.reasons() | worker.publisher.refusals.lost:
        said = "; ".join(f"{path}: {why}" for path, why in refused.items())
        return MirrorError(said, error_kind="rejected", retryable=False)

    return None


def _finish(work: TargetWork) -> None:
    """Drop what no mirror needs any more (gigabytes take a while), and have those that work confirm what they hold.

    What one does not confirm now is asked another time, and one that has confirmed all of it is not asked again.
    """
    kept = zip(work.keepers, work.workers, strict=True)
    well = [keeper for keeper, worker in kept if worker.trouble is None and not keeper.has_all]
    steps: list[Callable[[], object]] = [work.release, *(keeper.keep for keeper in well)]
    with ThreadPoolExecutor(len(steps)) as pool:
        list(pool.map(lambda step: step(), steps))
