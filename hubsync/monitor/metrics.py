"""Writes the status as metrics, in Prometheus' text format, for node_exporter's textfile collector. Pure.

The names are an interface, as those of events are. Times are seconds, sizes bytes; a state is 1 for the one that is.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from msgspec import Struct

from hubsync.monitor.status import MirrorState, MirrorStatus, Status, TargetState, TargetStatus

Labels = Mapping[str, str]


class Metric(Struct, frozen=True):
    """One metric: what it means, and its figures by labels."""

    name: str
    meaning: str
    figures: tuple[tuple[Labels, float], ...]


def draw_metrics(status: Status) -> str:
    """Return *status* as a text file of metrics."""
    return "".join(line for metric in make_metrics(status) for line in _lines(metric))


def make_metrics(status: Status) -> Iterator[Metric]:
    """Yield all metrics."""
    daemon, targets = status.daemon, status.targets
    pairs = [(target, mirror) for target in targets for mirror in target.mirrors]
    yield Metric("hubsync_info", "The version that runs.", (({"version": daemon.version}, 1),))
    yield Metric("hubsync_heartbeat_timestamp_seconds", "When these figures were taken; alert when it is old.",
                 (({}, daemon.updated_at.timestamp()),))  # fmt: skip
    yield Metric("hubsync_start_timestamp_seconds", "When the daemon started.", (({}, daemon.started_at.timestamp()),))
    yield Metric("hubsync_config_rejected", "1 while a newer config is refused.", (({}, daemon.config_error is not None),))
    yield Metric("hubsync_target_state", "1 for the state that a target is in.", _states(targets))
    yield Metric("hubsync_target_held", "Paths that are held back.", _of_targets(targets, "held"))
    yield Metric("hubsync_target_at_risk_seconds", "Training time since the newest unit that all required mirrors hold.",
                 _of_targets(targets, "at_risk_s"))  # fmt: skip
    yield Metric("hubsync_target_disk_held_bytes", "Captured content that some mirror still needs.",
                 _of_targets(targets, "disk_held_bytes"))  # fmt: skip
    yield Metric("hubsync_mirror_state", "1 for the state that a mirror is in.", _mirror_states(pairs))
    yield Metric("hubsync_mirror_behind_seconds", "Age of the oldest settled thing that a mirror lacks.",
                 _of_mirrors(pairs, "behind_s"))  # fmt: skip
    yield Metric("hubsync_mirror_at_risk_seconds", "Training time since the newest unit that a mirror holds.",
                 _of_mirrors(pairs, "at_risk_s"))  # fmt: skip
    yield Metric("hubsync_mirror_backlog_files", "Files that a mirror still lacks.", _of_mirrors(pairs, "backlog_files"))
    yield Metric("hubsync_mirror_backlog_bytes", "Bytes that a mirror still lacks.", _of_mirrors(pairs, "backlog_bytes"))
    yield Metric("hubsync_mirror_last_success_timestamp_seconds", "When a mirror was last up to date, since the start.",
                 tuple((_labels(t, m), m.last_success.timestamp()) for t, m in pairs if m.last_success))  # fmt: skip


Pairs = list[tuple[TargetStatus, MirrorStatus]]
Figures = tuple[tuple[Labels, float], ...]


def _of_targets(targets: Iterable[TargetStatus], field: str) -> Figures:
    return tuple(({"target": target.name}, getattr(target, field)) for target in targets)


def _of_mirrors(pairs: Pairs, field: str) -> Figures:
    return tuple((_labels(target, mirror), getattr(mirror, field)) for target, mirror in pairs)


def _labels(target: TargetStatus, mirror: MirrorStatus) -> dict[str, str]:
    return {"target": target.name, "mirror": mirror.name, "required": str(mirror.required).lower()}


def _states(targets: Iterable[TargetStatus]) -> Figures:
    states = get_args(TargetState)
    return tuple(({"target": target.name, "state": state}, target.state == state) for target in targets for state in states)


def _mirror_states(pairs: Pairs) -> Figures:
    return tuple(
        ({**_labels(target, mirror), "state": state}, mirror.state == state)
        for target, mirror in pairs
        for state in get_args(MirrorState)
    )


def _lines(metric: Metric) -> Iterator[str]:
    if metric.figures:
        yield f"# HELP {metric.name} {metric.meaning}\n# TYPE {metric.name} gauge\n"
    for labels, figure in metric.figures:
        named = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
        yield f"{metric.name}{f'{{{named}}}' if named else ''} {float(figure)!r}\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
