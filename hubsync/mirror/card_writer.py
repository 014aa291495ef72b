"""Writes the card into what a branch of a mirror is to show, from the files of the snapshot that it shows.

It decides nothing about the text (``hubsync.card`` does), and nothing about when: a card goes with a commit that is made
anyway, never alone.
"""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import PurePosixPath

from hubsync.card import CARD
from hubsync.card.compose import Composed, Subject, compose_card
from hubsync.card.facts import Unit
from hubsync.card.files import TEXT_MOST, Digest, decode, digest_file, read_path, read_start
from hubsync.card.merge import has_block, is_merge_of
from hubsync.card.stock import is_stock
from hubsync.card.usage import Place
from hubsync.config.model import Endpoint, Mirror, Target
from hubsync.config.regular import open_regular
from hubsync.errors import HubsyncError
from hubsync.mirror.cards import Cards, Changes, Shown
from hubsync.mirror.graft import with_prefix
from hubsync.mirror.view import Line, View, revision_of
from hubsync.monitor.logger import get_logger
from hubsync.store.git import Git, TreeEntry
from hubsync.store.pointer import Pointer
from hubsync.store.snapshot import Store
from hubsync.units import unit_of
from hubsync.watch.beneath import open_entry, words
from hubsync.watch.inventory import look

_DIGESTS = "card:digest:"
_TAKEN_OUT = "card:taken-out:"

log = get_logger()


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


def read_template(target: Target) -> str | None:
    """Return the operator's own template."""
    path = target.card.template
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8", opener=open_regular) as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as exc:
        why = words(exc) if isinstance(exc, OSError) else str(exc)
        raise HubsyncError(f"the card's template {path}: {why}", hint="correct card.template in the config") from exc


class SnapshotFiles:
    """The files of a snapshot, by their paths in the source; *tree* has those that the mirror gets, *hidden* the others."""

    def __init__(self, store: Store, tree: Mapping[str, TreeEntry], hidden: Mapping[str, TreeEntry]) -> None:
        self._store = store
        self._shown = tree
        self._tree = {**tree, **hidden}

    @property
    def sources(self) -> Collection[str]:
        """All that facts may be read from."""
        return self._tree.keys()

    @cached_property
    def _pointers(self) -> dict[str, Pointer]:
        return self._store.pointers({entry.blob for entry in self._tree.values()})

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """The files that the mirror gets, and how large they are."""
        return {path: size for path, size in self._sizes.items() if path in self._shown}

    @cached_property
    def _sizes(self) -> Mapping[str, int]:
        pointers = self._pointers
        own = self._store.git.sizes({entry.blob for entry in self._tree.values() if entry.blob not in pointers})
        return {
            path: pointers[entry.blob].size if entry.blob in pointers else own.get(entry.blob, 0)
            for path, entry in self._tree.items()
        }

    def text(self, path: str) -> str | None:
        """Return the text of *path*."""
        if path not in self._tree or self._sizes[path] > TEXT_MOST:
            return None
        return decode(self._read(path, TEXT_MOST))

    def digest(self, path: str) -> Digest | None:
        """Return the digest of *path*; it is remembered, since an object is let go when all mirrors have it."""
        pointer = self._pointers.get(self._tree[path].blob)
        if pointer is None:
            return digest_file(path, lambda count: self._read(path, count))
        known = self._store.ledger.meta(_DIGESTS + pointer.oid)
        if known is not None:
            digest: Digest = json.loads(known)
            return digest
        found = digest_file(path, lambda count: self._read(path, count))
        if found is not None:
            self._store.ledger.set_meta(_DIGESTS + pointer.oid, json.dumps(found))

        return found

    def _read(self, path: str, count: int) -> bytes:
        blob = self._tree[path].blob
        pointer = self._pointers.get(blob)
        if pointer is None:
            return next((content[:count] for _, content in self._store.git.read_blobs([blob])), b"")

        return read_path(self._store.objects.path(pointer.oid), count) or self._read_source(pointer.oid, count)

    def _read_source(self, oid: str, count: int) -> bytes:
        """Read an object that is pinned no more from a source file that still is what it was."""
        for path, identity in self._store.ledger.paths_of(oid):
            entry = look(self._store.source, path)
            if entry is None or entry.identity != identity:
                continue
            try:
                fd = open_entry(self._store.source, entry)
            except HubsyncError:
                continue
            try:
                return read_start(fd, count)
            finally:
                os.close(fd)

        return b""


class CardWriter(Cards):
    """Makes the cards of one mirror whose target wants them."""

    def __init__(self, target: Target, mirror: Mirror, endpoint: Endpoint, view: View, store: Store, git: Git) -> None:
        super().__init__(mirror.path_in_repo)
        self._target = target
        self._mirror = mirror
        self._endpoint = endpoint
        self._view = view
        self._store = store
        self._git = git
        self._held: dict[str, str] = {}

    def write(self, line: Line, commit: str, changes: Changes, head: str | None, left: str | None) -> dict[str, bytes]:
        """Return the files of the card for the snapshot *commit*."""
        if self.is_refused:
            return {}
        try:
            composed = self._compose(line, commit, changes, head, left)
        except Exception as exc:  # noqa: BLE001 - a card is never worth a checkpoint: without one, the rest is published
            composed = Composed(reason=f"it could not be made: {exc}")
        self._hold(line.branch, composed.reason)

        return {with_prefix(self._mirror.path_in_repo, path): text.encode() for path, text in composed.files.items()}

    def _compose(self, line: Line, commit: str, changes: Changes, head: str | None, left: str | None) -> Composed:
        there = self._git.list_tree(head, self.path) if head else {}
        entry = changes[self.path] if self.path in changes else there.get(self.path)
        theirs = None if entry is None else self._text(entry)
        if (entry is not None and theirs is None) or (entry is None and there.keys() - {self.path}):
            return Composed(reason=f"{CARD} is no text, or too large")
        if self.path not in changes and self._is_taken_out(line.branch, theirs, left):
            return Composed(reason="somebody took the block out")

        return compose_card(self._subject(line, commit), self._target.card, theirs, read_template(self._target))

    def unmerged(self, theirs: Mapping[str, Shown], *published: TreeEntry | None) -> Mapping[str, Shown]:
        """Return *theirs* with the card as it was *published* by the source, if only our block was added to that."""
        held = theirs.get(self.path)
        if held is None or self.is_refused:
            return theirs
        for entry in published:
            if entry is not None and entry != held and self._is_merge(held, entry):
                return {**theirs, self.path: entry}

        return theirs

    def refuse(self, paths: Iterable[str], reason: str) -> bool:
        """Write no card any more if it is what the mirror refuses; tell whether that changes anything."""
        if self.is_refused or self.path not in paths:
            return False
        self.is_refused = True
        self._hold(self._mirror.branch, reason)

        return True

    # --- what is there

    def _is_merge(self, held: TreeEntry, published: TreeEntry) -> bool:
        card, source = self._text(held), self._text(published)
        if card is None or source is None:
            return False

        return is_merge_of(card, "" if is_stock(source) else source)

    def _is_taken_out(self, branch: str, theirs: str | None, left: str | None) -> bool:
        """Tell whether a person has removed the block, now or before; it is not put back, until they do."""
        key = f"{_TAKEN_OUT}{self._mirror.name}:{branch}"
        if theirs is not None and has_block(theirs):
            if self._store.ledger.meta(key):
                self._store.ledger.set_meta(key, "")
            return False
        before = self._entry(left)
        if before is not None and has_block(self._text(before) or ""):
            self._store.ledger.set_meta(key, "yes")

        return bool(self._store.ledger.meta(key))

    def _entry(self, commit: str | None) -> TreeEntry | None:
        return self._git.list_tree(commit, self.path).get(self.path) if commit else None

    def _text(self, entry: TreeEntry) -> str | None:
        if not entry.mode.startswith("100"):
            return None
        for _, content in self._git.read_blobs([entry.blob]):
            text = decode(content)
            return None if text is None or text.startswith("version https://git-lfs") else text

        return None

    def _hold(self, branch: str, reason: str) -> None:
        """Say why a card is left alone, once."""
        if reason and self._held.get(branch) != reason:
            log.warning("card.held", repo=self._mirror.repo_id, branch=branch, path=self.path, reason=reason)
        self._held[branch] = reason

    # --- what it is about

    def _subject(self, line: Line, commit: str) -> Subject:
        listed, shown = self._view.list_whole(commit), line.tree(commit)  # of very many files, no copy is made in vain
        listed = self._view.left_out.drop_from(listed, is_base=False)
        if self._view.refused:
            listed = {path: entry for path, entry in listed.items() if not self._view.is_frozen(path)}
        tree = listed
        if not self._view.is_whole:
            tree = {path: entry for path, entry in listed.items() if self._view.shows(path)}
        by_age = dict.fromkeys(unit for done in self._store.completed(commit) for unit in done.units)
        home: str | None = None
        if self._target.publish == "tree":
            if shown is not tree:
                tree = {path: entry for path, entry in tree.items() if shown.get(self._place(path)) == entry}
        else:
            home = line.unit or self._unit_at_top(tree, shown, reversed(by_age))
        if line.unit:
            tree = {path: entry for path, entry in tree.items() if path.startswith(f"{line.unit}/")}
        there = {unit_of(self._target, path) for path in tree} | ({None} if line.unit is None else set())
        unseen = {} if self._view.is_whole else {p: entry for p, entry in listed.items() if not self._view.shows(p)}
        hidden = {path: entry for path, entry in unseen.items() if unit_of(self._target, path) in there}

        return Subject(
            files=SnapshotFiles(self._store, tree, hidden),
            place=place_of(self._mirror, self._endpoint, line.branch),
            units=units_of(self._target, self._mirror, [unit for unit in by_age if unit in there]),
            home=home,
            metric=self._target.best.metric if self._target.best else "",
        )

    def _unit_at_top(
        self, tree: Mapping[str, TreeEntry], shown: Mapping[str, TreeEntry], units: Iterable[str]
    ) -> str | None:
        """Return the unit whose files the branch shows at its top."""
        for unit in units:
            inside = {path[len(unit) + 1 :]: entry for path, entry in tree.items() if path.startswith(f"{unit}/")}
            if inside and all(shown.get(self._place(path)) == entry for path, entry in inside.items()):
                return unit

        return None

    def _place(self, path: str) -> str:
        return with_prefix(self._mirror.path_in_repo, path)
