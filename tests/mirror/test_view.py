"""What a mirror shows: sets of files, revisions of units, the newest units only; and what a change of that does."""

import json
import os
import random
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import REPO, Rig, safetensors
from support.units import UNIT, branches, shown, write_unit

from hubsync.config.model import Best
from hubsync.mirror.roles import ROLES, expand_exclude, expand_include, mirror_rules
from hubsync.mirror.selection import choose_best, choose_latest, newest_units
from hubsync.mirror.view import revision_of
from hubsync.watch.rules import PathRules

MakeRig = Callable[..., Rig]

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
    [
        ("tree", "latest", 1),
        ("revisions", "best", 1),
        pytest.param("revisions", "latest", 1, marks=pytest.mark.slow),
        pytest.param("revisions", "best", 2, marks=pytest.mark.slow),
    ],
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
