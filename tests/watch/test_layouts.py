from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from hubsync.watch.layout_words import choose_newest
from hubsync.watch.layouts import LAYOUTS, Completion, FileFact, UnitFacts, judge

SECOND = 1_000_000_000


def unit(*paths: str, name: str = "final", newer: Iterable[str] = (), older: Iterable[str] = (), **facts: Any) -> UnitFacts:
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
TRAINER_MODEL = ("config.json", "model.safetensors", "training_args.bin")  # trainer.save_model("final")
RANKED = ("rng_state_0.pth", "rng_state_1.pth")
TRACKER = "../latest_checkpointed_iteration.txt"
MEGATRON = ("common.pt", "metadata.json", *DCP)
MEGATRON_RANKS = tuple(f"mp_rank_{tensor:02}_{pipe:03}/model_optim_rng.pt" for tensor in range(2) for pipe in range(2))
VERL = tuple(f"actor/{kind}_world_size_2_rank_{rank}.pt" for kind in ("model", "optim", "extra_state") for rank in (0, 1))
NEMO = ("context/model.yaml", "weights/common.pt", *(f"weights/{path}" for path in DCP))
OLMO = (*(f"model_and_optim/{path}" for path in DCP), "train/rank0.pt", "train/rank1.pt", ".metadata.json")
LEROBOT = (
    "pretrained_model/config.json",
    "pretrained_model/model.safetensors",
    "training_state/training_step.json",
    "training_state/rng_state.safetensors",
    "training_state/optimizer_state.safetensors",
    "training_state/optimizer_param_groups.json",
)
UNCOMMITTED = '{"init_timestamp_nsecs": 5, "commit_timestamp_nsecs": null}'
COMMITTED = '{"init_timestamp_nsecs": 5, "commit_timestamp_nsecs": 6}'
DIFFUSERS = ("model_index.json", "unet/config.json", "unet/model.safetensors", "scheduler/scheduler_config.json")
PIPELINE = (
    '{"_class_name": "P", "unet": ["diffusers", "U"], "scheduler": ["diffusers", "S"], "safety_checker": [null, null]}'
)
LONG = 3600.0


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
    ("diffusers pipeline", unit("unet/config.json", "unet/model.safetensors", "model_index.json")),
    ("complete_when", unit("a.bin", "_SUCCESS", complete_when=("_SUCCESS",))),
    ("complete_when", unit("a.bin", "deep/x.done", complete_when=("_SUCCESS", "*.done"))),
    ("complete_when", unit(*without(TRAINER, "trainer_state.json"), "ok", complete_when=("ok",))),
    ("unknown layout", unit("notes.txt")),
    ("transformers Trainer", unit(*TRAINER, name="checkpoint-500")),
    ("transformers Trainer", unit(*TRAINER, *RANKED, name="checkpoint-500")),
    ("model directory", unit(*TRAINER_MODEL)),
    ("model directory", unit("config.json", *SHARDS, unchanged_s=LONG)),
    ("model directory", unit("config.json", *SHARDS, INDEX, indexes={INDEX: SHARDS}, older=[INDEX], unchanged_s=LONG)),
    ("model directory", unit("optimizer.pt", "model.pt")),
    ("named as a checkpoint", unit("config.json", "model.safetensors", name="checkpoint-500", unchanged_s=LONG)),
    ("named as a checkpoint", unit("policy.dat", name="checkpoint-500", unchanged_s=LONG)),
    ("PEFT adapter", unit("README.md", "adapter_config.json", "adapter_model.safetensors")),
    ("Accelerate", unit("unet/model.safetensors", "optimizer.bin", "random_states_0.pkl", name="checkpoint-500")),
    ("Accelerate", unit(*(f"pytorch_model_fsdp_0/{path}" for path in DCP), "random_states_0.pkl", "random_states_1.pkl")),
    ("torch distributed checkpoint", unit(*DCP, indexes={".metadata": DCP[1:]})),
    ("DeepSpeed directory", unit("checkpoint/" + TAG[0], "latest", name="a.ckpt", markers={"latest": "checkpoint"})),
    ("Megatron-LM", unit(*MEGATRON, name="iter_0000500", markers={TRACKER: "500\n"})),
    ("Megatron-LM", unit(*MEGATRON, name="iter_0000500", markers={TRACKER: "1000"})),
    ("Megatron-LM", unit(*MEGATRON_RANKS, name="release", markers={TRACKER: "release"})),
    ("Megatron-LM", unit(*VERL, name="global_step_10", markers={TRACKER: "10"})),
    ("NeMo", unit(*NEMO, name="model-step=100-last")),
    ("OLMo-core", unit(*OLMO, name="step1000")),
    ("LeRobot", unit(*LEROBOT, name="005000")),
    ("LeRobot", unit(*LEROBOT, name="005000", markers={"../last": "010000"})),
    ("Orbax", unit("_METADATA", "manifest.ocdbt", "d/abc", name="100")),
    ("Orbax", unit("_CHECKPOINT_METADATA", "default/_METADATA", markers={"_CHECKPOINT_METADATA": COMMITTED})),
    ("Orbax", unit("_CHECKPOINT_METADATA", "commit_success.txt", markers={"_CHECKPOINT_METADATA": UNCOMMITTED})),
    ("diffusers pipeline", unit(*DIFFUSERS, markers={"model_index.json": PIPELINE})),
    ("diffusers pipeline", unit("unet/config.json", "unet/model.safetensors", unchanged_s=LONG)),
    ("complete_when", unit("a-tmp", "ok", name="step1-tmp", complete_when=("ok",))),
    ("model directory", unit("model.safetensors", *(f"checkpoint-5/{path}" for path in TRAINER), name="run")),
    ("unknown layout", unit("context/notes.txt", name="docs")),
    ("unknown layout", unit("README.md", "notes.txt")),
    ("beginning of a model", unit("README.md", "tokenizer.json", unchanged_s=LONG)),
]

INCOMPLETE = [
    ("transformers Trainer", unit(*without(TRAINER, "trainer_state.json"), name="checkpoint-500"), "trainer_state.json"),
    ("transformers Trainer", unit("model.safetensors", "optimizer.pt", name="checkpoint-500"), "trainer_state.json"),
    ("transformers Trainer", unit(*TRAINER, "checkpoint-is-incomplete.txt"), "checkpoint-is-incomplete.txt"),
    ("transformers Trainer", unit(*without(TRAINER, "model.safetensors")), "no weights"),
    ("transformers Trainer", unit(*without(SHARDED, SHARDS[1]), indexes={INDEX: SHARDS}), "names 1 of 2 files"),
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
    ("model directory", unit("config.json", INDEX, indexes={INDEX: SHARDS}), "names 2 of 2 files"),
    ("complete_when", unit(*TRAINER, complete_when=("_SUCCESS",)), "nothing matches _SUCCESS yet"),
    (
        "complete_when",
        unit("a.bin", "_SUCCESS", complete_when=("_SUCCESS",), older=["_SUCCESS"]),
        "_SUCCESS is older than a.bin",
    ),
    ("unknown layout", unit(), "no file yet"),
    ("transformers Trainer", unit(*TRAINER_MODEL, name="checkpoint-500", unchanged_s=LONG), "trainer_state.json"),
    ("transformers Trainer", unit(*TRAINER, "rng_state_1.pth"), "1 of 2 ranks are missing: rng_state_0.pth"),
    (
        "transformers Trainer",
        unit("trainer_state.json", "rng_state_0.pth", *(f"pytorch_model_fsdp_0/{path}" for path in DCP)),
        "2 ranks wrote shards, only 1 their own state: rng_state_1.pth",
    ),
    ("named as a checkpoint", unit("config.json", "model.safetensors", name="checkpoint-500"), "trainer_state.json"),
    ("named as a checkpoint", unit("config.json", name="checkpoint-500", unchanged_s=LONG), "no weights"),
    ("named as a checkpoint", unit("README.md", name="checkpoint-500"), "trainer_state.json"),
    ("named as a checkpoint", unit("model.safetensors", name="checkpoint_0"), "random_states_0.pkl"),
    ("beginning of a model", unit("README.md", "tokenizer.json", "tokenizer_config.json"), "no weights yet"),
    ("transformers Trainer", unit(*TRAINER, older=["rng_state.pth"]), "rng_state.pth is older"),
    ("model directory", unit("config.json", *SHARDS), "the index of model-*-of-* is missing"),
    (
        "model directory",
        unit("config.json", *SHARDS, INDEX, indexes={INDEX: SHARDS}, newer=[SHARDS[0]]),
        f"{INDEX} is older than {SHARDS[0]}",
    ),
    ("PEFT adapter", unit("adapter_model.safetensors"), "adapter_config.json is missing"),
    ("PEFT adapter", unit("adapter_config.json"), "no weights in ."),
    ("PEFT adapter", unit("adapter_config.json", "adapter_model.bin", newer=["adapter_model.bin"]), "is older than"),
    ("Accelerate", unit(*ACCELERATE, "random_states_2.pkl"), "1 of 3 ranks are missing: random_states_1.pkl"),
    ("Accelerate", unit(*ACCELERATE, older=["random_states_0.pkl"]), "random_states_0.pkl is older"),
    ("Accelerate", unit("pytorch_model/" + TAG[0], "latest", markers={"latest": "pytorch_model"}), "random_states_0.pkl"),
    ("torch distributed checkpoint", unit(*DCP, indexes={".metadata": (*DCP, "__2_0.distcp")}), "names 1 of 4 files"),
    (
        "DeepSpeed tag",
        unit(*TAG, TAG[1].replace("pp_rank_0", "pp_rank_2"), name="global_step5", markers={"../latest": "global_step5"}),
        "1 of 3 ranks are missing: zero_pp_rank_1_mp_rank_00_optim_states.pt",
    ),
    (
        "DeepSpeed tag",
        unit(*TAG, name="s5", markers={"../latest": "s5"}, marker_times={"../latest": -3600 * SECOND}),
        "../latest is older than mp_rank_00",
    ),
    ("Megatron-LM", unit(*MEGATRON, name="iter_0000500"), "`latest_checkpointed_iteration.txt` beside it is missing"),
    ("Megatron-LM", unit(*MEGATRON, name="iter_0000500", markers={TRACKER: "400"}), "names '400'"),
    ("Megatron-LM", unit(*MEGATRON, name="iter_0000500", markers={TRACKER: "release"}), "names 'release'"),
    (
        "Megatron-LM",
        unit(*MEGATRON, name="iter_0000500", markers={TRACKER: "500"}, older=[".metadata"]),
        ".metadata is older",
    ),
    (
        "Megatron-LM",
        unit(*MEGATRON_RANKS[1:], name="iter_0000500", markers={TRACKER: "500"}),
        "mp_rank_00_000/model_optim_rng.pt",
    ),
    ("Megatron-LM", unit(*VERL[1:], name="global_step_10", markers={TRACKER: "10"}), "1 of 2 ranks are missing"),
    ("NeMo", unit(*NEMO, name="a-last", parent_files=frozenset({"a-last-unfinished"})), "`a-last-unfinished` beside it"),
    ("NeMo", unit("x.txt", name="a-EMA.ckpt", parent_files=frozenset({"a-unfinished"})), "`a-unfinished` beside it"),
    ("OLMo-core", unit(*without(OLMO, ".metadata.json"), name="step1000"), ".metadata.json is missing"),
    ("OLMo-core", unit(*OLMO, name="step1000-tmp"), "its name says"),
    ("OLMo-core", unit(*OLMO, name="step1000", newer=["model_and_optim/__0_0.distcp"]), ".metadata.json is older"),
    ("LeRobot", unit(*LEROBOT[:2], name="005000"), "training_state/training_step.json is missing"),
    ("LeRobot", unit(*LEROBOT, name="005000", markers={"../last": "002500"}), "`last` beside it names '002500'"),
    ("Orbax", unit("_CHECKPOINT_METADATA", markers={"_CHECKPOINT_METADATA": UNCOMMITTED}), "no time of a commit"),
    ("Orbax", unit("_METADATA", name="100.orbax-checkpoint-tmp-17"), "its name says"),
    ("diffusers pipeline", unit("vae/config.json", "vae/model.safetensors"), "model_index.json is missing"),
    ("diffusers pipeline", unit(*DIFFUSERS[:3], markers={"model_index.json": PIPELINE}), "names scheduler"),
    ("diffusers pipeline", unit("model_index.json", "unet/config.json"), "no weights beside unet/config.json"),
    (
        "model directory",
        unit("model.safetensors", *(f"checkpoint-5/{path}" for path in TRAINER[:-1]), name="run"),
        "checkpoint-5/ transformers Trainer: trainer_state.json is missing",
    ),
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


def test_what_was_published_and_is_saved_again_is_told_without_times() -> None:
    """A shard that is not the published one, beside a marker that nobody wrote since, waits for as long as that is so."""
    again = {"untouched": frozenset(SHARDED) - {SHARDS[0]}, "renewed": frozenset({SHARDS[0]}), "indexes": {INDEX: SHARDS}}
    facts = unit(*SHARDED, unchanged_s=LONG, **again)
    model = unit("config.json", *SHARDS, INDEX, unchanged_s=LONG, **again)

    assert f"{SHARDS[0]} is not what was captured, but trainer_state.json is" in judge(facts).reason
    assert f"{SHARDS[0]} is not what was captured, but {INDEX} is" in judge(model).reason
    assert judge(replace(facts, untouched=frozenset(SHARDS[1:]))).complete
    assert judge(replace(facts, renewed=frozenset({"config.json"}))).complete
    first = replace(facts, renewed=frozenset({INDEX}), untouched=frozenset(SHARDED) - {INDEX})
    assert f"{INDEX} is not what was captured, but trainer_state.json is" in judge(first).reason


def test_what_is_written_on_both_sides_of_its_marker_is_saved_again() -> None:
    """However short the time between; a marker that is merely not the last in one save is no sign of that."""
    seen = {INDEX: (4, 4), SHARDS[0]: (1, 5), SHARDS[1]: (2, 2)}
    model = unit("config.json", *SHARDS, INDEX, indexes={INDEX: SHARDS}, unchanged_s=LONG, changes=seen)

    assert f"{SHARDS[0]} was written before {INDEX}, and after it" in judge(model).reason
    assert not judge(replace(model, changes={**seen, SHARDS[0]: (4, 6)})).complete
    assert judge(replace(model, changes={**seen, SHARDS[0]: (5, 6)})).complete
    assert judge(replace(model, changes={**seen, INDEX: (4, 6)})).complete


def test_ranks_that_hold_no_weights_do_not_wait_for_them() -> None:
    """Where only rank 0 writes weights, the others wrote their random states long before it was done."""
    assert judge(unit(*without(TRAINER, "rng_state.pth"), *RANKED, older=RANKED)).complete
    assert judge(unit(*without(ACCELERATE), "random_states_1.pkl", older=["random_states_1.pkl"])).complete


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
    assert Completion(
        True, "unknown layout: no completion signal is known for it: quiet and whole", "unknown layout"
    ) == judge(unit("a.txt"))


def test_a_hostile_name_promises_nothing_that_is_counted_out() -> None:
    """A rank of a billion is a sentence, not a billion steps."""
    names = ("rng_state_999999999.pth", "zero_pp_rank_999999999_mp_rank_99999_optim_states.pt")
    facts = unit(*names, "m_world_size_999999999_rank_0.pt", "trainer_state.json")

    assert ("rng_state_000000000.pth", "rng_state_000000001.pth", "rng_state_000000002.pth") == judge(facts).missing


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"unet": 5, "_x": ["a"], "a/b": ["c"], "d": []}'])
def test_a_broken_model_index_names_nothing(text: str) -> None:
    """Its parsing is the business of the structural check."""
    assert judge(unit(*DIFFUSERS, markers={"model_index.json": text})).complete


def test_the_table_is_complete() -> None:
    """Every row but the last names its source, names are unique, and the last row takes anything."""
    assert len({row.name for row in LAYOUTS}) == len(LAYOUTS)
    assert [] == [row.name for row in LAYOUTS[:-1] if not (row.source and row.rule)]
    assert LAYOUTS[-1].recognises(unit())


@pytest.mark.parametrize(
    ("written_at", "newest"),
    [
        ({}, None),
        ({"checkpoint-9": 5, "checkpoint-10": 4}, "checkpoint-10"),
        ({"checkpoint-9": 5, "last": 9}, "checkpoint-9"),
        ({"b": 5, "a": 9}, "a"),
        ({"seed-1/step-900": 5, "seed-2/step-10": 9}, "seed-2/step-10"),
    ],
)
def test_the_newest_unit_has_the_highest_step_beside_the_one_written_last(written_at: dict[str, int], newest: str) -> None:
    """Steps are compared as numbers, within one run; without steps the time decides."""
    assert newest == choose_newest(written_at)
