"""Brings what steps need to a mirror before they are published, those objects first that are wanted most.

What the mirror refuses, and what is nowhere any more, is held back. It must never know branches and commits.
"""

import functools
import time
from collections.abc import Callable, Container, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext

from msgspec import Struct

from hubsync.errors import MirrorError
from hubsync.mirror.lost import SPOILED_HINT
from hubsync.mirror.refusals import Refusals
from hubsync.mirror.roles import expand_include
from hubsync.mirror.uploader import Objects, Uploader
from hubsync.mirror.view import LOST, WHY_LOST, Step, fold
from hubsync.store.git import blob_id
from hubsync.store.pointer import Pointer
from hubsync.store.snapshot import Store
from hubsync.watch.rules import PathRules

_HEAL_AGAIN_S = 300.0  # a storage that loses what it takes is not sent it without end


class Backlog(Struct, frozen=True):
    """What a mirror lacks; *since* is when the oldest of it was committed, seconds since the epoch."""

    files: int = 0
    bytes: int = 0
    since: int | None = None


class Supply:
    """The objects of one mirror's steps."""

    def __init__(self, store: Store, uploader: Uploader, refusals: Refusals) -> None:
        self._store = store
        self._uploader = uploader
        self._refusals = refusals
        self._tried: dict[str, float] = {}  # what ``heal`` tried, and when: monotonic
        self._has_healed = False

    def measure(self, parts: Iterable[Step], since: int) -> Backlog:
        """Return how much *parts* of a step bring together; each may be forgotten before the next one comes."""
        files = 0
        pointers: dict[str, Pointer] = {}
        for part in parts:
            files += len(part.changes)
            pointers |= self._store.pointers({change.after.blob for change in part.changes if change.after})

        return Backlog(files, sum(pointer.size for pointer in pointers.values()), since)

    def lacks_for(self, steps: Sequence[Step]) -> bool:
        """Tell whether the mirror lacks something that *steps* need."""
        return bool(self._uploader.lacks(self._objects(steps)))

    def find_early(self, shows: Callable[[str], bool]) -> Objects:
        """Return what the mirror lacks of the objects that no snapshot has yet, of files that it *shows*."""
        ledger = self._store.ledger
        captured = ledger.uncommitted_objects().items()
        shown = {oid: pointer for oid, pointer in captured if any(shows(path) for path, _ in ledger.paths_of(oid))}

        return self._uploader.lacks(shown)

    def send_early(self, objects: Objects) -> None:
        """Upload *objects* that no step needs yet; what is refused is said when its file is to be published."""
        self._uploader.upload(objects)

    def bring(self, steps: Sequence[Step], beside: Callable[[], AbstractContextManager[None]]) -> bool:
        """Upload what *steps* need, if the mirror lacks any of it, inside what *beside* returns.

        Tell whether the mirror refused something, which is held back from now on.
        """
        objects = self._objects(steps)
        self._uploader.look_again(objects)
        with beside() if self._uploader.lacks(objects) else nullcontext():
            refused = self._uploader.upload_from_anywhere(objects)
        blobs = {blob_id(objects[oid].encode()): failure for oid, failure in refused.items()}
        by_path = {c.path: blobs[c.after.blob] for step in steps for c in step.changes if c.after and c.after.blob in blobs}
        held = [self._refusals.refuse([path], failure) for path, failure in by_path.items()]

        return any(held)

    def lacked(self, blobs: Iterable[str]) -> AbstractSet[str]:
        """Return those of *blobs* that point to what the mirror lacks and cannot be given: no commit may name them."""
        pointers = self._store.pointers(blobs)
        objects = {pointer.oid: pointer for pointer in pointers.values()}
        self._uploader.look_again(objects)  # with a branch that was rolled back, its storage may have been, too
        if lacks := self._uploader.lacks(objects):
            self._uploader.upload_from_anywhere(lacks)
            lacks = self._uploader.lacks(lacks)

        return {blob for blob, pointer in pointers.items() if pointer.oid in lacks}

    def forget(self, steps: Sequence[Step]) -> None:
        """Have what *steps* need sent again: the mirror says that it lacks some of it."""
        self._uploader.forget(self._objects(steps))

    def note_published(self, steps: Sequence[Step]) -> None:
        """Rely no more on the mirror's having what *steps* needed: what names it next is another publication."""
        self._uploader.doubt(self._objects(steps))

    def is_owed(self) -> bool:
        """Tell whether the mirror lost something that it was not sent again, nor a moment ago."""
        return bool(self._owed())

    def heal(self) -> None:
        """Send again what the mirror has lost, so far as it can be had."""
        owed = self._owed()
        self._uploader.keep(owed)
        self._uploader.look_again(owed)
        self._uploader.upload_from_anywhere(owed)  # what is refused stays lost
        self._tried |= dict.fromkeys(owed, time.monotonic())
        self._has_healed |= bool(owed.keys() - self._uploader.lost().keys())

    def take_healed(self) -> bool:
        """Tell whether anything was sent again since this was asked last."""
        has_healed, self._has_healed = self._has_healed, False
        return has_healed

    def _owed(self) -> Objects:
        now = time.monotonic()
        self._tried = {oid: at for oid, at in self._tried.items() if at > now - _HEAL_AGAIN_S}
        return {oid: pointer for oid, pointer in self._uploader.lost().items() if oid not in self._tried}

    def heal_again(self) -> None:
        """Let ``heal`` try what it could not get a moment ago."""
        self._tried = {}

    def hold_back_lost(self, steps: Sequence[Step]) -> bool:
        """Hold back the files whose content cannot be had; tell whether there are such."""
        if not (lacked := self._lacked_blobs(steps)):
            return False
        newest = {change.path: change.after for step in steps for change in step.changes}
        lost = {path: lacked[entry.blob] for path, entry in newest.items() if entry is not None and entry.blob in lacked}
        held = [self._refusals.refuse([path], self._why_lost(path, oid)) for path, oid in lost.items()]

        return any(held)

    def _why_lost(self, path: str, oid: str) -> MirrorError:
        was_there = oid in self._uploader.lost()
        if not was_there and oid not in self._uploader.not_given and self._refusals.is_gone(path):
            return MirrorError(
                WHY_LOST,
                error_kind=LOST,
                retryable=False,
                hint='let the writer replace files (write, then rename), or set capture = "copy"; all else is published',
            )
        gone = "it was changed or deleted here before it was uploaded, and"
        if was_there:
            gone = "the mirror has lost it, it was changed or deleted here, and"
        if (failure := self._uploader.not_given.get(oid)) is None:
            return MirrorError(
                f"{gone} no other mirror has it",
                error_kind="spoiled",
                retryable=False,
                hint=SPOILED_HINT,
            )
        return MirrorError(
            f"{gone} the mirror that has it does not give it: {failure}",
            error_kind="server",  # not the file's own fault: it is asked for again soon
            retryable=True,
            hint="see how the other mirror is; hubsync asks it again by itself",
        )

    def publishable(self, steps: Sequence[Step]) -> list[Step]:
        """Return the steps whose objects the mirror has; a step that lacks one is folded into the next."""
        lacked = self._lacked_blobs(steps).keys()
        ready: list[Step] = []
        waiting: list[Step] = []
        for step in steps:
            waiting.append(step)
            folded = fold(waiting)
            if lacked.isdisjoint(change.after.blob for change in folded.changes if change.after):
                ready.append(folded)
                waiting = []

        return ready

    def _objects(self, steps: Sequence[Step]) -> Objects:
        """Return the objects (by oid) that *steps* need, those that are wanted most first."""
        blobs = (change.after.blob for step in steps for change in step.changes if change.after)
        pointers = self._store.pointers(blobs)
        wanted = [pointers[blob] for step in newest_first(steps) for blob in _pointers_of(step, pointers)]
        return {pointer.oid: pointer for pointer in wanted}

    def _lacked_blobs(self, steps: Sequence[Step]) -> dict[str, str]:
        """Return the pointers of *steps* whose objects the mirror lacks: blob → oid."""
        lacked = self._uploader.lacks(self._objects(steps))
        return {blob_id(pointer.encode()): oid for oid, pointer in lacked.items()}


def newest_first(steps: Sequence[Step]) -> list[Step]:
    """Return *steps*: those of units first, and first what was written last; of one second, the later snapshot."""
    return sorted(steps, key=lambda step: (bool(step.snapshot.units), step.snapshot.written_at))[::-1]


def _pointers_of(step: Step, pointers: Container[str]) -> list[str]:
    """Return the *pointers* that *step* writes: what loads the model before what resumes the run."""
    written = [(c.path, c.after.blob) for c in step.changes if c.after and c.after.blob in pointers]
    rules = _model_rules()
    return [blob for _, blob in sorted(written, key=lambda one: not rules.verdict(one[0]).taken)]


@functools.cache
def _model_rules() -> PathRules:
    """Return what takes the files that load a model."""
    return PathRules(expand_include(("weights",)))
