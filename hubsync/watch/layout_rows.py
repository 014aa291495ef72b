"""How the layouts of training programs are recognised, and what each lacks until its writer is done.

``layouts`` has the table of them.
"""

import re
from collections.abc import Iterator

import pathspec

from hubsync.watch.layout_models import is_model, lacks_model
from hubsync.watch.layout_words import (
    DEEPSPEED_STATES,
    DEEPSPEED_TAGGED,
    matching,
    need_newer,
    needs,
    needs_latest_inside,
    needs_metadata,
    needs_newer,
    needs_tracker,
    needs_weights,
    states_after_weights,
    step_of,
    unless_patient,
    weights,
)
from hubsync.watch.unit_facts import MARK, UNFINISHED, Lack, UnitFacts


def lacks_signal(unit: UnitFacts) -> Iterator[Lack]:
    """Look for the operator's own signal."""
    spec = pathspec.GitIgnoreSpec.from_lines(unit.complete_when)
    signals = [path for path in unit.files if spec.match_file(path)]
    if not signals:
        yield Lack(f"nothing matches {' or '.join(unit.complete_when)} yet")
        return
    newest = max(signals, key=lambda path: unit.files[path].mtime_ns)
    yield from needs_newer(unit, newest, weights(unit), copied=True)


# --- transformers Trainer, whose directories are all called checkpoint-<step>. `trainer.save_model` writes
# training_args.bin and no trainer_state.json into a directory of any other name: that is a model, not a checkpoint.

SENTINEL = "checkpoint-is-incomplete.txt"
_TRAINER_NAME = re.compile(r"checkpoint-\d+")
_TRAINER_STATES = r"training_args\.bin|(?:optimizer|scheduler)\.pt|rng_state(?:_\d+)?\.pth"


def is_trainer(unit: UnitFacts) -> bool:
    """Return whether nobody but the Trainer writes what is here."""
    if "trainer_state.json" in unit.files or SENTINEL in unit.files:
        return True

    return is_named_by_trainer(unit) and bool(matching(unit, _TRAINER_STATES))


def lacks_trainer(unit: UnitFacts) -> Iterator[Lack]:
    """Rank 0 writes trainer_state.json last; the sentinel is there while a signal makes it save."""
    if SENTINEL in unit.files:
        yield Lack(f"{SENTINEL} says so")
    yield from needs(unit, "trainer_state.json")
    yield from needs_weights(unit)
    marks = ("trainer_state.json", "rng_state.pth", *states_after_weights(unit, r"rng_state_\d+\.pth"))
    yield from need_newer(unit, marks, [*weights(unit), *unit.indexes])
    yield from needs_latest_inside(unit)
    yield from needs_metadata(unit)


def is_named_by_trainer(unit: UnitFacts) -> bool:
    """Return whether the Trainer gives this name."""
    return _TRAINER_NAME.fullmatch(unit.name) is not None


def is_named_as_checkpoint(unit: UnitFacts) -> bool:
    """Return whether the Trainer or Accelerate gives this name: until they write their own files, it looks like a model."""
    return is_named_by_trainer(unit) or _ACCELERATE_NAME.fullmatch(unit.name) is not None


def lacks_checkpoint_or_time(unit: UnitFacts) -> Iterator[Lack]:
    """Another writer may use their names without their files, and must not wait for ever."""
    awaited = "trainer_state.json" if is_named_by_trainer(unit) else "random_states_0.pkl"
    yield from unless_patient(unit, needs(unit, awaited))
    if is_model(unit):
        yield from lacks_model(unit)


# --- our own callbacks: the training program says that it is done, whatever it wrote


def is_marked(unit: UnitFacts) -> bool:
    """Return whether a callback has marked the unit."""
    return MARK in unit.markers


def lacks_marked(unit: UnitFacts) -> Iterator[Lack]:
    """Only a unit that is saved again in place outruns its mark; one that was copied may be in that order as well."""
    if SENTINEL in unit.files:
        yield Lack(f"{SENTINEL} says so")
    yield from unless_patient(unit, needs_newer(unit, MARK, weights(unit)))


# --- DeepSpeed, Megatron-LM: a small file beside the unit names the last one that is whole


def is_deepspeed_tag(unit: UnitFacts) -> bool:
    """Return whether the unit is one tag of DeepSpeed's."""
    return bool(matching(unit, DEEPSPEED_STATES))


def lacks_deepspeed_tag(unit: UnitFacts) -> Iterator[Lack]:
    """Rank 0 writes `latest` when the tag is whole."""
    yield from needs_tracker(unit, "../latest", step_of(unit.name))


def is_deepspeed_directory(unit: UnitFacts) -> bool:
    """Return whether the unit holds tags of DeepSpeed's, and its `latest`."""
    return bool(matching(unit, DEEPSPEED_TAGGED)) and not is_accelerate(unit)


_MEGATRON_NAME = re.compile(r"iter_\d{7,}")
_MEGATRON_FILES = r"mp_rank_\d+(?:_\d+)*/(?:model_optim_rng|distrib_optim|model_rng)\.pt"
_VERL_NAME = re.compile(r"global_step_\d+")
_VERL_FILES = r"(?:actor|critic)/.*|.*_world_size_\d+_rank_\d+\.pt"


def is_megatron(unit: UnitFacts) -> bool:
    """Return whether the unit is an iteration of Megatron-LM, or a step of verl, which took over its tracker."""
    if _MEGATRON_NAME.fullmatch(unit.name) or matching(unit, _MEGATRON_FILES):
        return True

    return _VERL_NAME.fullmatch(unit.name) is not None and bool(matching(unit, _VERL_FILES))


def lacks_megatron(unit: UnitFacts) -> Iterator[Lack]:
    """Rank 0 writes the tracker when every rank is done."""
    yield from needs_tracker(unit, "../latest_checkpointed_iteration.txt", step_of(unit.name))
    yield from needs_weights(unit)
    yield from needs_metadata(unit)


# --- NeMo: an empty file beside the unit, made first and removed last


def unfinished_marker(unit: UnitFacts) -> str:
    """Return the name of NeMo's marker for the unit."""
    return unit.name.removesuffix(".nemo").removesuffix(".ckpt").removesuffix("-EMA") + UNFINISHED


def is_nemo(unit: UnitFacts) -> bool:
    """Return whether the unit is NeMo's: its marker lies beside it, or its directories in it."""
    if unfinished_marker(unit) in unit.parent_files:
        return True

    return bool(matching(unit, r"(?:model_)?weights/[^/]*\.distcp|context/(?:model\.yaml|io\.json)"))


def lacks_nemo(unit: UnitFacts) -> Iterator[Lack]:
    """The marker is gone when all ranks are done; what it guarded is a distributed checkpoint."""
    marker = unfinished_marker(unit)
    if marker in unit.parent_files:
        yield Lack(f"`../{marker}` says so")
    yield from needs_weights(unit)
    yield from needs_metadata(unit)


# --- Lightning


def is_lightning_sharded(unit: UnitFacts) -> bool:
    """Return whether the unit is a directory where a file would be: a strategy that shards makes one."""
    return "meta.pt" in unit.files or (unit.name.endswith(".ckpt") and bool(matching(unit, r".*\.distcp")))


def lacks_lightning(unit: UnitFacts) -> Iterator[Lack]:
    """Rank 0 writes meta.pt last."""
    yield from needs_metadata(unit)
    yield from needs(unit, "meta.pt")
    yield from needs_newer(unit, "meta.pt", matching(unit, r".*\.distcp"))


# --- OLMo-core: train/ and model_and_optim/ in step<N>-tmp/, which is renamed, then .metadata.json


def is_olmo_core(unit: UnitFacts) -> bool:
    """Return whether the unit is OLMo-core's."""
    return bool(matching(unit, r"train/rank\d+\.pt|model_and_optim/.*"))


def lacks_olmo_core(unit: UnitFacts) -> Iterator[Lack]:
    """The three files by which OLMo-core itself tells a checkpoint."""
    yield from needs(unit, "train/rank0.pt")
    yield from needs(unit, "model_and_optim/.metadata")
    yield from needs(unit, ".metadata.json")
    yield from needs_newer(unit, ".metadata.json", weights(unit))
    yield from needs_metadata(unit)


# --- Orbax: the directory is renamed when it is whole; where that is not atomic, commit_success.txt is written

_COMMITTED = "commit_success.txt"


def is_orbax(unit: UnitFacts) -> bool:
    """Return whether the unit is Orbax's."""
    return bool(matching(unit, rf"(?:.*/)?(?:_CHECKPOINT_METADATA|_METADATA|manifest\.ocdbt|{_COMMITTED})"))


def lacks_orbax(unit: UnitFacts) -> Iterator[Lack]:
    """Its metadata has the time of the commit, which is null until then."""
    text = unit.markers.get("_CHECKPOINT_METADATA")
    if text is None or _COMMITTED in unit.files or "commit_timestamp_nsecs" not in text:
        return
    if not re.search(r'"commit_timestamp_nsecs":\s*[1-9]', text):
        yield Lack("_CHECKPOINT_METADATA has no time of a commit", (_COMMITTED,))


# --- LeRobot: pretrained_model/, then training_state/, then the link `last` beside it

_LEROBOT_NAME = re.compile(r"\d{6,}")
_LEROBOT_STATES = ("training_step.json", "rng_state.safetensors", "optimizer_param_groups.json")


def is_lerobot(unit: UnitFacts) -> bool:
    """Return whether the unit is a step of LeRobot's."""
    if matching(unit, r"training_state/(?:training_step|rng_state|optimizer_\w+|scheduler_state)\.\w+"):
        return True

    return _LEROBOT_NAME.fullmatch(unit.name) is not None and bool(matching(unit, r"pretrained_model/.*"))


def lacks_lerobot(unit: UnitFacts) -> Iterator[Lack]:
    """The link is made last; without it (it may not have been read) the files of training_state/ must do."""
    states = tuple(f"training_state/{state}" for state in _LEROBOT_STATES)
    for state in states:
        if state not in unit.files:
            yield Lack(f"{state} is missing", (state,))
    yield from needs_weights(unit)
    yield from need_newer(unit, states, weights(unit))
    if "../last" in unit.markers:
        yield from needs_tracker(unit, "../last", step_of(unit.name))


# --- Accelerate

_ACCELERATE_DIRECTORIES = r"(?:pytorch_model_fsdp|optimizer)_\d+/(?:\.metadata|.*\.distcp)"  # FSDP's
_ACCELERATE_NAME = re.compile(r"checkpoint_\d+")
_ACCELERATE_TAG = rf"pytorch_model(?:_\d+)?/{DEEPSPEED_STATES}"


def is_accelerate(unit: UnitFacts) -> bool:
    """Return whether the unit was written by `save_state`."""
    files = r"random_states_\d+\.pkl|(?:optimizer|scheduler|sampler)(?:_\d+)?\.bin"
    return bool(matching(unit, rf"{files}|{_ACCELERATE_DIRECTORIES}|{_ACCELERATE_TAG}"))


def lacks_accelerate(unit: UnitFacts) -> Iterator[Lack]:
    """Every process writes its random states last."""
    states = matching(unit, r"random_states_\d+\.pkl")
    if not states:
        yield Lack("random_states_0.pkl is missing, which is written last", ("random_states_0.pkl",))
    yield from needs_weights(unit)
    yield from need_newer(
        unit, ["random_states_0.pkl", *states_after_weights(unit, r"random_states_\d+\.pkl")], weights(unit)
    )
    yield from needs_latest_inside(unit)
    yield from needs_metadata(unit)
