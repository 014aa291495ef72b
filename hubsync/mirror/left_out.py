"""Tells what of the snapshots the target's rules leave out by now: it was captured under others, and is sent no more.

What a mirror shows of it stays there. Of mirrors nothing is known here.
"""

import functools
import json

from hubsync.config.model import Target
from hubsync.mirror.graft import Tree
from hubsync.store.provenance import NAMES
from hubsync.store.snapshot import Store
from hubsync.units import unit_of
from hubsync.watch.rules import PathRules, PublishedRules

_TARGETS_KEPT = 64


class LeftOut:
    """What the ``include`` and ``exclude`` of *target* leave out of the snapshots in *store*.

    Attributes:
        rules: what tells these rules from others.
        is_any: whether something that is left out was met.
    """

    def __init__(self, target: Target, store: Store) -> None:
        self.rules = json.dumps([target.include, target.exclude])
        self.is_any = False
        self._target = target
        self._in_tree = store.ledger.in_tree
        self._rules = _compile(target.include, target.exclude)
        self._is_none = target.include == ("**",) and not target.exclude

    def has(self, path: str) -> bool:
        """Tell whether *path* is left out; what hubsync itself publishes beside a unit's files is not."""
        if self._is_none or self._rules.verdict(path).taken:
            return False
        parent, _, name = path.rpartition("/")
        if name in NAMES and unit_of(self._target, path) == parent:
            return False
        self.is_any = True

        return True

    def drop_from(self, files: Tree, *, is_base: bool) -> Tree:
        """Return *files* without what is left out, so that a mirror's are not touched.

        *is_base*: they are what a mirror shows. Then what was deleted here since remains in them, so that it goes.
        """
        if self._is_none:
            return files
        hidden = {p for p in files if self.has(p) and not (is_base and self._in_tree(p) is None)}
        return {path: entry for path, entry in files.items() if path not in hidden} if hidden else files


@functools.lru_cache(_TARGETS_KEPT)
def _compile(include: tuple[str, ...], exclude: tuple[str, ...]) -> PathRules:
    return PublishedRules(include, exclude)
