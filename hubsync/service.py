"""Owns what a running hubsync holds: the lock of the state directory, and per target a pipeline and its mirrors.

``daemon`` runs it by schedule, ``once`` runs it through and ends. It starts no thread and knows no schedule.
"""

import contextlib
import errno
import fcntl
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from hubsync.config.model import Config, Target
from hubsync.errors import BusyError, HubsyncError, StateError, read_os_error
from hubsync.mirror.limits import Limits
from hubsync.mirror.publish import Means, Publisher
from hubsync.mirror.token import Tokens, find_exposed_tokens
from hubsync.mirror.unseen import note_unseen, written
from hubsync.mirror.worker import MirrorWorker
from hubsync.monitor.logger import get_logger
from hubsync.pipeline import Pipeline, open_store
from hubsync.presence import Owner, is_same_file, read_owner
from hubsync.proof.keeper import ReceiptKeeper
from hubsync.store.objects import state_errors
from hubsync.store.private import expect_no_link, make_private, private_files
from hubsync.store.snapshot import Store
from hubsync.store.tools import TOOLS, expect_recent, git_executable

_STRICTNESS = ("off", "warn", "block")  # of secrets, in this order
_LOOKED_AT = "each is looked at before it is sent; `exclude` what must not go at all"
_ORPHAN_S = 5.0
_DYING_S = 30.0  # what is killed ends when the disk has answered it
_STARTING_S = 2.0  # how long it may take another hubsync to say that the lock is its own
_POLL_S = 0.05

log = get_logger()


class TargetWork(Struct, frozen=True):
    """One target at work: its pipeline, and for each mirror a worker and a keeper of its receipts."""

    target: Target
    pipeline: Pipeline
    workers: tuple[MirrorWorker, ...]
    keepers: tuple[ReceiptKeeper, ...] = ()

    def release(self) -> None:
        """Drop the pins that no mirror needs any more."""
        self.pipeline.release([worker.publisher.published() for worker in self.workers])
        self.pipeline.store.reserve.take()

    def close(self) -> None:
        """Give up what is being read, and close the store."""
        self.pipeline.close()


def open_limits(state_dir: Path) -> Limits:
    """Return what Hubs may be asked, as it was left; one for the process."""
    return Limits(state_dir / "limits.json")


def open_target(target: Target, means: Means, lock_fd: int) -> TargetWork:
    """Open *target*'s store and make its workers."""
    service = means.config.service
    store = open_store(target, service.state_dir, inherit=(lock_fd,))
    store.ledger.keep_mirrors(mirror.name for mirror in target.mirrors)
    publishers = (Publisher(store, target, mirror, means) for mirror in target.mirrors)
    workers = tuple(MirrorWorker(target.name, store, publisher, means.limits) for publisher in publishers)
    keepers = tuple(
        ReceiptKeeper(target, worker.mirror, store, worker.publisher.published, means.config, means.tokens, means.stop)
        for worker in workers
    )

    _tell_if_tightened(target, store, workers)

    return TargetWork(target, Pipeline(target, store, service.min_free_bytes, means.stop), workers, keepers)


def _tell_if_tightened(target: Target, store: Store, workers: Iterable[MirrorWorker]) -> None:
    """Say it if something waits that was captured when ``secrets`` was weaker; it is looked at if it could be held back."""
    with contextlib.suppress(HubsyncError):  # a ledger in trouble is told of by what needs it
        known = store.ledger.meta("secrets") or "block"
        if _STRICTNESS.index(target.secrets) > _STRICTNESS.index(known):
            waiting = written(step for worker in workers for step in worker.publisher.waiting())
            note_unseen(store.ledger, (blob for _, blob in waiting))
            if waiting:
                log.warning("secrets.tightened", target=target.name, files=len({path for path, _ in waiting}),
                            hint=_LOOKED_AT if target.secrets == "block" else "exclude what must not go")  # fmt: skip
        if known != target.secrets:
            store.ledger.set_meta("secrets", target.secrets)


@contextlib.contextmanager
def hold_state(state_dir: Path, *, is_once: bool = False) -> Iterator[int]:
    """Make the state directory ours and hold its lock; yield the lock's descriptor, which children inherit.

    Meanwhile all files of this process are private. *is_once*: who asks for the status is told that no service runs.

    Raises:
        BusyError: another hubsync, or a child that outlived one, holds it.
        StateError: it cannot be made or written, or is not ours alone.
        ToolMissingError: git or git-lfs is missing or, for a service, too old.
    """
    if is_once:
        git_executable()  # which costs no program: one that runs for a moment starts few
    else:
        for tool in TOOLS:
            expect_recent(tool)
    make_private(state_dir)
    expect_no_link((state_dir / "lock", state_dir / "paused", *(state_dir / "paused").glob("*")))
    with private_files():
        try:
            fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise read_os_error(exc) from exc
            raise StateError(f"{state_dir}: {exc.strerror}", hint="let this user write it, or set state_dir") from exc
        try:
            with state_errors():
                _lock(fd, state_dir, Owner(os.getpid(), is_once))
            yield fd
        finally:
            os.close(fd)


def tell_exposed_tokens(config: Config, tokens: Tokens) -> None:
    """Warn of each token that others can read."""
    for name, path in find_exposed_tokens(config, tokens).items():
        log.warning("token.exposed", endpoint=name, path=str(path), hint=f"chmod 600 {path}")


def _lock(fd: int, state_dir: Path, us: Owner) -> None:
    deadline = time.monotonic() + _STARTING_S
    while not _try_lock(fd):
        others, orphans = find_holders(state_dir / "lock")
        owner = read_owner(os.pread(fd, 32, 0).decode("ascii", "replace"))
        if orphans and not others:
            _end_orphans(fd, state_dir)
            break
        if (owner is not None and str(owner.pid) in others) or time.monotonic() > deadline:
            raise _busy(owner, state_dir)
        time.sleep(_POLL_S)  # one just starts, or ended while we looked
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{us}\n".encode(), 0)


def _busy(owner: Owner | None, state_dir: Path) -> BusyError:
    if owner is not None and owner.is_once:
        hint = "it ends by itself when all is published; wait for that"
        return BusyError(f"`hubsync once` (pid {owner.pid}) works on {state_dir}", hint=hint)
    return BusyError(
        f"another hubsync (pid {owner.pid if owner else 'unknown'}) works on {state_dir}",
        hint="use `hubsync flush` to make it publish now, or stop it first",
    )


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False

    return True


def find_holders(lock: Path) -> tuple[set[str], set[str]]:
    """Return the process ids of those that have *lock* open: other hubsyncs, and children that inherited it from one."""
    file = lock.stat()
    others: set[str] = set()
    children: set[str] = set()
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        if is_same_file(path, file):
            (children if _is_inherited(path) else others).add(path.parts[2])

    return others - {str(os.getpid())}, children - others


def _is_inherited(fd: Path) -> bool:
    """Tell whether a descriptor came through exec(2); hubsync opens the lock so that it does not, but for its children."""
    with contextlib.suppress(OSError):
        flags = re.search(r"^flags:\s*(\d+)", (fd.parents[1] / "fdinfo" / fd.name).read_text(), re.MULTILINE)
        return flags is not None and not int(flags[1], 8) & os.O_CLOEXEC

    return False


def _end_orphans(fd: int, state_dir: Path) -> None:
    """End the children that a killed hubsync left at work: they hold its lock, and their work is repeated."""
    _, orphans = find_holders(state_dir / "lock")
    log.warning("state.recovered", what="orphans", path=str(state_dir), reason=f"{len(orphans)} outlived a killed hubsync")
    for number, patience_s in ((signal.SIGTERM, _ORPHAN_S), (signal.SIGKILL, _DYING_S)):
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            for pid in find_holders(state_dir / "lock")[1]:  # again each time: one may just have started another
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), number)
            if _try_lock(fd):
                return
            time.sleep(_POLL_S)

    raise BusyError(f"children of an earlier hubsync do not end: {', '.join(sorted(orphans))}")


def select_targets(config: Config, names: tuple[str, ...]) -> tuple[Target, ...]:
    """Return the targets called *names*, each once, or all.

    Raises:
        UsageError: there is no such target.
    """
    return tuple(config.target(name) for name in dict.fromkeys(names)) if names else config.targets
