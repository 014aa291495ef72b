"""Owns the network side of git and git-lfs for one mirror: list, fetch, upload objects, push. Never with force.

It decides nothing: what to send, and what a failure means for the queue, is ``publish``'s. The words of the tools stop
here; above, a failure is a ``MirrorError``.
"""

import contextlib
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from threading import Event

from msgspec import Struct, field
from msgspec.structs import replace

from hubsync.config.model import Endpoint, Mirror
from hubsync.errors import GitKilledError, MirrorError
from hubsync.mirror.agent_handover import Thing
from hubsync.mirror.asking import ask_for
from hubsync.mirror.failures import read_failure
from hubsync.mirror.git_headers import kept_headers
from hubsync.mirror.lfs_trace import traced
from hubsync.mirror.token import Tokens, hand_over
from hubsync.mirror.uploads import Gauge, Told, Upload, agent_config, declare_limit
from hubsync.mirror.xet import git_xet_config
from hubsync.store.git import REGULAR, CommitHeader, FastImport, Git, TreeEntry, blob_id
from hubsync.store.objects import Objects
from hubsync.store.pointer import Pointer
from hubsync.store.process import ChildStalledError, Finished, OutputTooLongError, Watch, counted_file

_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_CONNECT_S = 30
_WANTED = "refs/mirror/wanted"
_SLOWEST_BYTES_PER_S = 100
_GIT_BYTES = 2 << 30  # git keeps a list of refs in memory, however long a hostile server makes it
_FETCH = ("fetch", "--progress", "--depth=1", "--no-tags", "--no-write-fetch-head", "--no-auto-gc")
_PUSH = ("push", "--progress", "--porcelain")


def web_url(endpoint: Endpoint, mirror: Mirror) -> str:
    """Return the address of the mirror's repository, as a browser shows it."""
    return f"{endpoint.url}/{_PREFIX[mirror.repo_type]}{mirror.repo_id}"


class HeadMovedError(MirrorError):
    """Somebody else pushed first; fetch, graft again, push again."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, error_kind="conflict", retryable=True, hint=hint)


class _Addresses(Struct, frozen=True):
    """Where a repository answers to git, and where its LFS API is."""

    git: str
    lfs: str


class _Options(Struct, frozen=True):
    """What a network command needs beside its arguments."""

    feed: tuple[bytes, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[], object] | None = None
    pass_fds: tuple[int, ...] = ()
    upload: Upload | None = None


class Remote:
    """One mirror's repository, spoken to from *git*, with the pins of *objects*."""

    def __init__(self, git: Git, objects: Objects, mirror: Mirror, endpoint: Endpoint, tokens: Tokens, stop: Event) -> None:
        self._git = git
        self._objects = objects
        self._mirror = mirror
        self._endpoint = endpoint
        self._tokens = tokens
        self._stop = stop
        self.progressed = 0.0  # when a command last got on, in monotonic seconds
        self.sending: Gauge | None = None
        self._told = Told()
        self.refs: dict[str, str] = {}  # branch → the ref of a pull request that stands for it
        base = web_url(endpoint, mirror)
        self._candidates = tuple(_Addresses(git, f"{base}.git/info/lfs") for git in (f"{base}.git", base))
        self._found: _Addresses | None = None
        declare_limit(endpoint)

    def _ref(self, branch: str) -> str:
        return self.refs.get(branch, f"refs/heads/{branch}")

    def _note_progress(self) -> None:
        self.progressed = time.monotonic()

    def public_id(self, commit: str | None) -> str | None:
        """Return the mirror's id of a commit of ours: it is the same."""
        return commit

    def read_heads(self, branches: Iterable[str]) -> dict[str, str | None]:
        """Return the commit that each of *branches* shows on the mirror; ``None`` if there is no such branch (yet).

        Raises:
            MirrorError: the repository cannot be reached or read.
        """
        refs = {self._ref(branch): branch for branch in branches}
        listed = self._network("list", "ls-remote", "{url}", *refs).stdout.decode().splitlines()
        shown = {ref: commit for commit, _, ref in (line.partition("\t") for line in listed)}
        return {branch: shown.get(ref) for ref, branch in refs.items()}

    def list_refs(self) -> dict[str, str]:
        """Return all branches and tags (``refs/heads/main``) and the commits that they point to.

        Raises:
            MirrorError: the repository cannot be reached or read.
        """
        listed = self._network("list", "ls-remote", "{url}", "refs/heads/*", "refs/tags/*").stdout
        refs: dict[str, str] = {}
        for line in listed.decode("utf-8", "surrogateescape").splitlines():
            commit, _, ref = line.partition("\t")
            refs[ref.removesuffix("^{}")] = commit  # the commit of an annotated tag follows the tag itself

        return refs

    def fetch_commits(self, wanted: Mapping[str, str]) -> None:
        """Fetch each of *wanted* (a ref of the mirror or a commit's id → local ref), without history."""
        specs = [f"+{theirs}:{ours}" for theirs, ours in wanted.items()]
        self._network("fetch", *_FETCH, "{url}", *specs)

    def fetch_trees(self, branch: str) -> None:
        """Fetch the newest commit of *branch* without history, and without contents where the server can leave them out."""
        self._network("fetch", *_FETCH, "--filter=blob:none", "{url}", f"+{self._ref(branch)}:refs/trees/fetched")

    @property
    def lfs_url(self) -> str:
        """The address of the LFS API beside the address at which the repository answered."""
        return (self._found or self._candidates[0]).lfs

    def fetch(self, branches: Mapping[str, str]) -> dict[str, str]:
        """Fetch the newest commit of *branches* (branch → local ref), without history; return the commits."""
        specs = [f"+{self._ref(branch)}:{ref}" for branch, ref in branches.items()]
        self._network("fetch", *_FETCH, "{url}", *specs)
        return {branch: commit for branch, ref in branches.items() if (commit := self._git.read_ref(ref)) is not None}

    def fetch_if_there(self, branch: str, ref: str) -> str | None:
        """Fetch the newest commit of *branch* to *ref* and return it; ``None`` if there is no such branch (yet)."""
        try:
            return self.fetch({branch: ref}).get(branch)
        except MirrorError as exc:
            if "couldn't find remote ref" not in str(exc):
                raise
            return None

    def upload_objects(
        self,
        oids: Iterable[str],
        *,
        immutable: Container[str] = frozenset(),
        on_there: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Upload the pinned objects *oids*; those that the mirror has are skipped by the LFS Batch API.

        The bytes are looked at on the way, but for those of *immutable*, which nobody else can change. *on_there* is told
        of objects that have arrived while others are under way.

        Raises:
            UploadError: not all arrived; it says which did, and which failed by themselves.
        """
        oids, objects = list(oids), self._objects
        if self._mirror.transfer != "hubsync":
            config = git_xet_config() if self._mirror.transfer == "xet" else {}
            self._lfs("upload", "push", "--object-id", "--stdin", "{url}", feed=_lines(oids), config=config)
            return
        things = [
            Thing(oid, objects.path(oid).stat().st_size, oid not in immutable, objects.fingerprint(oid)) for oid in oids
        ]
        upload = Upload(self._endpoint, things, self._objects.directory.parent / "uploads", _CONNECT_S, self._told)
        upload.on_there = on_there
        self.sending = upload.gauge
        try:
            options = _Options(_lines(oids), progress=upload.progress, upload=upload)
            self._network("upload", "lfs", "push", "--object-id", "--stdin", "{url}", options=options)
        finally:
            self.sending = None

    def ask_for(self, objects: Iterable[Pointer], operation: str = "upload") -> dict[str, bool]:
        """Return of *objects* (by oid) whether the mirror has each; nothing of what it does not take, or give."""
        return ask_for(self.lfs_url, self._endpoint, self._tokens.read(self._endpoint), objects, operation)

    def _lfs(self, doing: str, *args: str, feed: tuple[bytes, ...] = (), config: Mapping[str, str] | None = None) -> None:
        """Run git-lfs by its own means."""
        with counted_file() as (fd, count), traced() as trace:

            def progress() -> int:
                trace.look()
                return count()

            environment = {"GIT_LFS_PROGRESS": f"/proc/self/fd/{fd}", **trace.environment}
            options = _Options(feed, environment, config or {}, progress, (fd, trace.fd))
            self._network(doing, "lfs", *args, options=options)

    def download_objects(self, pointers: Iterable[Pointer]) -> None:
        """Download the objects of *pointers* to where their pins lie; git-lfs checks their oids."""
        changes: dict[str, TreeEntry | None] = {}
        with FastImport(self._git) as writer:
            for pointer in pointers:
                content = pointer.encode()
                writer.blob(content)
                changes[pointer.oid] = TreeEntry(REGULAR, blob_id(content))
            header = CommitHeader("hubsync <hubsync@localhost>", "0 +0000", "0 +0000", "wanted")
            wanted = writer.commit(_WANTED, None, header, changes.items())
        self._lfs("download", "fetch", "{url}", wanted)

    def push(self, heads: Mapping[str, str]) -> None:
        """Make *heads* (branch → commit) what the mirror shows, all or none, if each descends from the present one.

        Raises:
            HeadMovedError: one does not.
        """
        if not heads:
            return
        specs = [f"{commit}:{self._ref(branch)}" for branch, commit in heads.items()]
        try:
            self._push(specs)
        except MirrorError as exc:
            # An answer that was lost, or a request that was sent twice, looks like a refusal: the heads tell.
            if exc.error_kind in {"conflict", "network", "timeout", "server", "stalled"} and self._shows(heads):
                return
            if exc.error_kind == "conflict":
                raise HeadMovedError(str(exc), exc.hint) from exc
            if exc.error_kind == "rate_limited" and exc.retry_after_s is None and exc.retry_at is None:
                raise self._explain_limit(exc) from exc
            raise

    def _explain_limit(self, failure: MirrorError) -> MirrorError:
        from hubsync.mirror.push_refusal import explain_limit  # noqa: PLC0415 - its HTTP client is for that alone

        url = (self._found or self._candidates[0]).git
        token = self._tokens.read(self._endpoint)
        return explain_limit(failure, url, token, stall_s=self._endpoint.timeout_s, connect_s=_CONNECT_S)

    def _push(self, specs: list[str]) -> None:
        try:
            self._network("push", *_PUSH, *(["--atomic"] if len(specs) > 1 else []), "{url}", *specs)
        except MirrorError as exc:
            if "does not support --atomic" not in str(exc):
                raise
            # In their order: the main branch stands last, so that nothing it shows is missing elsewhere.
            for spec in specs:
                self._network("push", *_PUSH, "{url}", spec)

    def delete_branch(self, branch: str, head: str) -> None:
        """Delete *branch*, whose head is *head*: the server refuses it if somebody else has moved that meanwhile."""
        ref = self._ref(branch)
        self._network("push", *_PUSH, f"--force-with-lease={ref}:{head}", "{url}", f":{ref}")  # it only narrows a deletion

    def _shows(self, heads: Mapping[str, str]) -> bool:
        try:
            return self.read_heads(heads) == dict(heads)
        except MirrorError:
            return False

    def _network(self, doing: str, *args: str, options: _Options | None = None) -> Finished:
        """Run a git command that talks to the mirror; ``{url}`` stands for its address."""
        options = options or _Options()
        last: MirrorError | None = None
        for addresses in (self._found,) if self._found else self._candidates:
            try:
                finished = self._run(doing, addresses, args, options)
            except MirrorError as exc:
                last = last or exc
                if exc.error_kind not in {"not_found", "auth"}:
                    raise
            else:
                self._found = addresses
                return finished
        assert last is not None  # noqa: S101 - the loop ran
        raise last

    def _run(
        self,
        doing: str,
        addresses: _Addresses,
        args: tuple[str, ...],
        options: "_Options",
    ) -> Finished:
        token = self._tokens.read(self._endpoint)
        stall_s = self._endpoint.stall_s + _CONNECT_S
        watch = Watch(
            self._stop, stall_s, options.progress, b"remote: ", self._note_progress,
            memory=None if args[0] == "lfs" else _GIT_BYTES,
        )  # fmt: skip
        with (
            hand_over(token, addresses.git, to_lfs=args[0] == "lfs") as credential,
            _ordered(options, addresses.lfs, credential.fds) as full,
            kept_headers() as headers,
        ):
            try:
                finished = self._git.run(
                    *(arg.replace("{url}", addresses.git) for arg in args),
                    feed=full.feed,
                    config={**self._config(addresses, signed_in=token is not None), **credential.config,
                            **full.config},
                    environment={**full.environment, **headers.environment},
                    watch=watch,
                    pass_fds=(*credential.fds, *full.pass_fds, headers.fd),
                    check=False,
                )  # fmt: skip
            except ChildStalledError as exc:
                raise read_failure(doing, f"stalled: {exc}") from exc
            except OutputTooLongError as exc:
                raise read_failure(doing, f"server error: an answer without end: {exc}") from exc
            except GitKilledError as exc:
                raise _read_failure(doing, f"this machine: {exc}", full) from exc
            waits = headers.waits()
        if finished.returncode != 0:
            said = finished.stderr + finished.stdout.decode("utf-8", "replace") + waits
            raise _read_failure(doing, said, full)

        return finished

    def _config(self, addresses: _Addresses, *, signed_in: bool) -> dict[str, str]:
        stall = str(max(1, int(self._endpoint.stall_s)))
        return {
            # lfs.url is set so that no .lfsconfig in a published tree can send the upload, or the token, elsewhere.
            "lfs.url": addresses.lfs,
            "lfs.pushurl": addresses.lfs,
            f"lfs.{addresses.lfs}.locksverify": "false",
            f"lfs.{addresses.lfs}.access": "basic" if signed_in else "none",
            "lfs.repositoryformatversion": "0",
            "lfs.storage": str(self._objects.directory.parent),
            "lfs.transfer.maxretries": "1",  # the retry policy is ours: git-lfs would wait an hour without a word
            "lfs.transfer.maxretrydelay": "1",
            "lfs.activitytimeout": stall,
            "lfs.dialtimeout": str(_CONNECT_S),
            "lfs.concurrenttransfers": "4",
            "lfs.tustransfers": "false",
            "lfs.basictransfersonly": "true",
            "http.followRedirects": "false",
            "http.lowSpeedLimit": str(_SLOWEST_BYTES_PER_S),
            "http.lowSpeedTime": stall,
        }


def _read_failure(doing: str, said: str, options: _Options) -> MirrorError:
    return options.upload.read_failure(doing, said) if options.upload else read_failure(doing, said)


@contextlib.contextmanager
def _ordered(options: _Options, lfs_url: str, credential_fds: tuple[int, ...]) -> Iterator[_Options]:
    """Yield *options* with what the transfer agent needs, if it is wanted."""
    if options.upload is None:
        yield options
        return
    with options.upload.order(lfs_url, next(iter(credential_fds), None)) as (environment, fds):
        yield replace(options, environment=environment, config=agent_config(), pass_fds=fds)


def _lines(oids: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(f"{oid}\n".encode() for oid in oids)
