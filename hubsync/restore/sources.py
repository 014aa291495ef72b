"""Reads what one mirror shows: its revisions, their files, and the content of those that lie in git.

By git, which has the modes of files and brings all small contents in one request; by the Hub's API where the config says
so or git is not installed. Either way the large objects come from the LFS API, which ``address`` asks.
"""

import functools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from hubsync.config.model import Endpoint, Mirror
from hubsync.errors import MirrorError, ToolMissingError, UsageError
from hubsync.mirror.agent_batch import Actions, Batch
from hubsync.mirror.agent_client import Action, Client, TransferError
from hubsync.mirror.agent_handover import Thing
from hubsync.mirror.asking import open_client
from hubsync.mirror.graft import with_prefix
from hubsync.mirror.hub import Hub
from hubsync.mirror.remote import Remote, web_url
from hubsync.mirror.token import Tokens
from hubsync.restore.catalog import File as CatalogFile
from hubsync.restore.catalog import Files, below
from hubsync.store.git import DIRECTORY, REGULAR, Git
from hubsync.store.objects import Objects
from hubsync.store.pointer import MAX_BYTES, Pointer, decode_pointer
from hubsync.store.tools import git_executable

_CONNECT_S = 10.0
_READ_BYTES = 16 << 20  # of blobs that are in memory at once
_SUBMODULE = "160000"


class Source(Protocol):
    """One mirror, as far as restoring needs it."""

    mirror: Mirror

    def list_refs(self) -> dict[str, str]:
        """Return branches and tags, as ``refs/heads/main``, and their commits."""

    def fetch(self, revisions: Iterable[str], refs: Mapping[str, str]) -> dict[str, Files]:
        """Return the files of each of *revisions*, relative to the target's place in the repository."""

    def address(self, oid: str, size: int) -> Actions:
        """Return where the object *oid* is to be had. Raises TransferError."""

    def blob_address(self, blob: str) -> Action:
        """Return where a content that lies in git is to be had. Raises TransferError."""


class _Lfs:
    """The LFS API of one mirror, asked for many objects at once."""

    def __init__(self, endpoint: Endpoint, tokens: Tokens) -> None:
        self._endpoint = endpoint
        self._tokens = tokens
        self._lock = threading.Lock()
        self._things: tuple[Thing, ...] = ()
        self._batch: Batch | None = None
        self._clients: list[Client] = []

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def expect(self, objects: Mapping[str, int]) -> None:
        """Note which objects (oid → size) will be asked for."""
        self._things = tuple(Thing(oid, size, is_shared=False) for oid, size in objects.items())

    def address(self, lfs_url: str, oid: str, size: int) -> Actions:
        """Return where *oid* is to be had; a request that failed is made anew."""
        with self._lock:
            if self._batch is None:
                token = self._tokens.read(self._endpoint)
                client = open_client(lfs_url, self._endpoint, token, connect_s=_CONNECT_S)
                self._clients.append(client)
                self._batch = Batch(client, lfs_url, self._things, "download")
            batch = self._batch
        try:
            return batch.find(Thing(oid, size, is_shared=False))
        except TransferError as exc:
            if exc.is_general:
                with self._lock:
                    self._batch = None
            raise


class GitSource:
    """A mirror spoken to by git, in a repository of its own at *directory*."""

    def __init__(self, mirror: Mirror, endpoint: Endpoint, tokens: Tokens, directory: Path, stop: threading.Event) -> None:
        self.mirror = mirror
        self._git = Git(directory)
        patient = endpoint.model_copy(update={"stall_s": min(endpoint.stall_s, endpoint.timeout_s)})
        self._remote = Remote(self._git, Objects(directory), mirror, patient, tokens, stop)
        self.lfs = _Lfs(endpoint, tokens)

    @functools.cached_property
    def _opened(self) -> Git:
        self._git.open()
        return self._git

    def list_refs(self) -> dict[str, str]:
        """Return branches and tags and their commits."""
        assert self._opened  # noqa: S101 - a repository has to be there
        return self._remote.list_refs()

    def fetch(self, revisions: Iterable[str], refs: Mapping[str, str]) -> dict[str, Files]:
        """Fetch *revisions* without history, and list each."""
        commits = {revision: _commit_of(revision, refs) for revision in revisions}
        names = {revision: f"refs/restore/{number}" for number, revision in enumerate(commits)}
        theirs = {_full_name(revision, refs): name for revision, name in names.items()}
        self._remote.fetch_commits(theirs)
        return {revision: below(self._list(name), self.mirror.path_in_repo) for revision, name in names.items()}

    def _list(self, revision: str) -> Files:
        entries = self._git.list_tree(revision)
        sizes = self._git.sizes({entry.blob for entry in entries.values() if entry.mode != _SUBMODULE})
        small = [blob for blob, size in sizes.items() if size < MAX_BYTES]
        pointers = {blob: pointer for blob, text in self.read(small) if (pointer := decode_pointer(text))}
        files: Files = {}
        for path, entry in entries.items():
            pointer = pointers.get(entry.blob) if entry.mode not in {DIRECTORY, "120000"} else None
            size = pointer.size if pointer else sizes.get(entry.blob, 0)
            files[path] = CatalogFile(entry.mode, entry.blob, pointer, size)

        return files

    def read(self, blobs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the contents of *blobs*, a bounded amount at a time."""
        group: list[str] = []
        held = 0
        for blob, size in self._git.sizes(blobs).items():
            if group and held + size > _READ_BYTES:
                yield from self._git.read_blobs(group)
                group, held = [], 0
            group.append(blob)
            held += size
        yield from self._git.read_blobs(group)

    def read_all(self, blobs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the contents of *blobs*: all are here."""
        return self.read(blobs)

    def sizes(self, blobs: Iterable[str]) -> dict[str, int]:
        """Return the sizes of those of *blobs* that are here."""
        return self._git.sizes(blobs) if self._git.git_dir.exists() else {}

    def address(self, oid: str, size: int) -> Actions:
        """Return where the object *oid* is to be had."""
        return self.lfs.address(self._remote.lfs_url, oid, size)

    def blob_address(self, blob: str) -> Action:
        """Git has no address for a single content."""
        raise TransferError(f"not found: {blob} is not to be had by itself", status=404)


class ApiSource:
    """A mirror spoken to through the Hub's API, which does not know the modes of files."""

    def __init__(self, mirror: Mirror, endpoint: Endpoint, tokens: Tokens) -> None:
        self.mirror = mirror
        self._endpoint = endpoint
        self._tokens = tokens
        self._hub = Hub(endpoint, tokens)
        self._base = web_url(endpoint, mirror)
        self._listed: dict[str, Files] = {}
        self.lfs = _Lfs(endpoint, tokens)

    def list_refs(self) -> dict[str, str]:
        """Return branches and tags and their commits."""
        return self._hub.list_refs(self.mirror)

    def fetch(self, revisions: Iterable[str], refs: Mapping[str, str]) -> dict[str, Files]:
        """List each of *revisions*."""
        return {revision: self._list(_commit_of(revision, refs)) for revision in revisions}

    def _list(self, commit: str) -> Files:
        files: Files = {}
        for path, file in self._hub.list_files(self.mirror, commit).items():
            pointer = Pointer(file.oid, file.size) if file.oid else None
            files[path] = CatalogFile(REGULAR, file.blob, pointer, file.size)
        self.__dict__.pop("_files", None)
        self._listed[commit] = below(files, self.mirror.path_in_repo)

        return self._listed[commit]

    @functools.cached_property
    def _files(self) -> dict[str, tuple[str, str]]:
        """Each blob → a commit and path that hold it; most listings are never asked for one."""
        listed = ((commit, path, file) for commit, files in self._listed.items() for path, file in files.items())
        return {file.blob: (commit, with_prefix(self.mirror.path_in_repo, path)) for commit, path, file in listed}

    def read_all(self, blobs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Get the contents of *blobs*, which are few and small."""
        for blob in blobs:
            commit, path = self._files[blob]
            yield blob, self._hub.read_file(self.mirror, commit, path)

    def address(self, oid: str, size: int) -> Actions:
        """Return where the object *oid* is to be had."""
        return self.lfs.address(f"{self._base}.git/info/lfs", oid, size)

    def blob_address(self, blob: str) -> Action:
        """Return the address of a file that holds *blob*, with the token: it is on the Hub's own host."""
        if blob not in self._files:
            raise TransferError(f"not found: {self.mirror.name} shows no file with {blob}", status=404)
        commit, path = self._files[blob]
        place = f"{self._base}/resolve/{commit}/{quote(os.fsencode(path), safe='/')}"
        token = self._tokens.read(self._endpoint)
        return Action(place, {"Authorization": f"Bearer {token}"} if token else {})


def open_source(
    mirror: Mirror, endpoint: Endpoint, tokens: Tokens, directory: Path, stop: threading.Event
) -> GitSource | ApiSource:
    """Return the way to *mirror* that its declaration and this machine allow."""
    if mirror.transport == "http":
        return ApiSource(mirror, endpoint, tokens)
    try:
        git_executable()
    except ToolMissingError:
        return ApiSource(mirror, endpoint, tokens)

    return GitSource(mirror, endpoint, tokens, directory, stop)


def _full_name(revision: str, refs: Mapping[str, str]) -> str:
    return next((ref for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}") if ref in refs), revision)


def _commit_of(revision: str, refs: Mapping[str, str]) -> str:
    return refs.get(_full_name(revision, refs), revision)


def no_such_mirror(tried: Mapping[str, Exception]) -> Exception:
    """Return the error that says why none of the mirrors *tried* could be read; the first one's, if there is one only."""
    if len(tried) == 1:
        return next(iter(tried.values()))
    first = next((exc for exc in tried.values() if not isinstance(exc, UsageError)), next(iter(tried.values())))
    told = "; ".join(f"{name}: {exc}" for name, exc in tried.items())
    if isinstance(first, MirrorError):
        return MirrorError(f"no mirror can be restored from: {told}", error_kind=first.error_kind,
                           retryable=first.retryable, hint=first.hint)  # fmt: skip

    return UsageError(f"no mirror can be restored from: {told}", hint=getattr(first, "hint", ""))
