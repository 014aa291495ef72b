"""Asks one mirror whether it holds files: its heads, what stands there, and whether each object can really be had.

Through the Hub's API; where there is none, through git and the LFS Batch API. The store here is not asked: what is proved
is what the mirror says now. Nothing is written but a scratch repository.
"""

import contextlib
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from hubsync.config.model import Endpoint, Mirror
from hubsync.errors import HubsyncError, MirrorError
from hubsync.mirror.agent_client import TransferError
from hubsync.mirror.graft import with_prefix
from hubsync.mirror.hub import Hub
from hubsync.mirror.hub_facts import HubFile
from hubsync.mirror.token import Tokens
from hubsync.proof.claims import Claim, Holding, Place, judge, objects_of
from hubsync.proof.modes import ModeReader
from hubsync.proof.reading import DAMAGED
from hubsync.proof.sound import Depth, Sounder
from hubsync.restore.catalog import File, Files
from hubsync.restore.get import Getter, Span
from hubsync.restore.sources import ApiSource, GitSource
from hubsync.store.git import REGULAR
from hubsync.store.pointer import Pointer

_CONNECT_S = 10.0
_PROBES = 8
_TRIES = 3
_PAUSE_S = 0.5
_FEW_PLACES = 400  # more are found by listing the whole revision
_NO_API = frozenset({"not_found", "auth", "forbidden", "server"})  # of a server that speaks git and LFS only

Shown = dict[Place, File]


class Asker:
    """Asks *mirror*; use as a context manager. Not for use by several threads at once.

    *known* is the mirror's repository on this machine, if there is one: it saves a question where nobody else published.
    """

    def __init__(
        self, mirror: Mirror, endpoint: Endpoint, tokens: Tokens, stop: threading.Event, known: Path | None = None
    ) -> None:
        self.mirror = mirror
        self._endpoint = endpoint
        self._tokens = tokens
        self._stop = stop
        self._stack = contextlib.ExitStack()
        self._hub = Hub(endpoint, tokens)
        self._source: ApiSource | GitSource = ApiSource(mirror, endpoint, tokens)
        self._listed: dict[str, Files] = {}
        self._modes = ModeReader(mirror, endpoint, tokens, stop, known)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listed.clear()
        self._source.lfs.close()
        self._stack.close()

    @property
    def source(self) -> ApiSource | GitSource:
        """The way to the mirror that answered."""
        return self._source

    @property
    def reads_blobs(self) -> bool:
        """Whether contents that lie in git can be fetched one by one; else git has fetched and checked them."""
        return isinstance(self._source, ApiSource)

    def read_heads(self) -> dict[str, str]:
        """Return the mirror's branches and their commits.

        Raises:
            MirrorError: it cannot be asked, or refuses.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                return _branches(self._list_refs())
            except MirrorError as exc:
                asked_s = exc.retry_after_s or 0.0
                if not exc.retryable or attempt == _TRIES or asked_s > _PAUSE_S or self._stop.wait(_PAUSE_S * attempt):
                    raise
        raise AssertionError

    def _list_refs(self) -> dict[str, str]:
        try:
            return self._source.list_refs()
        except MirrorError as exc:
            if isinstance(self._source, GitSource) or self.mirror.transport == "http" or exc.error_kind not in _NO_API:
                raise
            refused = exc
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hubsync-proof-"))
        source = GitSource(self.mirror, self._endpoint, self._tokens, Path(scratch) / "mirror.git", self._stop)
        try:
            refs = source.list_refs()
        except MirrorError as exc:  # the API's words are the better ones, if it is a Hub
            raise (exc if refused.error_kind == "server" else refused) from exc
        self._source = source

        return refs

    def show(self, heads: Mapping[str, str], places: Collection[Place]) -> Shown:
        """Return what the mirror shows at *places*, at those *heads*.

        Raises:
            MirrorError: it cannot be asked, or refuses.
        """
        by_branch: dict[str, list[str]] = {}
        for place in places:
            if place.branch in heads:
                by_branch.setdefault(place.branch, []).append(place.path)
        if not by_branch:
            return {}
        if isinstance(self._source, GitSource):
            refs = {f"refs/heads/{branch}": commit for branch, commit in heads.items()}
            listed = self._fetch(by_branch, refs, heads)
            return {Place(b, p): files[p] for b, files in listed.items() for p in by_branch[b] if p in files}

        return {
            Place(branch, path): file
            for branch, paths in by_branch.items()
            for path, file in self._with_modes(branch, heads[branch], self._look_up(heads[branch], paths)).items()
        }

    def show_all(self, heads: Mapping[str, str], branches: Iterable[str]) -> dict[str, Files]:
        """Return all that the mirror shows of the target on each of *branches* that is there."""
        refs = {f"refs/heads/{branch}": commit for branch, commit in heads.items()}
        wanted = [branch for branch in branches if branch in heads]
        listed = self._source.fetch(wanted, refs) if wanted else {}
        if isinstance(self._source, GitSource):
            return listed
        return {branch: self._with_modes(branch, heads[branch], files) for branch, files in listed.items()}

    def _with_modes(self, branch: str, commit: str, files: Files) -> Files:
        """Return *files* with the modes that git has for them: the API has none."""
        if not files:
            return files
        places = {with_prefix(self.mirror.path_in_repo, path): path for path in files}
        modes = self._modes.read(branch, commit, places.keys())
        unusual = {places[place]: mode for place, mode in modes.items() if place in places}
        return {**files, **{path: replace(files[path], mode=mode) for path, mode in unusual.items()}}

    def _fetch(self, revisions: Iterable[str], refs: Mapping[str, str], heads: Mapping[str, str]) -> dict[str, Files]:
        """Return the files of each of *revisions*; those of a commit are listed once, however often they are asked for."""
        commits = {revision: heads.get(revision, revision) for revision in revisions}
        if lacking := [revision for revision, commit in commits.items() if commit not in self._listed]:
            fetched = self._source.fetch(lacking, refs)
            self._listed |= {commits[revision]: files for revision, files in fetched.items()}

        return {revision: self._listed[commit] for revision, commit in commits.items()}

    def _look_up(self, commit: str, paths: Sequence[str]) -> Files:
        if len(paths) > _FEW_PLACES:
            files = self._fetch([commit], {}, {})[commit]
            return {path: files[path] for path in paths if path in files}
        places = {with_prefix(self.mirror.path_in_repo, path): path for path in paths}
        found = self._hub.look_up(self.mirror, commit, places)

        return {places[place]: _as_file(file) for place, file in found.items() if place in places}

    def find_lost(self, objects: Mapping[str, int]) -> dict[str, TransferError]:
        """Return those of *objects* (oid → size) that the mirror does not give, and why: a byte of each is fetched."""
        self._source.lfs.expect(objects)
        spare: list[Getter] = []

        def probe(item: tuple[str, int]) -> TransferError | None:
            getter = spare.pop() if spare else self._getter()
            try:
                return self._probe(*item, getter)
            finally:
                spare.append(getter)

        try:
            with ThreadPoolExecutor(_PROBES) as pool:
                answers = list(pool.map(probe, objects.items()))
        finally:
            for getter in spare:
                getter.close()

        return {oid: why for oid, why in zip(objects, answers, strict=True) if why is not None}

    def _getter(self) -> Getter:
        timeout_s = self._endpoint.timeout_s
        return Getter(connect_s=min(_CONNECT_S, timeout_s), stall_s=timeout_s)

    def _probe(self, oid: str, size: int, getter: Getter) -> TransferError | None:
        error: TransferError | None = None
        for attempt in range(1, _TRIES + 1):
            try:
                self._fetch_a_byte(oid, size, getter)
            except TransferError as exc:
                error = exc
            else:
                return None
            if not error.retryable or error.retry_after or self._stop.wait(_PAUSE_S * attempt):
                break

        return error

    def _fetch_a_byte(self, oid: str, size: int, getter: Getter) -> None:
        """Fetch the first byte of an object; the answer has the size of the whole."""
        action = self._source.address(oid, size).download
        if action is None:
            raise TransferError("the LFS Batch API names no address for it", status=404)
        if size == 0:
            return
        with contextlib.closing(getter.read(action, Span(0, 1, size), memoryview(bytearray(1)))) as read:
            if not next(read, b""):
                raise TransferError("an object without its bytes", status=404)

    def prove(
        self,
        claims: Sequence[Claim],
        proven: Collection[str] = (),
        heads: Mapping[str, str] | None = None,
        against: tuple[Path | None, Depth] | None = None,
    ) -> list[Holding]:
        """Ask whether the mirror holds each of *claims*; objects that are *proven* already are not asked for again.

        *heads* are the mirror's, if they were read just now. With *against*, the directory in which the claims' files lie
        here (if they do), the objects' bytes are looked at too, as deep as it says.

        A failure is an answer like any other: it is the reason why nothing is proved.
        """
        try:
            heads = self.read_heads() if heads is None else heads
            shown = self.show(heads, {claim.place for claim in claims})
            seen = {claim: shown.get(claim.place) for claim in claims}
            objects = {oid: size for oid, size in objects_of(seen).items() if oid not in proven}
            lost = self.find_lost(objects)
            damaged = self._find_damaged(claims, objects.keys() - lost.keys(), *against) if against else {}
        except HubsyncError as exc:
            said = f"it cannot be asked: {exc}"
            return [Holding(claim, said, None, is_answer=False, at=time.time(), hint=exc.hint) for claim in claims]

        return [_answer(claim, seen[claim], heads.get(claim.place.branch), lost, damaged) for claim in claims]

    def _find_damaged(
        self, claims: Sequence[Claim], oids: Collection[str], root: Path | None, depth: Depth
    ) -> dict[str, str]:
        contents = ((claim.content.oid, claim.content.size, claim.path) for claim in claims)
        objects = {oid: (size, path) for oid, size, path in contents if oid is not None and oid in oids}

        return Sounder(self._source, self._endpoint.timeout_s, self._stop, root, depth).find_damaged(objects)


def _branches(refs: Mapping[str, str]) -> dict[str, str]:
    start = "refs/heads/"
    return {ref[len(start) :]: commit for ref, commit in refs.items() if ref.startswith(start)}


def _as_file(file: HubFile) -> File:
    return File(REGULAR, file.blob, Pointer(file.oid, file.size) if file.oid else None, file.size)


def _answer(
    claim: Claim, shown: File | None, head: str | None, lost: Mapping[str, TransferError], damaged: Mapping[str, str]
) -> Holding:
    reason, is_answer, is_lost = judge(claim.content, shown), True, False
    if head is None:
        reason = f"the mirror has no branch {claim.place.branch!r}"
    elif not reason and shown is not None and shown.pointer is not None and (why := lost.get(shown.pointer.oid)):
        is_answer = is_lost = not why.retryable
        what = "the pointer is there, but not its object" if is_answer else "its object cannot be asked for"
        reason = f"{what}: {why}"
    elif not reason and shown is not None and shown.pointer is not None and (said := damaged.get(shown.pointer.oid)):
        is_answer = said == DAMAGED
        reason = f"its object is damaged there: {said}" if is_answer else f"its object: {said}"

    is_damaged = reason.endswith(DAMAGED)
    return Holding(claim, reason, head, is_answer=is_answer, at=time.time(), is_damaged=is_damaged, is_lost=is_lost)
