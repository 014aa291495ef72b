"""Keeps the receipts of one mirror in step with what it shows: after a publication, after a restart, and now and then.

The mirror's own answer is compared with the snapshot that it is known to hold. Nothing waits for it, and what fails is
tried again later. A ledger that was lost gets its receipts anew: they cost a few questions, and no upload.
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from hubsync.config.model import Config, Mirror, Target
from hubsync.errors import HubsyncError
from hubsync.mirror.token import Tokens
from hubsync.monitor.logger import get_logger
from hubsync.proof.book import note_holdings, stands_for
from hubsync.proof.claims import Claim, Content, Holding, Place, place_of
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

_Asked = tuple[Claim, Receipt | None]  # and the receipt that there was


class ReceiptKeeper(Struct):
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
        known: dict[str, float] = {}
        seen: dict[str, set[str]] = {}
        for receipt in self.store.ledger.each_receipt(self.mirror.name):
            seen.setdefault(receipt.branch, set()).add(receipt.commit)
            if receipt.oid is not None:
                known[receipt.oid] = receipt.proven_at
        wanted = _choose(self._claims(published), seen, heads)
        while some := dict(islice(wanted, _AT_ONCE)):
            if self.stop.is_set():
                raise StoppedError("interrupted: hubsync is stopping")
            new = {claim.content.oid for claim, receipt in some.items() if not _is_settled(claim, receipt)}
            old = {oid: at for oid, at in known.items() if oid not in new}  # what is named anew may be lost since
            holdings = [_dated(each, old) for each in asker.prove(list(some), old, heads)]
            note_holdings(self.store.ledger, self.mirror.name, holdings)
            told.add(holdings, {claim.path for claim, receipt in some.items() if receipt is not None})

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
        is_meant = place_of(self.target, self.mirror, path) is not None
        return is_meant and self.store.ledger.receipt(self.mirror.name, path) is None

    def _claims(self, published: str) -> Iterator[_Asked]:
        """Yield what the mirror should hold by the snapshot, and what it was proved to hold before, with the receipts.

        Both come in the order of their paths, some at a time: of 100,000 files few are held at once.
        """
        files = self.store.each_file(published)
        last = ""
        while True:
            entries = dict(islice(files, _AT_ONCE))
            end = next(reversed(entries), None)
            receipts = self.store.ledger.receipts(self.mirror.name, last, end)
            pointers = self.store.pointers({entry.blob for entry in entries.values()})
            for path, entry in entries.items():
                if (place := place_of(self.target, self.mirror, path)) is not None:
                    pointer = pointers.get(entry.blob)
                    content = Content(pointer.size, pointer.oid, None) if pointer else Content(0, None, entry.blob)
                    yield Claim(path, place, content), receipts.get(path)
            for path, receipt in receipts.items():
                if path not in entries:
                    yield Claim(path, Place(receipt.branch, receipt.place), _content(receipt)), receipt
            if end is None:
                return
            last = end

    def _tell(self, told: "_Told", began: float) -> None:
        if told.held:
            log.debug("receipt.made", target=self.target.name, mirror=self.mirror.name, repo=self.mirror.repo_id,
                      files=told.held, commit=told.commit, took_s=round(time.monotonic() - began, 3))  # fmt: skip
        if told.stale:
            log.info("receipt.stale", target=self.target.name, mirror=self.mirror.name, repo=self.mirror.repo_id,
                     files=len(told.stale), paths=told.stale, reason=told.reason)  # fmt: skip


class _Told(Struct):
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


def _choose(claims: Iterable[_Asked], seen: Mapping[str, AbstractSet[str]], heads: Mapping[str, str]) -> Iterator[_Asked]:
    """Yield the claims that need an answer: those on a branch that moved, and those without a receipt.

    *seen* are the commits of each branch that receipts are of.
    """
    counts: Counter[str] = Counter()
    again: dict[str, list[_Asked]] = {}  # if their branch turns out to have few files
    for claim, receipt in claims:
        branch = claim.place.branch
        counts[branch] += 1
        if not _is_settled(claim, receipt) or branch not in heads:
            yield claim, receipt
        elif seen.get(branch) != {heads.get(branch)} and counts[branch] <= _MANY:
            again.setdefault(branch, []).append((claim, receipt))
    for branch, some in again.items():
        if counts[branch] <= _MANY:
            yield from some


def _is_settled(claim: Claim, receipt: Receipt | None) -> bool:
    is_same = receipt is not None and (receipt.branch, receipt.place) == claim.place
    return is_same and stands_for(receipt, claim.content)  # type: ignore[arg-type]
