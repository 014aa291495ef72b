"""What no table can know alone: names that must be unique, endpoints that must exist, places that must not overlap.

It reads the files as they stand and skips what the shape has refused already, so that one report has everything.
"""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from enum import Enum
from pathlib import Path, PurePosixPath

from msgspec import Struct
from pydantic import ValidationError

from hubsync.config.documents import Document
from hubsync.config.model import EndpointSettings
from hubsync.config.overlap import Lineage
from hubsync.config.positions import Loc
from hubsync.config.problems import Problem, spell_key
from hubsync.config.shape import read_shape
from hubsync.config.tables import MirrorTable


class _Spot(Struct, frozen=True):
    """A key in a file."""

    document: Document
    loc: Loc

    def problem(self, message: str) -> Problem:
        return self.document.problem(self.loc, message)

    def __str__(self) -> str:
        return f"{spell_key(self.loc)} ({self.document.where(self.loc)})"


class _Mirror(Struct, frozen=True):
    """A mirror that was read, and where it stands."""

    spot: _Spot
    table: MirrorTable


class _Role(Enum):
    SOURCE = "the source of a target"
    STATE = "a directory that hubsync writes"
    FILE = "a file that hubsync writes"


class _Directory(Struct, frozen=True):
    """A directory or file that was named, and for what."""

    spot: _Spot
    role: _Role
    lineage: Lineage

    def clashes_with(self, source: "_Directory") -> bool:
        """Tell whether hubsync would see what it writes here in *source*, or a source in its own state."""
        if self.role is _Role.STATE:
            return self.lineage.overlaps(source.lineage)

        return self.role is _Role.FILE and self.lineage.lies_in(source.lineage)


def cross_check(documents: Sequence[Document]) -> Iterator[Problem]:
    """Return what is wrong between the tables of all *documents*."""
    mirrors = [mirror for document in documents for mirror in _read_mirrors(document)]
    urls: dict[str, str] = {}
    yield from _check_endpoints(documents, urls)
    yield from _check_endpoint_names(mirrors, urls)
    yield from _check_target_names(documents)
    yield from _check_mirror_names(mirrors)
    yield from _check_places(mirrors, urls)
    yield from _check_directories([directory for document in documents for directory in _read_directories(document)])


def _check_endpoints(documents: Iterable[Document], urls: dict[str, str]) -> Iterator[Problem]:
    """Note each endpoint's URL in *urls*, empty if it is unusable; complain of doubles and of missing URLs."""
    first: dict[str, _Spot] = {}
    for document in documents:
        for name, table in document.table("endpoint").items():
            spot = _Spot(document, ("endpoint", name))
            if name in first:
                yield spot.problem(f"is declared twice, also as {first[name]}; join the two")
                continue

            first[name] = spot
            try:
                urls[name] = read_shape(EndpointSettings, table, document.context).url
            except ValidationError:
                urls[name] = ""
            if isinstance(table, dict) and not get_close_matches("url", table):  # nor misspelt, which is said already
                yield document.problem((*spot.loc, "url"), 'is missing; write e.g. url = "https://hub.example.com"')


def _check_endpoint_names(mirrors: Iterable[_Mirror], urls: dict[str, str]) -> Iterator[Problem]:
    for mirror in mirrors:
        name = mirror.table.repo.endpoint
        if name not in urls:
            close = get_close_matches(name, urls, n=1)
            cure = f'did you mean "{close[0]}"?' if close else f"declared are {', '.join(urls)}"
            yield mirror.spot.problem(f"names an endpoint that no [endpoint.NAME] declares; {cure}")


def _check_target_names(documents: Iterable[Document]) -> Iterator[Problem]:
    first: dict[str, _Spot] = {}
    for document in documents:
        for loc, target in document.targets():
            name, spot = target.get("name"), _Spot(document, (*loc, "name"))
            if isinstance(name, str) and first.setdefault(name, spot) is not spot:
                yield spot.problem(f"is taken by {first[name]}; give each target a name of its own")


def _check_mirror_names(mirrors: Iterable[_Mirror]) -> Iterator[Problem]:
    first: dict[tuple[Path, Loc, str], _Spot] = {}
    for mirror in mirrors:
        spot = mirror.spot
        name = mirror.table.name or str(mirror.table.repo)
        same = first.setdefault((spot.document.path, spot.loc[:2], name.casefold()), spot)
        if same is not spot:
            yield spot.problem(f'has the same name as {same}; tell them apart with {{ repo = ..., name = "..." }}')


def _check_places(mirrors: Iterable[_Mirror], urls: dict[str, str]) -> Iterator[Problem]:
    """Complain of mirrors that would overwrite each other; a Hub ignores the case of owner and name."""
    seen: dict[tuple[str, str, str, str], list[_Mirror]] = {}
    for mirror in mirrors:
        repo = mirror.table.repo
        url = urls.get(repo.endpoint)
        if not url:
            continue

        others = seen.setdefault((url, repo.repo_type, repo.repo_id.casefold(), repo.branch), [])
        same = next((other for other in others if _overlap(other.table.path_in_repo, mirror.table.path_in_repo)), None)
        if same:
            yield mirror.spot.problem(
                f"publishes to the same place as {same.spot}; give one of them another repository, branch or path_in_repo"
            )
        others.append(mirror)


def _overlap(one: PurePosixPath, other: PurePosixPath) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _check_directories(directories: Sequence[_Directory]) -> Iterator[Problem]:
    sources = [directory for directory in directories if directory.role is _Role.SOURCE]
    for index, source in enumerate(sources):
        same = next((other for other in sources[:index] if source.lineage.overlaps(other.lineage)), None)
        if same:
            yield source.spot.problem(f"overlaps {same.spot}; publish it with one target, which may have several mirrors")

    for directory in directories:
        clash = next((source for source in sources if directory.clashes_with(source)), None)
        if clash:
            yield directory.spot.problem(
                f"overlaps {clash.spot}; hubsync must not watch its own files, so move one of them"
            )
        if directory.role is not _Role.FILE and directory.lineage.is_file():
            yield directory.spot.problem("is a file; name the directory that holds it")


def _read_mirrors(document: Document) -> Iterator[_Mirror]:
    for loc, target in document.targets():
        mirrors = target.get("mirrors")
        for index, mirror in enumerate(mirrors if isinstance(mirrors, list) else ()):
            spot = _Spot(document, (*loc, "mirrors", index, *(("repo",) if isinstance(mirror, dict) else ())))
            try:
                yield _Mirror(spot, read_shape(MirrorTable, mirror, document.context))
            except ValidationError:
                continue  # said already


def _read_directories(document: Document) -> Iterator[_Directory]:
    keys: list[tuple[Loc, _Role, object]] = [
        (("service", "state_dir"), _Role.STATE, document.table("service").get("state_dir")),
        (("log", "file"), _Role.FILE, document.table("log").get("file")),
        (("monitor", "metrics_file"), _Role.FILE, document.table("monitor").get("metrics_file")),
        (("defaults", "store_dir"), _Role.STATE, document.table("defaults").get("store_dir")),
    ]
    for loc, target in document.targets():
        keys += [
            ((*loc, "source"), _Role.SOURCE, target.get("source")),
            ((*loc, "store_dir"), _Role.STATE, target.get("store_dir")),
        ]

    for loc, role, value in keys:
        try:
            located = document.context.locate(value) if isinstance(value, str) else None
        except ValueError:
            continue  # said already
        if located:
            yield _Directory(_Spot(document, loc), role, Lineage.of(located))
