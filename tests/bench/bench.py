"""Compare hubsync with what people use today: the same data, the same local Hub, in turn, in one run.

Each tool publishes to repositories of its own on a Hub that is a process of its own and only counts what it is sent; the
Hub's time is nobody's. Prints medians and their ratios to the floor, writes them as Markdown to ``.bench/result.md`` and
all runs to ``.bench/result.json``. ``--quick`` takes under three minutes, with sizes that say little about large ones;
``--readme`` puts the tables between the markers of README.md.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hubs import make_place, run, serve_hub
from live import Live, choose_live
from measure import Figures
from scale import State, choose_growth, measure_growth
from table import compare, grow, tell_training, write_readme
from tools import ROOT
from training import Beside, measure_training
from training import Sizes as TrainingSizes
from workloads import Workload, choose

GIB = 1 << 30


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    unit_bytes: int
    files: int
    unchanged: int
    over_s: float
    appends: int
    checkpoints: int
    saves: int  # of checkpoints, while a training job runs
    pairs: int
    part: int  # of the sizes that growth is measured at
    most_files: int  # that growth is measured up to
    idle_s: float


_FULL = Sizes(4 * GIB, 20_000, 100_000, 60, 1000, 24, 3, 3, 1, 100_000, 15)
_QUICK = Sizes(GIB // 4, 1000, 5000, 8, 100, 5, 1, 1, 10, 10_000, 5)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty directory for one measurement, on the disk of the project."""
    (ROOT / ".bench").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".bench") as name:
        yield Path(name)


Runs = dict[str, dict[str, list[Figures]]]


def measure_workload(workload: Workload, base: Path) -> dict[str, dict[str, Figures]]:
    """Run all tools in turn, and again after each change of the data."""
    found: dict[str, dict[str, Figures]] = {}
    (base / "data").mkdir(parents=True)
    workload.make(base / "data")
    with serve_hub(base / "hub") as hub:
        places = {tool: make_place(base, tool, hub, workload.mirrors) for tool in workload.tools}
        for step, change in {"": lambda _: None, **workload.again}.items():
            change(base / "data")
            os.sync()  # or who comes first, or makes durable what it was given, pays for what the writer left to the disk
            found[name_step(workload.name, step)] = {tool: run(tool, place, hub) for tool, place in places.items()}
    if not workload.is_shown:
        del found[workload.name]

    return found


def measure_live(live: Live, base: Path) -> dict[str, dict[str, Figures]]:
    """Run one workload with a writer."""
    with serve_hub(base / "hub") as hub:
        return {name_step(live.name, step): found for step, found in live.measure(base, hub).items()}


def name_step(workload: str, step: str) -> str:
    """Return how a step of a workload is called."""
    return f"{workload}, {step}" if step else workload


def compare_tools(sizes: Sizes, repeats: int, only: str) -> Iterator[Runs]:
    """Measure all workloads; yield all runs so far after each."""
    measured: list[tuple[str, int, Callable[[Path], dict[str, dict[str, Figures]]]]] = [
        (each.name, repeats, lambda base, each=each: measure_workload(each, base))  # type: ignore[misc]
        for each in choose(sizes.unit_bytes, sizes.files, sizes.unchanged)
    ]
    measured += [
        (each.name, 1 if each.is_slow else repeats, lambda base, each=each: measure_live(each, base))  # type: ignore[misc]
        for each in choose_live(sizes.unit_bytes, sizes.over_s, sizes.appends, sizes.checkpoints)
    ]
    runs: Runs = {}
    for name, times, measure in measured:
        for number in range(times if only in name else 0):
            _say(f"{name}, {number + 1} of {times}")
            with scratch() as base:
                for step, tools in measure(base).items():
                    for tool, figures in tools.items():
                        runs.setdefault(step, {}).setdefault(tool, []).append(figures)
        if only in name:
            yield runs


def measure_all_growth(sizes: Sizes, only: str) -> Iterator[dict[str, dict[int, State]]]:
    """Measure the service at rest, at two sizes of each measure; yield what is known so far after each."""
    found = {}
    for growth in choose_growth(sizes.part, sizes.most_files):
        if only in f"growth: {growth.name}":
            _say(f"growth: {growth.name}")
            with scratch() as base, serve_hub(base / "hub") as hub:
                found[growth.name] = measure_growth(growth, base, hub, sizes.idle_s)
            yield found


def train_beside(sizes: Sizes) -> dict[str, Beside]:
    """Return what a training job notices."""
    _say("a training job")
    with scratch() as base:
        return measure_training(base, TrainingSizes(sizes.unit_bytes // 4, sizes.saves, sizes.pairs))


def _say(what: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")


@dataclass
class Result:
    """What is known so far; :meth:`save` writes all of it, so that a bench that is cut short leaves what it measured."""

    sizes: Sizes
    repeats: int
    load: tuple[float, float, float] = field(default_factory=os.getloadavg)
    runs: Runs = field(default_factory=dict)
    training: dict[str, Beside] = field(default_factory=dict)
    growth: dict[str, dict[int, State]] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """The tables, as Markdown."""
        told = [self._machine, ""]
        for lines in (compare(self.runs), tell_training(self.training), grow(self.growth)):
            told += [*lines, ""] if lines else []
        return told[:-1]

    @property
    def _machine(self) -> str:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        before, after = (", ".join(f"{each:.1f}" for each in load) for load in (self.load, os.getloadavg()))
        return (
            f"Measured with {os.cpu_count()} processors ({platform.machine()}, {memory:.0f} GB) under Linux "
            f"{platform.release()}, medians of {self.repeats}; load before {before}, after {after}."
        )

    def save(self) -> None:
        """Write the tables and all runs."""
        (ROOT / ".bench" / "result.md").write_text("\n".join(self.lines) + "\n")
        document = {"machine": self._machine, **asdict(self)}
        (ROOT / ".bench" / "result.json").write_text(json.dumps(document, indent=2))


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, once")
    parser.add_argument("--unit-gib", type=float, help="size of the unit")
    parser.add_argument("--files", type=int, help="number of small files")
    parser.add_argument("--most-files", type=int, help="how many growth is measured up to; 1000000 take an hour")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--only", default="", help="workloads with this in their name")
    parser.add_argument("--readme", action="store_true", help="put the tables into README.md")
    asked = parser.parse_args()
    chosen = asdict(_QUICK if asked.quick else _FULL)
    chosen |= {"unit_bytes": int(asked.unit_gib * GIB)} if asked.unit_gib else {}
    chosen |= {"files": asked.files} if asked.files else {}
    chosen |= {"most_files": asked.most_files} if asked.most_files else {}
    result = Result(Sizes(**chosen), asked.repeats or (1 if asked.quick else 3))
    for runs in compare_tools(result.sizes, result.repeats, asked.only):
        result.runs = runs
        result.save()
    if asked.only in "a training job":
        result.training = train_beside(result.sizes)
        result.save()
    for growth in measure_all_growth(result.sizes, asked.only):
        result.growth = growth
        result.save()
    sys.stdout.write("\n".join(result.lines) + "\n")
    if asked.readme:
        write_readme(ROOT / "README.md", result.lines)


if __name__ == "__main__":
    main()
