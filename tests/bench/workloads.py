"""The data that is published, and what changes of it before it is published again."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK_BYTES = 1 << 20

PUBLISHERS = ("floor", "hubsync", "git + git-lfs", "upload_folder", "upload_folder, Xet")
ALL = (*PUBLISHERS, "CommitScheduler")


@dataclass(frozen=True)
class Workload:
    """Data, to so many Hub repositories, by these *tools*; the first of them is what the others are compared with.

    *again*: what is done to the data (by name) before it is published once more. *is_shown*: the first time counts too.
    """

    name: str
    make: Callable[[Path], None]
    mirrors: int = 1
    tools: tuple[str, ...] = ALL
    is_shown: bool = True
    again: dict[str, Callable[[Path], None]] = field(default_factory=dict)


def write_shard(path: Path, size: int) -> None:
    """Write a safetensors file of *size* bytes of data."""
    header = json.dumps({path.stem: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    block = os.urandom(_BLOCK_BYTES)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for at in range(0, size, _BLOCK_BYTES):
            file.write(block[: size - at])


def make_unit(unit: Path, size: int, shards: int = 4, pause: Callable[[], None] = lambda: None) -> None:
    """Write a checkpoint of *size* bytes as the Trainer does; *pause* is called before each shard."""
    unit.mkdir(parents=True, exist_ok=True)
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    (unit / "config.json").write_text("{}")
    for name in names:
        pause()
        write_shard(unit / name, size // shards)
    (unit / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: name for name in names}}))
    write_state(unit)


def change_one_of_four(data: Path) -> None:
    """Write one shard again, and what the Trainer writes after it."""
    shard = next((data / "checkpoint-100").glob("model-00001-*"))
    write_shard(shard, shard.stat().st_size - _header_bytes(shard))
    write_state(shard.parent)


def write_state(unit: Path) -> None:
    """Write what the Trainer writes last, never the same."""
    (unit / "trainer_state.json").write_text(json.dumps({"written": os.urandom(8).hex()}))


def _header_bytes(shard: Path) -> int:
    with shard.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def make_small_files(data: Path, count: int, size: int = 4096) -> None:
    """Write *count* texts in folders of a hundred."""
    for number in range(count):
        folder = data / f"d{number // 100:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}.txt").write_text(os.urandom(size // 2).hex())


def change_one_small(data: Path) -> None:
    """Write one of many texts again."""
    (data / "d0000" / "f0.txt").write_text(os.urandom(2048).hex())


def change_nothing(_: Path) -> None:
    """Leave all as it is."""


def choose(unit_bytes: int, files: int, unchanged: int) -> list[Workload]:
    """Return what is measured."""
    size = f"{unit_bytes / (1 << 30):g} GiB unit"

    def make(data: Path) -> None:
        make_unit(data / "checkpoint-100", unit_bytes)

    again = {"unchanged": change_nothing, "one of four shards changed": change_one_of_four}
    # The scheduler opens all files at once, and fails with many.
    small = {"tools": PUBLISHERS, "again": {"unchanged": change_nothing, "one changed": change_one_small}}
    return [
        Workload(size, make, again=again),
        Workload(f"{size}, three mirrors", make, mirrors=3, tools=PUBLISHERS),
        Workload(f"{files:,} files of 4 KiB", lambda d: make_small_files(d, files), **small),  # type: ignore[arg-type]
        Workload(
            f"{unchanged:,} files",
            lambda data: make_small_files(data, unchanged, 64),
            tools=("scandir", "hubsync"),
            again={"unchanged": change_nothing},
            is_shown=False,
        ),
    ]
