"""Explains one path: which rule takes it, whether it is settled and whole, and where it stands on each mirror.

What would become of a file is rehearsed, not guessed; the rest is read from the store and the status file. It changes
nothing; a daemon may run meanwhile or not.
"""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from hubsync.config.model import Config, Mirror, Target
from hubsync.errors import HubsyncError, UsageError
from hubsync.mirror.lost import SPOILED_HINT
from hubsync.mirror.record import LEFT, is_gone, read_published
from hubsync.mirror.view import WHY_LOST, View, revision_of
from hubsync.monitor.status import MirrorStatus, Status
from hubsync.monitor.text import format_bytes, format_count, format_duration
from hubsync.presence import find_owner, is_locked
from hubsync.rehearsal import Rehearsal, rehearse
from hubsync.status_view import read_newest
from hubsync.store.git import Git, TreeEntry
from hubsync.store.recovery import SNAPSHOTS
from hubsync.store.route import RouteRules, choose_route
from hubsync.store.snapshot import Store
from hubsync.units import age_s, target_rules, unit_of
from hubsync.watch.entry import Entry
from hubsync.watch.inventory import examine, take_inventory
from hubsync.watch.layouts import judge
from hubsync.watch.names import Skip
from hubsync.watch.rules import Ruling


class MirrorFact(Struct, frozen=True):
    """Where a path stands on one mirror; *commit* is the mirror's that brought it there, as far as it is known here."""

    mirror: str
    repo: str
    required: bool
    published: bool
    reason: str
    hint: str = ""
    commit: str | None = None
    object_uploaded: bool | None = None


class Explanation(Struct, frozen=True):
    """Everything that decides about one path."""

    target: str
    path: str
    rule: str
    taken: bool
    state: str
    settled: bool
    source: str = ""
    rule_from: str = ""
    settled_in_s: float | None = None
    hint: str = ""
    unit: str | None = None
    unit_state: str | None = None
    missing: tuple[str, ...] = ()
    route: str | None = None
    oid: str | None = None
    snapshot: str | None = None
    mirrors: tuple[MirrorFact, ...] = ()

    @property
    def is_published(self) -> bool:
        """Whether all required mirrors show it."""
        required = [fact for fact in self.mirrors if fact.required] or list(self.mirrors)
        return bool(required) and all(fact.published for fact in required)


class _State(Struct, frozen=True):
    """How a file is here; *is_current*: what the newest snapshot has is what there is."""

    reason: str
    settled: bool
    settled_in_s: float | None = None
    hint: str = ""
    is_current: bool = False


def explain(config: Config, path: str, cwd: Path) -> list[Explanation]:
    """Explain *path*: a file, or each file below a directory; it may be gone.

    Raises:
        UsageError: it lies in no source.
    """
    target, relative = _locate(config, path, cwd)
    status = _read_status(config.service.state_dir)
    with rehearse(config, target) as rehearsal:
        explainer = _Explainer(target, rehearsal, status, relative, is_running=is_locked(config.service.state_dir))
        return [explainer.explain(each) for each in explainer.paths]


def describe(one: Explanation) -> Iterator[tuple[str, str]]:
    """Yield what is to be read of *one*, as (heading, text)."""
    yield "target", f"{one.target} ({one.source})"
    yield "rule", f"{one.rule} ({one.rule_from})"
    yield "state", one.state
    if one.hint:
        yield "", f"→ {one.hint}"
    if one.unit is not None:
        yield "unit", f"{one.unit}: {one.unit_state}"
        if one.missing:
            yield "missing", ", ".join(one.missing)
    if one.route:
        yield "route", one.route + (f", oid {one.oid}" if one.oid else "")
    yield "snapshot", one.snapshot or "none has it"
    for fact in one.mirrors:
        yield (fact.mirror, f"{'published' if fact.published else 'not published'}: {fact.reason}")
        if fact.hint:
            yield "", f"→ {fact.hint}"


def _locate(config: Config, path: str, cwd: Path) -> tuple[Target, str]:
    """Return the target that *path* belongs to, and its place in the source."""
    absolute = Path(os.path.normpath(cwd / path))
    real = absolute.parent.resolve() / absolute.name
    for target in config.targets:
        for candidate in (absolute, real):
            for source in (target.source, target.source.resolve()):
                if candidate.is_relative_to(source):
                    return target, "" if candidate == source else str(candidate.relative_to(source))
    if not Path(path).is_absolute() and len(config.targets) == 1:
        return config.targets[0], os.path.normpath(path)

    sources = ", ".join(str(target.source) for target in config.targets)
    raise UsageError(f"{path} lies in no source", hint=f"the sources are: {sources}")


def _read_status(state_dir: Path) -> Status | None:
    try:
        return read_newest(state_dir, find_owner(state_dir))
    except HubsyncError:
        return None


def _files_below(target: Target, store: Store, path: str) -> list[str]:
    """Return *path* itself, or the files below it if it is a directory, there or in the newest snapshot."""
    if path and not (target.source / path).is_dir():
        known = [each for each in store.ledger.tree_paths() if each.startswith(f"{path}/")]
        return sorted(known) or [path]
    inventory = take_inventory(target.source, target_rules(target), path)
    found = {*inventory.entries, *inventory.skipped}
    found |= {each for each in store.ledger.tree_paths() if not path or each.startswith(f"{path}/")}

    return sorted(found) or [path or "."]


class _Explainer:
    """Explains paths of one target, whose facts are read once: what is captured, and then what ``once`` would do."""

    def __init__(self, target: Target, rehearsal: Rehearsal, status: Status | None, path: str, *, is_running: bool) -> None:
        self._target = target
        self._is_running = is_running
        self._store = rehearsal.store
        self._rules = target_rules(target)
        described = next((one for one in status.targets if one.name == target.name), None) if status else None
        self._mirrors: dict[str, MirrorStatus] = {one.name: one for one in described.mirrors} if described else {}
        self._trouble = described.last_error if described and is_running else None
        self._needy = (
            {one.what: one for one in described.waiting if one.needs_attention} if described and is_running else {}
        )
        self._being_read = {one.path: one for one in described.being_read} if described and is_running else {}
        self.paths = _files_below(target, self._store, path)
        self._known = {each: self._store.ledger.known(each) for each in self.paths}
        self._trees = {each: self._store.ledger.in_tree(each) for each in self.paths}
        rehearsal.run_on(path)
        self._pipeline = rehearsal.pipeline
        self._routes = rehearsal.capturer.routes
        self._held, self._hints = self._pipeline.held(), self._pipeline.hints()
        self._halted = self._pipeline.halted
        self._units = functools.cache(self._look_at_unit)
        self._history = functools.cache(_read_history)
        self._tree = functools.cache(_read_tree)

    def explain(self, path: str) -> Explanation:
        """Explain one file."""
        ruling = self._rules.verdict(path, is_dir=(self._target.source / path).is_dir())
        found = None if self._halted else examine(self._target.source, path)
        entry = found if isinstance(found, Entry) else None
        state = self._judge(path, found) if ruling.taken else _State("not taken, by the rule", False)
        unit = self._pipeline.unit_of(path)
        unit_state, missing = self._units(unit) if unit else (None, ())
        blob = self._trees[path]
        mirrors = tuple(self._explain_mirror(mirror, path, blob, state) for mirror in self._target.mirrors)
        is_kept = (
            found is None and state.is_current and self._target.deletes == "keep" and any(one.commit for one in mirrors)
        )

        return Explanation(
            target=self._target.name,
            source=str(self._target.source),
            path=path,
            rule=("taken: " if ruling.taken else "not taken: ") + ruling.reason,
            rule_from=self._rule_from(ruling),
            taken=ruling.taken and not isinstance(found, Skip),
            state=state.reason + "; the mirrors keep it" * is_kept,
            settled=state.settled,
            settled_in_s=state.settled_in_s,
            hint=state.hint,
            unit=unit,
            unit_state=unit_state,
            missing=missing,
            route=self._route(path, entry, blob),
            oid=self._oid(blob) or self._known_oid(path, entry),
            snapshot=self._snapshot_of(path) if blob else None,
            mirrors=mirrors,
        )

    # --- here

    def _judge(self, path: str, found: Entry | Skip | None) -> _State:
        if self._halted is not None:
            return _State(f"the target is halted: {self._halted}", False, hint=self._halted.hint)
        if isinstance(found, Skip):
            return _State(f"not taken: {found.reason}", False, hint=found.hint)
        if found is None:
            was_there = self._trees[path] is not None
            return _State("is not there any more" if was_there else "is not there", False, is_current=was_there)

        return self._judge_present(path, found)

    def _judge_present(self, path: str, found: Entry) -> _State:
        if self._is_committed(path, found):
            return _State(f"captured as it is, {format_bytes(found.identity.size)}", True, is_current=True)
        reason, hint = self._held.get(path, ""), self._hints.get(path, "")
        left_s = self._target.quiet_s - age_s(found.identity)
        if left_s > 0:
            as_it_is = f"; as it is now, it is held back: {reason}" if reason else ""
            lately = f"changed lately: settled in {format_duration(left_s)} if it stays quiet{as_it_is}"
            return _State(lately, False, round(left_s, 3), hint=hint)
        if reason:
            return _State(f"held back: {reason}", False, hint=hint)
        state = "settled and whole, not captured in this version yet"
        if being_read := self._being_read.get(path):
            return _State(f"settled and whole; is being read: {being_read}", True)
        if path in self._pipeline.settled():
            early = ", and its object is captured" if self._known_oid(path, found) else ""
            state = f"settled and whole{early}; waits for {self._pipeline.unit_of(path)}, which is published whole"
        if self._trouble is not None:
            state, hint = f"{state}; {self._trouble.error}", self._trouble.hint
        elif (needy := self._needy.get(path) or self._needy.get(f"{self._pipeline.unit_of(path)}/")) is not None:
            state, hint = f"{state}; {needy.reason}", needy.hint

        return _State(state, True, hint=hint)

    def _is_committed(self, path: str, entry: Entry) -> bool:
        """Tell whether *entry* is what the newest snapshot has, also if it was only touched."""
        known, tree = self._known[path], self._trees[path]
        if known is not None and known.identity == entry.identity and TreeEntry(known.mode, known.blob) == tree:
            return True
        is_pending = path in self._store.changes or path in self._held or path in self._pipeline.settled()

        return tree is not None and not is_pending

    def _rule_from(self, ruling: Ruling) -> str:
        """Return where the rule stands that takes *path* or not: a key of the config, or hubsync itself."""
        if ruling.reason.startswith("exclude pattern"):
            return f"exclude of target {self._target.name}"
        if not ruling.taken and not ruling.reason.startswith("no include"):
            return "built in"

        return "the default" if self._target.include == ("**",) else f"include of target {self._target.name}"

    def _look_at_unit(self, unit: str) -> tuple[str, tuple[str, ...]]:
        if not (self._target.source / unit).is_dir():
            return "is not there any more", ()
        inventory = take_inventory(self._target.source, self._rules, unit)
        quiet_s = self._target.quiet_s
        known = {p: "still being written" for p, e in inventory.entries.items() if age_s(e.identity) < quiet_s}
        known |= self._held
        completion = judge(self._pipeline.read_unit(unit, known))
        state = "complete" if completion.complete else "not complete"

        return f"{state}: {completion.reason}", completion.missing

    def _route(self, path: str, entry: Entry | None, blob: TreeEntry | None) -> str | None:
        if routing := self._routes.get(path):
            return f"{routing.route.value} ({routing.reason})"
        size = entry.identity.size if entry else None
        rules = RouteRules(self._target.lfs.patterns, self._target.lfs.threshold_bytes)
        if size is not None and (routing := choose_route(path, size, rules)):
            return f"{routing.route.value} ({routing.reason})"
        if blob is not None:
            return "lfs (binary content)" if self._oid(blob) else "git (small text)"

        return None if entry is None else "git or lfs (its content decides)"

    def _oid(self, blob: TreeEntry | None) -> str | None:
        if blob is None:
            return None
        pointer = self._store.pointers([blob.blob]).get(blob.blob)

        return pointer.oid if pointer else None

    def _known_oid(self, path: str, entry: Entry | None) -> str | None:
        """Return the oid of an object that was captured before its commit."""
        known = self._known[path]
        return known.oid if known and entry and known.identity == entry.identity else None

    def _snapshot_of(self, path: str) -> str | None:
        return self._last_change(self._store.git.git_dir, SNAPSHOTS, path)

    def _last_change(self, git_dir: Path, revision: str, path: str) -> str | None:
        """Return the commit that last changed *path*; of many paths the history is read once."""
        if len(self.paths) > 1:
            return self._history(git_dir, revision).get(path)
        return Git(git_dir).text("log", "-1", "--format=%H", revision, "--", f":(literal){path}") or None

    # --- on the mirrors

    def _explain_mirror(self, mirror: Mirror, path: str, blob: TreeEntry | None, state: _State) -> MirrorFact:
        def fact(reason: str, hint: str = "", *, published: bool = False, commit: str | None = None) -> MirrorFact:
            return MirrorFact(mirror.name, mirror.repo_id, mirror.required, published, reason, hint, commit, uploaded)

        store = self._store
        known = self._known[path]
        oid = self._oid(blob) or (known.oid if known else None)
        there = not is_gone(store, mirror)
        uploaded = None if oid is None else there and bool(store.ledger.uploaded(mirror.name, [oid]))
        if blob is None:
            return fact("no snapshot has it yet" + (", its object is there" if uploaded else ""))
        view = View(self._target, mirror, store)
        if not view.shows(path):
            return fact("this mirror leaves it out, by its own include and exclude")
        git = Git(store.mirror_directory(mirror.name))
        shown = self._shown_at(git, mirror, path, blob) if there else None
        if shown is not None and not state.is_current and not self._halted:
            return fact(f"an earlier version of it is in commit {shown}", commit=shown)
        if shown is not None:
            return fact(f"in commit {shown}{self._unmerged(mirror)}", published=True, commit=shown)
        reason, hint = self._why_lacking(mirror, path, view)
        return fact(reason + (", its object is there" if uploaded else ""), hint)

    def _why_lacking(self, mirror: Mirror, path: str, view: View) -> tuple[str, str]:
        if view.left_out.has(path):
            return "it is left out by now, as the rule says", ""
        if path in view.lost.current():
            return WHY_LOST, ""
        published = read_published(self._store, mirror)
        status = self._mirrors.get(mirror.name)
        if status is not None and (trouble := status.last_error) is not None:
            return f"waits: the mirror is {status.state}: {trouble.error}", trouble.hint
        if published is not None and self._store.is_ancestor(self._snapshot_of(path) or "", published):
            refused = "the mirror refused it, or somebody else's version stands there", "see its events in the log"
            spoiled = view.lost.find_spoiled(path, mirror.name)
            return (f"{spoiled} was changed or deleted here before it was uploaded", SPOILED_HINT) if spoiled else refused
        if status is not None and status.waits_for:
            return f"waits for {status.waits_for}", ""
        behind = format_count(len(self._store.backlog(published)), "snapshot")
        hint = "" if self._is_running else "no hubsync is running: hubsync run, or hubsync once"

        return f"waits to be published, {behind} behind", hint

    def _unmerged(self, mirror: Mirror) -> str:
        pull = status.pull_request if (status := self._mirrors.get(mirror.name)) else None
        return f", in a pull request that is not merged yet: {pull}" if pull else ""

    def _shown_at(self, git: Git, mirror: Mirror, path: str, blob: TreeEntry) -> str | None:
        """Return the mirror's commit that shows *path* as the newest snapshot has it, on any branch that should."""
        if not git.git_dir.exists():
            return None
        refs = git.list_refs(LEFT.rstrip("/"))
        for branch, place in self._places(mirror, path):
            head = refs.get(LEFT + branch)
            if head is not None and self._tree(git.git_dir, head).get(place) == blob:
                return self._last_change(git.git_dir, head, place) or head

        return None

    def _places(self, mirror: Mirror, path: str) -> list[tuple[str, str]]:
        prefix = "" if str(mirror.path_in_repo) == "." else f"{mirror.path_in_repo}/"
        unit = unit_of(self._target, path)
        if self._target.publish == "revisions" and unit is not None:
            return [(revision_of(unit, mirror.branch), prefix + path[len(unit) + 1 :])]
        return [(mirror.branch, prefix + path)]


def _read_tree(git_dir: Path, revision: str) -> Mapping[str, TreeEntry]:
    return Git(git_dir).list_tree(revision)


def _read_history(git_dir: Path, revision: str) -> dict[str, str]:
    """Return the commit that last changed each path."""
    git = Git(git_dir)
    commits = git.text("rev-list", "--first-parent", revision).split()
    history: dict[str, str] = {}
    for commit, changes in zip(commits, git.diff_line(commits), strict=True):
        for change in changes:
            history.setdefault(change.path, commit)

    return history
