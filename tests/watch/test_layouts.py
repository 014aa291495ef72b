from collections.abc import Iterable
from typing import Any

import pytest

from hubsync.watch.layouts import LAYOUTS, Completion, FileFact, UnitFacts, judge

SECOND = 1_000_000_000


def unit(
    *paths: str, name: str = "checkpoint-500", newer: Iterable[str] = (), older: Iterable[str] = (), **facts: Any
) -> UnitFacts:
    """Return a unit of *paths*, all written at one time but for those an hour *newer* or *older*."""
    times = dict.fromkeys(newer, 3600) | dict.fromkeys(older, -3600)
    return UnitFacts(name, {path: FileFact(10, times.get(path, 0) * SECOND) for path in paths}, **facts)


TRAINER = ("config.json", "model.safetensors", "training_args.bin", "optimizer.pt", "rng_state.pth", "trainer_state.json")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
SHARDED = ("config.json", *SHARDS, INDEX, "training_args.bin", "trainer_state.json")
DCP = (".metadata", "__0_0.distcp", "__1_0.distcp")
TAG = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt")
ACCELERATE = ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")


def without(paths: Iterable[str], *missing: str) -> tuple[str, ...]:
    return tuple(path for path in paths if path not in missing)


COMPLETE = [
    ("transformers Trainer", unit(*TRAINER)),
    ("transformers Trainer", unit(*SHARDED, indexes={INDEX: SHARDS})),
    (
        "transformers Trainer",
        unit("adapter_config.json", "adapter_model.safetensors", "training_args.bin", "trainer_state.json"),
    ),
    ("transformers Trainer", unit(*without(TRAINER, "optimizer.pt", "rng_state.pth"))),
    ("transformers Trainer", unit(*TRAINER, "global_step500/" + TAG[0], "latest", markers={"latest": "global_step500"})),
    ("transformers Trainer", unit("trainer_state.json", *(f"pytorch_model_fsdp_0/{path}" for path in DCP))),
    ("torch distributed checkpoint", unit(*DCP)),
    ("DeepSpeed tag", unit(*TAG, name="global_step500", markers={"../latest": "global_step500\n"})),
    ("DeepSpeed tag", unit(*TAG, name="global_step500", markers={"../latest": "global_step1000"})),
    ("DeepSpeed tag", unit(*TAG, name="best", markers={"../latest": "best"})),
    ("DeepSpeed directory", unit("global_step5/" + TAG[0], "latest", name="run", markers={"latest": "global_step5"})),
    ("Accelerate", unit(*ACCELERATE)),
    ("Lightning sharded", unit(*DCP, "meta.pt", name="last.ckpt")),
    ("model directory", unit("config.json", "model.safetensors")),
    ("model directory", unit("config.json", *SHARDS, INDEX, indexes={INDEX: SHARDS})),
    ("model directory", unit("unet/config.json", "unet/model.safetensors", "model_index.json")),
    ("complete_when", unit("a.bin", "_SUCCESS", complete_when=("_SUCCESS",))),
    ("complete_when", unit("a.bin", "deep/x.done", complete_when=("_SUCCESS", "*.done"))),
    ("complete_when", unit(*without(TRAINER, "trainer_state.json"), "ok", complete_when=("ok",))),
    ("unknown layout", unit("notes.txt")),
]

INCOMPLETE = [
    ("transformers Trainer", unit(*without(TRAINER, "trainer_state.json")), "trainer_state.json"),
    ("transformers Trainer", unit("model.safetensors", "optimizer.pt"), "trainer_state.json"),
    ("transformers Trainer", unit(*TRAINER, "checkpoint-is-incomplete.txt"), "checkpoint-is-incomplete.txt"),
    ("transformers Trainer", unit(*without(TRAINER, "model.safetensors")), "no weights"),
    ("transformers Trainer", unit(*without(SHARDED, SHARDS[1]), indexes={INDEX: SHARDS}), "names 1 of 2 shards"),
    ("transformers Trainer", unit(*without(SHARDED, SHARDS[1], INDEX)), "1 of 2 shards are missing"),
    ("transformers Trainer", unit(*TRAINER, older=["trainer_state.json"]), "older than model.safetensors"),
    ("transformers Trainer", unit(*SHARDED, newer=[SHARDS[0]]), f"older than {SHARDS[0]}"),
    ("transformers Trainer", unit(*TRAINER, "global_step500/" + TAG[0]), "latest is missing"),
    (
        "transformers Trainer",
        unit("trainer_state.json", "pytorch_model_fsdp_0/__0_0.distcp"),
        "pytorch_model_fsdp_0/.metadata",
    ),
    ("torch distributed checkpoint", unit(*without(DCP, ".metadata")), ".metadata is missing"),
    ("torch distributed checkpoint", unit(*DCP, newer=["__1_0.distcp"]), ".metadata is older than __1_0.distcp"),
    ("DeepSpeed tag", unit(*TAG, name="global_step500"), "`latest` beside it is missing"),
    ("DeepSpeed tag", unit(*TAG, name="global_step500", markers={"../latest": "global_step400"}), "names 'global_step400'"),
    ("DeepSpeed tag", unit(*TAG, name="best", markers={"../latest": "last"}), "names 'last'"),
    ("DeepSpeed directory", unit("global_step5/" + TAG[0], name="run"), "latest is missing"),
    (
        "DeepSpeed directory",
        unit("s6/" + TAG[0], "latest", name="run", markers={"latest": "s5"}),
        "names 's5', which is missing",
    ),
    ("DeepSpeed directory", unit("s5/" + TAG[0], "latest", name="run", older=["latest"]), "latest is older"),
    ("Accelerate", unit(*without(ACCELERATE, "random_states_0.pkl")), "random_states_0.pkl"),
    ("Accelerate", unit(*without(ACCELERATE, "model.safetensors")), "no weights"),
    ("Lightning sharded", unit(*DCP, name="last.ckpt"), "meta.pt is missing"),
    ("Lightning sharded", unit("meta.pt", "__0_0.distcp", name="last.ckpt"), ".metadata is missing"),
    ("model directory", unit("config.json"), "no weights"),
    ("model directory", unit("config.json", SHARDS[0]), "1 of 2 shards are missing"),
    ("model directory", unit("config.json", INDEX, indexes={INDEX: SHARDS}), "no weights"),
    ("complete_when", unit(*TRAINER, complete_when=("_SUCCESS",)), "nothing matches _SUCCESS yet"),
    (
        "complete_when",
        unit("a.bin", "_SUCCESS", complete_when=("_SUCCESS",), older=["_SUCCESS"]),
        "_SUCCESS is older than a.bin",
    ),
    ("unknown layout", unit(), "no file yet"),
]


@pytest.mark.parametrize(("layout", "facts"), COMPLETE)
def test_a_finished_unit_is_complete(layout: str, facts: UnitFacts) -> None:
    """Each writer's own signal completes a unit, and the reason names the layout."""
    completion = judge(facts)

    assert (True, layout, ()) == (completion.complete, completion.layout, completion.missing)
    assert completion.reason.startswith(layout)


@pytest.mark.parametrize(("layout", "facts", "reason"), INCOMPLETE)
def test_an_unfinished_unit_is_not_complete(layout: str, facts: UnitFacts, reason: str) -> None:
    """What is missing, or saved again, is named."""
    completion = judge(facts)

    assert (False, layout) == (completion.complete, completion.layout)
    assert reason in completion.reason


@pytest.mark.parametrize(("_layout", "facts"), COMPLETE)
def test_nothing_is_complete_while_a_file_is_held_or_written(_layout: str, facts: UnitFacts) -> None:
    """Files that are not settled, and temporary files that still change, hold back every layout."""
    held = UnitFacts(**{**as_dict(facts), "held": {"a.bin": "still being written"}})
    writing = UnitFacts(**{**as_dict(facts), "writing": frozenset({".tmpAbCdEf"})})

    assert not judge(held).complete
    assert not judge(writing).complete


def as_dict(facts: UnitFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in UnitFacts.__slots__}


def test_the_order_of_one_save_does_not_matter() -> None:
    """A checkpoint that was copied in within a minute has its times in no order, and is complete."""
    files = {path: FileFact(1, number * SECOND) for number, path in enumerate(reversed(TRAINER))}

    assert judge(UnitFacts("checkpoint-500", files)).complete


def test_every_step_of_a_trainers_save_is_incomplete_until_the_last() -> None:
    """Seen after any of its files, a checkpoint that is written in the Trainer's order is complete only with the last."""
    order = ("config.json", *SHARDS, INDEX, "training_args.bin", "optimizer.pt", "rng_state.pth", "trainer_state.json")
    completions = []
    for length in range(len(order) + 1):
        files = {path: FileFact(1, number * SECOND) for number, path in enumerate(order[:length])}
        completions.append(judge(UnitFacts("checkpoint-500", files)).complete)

    # After the index it looks like a model saved by hand; being quiet for a while is what tells the two apart.
    assert [False, False, False, True, True, False, False, False, True] == completions


def test_missing_shards_are_listed() -> None:
    """The caller can show what is waited for; counting starts at 0 where the writer's does."""
    assert ("x/m-00002-of-00003.safetensors", "x/m-00003-of-00003.safetensors") == judge(
        unit("x/m-00001-of-00003.safetensors")
    ).missing
    assert ("d-00001-of-00002.parquet",) == judge(unit("d-00000-of-00002.parquet")).missing
    assert judge(unit("d-00000-of-00002.parquet", "d-00001-of-00002.parquet")).complete
    assert 3 == len(judge(unit("d-000001-of-999999.bin")).missing)


def test_an_index_in_a_directory_names_its_neighbours() -> None:
    """Members are relative to the index."""
    facts = unit("text_encoder/" + INDEX, "text_encoder/" + SHARDS[0], indexes={"text_encoder/" + INDEX: SHARDS})

    assert ("text_encoder/" + SHARDS[1],) == judge(facts).missing


def test_an_unknown_layout_says_so() -> None:
    """The operator reads that no signal was found, only quiet."""
    assert Completion(True, "unknown layout: quiet and whole", "unknown layout") == judge(unit("a.txt"))


def test_the_table_is_complete() -> None:
    """Every row but the last names its source, names are unique, and the last row takes anything."""
    assert len({row.name for row in LAYOUTS}) == len(LAYOUTS)
    assert [] == [row.name for row in LAYOUTS[:-1] if not (row.source and row.rule)]
    assert LAYOUTS[-1].recognises(unit())
