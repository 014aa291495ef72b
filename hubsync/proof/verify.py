"""Verifies a target: each mirror against what the store knows it to hold, and the store against the source.

Everything that a mirror should show is looked at, each object is asked for, and on demand contents are downloaded and
hashed. What is proved becomes receipts.
"""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct, field

from hubsync.config.model import Config, Mirror, Target
from hubsync.errors import HubsyncError, MirrorError
from hubsync.mirror.ahead import Ahead
from hubsync.mirror.graft import policy_of, with_prefix
from hubsync.mirror.record import Record
from hubsync.mirror.token import Tokens
from hubsync.mirror.view import Step, View
from hubsync.monitor.logger import bound, get_logger
from hubsync.pipeline.provenance import is_own
from hubsync.proof.ask import Asker
from hubsync.proof.book import ReceiptBook
from hubsync.proof.claims import Claim, Content, Holding, Place, judge, place_of
from hubsync.proof.compare import Difference, choose_sample, compare, name_of, objects_in, shorten
from hubsync.proof.reading import DAMAGED, Reader, Wanted
from hubsync.proof.standing import Failure
from hubsync.proof.stores import ReadStore, opened_store
from hubsync.restore.catalog import File
from hubsync.store.git import Git
from hubsync.units import target_rules
from hubsync.watch.inventory import take_inventory

CARD = "README.md"
_CURE = (
    "the next publication puts back what others changed; what is lost is sent again if it is here or on another mirror, "
    "where `hubsync restore` gets it too"
)

log = get_logger()


class Reading(Struct, frozen=True):
    """How much is downloaded and hashed: a *share* of the contents (0 to 1), at *bytes_per_s* at most (0: unlimited)."""

    share: float = 0.0
    bytes_per_s: int = 0


class MirrorVerdict(Struct):
    """How one mirror is.

    Attributes:
        files: how many it should show.
        read_files: how many of their contents were downloaded and hashed.
        behind: how many snapshots it lacks, which is no fault.
        error: why it could not be verified.
    """

    mirror: str
    repo: str
    required: bool
    commit: str | None = None
    files: int = 0
    bytes: int = 0
    read_files: int = 0
    read_bytes: int = 0
    behind: int = 0
    found: Difference = field(default_factory=Difference)
    error: HubsyncError | None = None
    took_s: float = 0.0
    is_provable: bool = False  # whether receipts for the source's paths would show that nothing is wrong any more

    @property
    def is_passed(self) -> bool:
        """Whether all that should be there is there."""
        return self.error is None and not self.found.faults


class SourceVerdict(Struct, frozen=True):
    """How the source stands to the newest snapshot: files that are as captured, that are not, and that are gone."""

    same: int
    changed: tuple[str, ...]
    gone: int


class Verification(Struct, frozen=True):
    """The result for one target."""

    target: str
    source: SourceVerdict
    mirrors: tuple[MirrorVerdict, ...]

    @property
    def is_passed(self) -> bool:
        """Whether every mirror is as it should be."""
        return all(mirror.is_passed for mirror in self.mirrors)


class Means(Struct, frozen=True):
    """What verifying needs; *on_bytes* hears, by mirror, of what is downloaded, *on_plan* of how much that will be."""

    config: Config
    tokens: Tokens
    stop: threading.Event
    on_bytes: Callable[[str, int], None] = lambda _, __: None
    on_plan: Callable[[str, int, int], None] = lambda _, __, ___: None


def verify(means: Means, target: Target, reading: Reading, mirror: str | None = None) -> Verification:
    """Verify *target* on all its mirrors, or on the one called *mirror*; each result is logged.

    Raises:
        UsageError: nothing was ever captured here, or there is no such mirror.
    """
    mirrors = (target.mirror(mirror),) if mirror else target.mirrors
    with opened_store(target, means.config.service.state_dir) as store, ThreadPoolExecutor(len(mirrors)) as pool:
        verdicts = list(pool.map(lambda each: _verify_mirror(means, target, each, store, reading), mirrors))
        source = _compare_source(target, store)
    for verdict in verdicts:
        tell(target, verdict)

    return Verification(target.name, source, tuple(verdicts))


def tell(target: Target, verdict: MirrorVerdict) -> None:
    """Log the result for one mirror."""
    found, error = verdict.found, verdict.error
    with bound(target=target.name, mirror=verdict.mirror):
        if verdict.is_passed:
            log.info("verify.passed", repo=verdict.repo, commit=verdict.commit, files=verdict.files,
                     bytes=verdict.bytes, read_files=verdict.read_files or None, read_bytes=verdict.read_bytes or None,
                     took_s=verdict.took_s)  # fmt: skip
            return
        log.error("verify.failed", repo=verdict.repo, commit=verdict.commit, files=verdict.files,
                  bytes=verdict.bytes, read_files=verdict.read_files, read_bytes=verdict.read_bytes,
                  missing=shorten(found.missing), different=shorten(found.different),
                  dangling=shorten(found.dangling), damaged=shorten(found.damaged),
                  error=str(error) if error else found.describe(),
                  error_kind=error.error_kind if error else "lost", hint=error.hint if error else _CURE,
                  took_s=verdict.took_s)  # fmt: skip


# --- a mirror


def _verify_mirror(means: Means, target: Target, mirror: Mirror, store: ReadStore, reading: Reading) -> MirrorVerdict:
    began = time.monotonic()
    verdict = MirrorVerdict(mirror.name, mirror.repo_id, mirror.required)
    try:
        expected = _Expected(target, mirror, store)
        verdict.behind = expected.behind
        known = store.mirror_directory(mirror.name)
        with Asker(mirror, means.config.endpoints[mirror.endpoint], means.tokens, means.stop, known) as asker:
            _look(means, target, verdict, expected, asker, reading)
    except HubsyncError as exc:
        verdict.error = exc
    verdict.took_s = round(time.monotonic() - began, 3)
    if not means.stop.is_set():
        ReceiptBook.of(target, means.config.service.state_dir).note_verdict(mirror.name, _failure(target, verdict))

    return verdict


def _failure(target: Target, verdict: MirrorVerdict) -> Failure | None:
    """Return what is to be remembered of *verdict*."""
    if verdict.is_passed:
        return None
    error, again = verdict.error, f"then: hubsync verify {target.name}"
    if error is not None:
        hint = f"{error.hint}; {again}" if error.hint else again.removeprefix("then: ")
        return Failure(f"verify: {error}", error.error_kind, hint, isinstance(error, MirrorError))
    return Failure(f"verify: {verdict.found.describe()}", "lost", f"{_CURE}; {again}", verdict.is_provable)


def _look(
    means: Means, target: Target, verdict: MirrorVerdict, expected: "_Expected", asker: Asker, reading: Reading
) -> None:
    mirror = asker.mirror
    heads = asker.read_heads()
    verdict.commit = heads.get(mirror.branch)
    listed = asker.show_all(heads, {place.branch for place in expected.contents} | {mirror.branch})
    shown = {Place(branch, path): file for branch, files in listed.items() for path, file in files.items()}
    found = verdict.found = compare(expected.contents, shown, expected.is_theirs)
    objects = objects_in(shown)
    sizes = {oid: shown[places[0]].size for oid, places in objects.items()}
    book = ReceiptBook.of(target, means.config.service.state_dir)
    wanted = _sample(shown, sizes, reading, book.damaged(mirror.name), by_blob=asker.reads_blobs)
    lost = asker.find_lost({oid: size for oid, size in sizes.items() if oid not in wanted})
    if unsure := next((why for why in lost.values() if why.retryable), None):
        raise HubsyncError(f"objects cannot be asked for: {unsure}", hint="run it again later")
    damaged = _read(means, asker, wanted, reading)
    for oid, places in objects.items():
        if oid in lost:
            found.dangling += [name_of(place) for place in places]
    found.damaged += [f"{name_of(_place_of(name, shown))}: {reason}" for name, reason in damaged.items()]
    verdict.files = len(expected.contents)
    verdict.bytes = sum(shown[place].size for place in expected.contents if place in shown)
    verdict.read_files = len(wanted)
    verdict.read_bytes = sum(each.size for each in wanted.values())
    bad = lost.keys() | damaged.keys()
    book.note_read(mirror.name, wanted.keys() - damaged.keys(), [oid for oid, why in damaged.items() if why == DAMAGED])
    holdings = expected.holdings(shown, bad, heads)
    book.note(mirror.name, holdings)
    book.note_lost(mirror.name, lost)
    lacking = {*found.missing, *found.different, *found.dangling}
    verdict.is_provable = not found.damaged and lacking <= {name_of(each.claim.place) for each in holdings}


def _sample(
    shown: Mapping[Place, File], sizes: Mapping[str, int], reading: Reading, suspect: frozenset[str], *, by_blob: bool
) -> dict[str, Wanted]:
    """Return what is to be read: objects, and what lies in git where git has not checked it; all that is *suspect*."""
    every: dict[str, Wanted] = {}
    for place, file in shown.items():
        is_weights = place.path.endswith(".safetensors")
        if file.pointer is not None:
            before = every.get(file.pointer.oid)
            is_weights = is_weights or (before is not None and before.is_safetensors)
            every[file.pointer.oid] = Wanted(file.pointer.oid, sizes[file.pointer.oid], True, is_weights)
        elif by_blob:
            every[file.blob] = Wanted(file.blob, file.size, False)
    chosen = {*choose_sample(every, reading.share, secrets.randbits(64)), *(suspect & every.keys())}

    return {name: every[name] for name in chosen}


def _read(means: Means, asker: Asker, wanted: Mapping[str, Wanted], reading: Reading) -> dict[str, str]:
    if not wanted:
        return {}
    name = asker.mirror.name
    means.on_plan(name, len(wanted), sum(each.size for each in wanted.values()))
    reader = Reader(
        asker.source, means.config.endpoints[asker.mirror.endpoint].timeout_s, reading.bytes_per_s, means.stop,
        lambda count: means.on_bytes(name, count),
    )  # fmt: skip
    return reader.read(wanted)


def _place_of(name: str, shown: Mapping[Place, File]) -> Place:
    return next(
        place for place, file in shown.items() if name == (file.pointer.oid if file.pointer is not None else file.blob)
    )


class _Expected:
    """What *mirror* should show by the snapshot that it is known to hold; places are relative to its ``path_in_repo``."""

    def __init__(self, target: Target, mirror: Mirror, store: ReadStore) -> None:
        self._target = target
        self._mirror = mirror
        self._store = store
        self.contents: dict[Place, Content] = {}
        self.behind = 0
        self._paths: dict[str, Content] = {}
        if store.mirror_directory(mirror.name).exists():
            self._read(View(target, mirror, store))

    def _read(self, view: View) -> None:
        store = self._store
        record = Record(Git(store.mirror_directory(self._mirror.name)), store, self._mirror, view)
        backlog = store.backlog(record.published)
        self.behind = len(backlog)
        ahead = record.ahead(backlog)
        steps = self._steps(view, record.published, ahead)
        if not steps:
            return
        start = with_prefix(self._mirror.path_in_repo, "")
        entries = {
            Place(line.branch, path[len(start) :]): entry.blob
            for line in view.lines(None, steps, ahead)
            for path, entry in line.tree(record.published).items()
            if not line.is_frozen(path)  # it is lost, and was never there
        }
        blobs = {change.path: change.after.blob for step in steps for change in step.changes if change.after}
        pointers = store.pointers({*entries.values(), *blobs.values()})

        def content(blob: str) -> Content:
            pointer = pointers.get(blob)
            return Content(pointer.size, pointer.oid, None) if pointer else Content(0, None, blob)

        self.contents = {place: content(blob) for place, blob in entries.items()}
        self._paths = {path: content(blob) for path, blob in blobs.items()}

    def _steps(self, view: View, published: str | None, ahead: Ahead) -> list[Step]:
        """Return what makes an empty mirror one that holds *published* and the units that went *ahead* of it."""
        store = self._store
        steps = []
        if published is not None:
            [snapshot] = store.read_snapshots([published])
            whole = Step(snapshot, tuple(store.git.diff_trees(None, snapshot.commit)))
            steps = view.filter(None, [whole], ahead)
        alone = Ahead({}, ahead.order)
        commits = sorted(set(ahead.units.values()), key=lambda commit: ahead.order[commit])

        return [*steps, *(view.unit_step(None, each, alone) for each in store.read_snapshots(commits))]

    def is_theirs(self, place: Place) -> bool:
        """Tell whether the mirror's own version may stand at *place*."""
        path = with_prefix(self._mirror.path_in_repo, place.path)
        has_card = self._target.card.enabled and place.path == CARD
        return has_card or policy_of(path, self._mirror.on_foreign_edit) == "theirs"

    def holdings(self, shown: Mapping[Place, File], bad: "set[str]", heads: Mapping[str, str]) -> "list[Holding]":
        """Return what the mirror holds of each path of the source; *bad* are oids and blobs that it does not give."""
        now = time.time()
        answers = []
        for path, content in self._paths.items():
            if (place := place_of(self._target, self._mirror, path)) is None:
                continue
            reason = judge(content, shown.get(place))
            if not reason and {content.oid, content.blob} & bad:
                reason = "the mirror does not give its content"
            answers.append(Holding(Claim(path, place, content), reason, heads.get(place.branch), True, now))

        return answers


# --- the source


def _compare_source(target: Target, store: ReadStore) -> SourceVerdict:
    try:
        entries = take_inventory(target.source, target_rules(target)).entries
    except HubsyncError:
        entries = {}
    known = dict(store.ledger.all_known())
    same = [path for path, entry in entries.items() if path in known and known[path][:4] == entry.identity[:4]]
    changed = sorted(entries.keys() - set(same))

    gone = store.ledger.tree_paths() - entries.keys() - store.pruned.paths()
    published_beside = {path for path in gone if is_own(target, store.ledger, path)}

    return SourceVerdict(len(same), tuple(changed), len(gone - published_beside))
