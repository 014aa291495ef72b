"""A mirror that is behind gets the newest unit first, whole and once, whatever happens; all else has its turn."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, CutError, PlainServer, Request
from support.rig import REPO, Rig
from support.units import UNIT, branches, shown, write_unit

from hubsync.errors import MirrorError

MakeRig = Callable[..., Rig]


def units_in(server: PlainServer, commit: str) -> dict[str, set[str]]:
    """Return the units that a commit shows, with their files."""
    units: dict[str, set[str]] = {}
    for path in shown(server, commit):
        if path.startswith("checkpoint-"):
            units.setdefault(path.partition("/")[0], set()).add(path.partition("/")[2])
    return units


@pytest.mark.parametrize("publish", ["tree", "revisions"])
def test_behind_the_newest_unit_goes_first(make_units: MakeRig, server: PlainServer, publish: str) -> None:
    """Each unit arrives whole and once, the newest first; loose files follow, and the end is what the source is."""
    rig = make_units(publish=publish)
    rig.write("a.txt", b"0")
    write_unit(rig, 1)
    rig.update()
    for step in (2, 3, 4):
        write_unit(rig, step)
        rig.write("a.txt", b"%d" % step)
        rig.commit()

    with capture_logs() as entries:
        rig.publish()

    order = ["checkpoint-4", "checkpoint-3", "checkpoint-2"]
    assert order == [entry["unit"] for entry in entries if entry["event"] == "unit.published"]
    whole = {*UNIT, "trainer_state.json", "DONE"}
    assert all(files == whole for c in server.history(REPO) for files in units_in(server, c).values())
    assert b"4" == server.read(REPO, "a.txt")
    assert [] == rig.publisher().backlog()
    if publish == "tree":
        assert {path: server.read(REPO, path) for path in shown(server)} == {
            str(p.relative_to(rig.source)): p.read_bytes() for p in rig.source.rglob("*") if p.is_file()
        }
    else:
        assert 4 == json.loads(server.git(REPO, "show", "main:trainer_state.json"))["global_step"]
        assert {"main", *order, "checkpoint-1"} == branches(server)
        assert ["1"] * 3 == [server.git(REPO, "rev-list", "--count", branch) for branch in order]


def test_what_went_first_is_no_backlog_any_more(make_units: MakeRig, server: PlainServer) -> None:
    """While others wait, a mirror lacks only what it lacks, whatever it was shown before that."""
    rig = make_units()
    for step in (1, 2, 3):
        write_unit(rig, step)
        rig.commit()
    whole = rig.publisher().measure_backlog().files
    pushes: list[Request] = []

    def fail_third(request: Request) -> None:
        pushes.extend([request] * request.is_push)
        if len(pushes) > 2:
            raise AnswerError(503)

    server.before = fail_third
    with pytest.raises(MirrorError):
        rig.publish()

    assert whole == 3 * rig.publisher().measure_backlog().files


def date(rig: Rig, step: int, written_at: int) -> None:
    """Have a unit written at that time."""
    for file in (rig.source / f"checkpoint-{step}").iterdir():
        os.utime(file, (written_at, written_at))


def units_published(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the units in the order in which they were published."""
    return [entry["unit"] for entry in entries if entry["event"] == "unit.published"]


def test_of_units_of_one_second_the_last_goes_first(make_units: MakeRig) -> None:
    """Small ones are written faster than snapshots tell times."""
    rig = make_units()
    for step in (9, 10, 11):
        write_unit(rig, step)
        date(rig, step, 1_600_000_000)
    rig.commit()

    with capture_logs() as entries:
        rig.publish()

    assert ["checkpoint-11", "checkpoint-10", "checkpoint-9"] == units_published(entries)


def test_a_unit_that_is_again_as_it_was_keeps_no_other_from_going_first(make_units: MakeRig) -> None:
    """Changed and changed back it is the newest, and nothing of it is to be sent."""
    rig = make_units()
    write_unit(rig, 1)
    rig.update()
    for step in (2, 3):
        write_unit(rig, step)
        rig.commit()
    for later, content in enumerate((b'{"other": 1}', UNIT["config.json"])):
        rig.write("checkpoint-1/config.json", content)
        date(rig, 1, 1_600_000_100 + later)
        rig.commit()

    with capture_logs() as entries:
        rig.publish()

    assert ["checkpoint-1", "checkpoint-3", "checkpoint-2"] == units_published(entries)
    assert [] == rig.publisher().backlog()


def wave(rig: Rig) -> list[str]:
    """Write ten units and a loose file, publish once, and return the units in the order in which they came."""
    for step in range(1, 11):
        write_unit(rig, step)
        rig.commit()
    rig.write("a.txt", b"loose")
    rig.commit()
    with capture_logs() as entries:
        rig.publish()

    return units_published(entries)


def test_a_wave_of_units_leaves_a_commit_for_all_else(make_units: MakeRig, server: PlainServer) -> None:
    """The newest go first, one commit each; of the four that may come at once, the last has all that is left."""
    rig = make_units({"max_commits_per_hour": 8})

    first = wave(rig)[:3]

    assert ["checkpoint-10", "checkpoint-9", "checkpoint-8"] == first
    assert 4 == len(server.history(REPO))
    assert 10 == len(units_in(server, "main"))
    assert b"loose" == server.read(REPO, "a.txt")
    assert [] == rig.publisher().backlog()


def test_units_that_come_all_the_time_leave_a_turn_to_all_else(make_units: MakeRig) -> None:
    """Eight at most go ahead of the others in one publication, however many commits the Hub allows."""
    rig = make_units({"max_commits_per_hour": 9999})

    assert [f"checkpoint-{step}" for step in (10, 9, 8, 7, 6, 5, 4, 3, 1, 2)] == wave(rig)


def test_a_wave_of_units_leaves_a_turn_to_the_oldest(make_units: MakeRig) -> None:
    """With revisions each takes commits of its own, and two units are all that may come at once."""
    rig = make_units({"max_commits_per_hour": 8}, publish="revisions")

    assert ["checkpoint-10", "checkpoint-1"] == wave(rig)


@pytest.mark.parametrize("publish", ["tree", "revisions"])
@pytest.mark.parametrize("failing", [1, 4, 6, *(pytest.param(push, marks=pytest.mark.slow) for push in (2, 3, 5))])
def test_stopped_at_any_push_the_rest_follows(make_units: MakeRig, server: PlainServer, publish: str, failing: int) -> None:
    """Wherever a push fails, or its answer is lost, the restart goes on: no unit twice, none missing, none in part."""
    rig = make_units(publish=publish)
    for step in (1, 2, 3):
        write_unit(rig, step)
        rig.write("a.txt", b"%d" % step)
        rig.commit()
    pushes: list[Request] = []

    def before(request: Request) -> None:
        if request.is_push:
            pushes.append(request)
        if pushes and len(pushes) * 2 - 1 == failing:
            raise AnswerError(503)

    def after(_: Request) -> None:
        if pushes and len(pushes) * 2 == failing:
            raise CutError

    server.before, server.after = before, after
    with contextlib.suppress(MirrorError):
        rig.publish()
    server.before = server.after = lambda _: None
    rig.restart()
    write_unit(rig, 4)
    rig.commit()

    rig.publish()
    rig.restart()

    assert [] == rig.publisher().backlog()
    assert rig.publish() is None
    assert b"3" == server.read(REPO, "a.txt")
    whole = {*UNIT, "trainer_state.json", "DONE"}
    first = units_in(server, "main") if publish == "tree" else {}
    assert all(files == whole for c in server.history(REPO) for files in units_in(server, c).values())
    if publish == "tree":
        assert {f"checkpoint-{step}" for step in (1, 2, 3, 4)} == first.keys()
        log = server.git(REPO, "log", "--format=%s", "main").splitlines()
        subjects = [subject for subject in log if subject.startswith("checkpoint-")]
        assert sorted({*subjects}) == sorted(subjects)
    else:
        assert {"main", *(f"checkpoint-{step}" for step in (1, 2, 3, 4))} == branches(server)
        assert 4 == json.loads(server.git(REPO, "show", "main:trainer_state.json"))["global_step"]


def test_a_unit_that_was_ahead_and_is_saved_again_ends_as_it_is(make_units: MakeRig, server: PlainServer) -> None:
    """Published before older ones, then saved again: what was committed in between brings nothing old back."""
    rig = make_units()
    write_unit(rig, 1)
    rig.update()
    for step in (2, 3):
        write_unit(rig, step)
        rig.commit()
    server.before = fail_second_push()
    with pytest.raises(MirrorError):
        rig.publish()
    server.before = lambda _: None
    file = rig.write("checkpoint-3/config.json", b'{"again": 1}')
    os.utime(file, (1_600_000_009, 1_600_000_009))
    (rig.source / "checkpoint-2/config.json").unlink()

    rig.update()

    assert b'{"again": 1}' == server.read(REPO, "checkpoint-3/config.json")
    assert {"checkpoint-1", "checkpoint-2", "checkpoint-3"} == units_in(server, "main").keys()
    assert [] == rig.publisher().backlog()


def fail_second_push() -> Callable[[Request], None]:
    pushes: list[Request] = []

    def hook(request: Request) -> None:
        if request.is_push:
            pushes.append(request)
        if len(pushes) > 1:
            raise AnswerError(503)

    return hook
