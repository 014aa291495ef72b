"""Prunes a target: the rules choose, every required mirror proves, and what is proved is removed, one unit after the other.

With ``execute=False`` it says what would go, and changes nothing.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from msgspec import Struct

from hubsync.config.model import LocalRetention, Target
from hubsync.errors import BusyError, HubsyncError, UsageError
from hubsync.monitor.logger import get_logger
from hubsync.monitor.text import format_bytes
from hubsync.pipeline import store_directory
from hubsync.proof.prove import PROPAGATED, Means, Proof, prove_paths
from hubsync.prune.choose import Units, choose, free_bytes, is_best_unknown, read_units
from hubsync.prune.journal import Journal
from hubsync.prune.listing import Listing
from hubsync.prune.removal import SUFFIX, Removal
from hubsync.prune.users import InUseError
from hubsync.retention import Verdict, has_keep_rule, is_short, newest_first
from hubsync.store.provenance import NAMES
from hubsync.store.pruned import Pruned
from hubsync.units import target_rules
from hubsync.watch.inventory import take_inventory
from hubsync.watch.unit_facts import MARK

_FIRST_TRY_S = 15.0
_LAST_TRY_S = 3600.0

log = get_logger()


class Outcome(Struct, frozen=True):
    """What became of one unit.

    *action* is ``keep`` (by a rule), ``remove`` (or would be), or ``leave``: no rule keeps it, and it must not go yet.
    """

    unit: str
    action: str
    reason: str
    hint: str = ""
    files: int = 0
    bytes: int = 0
    mirrors: tuple[str, ...] = ()


class Pruner:
    """Prunes one target, as often as it is asked; what it said before it does not say again."""

    def __init__(self, target: Target, means: Means) -> None:
        self._target = target
        self._means = means
        self._directory = store_directory(target, means.config.service.state_dir)
        self._removal = Removal(
            target.source, Journal(self._directory / "pruning.json"), Pruned(self._directory / "pruned.json")
        )
        self._said: dict[str, str] = {}
        self._tries: dict[str, tuple[int, float, Outcome]] = {}  # units that must not go yet: tries, when again, why
        self._log = log.bind(target=target.name)

    @property
    def rules(self) -> LocalRetention:
        """What the config says stays. Raises UsageError if it says nothing."""
        rules = self._target.retention.local
        if rules is None:
            raise UsageError(
                f"target {self._target.name!r} says nothing of which units stay here",
                hint="write e.g. retention.local = { keep_last = 3 } into its table",
            )
        return rules

    @property
    def next_try(self) -> float:
        """When a unit that must not go yet is tried again, monotonic."""
        return min((at for _, at, _ in self._tries.values()), default=float("inf"))

    def has_begun(self) -> bool:
        """Tell whether a removal was begun and not ended."""
        return (self._directory / "pruning.json").exists()

    def run(self, *, execute: bool) -> list[Outcome]:
        """Return what became of each unit, the newest first.

        Raises:
            UsageError: the config says nothing of which units stay.
            BusyError: another process prunes this target now.
            LeftBehindError: what an earlier removal hid cannot get its name back.
        """
        rules = self.rules
        if not execute:
            units = read_units(self._target, self._means.config.service.state_dir)
            return self._go_through(rules, units, execute=False)
        with self._alone():
            self.recover()
            units = read_units(self._target, self._means.config.service.state_dir)
            outcomes = self._go_through(rules, units, execute=True)
        self._tell(rules, outcomes)

        return outcomes

    def recover(self) -> None:
        """End or undo what a killed process began."""
        if done := self._removal.recover():
            self._log.warning("prune.recovered", reason=done)
        if not self._directory.exists():
            return
        with contextlib.suppress(HubsyncError):  # a source that cannot be listed is said by others
            for path in take_inventory(self._target.source, target_rules(self._target)).temporary:
                if path.endswith(SUFFIX) and (self._target.source / path).is_dir():
                    unit = self._removal.put_back_unknown(path)
                    self._log.warning("prune.recovered", reason=f"{unit} has its name again: nobody knew why it was hidden")

    def _go_through(self, rules: LocalRetention, units: Units, *, execute: bool) -> list[Outcome]:
        outcomes = {unit: Outcome(unit, "keep", f"it is not complete: {why}") for unit, why in units.incomplete.items()}
        gone: set[str] = set()
        left: set[str] = set()
        while True:
            verdicts = choose(self._target, rules, units, without=gone | left)
            todo = [verdict for verdict in reversed(verdicts) if not verdict.kept]
            outcomes |= {v.unit: Outcome(v.unit, "keep", v.reason) for v in verdicts if v.kept}
            for verdict in todo:
                outcome = outcomes[verdict.unit] = self._try(verdict) if execute else self._let_go(verdict, execute=False)
                (left if outcome.action == "leave" else gone).add(verdict.unit)
            # Only where free space decides, another one goes for one that must not.
            if not execute or has_keep_rule(rules) or not todo or not left or not is_short(rules, self._free()):
                break
        if is_best_unknown(self._target, rules, units):
            self._tell_best_unknown(rules)
        self._tries = {unit: tried for unit, tried in self._tries.items() if unit in left}
        order = [*newest_first(units.complete), *units.incomplete]

        return [outcomes[unit] for unit in order]

    def _tell_best_unknown(self, rules: LocalRetention) -> None:
        if self._said.get("best") is None:
            self._said["best"] = "unknown"
            self._log.warning("prune.best_unknown", reason=f"keep_best = {rules.keep_best} keeps nothing")

    def _free(self) -> int:
        return free_bytes(self._target.source)

    def _try(self, verdict: Verdict) -> Outcome:
        """Let a unit go, unless that failed a short while ago: to read it all again and again is in the way."""
        tries, at, before = self._tries.get(verdict.unit, (0, 0.0, None))
        if before is not None and time.monotonic() < at:
            return before
        outcome = self._let_go(verdict, execute=True)
        if outcome.action == "leave":
            wait_s = min(_FIRST_TRY_S * 2**tries, _LAST_TRY_S)
            self._tries[verdict.unit] = (tries + 1, time.monotonic() + wait_s, outcome)
        else:
            self._tries.pop(verdict.unit, None)

        return outcome

    def _let_go(self, verdict: Verdict, *, execute: bool) -> Outcome:
        """Remove a unit if every required mirror proves that it holds it, and nobody is at work in it."""
        began = time.monotonic()
        unit = verdict.unit
        try:
            listing = self._removal.look(unit)
            proof = prove_paths(self._means, self._target, [unit])[0]
            if outcome := self._object(unit, listing, proof):
                return outcome
            if execute:
                self._removal.remove(unit, listing)
        except InUseError as exc:
            return Outcome(unit, "leave", str(exc), exc.hint)
        outcome = Outcome(
            unit, "remove", verdict.reason, "", len(listing.files), listing.size, tuple(m.mirror for m in proof.mirrors)
        )
        if execute:
            self._said.pop(unit, None)
            self._log.info("unit.pruned", unit=unit, files=outcome.files, bytes=outcome.bytes, reason=verdict.reason,
                           mirrors=list(outcome.mirrors), took_s=round(time.monotonic() - began, 3))  # fmt: skip

        return outcome

    def _object(self, unit: str, listing: Listing, proof: Proof) -> Outcome | None:
        """Return why *unit* must not go yet, if something stands against it."""
        ours = {path for path in listing.files if self._is_ours(path)}
        against = [
            each
            for each in proof.objections
            if each.reason != PROPAGATED and each.path[len(unit) + 1 :] not in ours
        ]  # fmt: skip
        if against:
            first = against[0]
            where = f" on {first.mirror}" if first.mirror else ""
            more = f" (and {len(against) - 1} more)" if len(against) > 1 else ""
            return Outcome(unit, "leave", f"{first.path}{where}: {first.reason}{more}", first.hint)
        if proof.files < max(1, len(listing.files) - len(ours)) or not proof.mirrors:
            return Outcome(unit, "leave", "it changed while it was looked at")

        return None

    def _is_ours(self, path: str) -> bool:
        """Tell whether hubsync itself put *path* into a unit: a mark, or what came back with a restore."""
        return path == MARK or (self._target.provenance and path in NAMES)

    def _tell(self, rules: LocalRetention, outcomes: list[Outcome]) -> None:
        """Say what is kept and why, where that is news."""
        for outcome in outcomes:
            if outcome.action == "remove" or self._said.get(outcome.unit) == outcome.reason:
                continue
            self._said[outcome.unit] = outcome.reason
            if outcome.action == "keep":
                self._log.info("unit.kept", unit=outcome.unit, reason=outcome.reason)
            else:
                self._log.warning("prune.held", unit=outcome.unit, reason=outcome.reason, hint=outcome.hint)
        free = self._free()
        short = f"{format_bytes(rules.min_free_bytes)}" if is_short(rules, free) else ""
        if short and self._said.get("") != short:
            self._log.warning("prune.short", free_bytes=free, min_free_bytes=rules.min_free_bytes,
                              reason="what is left is kept by a rule, or must not go yet")  # fmt: skip
        self._said[""] = short

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._directory.exists():
            yield
            return
        fd = os.open(self._directory / "prune.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as exc:
            raise BusyError(f"another hubsync prunes {self._target.name} now", hint="see the daemon's log") from exc
        finally:
            os.close(fd)


def is_due(target: Target) -> bool:
    """Tell whether less is free than the rules say is to be."""
    rules = target.retention.local
    return rules is not None and is_short(rules, free_bytes(target.source))
