"""The words that the rows of ``layouts`` are written with: each yields what a unit lacks of one thing, or nothing."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec.structs import replace

from hubsync.watch.layout_names import directory_of
from hubsync.watch.unit_facts import Lack, UnitFacts

SECOND_NS = 1_000_000_000
CLOCKS_NS = 2 * SECOND_NS  # nodes that write to one file system disagree, and some file systems count in two seconds
COPY_NS = 60 * SECOND_NS  # a checkpoint that was copied in got its times in no order; one saved again is older by far
PATIENCE_S = 1800.0  # the longest a writer was seen to pause within one save is minutes, to gather an optimizer's state

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


def weights(unit: UnitFacts) -> list[str]:
    """Return the files that hold weights."""
    return [path for path in unit.files if path.endswith(_WEIGHTS) and not _NOT_WEIGHTS.fullmatch(path)]


def matching(unit: UnitFacts, pattern: str) -> list[str]:
    """Return the files whose whole path matches the regular expression *pattern*."""
    regex = re.compile(pattern)
    return [path for path in unit.files if regex.fullmatch(path)]


def needs(unit: UnitFacts, path: str) -> Iterator[Lack]:
    """Complain unless *path* is there, which the writer writes last."""
    if path not in unit.files:
        yield Lack(f"{path} is missing, which is written last", (path,))


def needs_weights(unit: UnitFacts) -> Iterator[Lack]:
    """Complain unless any weights are there."""
    if not weights(unit):
        yield Lack("no weights yet")


def needs_renewed(unit: UnitFacts, marker: str, paths: Collection[str]) -> Iterator[Lack]:
    """Complain if one of *paths* was saved again and *marker* was not, as far as that is known without their times.

    It is for a unit that was published, and for files that were seen to be written before *marker* and after it.
    """
    renewed = min(unit.renewed.intersection(paths), default=None)
    if renewed is not None and marker in unit.untouched:
        yield Lack(f"{renewed} is not what was captured, but {marker} is: it is saved again (if not, `touch` {marker})")
    _, marked = unit.changes.get(marker, (0, 0))
    again = (path for path in paths if path in unit.changes and unit.changes[path][0] <= marked < unit.changes[path][1])
    if (path := min(again, default=None)) is not None:
        yield Lack(f"{path} was written before {marker}, and after it: it is saved again (if not, `touch` {marker})")


def needs_newer(unit: UnitFacts, marker: str, paths: Collection[str], *, copied: bool = False) -> Iterator[Lack]:
    """Complain if *marker* is older than one of *paths*: the unit is being saved again in place.

    Times decide only what nothing else tells; files that may have been *copied* within a minute have them in no order.
    """
    yield from needs_renewed(unit, marker, paths)
    written = unit.files[marker].mtime_ns if marker in unit.files else unit.marker_times.get(marker)
    newest = max(paths, key=lambda path: unit.files[path].mtime_ns, default=None)
    margin_ns = COPY_NS if copied else CLOCKS_NS
    if written is not None and newest is not None and unit.files[newest].mtime_ns > written + margin_ns:
        yield Lack(f"{marker} is older than {newest}: it is saved again (or was copied; then `touch` {marker})")


def need_newer(unit: UnitFacts, markers: Iterable[str], paths: Collection[str]) -> Iterator[Lack]:
    """Complain if any of *markers* is older than one of *paths*; the oldest speaks for them all."""
    oldest = min((mark for mark in markers if mark in unit.files), key=lambda mark: unit.files[mark].mtime_ns, default=None)
    if oldest is not None:
        yield from needs_newer(unit, oldest, paths, copied=True)


def unless_patient(unit: UnitFacts, lacks: Iterable[Lack]) -> Iterator[Lack]:
    """Complain of *lacks* only while something has changed lately: nothing but time tells these cases apart."""
    if unit.unchanged_s < PATIENCE_S:
        for lack in lacks:
            reason = f"{lack.reason} (counts as complete after {PATIENCE_S / 60:.0f} minutes without a change)"
            yield Lack(reason, lack.missing)


def needs_tracker(unit: UnitFacts, tracker: str, step: float) -> Iterator[Lack]:
    """Complain unless the text of *tracker* names the unit, or a later step: then this one was whole before."""
    text, shown = unit.markers.get(tracker), f"`{tracker.removeprefix('../')}` beside it"
    if text is None:
        yield Lack(f"{shown} is missing, which is written last", (tracker,))
        return
    tag = text.strip()
    if tag != unit.name and (step_of(tag) < step or step == float("-inf")):
        yield Lack(f"{shown} names {tag!r}")
    elif tag == unit.name or step_of(tag) == step:
        yield from needs_newer(unit, tracker, weights(unit))


def states_after_weights(unit: UnitFacts, pattern: str) -> list[str]:
    """Return the ranks' own states that follow all weights: where only rank 0 writes weights, the others do not wait."""
    return matching(unit, pattern) if matching(unit, rf".*\.distcp|(?:.*/)?{DEEPSPEED_STATES}") else []


def step_of(tag: str) -> float:
    """Return the number at the end of a tag, less than any if it has none."""
    found = re.search(r"(\d{1,18})$", tag)

    return int(found[1]) if found else float("-inf")


def choose_newest(written_at: Mapping[str, int]) -> str | None:
    """Return the newest of the units (-> when each was written): the highest step beside the one written last."""
    last = max(written_at, key=lambda unit: written_at[unit], default=None)
    if last is None:
        return None
    beside = [unit for unit in written_at if directory_of(unit) == directory_of(last)]

    return max(beside, key=lambda unit: (step_of(unit), written_at[unit]))


def needs_metadata(unit: UnitFacts) -> Iterator[Lack]:
    """Hold every directory of ``.distcp`` files to the rule of torch's distributed checkpoints."""
    shards: dict[str, list[str]] = {}
    for path in matching(unit, r".*\.distcp"):
        shards.setdefault(directory_of(path), []).append(path)
    for directory, paths in sorted(shards.items()):
        yield from needs(unit, directory + ".metadata")
        yield from needs_newer(unit, directory + ".metadata", paths)


DEEPSPEED_STATES = r"(?:mp_rank_\d+_model|(?:bf16_)?zero_pp_rank_\d+_\w+|layer_\d+-model_[^/]*|expert_[^/]*)_states\.pt"
DEEPSPEED_TAGGED = rf"[^/]+/{DEEPSPEED_STATES}"


def needs_latest_inside(unit: UnitFacts) -> Iterator[Lack]:
    """Hold a directory of DeepSpeed tags to DeepSpeed's rule: ``latest`` is written when the tag it names is whole."""
    states = matching(unit, DEEPSPEED_TAGGED)
    if not states:
        return
    yield from needs(unit, "latest")
    yield from needs_newer(unit, "latest", states)
    tag = unit.markers.get("latest", "").strip()
    if tag and not any(path.startswith(tag + "/") for path in states):
        yield Lack(f"latest names {tag!r}, which is missing", (tag + "/",))


def below(unit: UnitFacts, directory: str) -> UnitFacts:
    """Return what is known of *directory* (with its slash) as if it were a unit; what is held stays with the whole."""
    size = len(directory)
    return replace(
        unit,
        name=directory.rstrip("/").rpartition("/")[2],
        files={path[size:]: fact for path, fact in unit.files.items() if path.startswith(directory)},
        indexes={path[size:]: names for path, names in unit.indexes.items() if path.startswith(directory)},
        parent_files=frozenset(),
        markers={},
        marker_times={},
        held={},
        writing=frozenset(),
        changes={path[size:]: seen for path, seen in unit.changes.items() if path.startswith(directory)},
        untouched=frozenset(path[size:] for path in unit.untouched if path.startswith(directory)),
        renewed=frozenset(path[size:] for path in unit.renewed if path.startswith(directory)),
    )
