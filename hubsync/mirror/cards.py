"""Says where a mirror shows what a card speaks of: its repository, its branches, and the directories of units."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from hubsync.card.facts import Unit
from hubsync.card.usage import Place
from hubsync.config.model import Endpoint, Mirror, Target
from hubsync.mirror.graft import with_prefix
from hubsync.mirror.view import revision_of


def place_of(mirror: Mirror, endpoint: Endpoint, branch: str) -> Place:
    """Return where *branch* of *mirror* shows a model that lies at the top."""
    inside = "" if mirror.path_in_repo == PurePosixPath() else str(mirror.path_in_repo)
    return Place(
        repo_id=mirror.repo_id,
        endpoint=endpoint.url.rstrip("/"),
        repo_type=mirror.repo_type,
        branch=branch,
        revision="" if branch == "main" else branch,
        subfolder=inside,
        prefix=f"{inside}/" if inside else "",
    )


def units_of(target: Target, mirror: Mirror, names: Iterable[str]) -> tuple[Unit, ...]:
    """Return the units called *names*, and where *mirror* shows each."""
    if target.publish == "revisions":
        inside = "" if mirror.path_in_repo == PurePosixPath() else str(mirror.path_in_repo)
        return tuple(Unit(name, inside, revision_of(name, mirror.branch)) for name in names)

    return tuple(Unit(name, with_prefix(mirror.path_in_repo, name)) for name in names)
