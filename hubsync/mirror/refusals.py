"""Holds back what a mirror refuses, so that all else gets through: files as they are now, and whole their units."""

from collections.abc import Callable, Sequence

from hubsync.config.model import Target
from hubsync.errors import HubsyncError, MirrorError
from hubsync.mirror.cards import Cards
from hubsync.mirror.failures import find_named
from hubsync.mirror.record import Record
from hubsync.mirror.unseen import Unseen
from hubsync.mirror.view import LOST, Refusal, Step, View
from hubsync.monitor.logger import get_logger
from hubsync.store.secrets import HINT as SECRET_HINT
from hubsync.store.snapshot import Store
from hubsync.units import unit_of
from hubsync.watch.inventory import examine

_AT_FAULT = frozenset({"rejected", "too_large"})

log = get_logger()


class Refusals:
    """The files that one mirror refuses.

    Attributes:
        folds: whether the backlog goes as one commit, because one of its commits was refused.
        lost: the files that were found to be lost since hubsync began, and why.
    """

    def __init__(self, target: Target, store: Store, view: View, cards: Cards, record: Record) -> None:
        self._target = target
        self._store = store
        self._view = view
        self._cards = cards
        self._record = record
        self.folds = False
        self.lost: dict[str, str] = {}
        self._unseen = Unseen(target, store)
        self._told: dict[str, Refusal] = {}

    def reasons(self) -> dict[str, str]:
        """Return the files that the mirror refuses as they are, and why."""
        return {path: one.reason for path, one in self._standing().items()}

    def standing(self) -> dict[str, str]:
        """Return the files that the mirror refuses until a person sees to them, and why; others have a next version."""
        return {path: one.reason for path, one in self._standing().items() if one.error_kind != "spoiled"}

    def reasons_in(self, unit: str) -> dict[str, str]:
        """Return the files of *unit* that the mirror refuses, or that are lost, and why."""
        refused = self._view.refused.items()
        return {path: one.reason for path, one in refused if unit_of(self._target, path) == unit and not one.alone}

    def kinds(self) -> frozenset[str]:
        """Return the kinds of what the mirror refuses."""
        return frozenset(refusal.error_kind for refusal in self._standing().values())

    def _standing(self) -> dict[str, Refusal]:
        """Return what the mirror refuses, but what is at fault itself and deleted here: nobody can mend that."""
        refused = {path: one for path, one in self._view.refused.items() if one.error_kind != LOST}
        return {path: one for path, one in refused.items() if one.error_kind not in _AT_FAULT or not self.is_gone(path)}

    def is_gone(self, path: str) -> bool:
        """Tell whether *path* is deleted here."""
        try:
            return examine(self._store.source, path) is None
        except HubsyncError:  # the source itself may come back
            return False

    def try_again(self) -> None:
        """Forget what the mirror refused: it may take it now. What is lost stays so."""
        self._view.refused = self._view.refuse_lost()
        self._cards.is_refused = False

    def forget_mended(self) -> None:
        """Forget the refusal of files that are not any more what was refused, and the loss of those that came back."""
        self._view.lost.forget_found()
        in_tree = self._store.ledger.in_tree
        kept = {
            path: refusal
            for path, refusal in self._view.refused.items()
            if refusal.error_kind != LOST and (entry := in_tree(path)) is not None and entry.blob == refusal.blob
        }
        self._view.refused = kept | self._view.refuse_lost()

    def name_files(self, exc: MirrorError, steps: Sequence[Step]) -> bool:
        """Have *exc* say which files of *steps* it is about; tell whether there are such."""
        if not exc.paths and (named := find_named(exc.said, [*self._view.places(steps), self._cards.path])):
            exc.paths, exc.error_kind = named, "rejected"
            exc.hint = "mend the file, or leave it out with exclude"

        return bool(exc.paths)

    def refuse_card(self, exc: MirrorError) -> bool:
        """Leave the card out if *exc* is about it; tell whether that changes anything."""
        return self._cards.refuse(exc.paths, str(exc))

    def refuse_places(self, exc: MirrorError, steps: Sequence[Step]) -> bool:
        """Hold back the files that *steps* put where *exc* names; tell whether that changes anything."""
        placed = self._view.places(steps)
        return self.refuse(sorted(path for place in exc.paths for path in placed.get(place, ())), exc)

    def refuse_unseen(self, waiting: Callable[[], Sequence[Step]]) -> None:
        """Refuse what of *waiting* holds a secret and was captured when that was let through; no commit has it."""
        if not self._unseen.is_any():
            return
        for (path, blob), secret in self._unseen.find(waiting()).items():
            if (entry := self._store.ledger.in_tree(path)) is not None and entry.blob == blob:
                why = f"{secret.rule} ({secret.place})"
                self.refuse([path], MirrorError(why, error_kind="rejected", retryable=False, hint=SECRET_HINT))
            else:
                self.folds = True  # an earlier version of it

    def refuse(self, paths: Sequence[str], why: MirrorError) -> bool:
        """Leave *paths*, as they are now, out of what is published; tell whether that changes anything."""
        was_new_view = self._record.is_new_view()
        entries = {path: self._store.ledger.in_tree(path) for path in paths if path not in self._view.refused}
        refused = {
            path: Refusal(entry.blob, str(why), why.error_kind) for path, entry in entries.items() if entry is not None
        }
        for path, refusal in refused.items():
            self._tell(path, refusal, why.hint)
        self._view.refused = {**self._view.refused, **refused}
        if refused and not was_new_view and self._record.published is not None:
            self._record.note_view()

        return bool(refused)

    def _tell(self, path: str, refusal: Refusal, hint: str) -> None:
        """Say that a file is refused, once: it is sent again now and then. What is lost is so for all mirrors."""
        is_news = self._told.get(path) != refusal
        if refusal.error_kind == LOST:
            self.lost[path] = refusal.reason
            is_news = self._view.lost.add(path, refusal.blob)
        if is_news:
            log.warning("file.rejected", path=path, unit=unit_of(self._target, path), reason=refusal.reason, hint=hint)
        self._told[path] = refusal
