"""Keeps receipts: what each mirror was last proved to hold. They lie in the target's ledger and only save work.

A receipt says that a mirror held the content of a path at a commit, and when that was proved. It is dropped as soon as the
mirror answers otherwise. A ledger that is missing or cannot be written is no failure: then there are no receipts.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from hubsync.config.model import Target
from hubsync.errors import StateError
from hubsync.pipeline import store_directory
from hubsync.proof.claims import Claim, Content, Holding
from hubsync.proof.standing import Failure, note_failure
from hubsync.store.ledger import Ledger, open_beside
from hubsync.store.proof_rows import Receipt

NO_RECEIPT = "no receipt says that the mirror holds it"


class ReceiptBook:
    """The receipts of one target, in the ledger at *path*, which a daemon may use at the same time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, target: Target, state_dir: Path) -> "ReceiptBook":
        """Return the receipts of *target*."""
        return cls(store_directory(target, state_dir) / "ledger.sqlite")

    def read(self, mirror: str) -> dict[str, Receipt]:
        """Return the receipts of *mirror*, by path."""
        try:
            with open_beside(self._path) as ledger:
                return ledger.receipts(mirror)
        except StateError:
            return {}

    def note(self, mirror: str, holdings: Sequence[Holding]) -> None:
        """Note what *mirror* answered; what it did not answer to stays as it was."""
        try:
            with open_beside(self._path) as ledger:
                note_holdings(ledger, mirror, holdings)
        except StateError:
            return

    def damaged(self, mirror: str) -> frozenset[str]:
        """Return the objects (oids) of *mirror* that were found damaged, and not whole since."""
        try:
            with open_beside(self._path) as ledger:
                return frozenset(ledger.damaged(mirror))
        except StateError:
            return frozenset()

    def note_read(self, mirror: str, read: Iterable[str], damaged: Iterable[str]) -> None:
        """Note which objects of *mirror* were *read* to the last byte, and which of them are *damaged*."""
        try:
            with open_beside(self._path) as ledger, ledger.transaction():
                ledger.record_read(mirror, read, damaged)
        except StateError:
            return

    def note_lost(self, mirror: str, oids: Iterable[str]) -> None:
        """Note which objects *mirror* was found to have lost: those that are ours are sent again."""
        try:
            with open_beside(self._path) as ledger:
                ledger.record_lost(mirror, oids)
        except StateError:
            return

    def note_verdict(self, mirror: str, failure: Failure | None) -> None:
        """Note how *mirror* failed its verification, or (``None``) that it passed."""
        try:
            with open_beside(self._path) as ledger:
                note_failure(ledger, mirror, failure)
        except StateError:
            return

    def answer(self, mirror: str, claims: Sequence[Claim]) -> list[Holding]:
        """Answer *claims* by receipts alone."""
        receipts = self.read(mirror)
        return [_answer(claim, receipts.get(claim.path)) for claim in claims]


def note_holdings(ledger: Ledger, mirror: str, holdings: Sequence[Holding]) -> None:
    """Make receipts of what is held, and drop those that the mirror's answer makes stale."""
    with ledger.transaction():
        ledger.record_receipts(mirror, (receipt_of(each) for each in holdings if not each.reason))
        ledger.forget_receipts(mirror, (each.claim.path for each in holdings if each.reason and each.is_answer))
        ledger.record_lost(mirror, {each.claim.content.oid for each in holdings if each.is_lost and each.claim.content.oid})


def receipt_of(holding: Holding) -> Receipt:
    """Return the receipt for something that is held."""
    claim = holding.claim
    content = claim.content
    return Receipt(claim.path, claim.place.branch, claim.place.path, content.size, content.oid, content.blob,
                   holding.commit or "", holding.at)  # fmt: skip


def stands_for(receipt: Receipt, content: Content) -> bool:
    """Tell whether *receipt* is for *content*: one name of the bytes that both have decides."""
    if receipt.oid is not None and content.oid is not None:
        return (receipt.oid, receipt.size) == (content.oid, content.size)
    return receipt.blob is not None and receipt.blob == content.blob


def _answer(claim: Claim, receipt: Receipt | None) -> Holding:
    if receipt is None or (receipt.branch, receipt.place) != claim.place:
        return Holding(claim, NO_RECEIPT, None, is_answer=False, at=time.time(), hint="ask without --cached")
    if not stands_for(receipt, claim.content):
        return Holding(claim, "the receipt is for other content", None, is_answer=False, at=receipt.proven_at)

    return Holding(claim, "", receipt.commit, is_answer=True, at=receipt.proven_at)
