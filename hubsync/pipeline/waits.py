"""Tells what of a target is not committed yet, and why. It decides nothing; the caller has the pipeline's lock."""

import heapq
import time
from datetime import UTC, datetime, timedelta

from hubsync.config.model import Target
from hubsync.monitor.status import Waiting
from hubsync.pipeline.files import Files
from hubsync.pipeline.guard import Guard
from hubsync.pipeline.held import Held, Pending, since_change
from hubsync.pipeline.intake import Intake
from hubsync.pipeline.unit import Units, unit_hint
from hubsync.watch.layout_words import step_of


class Waits:
    """What waits in one *target*: for its writer, for room, for a person, for its turn."""

    def __init__(self, target: Target, files: Files, held: Held, units: Units, guard: Guard, intake: Intake) -> None:
        self._target = target
        self._files = files
        self._held = held
        self._units = units
        self._guard = guard
        self._intake = intake

    def held(self) -> dict[str, str]:
        """Return what is held back and why: files, and units (with a trailing slash)."""
        held = {**self._held.reasons, **self._units.reasons()}
        if reason := self._guard.why_stuck():
            held = dict.fromkeys(self._files.settled, reason) | held | dict.fromkeys(self._units.ready(), reason)

        return held

    def unread(self) -> dict[str, str]:
        """Return the settled files that have yet to be read → how far that is."""
        told = {one.path: f"is being read: {one}" for one in self._intake.being_read()}
        return dict.fromkeys(self._intake.unread(), "has yet to be read") | told

    def pending(self) -> dict[str, Pending]:
        """Return what is not committed as it stands: files outside of units, and units (with a trailing slash)."""
        held, unquiet = self.held(), self._files.settler.waiting(float("-inf"))
        files = {path: Pending(reason, final=True) for path, reason in self._held.reasons.items()}
        files |= {path: Pending(held.get(path, "waits for the schedule"), settled=True) for path in self._files.settled}
        files |= {path: Pending(held.get(path, reason)) for path, reason in self.unread().items()}
        files |= dict.fromkeys(unquiet, Pending("is not quiet yet"))
        loose = {path: one for path, one in files.items() if self._units.is_loose(path) and not path.endswith("/")}
        units = self._units.by_name.items()

        return loose | {
            f"{name}/": Pending(held[f"{name}/"], final=one.abandoned, hint=self._held.hints.get(f"{name}/", ""))
            for name, one in units
        }

    def describe_held(self, most: int) -> list[Waiting]:
        """Return the first *most* of what is held back, and why: what needs a person, then units by step, then files."""
        needy = {f"{name}/" for name in self._units.abandoned()} | self._held.needy
        held = self.held()
        first = heapq.nsmallest(most, held, lambda p: (p not in needy, p[-1] != "/", step_of(p.rstrip("/")), p))

        return [self._describe(path, held[path], needs_attention=path in needy) for path in first]

    def _describe(self, path: str, reason: str, *, needs_attention: bool) -> Waiting:
        unit = self._units.by_name.get(path.removesuffix("/"))
        hint = self._held.hints.get(path) or self._guard.hint_of(reason)
        seen = self._held.since.get(path)
        if unit is not None:
            seen = datetime.now(UTC) - timedelta(seconds=time.monotonic() - unit.since)
            hint = hint or (unit_hint(self._target, path.rstrip("/")) if unit.abandoned else "")

        return Waiting(path, reason, since_change(self._target.source / path, seen), hint, needs_attention)
