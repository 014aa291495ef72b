"""Decides whether a unit is complete, by the completion signal of whatever wrote it.

A table, one row per layout; the first row that recognises a unit judges it. No I/O and no clock: the facts are names,
sizes, times and a few small texts that the caller has read. To add a layout, add a row.

Three things hold for every layout: a path that is held (not quiet, or not whole) keeps its unit waiting, so does a
temporary file that is still being written, and so does a shard that an index or another shard's name promises.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pathspec

MARKERS = ("latest", "../latest")  # small files whose text the caller should put into UnitFacts.markers, if they exist

_SECOND_NS = 1_000_000_000
_CLOCKS_NS = 2 * _SECOND_NS  # nodes that write to one file system disagree, and some file systems count in two seconds
_COPY_NS = 60 * _SECOND_NS  # a checkpoint that was copied in got its times in no order; one saved again is older by far
_SHOWN = 3


class FileFact(NamedTuple):
    """Size and time of one file of a unit."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """What is known of one unit. Paths are relative to the unit's directory, whose name is *name*.

    Attributes:
        files: every file that the rules take.
        indexes: sharded index -> the shards it names, relative to the index.
        parent_files: names of the files beside the unit.
        markers: text of those of :data:`MARKERS` that exist.
        complete_when: the operator's own signals, gitignore patterns; they replace the built-in ones.
        held: files that are not settled -> why.
        writing: files under temporary names that changed lately.
    """

    name: str
    files: Mapping[str, FileFact]
    indexes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parent_files: frozenset[str] = frozenset()
    markers: Mapping[str, str] = field(default_factory=dict)
    complete_when: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)
    writing: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Completion:
    """Whether a unit is complete, the reason, the layout that said so, and the files that are still missing."""

    complete: bool
    reason: str
    layout: str
    missing: tuple[str, ...] = ()


class Lack(NamedTuple):
    """One thing that a unit lacks."""

    reason: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
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
    yield from layout.lacks(unit)
    yield from _missing_members(unit)
    yield from _missing_shards(unit.files)
    if unit.writing:
        yield Lack(f"still being written: {_shown(unit.writing)}")
    if unit.held:
        path = min(unit.held)
        yield Lack(f"{len(unit.held)} held, first {path!r}: {unit.held[path]}")


# --- what every layout needs


def _missing_members(unit: UnitFacts) -> Iterator[Lack]:
    for index, members in sorted(unit.indexes.items()):
        directory = _directory(index)
        missing = tuple(path for member in members if (path := directory + member) not in unit.files)
        if missing:
            yield Lack(f"{index} names {len(missing)} of {len(members)} shards that are missing", missing)


_SHARD = re.compile(r"(?P<stem>.*-)(?P<number>\d+)-of-(?P<count>\d{3,6})(?P<suffix>\.\w+)")


def _missing_shards(paths: Iterable[str]) -> Iterator[Lack]:
    """Find the shards that the names of their siblings promise: ``-00001-of-00003`` has two."""
    sets: dict[tuple[str, str, str], set[str]] = {}
    for path in paths:
        if found := _SHARD.fullmatch(path):
            sets.setdefault((found["stem"], found["count"], found["suffix"]), set()).add(found["number"])
    for (stem, count, suffix), seen in sorted(sets.items()):
        missing = int(count) - len(seen)
        if missing > 0:
            absent = _absent_numbers(seen, int(count), most=_SHOWN)
            names = tuple(f"{stem}{number}-of-{count}{suffix}" for number in absent)
            yield Lack(f"{missing} of {int(count)} shards are missing: {_shown(names)}", names)


def _absent_numbers(seen: set[str], count: int, *, most: int) -> list[str]:
    """Return up to *most* numbers that are not *seen*; TensorFlow and data sets count from 0, all others from 1."""
    width = len(min(seen))
    first = 0 if "0" * width in seen else 1
    absent = (number for i in range(first, first + count) if (number := f"{i:0{width}}") not in seen)

    return [number for number, _ in zip(absent, range(most), strict=False)]


# --- words to write rows with

_NOT_WEIGHTS = re.compile(
    r"(?:.*/)?(?:training_args|optimizer|scheduler|sampler|scaler|rng_state|random_states)[^/]*|(?:.*/)?trainer_state\.json"
)
_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".distcp",
    ".gguf",
    ".h5",
    ".keras",
    ".msgpack",
    ".npz",
    ".onnx",
)


def _weights(unit: UnitFacts) -> list[str]:
    return [path for path in unit.files if path.endswith(_WEIGHTS) and not _NOT_WEIGHTS.fullmatch(path)]


def _matching(unit: UnitFacts, pattern: str) -> list[str]:
    regex = re.compile(pattern)
    return [path for path in unit.files if regex.fullmatch(path)]


def _needs(unit: UnitFacts, path: str) -> Iterator[Lack]:
    if path not in unit.files:
        yield Lack(f"{path} is missing, which is written last", (path,))


def _needs_weights(unit: UnitFacts) -> Iterator[Lack]:
    if not _weights(unit):
        yield Lack("no weights yet")


def _needs_newer(unit: UnitFacts, marker: str, paths: Iterable[str], margin_ns: int) -> Iterator[Lack]:
    """Complain if *marker* is older than one of *paths*: the unit is being saved again in place."""
    if marker not in unit.files:
        return
    newest = max(paths, key=lambda path: unit.files[path].mtime_ns, default=marker)
    if unit.files[newest].mtime_ns > unit.files[marker].mtime_ns + margin_ns:
        yield Lack(f"{marker} is older than {newest}: it is saved again (or was copied; then `touch` {marker})")


def _needs_metadata(unit: UnitFacts) -> Iterator[Lack]:
    """Hold every directory of ``.distcp`` files to the rule of torch's distributed checkpoints."""
    shards: dict[str, list[str]] = {}
    for path in _matching(unit, r".*\.distcp"):
        shards.setdefault(_directory(path), []).append(path)
    for directory, paths in sorted(shards.items()):
        yield from _needs(unit, directory + ".metadata")
        yield from _needs_newer(unit, directory + ".metadata", paths, _CLOCKS_NS)


def _needs_latest_inside(unit: UnitFacts) -> Iterator[Lack]:
    """Hold a directory of DeepSpeed tags to DeepSpeed's rule: ``latest`` is written when the tag it names is whole."""
    states = _matching(unit, _DEEPSPEED_TAGGED)
    if not states:
        return
    yield from _needs(unit, "latest")
    yield from _needs_newer(unit, "latest", states, _CLOCKS_NS)
    tag = unit.markers.get("latest", "").strip()
    if tag and not any(path.startswith(tag + "/") for path in states):
        yield Lack(f"latest names {tag!r}, which is missing", (tag + "/",))


def _directory(path: str) -> str:
    """Return the directory of *path* with its slash, empty at the top."""
    return path[: path.rfind("/") + 1]


def _shown(paths: Iterable[str]) -> str:
    first, *more = sorted(paths)

    return first + (f" and {len(more)} more" if more else "")


# --- the rows


def _lacks_signal(unit: UnitFacts) -> Iterator[Lack]:
    spec = pathspec.GitIgnoreSpec.from_lines(unit.complete_when)
    signals = [path for path in unit.files if spec.match_file(path)]
    if not signals:
        yield Lack(f"nothing matches {' or '.join(unit.complete_when)} yet")
        return
    newest = max(signals, key=lambda path: unit.files[path].mtime_ns)
    yield from _needs_newer(unit, newest, _weights(unit), _COPY_NS)


_SENTINEL = "checkpoint-is-incomplete.txt"
_TRAINER_OWN = ("trainer_state.json", "training_args.bin", _SENTINEL)


def _is_trainer(unit: UnitFacts) -> bool:
    return any(name in unit.files for name in _TRAINER_OWN) or bool(
        re.fullmatch(r"checkpoint-\d+", unit.name) and _matching(unit, r"(optimizer|scheduler)\.pt|rng_state(_\d+)?\.pth")
    )


def _lacks_trainer(unit: UnitFacts) -> Iterator[Lack]:
    if _SENTINEL in unit.files:
        yield Lack(f"{_SENTINEL} says so")
    yield from _needs(unit, "trainer_state.json")
    yield from _needs_weights(unit)
    yield from _needs_newer(unit, "trainer_state.json", _weights(unit), _COPY_NS)
    yield from _needs_latest_inside(unit)
    yield from _needs_metadata(unit)


_DEEPSPEED_STATES = r"(?:mp_rank_\d+_model|(?:bf16_)?zero_pp_rank_\d+_\w+|layer_\d+-model_[^/]*|expert_[^/]*)_states\.pt"
_DEEPSPEED_TAGGED = rf"[^/]+/{_DEEPSPEED_STATES}"


def _lacks_deepspeed_tag(unit: UnitFacts) -> Iterator[Lack]:
    latest = unit.markers.get("../latest")
    if latest is None:
        yield Lack("`latest` beside it is missing, which is written last", ("../latest",))
        return
    tag = latest.strip()
    if tag != unit.name and _step(tag) <= _step(unit.name):
        yield Lack(f"`latest` beside it names {tag!r}")


def _step(tag: str) -> float:
    """Return the number at the end of a tag: a later one in `latest` means that this tag was whole before."""
    found = re.search(r"(\d+)$", tag)

    return int(found[1]) if found else float("-inf")


def _is_lightning_sharded(unit: UnitFacts) -> bool:
    return "meta.pt" in unit.files or (unit.name.endswith(".ckpt") and bool(_matching(unit, r".*\.distcp")))


def _lacks_lightning(unit: UnitFacts) -> Iterator[Lack]:
    yield from _needs_metadata(unit)
    yield from _needs(unit, "meta.pt")
    yield from _needs_newer(unit, "meta.pt", _matching(unit, r".*\.distcp"), _CLOCKS_NS)


def _is_accelerate(unit: UnitFacts) -> bool:
    return bool(_matching(unit, r"random_states_\d+\.pkl|(?:optimizer|scheduler)(?:_\d+)?\.bin"))


def _lacks_accelerate(unit: UnitFacts) -> Iterator[Lack]:
    if not _matching(unit, r"random_states_\d+\.pkl"):
        yield Lack("random_states_0.pkl is missing, which is written last", ("random_states_0.pkl",))
    yield from _needs_weights(unit)
    yield from _needs_latest_inside(unit)
    yield from _needs_metadata(unit)


def _is_model(unit: UnitFacts) -> bool:
    return (
        bool(unit.indexes)
        or bool(_weights(unit))
        or any(name in unit.files for name in ("config.json", "adapter_config.json", "model_index.json"))
    )


LAYOUTS = (
    Layout(
        "complete_when",
        "the signal of the config is there",
        "the config",
        lambda unit: bool(unit.complete_when),
        _lacks_signal,
    ),
    Layout(
        "transformers Trainer",
        "trainer_state.json is there and no older than the weights, and no shard is missing",
        "https://github.com/huggingface/transformers/blob/main/src/transformers/trainer.py",
        _is_trainer,
        _lacks_trainer,
    ),
    Layout(
        "DeepSpeed tag",
        "`latest` beside it names it, or a later one",
        "https://github.com/deepspeedai/DeepSpeed/blob/master/deepspeed/runtime/engine.py",
        lambda unit: bool(_matching(unit, _DEEPSPEED_STATES)),
        _lacks_deepspeed_tag,
    ),
    Layout(
        "DeepSpeed directory",
        "`latest` names a tag in it and is no older than that",
        "https://github.com/deepspeedai/DeepSpeed/blob/master/deepspeed/runtime/engine.py",
        lambda unit: bool(_matching(unit, _DEEPSPEED_TAGGED)) and not _is_accelerate(unit),
        _needs_latest_inside,
    ),
    Layout(
        "Lightning sharded",
        "meta.pt is there and no older than the shards",
        "https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/fabric/strategies/fsdp.py",
        _is_lightning_sharded,
        _lacks_lightning,
    ),
    Layout(
        "Accelerate",
        "weights and random_states are there",
        "https://github.com/huggingface/accelerate/blob/main/src/accelerate/checkpointing.py",
        _is_accelerate,
        _lacks_accelerate,
    ),
    Layout(
        "torch distributed checkpoint",
        ".metadata is there and no older than the shards",
        "https://github.com/pytorch/pytorch/blob/main/torch/distributed/checkpoint/filesystem.py",
        lambda unit: bool(_matching(unit, r".*\.distcp")),
        _needs_metadata,
    ),
    Layout(
        "model directory",
        "weights are there, and every shard that is named",
        "https://huggingface.co/docs/transformers/main/en/models#saving-a-model",
        _is_model,
        _needs_weights,
    ),
    Layout(
        "unknown layout",
        "quiet and whole",
        "",
        lambda _unit: True,
        lambda _unit: (),
    ),
)
