"""Proves that paths of a target may be deleted: what is on this disk, byte for byte, against what each mirror says.

``prove_paths`` is what ``hubsync safe`` and ``prune`` ask. It errs on the side of "no": what could not be read, asked or
understood is not proved. It needs no state and no daemon; with them, proofs are noted as receipts.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from hubsync.config.model import Config, Mirror, Target
from hubsync.mirror.token import Tokens
from hubsync.pipeline import store_directory
from hubsync.proof.ask import Asker
from hubsync.proof.book import ReceiptBook
from hubsync.proof.claims import Claim, Holding, place_of, required_mirrors
from hubsync.proof.local import Survey, Surveyor
from hubsync.proof.sound import Depth
from hubsync.store.snapshot import Store
from hubsync.watch.rules import PathRules

PROPAGATED = 'deletes = "propagate": what is deleted here is deleted on the mirrors too'


class Objection(Struct, frozen=True):
    """Why *path* is not safe: on *mirror*, or here if that is ``None``."""

    path: str
    mirror: str | None
    reason: str
    hint: str = ""


class MirrorProof(Struct, frozen=True):
    """What one required mirror holds of a path: *files* of those that it is *meant* to hold.

    *proven_at* is when the oldest of it was proved, seconds since the epoch; ``None`` if nothing was. *commits* are the
    mirror's, by branch.
    """

    mirror: str
    repo: str
    meant: int
    files: int
    proven_at: float | None
    commits: Mapping[str, str]


class Proof(Struct, frozen=True):
    """The answer for one *path* of a target: safe if there is no objection."""

    path: str
    target: str | None
    files: int
    bytes: int
    objections: tuple[Objection, ...]
    mirrors: tuple[MirrorProof, ...] = ()

    @property
    def is_safe(self) -> bool:
        """Whether every required mirror holds exactly these bytes."""
        return not self.objections


class Means(Struct, frozen=True):
    """What a proof needs beside the target; *on_bytes* hears of what is read here."""

    config: Config
    tokens: Tokens
    stop: threading.Event
    on_bytes: Callable[[int], None] = lambda _: None


def prove_paths(
    means: Means, target: Target, paths: Sequence[str], *, cached: bool = False, read_data: bool = False
) -> list[Proof]:
    """Return for each of *paths* (files or directories, relative to the source) whether it may be deleted.

    What is here is read and hashed either way. With *cached*, the mirrors are not asked: their last receipts count. With
    *read_data*, all objects are downloaded and hashed, else the small ones and some of the bytes of the others.
    Nothing is raised for a mirror that fails; it is an objection.
    """
    if not paths:
        return []
    rules = PathRules(target.include, target.exclude)
    surveyor = Surveyor(target.source, rules, target.quiet_s, means.on_bytes)
    surveys = surveyor.survey(dict.fromkeys(paths))
    book = ReceiptBook.of(target, means.config.service.state_dir)
    mirrors = required_mirrors(target)
    claims = _claims(target, mirrors, surveys)
    if cached:
        answers = {mirror.name: book.answer(mirror.name, claims[mirror.name]) for mirror in mirrors}
    else:
        depths = {mirror.name: Depth(read_data, book.damaged(mirror.name)) for mirror in mirrors}
        answers = _ask_all(means, target, mirrors, claims, depths)
        for mirror in mirrors:
            book.note(mirror.name, answers[mirror.name])
            _note_read(book, mirror.name, answers[mirror.name], depths[mirror.name])
    surveyor.look_again(surveys)

    return [_conclude(target, mirrors, path, survey, answers) for path, survey in surveys.items()]


def _claims(target: Target, mirrors: Sequence[Mirror], surveys: Mapping[str, Survey]) -> dict[str, list[Claim]]:
    """Return what each mirror is meant to hold of what is here."""
    files = {path: content for survey in surveys.values() for path, (content, _) in survey.files.items()}
    return {
        mirror.name: [
            Claim(path, place, content)
            for path, content in files.items()
            if (place := place_of(target, mirror, path)) is not None
        ]
        for mirror in mirrors
    }  # fmt: skip


def _ask_all(
    means: Means,
    target: Target,
    mirrors: Sequence[Mirror],
    claims: Mapping[str, list[Claim]],
    depths: Mapping[str, Depth],
) -> dict[str, list[Holding]]:
    store = Store(store_directory(target, means.config.service.state_dir), target.source)

    def ask(mirror: Mirror) -> list[Holding]:
        if not claims[mirror.name]:
            return []
        endpoint = means.config.endpoints[mirror.endpoint]
        with Asker(mirror, endpoint, means.tokens, means.stop, store.mirror_directory(mirror.name)) as asker:
            return asker.prove(claims[mirror.name], against=(target.source, depths[mirror.name]))

    with ThreadPoolExecutor(len(mirrors)) as pool:
        return dict(zip((mirror.name for mirror in mirrors), pool.map(ask, mirrors), strict=True))


def _note_read(book: ReceiptBook, mirror: str, holdings: Sequence[Holding], depth: Depth) -> None:
    """Remember what is damaged: it is read whole from then on, until it is not damaged any more."""
    oids = {holding.claim.content.oid or "": holding for holding in holdings}
    damaged = [oid for oid, holding in oids.items() if holding.is_damaged]
    healed = [oid for oid in depth.suspect if oid in oids and not oids[oid].reason]
    if damaged or healed:
        book.note_read(mirror, healed, damaged)


def _conclude(
    target: Target, mirrors: Sequence[Mirror], path: str, survey: Survey, answers: Mapping[str, list[Holding]]
) -> Proof:
    objections = [Objection(name, None, reason, survey.hints.get(name, "")) for name, reason in survey.against.items()]
    if target.deletes == "propagate":
        objections.append(Objection(path, None, PROPAGATED, 'set deletes = "keep" for this target'))
    meant: set[str] = set()
    proofs = []
    for mirror in mirrors:
        mine = [holding for holding in answers[mirror.name] if holding.claim.path in survey.files]
        meant |= {holding.claim.path for holding in mine}
        objections += [Objection(h.claim.path, mirror.name, h.reason, h.hint) for h in mine if h.reason]
        proofs.append(_sum_up(mirror, mine))
    objections += [
        Objection(name, None, "no required mirror is meant to hold it", "see include and exclude of the mirrors")
        for name in survey.files
        if name not in meant
    ]
    size = sum(content.size for content, _ in survey.files.values())

    return Proof(path, target.name, len(survey.files), size, tuple(objections), tuple(proofs))


def _sum_up(mirror: Mirror, holdings: Sequence[Holding]) -> MirrorProof:
    held = [holding for holding in holdings if not holding.reason]
    commits = {holding.claim.place.branch: holding.commit for holding in held if holding.commit}
    oldest = min((holding.at for holding in held), default=None)

    return MirrorProof(mirror.name, mirror.repo_id, len(holdings), len(held), oldest, commits)
