"""Makes the commits of one branch of a mirror, in the mirror's own repository: our steps, grafted on its head.

It must never talk to a server: what the branch shows there was fetched before, and what is made here is pushed after.
Whether the mirror has an object is not known here, and asked of ``supply``.
"""

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import cast

from msgspec import Struct

from hubsync.errors import MirrorError
from hubsync.mirror.attributes import above, attributes_to_publish
from hubsync.mirror.cards import Cards
from hubsync.mirror.graft import ForeignEdit, Graft, Tree, graft, parents, policy_of
from hubsync.mirror.view import Line, Step, fold
from hubsync.store.git import DIRECTORY, FEW_PATHS, REGULAR, FastImport, Git, TreeEntry, blob_id
from hubsync.store.route import hub_attributes
from hubsync.store.snapshot import AUTHOR, Store

_A_DIRECTORY = TreeEntry(DIRECTORY, "")  # whatever is in it
_DECIDE = 'decide whose version stays: set on_foreign_edit to "ours" or "theirs"'
_PUT_BACK = 'put the branch back as it was, or have all published again: set on_foreign_edit to "ours"'

Changes = dict[str, TreeEntry | None]
Lacked = Callable[[Iterable[str]], AbstractSet[str]]
"""Returns those of some blobs that point to what the mirror lacks and cannot be given."""


class Head(Struct, frozen=True):
    """What a branch shows on the mirror: *commit* (``None``: there is no such branch), and how we left it."""

    commit: str | None
    left: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether nobody else has moved it, so that only what changed since has to be looked at."""
        return self.commit is not None and self.commit == self.left


class Grafted(Struct, frozen=True):
    """The *commits* made: the last one, the blobs that they write, in which directories, and whose edits they met.

    *is_short*: they lack what could not be had, so that all has to be compared the next time.
    """

    commit: str | None
    blobs: tuple[str, ...] = ()
    directories: frozenset[str] = frozenset()
    foreign: tuple[ForeignEdit, ...] = ()
    commits: int = 0
    is_short: bool = False


class _Published(Struct, frozen=True):
    """What we published, and which paths are ours to remove."""

    tree: Tree
    paths: AbstractSet[str]


class MadeAnewError(Exception):
    """The *head* holds nothing of what was published: the repository was made again, or all of it was replaced."""

    def __init__(self, head: str | None) -> None:
        super().__init__("nothing published is there as it was" if head else "the branch is gone")
        self.head = head


class Branch:
    """Makes the commits of one branch; *policies* are those of ``on_foreign_edit``."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it works on, and what the mirror is asked
        self, name: str, git: Git, store: Store, policies: Mapping[str, str], patterns: tuple[str, ...], cards: Cards,
        lacked: Lacked,
    ) -> None:  # fmt: skip
        self._ref = f"refs/mirror/graft/{name}"
        self._git = git
        self._store = store
        self._policies = policies
        self._patterns = patterns
        self._cards = cards
        self._lacked = lacked
        self._agreed_key = f"attributes {git.git_dir.name} {name}"
        self._made_key = f"made {git.git_dir.name} {name}"
        self._texts = {blob_id(content): content for content in (hub_attributes(),)}  # of attributes files, by blob

    def graft(self, line: Line, head: Head, *, is_new_view: bool = False) -> Grafted:
        """Make the commits that bring the branch from *head* to the end of *line*.

        *is_new_view* says that the config shows more, less or elsewhere than it did when the head was left.

        Raises:
            MadeAnewError: nothing of what we published is there.
            MirrorError: others changed what the policy says to halt for.
        """
        if head.commit is None:
            self._expect_none_halts(head)
        base, steps = line.base, list(line.steps)
        onto = self._onto(head)
        is_unnoted = onto != head.commit
        # Without a base the record may have been lost. In a new view all is compared, also what is to go.
        if head.commit is not None and not (is_new_view or is_unnoted) and (base is None or not head.is_ours):
            base, steps = self._skip_held(base, steps, head.commit)
            steps = steps or list(line.steps[-1:])  # what else we published may be there no more
        if not steps:
            return Grafted(head.commit)
        there = self._look(head.commit, steps) if head.commit else {}
        compares_all = is_new_view or not head.is_ours
        if head.commit is not None and (is_new_view or is_unnoted or _is_obstructed(steps, there)):
            steps, compares_all = [fold(steps)], True
        published = self._published(line, base, head, is_new_view=is_new_view) if compares_all else None
        if published is not None and onto is not None and is_unnoted:
            published = self._with_unnoted(published, onto, head)
        if published is not None and head.commit is not None and head.left is not None:
            published = self._with_returned(published, head.commit, head.left)
        grafts = self._plan(line, steps, head, there, published)
        if len(steps) > 1 and grafts[0].is_short:  # a later step changes some files of a unit that is not there
            steps = [fold(steps)]
            grafts = self._plan(line, steps, head, there, published)
        grafted = self._commit(line, steps, grafts, head)
        if grafted.commits:
            self._store.ledger.set_meta(self._made_key, json.dumps([onto, grafted.commit]))

        return grafted

    def _onto(self, head: Head) -> str | None:
        """Return what stands below our own commits that *head* ends with, if they were pushed and not noted; else *head*.

        So it is when we were killed in between.
        """
        known = self._store.ledger.meta(self._made_key)
        onto, tip = json.loads(known) if known and not head.is_ours else (None, None)
        if onto is None or head.commit is None or head.left == tip:
            return head.commit
        made = self._git.run("rev-list", "--first-parent", f"{onto}..{tip}", check=False).stdout.decode().split()
        return onto if head.commit in made else head.commit

    def note_published(self, grafted: Grafted) -> None:
        """Remember that the mirror shows what was *grafted*, whose attributes agree with all that is there."""
        if grafted.commits and grafted.commit is not None:
            self._store.ledger.set_meta(self._agreed_key, self._agreement(grafted.commit))

    def _agreement(self, commit: str) -> str:
        return json.dumps([commit, self._patterns])

    def _is_agreed(self, head: Head) -> bool:
        """Tell whether the attributes on *head* were compared with all paths of ours there."""
        known = self._store.ledger.meta(self._agreed_key)
        return head.is_ours and head.commit is not None and known == self._agreement(head.commit)

    # --- what to change

    def _published(self, line: Line, base: str | None, head: Head, *, is_new_view: bool) -> _Published:
        """Return what we published, by path: what others changed of it is theirs."""
        if is_new_view and head.left is not None:
            left = self._git.list_tree(head.left)
            # Where other places were shown it is not known which are ours: none is removed. What stood there is no edit.
            ours = {path: left[path] for path in left if policy_of(path, self._policies) == "ours"}
            return _Published(ours, line.ours_before)
        # A revision that was deleted is made again; the main branch is the repository, see MadeAnewError.
        tree = line.tree(base) if head.commit or not line.unit else {}

        return _Published(tree, tree.keys())

    def _with_unnoted(self, published: _Published, onto: str, head: Head) -> _Published:
        """Return what we published with what our own commits from *onto* to *head* changed: no snapshot tells of that.

        What was added there and is gone by now is in none of the steps.
        """
        changes = {change.path: change.after for change in self._git.diff_trees(onto, head.commit or "")}
        own = {p: e for p, e in changes.items() if p != self._cards.path and p not in above([p])}
        tree = {**published.tree, **own}
        return _Published({path: entry for path, entry in tree.items() if entry is not None}, published.paths | own.keys())

    def _with_returned(self, published: _Published, head: str, left: str) -> _Published:
        """Return what we published with what we removed from it and what *head*, which was rolled back, shows again."""
        undone = self._git.run("rev-list", "--first-parent", f"--author={AUTHOR}", f"{head}..{left}", check=False)
        steps = self._git.diff_line(undone.stdout.decode().split())  # newest first: what stood there at first counts
        removed = {change.path: change.before for changes in steps for change in changes if change.after is None}
        there = self._git.list_tree(head)
        returned = {path: entry for path, entry in removed.items() if entry is not None and there.get(path) == entry}

        return _Published({**returned, **published.tree}, published.paths | returned.keys())

    def _skip_held(self, base: str | None, steps: list[Step], head: str) -> tuple[str | None, list[Step]]:
        """Leave out the first of *steps* if *head* has them: they were pushed, and we were killed before the record."""
        card = self._cards.path
        published = [change.after for step in steps for change in step.changes if change.path == card]
        theirs = self._cards.unmerged(self._git.list_tree(head), *published)
        differing: set[str] = set()
        held, is_any_there = 0, False  # what is refused or deleted leaves no trace of a push
        for number, step in enumerate(steps, 1):
            for change in step.changes:
                is_there = theirs.get(change.path) == change.after
                (differing.discard if is_there else differing.add)(change.path)
                is_any_there |= is_there and change.after is not None
            held = number if is_any_there and not differing else held

        return (steps[held - 1].snapshot.commit, steps[held:]) if held else (base, steps)

    def _look(self, head: str, steps: Sequence[Step]) -> Tree:
        """Return what *head* has at the paths that *steps* change and above them; directories too."""
        changed = {change.path for step in steps for change in step.changes}
        asked = changed | {parent for path in changed for parent in parents(path)} | above(changed)  # asked for later on
        if len(asked) <= FEW_PATHS:
            return self._git.list_tree(head, *sorted(asked))
        files = self._git.list_tree(head)
        return {**dict.fromkeys({parent for path in files for parent in parents(path)}, _A_DIRECTORY), **files}

    def _plan(
        self, line: Line, steps: Sequence[Step], head: Head, there: Tree, published: "_Published | None"
    ) -> list[Graft]:
        """Return what each of *steps* changes on the one before it, the first one on *head*, of which *there* is known.

        With *published*, all paths of the first step are compared, not only those that it changes.
        """
        shown: Changes = dict(there)
        grafts: list[Graft] = []
        for step in steps:
            if grafts or published is None:
                one = self._plan_changed(step, shown)
            else:
                # What nothing was published before is all there is; it need not be listed.
                is_all = line.base is None and not published.tree
                ours = {c.path: c.after for c in step.changes if c.after} if is_all else line.tree(step.snapshot.commit)
                one = self._plan_all(line, ours, published, head)
            if one.halted:
                raise _halted(f"others changed {one.halted[0]} on the mirror", one.halted, _DECIDE)
            shown.update(one.changes)
            grafts.append(one)

        return grafts

    def _plan_changed(self, step: Step, shown: Mapping[str, TreeEntry | None]) -> Graft:
        """Plan what *step* changes on what is *shown*, which nobody else has touched but where others have the say."""
        last = {change.path: change.before for change in step.changes if change.before}
        ours = {change.path: change.after for change in step.changes if change.after}
        shown = self._cards.unmerged(shown, ours.get(self._cards.path), last.get(self._cards.path))
        foreign = {path for path in (c.path for c in step.changes) if policy_of(path, self._policies) != "ours"}
        theirs = {path: entry for path, entry in last.items() if path not in foreign}
        theirs |= {path: entry for path in foreign if (entry := shown.get(path)) is not None}
        planned = graft([change.path for change in step.changes], theirs, last, ours, self._policies)
        # What was pushed before we were killed is there already; a second commit of it would be empty.
        return Graft({p: entry for p, entry in planned.changes.items() if shown.get(p) != entry}, planned.foreign)

    def _plan_all(self, line: Line, ours: Mapping[str, TreeEntry], published: _Published, head: Head) -> Graft:
        last = published.tree
        theirs: Mapping[str, TreeEntry] = self._git.list_tree(head.commit) if head.commit else {}
        if last and not any(theirs.get(path) == entry for path, entry in last.items()):
            self._expect_none_halts(head)
            raise MadeAnewError(head.commit)
        theirs = self._cards.unmerged(theirs, ours.get(self._cards.path), last.get(self._cards.path))
        left = self._git.list_tree(head.left) if head.left else {}
        paths = [path for path in sorted(ours.keys() | published.paths) if not line.is_frozen(path)]
        planned = graft(paths, theirs, last, ours, self._policies)
        # What they keep and was told before, and neither side has touched since, is no news.
        news = tuple(
            edit
            for edit in planned.foreign
            if edit.policy != "theirs"
            or left.get(edit.path) != theirs.get(edit.path)
            or last.get(edit.path) != ours.get(edit.path)
        )
        # A version that was lost while it was queued is in the snapshots, though no mirror was ever given it.
        blobs = self._lacked({entry.blob for entry in planned.changes.values() if entry is not None})
        lacked = {path for path, entry in planned.changes.items() if entry is not None and entry.blob in blobs}
        units = {line.unit_at(path) for path in lacked} - {None}
        whole = {p: e for p, e in planned.changes.items() if p not in lacked and line.unit_at(p) not in units}

        return Graft(whole, news, is_short=bool(lacked))

    def _expect_none_halts(self, head: Head) -> None:
        """Leave it to the operator that all is gone which we left, if the policy says so of any of it.

        Where nothing was left, it is another branch, or the repository was made again as somebody wished.
        """
        left = self._git.list_tree(head.left).keys() if head.left else set()
        ours = sorted(left - above(left))
        if paths := tuple(path for path in ours if policy_of(path, self._policies) == "halt"):
            raise _halted(f"others replaced what was published: {MadeAnewError(head.commit)}", paths, _PUT_BACK)

    # --- the commits

    def _commit(self, line: Line, steps: Sequence[Step], grafts: Sequence[Graft], head: Head) -> Grafted:
        foreign = tuple(edit for one in grafts for edit in one.foreign)
        is_short = any(one.is_short for one in grafts)
        changed = [(step, one.changes) for step, one in zip(steps, grafts, strict=True) if one.changes]
        if not changed:
            return Grafted(head.commit, foreign=foreign, is_short=is_short)
        routes = self._routes([changes for _, changes in changed])
        if any(route is None for route in routes.values()):
            # A path was a pointer in one snapshot and is none in another: no set of attributes suits both.
            changed = [(changed[-1][0], {path: entry for _, changes in changed for path, entry in changes.items()})]
            routes = self._routes([changes for _, changes in changed])
        blobs = tuple(entry.blob for _, changes in changed for entry in changes.values() if entry is not None)
        written = (path for _, changes in changed for path, entry in changes.items() if entry is not None)
        directories = frozenset(parent for path in written for parent in parents(path))
        pointers = cast("dict[str, bool]", routes)  # by now
        if head.commit is not None and not self._is_agreed(head):
            pointers |= self._standing(line, head, pointers)
        card_changes = {p: step[p] for _, step in changed for p in (self._cards.path,) if p in step}
        card = self._cards.write(line, steps[-1].snapshot.commit, card_changes, head.commit, head.left)
        pointers |= dict.fromkeys(card, False)
        attributes = attributes_to_publish(self._git, head.commit, pointers, self._patterns, self._texts)
        for at, contents in ((0, attributes), (-1, card)):
            step, changes = changed[at]
            changed[at] = step, {**changes, **{p: TreeEntry(REGULAR, blob_id(text)) for p, text in contents.items()}}
        tip = self._write(head.commit, changed, [*attributes.values(), *card.values()])

        return Grafted(tip, blobs, directories, foreign, len(changed), is_short)

    def _write(
        self, tip: str | None, changed: Iterable[tuple[Step, Mapping[str, TreeEntry | None]]], contents: Iterable[bytes]
    ) -> str | None:
        with FastImport(self._git) as writer:
            for content in contents:
                writer.blob(content)
            for step, changes in changed:
                tip = writer.commit(self._ref, tip, step.snapshot.header, changes.items())

        return tip

    def _routes(self, steps: Sequence[Mapping[str, TreeEntry | None]]) -> dict[str, bool | None]:
        """Return of each path that is written whether it is a pointer; ``None`` if that differs from step to step."""
        pointers = self._store.pointers(entry.blob for step in steps for entry in step.values() if entry is not None)
        routes: dict[str, bool | None] = {}
        for path, entry in chain.from_iterable(step.items() for step in steps):
            if entry is not None:
                is_pointer = entry.blob in pointers
                routes[path] = is_pointer if routes.get(path, is_pointer) == is_pointer else None

        return routes

    def _standing(self, line: Line, head: Head, written: Container[str]) -> dict[str, bool]:
        """Return of each path of ours that will stand on *head*, but those *written*, whether it is a pointer.

        Others may have changed the attributes, and the operator the patterns, since it was published.
        """
        theirs = self._git.list_tree(head.commit or "")
        there = {path: entry for path, entry in theirs.items() if path not in written}
        if line.base is None and head.left is None:  # what nothing was published before is all there is, as in _plan
            ours: Tree = {c.path: c.after for step in line.steps for c in step.changes if c.after and c.path in there}
        else:
            ours = line.tree(line.steps[-1].snapshot.commit)
        blobs = {path: entry.blob for path, entry in there.items() if ours.get(path) == entry}
        pointers = self._store.pointers(set(blobs.values()))

        return {path: blob in pointers for path, blob in blobs.items()}


def _is_obstructed(steps: Sequence[Step], there: Tree) -> bool:
    """Tell whether *there* has a directory where a new file of ours goes, or a file where our directory goes."""
    added = {change.path for step in steps for change in step.changes if change.before is None}
    above = {parent for path in added for parent in parents(path)}
    is_directory = {path: entry.mode == DIRECTORY for path, entry in there.items()}

    return any(is_directory.get(path) for path in added) or any(is_directory.get(path) is False for path in above)


def _halted(why: str, paths: tuple[str, ...], hint: str) -> MirrorError:
    return MirrorError(why, error_kind="conflict", retryable=False, paths=paths, hint=hint)
