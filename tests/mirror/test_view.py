"""What a mirror shows: sets of files, revisions of units, the newest units only; and what a change of that does."""

import contextlib
import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, CutError, PlainServer, Request
from support.rig import REPO, Rig, safetensors

from hubsync.config.model import Best
from hubsync.errors import MirrorError
from hubsync.mirror.roles import ROLES, expand_exclude, expand_include, mirror_rules
from hubsync.mirror.selection import choose_best, choose_latest, newest_units
from hubsync.mirror.view import revision_of
from hubsync.watch.rules import PathRules

MakeRig = Callable[..., Rig]

UNIT = {
    "config.json": b"{}",
    "model.safetensors": safetensors(2000),
    "optimizer.bin": b"\0optimizer",
    "rng_state.dat": b"\0random",
    "training_args.bin": b"\0args",
}


@pytest.fixture
def make_units(make_rig: MakeRig, server: PlainServer) -> MakeRig:
    """Return what makes a rig whose units are complete when they say so."""

    def make(mirror: Mapping[str, Any] | None = None, **settings: Any) -> Rig:
        return make_rig(server, mirror=mirror, units=("checkpoint-*",), complete_when=("DONE",), **settings)

    return make


def write_unit(rig: Rig, step: int, state: Mapping[str, Any] | None = None, at: str = "", weights: int = 2000) -> None:
    """Write a checkpoint whose files are as old as its step says."""
    name = f"{at}checkpoint-{step}"
    told = json.dumps({"global_step": step, **(state or {})}).encode()
    files = {**UNIT, "model.safetensors": safetensors(weights), "trainer_state.json": told, "DONE": b""}
    for path, content in files.items():
        file = rig.write(f"{name}/{path}", content + (b"%d" % step if path == "optimizer.bin" else b""))
        os.utime(file, (1_600_000_000 + step, 1_600_000_000 + step))


def shown(server: PlainServer, branch: str = "main") -> set[str]:
    """Return the paths of a branch, without the attributes."""
    listed = server.git(REPO, "ls-tree", "-r", "--name-only", branch).splitlines()
    return {path for path in listed if path != ".gitattributes"}


def branches(server: PlainServer) -> set[str]:
    return set(server.git(REPO, "for-each-ref", "--format=%(refname:short)", "refs/heads").split())


# --- roles


@pytest.mark.parametrize(
    ("role", "taken", "left"),
    [
        (
            "weights",
            ("model-00001-of-00002.safetensors", "config.json", "tokenizer.json", "a/pytorch_model.bin",
             "adapter_model.safetensors", "adapter_config.json", "model.safetensors.index.json", "x.gguf"),
            ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "trainer_state.json",
             "optimizer_0/__0_0.distcp", "global_step5/mp_rank_00_model_states.pt", "events.out.tfevents.1.x",
             "zero_pp_rank_0_mp_rank_00_optim_states.pt", "random_states_0.pkl", "optimizer.bin"),
        ),
        (
            "resume",
            ("model.safetensors", "optimizer.pt", "trainer_state.json", "global_step5/x.pt", "anything.json"),
            ("events.out.tfevents.1.x", "train.log", "wandb/run/a.json", "runs/a/events.out.tfevents.1"),
        ),
        ("logs", ("events.out.tfevents.1.x", "runs/events.out.tfevents.1.x", "train.log"), ("model.safetensors",)),
    ],
)  # fmt: skip
def test_a_role_names_files(role: str, taken: tuple[str, ...], left: tuple[str, ...]) -> None:
    """Each role takes what it is for, at any depth, and leaves the rest."""
    rules = PathRules(expand_include([role]))

    assert {**dict.fromkeys(taken, True), **dict.fromkeys(left, False)} == {
        path: rules.verdict(f"checkpoint-5/{path}").taken for path in (*taken, *left)
    }


@pytest.mark.parametrize("role", ROLES)
def test_no_role_that_is_excluded_leaves_nothing(role: str) -> None:
    """To exclude a role never excludes the weights of another one's meaning, but for the weights themselves."""
    rules = PathRules(("**",), expand_exclude([role]))

    assert (role != "weights") == rules.verdict("checkpoint-5/model.safetensors").taken
    assert (role != "resume") == rules.verdict("checkpoint-5/optimizer.pt").taken


def test_the_rules_of_a_mirror_are_compiled_once(make_units: MakeRig) -> None:
    """A proof asks for them with each of its files, and what is compiled is not freed at once."""
    mirror = make_units({"include": ("weights",)}).config.targets[0].mirrors[0]

    assert mirror_rules(mirror) is mirror_rules(mirror.model_copy())


def test_a_mirror_gets_its_role_only(make_units: MakeRig, server: PlainServer) -> None:
    """The unit arrives whole within the role, no object of other files is sent, and nothing waits afterwards."""
    rig = make_units({"include": ("weights",)})
    write_unit(rig, 1)
    rig.write("notes.txt", b"notes")

    rig.update()

    assert {"checkpoint-1/config.json", "checkpoint-1/model.safetensors"} == shown(server)
    assert [UNIT["model.safetensors"]] == list(server.objects.values())
    assert ([], 0) == (rig.publisher().backlog(), rig.publisher().measure_backlog().files)


def test_objects_of_other_roles_are_not_sent_early(make_units: MakeRig, server: PlainServer) -> None:
    """While the unit is written, only what this mirror will show goes up."""
    rig = make_units({"include": ("weights",)})
    write_unit(rig, 1)
    (rig.source / "checkpoint-1/DONE").unlink()
    rig.settle()

    rig.publisher().upload_early()

    assert [UNIT["model.safetensors"]] == list(server.objects.values())


def test_a_snapshot_with_nothing_for_a_mirror_is_done(make_units: MakeRig, server: PlainServer) -> None:
    """Nothing is pushed, not even a branch, nothing is said to be published, and nothing waits."""
    rig = make_units({"include": ("weights",)})
    rig.write("notes.txt", b"notes")

    with capture_logs() as entries:
        rig.update()

    assert [] == [entry for entry in entries if entry["event"] == "mirror.published"]
    assert set() == branches(server)
    assert [] == rig.publisher().backlog()
    write_unit(rig, 1)
    rig.update()
    assert "checkpoint-1/model.safetensors" in shown(server)


def test_more_to_show_is_added_at_once(make_units: MakeRig, server: PlainServer) -> None:
    """A config that shows more publishes what is there already; their edits outside stay, theirs inside are told."""
    rig = make_units({"include": ("weights",)})
    write_unit(rig, 1)
    rig.update()
    server.commit(REPO, {"theirs.txt": b"theirs"})

    rig.restart_with({})
    with capture_logs() as entries:
        rig.publish()

    expected = {f"checkpoint-1/{path}" for path in (*UNIT, "trainer_state.json", "DONE")}
    assert expected | {"theirs.txt"} == shown(server)
    assert [] == [entry for entry in entries if entry["event"] == "mirror.foreign_edit"]
    assert [] == rig.publisher().backlog()


def test_less_to_show_removes_nothing(make_units: MakeRig, server: PlainServer) -> None:
    """Which files are ours is not known any more, so that all stay; new ones follow the new rule."""
    rig = make_units()
    write_unit(rig, 1)
    rig.update()

    rig.restart_with({"include": ("weights",)})
    write_unit(rig, 2)
    rig.update()

    assert "checkpoint-1/optimizer.bin" in shown(server)
    assert {"checkpoint-2/config.json", "checkpoint-2/model.safetensors"} == {
        path for path in shown(server) if path.startswith("checkpoint-2")
    }


# --- revisions


def test_each_unit_is_a_revision_and_main_is_the_latest(make_units: MakeRig, server: PlainServer) -> None:
    """The files of a unit are at the root of its branch; main has those of the newest, and what is in no unit."""
    rig = make_units(publish="revisions")
    rig.write("notes.txt", b"notes")
    for step in (1, 2):
        write_unit(rig, step)
        rig.update()

    unit = {*UNIT, "trainer_state.json", "DONE"}
    assert {"main", "checkpoint-1", "checkpoint-2"} == branches(server)
    assert [unit, unit, unit | {"notes.txt"}] == [shown(server, b) for b in ("checkpoint-1", "checkpoint-2", "main")]
    assert [1, 2, 2] == [
        json.loads(server.git(REPO, "show", f"{branch}:trainer_state.json"))["global_step"]
        for branch in ("checkpoint-1", "checkpoint-2", "main")
    ]
    assert 3 == len(server.history(REPO))
    assert ["1", "1"] == [server.git(REPO, "rev-list", "--count", b) for b in ("checkpoint-1", "checkpoint-2")]


def test_all_branches_move_in_one_push(make_units: MakeRig, server: PlainServer) -> None:
    """Whoever looks in between sees none of it or all of it."""
    rig = make_units(publish="revisions")
    write_unit(rig, 1)

    rig.update()

    assert 1 == len([request for request in server.requests if request.is_push])
    assert {"main", "checkpoint-1"} == branches(server)


def test_a_unit_that_is_saved_again_gets_a_commit_on_its_revision(make_units: MakeRig, server: PlainServer) -> None:
    """Its revision goes on; an older one does not come back to main."""
    rig = make_units(publish="revisions")
    for step in (1, 2):
        write_unit(rig, step)
        rig.update()
    file = rig.write("checkpoint-1/config.json", b'{"again": 1}')
    os.utime(file, (1_600_000_001, 1_600_000_001))

    rig.update()

    assert "2" == server.git(REPO, "rev-list", "--count", "checkpoint-1")
    assert '{"again": 1}' == server.git(REPO, "show", "checkpoint-1:config.json")
    assert "{}" == server.git(REPO, "show", "main:config.json")


def test_main_may_be_the_best(make_units: MakeRig, server: PlainServer) -> None:
    """The Trainer's own state says which unit main shows, also when a newer one comes."""
    rig = make_units(publish="revisions", main="best")
    write_unit(rig, 1, {"best_model_checkpoint": "/somewhere/checkpoint-1"})
    rig.update()
    write_unit(rig, 2, {"best_model_checkpoint": "/somewhere/checkpoint-1"})
    rig.update()

    assert 1 == json.loads(server.git(REPO, "show", "main:trainer_state.json"))["global_step"]
    write_unit(rig, 3, {"best_model_checkpoint": "/somewhere/checkpoint-3"})
    rig.update()
    assert 3 == json.loads(server.git(REPO, "show", "main:trainer_state.json"))["global_step"]


def test_a_failed_push_moves_no_branch_and_the_next_one_moves_all(make_units: MakeRig, server: PlainServer) -> None:
    """After a failure the same commits are pushed: nothing comes twice on any branch."""

    def fail(request: Request) -> None:
        if request.is_push:
            raise AnswerError(503)

    rig = make_units(publish="revisions")
    write_unit(rig, 1)
    rig.update()
    write_unit(rig, 2)
    rig.commit()
    server.before = fail
    with pytest.raises(Exception, match="503"):
        rig.publish()
    assert {"main", "checkpoint-1"} == branches(server)
    server.before = lambda _: None
    rig.restart()

    rig.publish()

    assert {"main", "checkpoint-1", "checkpoint-2"} == branches(server)
    assert ["1", "2"] == [server.git(REPO, "rev-list", "--count", b) for b in ("checkpoint-2", "main")]


def test_a_server_without_atomic_pushes_gets_main_last(make_units: MakeRig, server: PlainServer) -> None:
    """Where several refs cannot move as one, each is pushed by itself, the main branch last."""
    subprocess.run(["git", "-C", server.root / f"{REPO}.git", "config", "receive.advertiseAtomic", "false"], check=True)
    rig = make_units(publish="revisions")
    write_unit(rig, 1)

    rig.update()

    assert {"main", "checkpoint-1"} == branches(server)
    assert shown(server) == shown(server, "checkpoint-1")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("checkpoint-500", "checkpoint-500"),
        ("run/checkpoint-500", "run/checkpoint-500"),
        ("step=5", "step=5"),
        ("a b", None),
        ("main", None),
        ("main/x", None),
        ("-x", None),
        ("x..y", None),
        ("x.lock", None),
        (".x", None),
        ("x~1", None),
        ("x\ny", None),
        ("@{x", None),
    ],
)
def test_a_revision_has_a_name_that_git_takes(unit: str, expected: str | None) -> None:
    """A legal name stays; any other is made legal and keeps apart from all others."""
    name = revision_of(unit, "main")

    assert name == expected if expected else name != unit
    argv = ["git", "check-ref-format", "--branch", name]
    assert 0 == subprocess.run(argv, check=False, capture_output=True).returncode
    assert name != "main"
    assert not name.startswith("main/")


# --- the newest units only


def test_a_mirror_may_keep_the_newest_units_only(make_units: MakeRig, server: PlainServer) -> None:
    """Older units that were waiting are not sent and said to be skipped; those that were there go from the branch."""
    rig = make_units({"keep_latest": 2})
    rig.write("notes.txt", b"notes")
    for step in (1, 2):
        write_unit(rig, step)
        rig.update()
    for step in (3, 4, 5):
        write_unit(rig, step)
        rig.commit()

    with capture_logs() as entries:
        rig.publish()

    assert {"checkpoint-4", "checkpoint-5", "notes.txt"} == {path.partition("/")[0] for path in shown(server)}
    assert ["checkpoint-3"] == [entry["unit"] for entry in entries if entry["event"] == "unit.skipped"]
    assert ["checkpoint-5", "checkpoint-4"] == [e["unit"] for e in entries if e["event"] == "unit.published"]
    assert b"\0optimizer3" not in server.objects.values()


def lacked(server: PlainServer) -> set[str]:
    """Return the objects that some commit on the server names and the server lacks."""
    listed = server.git(REPO, "rev-list", "--all", "--objects", "--no-object-names", "--filter=object:type=blob",
                        "--filter-provided-objects").split()  # fmt: skip
    contents = (server.git(REPO, "cat-file", "blob", blob) for blob in listed)
    return {found[1] for text in contents if (found := re.search(r"oid sha256:(\w+)", text))} - server.objects.keys()


def test_the_best_unit_is_kept_beside_the_newest(make_units: MakeRig, server: PlainServer) -> None:
    """It is found although the mirror gets no state file, and its weights are there although it is the oldest."""
    rig = make_units(
        {"include": ("weights",), "keep_latest": 2}, publish="revisions", main="best",
        best=Best(metric="eval_loss", direction="min"),
    )  # fmt: skip
    for step, loss in ((1, 0.1), (2, 0.5), (3, 0.6), (4, 0.7)):
        write_unit(rig, step, {"log_history": [{"eval_loss": loss}]}, weights=2000 + step)
        rig.commit()

    rig.publish()

    assert set() == lacked(server)
    assert safetensors(2001) == server.read(REPO, "model.safetensors")
    assert {"main", "checkpoint-1", "checkpoint-3", "checkpoint-4"} == branches(server)


@pytest.mark.parametrize(
    ("publish", "main", "seed"),
    [("tree", "latest", 1), ("revisions", "latest", 1), ("revisions", "best", 1), ("revisions", "best", 2)],
)
def test_no_commit_names_what_the_mirror_lacks(
    make_units: MakeRig, server: PlainServer, publish: str, main: str, seed: int
) -> None:
    """Units come, are saved again and skipped in any order, and the Trainer names any of them as the best."""
    chance = random.Random(seed)
    rig = make_units({"keep_latest": chance.choice((1, 2))}, publish=publish, main=main)
    written: list[int] = []
    for time in range(12):
        is_again = chance.random() < 0.3 and written
        step = chance.choice(written) if is_again else len(set(written)) + 1
        written.append(step)
        best = chance.choice(written)
        write_unit(rig, step, {"best_model_checkpoint": f"checkpoint-{best}", "time": time}, weights=2000 + time)
        rig.commit()
        if chance.random() < 0.4:
            rig.publish()

            assert set() == lacked(server)
            assert [] == rig.publisher().backlog()


# --- the newest unit first


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
@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5, 6])
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


# --- which unit


def test_the_latest_unit_is_the_one_written_last() -> None:
    """Not the one that was published last."""
    assert choose_latest({"checkpoint-9": (30, 0), "checkpoint-10": (20, 1)}) == "checkpoint-9"
    assert choose_latest({"checkpoint-9": (30, 0), "checkpoint-10": (30, 1)}) == "checkpoint-10"
    assert choose_latest({}) is None


def test_the_newest_units_are_those_written_last() -> None:
    """``None`` keeps all."""
    times = {"a": (3, 0), "b": (1, 1), "c": (2, 2)}

    assert (None, {"a", "c"}) == (newest_units(times, None), newest_units(times, 2))


@pytest.mark.parametrize(("direction", "expected"), [("min", "checkpoint-2"), ("max", "checkpoint-3")])
def test_the_best_unit_has_the_best_score(direction: Any, expected: str) -> None:
    """Of each unit the newest value counts; one without a value, or with no number, does not take part."""
    scores: dict[str, list[float]] = {"checkpoint-1": [9, 2], "checkpoint-2": [5, 1], "checkpoint-3": [3], "x": []}
    states = {
        unit: json.dumps({"log_history": [{"step": 1}, *({"eval_loss": value} for value in values)]})
        for unit, values in scores.items()
    }
    states["checkpoint-4"] = '{"log_history": [{"eval_loss": NaN}]}'
    times = {unit: (number, number) for number, unit in enumerate(states)}

    assert expected == choose_best(states, times, Best(metric="loss", direction=direction))
    assert expected == choose_best(states, times, Best(metric="eval_loss", direction=direction))


@pytest.mark.parametrize("state", ["", "[]", "{", '{"best_model_checkpoint": null}', '{"best_model_checkpoint": "gone-7"}'])
def test_without_a_word_of_the_trainer_there_is_no_best(state: str) -> None:
    """A state that cannot be read, or names no unit that is there, decides nothing."""
    assert choose_best({"checkpoint-1": state}, {"checkpoint-1": (1, 0)}, None) is None
