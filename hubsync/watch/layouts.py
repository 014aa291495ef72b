"""Decides whether a unit is complete, by the completion signal of whatever wrote it.

A table, one row per layout; the first row that recognises a unit judges it. No I/O and no clock: the facts are names,
sizes, times and a few small texts that the caller has read. To add a layout, add a row.

Some things hold for every layout: a path that is held (not quiet, or not whole) keeps its unit waiting, so does a
temporary file that is still being written, so does a file that an index, another shard's name or another rank's name
promises. Unless the operator named a signal, so does a name that says "unfinished", and a checkpoint inside the unit.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from hubsync.watch import layout_models as models
from hubsync.watch import layout_rows as rows
from hubsync.watch.layout_names import missing_members, missing_ranks, missing_shards, shown
from hubsync.watch.layout_words import below, needs_latest_inside, needs_metadata
from hubsync.watch.unit_facts import LINKS, MARK, MARKERS, Completion, FileFact, Lack, UnitFacts

__all__ = ["LAYOUTS", "LINKS", "MARKERS", "Completion", "FileFact", "Layout", "UnitFacts", "judge"]


class Layout(Struct, frozen=True):
    """A row: how a layout is recognised, what it lacks until it is complete, the rule in words, and where that is from."""

    name: str
    rule: str
    source: str
    recognises: Callable[[UnitFacts], bool]
    lacks: Callable[[UnitFacts], Iterable[Lack]]


def judge(unit: UnitFacts) -> Completion:
    """Return whether *unit* is complete."""
    layout = next(row for row in LAYOUTS if row.recognises(unit))
    lack = next(iter(_all_lacks(layout, unit)), None)
    if lack is not None:
        return Completion(False, f"{layout.name}: {lack.reason}", layout.name, lack.missing)

    return Completion(True, f"{layout.name}: {layout.rule}", layout.name)


def _all_lacks(layout: Layout, unit: UnitFacts) -> Iterator[Lack]:
    if not unit.files:
        yield Lack("no file yet")
    if not unit.complete_when:
        yield from _unfinished_names(unit)
    yield from missing_members(unit.files, unit.indexes)
    yield from missing_shards(unit.files)
    yield from missing_ranks(unit.files)
    yield from layout.lacks(unit)
    if not unit.complete_when:
        yield from _lacking_inside(unit)
    if unit.writing:
        yield Lack(f"still being written: {shown(unit.writing)}")
    if unit.held:
        path = min(unit.held)
        yield Lack(f"{len(unit.held)} held, first {path}: {unit.held[path]}")


_UNFINISHED = re.compile(r".*[-_.](?:tmp|incomplete|unfinished)|.*\.orbax-checkpoint-tmp.*", re.DOTALL)
_NESTED = re.compile(r"(?:.*/)?checkpoint-\d+/")


def _unfinished_names(unit: UnitFacts) -> Iterator[Lack]:
    """Find a name that its writer will change (OLMo-core's step1000-tmp), or a marker beside it that it will remove."""
    if _UNFINISHED.fullmatch(unit.name):
        yield Lack("its name says that it is not finished")
    marker = rows.unfinished_marker(unit)
    if marker in unit.parent_files:
        yield Lack(f"`{marker}` beside it says so")


def _lacking_inside(unit: UnitFacts) -> Iterator[Lack]:
    """Hold the checkpoints of a unit that is a whole run to the rule of theirs."""
    nested = {found[0] for path in unit.files if (found := _NESTED.match(path))}
    for directory in sorted(nested):
        inside = judge(below(unit, directory))
        if not inside.complete:
            yield Lack(f"{directory} {inside.reason}", tuple(directory + path for path in inside.missing))


_DEEPSPEED = "https://github.com/deepspeedai/DeepSpeed/blob/master/deepspeed/runtime/engine.py"

LAYOUTS = (
    Layout(
        "complete_when",
        "the signal of the config is there",
        "the config",
        lambda unit: bool(unit.complete_when),
        rows.lacks_signal,
    ),
    Layout(
        "marked by its writer",
        f"{MARK} is there and no older than the weights",
        "hubsync.integrations",
        rows.is_marked,
        rows.lacks_marked,
    ),
    Layout(
        "transformers Trainer",
        "trainer_state.json is there, less than a minute older than the weights, and no shard or rank is known missing",
        "https://github.com/huggingface/transformers/blob/main/src/transformers/trainer.py",
        rows.is_trainer,
        rows.lacks_trainer,
    ),
    Layout(
        "DeepSpeed tag",
        "`latest` beside it names it, or a later one, and no rank is known to be missing",
        _DEEPSPEED,
        rows.is_deepspeed_tag,
        rows.lacks_deepspeed_tag,
    ),
    Layout(
        "DeepSpeed directory",
        "`latest` names a tag in it and is no older than that",
        _DEEPSPEED,
        rows.is_deepspeed_directory,
        needs_latest_inside,
    ),
    Layout(
        "Megatron-LM",
        "`latest_checkpointed_iteration.txt` beside it names it, or a later one",
        "https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/training/checkpointing.py",
        rows.is_megatron,
        rows.lacks_megatron,
    ),
    Layout(
        "Lightning sharded",
        "meta.pt is there and no older than the shards",
        "https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/fabric/strategies/fsdp.py",
        rows.is_lightning_sharded,
        rows.lacks_lightning,
    ),
    Layout(
        "NeMo",
        "no `-unfinished` marker is beside it, and .metadata is no older than the shards",
        "https://github.com/NVIDIA/NeMo/blob/v2.3.0/nemo/lightning/pytorch/callbacks/model_checkpoint.py",
        rows.is_nemo,
        rows.lacks_nemo,
    ),
    Layout(
        "OLMo-core",
        "train/, model_and_optim/.metadata and, last, .metadata.json are there",
        "https://github.com/allenai/OLMo-core/blob/main/src/olmo_core/train/checkpoint.py",
        rows.is_olmo_core,
        rows.lacks_olmo_core,
    ),
    Layout(
        "LeRobot",
        "pretrained_model/ and training_state/ are there, and `last` beside it (where known) names it or a later one",
        "https://github.com/huggingface/lerobot/blob/main/src/lerobot/utils/train_utils.py",
        rows.is_lerobot,
        rows.lacks_lerobot,
    ),
    Layout(
        "Accelerate",
        "weights and random_states are there, and no rank is known to be missing",
        "https://github.com/huggingface/accelerate/blob/main/src/accelerate/checkpointing.py",
        rows.is_accelerate,
        rows.lacks_accelerate,
    ),
    Layout(
        "torch distributed checkpoint",
        ".metadata is there, no older than the shards, and all files it names are there",
        "https://github.com/pytorch/pytorch/blob/main/torch/distributed/checkpoint/filesystem.py",
        lambda unit: any(path.endswith(".distcp") for path in unit.files),
        needs_metadata,
    ),
    Layout(
        "Orbax",
        "the directory has its final name, and its metadata (if any) the time of the commit",
        "https://orbax.readthedocs.io/en/stable/_modules/orbax/checkpoint/_src/path/atomicity.html",
        rows.is_orbax,
        rows.lacks_orbax,
    ),
    Layout(
        "diffusers pipeline",
        "model_index.json is there, and every component that it names",
        "https://github.com/huggingface/diffusers/blob/main/src/diffusers/pipelines/pipeline_utils.py",
        models.is_diffusers,
        models.lacks_diffusers,
    ),
    Layout(
        "named as a checkpoint",
        "nothing that the Trainer or Accelerate would write came for a long time",
        "https://github.com/huggingface/transformers/blob/main/src/transformers/trainer_utils.py",
        rows.is_named_as_checkpoint,
        rows.lacks_checkpoint_or_time,
    ),
    Layout(
        "PEFT adapter",
        "adapter_config.json and the weights are there",
        "https://github.com/huggingface/peft/blob/main/src/peft/peft_model.py",
        models.is_adapter,
        models.lacks_adapter,
    ),
    Layout(
        "model directory",
        "weights are there, and every shard that is named",
        "https://huggingface.co/docs/transformers/main/en/models#saving-a-model",
        models.is_model,
        models.lacks_model,
    ),
    Layout(
        "beginning of a model",
        "nothing more came for a long time",
        "https://github.com/huggingface/peft/blob/main/src/peft/peft_model.py",
        models.is_beginning,
        models.lacks_all_but_beginning,
    ),
    Layout(
        "unknown layout",
        "no completion signal is known for it: quiet and whole",
        "",
        lambda _unit: True,
        lambda _unit: (),
    ),
)
