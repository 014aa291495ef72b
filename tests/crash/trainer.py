"""A seeded writer of several targets, in a thread: it saves, renames, rewrites, truncates and rotates, and records all.

What it does is a function of its seed; when, is not. Whatever state of a file or of a unit stood for a while is recorded,
so that everything that is ever published can be held against it.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

Version = dict[str, str]  # path in the unit → SHA-256

DONE = "DONE"
_LARGE = 12_000_000  # takes a second or two to upload, at the rate that the config allows
_SMALL = 60_000
_LEAST_LOOSE = 8  # of so many one may be deleted: never more than half of a target while hubsync is away
_BUSY_S = 0.02


class Trainer:
    """Writes below *root*: ``sft`` has units and loose files, ``lora`` units, ``flow`` files that come and go."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.acts: list[str] = []
        self.units: dict[str, dict[str, list[Version]]] = {"sft": {}, "lora": {}}
        self.states: dict[str, set[str]] = {"sft": set(), "flow": set()}  # of loose files: every content that ever stood
        self._random = random.Random(seed)
        self._spoiled: set[str] = set()  # units that were rewritten in place: what was not sent of them is lost with them
        self._count = 0
        self._is_large = False
        self._running = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        for name in ("sft", "lora", "flow"):
            (root / name).mkdir()
        for number in range(_LEAST_LOOSE + 2):
            self._write_loose("flow", f"{number}.txt")

    def act(self) -> None:
        """Do one thing; deterministic in all but its time."""
        acts: dict[Callable[[], str], int] = {
            self.save: 4, self.save_again: 2, self.rotate: 2,
            self.write_loose: 5, self.rename_loose: 2, self.delete_loose: 1,
        }  # fmt: skip
        act = self._random.choices(list(acts), list(acts.values()))[0]
        self.acts.append(f"{act.__name__} {act()}")

    def start(self) -> None:
        """Act until ``stop``, in a thread."""
        self._running.set()
        self._thread.start()

    def stop(self) -> None:
        """End what is being written, and no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._random.random() * 0.4):
            self.act()

    # --- units

    def save(self, *, large: bool = False) -> str:
        """Save a unit, in one of the ways in which trainers do; a *large* one takes a while to upload."""
        self._is_large = large or self._random.random() < 0.15
        target = self._random.choice(["sft", "lora"])
        unit = f"checkpoint-{len(self.units[target]) + 1}"
        directory = self.root / target / unit
        self.units[target][unit] = []
        if self._random.random() < 0.3:  # beside, then renamed whole
            beside = directory.with_name(f"{unit}.tmp")
            self._save_files(target, unit, beside, in_place=True)
            beside.rename(directory)
        else:
            self._save_files(target, unit, directory, in_place=self._random.random() < 0.5)
        return f"{target}/{unit}"

    def save_again(self) -> str:
        """Save a unit over itself."""
        if (found := self._choose_unit()) is None:
            return "-"
        target, unit = found
        in_place = self._random.random() < 0.5
        if in_place:
            self._spoiled.add(f"{target}/{unit}")
        (self.root / target / unit / DONE).unlink()
        self._save_files(target, unit, self.root / target / unit, in_place=in_place)
        return f"{target}/{unit} {in_place=}"

    def rotate(self) -> str:
        """Delete a unit, as save_total_limit does."""
        if (found := self._choose_unit()) is None or "/".join(found) in self._spoiled:
            return "-"
        target, unit = found
        directory = self.root / target / unit
        (directory / DONE).unlink()  # from here on it is in part
        shutil.rmtree(directory)
        return f"{target}/{unit}"

    def _choose_unit(self) -> tuple[str, str] | None:
        there = [
            (target, unit) for target, units in self.units.items() for unit in units if (self.root / target / unit).is_dir()
        ]
        return self._random.choice(there) if there else None

    def _save_files(self, target: str, unit: str, directory: Path, *, in_place: bool) -> None:
        directory.mkdir(exist_ok=True)
        size = _LARGE if self._is_large else _SMALL
        contents = {
            "model.safetensors": self._safetensors(size),
            "optimizer.safetensors": self._safetensors(_SMALL),
            "config.json": json.dumps({"number": self._next()}).encode(),
            DONE: b"",
        }
        self.units[target][unit].append({name: _digest(content) for name, content in contents.items()})
        for name, content in contents.items():
            path = directory / name
            goal = path if in_place or name == DONE else path.with_name(f"{name}.tmp")
            with goal.open("wb") as file:
                for at in range(0, len(content), max(1, len(content) // 3)):
                    file.write(content[at : at + max(1, len(content) // 3)])
                    file.flush()
                    time.sleep(self._random.random() * _BUSY_S)
            goal.rename(path)

    # --- loose files

    def write_loose(self) -> str:
        """Write a loose file anew, by one of several means."""
        target = self._random.choice(["sft", "flow"])
        name = self._random.choice(["notes.txt", "table.bin", "deep/er/more.txt", *[f"{n}.txt" for n in range(9)]])
        return f"{target}/{name} {self._write_loose(target, name)}"

    def rename_loose(self) -> str:
        """Give a loose file another name."""
        names = self._loose()
        old, new = self._random.choice(names), f"renamed-{self._next() % 5}.txt"
        (self.root / "flow" / old).rename(self.root / "flow" / new)
        return f"{old} {new}"

    def delete_loose(self) -> str:
        """Delete a loose file."""
        names = self._loose()
        if len(names) < _LEAST_LOOSE:
            return "-"
        name = self._random.choice(names)
        (self.root / "flow" / name).unlink()
        return name

    def _loose(self) -> list[str]:
        flow = self.root / "flow"
        return sorted(str(path.relative_to(flow)) for path in flow.rglob("*") if path.is_file())

    def _write_loose(self, target: str, name: str) -> str:
        path = self.root / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = f"{name} {self._next()}\n".encode() * self._random.randrange(1, 3000)
        if name.endswith(".bin"):
            content = b"\0" + content
        how = self._random.choice(["rename", "write", "append", "truncate"])
        if how in {"append", "truncate"} and path.exists():
            content = path.read_bytes()
            content = content + b"more" if how == "append" else content[: len(content) // 2]
        self.states[target] |= {_digest(content), _digest(b"")}
        match how:
            case "rename":
                beside = path.with_name("beside.tmp")
                beside.write_bytes(content)
                beside.rename(path)
            case "append" if path.exists():
                with path.open("ab", buffering=0) as file:
                    file.write(b"more")
            case "truncate" if path.exists():
                os.truncate(path, len(content))
            case _:
                with path.open("wb", buffering=0) as file:  # in one call: what is read is this, or nothing
                    file.write(content)
        return how

    # --- contents

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _safetensors(self, size: int) -> bytes:
        header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
        seed = hashlib.sha256(str(self._next()).encode()).digest()
        return len(header).to_bytes(8, "little") + header + (seed * (size // 32 + 1))[:size]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_source(directory: Path) -> Version:
    """Return path → SHA-256 of all that is in *directory*."""
    found: Version = {}
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found[str(path.relative_to(directory))] = _digest(path.read_bytes())
    return found
