"""Decides which units stay: any rule may keep one, the newest complete one always stays, the others go. Pure.

It says nothing of whether a unit may go yet: that takes receipts, and nobody at work in it.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from hubsync.config.model import KeepRules, LocalRetention
from hubsync.monitor.text import format_bytes
from hubsync.watch.layout_words import choose_newest, step_of


class UnitFact(Struct, frozen=True):
    """A complete unit: when it was last written (seconds since the epoch), and the disk space that its removal gives."""

    written_at: int
    size: int = 0


class Verdict(Struct, frozen=True):
    """Whether *unit* stays, and the rule that says so."""

    unit: str
    kept: bool
    reason: str


def decide(
    units: Mapping[str, UnitFact], best_first: Sequence[str], rules: KeepRules, free_bytes: int = 0
) -> list[Verdict]:
    """Return a verdict on each of *units*, the newest first.

    *best_first* has those of which it is known how good they are; *free_bytes* is the room on their disk now. Without a
    keep rule, ``min_free`` alone decides: the oldest go until so much is free.
    """
    order = newest_first(units)
    reasons = _reasons_to_stay(units, order, best_first, rules)
    if isinstance(rules, LocalRetention) and not has_keep_rule(rules):
        return _make_room(units, order, reasons, rules.min_free_bytes, free_bytes)

    return [Verdict(unit, unit in reasons, reasons.get(unit, f"no rule keeps it: {describe(rules)}")) for unit in order]


def newest_first(units: Mapping[str, UnitFact]) -> list[str]:
    """Return *units* by age: of those beside each other the highest step is the newest."""
    left = {unit: fact.written_at for unit, fact in units.items()}
    order: list[str] = []
    while (newest := choose_newest(left)) is not None:
        order.append(newest)
        del left[newest]

    return order


def has_keep_rule(rules: KeepRules) -> bool:
    """Tell whether anything but free space decides."""
    return any((rules.keep_last, rules.keep_best, rules.keep_every))


def is_short(rules: LocalRetention, free: int) -> bool:
    """Tell whether less is free than is to be."""
    return free < rules.min_free_bytes


def describe(rules: KeepRules) -> str:
    """Return the rules as the config has them."""
    named = (("keep_last", rules.keep_last), ("keep_best", rules.keep_best), ("keep_every", rules.keep_every))
    return ", ".join(f"{name} = {value}" for name, value in named if value is not None)


def _reasons_to_stay(
    units: Mapping[str, UnitFact], order: Sequence[str], best_first: Iterable[str], rules: KeepRules
) -> dict[str, str]:
    """Return the units that stay whatever space there is, each with the first rule that keeps it."""
    reasons: dict[str, str] = {}
    if order:
        reasons[order[0]] = "it is the newest complete unit"
        # After a run was rewound, the unit that was written last has not the highest step: both are the newest.
        last = max(order, key=lambda unit: units[unit].written_at)
        reasons.setdefault(last, "it is the unit that was written last")
    for unit in order[: rules.keep_last or 0]:
        reasons.setdefault(unit, f"keep_last = {rules.keep_last}")
    for unit in [unit for unit in best_first if unit in units][: rules.keep_best or 0]:
        reasons.setdefault(unit, f"keep_best = {rules.keep_best}")
    for unit in order:
        if _is_multiple(unit, rules.keep_every):
            reasons.setdefault(unit, f"keep_every = {rules.keep_every}")

    return reasons


def _is_multiple(unit: str, every: int | None) -> bool:
    step = step_of(unit)
    return every is not None and step != float("-inf") and step % every == 0


def _make_room(
    units: Mapping[str, UnitFact], order: Sequence[str], reasons: Mapping[str, str], wanted: int, free: int
) -> list[Verdict]:
    """Let the oldest go until *wanted* bytes are free."""
    verdicts: list[Verdict] = []
    for unit in reversed(order):
        if unit in reasons:
            verdicts.append(Verdict(unit, True, reasons[unit]))
        elif free < wanted:
            verdicts.append(Verdict(unit, False, f"{format_bytes(free)} are free, min_free is {format_bytes(wanted)}"))
            free += units[unit].size
        else:
            verdicts.append(Verdict(unit, True, f"min_free is {format_bytes(wanted)}, and so much is free without it"))

    return verdicts[::-1]
