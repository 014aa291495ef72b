"""Compare hubsync with what people use today: the same data, the same local Hub, in turn, in one run.

Each tool publishes to a repository of its own. The wall time holds the Hub's own work, the CPU time that of its git
processes, for all tools alike. Prints medians with ratios to hubsync, and writes ``.bench/result.json``.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hubsync.localhub import LocalHub

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
GIT_ENV = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
IDENTITY = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]


@dataclass
class Figures:
    """What one run of one tool took; times in seconds, disk in bytes."""

    wall_s: float
    cpu_s: float
    extra_disk: int


@dataclass
class Place:
    """Where one tool works: the data, the Hub, and a scratch directory of its own."""

    data: Path
    hub: LocalHub
    repo: str
    scratch: Path


def run(argv: list[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    """Run a command and show what it said if it failed."""
    done = subprocess.run(
        argv, cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{argv[:4]} failed:\n{done.stderr[-3000:]}")


def with_hubsync(place: Place) -> None:
    """Publish with ``hubsync once``."""
    config = place.scratch / "hubsync.toml"
    config.write_text(f"""
[endpoint.local]
url = "{place.hub.url}"
token = {{ env = "BENCH_TOKEN" }}
[service]
state_dir = "{place.scratch}/state"
min_free = "0"
[[target]]
name = "bench"
source = "{place.data}"
quiet = "0s"
units = ["checkpoint-*"]
mirrors = ["local:{place.repo}"]
""")
    run([PYTHON, "-m", "hubsync", "-c", str(config), "once"], cwd=ROOT, environment={"BENCH_TOKEN": place.hub.token})


def with_git_lfs(place: Place) -> None:
    """Publish with ``git add``, ``git commit`` and ``git push`` of a work tree that holds the data."""
    tree = place.scratch / "tree"
    if not tree.exists():
        url = place.hub.url.replace("://", f"://bench:{place.hub.token}@")
        run(["git", "clone", "-q", f"{url}/{place.repo}", str(tree)], environment=GIT_ENV)
        run(["git", "lfs", "install", "--local"], cwd=tree, environment=GIT_ENV)
    subprocess.run(["cp", "-al", f"{place.data}/.", str(tree)], check=True)  # hard links: copying is not what is timed
    run(["git", "add", "-A"], cwd=tree, environment=GIT_ENV)
    run(["git", *IDENTITY, "commit", "-q", "--allow-empty", "-m", "bench"], cwd=tree, environment=GIT_ENV)
    run(["git", "push", "-q"], cwd=tree, environment=GIT_ENV)


def with_upload_folder(place: Place) -> None:
    """Publish with ``huggingface_hub.upload_folder`` over LFS."""
    code = (
        f"from huggingface_hub import upload_folder; upload_folder(repo_id={place.repo!r}, folder_path={str(place.data)!r})"
    )
    run(
        [PYTHON, "-c", code],
        environment={
            "HF_ENDPOINT": place.hub.url,
            "HF_TOKEN": place.hub.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(place.scratch / "home"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        },
    )


TOOLS: dict[str, Callable[[Place], None]] = {
    "hubsync": with_hubsync,
    "git + git-lfs": with_git_lfs,
    "upload_folder": with_upload_folder,
}


def make_unit(directory: Path, size: int) -> None:
    """Write a unit of four shards and a few small files, *size* bytes in all."""
    unit = directory / "checkpoint-100"
    unit.mkdir(parents=True)
    shard = size // 4
    for number in range(1, 5):
        header = json.dumps({f"w{number}": {"dtype": "U8", "shape": [shard], "data_offsets": [0, shard]}}).encode()
        with (unit / f"model-{number:05}-of-00004.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            block = os.urandom(1 << 20)
            for _ in range(shard >> 20):
                file.write(block)
            file.write(block[: shard & ((1 << 20) - 1)])
    weights = {f"w{number}": f"model-{number:05}-of-00004.safetensors" for number in range(1, 5)}
    (unit / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (unit / "config.json").write_text("{}")
    (unit / "trainer_state.json").write_text("{}")


def make_small_files(directory: Path, count: int) -> None:
    """Write *count* text files of 4 KiB in folders of a hundred."""
    for number in range(count):
        folder = directory / f"d{number // 100:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}.txt").write_text(os.urandom(2048).hex())


def measure(tool: Callable[[Place], None], place: Place) -> Figures:
    """Run *tool* once and return what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    tool(place)
    wall_s = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return Figures(round(wall_s, 3), round(cpu_s, 3), own_disk(place.scratch))


def own_disk(directory: Path) -> int:
    """Return the bytes on disk below *directory* that no other name shares."""
    return sum(
        status.st_blocks * 512 for path in directory.rglob("*") if path.is_file() and (status := path.lstat()).st_nlink == 1
    )


def bench(name: str, make: Callable[[Path], None], base: Path, repeats: int) -> dict[str, dict[str, list[Figures]]]:
    """Run all tools on one workload, in turn, then each again with nothing changed."""
    data = base / name.replace(" ", "-") / "data"
    data.mkdir(parents=True)
    make(data)
    results: dict[str, dict[str, list[Figures]]] = {name: {}, f"{name}, unchanged again": {}}
    for repeat in range(repeats):
        for tool_name, tool in TOOLS.items():
            scratch = data.parent / f"{tool_name.replace(' ', '')}-{repeat}"
            scratch.mkdir()
            with LocalHub(scratch.parent / f"hub-{scratch.name}", port=0) as hub:
                place = Place(data, hub, f"bench/r{repeat}", scratch)
                create_repository(place)
                for runs in results.values():
                    runs.setdefault(tool_name, []).append(measure(tool, place))
            shutil.rmtree(scratch)
            shutil.rmtree(scratch.parent / f"hub-{scratch.name}")

    return results


def create_repository(place: Place) -> None:
    """Make the repository beforehand: it is not what is compared."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - after the environment is set

    HfApi(endpoint=place.hub.url, token=place.hub.token).create_repo(place.repo, private=True)


def show(results: dict[str, dict[str, list[Figures]]]) -> None:
    """Print medians, and how many times hubsync's figure each one is."""
    table = Table(title="median; the ratio is to hubsync in the same run")
    for column in ("workload", "tool", "wall s", "ratio", "CPU s", "ratio", "extra disk MB"):
        table.add_column(column, justify="left" if column in {"workload", "tool"} else "right")
    for workload, tools in results.items():
        base = middle(tools["hubsync"])
        for name, runs in tools.items():
            now = middle(runs)
            table.add_row(
                workload, name, f"{now.wall_s:.2f}", f"{now.wall_s / base.wall_s:.1f}", f"{now.cpu_s:.2f}",
                f"{now.cpu_s / base.cpu_s:.1f}", f"{now.extra_disk / 1e6:.1f}",
            )  # fmt: skip
            workload = ""  # noqa: PLW2901 - said once
    Console(width=110).print(table)


def middle(runs: list[Figures]) -> Figures:
    """Return the medians of *runs*."""
    return Figures(
        statistics.median(run.wall_s for run in runs),
        statistics.median(run.cpu_s for run in runs),
        int(statistics.median(run.extra_disk for run in runs)),
    )


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unit-mb", type=int, default=1024, help="size of the unit")
    parser.add_argument("--files", type=int, default=5000, help="number of small files")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    (ROOT / ".bench").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".bench") as scratch:
        base = Path(scratch)
        results = bench(f"{asked.unit_mb} MB unit", lambda d: make_unit(d, asked.unit_mb << 20), base, asked.repeats)
        results |= bench(f"{asked.files} files of 4 KiB", lambda d: make_small_files(d, asked.files), base, asked.repeats)
    show(results)
    load = os.getloadavg()[0]
    document = {
        "cores": os.cpu_count(), "load": load,
        "results": results,
    }  # fmt: skip
    (ROOT / ".bench" / "result.json").write_text(json.dumps(document, indent=2, default=asdict))


if __name__ == "__main__":
    main()
