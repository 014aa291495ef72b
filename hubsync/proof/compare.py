"""Decides what differs between what a mirror should show and what it shows. Pure."""

import random
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct, field

from hubsync.proof.claims import Content, Place, judge
from hubsync.restore.catalog import File

_SHOWN_PATHS = 20


class Difference(Struct):
    """What is not as it should be on one mirror, as ``branch:path``; *extra* and *theirs* are others' and no fault.

    *theirs* are files whose version on the mirror wins by ``on_foreign_edit``, or that carry a card.
    """

    missing: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    theirs: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many files are not as they should be."""
        return len(self.missing) + len(self.different) + len(self.dangling) + len(self.damaged)

    def describe(self) -> str:
        """Return what is wrong in words: ``2 missing (a, b)``."""
        kinds = ("missing", "different", "dangling", "damaged")
        found = [(kind, getattr(self, kind)) for kind in kinds if getattr(self, kind)]
        return "; ".join(f"{len(paths)} {kind} ({', '.join(paths[:3])})" for kind, paths in found)


def compare(
    expected: Mapping[Place, Content], shown: Mapping[Place, File], is_theirs: Callable[[Place], bool]
) -> Difference:
    """Return how *shown* differs from what is *expected*, before objects are looked at."""
    found = Difference()
    for place, content in sorted(expected.items()):
        if place not in shown:
            found.missing.append(name_of(place))
        elif judge(content, shown[place]):
            (found.theirs if is_theirs(place) else found.different).append(name_of(place))
    found.extra = [name_of(place) for place in sorted(shown.keys() - expected.keys())]

    return found


def name_of(place: Place) -> str:
    """Return *place* as people read it."""
    return f"{place.branch}:{place.path}"


def objects_in(shown: Mapping[Place, File]) -> dict[str, list[Place]]:
    """Return the objects (by oid) that pointers among *shown* lead to, and where these stand."""
    found: dict[str, list[Place]] = {}
    for place, file in shown.items():
        if file.pointer is not None:
            found.setdefault(file.pointer.oid, []).append(place)

    return found


def choose_sample(items: Iterable[str], share: float, seed: int) -> list[str]:
    """Return a random *share* (0 to 1) of *items*, at least one if there are any."""
    ordered = sorted(items)
    count = len(ordered) if share >= 1 else max(1, round(len(ordered) * share)) if share > 0 else 0
    return random.Random(seed).sample(ordered, min(count, len(ordered)))  # noqa: S311 - a sample is no secret


def shorten(paths: list[str]) -> list[str]:
    """Return the first of *paths*, for a log line."""
    return paths[:_SHOWN_PATHS]
