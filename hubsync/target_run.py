"""Runs one target: its watcher, and the jobs that commit and publish it."""

import functools
import threading
import time
from collections.abc import Callable, Iterator

from hubsync.config.model import Mirror, Target
from hubsync.health import Part
from hubsync.jobs import Jobs, every, make_trigger
from hubsync.memory import give_back
from hubsync.mirror.worker import MirrorWorker
from hubsync.monitor.logger import bound, get_logger
from hubsync.monitor.text import format_bytes, format_count
from hubsync.pauses import Pauses
from hubsync.pipeline import commit_last
from hubsync.proof.job import verify_by_schedule
from hubsync.proof.keeper import ReceiptKeeper
from hubsync.prune.job import LOOK_S as LOOK_PRUNE_S
from hubsync.prune.job import PruneJob
from hubsync.service import TargetWork
from hubsync.wait import Answer, Wait, Wish
from hubsync.watcher import Watcher

_PARKED_TRY_S = 3600.0
_PROVE_S = 3600.0
_TROUBLED_S = 60.0
LOOK_S = 5.0  # how often a wait looks without news: a unit may be abandoned, or its sender be gone
_LEAST_LOOK_S = 0.05
_PATIENCE_S = 900.0  # the longest step that nothing tells the progress of: git packing a store that was left to grow
_HUNG_S = 5.0  # how long, at the end, a mirror is waited for that was out of reach before
_OUT_OF_REACH = frozenset({"network", "timeout"})

log = get_logger()


class TargetRun:
    """A target that runs: its watcher and its jobs."""

    def __init__(
        self, work: TargetWork, prune: PruneJob, stop: threading.Event, jobs: Jobs, pauses: Pauses,
        on_change: Callable[[], None],
    ) -> None:  # fmt: skip
        self.work = work
        self._prune = prune
        self.interrupted = stop
        self.watcher = Watcher(work, self.wake_mirrors)
        self._pauses = pauses
        self._jobs = jobs
        self._on_change = on_change
        self._is_finishing = False
        self._committed = threading.Event()  # by the last flush
        self._looking = threading.Lock()  # held while a wait looks: the store must not be closed meanwhile

    @property
    def target(self) -> Target:
        """The target's declaration."""
        return self.work.target

    @property
    def is_paused(self) -> bool:
        """Whether nothing is committed or published until ``resume``."""
        return self.target.name in self._pauses

    def parts(self) -> Iterator[Part]:
        """Yield what must get on: the watch, and each publication that runs; nothing once it was told to stop."""
        if self.interrupted.is_set():
            return
        read = self.work.pipeline.reading.progressed
        yield Part(f"watch:{self.target.name}", self.watcher.progressed(read), _PATIENCE_S)
        for worker in self.work.workers:
            progressed = worker.progressed
            if progressed is not None and worker.mirror.transport != "http":  # there each request has a deadline of its own
                patience_s = max(_PATIENCE_S, 3 * worker.publisher.endpoint.stall_s)
                yield Part(self._push_name(worker), progressed, patience_s)

    def is_busy(self) -> bool:
        """Tell whether any job of this target runs: each of them uses the store."""
        jobs = (job.partition(":")[2].partition("/")[0] for job in self._jobs.running())
        return self.target.name in jobs

    def start(self) -> None:
        """Watch, and run by schedule."""
        name = self.target.name
        if self.is_paused:
            self._tell_paused()
        self._jobs.add(f"commit:{name}", self.commit, make_trigger(self.target.schedule))
        self._jobs.add(f"inventory:{name}", self.watcher.ask_inventory, every(self.target.inventory_every_s))
        for worker in self.work.workers:
            push = functools.partial(self._push, worker)
            self._jobs.add(self._push_name(worker), push, every(_PARKED_TRY_S), at_once=True)
        for worker, keeper in zip(self.work.workers, self.work.keepers, strict=True):
            prove = functools.partial(self._prove, worker, keeper)
            self._jobs.add(self._prove_name(worker.mirror), prove, every(_PROVE_S), at_once=True)
        if (when := make_trigger(self.target.verify)) is not None:
            self._jobs.add(f"verify:{name}", self._verify, when)
        if self._prune.is_wanted:
            self._jobs.add(f"prune:{name}", self._run_prune, every(LOOK_PRUNE_S), at_once=True)
        self.watcher.start()

    def stop(self) -> None:
        """Stop watching, end the steps that run, and forget the jobs; the stores stay open until ``close``."""
        self.interrupted.set()
        self._jobs.remove(f"commit:{self.target.name}")
        self._jobs.remove(f"inventory:{self.target.name}")
        self._jobs.remove(f"prune:{self.target.name}")
        self._jobs.remove(f"finish:{self.target.name}")
        for worker in self.work.workers:
            self._jobs.remove(self._push_name(worker))
            self._jobs.remove(self._prove_name(worker.mirror))
        self._jobs.remove(f"verify:{self.target.name}")
        self.watcher.stop()

    def close(self) -> None:
        """Close the store, after ``stop``."""
        with self._looking:
            self.work.close()

    def is_free(self, patience_s: float) -> bool:
        """Tell whether the store can be looked into now, or after a little patience: a git that hangs holds it."""
        lock = self.work.pipeline.lock
        if not lock.acquire(timeout=max(0.0, patience_s)):
            return False
        lock.release()

        return True

    def begin_wait(self, wish: Wish) -> Wait | None:
        """Begin a wait with what is there now; return ``None`` if this run has ended. Backoffs end, as by ``flush``."""
        with self._looking:
            if self.interrupted.is_set():
                return None
            wait = Wait(self.work, wish)
            wait.begin()
        self.watcher.look_again()
        self._end_backoff(makes_again=False)
        self.wake_mirrors()

        return wait

    def look(self, wait: Wait) -> tuple[Answer, float] | None:
        """Return how far *wait* is, and for how many seconds that holds without news; ``None`` if this run has ended."""
        with self._looking:
            if self.interrupted.is_set():
                return None
            answer = wait.look()
            due = self.work.pipeline.next_due()
        if self.is_paused and not answer.final:
            answer = Answer(False, f"{self.target.name} is paused", f"hubsync resume {self.target.name}", final=True)
        if answer.hasten:
            self._jobs.wake(f"commit:{self.target.name}")

        return answer, LOOK_S if due is None else max(_LEAST_LOOK_S, min(LOOK_S, due - time.monotonic()))

    def commit(self) -> None:
        """Commit what is settled, then let the mirrors go."""
        if self.is_paused:
            return
        with bound(target=self.target.name):
            commits = self.work.pipeline.commit()
        if commits:
            give_back()
        self.watcher.look_again()  # a file that was still being written must become quiet anew
        self.wake_mirrors()

    def flush(self, *, makes_again: bool = True) -> None:
        """Commit and publish now, whatever wait is on; *makes_again*: what somebody deleted on a mirror is made again."""
        self._end_backoff(makes_again=makes_again)
        self._jobs.wake(f"commit:{self.target.name}")

    def _end_backoff(self, *, makes_again: bool) -> None:
        for worker in self.work.workers:
            worker.ask_again(makes_again=makes_again)

    def finish(self) -> None:
        """Begin the last flush: what is settled is committed, and mirrors that work publish what waits."""
        self._is_finishing = True
        self.watcher.ask_stop()
        if self.is_paused:
            self._committed.set()
        else:
            self._jobs.add(f"finish:{self.target.name}", self._finish, None, at_once=True)

    def _finish(self) -> None:
        try:
            self.watcher.stop()  # which may be in the middle of a long step
            with bound(target=self.target.name):
                self.watcher.take_left()
                commit_last(self.work.pipeline, self.wake_mirrors)
        finally:
            self._committed.set()
        self.wake_mirrors()

    def is_finished(self) -> bool:
        """Tell whether nothing is left that the last flush can still bring about."""
        if self.is_paused:
            return True
        if not self._committed.is_set():
            return False
        return all(self._is_at_rest(worker) for worker in self.work.workers)

    def _is_at_rest(self, worker: MirrorWorker) -> bool:
        if self._push_name(worker) in self._jobs.running():  # a Hub may take its time for an answer
            is_out_of_reach = worker.trouble is not None and worker.trouble.error.error_kind in _OUT_OF_REACH
            return is_out_of_reach and time.monotonic() - worker.publisher.progressed > _HUNG_S
        return worker.trouble is not None or not worker.publisher.backlog() or bool(worker.waits_for())

    def at_work(self) -> list[str]:
        """Return what the last flush is still about, for people to read; not a look that finds nothing to do."""
        at_work = [] if self.is_paused or self._committed.is_set() else [f"{self.target.name}: the last commit"]
        running, head = self._jobs.running(), self.work.pipeline.store.head()
        for worker in self.work.workers:
            has_work = worker.publisher.transfer is not None or worker.publisher.published() != head
            if has_work and self._push_name(worker) in running:
                at_work.append(f"{self.target.name} to {worker.mirror.name}")

        return at_work

    def unfinished(self) -> list[str]:
        """Return what did not get through, for people to read."""
        left = []
        for worker in self.work.workers:
            backlog = worker.publisher.measure_backlog()
            if backlog.since is not None:
                amount = f"{format_count(backlog.files, 'file')}, {format_bytes(backlog.bytes)}"
                left.append(f"{self.target.name} to {worker.mirror.name}: {amount}")
        if waiting := self.work.pipeline.pending():
            units = [path for path in waiting if path.endswith("/")]
            counted = [(len(units), "unit"), (len(waiting) - len(units), "other file" if units else "file")]
            amount = ", ".join(format_count(count, noun) for count, noun in counted if count)
            left.append(f"{self.target.name}: {amount} not committed yet")

        return left

    def pause(self) -> None:
        """Commit and publish nothing until ``resume``, also after a restart."""
        self._pauses.add(self.target.name)
        self._tell_paused()
        self._on_change()

    def resume(self) -> None:
        """Go on, with all that waits."""
        if self.is_paused:
            self._pauses.discard(self.target.name)
            log.info("target.resumed", target=self.target.name, source=str(self.target.source))
        self.flush(makes_again=False)
        self._on_change()

    def wake_mended(self) -> None:
        """Let mirrors try again whose token was replaced since they failed."""
        for worker in self.work.workers:
            if worker.has_new_token() and not worker.is_running:
                self._jobs.wake(self._push_name(worker))

    def _tell_paused(self) -> None:
        log.warning("target.paused", target=self.target.name, source=str(self.target.source),
                    hint=f"hubsync resume {self.target.name}")  # fmt: skip

    def wake_mirrors(self) -> None:
        """Let every mirror see whether there is something to publish."""
        for worker in self.work.workers:
            self._jobs.wake(self._push_name(worker), after_s=0.0 if worker.wait_s() <= 0 else worker.due_s() or 0.0)
        self._on_change()

    def _push(self, worker: MirrorWorker) -> None:
        if self.is_paused:
            return
        published = worker.run(early=not self._is_finishing)  # what is not complete by now will not be
        if published is not None or worker.trouble is not None:
            give_back()
        if published is not None or worker.publisher.supply.take_healed():
            self._jobs.wake(self._prove_name(worker.mirror))
        self.work.release()
        if worker.trouble is None:
            self._prune.free_storage(worker.publisher)
        if published is not None and self._prune.is_wanted:
            self._prune.note_published()
            self._jobs.wake(f"prune:{self.target.name}")
        if (due_s := worker.due_s()) is not None:
            self._jobs.wake(self._push_name(worker), after_s=max(0.1, due_s))
        self._on_change()

    def _prove(self, worker: MirrorWorker, keeper: ReceiptKeeper) -> None:
        """Bring a mirror's receipts up to date, unless the mirror is in trouble, or its Hub asked for a wait."""
        wait_s = worker.wait_s() if worker.trouble is None else max(_TROUBLED_S, worker.wait_s())
        if wait_s > 0:
            again_s: float | None = wait_s
        else:
            again_s = keeper.keep()
            give_back()
        if worker.publisher.supply.is_owed():
            self._jobs.wake(self._push_name(worker))
        if again_s is not None:
            self._jobs.wake(self._prove_name(worker.mirror), after_s=max(0.1, again_s))
        self._on_change()

    def _verify(self) -> None:
        """Compare all mirrors with what was published to them; the results are logged."""
        verify_by_schedule(self.target, self.work.keepers)
        self.note_verified()

    def note_verified(self) -> None:
        """Take in what a verification found, also one by command, and have it shown."""
        for keeper in self.work.keepers:
            keeper.refresh()
            self._jobs.wake(self._prove_name(keeper.mirror))
        self.wake_mirrors()  # what they lost is sent again

    def _prove_name(self, mirror: Mirror) -> str:
        return f"prove:{self.target.name}/{mirror.name}"

    def _run_prune(self) -> None:
        if not self.is_paused and self.work.pipeline.halted is None and self._prune.run():
            self.wake_mirrors()  # what is gone here may go there

    def _push_name(self, worker: MirrorWorker) -> str:
        return f"push:{self.target.name}/{worker.mirror.name}"
