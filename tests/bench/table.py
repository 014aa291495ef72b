"""Shows what was measured: as Markdown, for the README, between its markers."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from measure import Figures
from scale import State
from training import Beside

MB = 1e6
_BEGIN, _END = "<!-- bench: begin -->", "<!-- bench: end -->"
_HEAD = ("workload", "tool", "wall s", "CPU s", "read MB", "written MB", "sent MB", "disk MB (peak, after)", "memory MB",
         "programs", "commits", "lag s")  # fmt: skip

Results = Mapping[str, Mapping[str, Sequence[Figures]]]  # workload → tool → its runs


def middle(runs: Sequence[Figures]) -> Figures:
    """Return the medians of *runs*."""
    return Figures(**{each.name: statistics.median(getattr(run, each.name) for run in runs) for each in fields(Figures)})


def compare(results: Results) -> list[str]:
    """Return the table of all tools; in brackets how many times the first one's each time is."""
    if not results:
        return []
    lines = ["| " + " | ".join(_HEAD) + " |", "|---|---|" + "--:|" * (len(_HEAD) - 2)]
    for workload, tools in results.items():
        first = middle(next(iter(tools.values())))
        for number, (tool, runs) in enumerate(tools.items()):
            lines.append("| " + " | ".join(["" if number else workload, tool, *_cells(middle(runs), first)]) + " |")

    return lines


def _cells(now: Figures, first: Figures) -> list[str]:
    times = [f"{mine:.2f} ({mine / max(its, 0.01):.2f})" for mine, its in
             ((now.wall_s, first.wall_s), (now.cpu_s, first.cpu_s))]  # fmt: skip
    sizes = [f"{size / MB:,.0f}" for size in (now.read_bytes, now.written_bytes, now.sent_bytes)]
    disk = f"{now.disk_peak_bytes / MB:,.0f}, {now.disk_after_bytes / MB:,.0f}"
    programs = f"{now.programs:.0f}" if now.programs >= 0 else "?"
    lag = f"{now.lag_s:.1f}" if now.lag_s >= 0 else ""
    return [*times, *sizes, disk, f"{now.peak_bytes / MB:,.0f}", programs, f"{now.commits:.0f}", lag]


def grow(states: Mapping[str, Mapping[int, State]]) -> list[str]:
    """Return the table of the service at rest, and of what one more of each costs."""
    if not states:
        return []
    lines = [
        "| known | memory MB | start s | start CPU s | idle CPU % | written idle | wake-ups/s | CPU s of a change |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, by_size in states.items():
        for size, now in by_size.items():
            plural = {"directory": "directories", "shard of a unit": "shards of a unit"}.get(name, f"{name}s")
            lines.append(
                f"| {size:,} {plural} | {now.memory_bytes / MB:.0f} | {now.start_s} | {now.start_cpu_s} "
                f"| {now.idle_cpu_percent} | {now.idle_written_bytes} | {now.idle_wakeups_per_s} | {now.change_cpu_s} |"
            )
        (few, small), (many, large) = by_size.items()
        more = many - few
        memory, cpu = (large.memory_bytes - small.memory_bytes) / more, (large.start_cpu_s - small.start_cpu_s) / more
        lines.append(f"| *one more {name}* | {memory / 1000:.2f} kB | | {1e6 * cpu:.0f} µs | | | | |")

    return lines


def tell_training(told: Mapping[str, Beside]) -> list[str]:
    """Return what a training job noticed, as a table by case; where there are two numbers: alone, beside hubsync."""
    if not told:
        return []
    lines = [
        "| training, priority, line | step ms | slower % | mean % | noise % | p99 ms | save s | hits % | MB | CPU s |",
        "|---|" + "--:|" * 9,
    ]
    for case, one in told.items():
        alone, beside = one.alone, one.beside
        lines.append(
            f"| {case} | {1000 * alone.median_s:.1f} | {one.slower_percent:+.2f} | {one.slower_mean_percent:+.2f} "
            f"| {one.noise_percent:.2f} | {1000 * alone.p99_s:.1f}, {1000 * beside.p99_s:.1f} "
            f"| {alone.save_s:.1f}, {beside.save_s:.1f} | {alone.hits_percent}, {beside.hits_percent} "
            f"| {one.sent_mb:,} | {one.hubsync_cpu_s} |"
        )

    return lines


def write_readme(readme: Path, lines: Sequence[str]) -> None:
    """Put *lines* between the markers of *readme*."""
    before, _, rest = readme.read_text().partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise SystemExit(f"{readme} has no markers {_BEGIN} and {_END}")
    readme.write_text(f"{before}{_BEGIN}\n" + "\n".join(lines) + f"\n{_END}{after}")
