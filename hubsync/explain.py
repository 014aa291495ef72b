"""Explains one path: which rule takes it, whether it is settled and whole, and where it stands on each mirror.

It reads the source, the store and the status file, and changes nothing; a daemon may run meanwhile or not.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hubsync.config.model import Config, Mirror, Target
from hubsync.errors import HubsyncError, UsageError
from hubsync.mirror.publish import LEFT, read_published
from hubsync.mirror.view import View, revision_of
from hubsync.monitor.status import MirrorStatus, Status, read_status
from hubsync.monitor.text import format_bytes, format_duration
from hubsync.pipeline import store_directory
from hubsync.store.git import Git, TreeEntry
from hubsync.store.ledger import Ledger
from hubsync.store.pointer import decode_pointer
from hubsync.store.route import RouteRules, choose_route
from hubsync.store.secrets import SecretRules, judge_name
from hubsync.store.snapshot import SNAPSHOTS, Store
from hubsync.units import age_s, check_file, read_facts, unit_of
from hubsync.watch.entry import Entry
from hubsync.watch.inventory import look, take_inventory
from hubsync.watch.layouts import judge
from hubsync.watch.rules import PathRules


@dataclass(frozen=True, slots=True)
class MirrorFact:
    """Where a path stands on one mirror; *commit* is the mirror's that brought it there, as far as it is known here."""

    mirror: str
    repo: str
    required: bool
    published: bool
    reason: str
    hint: str = ""
    commit: str | None = None
    object_uploaded: bool | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that decides about one path."""

    target: str
    path: str
    rule: str
    taken: bool
    state: str
    settled: bool
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


def explain(config: Config, path: str, cwd: Path) -> list[Explanation]:
    """Explain *path*: a file, or each file below a directory; it may be gone.

    Raises:
        UsageError: it lies in no source.
    """
    target, relative = _locate(config, path, cwd)
    status = _read_status(config)
    with _opened(config, target) as store:
        paths = _files_below(target, store, relative)
        return [_Explainer(target, store, status).explain(each) for each in paths]


def describe(one: Explanation) -> Iterator[tuple[str, str]]:
    """Yield what is to be read of *one*, as (heading, text)."""
    yield "target", one.target
    yield "rule", one.rule
    yield "state", one.state
    if one.unit is not None:
        yield "unit", f"{one.unit}: {one.unit_state}"
        if one.missing:
            yield "missing", ", ".join(one.missing)
    if one.route:
        yield "route", one.route + (f", oid {one.oid}" if one.oid else "")
    yield "snapshot", one.snapshot or "none has it"
    for fact in one.mirrors:
        yield (
            fact.mirror,
            f"{'published' if fact.published else 'not published'}: {fact.reason}"
            + (f" → {fact.hint}" if fact.hint else ""),
        )


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


def _read_status(config: Config) -> Status | None:
    try:
        return read_status(config.service.state_dir / "status.json")
    except HubsyncError:
        return None


@contextmanager
def _opened(config: Config, target: Target) -> Iterator[Store | None]:
    """Yield the store with a copy of its ledger: a daemon may be writing the original. ``None`` if there is none yet."""
    directory = store_directory(target, config.service.state_dir)
    if not (directory / "store.git" / "HEAD").exists():
        yield None
        return
    store = Store(directory, target.source)
    with tempfile.TemporaryDirectory() as scratch:
        for part in directory.glob("ledger.sqlite*"):
            if not part.name.endswith("-shm"):
                shutil.copy(part, scratch)
        store.ledger = Ledger(Path(scratch) / "ledger.sqlite")
        store.ledger.open()
        try:
            yield store
        finally:
            store.ledger.close()


def _files_below(target: Target, store: Store | None, path: str) -> list[str]:
    """Return *path* itself, or the files below it if it is a directory, there or in the newest snapshot."""
    if path and not (target.source / path).is_dir():
        known = [each for each in store.ledger.tree_paths() if each.startswith(f"{path}/")] if store else []
        return sorted(known) or [path]
    inventory = take_inventory(target.source, PathRules(target.include, target.exclude), path)
    found = {*inventory.entries, *inventory.skipped}
    if store is not None:
        found |= {each for each in store.ledger.tree_paths() if not path or each.startswith(f"{path}/")}

    return sorted(found) or [path or "."]


class _Explainer:
    """Explains paths of one target, whose facts are read once."""

    def __init__(self, target: Target, store: Store | None, status: Status | None) -> None:
        self._target = target
        self._store = store
        self._rules = PathRules(target.include, target.exclude)
        described = next((one for one in status.targets if one.name == target.name), None) if status else None
        self._mirrors: dict[str, MirrorStatus] = {one.name: one for one in described.mirrors} if described else {}
        self._units: dict[str, tuple[str, tuple[str, ...], bool]] = {}

    def explain(self, path: str) -> Explanation:
        """Explain one file."""
        ruling = self._rules.verdict(path)
        entry = look(self._target.source, path)
        state, settled = self._judge(path, entry)
        unit = unit_of(self._target, path)
        unit_state, missing, _ = self._judge_unit(unit) if unit else (None, (), True)
        blob = self._store.ledger.in_tree(path) if self._store else None

        return Explanation(
            target=self._target.name,
            path=path,
            rule=("taken: " if ruling.taken else "not taken: ") + ruling.reason,
            taken=ruling.taken,
            state=state,
            settled=settled,
            unit=unit,
            unit_state=unit_state,
            missing=missing,
            route=self._route(path, entry),
            oid=self._oid(blob),
            snapshot=self._snapshot_of(path) if blob else None,
            mirrors=tuple(self._explain_mirror(mirror, path, blob) for mirror in self._target.mirrors),
        )

    # --- here

    def _judge(self, path: str, entry: Entry | None) -> tuple[str, bool]:
        if entry is None:
            return self._why_none(path), False
        known = self._store.ledger.known(path) if self._store else None
        if known is not None and known.identity == entry.identity:
            return f"captured as it is, {format_bytes(entry.identity.size)}", True
        left_s = self._target.quiet_s - age_s(entry.identity)
        if left_s > 0:
            return f"changed lately: settled in {format_duration(left_s)} if it stays quiet", False
        reason, _ = check_file(self._target.source, entry)
        if reason:
            return f"held back: {reason}", False
        found = judge_name(path) if self._target.secrets == "block" else None
        if found is not None and not SecretRules("block", self._target.secrets_allow).allows_path(path):
            return f"held back: it looks like {found.rule}; see secrets_allow", False

        return "settled and whole, not captured in this version yet", True

    def _why_none(self, path: str) -> str:
        if not os.path.lexists(self._target.source / path):
            kept = "; the mirrors keep it" if self._target.deletes == "keep" else ""
            return f"is not there any more{kept}" if self._store and self._store.ledger.in_tree(path) else "is not there"
        parent = path.rpartition("/")[0]
        skip = take_inventory(self._target.source, self._rules, parent).skipped.get(path)
        return f"not taken: {skip.reason}" if skip else "is not taken"

    def _judge_unit(self, unit: str) -> tuple[str, tuple[str, ...], bool]:
        if unit not in self._units:
            self._units[unit] = self._look_at_unit(unit)
        return self._units[unit]

    def _look_at_unit(self, unit: str) -> tuple[str, tuple[str, ...], bool]:
        if not (self._target.source / unit).is_dir():
            return "is not there any more", (), True
        inventory = take_inventory(self._target.source, self._rules, unit)
        quiet_s = self._target.quiet_s
        waiting = {p: "still being written" for p, e in inventory.entries.items() if age_s(e.identity) < quiet_s}
        completion = judge(read_facts(self._target, self._rules, unit, waiting))
        state = "complete" if completion.complete else "not complete"
        return f"{state} ({completion.layout}): {completion.reason}", completion.missing, completion.complete

    def _route(self, path: str, entry: Entry | None) -> str | None:
        if entry is None:
            return None
        rules = RouteRules(self._target.lfs.patterns, self._target.lfs.threshold_bytes)
        routing = choose_route(path, entry.identity.size, rules)
        return f"{routing.route.value} ({routing.reason})" if routing else "git or lfs (its content decides)"

    def _oid(self, blob: TreeEntry | None) -> str | None:
        if blob is None or self._store is None:
            return None
        pointer = next((decode_pointer(text) for _, text in self._store.git.read_blobs([blob.blob])), None)
        return pointer.oid if pointer else None

    def _snapshot_of(self, path: str) -> str | None:
        assert self._store is not None  # noqa: S101 - it has the path
        return self._store.git.text("log", "-1", "--format=%H", SNAPSHOTS, "--", f":(literal){path}") or None

    # --- on the mirrors

    def _explain_mirror(self, mirror: Mirror, path: str, blob: TreeEntry | None) -> MirrorFact:
        def fact(reason: str, hint: str = "", *, published: bool = False, commit: str | None = None) -> MirrorFact:
            return MirrorFact(mirror.name, mirror.repo_id, mirror.required, published, reason, hint, commit, uploaded)

        store, oid = self._store, self._oid(blob)
        uploaded = None if oid is None or store is None else bool(store.ledger.uploaded(mirror.name, [oid]))
        if store is None or blob is None:
            return fact("no snapshot has it yet")
        view = View(self._target, mirror, store)
        if not view.shows(path):
            return fact("this mirror leaves it out, by its own include and exclude")
        git = Git(store.mirror_directory(mirror.name))
        shown = self._shown_at(git, mirror, path, blob)
        if shown is not None:
            return fact(f"in commit {shown}", published=True, commit=shown)
        published = read_published(store, mirror.name)
        status = self._mirrors.get(mirror.name)
        if status is not None and (trouble := status.last_error) is not None:
            return fact(f"the mirror is {status.state}: {trouble.error}", trouble.hint)
        if published is not None and store.is_ancestor(self._snapshot_of(path) or "", published):
            return fact("the mirror refused it, or somebody else's version stands there", "see its events in the log")
        return fact("waits to be published" + (", its object is there" if uploaded else ""))

    def _shown_at(self, git: Git, mirror: Mirror, path: str, blob: TreeEntry) -> str | None:
        """Return the mirror's commit that shows *path* as the newest snapshot has it, on any branch that should."""
        if not git.git_dir.exists():
            return None
        refs = git.list_refs(LEFT.rstrip("/"))
        for branch, place in self._places(mirror, path):
            head = refs.get(LEFT + branch)
            if head is not None and git.list_tree(head, place).get(place) == blob:
                return git.text("log", "-1", "--format=%H", head, "--", f":(literal){place}") or head

        return None

    def _places(self, mirror: Mirror, path: str) -> list[tuple[str, str]]:
        prefix = "" if str(mirror.path_in_repo) == "." else f"{mirror.path_in_repo}/"
        unit = unit_of(self._target, path)
        if self._target.publish == "revisions" and unit is not None:
            return [(revision_of(unit, mirror.branch), prefix + path[len(unit) + 1 :])]
        return [(mirror.branch, prefix + path)]
