"""What a branch of a mirror shows of a card where the config asks for none: nothing of ours.

``card_writer`` writes cards. Few targets have one, and it takes a while to import.
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from hubsync.card import CARD
from hubsync.mirror.graft import with_prefix
from hubsync.store.git import TreeEntry

if TYPE_CHECKING:
    from hubsync.config.model import Endpoint, Mirror, Target
    from hubsync.mirror.view import Line, View
    from hubsync.store.git import Git
    from hubsync.store.snapshot import Store

Changes = Mapping[str, TreeEntry | None]
Shown = TypeVar("Shown", TreeEntry, TreeEntry | None)


class Cards:
    """The cards of one mirror.

    Attributes:
        path: where each branch has its card.
        is_refused: whether the mirror refuses it, and is sent none any more.
    """

    def __init__(self, path_in_repo: PurePosixPath) -> None:
        self.path = with_prefix(path_in_repo, CARD)
        self.is_refused = False

    def write(self, line: "Line", commit: str, changes: Changes, head: str | None, left: str | None) -> dict[str, bytes]:  # noqa: ARG002 - as where cards are written
        """Return the files of the card (path in the repository → content) for the snapshot *commit* on *line*.

        *changes* go on top of *head*, which we last *left* as it says.
        """
        return {}

    def unmerged(self, theirs: Mapping[str, Shown], *published: TreeEntry | None) -> Mapping[str, Shown]:  # noqa: ARG002 - see above
        """Return *theirs* with the card as it was *published* by the source, if only our block was added to that."""
        return theirs

    def refuse(self, paths: Iterable[str], reason: str) -> bool:  # noqa: ARG002 - see above
        """Write no card any more if it is what the mirror refuses; tell whether that changes anything."""
        return False


def open_cards(target: "Target", mirror: "Mirror", endpoint: "Endpoint", view: "View", store: "Store", git: "Git") -> Cards:
    """Return what writes the cards of *mirror*, or writes none."""
    if not target.card.enabled or mirror.repo_type == "space":
        return Cards(mirror.path_in_repo)
    from hubsync.mirror.card_writer import CardWriter  # noqa: PLC0415 - 60 ms

    return CardWriter(target, mirror, endpoint, view, store, git)
