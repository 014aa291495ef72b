"""The two figures that alerts stand on, for each target and each mirror."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import Rig
from support.running import write_checkpoint

from hubsync.errors import GitError
from hubsync.monitor.status import DaemonStatus, LastError, Status, TargetStatus, Waiting, choose_exit_code
from hubsync.report import describe_target, log_heartbeat, summarize
from hubsync.store.trouble import at_work

HOUR = 3600
BEGAN = int(time.time()) - 48 * HOUR


def describe(rig: Rig) -> TargetStatus:
    return describe_target(rig.work, mode="events", is_paused=False)


def save(rig: Rig, unit: str, hours: float) -> None:
    """Write a checkpoint whose newest byte is *hours* after the run began, and commit it."""
    write_checkpoint(rig.source / unit, 100)
    touch(rig, hours, *(rig.source / unit).iterdir())
    rig.settle()
    assert rig.pipeline.commit()


def touch(rig: Rig, hours: float, *paths: Any) -> None:
    for path in paths or [rig.source / "log.txt"]:
        if not path.exists():
            path.write_text(f"{hours}")
        os.utime(path, (BEGAN + hours * HOUR, BEGAN + hours * HOUR))


@dataclass
class Two:
    rig: Rig
    first: Any
    second: Any


@pytest.fixture
def two(make_rig: Callable[..., Rig], server: PlainServer, tmp_path: Any) -> Any:
    """Give a target with two mirrors, both required."""
    with PlainServer(tmp_path / "second") as other:
        other.create("acme/x")
        rig = make_rig(server, other, units=("checkpoint-*",))
        yield Two(rig, rig.publisher(0), rig.publisher(1))


def test_nothing_to_publish_is_neither_behind_nor_at_risk(rig: Rig) -> None:
    """An empty source needs nobody's attention."""
    rig.settle()

    assert (0.0, 0.0) == (describe(rig).behind_s, describe(rig).at_risk_s)


def test_what_a_mirror_refuses_is_shown_until_it_is_mended(rig: Rig, server: PlainServer) -> None:
    """A target whose file its mirror does not take is not well, though all else of it is published."""
    hook = server.root / "acme/x.git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\nread old new ref; ! git grep -qE "^no" $new || { echo "- bad.txt is bad" >&2; exit 1; }\n')
    hook.chmod(0o755)
    rig.write("bad.txt", b"no")
    rig.write("good.txt", b"yes")
    rig.update()

    status = describe(rig)
    [shown] = status.waiting
    assert ("degraded", 1, "bad.txt", True) == (status.state, status.held, shown.what, shown.needs_attention)
    assert "refuses it" in shown.reason
    assert "is bad" in shown.reason
    rig.write("bad.txt", b"yes")
    rig.update()
    assert ("ok", ()) == (describe(rig).state, describe(rig).waiting)


def test_a_commit_that_fails_is_shown_until_one_goes_through(rig: Rig) -> None:
    """What is captured and cannot be committed must not look well; a lock that is nobody's is no reason for long."""
    rig.write("notes.txt", b"1")
    (rig.store.git.git_dir / "refs/heads/snapshots.lock").touch()
    with at_work(rig.store.git.git_dir, ("fetch",)), pytest.raises(GitError):
        rig.commit()

    status = describe(rig)
    assert "degraded" == status.state
    assert status.last_error is not None
    assert "the last commit failed: git fast-import" in status.last_error.error
    assert "tried again" in status.last_error.hint
    rig.pipeline.commit(units_only=True)  # with none that is complete
    assert "degraded" == describe(rig).state

    rig.commit()
    assert ("ok", None) == (describe(rig).state, describe(rig).last_error)


def test_what_settled_is_behind_before_it_is_committed(rig: Rig) -> None:
    """The age counts from when a file settled, not from the next commit, and not from an old time that a copy kept."""
    touch(rig, 0)
    rig.settle()
    rig.pipeline._files._settled_at["log.txt"] -= 2 * HOUR

    assert describe(rig).behind_s == pytest.approx(2 * HOUR, abs=60)
    assert describe(rig).mirrors[0].behind_s == pytest.approx(2 * HOUR, abs=60)
    rig.pipeline.commit()
    rig.publisher().publish()
    assert 0.0 == describe(rig).behind_s


def test_a_pin_does_not_end_the_wait(rig: Rig) -> None:
    """A hard link moves the ctime of what it pins: that is no new content; new content has not waited."""
    path = rig.write("model.bin", b"1")
    rig.settle()
    rig.pipeline._files._settled_at["model.bin"] -= 2 * HOUR
    (rig.state / "link").hardlink_to(path)
    rig.settle()
    assert describe(rig).behind_s > HOUR
    rig.write("model.bin", b"22")
    rig.settle()

    assert describe(rig).behind_s < HOUR


def wait_and_restart(rig: Rig, path: str, hours: float) -> None:
    """Let the settled *path* have waited for *hours*, and restart."""
    rig.pipeline._files._settled_at[path] -= hours * HOUR
    rig.pipeline.settle()
    rig.restart()
    rig.settle()


@pytest.mark.parametrize("path", ["log.txt", "model.bin"])
def test_what_settled_before_a_restart_is_as_far_behind_as_before(rig: Rig, path: str) -> None:
    """A daemon that dies more often than it commits says for how long it has published nothing, until it does."""
    touch(rig, 0, rig.write(path))
    rig.settle()
    wait_and_restart(rig, path, 2)
    wait_and_restart(rig, path, 1)

    assert describe(rig).behind_s == pytest.approx(3 * HOUR, abs=60)
    rig.pipeline.commit()
    rig.publisher().publish()
    rig.write(path, b"more")
    rig.restart()
    rig.settle()
    assert describe(rig).behind_s < HOUR


def test_what_comes_after_a_restart_is_not_behind(rig: Rig) -> None:
    """A file that took the place of what waited has waited for no longer than it is there; so has an old one, later."""
    rig.write("a.bin")
    rig.settle()
    rig.pipeline._files._settled_at["a.bin"] -= 2 * HOUR
    rig.pipeline.settle()
    rig.write("a.bin", b"again")
    rig.restart()
    rig.settle()
    assert describe(rig).behind_s < HOUR
    touch(rig, 0, rig.write("old.bin"))
    rig.settle()

    assert describe(rig).behind_s < HOUR


def test_a_late_mirror_is_behind_alone(two: Two) -> None:
    """One mirror's lag is not the other's; the target's is that of the worse one."""
    save(two.rig, "checkpoint-1", 1)
    two.first.publish()
    status = describe(two.rig)

    assert (0.0, 0) == (status.mirrors[0].behind_s, status.mirrors[0].backlog_files)
    assert status.mirrors[1].backlog_files > 0
    assert status.behind_s == status.mirrors[1].behind_s


def test_at_risk_is_the_training_time_since_the_newest_unit_that_all_hold(two: Two) -> None:
    """It grows with every write, falls when the last required mirror holds a unit, and stands still with the training."""
    save(two.rig, "checkpoint-1", 1)
    two.first.publish()
    two.second.publish()
    save(two.rig, "checkpoint-2", 4)
    two.first.publish()
    touch(two.rig, 6)
    two.rig.settle()
    status = describe(two.rig)

    assert [2 * HOUR, 5 * HOUR, 5 * HOUR] == [*(m.at_risk_s for m in status.mirrors), status.at_risk_s]
    two.second.publish()
    assert 2 * HOUR == describe(two.rig).at_risk_s


def test_the_newest_unit_is_the_one_with_the_highest_step(two: Two) -> None:
    """A backlog may go in any order, and an old unit may be copied in late; also after a restart."""
    for step, hours in ((2, 1), (10, 4), (3, 5)):
        save(two.rig, f"checkpoint-{step}", hours)
        two.first.publish()
    before = describe(two.rig)
    two.rig.restart()
    after = describe(two.rig)

    assert ["checkpoint-10"] * 2 == [before.newest_unit_local, after.newest_unit_local]
    assert [("checkpoint-10", None)] * 2 == [
        tuple(mirror.newest_unit_published for mirror in status.mirrors) for status in (before, after)
    ]


def test_half_a_unit_is_told_with_its_reason(make_rig: Callable[..., Rig], server: PlainServer) -> None:
    """Status and heartbeat say what a unit lacks; once it is given up, a person is needed."""
    rig = make_rig(server, units=("checkpoint-*",))
    write_checkpoint(rig.source / "checkpoint-1", 100)
    (rig.source / "checkpoint-1" / "trainer_state.json").unlink()
    rig.settle()
    (held,) = describe(rig).waiting

    assert ("checkpoint-1/", False) == (held.what, held.needs_attention)
    assert "trainer_state.json is missing" in held.reason
    rig.pipeline._units.by_name["checkpoint-1"].abandoned = True
    assert ("degraded", True) == (describe(rig).state, describe(rig).waiting[0].needs_attention)


def test_an_optional_mirror_puts_nothing_at_risk(two: Two) -> None:
    """The target's figures are those of its required mirrors; an optional one has its own."""
    two.second.mirror = two.second.mirror.model_copy(update={"required": False})
    save(two.rig, "checkpoint-1", 1)
    save(two.rig, "checkpoint-2", 4)
    two.first.publish()
    status = describe(two.rig)

    assert (0.0, 0.0) == (status.behind_s, status.at_risk_s)
    assert status.mirrors[1].backlog_files > 0


def test_half_a_unit_is_behind_until_it_is_given_up(make_rig: Callable[..., Rig], server: PlainServer) -> None:
    """Files of a unit that never ends count as waiting; once it is reported as abandoned they hide nothing else."""
    rig = make_rig(server, units=("checkpoint-*",))
    write_checkpoint(rig.source / "checkpoint-1", 100)
    (rig.source / "checkpoint-1" / "trainer_state.json").unlink()
    rig.settle()
    for path in rig.pipeline._files._settled_at:
        rig.pipeline._files._settled_at[path] -= 3 * HOUR

    assert describe(rig).behind_s == pytest.approx(3 * HOUR, abs=60)
    rig.pipeline._units.by_name["checkpoint-1"].abandoned = True
    assert 0.0 == describe(rig).behind_s


def test_the_heartbeat_says_both_for_each_target_and_each_mirror(two: Two) -> None:
    """One line for the target, one for each mirror, each with both figures as numbers."""
    save(two.rig, "checkpoint-1", 1)
    two.first.publish()
    two.second.publish()
    touch(two.rig, 3)
    two.rig.settle()
    now = datetime.now(UTC)
    with capture_logs() as lines:
        log_heartbeat(Status(DaemonStatus(1, "1", now, now), (describe(two.rig),)))

    assert [None, "m0", "m1"] == [line.get("mirror") for line in lines]
    assert {2 * HOUR} == {line["at_risk_s"] for line in lines}
    assert {"heartbeat"} == {line["event"] for line in lines}
    assert all(isinstance(line["behind_s"], float) for line in lines)


def test_a_heartbeat_says_since_when() -> None:
    """What is held, and a config that is not in force, have an age; what only a person can mend has its cure as well."""
    now = datetime(2026, 11, 29, 3, tzinfo=UTC)
    held = Waiting("checkpoint-2/", "it lacks a shard", now - timedelta(hours=3), "touch the mark", needs_attention=True)
    rejected = LastError("no such key", "config", "correct it", now - timedelta(minutes=5))
    daemon = DaemonStatus(1, "1", now - timedelta(days=1), now, config_error=rejected)
    with capture_logs() as said:
        log_heartbeat(Status(daemon, (TargetStatus("run", "/data", "degraded", held=1, waiting=(held,)),)))
    (beat,) = said

    assert ["checkpoint-2/: it lacks a shard (for 3h)"] == beat["waiting"]
    assert (3 * HOUR, 300) == (beat["held_s"], beat["config_rejected_s"])
    assert ("held", 3 * HOUR, "touch the mark") == (beat["error_kind"], beat["failing_s"], beat["hint"])


def test_a_heartbeat_after_the_clock_was_set_back_has_no_negative_spans() -> None:
    """What began at a time that is yet to come has lasted for no time."""
    now = datetime(2026, 11, 29, 3, tzinfo=UTC)
    later = now + timedelta(hours=1)
    error = LastError("no such key", "config", since=later)
    target = TargetStatus("run", "/data", held=1, waiting=(Waiting("a", "b", later),), last_error=error)
    with capture_logs() as said:
        log_heartbeat(Status(DaemonStatus(1, "1", later, now, config_error=error), (target,)))
    (beat,) = said

    assert {0} == {beat[name] for name in ("uptime_s", "held_s", "failing_s", "config_rejected_s")}
    assert ["a: b (for 0s)"] == beat["waiting"]


def test_what_waited_before_a_restart_has_its_true_age(make_rig: Callable[..., Rig], server: PlainServer) -> None:
    """It counts from the last change of what waits, not from the start of the daemon that holds it back."""
    rig = make_rig(server)
    (rig.source / "model.safetensors").write_bytes(b"half of a header")
    rig.settle()
    changed = (rig.source / "model.safetensors").stat().st_ctime
    rig.restart()
    rig.settle()
    (held,) = describe(rig).waiting

    assert held.since is not None
    assert changed == pytest.approx(held.since.timestamp(), abs=0.001)


def test_a_mirror_that_is_tried_again_says_so(rig: Rig, server: PlainServer) -> None:
    """While a try is on, its error is the last one; once bytes arrive the mirror fails no more, but is not well yet."""
    worker = rig.work.workers[0]
    seen: list[TargetStatus] = []

    def refuse(_: Request) -> None:
        raise AnswerError(503)

    def look(_: Request) -> None:
        if (gauge := worker.publisher._remote.sending) is not None:
            gauge.note(1)
        seen.append(describe(rig))

    rig.write("model.bin", b"1" * 100)
    rig.commit()
    server.before = refuse
    worker.run()
    failed = describe(rig)
    server.before = look
    worker.run(now=True)

    def tell(target: TargetStatus) -> tuple[str, bool | None]:
        (mirror,) = target.mirrors
        return mirror.state, mirror.last_error and mirror.last_error.is_retrying

    assert [("failing", False), ("failing", True), ("ok", None)] == [*map(tell, (failed, seen[0], describe(rig)))]
    sending = next(target for target in seen if target.mirrors[0].transfer is not None)
    assert ("publishing", True) == tell(sending)
    now = datetime.now(UTC)
    status = Status(DaemonStatus(1, "1", now, now), (sending,))
    assert 1 == choose_exit_code(status, now, running=True)
    assert "run/m0 trying again after server" in summarize(status)
