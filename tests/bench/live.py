"""Workloads with a writer at work: hubsync runs as its service; other tools are run when the writer says."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hubs import Running, make_place, read_shown, run, wait_shown
from measure import Figures
from tools import Place
from workloads import make_unit, write_shard, write_state

_LIMIT_S = 300.0
_QUIET_S = 1.0


Steps = dict[str, dict[str, Figures]]  # what was done → tool → figures; "" is what gives the workload its name


@dataclass(frozen=True)
class Live:
    """A workload of its own kind; *measure* gets a directory and a Hub.

    Those that take minutes are measured once, others as often as all are.
    """

    name: str
    measure: Callable[[Path, dict[str, str]], Steps]
    is_slow: bool = True


def choose_live(unit_bytes: int, over_s: float, appends: int, days: int) -> list[Live]:
    """Return the workloads with a writer."""
    size = f"{unit_bytes / (1 << 30):g} GiB"
    return [
        Live(f"{size} unit, moved in", lambda base, hub: _arrival(base, hub, unit_bytes, 1), is_slow=False),
        Live(f"{size} unit, moved in, three mirrors", lambda base, hub: _arrival(base, hub, unit_bytes, 3)),
        Live(f"16 shards, {size}, over {over_s:.0f} s", lambda base, hub: _lag(base, hub, unit_bytes, over_s)),
        Live(f"a log, {appends:,} appends", lambda base, hub: _log(base, hub, appends, over_s)),
        Live(f"{days} checkpoints, the last 2 kept", lambda base, hub: _day(base, hub, unit_bytes // 16, days)),
    ]


def _daemon_place(base: Path, hub: dict[str, str], mirrors: int = 1, **settings: object) -> Place:
    place = make_place(base, "daemon", hub, mirrors)
    return {**place, "settings": {"quiet": f"{_QUIET_S:g}s", **settings}}


def _wait_ready(place: Place) -> None:
    socket = Path(place["scratch"], "state", "control.sock")
    while not socket.exists():
        time.sleep(0.05)
    time.sleep(1.0)


def _arrival(base: Path, hub: dict[str, str], size: int, mirrors: int) -> Steps:
    """Move a whole unit, then a new version of one of its shards, into the source of a service that runs.

    The lag counts from there until the last mirror shows it, with a quiet of 0.1 s.
    """
    made, unit = base / "made", base / "data" / "checkpoint-100"
    unit.parent.mkdir()
    make_unit(made / unit.name, size)
    daemon = _daemon_place(base, hub, mirrors, quiet="100ms")
    others = {tool: make_place(base, tool, hub, mirrors) for tool in ("floor", "git + git-lfs", "upload_folder")}

    def publish(move: Callable[[], object]) -> dict[str, Figures]:
        os.sync()
        with Running("daemon", daemon, hub) as running:
            _wait_ready(daemon)
            moved = time.monotonic()
            move()
            state = (unit / "trainer_state.json").read_text()
            lag_s = wait_shown(daemon, f"{unit.name}/trainer_state.json", _LIMIT_S, state) - moved
        found = {tool: run(tool, place, hub) for tool, place in others.items()}
        found = {tool: replace(figures, lag_s=figures.wall_s) for tool, figures in found.items()}
        return {"floor": found.pop("floor"), "hubsync": replace(running.figures, wall_s=lag_s, lag_s=lag_s), **found}

    steps = {"": publish(lambda: (made / unit.name).rename(unit))}
    if mirrors == 1:
        shard = next(unit.glob("model-00001-*"))
        write_shard(made / shard.name, size // 4)
        write_state(made)
        steps["one of four shards changed"] = publish(
            lambda: [(made / name).replace(unit / name) for name in (shard.name, "trainer_state.json")]
        )

    return steps


def _lag(base: Path, hub: dict[str, str], size: int, over_s: float) -> Steps:
    """Write a unit slowly; the lag counts from its last byte, less the time that hubsync waits for quiet."""
    (base / "data").mkdir()
    place = _daemon_place(base, hub)
    with Running("daemon", place, hub) as running:
        _wait_ready(place)
        make_unit(base / "data" / "checkpoint-100", size, 16, lambda: time.sleep(over_s / 16))
        written = time.monotonic()
        shown = wait_shown(place, "checkpoint-100/trainer_state.json", _LIMIT_S)
    found = {"hubsync": replace(running.figures, lag_s=round(shown - written - _QUIET_S, 2))}
    for tool in ("git + git-lfs", "upload_folder"):  # begun with the last byte, so that all of it is lag
        figures = run(tool, make_place(base, tool, hub, 1), hub)
        found[tool] = replace(figures, lag_s=round(figures.wall_s, 2))

    return {"": found}


def _log(base: Path, hub: dict[str, str], appends: int, over_s: float) -> Steps:
    """Append to one file all the time; hubsync commits each tenth of it."""
    log = base / "data" / "metrics.jsonl"
    log.parent.mkdir()
    place = _daemon_place(base, hub, schedule=f"{max(1, round(over_s / 10))}s")
    with Running("daemon", place, hub) as running:
        _wait_ready(place)
        with log.open("w") as file:
            for number in range(appends):
                file.write(json.dumps({"step": number, "loss": 1 / (number + 1)}) + "\n")
                file.flush()
                time.sleep(over_s / appends)
        deadline = time.monotonic() + _LIMIT_S
        while not read_shown(place, log.name).endswith(f"{1 / appends}}}") and time.monotonic() < deadline:
            time.sleep(0.1)

    return {"": {"hubsync": running.figures}}


def _day(base: Path, hub: dict[str, str], size: int, count: int) -> Steps:
    """Save checkpoint after checkpoint, and keep the last two, while hubsync runs; the others are run after each."""

    def save(number: int) -> str:
        unit = base / "data" / f"checkpoint-{number}"
        make_unit(unit, size)
        if number > 2:
            shutil.rmtree(base / "data" / f"checkpoint-{number - 2}")
        return f"{unit.name}/trainer_state.json"

    (base / "data").mkdir()
    place = _daemon_place(base, hub)
    with Running("daemon", place, hub) as running:
        _wait_ready(place)
        for number in range(1, count + 1):
            marker = save(number)
            time.sleep(1.0)
        wait_shown(place, marker, _LIMIT_S)
        time.sleep(2.0)  # what was kept for the mirror is let go
    found = {"hubsync": running.figures}
    for tool in ("git + git-lfs", "upload_folder"):
        shutil.rmtree(base / "data")
        other = make_place(base, tool, hub, 1)
        found[tool] = _sum([(save(number), run(tool, other, hub))[1] for number in range(1, count + 1)])

    return {"": found}


def _sum(runs: list[Figures]) -> Figures:
    last = runs[-1]
    return Figures(
        wall_s=sum(one.wall_s for one in runs), cpu_s=sum(one.cpu_s for one in runs),
        read_bytes=sum(one.read_bytes for one in runs), written_bytes=sum(one.written_bytes for one in runs),
        peak_bytes=max(one.peak_bytes for one in runs), programs=sum(one.programs for one in runs),
        sent_bytes=sum(one.sent_bytes for one in runs), disk_peak_bytes=max(one.disk_peak_bytes for one in runs),
        disk_after_bytes=last.disk_after_bytes, commits=sum(one.commits for one in runs),
    )  # fmt: skip
