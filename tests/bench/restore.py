"""Compare ``hubsync restore`` with what people use today: the same repository, the same local Hub, in turn, in one run.

Each tool brings the repository to a new directory, as people run it; what arrives is compared byte for byte. Prints
medians, and their ratios to hubsync, and writes them to ``.bench/restore.md`` and ``.bench/restore.json``.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tools import ROOT

REPO = "bench/restored"
MIB = 1 << 20
_ENV = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
_SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], local_dir=sys.argv[2])
"""


_INSTALLED = """
[filter "lfs"]
clean = git-lfs clean -- %f
smudge = git-lfs smudge -- %f
process = git-lfs filter-process
required = true
"""  # what `git lfs install` writes
_HUB = """
import json, sys
from pathlib import Path
from hubsync.localhub import LocalHub
with LocalHub(Path(sys.argv[1])) as hub:
    print(json.dumps({"url": hub.url, "token": hub.token}), flush=True)
    sys.stdin.read()
"""


@contextmanager
def serve_hub(directory: Path) -> Iterator[dict[str, str]]:
    """Run a Hub that keeps what it is sent, in a process of its own; yield its address and token."""
    argv = [sys.executable, "-c", _HUB, str(directory)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdin
        assert hub.stdout
        try:
            yield json.loads(hub.stdout.readline())
        finally:
            hub.stdin.close()


@dataclass(frozen=True)
class Took:
    """What one run took, with all that it started, in seconds."""

    wall_s: float
    cpu_s: float


def write_data(directory: Path, shards: int, shard_bytes: int, small: int) -> None:
    """Write what a checkpoint has: large shards, and small files."""
    for number in range(shards):
        with (directory / f"model-{number:05}.safetensors").open("wb") as file:
            for _ in range(shard_bytes // MIB):
                file.write(os.urandom(MIB))
    for number in range(small):
        (directory / f"file-{number:05}.json").write_text(json.dumps({"number": number}))


def commands(hub: dict[str, str], dest: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return how each tool is run, and in which environment."""
    client = {"HF_ENDPOINT": hub["url"], "HF_TOKEN": hub["token"], "HF_HOME": str(dest.parent / "home")}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    address = f"{hub['url'].replace('://', '://bench:' + hub['token'] + '@')}/{REPO}"
    restore = [sys.executable, "-m", "hubsync", "restore", "--repo", REPO, "--endpoint", hub["url"], str(dest)]
    return {
        "hubsync": (restore, client),
        "snapshot_download": ([sys.executable, "-c", _SNAPSHOT, REPO, str(dest)], {**client, **quiet}),
        "git lfs clone": (
            ["git", "lfs", "clone", "-q", address, str(dest)],
            {"GIT_CONFIG_GLOBAL": str(dest.parent / "git")},
        ),
    }


def measure(argv: list[str], environment: dict[str, str]) -> Took:
    """Run one command to its end."""
    before, began = os.times(), time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, env={**_ENV, **environment}, capture_output=True, text=True, check=False)
    wall_s, after = time.monotonic() - began, os.times()
    if done.returncode != 0:
        raise SystemExit(f"{argv[:4]} failed:\n{done.stderr[-3000:]}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system

    return Took(round(wall_s, 3), round(cpu_s, 3))


def digests(directory: Path) -> dict[str, str]:
    """Return what arrived, without what each tool adds for itself."""
    hidden = {".git", ".cache", ".gitattributes"}
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if not hidden & set(path.relative_to(directory).parts)
    }


def run_all(base: Path, shards: int, shard_bytes: int, small: int, repeats: int) -> dict[str, list[Took]]:
    """Return all runs of all tools, in turn, each time in another order."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - takes a second

    (base / "data").mkdir()
    (base / "git").write_text(_INSTALLED)
    write_data(base / "data", shards, shard_bytes, small)
    wanted = digests(base / "data")
    runs: dict[str, list[Took]] = {}
    with serve_hub(base / "hub") as hub:
        api = HfApi(endpoint=hub["url"], token=hub["token"])
        api.create_repo(REPO, private=True)
        api.upload_folder(repo_id=REPO, folder_path=base / "data")
        for number in range(repeats):
            tools = list(commands(hub, base / "dest"))
            for tool in tools[number % 3 :] + tools[: number % 3]:
                argv, environment = commands(hub, base / "dest")[tool]
                runs.setdefault(tool, []).append(measure(argv, environment))
                if digests(base / "dest") != wanted:
                    raise SystemExit(f"{tool} brought something else")
                shutil.rmtree(base / "dest")
                shutil.rmtree(base / "home", ignore_errors=True)

    return runs


def table(runs: dict[str, list[Took]]) -> list[str]:
    """Return medians and their ratios to hubsync's."""
    wall = {tool: statistics.median(took.wall_s for took in each) for tool, each in runs.items()}
    cpu = {tool: statistics.median(took.cpu_s for took in each) for tool, each in runs.items()}
    lines = ["| tool | seconds | to hubsync | processor seconds |", "| --- | ---: | ---: | ---: |"]

    return lines + [
        f"| {tool} | {wall[tool]:.2f} | {wall[tool] / wall['hubsync']:.2f} | {cpu[tool]:.2f} |" for tool in sorted(wall)
    ]


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, three times")
    asked = parser.parse_args()
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    shards, shard_bytes, small, repeats = (4, 32 * MIB, 50, 3) if asked.quick else (8, 512 * MIB, 1000, 5)
    (ROOT / ".bench").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".bench") as name:
        runs = run_all(Path(name), shards, shard_bytes, small, repeats)
    size = f"{shards} objects of {shard_bytes // MIB} MiB and {small} small files, {repeats} times"
    lines = [f"Restored: {size}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors.", "", *table(runs)]
    (ROOT / ".bench" / "restore.md").write_text("\n".join(lines) + "\n")
    (ROOT / ".bench" / "restore.json").write_text(json.dumps({"size": size, "runs": runs}, indent=2, default=asdict))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
