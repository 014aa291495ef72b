"""Keeps the receipts of one mirror in step with what it shows: after a publication, after a restart, and now and then.

The mirror's own answer is compared with the snapshot that it is known to hold. Nothing waits for it, and what fails is
tried again later. A ledger that was lost gets its receipts anew: they cost a few questions, and no upload.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hubsync.config.model import Config, Mirror, Target
from hubsync.errors import HubsyncError
from hubsync.mirror.token import Tokens
from hubsync.monitor.logger import get_logger
from hubsync.proof.book import note_holdings, stands_for
from hubsync.proof.claims import Claim, Content, Holding, Place, Places
from hubsync.proof.standing import note_failure, read_failure
from hubsync.store.process import StoppedError
from hubsync.store.proof_rows import Receipt
from hubsync.store.snapshot import Store
from hubsync.units import unit_of

if TYPE_CHECKING:
    from hubsync.proof.ask import Asker

_FIRST_S, _LONGEST_S = 5.0, 900.0
_AT_ONCE = 5000  # files that are asked for; what is answered of all at once takes much room
_MANY = 2000  # files on one branch; of more, only those that lack a receipt are asked for after each publication

log = get_logger()


@dataclass(slots=True)
class ReceiptKeeper:
    """The receipts of one *mirror*; *published* gives the snapshot that it is known to hold. For one thread at a time.

    *proven* are the units of which all that the mirror shows was proved, and when (seconds since the epoch).
    """

    target: Target
    mirror: Mirror
    store: Store
    published: Callable[[], str | None]
    config: Config
    tokens: Tokens
    stop: threading.Event
    proven: Mapping[str, float] = field(default_factory=dict)
    _failures: int = 0
    _places: Places = field(init=False)

    def __post_init__(self) -> None:
        self._places = Places(self.target)

    @property
    def has_all(self) -> bool:
        """Whether the mirror has shown all of what it is known to hold, when it was asked last."""
        return self.store.ledger.proved(self.mirror.name).startswith(f"{self.published()} ")

    def keep(self) -> float | None:
        """Bring the receipts up to date; return in how many seconds to try again, or ``None`` if that went well."""
        began = time.monotonic()
        try:
            failure = self._keep()
        except StoppedError:
            return None
        except HubsyncError as exc:
            failure = exc
        if failure is None:
            self._failures = 0
            return None
        self._failures += 1
        log.debug("receipt.failed", target=self.target.name, mirror=self.mirror.name, error=str(failure),
                  error_kind=failure.error_kind, took_s=round(time.monotonic() - began, 3))  # fmt: skip

        return min(_LONGEST_S, _FIRST_S * 2.0 ** min(self._failures - 1, 10))

    def _keep(self) -> HubsyncError | None:
        published = self.published()
        if published is None or self.stop.is_set():
            return None
        began = time.monotonic()
        ledger, told = self.store.ledger, _Told()
        ours = self.store.mirror_directory(self.mirror.name)
        from hubsync.proof.ask import Asker  # noqa: PLC0415 - 50 ms, and what is unchanged asks nobody

        with Asker(self.mirror, self.config.endpoints[self.mirror.endpoint], self.tokens, self.stop, ours) as asker:
            heads = asker.read_heads()
            if ledger.proved(self.mirror.name) != self._describe(published, heads):
                self._ask(asker, published, heads, told)
                ledger.note_proved(self.mirror.name, "" if told.lacks else self._describe(published, heads))
        self._note_whole(told)
        self.refresh()
        self._tell(told, began)

        return told.failure

    def _describe(self, published: str, heads: Mapping[str, str]) -> str:
        """Return what tells whether an answer to all claims would be another one now than it was before."""
        shows = self.mirror.model_dump_json(), self.target.publish, self.target.units
        count = self.store.ledger.count_receipts(self.mirror.name)
        digest = hashlib.sha256(repr((sorted(heads.items()), shows, count)).encode()).hexdigest()

        return f"{published} {digest}"

    def _ask(self, asker: "Asker", published: str, heads: Mapping[str, str], told: "_Told") -> None:
        """Ask for all that lacks a receipt, a part at a time, and note what is *told*."""
        receipts = self.store.ledger.receipts(self.mirror.name)
        wanted = _choose(self._claims(published, receipts), receipts, heads)
        known = {receipt.oid: receipt.proven_at for receipt in receipts.values() if receipt.oid is not None}
        for start in range(0, len(wanted), _AT_ONCE):
            if self.stop.is_set():
                raise StoppedError("interrupted: hubsync is stopping")
            asked = asker.prove(wanted[start : start + _AT_ONCE], known, heads)
            holdings = [_dated(each, known) for each in asked]
            note_holdings(self.store.ledger, self.mirror.name, holdings)
            told.add(holdings, receipts)

    def _note_whole(self, told: "_Told") -> None:
        """End a failure that a verification found, if there is a receipt now for all that was missing."""
        failure = read_failure(self.store.ledger, self.mirror.name)
        if failure is not None and failure.is_provable and not told.lacks:
            note_failure(self.store.ledger, self.mirror.name, None)

    def refresh(self) -> None:
        """Look up which units are proved: other commands make receipts too."""
        proven: dict[str, float] = {}
        if not self.target.units:
            return
        for receipt in self.store.ledger.each_receipt(self.mirror.name):
            if unit := unit_of(self.target, receipt.path):
                proven[unit] = min(proven.get(unit, receipt.proven_at), receipt.proven_at)
        for path in self.store.ledger.tree_paths() if proven else ():
            if (unit := unit_of(self.target, path)) in proven and self._lacks(path):
                del proven[unit]
        self.proven = proven

    def _lacks(self, path: str) -> bool:
        is_meant = self._places.of(self.mirror, path) is not None
        return is_meant and self.store.ledger.receipt(self.mirror.name, path) is None

    def _claims(self, published: str, receipts: Mapping[str, Receipt]) -> list[Claim]:
        """Return what the mirror should hold by the snapshot, and what it was proved to hold before."""
        entries = self.store.list_tree(published)
        pointers = self.store.pointers({entry.blob for entry in entries.values()})
        claims = []
        for path, entry in entries.items():
            if (place := self._places.of(self.mirror, path)) is not None:
                pointer = pointers.get(entry.blob)
                content = Content(pointer.size, pointer.oid, None) if pointer else Content(0, None, entry.blob)
                claims.append(Claim(path, place, content))
        for path, receipt in receipts.items():
            if path not in entries:
                claims.append(Claim(path, Place(receipt.branch, receipt.place), _content(receipt)))

        return claims

    def _tell(self, told: "_Told", began: float) -> None:
        if told.held:
            log.debug("receipt.made", target=self.target.name, mirror=self.mirror.name, repo=self.mirror.repo_id,
                      files=told.held, commit=told.commit, took_s=round(time.monotonic() - began, 3))  # fmt: skip
        if told.stale:
            log.info("receipt.stale", target=self.target.name, mirror=self.mirror.name, repo=self.mirror.repo_id,
                     files=len(told.stale), paths=told.stale, reason=told.reason)  # fmt: skip


@dataclass(slots=True)
class _Told:
    """What the mirror told: the files it *held*, which receipts are *stale*, if it *lacks* any, the first *failure*."""

    held: int = 0
    commit: str | None = None
    stale: list[str] = field(default_factory=list)
    reason: str = ""
    lacks: bool = False
    failure: HubsyncError | None = None

    def add(self, holdings: Sequence[Holding], before: Container[str]) -> None:
        """Add some answers; *before* are the paths that had receipts."""
        for each in holdings:
            self.lacks |= bool(each.reason)
            if not each.reason:
                self.held, self.commit = self.held + 1, each.commit
            elif not each.is_answer:
                self.failure = self.failure or HubsyncError(each.reason)
            elif each.claim.path in before:
                self.stale.append(each.claim.path)
                self.reason = self.reason or each.reason


def _dated(holding: Holding, known: Mapping[str, float]) -> Holding:
    """Return *holding* as old as the proof of its object, if that was not asked for again."""
    at = known.get(holding.claim.content.oid or "")
    return holding if at is None or holding.reason else replace(holding, at=at)


def _content(receipt: Receipt) -> Content:
    return Content(receipt.size, receipt.oid, receipt.blob)


def _choose(claims: list[Claim], receipts: Mapping[str, Receipt], heads: Mapping[str, str]) -> list[Claim]:
    """Return the claims that need an answer: those on a branch that moved, and those without a receipt."""

    def is_settled(claim: Claim, *, moved: bool) -> bool:
        receipt = receipts.get(claim.path)
        is_same = receipt is not None and (receipt.branch, receipt.place) == claim.place
        return is_same and stands_for(receipt, claim.content) and not moved  # type: ignore[arg-type]

    by_branch: dict[str, list[Claim]] = {}
    for claim in claims:
        by_branch.setdefault(claim.place.branch, []).append(claim)
    wanted = []
    for branch, some in by_branch.items():
        seen = {receipt.commit for receipt in receipts.values() if receipt.branch == branch}
        moved = seen != {heads.get(branch)} and (len(some) <= _MANY or branch not in heads)
        wanted += [claim for claim in some if not is_settled(claim, moved=moved)]

    return wanted
