"""Decides what a mirror must show for a file of the source to be held there, and whether what it shows is that. Pure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from hubsync.config.model import Mirror, Target
from hubsync.mirror.roles import mirror_rules
from hubsync.mirror.view import revision_of
from hubsync.units import unit_of

if TYPE_CHECKING:
    from hubsync.restore.catalog import File

_PLAIN_MODES = frozenset({"100644", "100664", "100755"})


class Place(NamedTuple):
    """Where a mirror shows a file: *path* is relative to the mirror's ``path_in_repo``."""

    branch: str
    path: str


class Content(Struct, frozen=True):
    """What a file holds: the names that LFS and git give to its bytes. ``None``: that one was not worked out."""

    size: int
    oid: str | None
    blob: str | None


class Claim(Struct, frozen=True):
    """That a mirror holds *content* at *place*, for *path* of the source."""

    path: str
    place: Place
    content: Content


class Holding(Struct, frozen=True):
    """What a mirror answered on a claim: it holds it if there is no *reason* against it.

    Attributes:
        commit: the mirror's commit that was looked at; ``None`` if there was none, or no answer.
        is_answer: whether the mirror said so itself; else it could not be asked, and may hold it all the same.
        at: when it was said, seconds since the epoch.
        is_damaged: whether the object is there with other bytes.
        is_lost: whether the pointer is there, and not its object.
    """

    claim: Claim
    reason: str
    commit: str | None
    is_answer: bool
    at: float
    hint: str = ""
    is_damaged: bool = False
    is_lost: bool = False


def place_of(target: Target, mirror: Mirror, path: str) -> Place | None:
    """Return where *mirror* shows the file *path* of the source of *target*; ``None`` if it is not meant to hold it."""
    if not mirror_rules(mirror).verdict(path).taken:
        return None
    unit = unit_of(target, path) if target.publish == "revisions" else None
    if unit is None:
        return Place(mirror.branch, path)
    return Place(revision_of(unit, mirror.branch), path[len(unit) + 1 :])


def judge(content: Content, shown: "File | None") -> str:
    """Return why *shown* is not *content*; empty if it is, given that the object behind a pointer is there."""
    if shown is None:
        return "the mirror does not show it"
    if shown.mode not in _PLAIN_MODES:
        return "the mirror shows something there that is no file"
    if shown.pointer is not None:
        is_same = content.oid is not None and (shown.pointer.oid, shown.pointer.size) == (content.oid, content.size)
    else:
        is_same = content.blob is not None and shown.blob == content.blob

    return "" if is_same else "the mirror shows other content there"


def required_mirrors(target: Target) -> tuple[Mirror, ...]:
    """Return the mirrors that must hold what may be deleted: those that are required, or all if none is."""
    return tuple(mirror for mirror in target.mirrors if mirror.required) or target.mirrors


def objects_of(claims: Mapping[Claim, "File | None"]) -> dict[str, int]:
    """Return the objects (oid → size in bytes) that the matching ones of *claims* lie in."""
    return {
        shown.pointer.oid: shown.pointer.size
        for claim, shown in claims.items()
        if shown is not None and shown.pointer is not None and not judge(claim.content, shown)
    }
