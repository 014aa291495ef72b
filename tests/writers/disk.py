"""Where writers write: real files, and times as a test wants them. Nothing outside the standard library: it starts fast."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPORARY = ".tmpAbCdEf"  # safetensors >= 0.8 writes under such a name


class Step(str):
    """What an operation did. Until the writer is done, nothing may be taken for complete."""

    __slots__ = ()


class Early(Step):
    """A known exception: nothing on disk tells this from a finished unit, only that more follows."""

    __slots__ = ()


class Done(Step):
    """The writer's documented completion point; from here on the unit is complete."""

    __slots__ = ()


Steps = Iterator[Step]


class Disk:
    """A directory. With *clock_s*, what an operation touches is given that time, and each takes a second."""

    def __init__(self, root: Path, clock_s: float | None = None) -> None:
        self.root = root
        self.clock_s = clock_s
        self.wrote_weights = False

    def write(self, path: str, content: bytes | str | dict[str, Any]) -> None:
        """Write *path* in place, a dictionary as JSON."""
        target = self._prepare(path)
        target.write_bytes(_encode(content))
        self._stamp(target)

    def write_half(self, path: str, content: bytes | str | dict[str, Any]) -> None:
        """Write the first half of *content*, as is seen while a file is written in place."""
        whole = _encode(content)
        self.write(path, whole[: len(whole) // 2])

    def rename(self, old: str, new: str) -> None:
        """Rename a file or a directory."""
        (self.root / old).rename(self.root / new)
        self._note(new)

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it."""
        target = self.root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    def link(self, path: str, target: str) -> None:
        """Make *path* a symbolic link to *target*, in the place of an older one."""
        (self.root / path).unlink(missing_ok=True)
        self._prepare(path).symlink_to(target)

    def _prepare(self, path: str) -> Path:
        self._note(path)
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _note(self, path: str) -> None:
        self.wrote_weights |= path.endswith((".safetensors", ".bin", ".pt", ".distcp", ".ckpt"))

    def _stamp(self, target: Path) -> None:
        if self.clock_s is not None:
            self.clock_s += 1
            os.utime(target, (self.clock_s, self.clock_s))


def _encode(content: bytes | str | dict[str, Any]) -> bytes:
    if isinstance(content, dict):
        return json.dumps(content).encode()
    return content.encode() if isinstance(content, str) else content


# --- contents


def tensors(size: int = 64) -> bytes:
    """Return a safetensors file with one tensor."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def archive(content: bytes = b"pickle" * 20) -> bytes:
    """Return what torch.save writes, as far as anybody may look."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("archive/data.pkl", content)
    return file.getvalue()


def metadata(*names: str) -> bytes:
    """Return a ``.metadata`` that names files, in the pickle protocol of torch."""
    return pickle.dumps([{"relative_path": name, "offset": 0} for name in names], protocol=4)


def weight_map(*names: str) -> dict[str, Any]:
    """Return a sharded index."""
    return {"metadata": {}, "weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}


# --- the ways in which libraries write one file


def plain(disk: Disk, path: str, content: bytes | str | dict[str, Any] = "{}", last: type[Step] = Step) -> Steps:
    """Open the final name and write."""
    disk.write_half(path, content)
    yield Step(f"half of {path}")
    disk.write(path, content)
    yield last(path)


def renamed(disk: Disk, path: str, content: bytes | dict[str, Any], temporary: str, last: type[Step] = Step) -> Steps:
    """Write a temporary name beside the final one, then rename."""
    directory = path.rpartition("/")[0]
    beside = f"{directory}/{temporary}"
    disk.write(beside, content)
    yield Step(f"{path} under a temporary name")
    disk.rename(beside, path)
    yield last(path)


def safetensors(disk: Disk, path: str, last: type[Step] = Step) -> Steps:
    """Write as safetensors 0.8 does: a temporary file of the full size, then a rename."""
    yield from renamed(disk, path, tensors(), TEMPORARY, last)


def torch_save(disk: Disk, path: str, last: type[Step] = Step) -> Steps:
    """Write as torch.save does: in place, the directory of the zip file at the end."""
    yield from plain(disk, path, archive(), last)


def distcp(disk: Disk, directory: str, ranks: int, last: type[Step] = Step) -> Steps:
    """Write as torch's distributed checkpoints do: each rank its file, then .metadata under a temporary name, renamed."""
    names = [f"__{rank}_0.distcp" for rank in range(ranks)]
    for name in names:
        disk.write_half(f"{directory}/{name}", bytes(100))
        yield Step(f"half of {directory}/{name}")
    for name in reversed(names):
        disk.write(f"{directory}/{name}", bytes(100))
        yield Step(f"{directory}/{name}")
    yield from renamed(disk, f"{directory}/.metadata", metadata(*names), ".metadata.tmp", last)
