"""Brings objects to one mirror: from their pins, from the source where a pin is gone, or from another mirror.

It knows objects and where they may be had; which of them are wanted, and when, is ``publish``'s.
"""

import shutil
import time
from collections.abc import Iterable, Mapping

from hubsync.errors import MirrorError
from hubsync.mirror.api_remote import ApiRemote
from hubsync.mirror.failures import is_of_content, is_refusal
from hubsync.mirror.remote import Remote
from hubsync.mirror.uploads import UploadError
from hubsync.monitor.logger import get_logger
from hubsync.store.cache import let_go
from hubsync.store.objects import PinKind
from hubsync.store.pointer import Pointer
from hubsync.store.snapshot import Store

Objects = Mapping[str, Pointer]  # by oid

_SURE_S = 600.0  # for so long an answer is relied on, if nothing was published by it meanwhile

log = get_logger()


class Uploader:
    """Uploads to the mirror called *name* through *remote*; *others* are the mirrors of the same target, by name."""

    def __init__(
        self, store: Store, name: str, remote: Remote | ApiRemote, others: Mapping[str, Remote], min_free_bytes: int
    ) -> None:
        self._store = store
        self._name = name
        self._remote = remote
        self._others = others
        self._min_free_bytes = min_free_bytes
        self._sure: dict[str, float] = {}  # what the mirror said itself that it has, and when: monotonic
        self.not_given: dict[str, MirrorError] = {}
        """The objects that are not here, and that another mirror has but did not give when it was asked last."""

    def lacks(self, objects: Objects) -> Objects:
        """Return those of *objects* that the mirror is not known to have."""
        known = self._store.ledger.uploaded(self._name, objects)
        return {oid: pointer for oid, pointer in objects.items() if oid not in known}

    def forget(self, objects: Objects) -> None:
        """Forget which of *objects* the mirror has; it is asked again."""
        self._store.ledger.forget_uploads(self._name, objects)
        self.doubt(objects)

    def doubt(self, objects: Objects) -> None:
        """Have the mirror asked for *objects* before anything names them again."""
        self._sure = {oid: at for oid, at in self._sure.items() if oid not in objects}

    def lost(self) -> Objects:
        """Return the objects that the mirror was found to have lost, and was not sent again."""
        return self._store.ledger.lost_objects(self._name)

    def look_again(self, objects: Objects) -> None:
        """Ask the mirror for those of *objects* that it is only remembered to have, or that are not here to be sent.

        What it took once it may have lost since, and what it has is not lost.
        """
        now, known = time.monotonic(), self._store.ledger.uploaded(self._name, objects)
        self._sure = {oid: at for oid, at in self._sure.items() if at > now - _SURE_S}
        unsure = {
            oid: pointer
            for oid, pointer in objects.items()
            if oid not in self._sure and (oid in known or not self._store.has_intact(oid))
        }
        if not unsure:
            return
        there = self._remote.ask_for(unsure.values())
        self.keep(lacked := {oid: unsure[oid] for oid, has in there.items() if not has})
        # Simple servers would take again what they have: of what cannot be sent, it counts what they would give.
        if gone := [pointer for oid, pointer in lacked.items() if not self._store.has_intact(oid)]:
            there |= self._remote.ask_for(gone, "download")
        self._note_there(oid for oid, has in there.items() if has)
        if lost := {oid: unsure[oid].size for oid, has in there.items() if not has and oid in known}:
            self._store.ledger.record_lost(self._name, lost)
            log.warning("object.lost", files=len(lost), bytes=sum(lost.values()),
                        hint="hubsync sends them again; `hubsync verify` looks for others")  # fmt: skip

    def _note_there(self, oids: Iterable[str]) -> None:
        oids = list(oids)
        self._store.ledger.record_uploads(self._name, oids)
        self._sure |= dict.fromkeys(oids, time.monotonic())

    def upload(self, objects: Objects) -> dict[str, MirrorError]:
        """Upload those of *objects* that the mirror lacks and that are pinned; return those that it refuses, and why.

        Raises:
            MirrorError: something failed that is no matter of single objects, or that may succeed later.
        """
        missing = [oid for oid in self.lacks(objects) if self._store.has_intact(oid)]
        if not missing:
            return {}
        started = time.monotonic()
        refused: dict[str, MirrorError] = {}
        try:
            self._remote.upload_objects(
                missing, immutable=self._immutable(missing), on_there=lambda oid: self._let_go([oid])
            )
        except UploadError as exc:
            self._note_sent([oid for oid in missing if oid in exc.uploaded], objects, started)
            refused = {oid: failure for oid, failure in exc.refused.items() if is_refusal(failure)}
            spoiled = {oid for oid, failure in exc.refused.items() if failure.error_kind == "spoiled"}
            if exc.is_general or exc.refused.keys() - refused.keys() - spoiled:
                raise
        else:
            self._note_sent(missing, objects, started)

        return refused

    def upload_from_anywhere(self, objects: Objects) -> dict[str, MirrorError]:
        """Upload as ``upload`` does, also what is not pinned any more."""
        try:
            refused = self._upload_from_anywhere(objects)
        except UploadError as exc:  # storage answers 400 where a digest does not match, and to much else
            if not self._find_damaged(oid for oid, failure in exc.refused.items() if is_of_content(failure)):
                raise
            refused = self._upload_from_anywhere(objects)
        if damaged := self._find_damaged(refused):
            refused |= self._upload_from_anywhere({oid: objects[oid] for oid in damaged})
            refused = {oid: failure for oid, failure in refused.items() if oid in self.lacks(objects)}

        return refused

    def _find_damaged(self, oids: Iterable[str]) -> list[str]:
        """Return those of *oids* that a bad disk has changed, which are refused with reason, and drop their pins."""
        return [oid for oid in oids if not self._store.check_pin(oid)]

    def keep(self, objects: Objects) -> None:
        """Pin those of *objects* that the source still holds: its writer may delete them before they are sent."""
        for oid in objects:
            if not self._store.has_intact(oid):
                self._store.pin_again(oid)

    def _upload_from_anywhere(self, objects: Objects) -> dict[str, MirrorError]:
        self.keep(self.lacks(objects))
        downloaded = self._download(objects)
        try:
            return self.upload(objects)
        finally:
            for oid in downloaded:
                self._store.drop_download(oid)

    def _immutable(self, oids: list[str]) -> frozenset[str]:
        """Return those whose bytes no writer shares: they need not be hashed again as they leave."""
        pins = {oid: self._store.ledger.pin(oid) for oid in oids}
        return frozenset(oid for oid, pin in pins.items() if pin is not None and pin[0] is not PinKind.LINK)

    def _note_sent(self, oids: list[str], objects: Objects, started: float) -> None:
        sent = [oid for oid in oids if self._store.has_intact(oid)]
        self._note_there(sent)
        self._let_go(sent)
        took_s = round(time.monotonic() - started, 3)
        for oid in sent:
            log.debug("object.uploaded", oid=oid, bytes=objects[oid].size, took_s=took_s)

    def _let_go(self, sent: list[str]) -> None:
        """Have those of *sent* leave the page cache that no other mirror lacks: it would read them from there."""
        there = (self._store.ledger.uploaded(name, sent) for name in self._others)
        for oid in set(sent).intersection(*there):
            let_go(self._store.objects.path(oid))

    def _download(self, objects: Objects) -> list[str]:
        """Get those of *objects* that are not here any more from other mirrors; return their oids."""
        missing = {oid: pointer for oid, pointer in self.lacks(objects).items() if not self._store.has_intact(oid)}
        got: list[str] = []
        self.not_given = {}
        for name, remote in self._others.items():
            there = {oid: missing[oid] for oid in self._store.ledger.uploaded(name, missing)}
            if not there:
                continue
            self._expect_room(sum(pointer.size for pointer in there.values()))
            try:
                remote.download_objects(there.values())
            except MirrorError as exc:
                log.debug("object.missing", source=name, files=len(there), error=str(exc))
                if exc.error_kind != "not_found":
                    self.not_given |= dict.fromkeys(there, exc)
            healed = [oid for oid in there if self._store.keep_download(oid)]
            got += healed
            self.not_given = {oid: exc for oid, exc in self.not_given.items() if oid not in healed}
            missing = {oid: pointer for oid, pointer in missing.items() if oid not in healed}
            if healed:
                log.info("object.healed", source=name, files=len(healed), bytes=sum(there[oid].size for oid in healed))

        return got

    def _expect_room(self, wanted: int) -> None:
        free = shutil.disk_usage(self._store.directory).free
        if free < wanted + self._min_free_bytes:
            raise MirrorError(
                f"{wanted} bytes must be fetched from another mirror, and {free} are free",
                error_kind="disk_full",
                retryable=True,
                hint="free space on the file system of the store",
            )
