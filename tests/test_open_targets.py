"""A target runs once, whoever opens it: a reload, a mend and a new try may meet."""

import gc
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.rig import NO_LOGIN, declare

from hubsync import open_targets
from hubsync.config.model import Target
from hubsync.jobs import Jobs
from hubsync.mirror.publish import Means
from hubsync.mirror.token import Tokens
from hubsync.monitor.status import DaemonStatus, Status
from hubsync.open_targets import OpenTargets
from hubsync.pauses import Pauses
from hubsync.proof.prove import Means as ProofMeans
from hubsync.prune.job import PruneJob
from hubsync.report import summarize
from hubsync.service import open_limits, open_target
from hubsync.store.trouble import at_work
from hubsync.target_run import TargetRun


class Opener:
    """Opens targets as the service does, on jobs that do not run; *opened* is what was opened."""

    def __init__(self, root: Path) -> None:
        self.config = declare(root, [], {}, {})
        (self.target,) = self.config.targets
        self.opened: list[Target] = []
        self.jobs = Jobs(1)
        self._state = root / "state"
        self._lock = os.open(os.devnull, os.O_RDONLY)

    def open(self, target: Target) -> TargetRun:
        """Open one."""
        self.opened.append(target)
        tokens, stop = Tokens(NO_LOGIN), threading.Event()
        work = open_target(target, Means(self.config, tokens, open_limits(self._state), stop), self._lock)
        prune = PruneJob(target, ProofMeans(self.config, tokens, stop))
        return TargetRun(work, prune, stop, self.jobs, Pauses(self._state), lambda: None)

    def close(self) -> None:
        """Let go of what stands for the lock."""
        os.close(self._lock)


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Give what opens a target with an empty source and no mirror."""
    (tmp_path / "source").mkdir()
    (tmp_path / "state").mkdir()
    opener = Opener(tmp_path)
    yield opener
    opener.close()


@pytest.fixture
def targets(opener: Opener) -> Iterator[OpenTargets]:
    """Give the targets of a service, with one that runs."""
    targets = OpenTargets(opener.open, threading.Event())
    assert targets.open(opener.target)
    yield targets
    targets.close([opener.target.name], lambda: False)


def test_a_target_that_runs_is_not_opened_again(targets: OpenTargets, opener: Opener) -> None:
    """Two pipelines on one store would take the same files, and nobody would stop the first."""
    assert not targets.open(opener.target)
    assert [opener.target] == opener.opened


def test_a_mend_leaves_alone_what_a_reload_has_opened(targets: OpenTargets, opener: Opener) -> None:
    """It found damage before the reload, and gets its turn after it: what is declared now stays open."""
    (run,) = targets.runs()
    run.work.pipeline.store.git.mark_damaged()
    declared = opener.target.model_copy(update={"quiet_s": 7.0})
    mend = threading.Thread(target=lambda: targets.mend([opener.target], lambda: False))
    with targets._closing:
        mend.start()
        while not targets._mended:
            time.sleep(0.001)
        targets.close([opener.target.name], lambda: False)
        targets.open(declared)
    mend.join()

    assert [declared] == [run.target for run in targets.runs()]
    assert [opener.target, declared] == opener.opened


def test_a_schedule_that_finds_nothing_looks_for_no_memory(targets: OpenTargets, opener: Opener) -> None:
    """Each target is asked by its schedule: a collection each time was nine tenths of what a service at rest took."""
    (run,) = targets.runs()
    collected: list[str] = []
    note = lambda phase, _: collected.append(phase)  # noqa: E731 - taken out again as the same object
    gc.disable()  # so that only what asks for it collects
    gc.callbacks.append(note)
    try:
        for _ in range(3):
            run.commit()
        assert [] == collected

        (opener.target.source / "a.txt").write_text("a")
        run.work.pipeline.take_inventory()
        deadline = time.monotonic() + 20
        while not collected and time.monotonic() < deadline:  # it must be quiet for a while
            run.commit()
            time.sleep(0.01)
        assert "start" in collected
    finally:
        gc.callbacks.remove(note)
        gc.enable()


@pytest.mark.parametrize("job", ["commit:run", "push:run/m0", "prove:run/m0", "verify:run", "prune:run", "finish:run"])
def test_no_store_is_closed_under_a_job(targets: OpenTargets, opener: Opener, job: str) -> None:
    """Whatever of the target runs is waited for when it is closed; what runs of others is not."""
    (run,) = targets.runs()
    began, go, found = threading.Event(), threading.Event(), []

    def work() -> None:
        began.set()
        go.wait(20)
        found.append(run.work.pipeline.store.ledger.meta("x"))

    opener.jobs.start()
    opener.jobs.add("prove:run2/run", lambda: None, None)
    opener.jobs.add(job, work, None, at_once=True)
    assert began.wait(20)
    assert run.is_busy()
    closing = threading.Thread(target=targets.close, args=([run.target.name], lambda: False))
    closing.start()
    assert run.interrupted.wait(20)
    go.set()
    closing.join()
    opener.jobs.stop(20)

    assert [None] == found
    assert targets.runs() == []


def test_a_store_that_is_at_work_is_told_as_it_was(
    targets: OpenTargets, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks does not wait for a snapshot: what was known stands, with what the store is at work on, since when."""
    monkeypatch.setattr(open_targets, "_BUSY_S", 0.01)
    (run,) = targets.runs()
    (known,) = targets.describe([opener.target])
    began, go = threading.Event(), threading.Event()

    def write() -> None:
        with run.work.pipeline.lock, at_work(run.work.pipeline.store.git.git_dir, ("fast-import",)):
            began.set()
            go.wait(20)

    writing = threading.Thread(target=write)
    writing.start()
    assert began.wait(20)
    (first,), (second,) = targets.describe([opener.target]), targets.describe([opener.target])
    go.set()
    writing.join()

    assert first.busy is not None
    assert ("git fast-import is at work", known) == (first.busy.reason, replace(first, busy=None))
    assert first == second
    now = datetime.now(UTC)
    assert "busy: git fast-import" in summarize(Status(DaemonStatus(1, "", now, now), (first,)))
    assert targets.describe([opener.target])[0].busy is None
