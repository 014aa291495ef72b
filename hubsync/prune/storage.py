"""Frees the storage that dropped units take on a Hub, where the config asks for it: history and objects are destroyed.

What is destroyed is looked for on every other required mirror first; without one, it must still be here. Nothing that the
repository shows at any branch, tag or pull request is touched, nor what is on its way to it. The caller lets nothing be
published to the mirror meanwhile.
"""

import time
from collections.abc import Mapping

from hubsync.config.model import Mirror, Target
from hubsync.errors import HubsyncError
from hubsync.mirror.dropped import Drop
from hubsync.mirror.hub import Hub
from hubsync.mirror.publish import Publisher
from hubsync.monitor.logger import get_logger
from hubsync.proof.ask import Asker
from hubsync.proof.claims import Claim, Content, Place, place_of
from hubsync.proof.local import Surveyor
from hubsync.proof.prove import Means
from hubsync.proof.sound import Depth
from hubsync.units import target_rules

_FIRST_TRY_S = 15.0
_LAST_TRY_S = 3600.0
_ELSEWHERE = "another required mirror must hold it, or this machine"

log = get_logger()


class Freer:
    """Frees storage on the mirrors of one target."""

    def __init__(self, target: Target, means: Means) -> None:
        self._target = target
        self._means = means
        self._tries: dict[str, tuple[int, float]] = {}  # mirror → failures in a row, when it is tried again (monotonic)
        self._said: dict[str, str] = {}

    def is_due(self) -> bool:
        """Tell whether what could not be freed is to be tried again."""
        return any(time.monotonic() >= at for _, at in self._tries.values())

    def run(self, publisher: Publisher) -> None:
        """Free what the dropped units of a mirror take, if its rules say so and nothing waits to be published."""
        mirror = publisher.mirror
        rules = mirror.retention.remote
        units = publisher.retainer.dropped.unfreed
        if rules is None or not rules.free_storage or not units or publisher.backlog():
            return
        failures, at = self._tries.get(mirror.name, (0, 0.0))
        if time.monotonic() < at:
            return
        proven = {}
        for unit, drop in units.items():
            if reason := self._object(mirror, _contents(publisher, unit), drop):
                if self._said.get(f"{mirror.name} {unit}") != reason:
                    self._said[f"{mirror.name} {unit}"] = reason
                    log.warning(
                        "storage.held",
                        target=self._target.name,
                        mirror=mirror.name,
                        unit=unit,
                        repo=mirror.repo_id,
                        reason=reason,
                        hint=_ELSEWHERE,
                    )
            else:
                proven[unit] = drop
        is_done = len(proven) == len(units) and self._free(publisher, proven)  # the squash takes the history of all
        self._tries.pop(mirror.name, None)
        if not is_done:
            wait_s = min(_FIRST_TRY_S * 2**failures, _LAST_TRY_S)
            self._tries[mirror.name] = (failures + 1, time.monotonic() + wait_s)

    def _free(self, publisher: Publisher, units: Mapping[str, Drop]) -> bool:
        mirror = publisher.mirror
        hub = Hub(self._means.config.endpoints[mirror.endpoint], self._means.tokens)
        began = time.monotonic()
        try:
            hub.squash(mirror)
            wanted = publisher.retainer.needed_objects() | _shown_objects(hub, mirror)
            oids = {oid for drop in units.values() for oid in drop.objects} - wanted
            publisher.forget_uploads()  # before: what is destroyed must be sent again if it is needed again
            gone = hub.destroy_objects(mirror, oids) if oids else {}
        except HubsyncError as exc:
            log.warning(
                "storage.held",
                target=self._target.name,
                mirror=mirror.name,
                unit=None,
                repo=mirror.repo_id,
                reason=str(exc),
                hint=exc.hint,
            )
            return False
        publisher.retainer.dropped.note_freed(units)
        log.info("storage.freed", target=self._target.name, mirror=mirror.name, repo=mirror.repo_id, units=sorted(units),
                 files=len(gone), bytes=sum(gone.values()), took_s=round(time.monotonic() - began, 3))  # fmt: skip

        return True

    # --- what stands against it

    def _object(self, mirror: Mirror, files: Mapping[str, Content], drop: Drop) -> str:
        """Return why nothing of a unit may be destroyed; empty if all of it is elsewhere."""
        if drop.objects.keys() - {content.oid for content in files.values()}:
            return "it is not known any more what all of its objects belong to"
        others = [other for other in self._target.mirrors if other.required and other.name != mirror.name]
        if not others:
            return self._object_here(files)
        for other in others:
            places = {path: place_of(self._target, other, path) for path in files}
            missing = next((path for path, place in places.items() if place is None), None)
            if missing is not None:
                return f"{other.name} is not meant to hold {missing}"
            claims = [Claim(path, place, files[path]) for path, place in places.items() if isinstance(place, Place)]
            with Asker(other, self._means.config.endpoints[other.endpoint], self._means.tokens, self._means.stop) as asker:
                lacking = [holding for holding in asker.prove(claims, against=(None, Depth())) if holding.reason]
            if lacking:
                return f"{other.name}: {lacking[0].claim.path}: {lacking[0].reason}"

        return ""

    def _object_here(self, files: Mapping[str, Content]) -> str:
        surveyor = Surveyor(self._target.source, target_rules(self._target), 0.0, self._means.on_bytes)
        here = surveyor.survey(files)
        for path, content in files.items():
            read = here[path].files.get(path)
            if read is None or not _is_same(read[0], content):
                return f"it would be the last copy of {path}"

        return ""


def _contents(publisher: Publisher, unit: str) -> dict[str, Content]:
    """Return what a unit holds, as it was published, by path in the source."""
    return {
        path: Content(pointer.size, pointer.oid, None) if pointer else Content(0, None, blob)
        for path, (blob, pointer) in publisher.retainer.unit_files(unit).items()
    }


def _is_same(here: Content, there: Content) -> bool:
    return here.oid == there.oid if there.oid is not None else here.blob == there.blob


def _shown_objects(hub: Hub, mirror: Mirror) -> set[str]:
    """Return the objects that any branch, tag or pull request of the repository shows."""
    refs = {*hub.list_refs(mirror).values(), *hub.list_heads(mirror, pulls=True).values()}
    return {file.oid for commit in refs for file in hub.list_files(mirror, commit).values() if file.oid is not None}
