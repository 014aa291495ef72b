"""Decides what is restored: which unit, from what the mirrors show, and which names may be written. Pure."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from msgspec import Struct, field

from hubsync.config.model import Best, Mirror, Target
from hubsync.errors import HubsyncError, UsageError
from hubsync.mirror.graft import with_prefix
from hubsync.mirror.roles import mirror_rules
from hubsync.mirror.selection import choose_best
from hubsync.mirror.view import revision_of
from hubsync.store.pointer import Pointer
from hubsync.units import unit_among
from hubsync.watch.layout_words import choose_newest
from hubsync.watch.names import judge_names
from hubsync.watch.rules import PublishedRules

STATE = "trainer_state.json"

# What a unit is called where no config says it.
GUESSED_UNITS = (
    "checkpoint-*", "checkpoint_*", "last-checkpoint", "step-*", "step_*", "global_step*", "epoch-*", "epoch_*", "iter_*",
)  # fmt: skip

_MODES = {"100644": 0o644, "100664": 0o644, "100755": 0o755}
_REFUSED_MODES = {"120000": "a symbolic link", "160000": "a submodule"}
_ROOT = PurePosixPath()
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ATTRIBUTES = ".gitattributes"
_HARMLESS = frozenset({".gitmodules", ".lfsconfig"})  # orders to git, which reads them in no plain directory
_DEEPEST = 100


class HostileNameError(HubsyncError):
    """A mirror shows something that must not be written to a disk."""

    error_kind = "hostile"


class Wish(Struct, frozen=True):
    """What is to be restored; with nothing set it is all that the mirror's branch shows."""

    unit: str | None = None
    revision: str | None = None
    latest: bool = False
    best: bool = False
    rules: PublishedRules = field(default_factory=PublishedRules)


class File(Struct, frozen=True):
    """What a mirror shows at a path: *size* is that of the content, also behind a pointer."""

    mode: str
    blob: str
    pointer: Pointer | None
    size: int

    @property
    def permissions(self) -> int:
        """The mode that the file gets on disk, before the umask."""
        return _MODES[self.mode]


Files = dict[str, File]


class Layout(Struct, frozen=True):
    """How a mirror shows units: *publish* is ``None`` where no config says it, and both ways are looked for."""

    branch: str
    prefix: PurePosixPath = _ROOT
    units: tuple[str, ...] = GUESSED_UNITS
    publish: str | None = None
    best: Best | None = None
    written_at: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, target: Target, mirror: Mirror, written_at: Mapping[str, int]) -> "Layout":
        """Return the layout that the config declares."""
        return cls(mirror.branch, mirror.path_in_repo, target.units, target.publish, target.best, written_at)

    def branches_of_units(self, branches: Iterable[str]) -> dict[str, str]:
        """Return those of *branches* that show a unit (unit → branch)."""
        if self.publish == "tree":
            return {}
        known = {revision_of(unit, self.branch): unit for unit in self.written_at}
        named = {known.get(branch, branch): branch for branch in branches if branch != self.branch}
        return {unit: branch for unit, branch in named.items() if unit_among(self.units, f"{unit}/file") == unit}


class Shown(Struct, frozen=True):
    """What one revision of a mirror shows below the target's place in it; *unit* if it is a unit's own revision."""

    revision: str
    files: Files
    unit: str | None = None


class Choice(Struct, frozen=True):
    """What was chosen from one mirror: the files, relative to what is restored."""

    unit: str | None
    revision: str
    files: Files


def wanted_revisions(wish: Wish, layout: Layout, refs: Mapping[str, str]) -> dict[str, str | None]:
    """Return the revisions that have to be looked at (→ the unit that each one shows).

    Raises:
        UsageError: the mirror has no such unit or revision.
    """
    branches = [ref.removeprefix("refs/heads/") for ref in refs if ref.startswith("refs/heads/")]
    if wish.revision is not None:
        _expect_revision(wish.revision, refs)
        return {wish.revision: None}
    units = layout.branches_of_units(branches)
    main: dict[str, str | None] = {layout.branch: None} if layout.branch in branches else {}
    if wish.unit is not None:
        own = revision_of(wish.unit, layout.branch)
        return {own: wish.unit} if layout.publish != "tree" and own in branches else main
    if wish.latest and layout.publish == "revisions" and units:
        newest = _newest(units, layout)
        return {units[newest]: newest}
    if wish.latest or wish.best or layout.publish == "revisions":
        return {**main, **{branch: unit for unit, branch in units.items()}}

    return main


def _expect_revision(revision: str, refs: Mapping[str, str]) -> None:
    if not _COMMIT.fullmatch(revision) and not {f"refs/heads/{revision}", f"refs/tags/{revision}"} & refs.keys():
        names = sorted(ref.split("/", 2)[2] for ref in refs)
        raise UsageError(
            f"there is no revision {revision!r}", hint=f"there are {', '.join(names[:20])}; a commit takes all 40 digits"
        )


def units_in(layout: Layout, shown: Iterable[Shown]) -> dict[str, Files]:
    """Return the units that *shown* has, each with its files."""
    units: dict[str, Files] = {}
    for each in shown:
        if each.unit is not None:
            units[each.unit] = each.files
            continue
        for path, file in each.files.items():
            if unit := unit_among(layout.units, path):
                units.setdefault(unit, {})[path[len(unit) + 1 :]] = file

    return units


def choose(wish: Wish, layout: Layout, shown: list[Shown], states: Mapping[str, str]) -> Choice:
    """Return what *wish* means of what is *shown*; *states* are the texts of the units' ``trainer_state.json``.

    Raises:
        UsageError: there is no such unit, or none at all.
    """
    if not (wish.unit or wish.latest or wish.best):
        return Choice(None, _names(shown), _taken(wish, _whole(layout, shown)))
    units = units_in(layout, shown)
    unit = wish.unit or (_newest(units, layout) if wish.latest else _best(units, layout, states))
    if unit not in units:
        raise UsageError(f"there is no unit {unit!r}", hint=f"there are {_listed(units)}" if units else "there is no unit")
    revision = next((each.revision for each in shown if each.unit == unit), _names(shown))

    return Choice(unit, revision, _taken(wish, units[unit]))


def _whole(layout: Layout, shown: list[Shown]) -> Files:
    """Return the target as its source has it: a branch that shows a unit at its root shows what is in that unit as well."""
    main = next((each.files for each in shown if each.unit is None), {})
    units = {each.unit: each.files for each in shown if each.unit is not None}
    doubled = {(path, file.blob) for files in units.values() for path, file in files.items()}
    whole = {path: file for path, file in main.items() if layout.publish != "revisions" or (path, file.blob) not in doubled}
    for unit, files in units.items():
        whole |= {f"{unit}/{path}": file for path, file in files.items()}

    return whole


def _newest(units: Iterable[str], layout: Layout) -> str:
    newest = choose_newest({unit: layout.written_at.get(unit, 0) for unit in units})
    if newest is None:
        raise UsageError("there is no unit", hint=f"units are looked for by the names {', '.join(layout.units)}")

    return newest


def _best(units: Mapping[str, Files], layout: Layout, states: Mapping[str, str]) -> str:
    times = {unit: (layout.written_at.get(unit, 0), number) for number, unit in enumerate(_by_age(units, layout))}
    best = choose_best(states, times, layout.best)
    if best is None:
        raise UsageError(
            "nothing tells which unit is the best one",
            hint=f"a {STATE} has to name it, or `best` in the config a metric; name a unit with --unit: {_listed(units)}",
        )

    return best


def _by_age(units: Mapping[str, Files], layout: Layout) -> list[str]:
    """Return *units*, the newest last."""
    left, order = set(units), []
    while left:
        order.append(_newest(sorted(left), layout))
        left.remove(order[-1])

    return order[::-1]


def _taken(wish: Wish, files: Files) -> Files:
    return {path: file for path, file in files.items() if wish.rules.verdict(path).taken}


def _names(shown: Iterable[Shown]) -> str:
    return next((each.revision for each in shown if each.unit is None), "")


def _listed(units: Iterable[str]) -> str:
    names = sorted(units)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")  # noqa: PLR2004 - a line


def below(files: Files, prefix: PurePosixPath) -> Files:
    """Return what lies below *prefix* in a repository, without git's own orders, which are the mirror's."""
    start = with_prefix(prefix, "")
    inside = ((path, file) for path, file in files.items() if path.startswith(start))
    return {path[len(start) :]: file for path, file in inside if path.rpartition("/")[2] != _ATTRIBUTES}


def newest_first(found: Mapping[str, Choice], layouts: Mapping[str, Layout]) -> dict[str, Choice]:
    """Return those of *found* (mirror → its newest unit) that have the newest of all, in their order."""
    some = next(iter(layouts.values()))
    newest = _newest({choice.unit for choice in found.values() if choice.unit is not None}, some)
    return {name: choice for name, choice in found.items() if choice.unit == newest}


def complete(chosen: Mapping[str, Choice], mirrors: Mapping[str, Mirror]) -> tuple[str, Files]:
    """Return the mirror (of *chosen*, the one that is liked best first) that is restored from, and the files.

    A mirror whose ``include`` and ``exclude`` leave files out is completed with those of the others.
    """
    first = next((name for name in chosen if is_whole(mirrors[name])), next(iter(chosen)))
    files = dict(chosen[first].files)
    if is_whole(mirrors[first]):
        return first, files
    unit = chosen[first].unit
    for name, choice in chosen.items():
        if name == first or choice.unit != unit:
            continue
        for path, file in choice.files.items():
            inside = f"{unit}/{path}" if unit else path
            if path not in files and not mirror_rules(mirrors[first]).verdict(inside).taken:
                files[path] = file

    return first, files


def is_whole(mirror: Mirror) -> bool:
    """Tell whether a mirror gets all of the target."""
    return mirror.include == ("**",) and not mirror.exclude


def check_names(files: Files) -> None:
    """Raise HostileNameError if *files* has what must not be written: nothing is restored then, not even the rest."""
    directories = {directory for path in files for directory in _above(path)}
    for path, file in files.items():
        if reason := _refusal(path, file, directories):
            raise HostileNameError(
                f"the mirror shows {path!r}, which is not written here: {reason}",
                hint="look at the repository; --exclude PATTERN leaves it out",
            )


def _refusal(path: str, file: File, directories: set[str]) -> str:
    if file.mode in _REFUSED_MODES:
        return f"it is {_REFUSED_MODES[file.mode]}"
    if file.mode not in _MODES:
        return f"it has the unknown mode {file.mode}"
    if "\0" in path or path.count("/") > _DEEPEST:
        return "it is no path"
    if path in directories:
        return "it is a file and a directory"
    parents, _, name = path.rpartition("/")
    skip = judge_names(parents, is_dir=True) if name in _HARMLESS and parents else judge_names(path)
    return "" if skip is None or (name in _HARMLESS and not parents) else skip.reason


def _above(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
