"""What a Hub may still be asked, over mirrors, targets and restarts."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import REPO, Rig

from hubsync.mirror.limits import Limits
from hubsync.mirror.pace import Pace
from hubsync.service import open_limits

MakeRig = Callable[..., Rig]


def refuse(status: int, body: bytes = b"", **headers: str) -> Callable[[Request], None]:
    def hook(_: Request) -> None:
        raise AnswerError(status, body, X_Request_Id="1", **headers)

    return hook


def share_endpoint(rig: Rig) -> None:
    """Let both mirrors be repositories of one Hub."""
    target = rig.config.targets[0]
    first, second = target.mirrors
    second = second.model_copy(update={"endpoint": first.endpoint, "repo_id": "acme/other"})
    target = target.model_copy(update={"mirrors": (first, second)})
    rig.config = rig.config.model_copy(update={"targets": (target,)})
    rig.restart()


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry_After": "300"},
        {"Retry_After": "{date}"},
        {"RateLimit": '"api";r=0;t=300', "RateLimit_Policy": '"fixed window";"api";q=500;w=300'},
    ],
    ids=["seconds", "date", "RateLimit"],
)
def test_a_wait_is_read_from_the_headers(rig: Rig, server: PlainServer, headers: dict[str, str]) -> None:
    """Seconds, a date, and what is left of the window: each is the wait that is kept."""
    rig.write("a.txt")
    rig.commit()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    server.before = refuse(429, **{name: value.format(date=date) for name, value in headers.items()})

    rig.work.workers[0].run()

    assert 200 < rig.work.workers[0].wait_s() < 303


def test_requests_that_are_left_are_no_reason(rig: Rig, server: PlainServer) -> None:
    """The commit quota comes with the headers of another limit; its wait is in the body, an hour."""
    rig.write("a.txt")
    rig.commit()
    body = (
        b"You have exceeded the rate limit for repository commits (128 per hour). "
        b"You can retry this action in about 1 hour."
    )
    server.before = refuse(429, body, RateLimit='"api";r=949;t=55')

    rig.work.workers[0].run()

    assert 3590 < rig.work.workers[0].wait_s() < 3602
    assert "commit_quota" == rig.work.workers[0].trouble.error.error_kind  # type: ignore[union-attr]


def test_a_commit_quota_that_only_pushes_meet_is_read_from_the_body(make_rig: MakeRig, server: PlainServer) -> None:
    """Of an answer to a push git shows no body: the server is asked once more, with the token, and nothing is pushed."""
    server.token = "hf_canary"
    rig = make_rig(server)
    rig.write("a.txt")
    rig.commit()

    def refuse_pushes(request: Request) -> None:
        if request.method == "POST" and request.path.endswith("/git-receive-pack") and request.authorization:
            raise AnswerError(
                429,
                b'{"error": "You have exceeded the rate limit for repository commits (128 per hour). '
                b'You can retry this action in about 1 hour."}',
                RateLimit='"api";r=949;t=55',
            )

    server.before = refuse_pushes
    worker = rig.work.workers[0]

    worker.run()

    assert worker.trouble is not None
    assert "commit_quota" == worker.trouble.error.error_kind
    assert 3590 < worker.wait_s() < 3602
    rig.restart()
    assert 3500 < rig.work.workers[0].wait_s() < 3602
    server.before = lambda _: None
    rig.publish()
    assert {"a.txt": b"x"} == server.read_all(REPO)


def test_no_wait_at_all_does_not_hammer(rig: Rig, server: PlainServer) -> None:
    """A server that says to come back at once is asked ever less often all the same."""
    rig.write("a.txt")
    rig.commit()
    server.before = refuse(429, Retry_After="0")
    worker = rig.work.workers[0]
    waits = []
    for _ in range(12):
        worker.run(now=True)
        waits.append(worker.wait_s())

    assert sum(waits) > 60


def test_a_wait_holds_for_the_whole_endpoint(make_rig: MakeRig, server: PlainServer, tmp_path: Path) -> None:
    """A limit that one mirror meets keeps the others of its Hub from asking, over a restart too; a flush ends it."""
    with PlainServer(tmp_path / "second") as unused:
        server.create("acme/other")
        rig = make_rig(server, unused)
        share_endpoint(rig)
        rig.write("a.txt")
        rig.commit()
        server.before = refuse(429, Retry_After="120")
        rig.work.workers[0].run()
        asked = len(server.requests)
        server.before = lambda _: None

        assert rig.work.workers[1].run() is None
        rig.restart()
        assert rig.work.workers[1].run() is None

        other = rig.work.workers[1]
        assert asked == len(server.requests)
        assert other.trouble is None
        assert 100 < other.wait_s() < 122
        assert other.due_s() == pytest.approx(other.wait_s(), abs=1)
        assert "another mirror" in other.waits_for()
        other.ask_again()
        assert other.run() is not None


def test_other_endpoints_go_on(make_rig: MakeRig, server: PlainServer, tmp_path: Path) -> None:
    """The limit of one Hub is nothing to another one."""
    with PlainServer(tmp_path / "second") as second:
        second.create(REPO)
        rig = make_rig(server, second)
        rig.write("a.txt")
        rig.commit()
        server.before = refuse(429, Retry_After="120")
        rig.work.workers[0].run()

        assert rig.work.workers[1].run() is not None


def snapshots(rig: Rig, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        rig.write(f"{number}.txt", b"%d" % number)
        rig.commit()


def test_a_backlog_is_widened_into_the_budget(make_rig: MakeRig, server: PlainServer) -> None:
    """Eight snapshots enter in the four commits that may come at once, and nothing is called a failure."""
    rig = make_rig(server, mirror={"max_commits_per_hour": 8})
    snapshots(rig, 8)

    with capture_logs() as entries:
        rig.work.workers[0].run()

    assert 8 == len(server.read_all(REPO))
    assert 4 == len(server.history(REPO))
    assert [(8, 4)] == [(e["snapshots"], e["commits"]) for e in entries if e["event"] == "mirror.paced"]
    assert rig.work.workers[0].trouble is None


def test_a_budget_that_is_spent_is_waited_for(make_rig: MakeRig, server: PlainServer) -> None:
    """What comes after it is uploaded and waits, over a restart too, and the wait is told; then it goes."""
    rig = make_rig(server, mirror={"max_commits_per_hour": 2})
    snapshots(rig, 1)
    rig.work.workers[0].run()
    snapshots(rig, 2, 1)
    rig.write("big.bin", b"\0" * 1000)
    rig.commit()
    rig.restart()
    worker = rig.work.workers[0]

    assert worker.run() is None

    assert (1, 1, None) == (len(server.history(REPO)), len(server.objects), worker.trouble)
    assert 3500 < (worker.due_s() or 0) <= 3600
    assert "max_commits_per_hour = 2" in worker.waits_for()
    open_limits(rig.state)
    (rig.state / "limits.json").unlink()  # an hour later
    rig.restart()
    assert rig.work.workers[0].run() is not None
    assert (4, 2) == (len(server.read_all(REPO)), len(server.history(REPO)))
    assert "" == rig.work.workers[0].waits_for()


def test_mirrors_of_one_repository_share_its_budget(tmp_path: Path) -> None:
    """What one takes, the other does not get; another repository is no matter."""
    limits, pace = Limits(tmp_path / "limits.json"), Pace(4)
    limits.count_commits("hub model acme/x", pace, 2)

    again = Limits(tmp_path / "limits.json")

    assert (0, 2) == (again.commits_left("hub model acme/x", pace), again.commits_left("hub model acme/y", pace))
    assert again.commit_wait_s("hub model acme/x", pace) > 1700


def test_a_raised_budget_holds_for_what_was_made_before(tmp_path: Path) -> None:
    """Whoever raises ``max_commits_per_hour`` because a backlog waits does not wait as long as before."""
    limits = Limits(tmp_path / "limits.json")
    limits.count_commits("hub model acme/x", Pace(5), 3)
    assert 0 == limits.commits_left("hub model acme/x", Pace(5))

    again = Limits(tmp_path / "limits.json")

    assert 47 == again.commits_left("hub model acme/x", Pace(100))
    assert 0 == again.commits_left("hub model acme/x", Pace(3))
    again.count_commits("hub model acme/x", Pace(100), 1)
    assert 46 == Limits(tmp_path / "limits.json").commits_left("hub model acme/x", Pace(100))


@pytest.mark.parametrize("content", ["", "{broken", json.dumps({"not_before": {"x": "soon"}})])
def test_a_damaged_file_costs_what_it_remembers(tmp_path: Path, content: str) -> None:
    """It is written anew."""
    path = tmp_path / "limits.json"
    path.write_text(content)
    limits = Limits(path)

    limits.defer("x", 100)

    assert 0 == limits.wait_s("y")
    assert 90 < Limits(path).wait_s("x", "y") <= 100
    assert 0o600 == path.stat().st_mode & 0o777


def test_a_wait_is_an_hour_at_most(tmp_path: Path) -> None:
    """Whatever a server asks for, and whatever the clock did since."""
    limits = Limits(tmp_path / "limits.json")

    limits.defer("x", 1e9)

    assert limits.wait_s("x") <= 3600


def test_a_clock_that_is_set_changes_no_wait(tmp_path: Path) -> None:
    """What was noted by the clock as it was follows it, over a restart too."""
    limits, pace = Limits(tmp_path / "limits.json"), Pace(60)
    limits.defer("hub", 3000)
    limits.count_commits("hub model acme/x", pace, 30)

    limits.follow_clock(-1000.0)

    for each in (limits, Limits(tmp_path / "limits.json")):
        assert 1900 < each.wait_s("hub") <= 2000
        assert 8 == each.commits_left("hub model acme/x", pace)


def test_notes_of_a_clock_that_was_years_ahead_stop_no_mirror(tmp_path: Path) -> None:
    """The machine began with a wrong clock: what was noted then would hold for years."""
    path, pace, ahead = tmp_path / "limits.json", Pace(60), datetime.now(UTC).timestamp() + 3e7
    path.write_text(json.dumps({"not_before": {"hub": ahead}, "commits_free_at": {"hub model acme/x": ahead}}))
    limits = Limits(path)

    assert (0.0, 0.0) == (limits.wait_s("hub", "other"), limits.commit_wait_s("hub model acme/x", pace))
    limits.defer("hub", 100)
    assert 90 < limits.wait_s("hub") <= 100
