"""Names what all parts of one mirror's publication are about."""

from msgspec import Struct

from hubsync.config.model import Mirror, Target
from hubsync.store.git import Git
from hubsync.store.snapshot import Store


class Place(Struct, frozen=True):
    """A mirror of a target: the target's store, and the mirror's own repository here, in which its commits are made."""

    target: Target
    mirror: Mirror
    store: Store
    git: Git
