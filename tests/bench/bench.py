"""Compare hubsync with what people use today: the same data, the same local Hub, in turn, in one run.

Each tool publishes to repositories of its own on a Hub that is a process of its own and only counts what it is sent; the
Hub's time is nobody's. Prints medians and their ratios to the floor, and writes ``.bench/result.json``.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

from measure import Figures
from rich.console import Console
from rich.table import Table
from tools import ROOT, TOOLS, Place
from workloads import Workload, choose

HERE = Path(__file__).parent
MB = 1e6


@contextmanager
def serve_hub(directory: Path) -> Iterator[dict[str, str]]:
    """Run a Hub; yield its address and token, and where it tells how many bytes it was sent."""
    argv = [sys.executable, str(HERE / "hub.py"), str(directory)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdin
        assert hub.stdout
        try:
            yield json.loads(hub.stdout.readline())
        finally:
            hub.stdin.close()


def count_sent(hub: dict[str, str]) -> int:
    """Return how many bytes of objects *hub* was sent."""
    with urllib.request.urlopen(hub["count_url"]) as answer:
        return int(answer.read())


def make_place(base: Path, tool: str, hub: dict[str, str], mirrors: int) -> Place:
    """Return where *tool* works; its repositories are made beforehand: that is not what is compared."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - takes a second

    slug = "".join(filter(str.isalnum, tool))
    scratch = base / slug
    scratch.mkdir()
    repos = [f"bench/{slug}-{number}" for number in range(mirrors)]
    for repo in repos:
        HfApi(endpoint=hub["url"], token=hub["token"]).create_repo(repo, private=True)

    return {"data": str(base / "data"), "scratch": str(scratch), "url": hub["url"], "token": hub["token"], "repos": repos}


def run(tool: str, place: Place, hub: dict[str, str]) -> Figures:
    """Let *tool* publish once, and return what it took."""
    written = Path(place["scratch"], "place.json")
    written.write_text(json.dumps(place))
    sent = count_sent(hub)
    argv = [sys.executable, str(HERE / "measure.py"), sys.executable, str(HERE / "tools.py"), tool, str(written)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{tool} failed:\n{done.stderr[-3000:]}")

    figures = Figures(**json.loads(done.stdout))
    disk = own_disk(Path(place["scratch"]))
    return replace(figures, sent_bytes=count_sent(hub) - sent, extra_disk_bytes=disk)


def own_disk(directory: Path) -> int:
    """Return the bytes on disk below *directory* that no other name shares."""
    return sum(
        status.st_blocks * 512 for path in directory.rglob("*") if path.is_file() and (status := path.lstat()).st_nlink == 1
    )


Results = dict[str, dict[str, list[Figures]]]  # workload → tool → its runs


def measure_workload(workload: Workload, base: Path) -> Results:
    """Run all tools in turn, and again after each change of the data."""
    results: Results = {}
    (base / "data").mkdir(parents=True)
    workload.make(base / "data")
    with serve_hub(base / "hub") as hub:
        places = {tool: make_place(base, tool, hub, workload.mirrors) for tool in TOOLS}
        for step, change in {"": lambda _: None, **workload.again}.items():
            change(base / "data")
            name = f"{workload.name}, {step}" if step else workload.name
            results[name] = {tool: [run(tool, place, hub)] for tool, place in places.items()}
    shutil.rmtree(base)

    return results


def middle(runs: list[Figures]) -> Figures:
    """Return the medians of *runs*."""
    return Figures(**{each.name: statistics.median(getattr(run, each.name) for run in runs) for each in fields(Figures)})


def show(results: Results) -> None:
    """Print the medians of each workload, and for time how many times the floor's each one is."""
    table = Table(title="medians; (ratio to the floor in the same run)", box=None, pad_edge=False)
    headings = (
        "workload",
        "tool",
        "wall s",
        "CPU s",
        "read MB",
        "written MB",
        "sent MB",
        "disk MB",
        "memory MB",
        "processes",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for workload, tools in results.items():
        floor = middle(tools["floor"])
        for number, (tool, runs) in enumerate(tools.items()):
            now = middle(runs)
            times = (
                f"{mine:.2f} ({mine / its:.1f})" for mine, its in ((now.wall_s, floor.wall_s), (now.cpu_s, floor.cpu_s))
            )
            sizes = (now.read_bytes, now.written_bytes, now.sent_bytes, now.extra_disk_bytes, now.peak_bytes)
            cells = (f"{size / MB:,.0f}" for size in sizes)
            table.add_row("" if number else workload, tool, *times, *cells, f"{now.processes:.0f}")
    Console(width=150).print(table)


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unit-gib", type=float, default=1.0, help="size of the unit")
    parser.add_argument("--files", type=int, default=5000, help="number of small files")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="workloads with this in their name")
    asked = parser.parse_args()
    (ROOT / ".bench").mkdir(exist_ok=True)
    results: Results = {}
    load = os.getloadavg()
    for workload in choose(int(asked.unit_gib * (1 << 30)), asked.files):
        for _ in range(asked.repeats if asked.only in workload.name else 0):
            with tempfile.TemporaryDirectory(dir=ROOT / ".bench") as scratch:
                for name, tools in measure_workload(workload, Path(scratch) / "run").items():
                    for tool, runs in tools.items():
                        results.setdefault(name, {}).setdefault(tool, []).extend(runs)
    show(results)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release(), "load_before": load}
    (ROOT / ".bench" / "result.json").write_text(json.dumps({**machine, "results": results}, indent=2, default=asdict))


if __name__ == "__main__":
    main()
