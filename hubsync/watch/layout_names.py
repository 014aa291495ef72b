"""Finds what the names in a unit promise: a file called ``-00001-of-00003`` has two siblings, rank 3 has ranks 0 to 2.

Pure; every list of absent names is cut short, since a hostile name may promise a billion.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping

from hubsync.watch.unit_facts import Lack

SHOWN = 3


def missing_members(files: Mapping[str, object], indexes: Mapping[str, tuple[str, ...]]) -> Iterator[Lack]:
    """Find the files that an index names and that are not there."""
    for index, members in sorted(indexes.items()):
        directory = directory_of(index)
        missing = tuple(path for member in members if (path := directory + member) not in files)
        if missing:
            yield Lack(f"{index} names {len(missing)} of {len(members)} files that are missing", missing)


# --- shards

_SHARD = re.compile(r"(?P<stem>.*-)(?P<number>\d+)-of-(?P<count>\d{3,6})(?P<suffix>\.\w+)")
_INDEXED = re.compile(r"(?P<base>(?:.*/)?(?:pytorch_|diffusion_pytorch_)?model)(?:\.\w+)?-\d+-of-\d+\.(?:safetensors|bin)")


def missing_shards(paths: Iterable[str]) -> Iterator[Lack]:
    """Find the shards that the names of their siblings promise."""
    sets: dict[tuple[str, str, str], set[str]] = {}
    for path in paths:
        if found := _SHARD.fullmatch(path):
            sets.setdefault((found["stem"], found["count"], found["suffix"]), set()).add(found["number"])
    for (stem, count, suffix), seen in sorted(sets.items()):
        missing = int(count) - len(seen)
        if missing > 0:
            names = tuple(f"{stem}{number}-of-{count}{suffix}" for number in _absent_numbers(seen, int(count)))
            yield Lack(f"{missing} of {int(count)} shards are missing: {shown(names)}", names)


def missing_shard_indexes(paths: Iterable[str]) -> Iterator[Lack]:
    """Find the sets of weights without an index: transformers and diffusers write it when the last shard is there."""
    paths = list(paths)
    indexed = {path[: path.rindex(".index.")] for path in paths if path.endswith(".json") and ".index." in path}
    for base in sorted({found["base"] for path in paths if (found := _INDEXED.fullmatch(path))}):
        if not any(index == base or index.startswith(base + ".") for index in indexed):
            yield Lack(f"the index of {base}-*-of-* is missing, which is written last")


def _absent_numbers(seen: set[str], count: int) -> list[str]:
    """Return the first numbers that are not *seen*; TensorFlow and data sets count from 0, all others from 1."""
    width = len(min(seen))
    first = 0 if "0" * width in seen else 1
    absent = (number for i in range(first, first + count) if (number := f"{i:0{width}}") not in seen)

    return [number for number, _ in zip(absent, range(SHOWN), strict=False)]


# --- ranks: every process writes its own file, in no order. The groups called i0, i1 ... count from 0 without a gap.

_RANKED = tuple(
    re.compile(rf"(?P<prefix>(?:.*/)?){pattern}")
    for pattern in (
        r"rng_state_(?P<i0>\d+)\.pth",  # transformers
        r"random_states_(?P<i0>\d+)\.pkl",  # Accelerate
        r"train/rank(?P<i0>\d+)\.pt",  # OLMo-core
        r"mp_rank_(?P<i0>\d+)_model_states\.pt",  # DeepSpeed
        r"zero_pp_rank_(?P<i0>\d+)_mp_rank_(?P<i1>\d+)_optim_states\.pt",
        r"zero_pp_rank_(?P<i0>\d+)_mp_rank_(?P<i1>\d+)_model_states\.pt",
        r"bf16_zero_pp_rank_(?P<i0>\d+)_mp_rank_(?P<i1>\d+)_optim_states\.pt",
        r"mp_rank_(?P<i0>\d+)/model_optim_rng\.pt",  # Megatron-LM: tensor parallel, then pipeline parallel
        r"mp_rank_(?P<i0>\d+)_(?P<i1>\d+)/model_optim_rng\.pt",
    )
)
_COUNTED = re.compile(r"(?P<stem>.*_world_size_(?P<count>\d+)_rank_)(?P<i0>\d+)(?P<suffix>\.\w+)")  # verl
_PROCESS = re.compile(r"(?:.*/)?__(\d+)_\d+\.distcp")
_OWN_STATE = (re.compile(r"rng_state_(\d+)\.pth"), re.compile(r"random_states_(\d+)\.pkl"))


def missing_ranks(paths: Iterable[str]) -> Iterator[Lack]:
    """Find the ranks that are missing: those below the highest one seen, and those that other files prove."""
    paths = list(paths)
    for pattern in _RANKED:
        yield from _missing_below_highest(pattern, paths)
    yield from _missing_counted(paths)
    yield from _missing_own_states(paths)


def _missing_below_highest(pattern: re.Pattern[str], paths: list[str]) -> Iterator[Lack]:
    grids: dict[str, dict[tuple[int, ...], str]] = {}
    for path in paths:
        if found := pattern.fullmatch(path):
            indices = tuple(int(found[f"i{i}"]) for i in range(pattern.groups - 1))
            grids.setdefault(found["prefix"], {})[indices] = path
    for grid in grids.values():
        sizes = [max(column) + 1 for column in zip(*grid, strict=True)]
        missing = math.prod(sizes) - len(grid)
        if missing > 0:
            names = tuple(_spell(pattern, next(iter(grid.values())), absent) for absent in _absent_cells(grid, sizes))
            yield Lack(f"{missing} of {math.prod(sizes)} ranks are missing: {shown(names)}", names)


def _absent_cells(grid: Mapping[tuple[int, ...], str], sizes: list[int]) -> Iterator[tuple[int, ...]]:
    """Yield the first cells that are not in *grid*; itertools.product would hold every range in memory."""
    found = 0
    for number in range(math.prod(sizes)):
        cell: tuple[int, ...] = ()
        rest = number
        for size in reversed(sizes):
            rest, index = divmod(rest, size)
            cell = (index, *cell)
        if cell not in grid:
            yield cell
            found += 1
            if found == SHOWN:
                return


def _spell(pattern: re.Pattern[str], path: str, indices: tuple[int, ...]) -> str:
    """Return *path* with its numbers replaced, each as wide as it was written."""
    found = pattern.fullmatch(path)
    if found is None:
        return path
    for i in reversed(range(len(indices))):
        start, end = found.span(f"i{i}")
        path = f"{path[:start]}{indices[i]:0{end - start}}{path[end:]}"

    return path


def _missing_counted(paths: list[str]) -> Iterator[Lack]:
    sets: dict[tuple[str, int, str], set[int]] = {}
    for path in paths:
        if found := _COUNTED.fullmatch(path):
            sets.setdefault((found["stem"], int(found["count"]), found["suffix"]), set()).add(int(found["i0"]))
    for (stem, count, suffix), seen in sorted(sets.items()):
        if len(seen) < count:
            absent = (rank for rank in range(count) if rank not in seen)
            names = tuple(f"{stem}{rank}{suffix}" for rank, _ in zip(absent, range(SHOWN), strict=False))
            yield Lack(f"{count - len(seen)} of {count} ranks are missing: {shown(names)}", names)


def _missing_own_states(paths: list[str]) -> Iterator[Lack]:
    """Find the processes that left shards but not, as others did, the state of their random generators.

    The names give a lower bound only: a rank that writes no shard, and whose own state is late, leaves no trace.
    """
    processes = max((int(found[1]) + 1 for path in paths if (found := _PROCESS.fullmatch(path))), default=0)
    processes = max(processes, sum("zero_pp_rank_" in path and path.endswith("_optim_states.pt") for path in paths))
    for pattern in _OWN_STATE:
        seen = {int(found[1]): path for path in paths if (found := pattern.fullmatch(path))}
        if seen and max(seen) + 1 < processes:
            name = re.sub(r"\d+", str(max(seen) + 1), next(iter(seen.values())))
            yield Lack(f"{processes} ranks wrote shards, only {len(seen)} their own state: {name}", (name,))


# --- words


def directory_of(path: str) -> str:
    """Return the directory of *path* with its slash, empty at the top."""
    return path[: path.rfind("/") + 1]


def shown(paths: Iterable[str]) -> str:
    """Return the first of *paths* and how many more there are."""
    first, *more = sorted(paths)

    return first + (f" and {len(more)} more" if more else "")
