"""Captures one file: opens it once, pins it, reads it once, and proves that it did not change meanwhile.

It must never know why a file is captured or what becomes of it. The source is opened read-only and never locked.
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from hubsync.errors import (
    NO_ROOM,
    FileChangedError,
    FileUnreadableError,
    HubsyncError,
    StateError,
    find_cure,
    read_os_error,
)
from hubsync.monitor.text import format_bytes
from hubsync.store.fingerprint import Fingerprint
from hubsync.store.git import EXECUTABLE, REGULAR, blob_id
from hubsync.store.hashing import Steps, shared
from hubsync.store.lease import is_being_written
from hubsync.store.objects import Objects, Pin, PinKind
from hubsync.store.pointer import Pointer, decode_pointer
from hubsync.store.reading import read_all
from hubsync.store.route import Route, RouteRules, Routing, choose_route, choose_route_by_content
from hubsync.store.scan import Scanner, scan_content, scan_file
from hubsync.store.secrets import HINT, Secret, SecretRules, judge_name
from hubsync.watch.beneath import open_entry, resolve_link, words
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.formats import check_structure
from hubsync.watch.logs import is_event_log, whole_end
from hubsync.watch.mounts import network_file_system

_EXECUTABLE_BITS = 0o111
_OPEN_S = 600.0  # since its last change, for which a file that somebody has open for writing waits
MOST_BYTES = 500 * 10**9  # of one file on the Hub (https://huggingface.co/docs/hub/storage-limits)
_TOO_LARGE_HINT = "save it in parts, as max_shard_size does, or exclude it"
_NO_ROOM_HINT = "free space, or set store_dir to a directory on the file system of the source: no copy is made there"
_POINTER_HINT = "fetch its content (git lfs pull), or exclude it"
HELD_HINT = "nothing if its writer is still at work; else it is damaged: write it again, or exclude it"


class FileHeldError(FileChangedError):
    """A file is not whole yet; the message says what is missing."""

    error_kind = "held"


class CopyTooLargeError(FileHeldError):
    """A copy of a file does not fit; it waits until it does."""

    error_kind = "disk_full"


class FileRefusedError(FileUnreadableError):
    """A file must not be published as it is; the message says why."""

    error_kind = "rejected"
    retryable = False
    secret: Secret | None = None


class SecretFoundError(FileRefusedError):
    """A file holds a secret, or is one."""

    def __init__(self, path: str, secret: Secret, *, hint: str) -> None:
        super().__init__(path, f"{secret.rule} ({secret.place})", hint=hint)
        self.secret = secret


class Captured(Struct, frozen=True):
    """A file's content, safe from whatever the writer does next.

    Attributes:
        identity: the file's identity after it was pinned (a link changes the inode's ctime).
        blob: the git object id of what stands in the tree: the content itself, or its pointer.
        content: the bytes of that blob; they go to git at once and are not kept.
        kind: how the object is pinned; ``None`` for a git blob.
        is_new: whether the object was not pinned before.
        secret: what was found in it, where secrets are let through with a warning.
    """

    path: str
    identity: Identity
    mode: str
    routing: Routing
    blob: str
    content: bytes
    pointer: Pointer | None = None
    kind: PinKind | None = None
    is_new: bool = False
    secret: Secret | None = None


class Prefix(Struct, frozen=True):
    """What was captured of a log before, and is expected to stay its beginning: its size, and its blob or *oid*."""

    size: int
    blob: str
    oid: str | None

    def begins(self, content: bytes) -> bool:
        """Tell whether *content* begins with just that."""
        beginning = content[: self.size]
        return self.blob == blob_id(beginning) if self.oid is None else self.oid == hashlib.sha256(beginning).hexdigest()

    def begins_file(self, fd: int) -> bool:
        """Tell whether the open file *fd* begins with just that."""
        return (
            self.begins(os.pread(fd, self.size, 0))
            if self.oid is None
            else self.oid == shared().digest_file(fd, end=self.size)
        )


_NO_SECRETS = SecretRules()


class Capturer:
    """Captures files of one source into one store."""

    def __init__(
        self, source: Path, objects: Objects, rules: RouteRules, capture: str, secrets: SecretRules = _NO_SECRETS
    ) -> None:
        self._source = source
        self._objects = objects
        self._rules = rules
        self._capture = capture
        self._secrets = secrets
        self._knows_writers = network_file_system(source) is None  # there a lease may be refused for other reasons
        self._to_copy: dict[Path, int] = {}  # how much the copies that are being made will still take
        self.min_free_bytes = 0

    def is_early(self, path: str, size: int) -> bool:
        """Tell whether *path* is an object whatever its content, so that it may be captured before its commit."""
        routing = choose_route(path, size, self._rules)
        return routing is not None and routing.route is Route.LFS

    def capture(self, entry: Entry) -> Steps[Captured]:
        """Capture *entry*, in steps; if it is closed before their end, nothing is left of it.

        Raises:
            FileChangedError: it is not what *entry* says any more, or changed while it was read.
            FileHeldError: it is not whole.
            FileRefusedError: it is an LFS pointer without its content, or holds a secret.
            FileUnreadableError: it cannot be opened or read.
        """
        fd = open_entry(self._source, entry)
        try:
            return (yield from self._capture_open(fd, entry))
        except OSError as exc:
            raise _read_failure(entry.path, exc) from exc
        finally:
            os.close(fd)

    def capture_log(
        self, entry: Entry, before: Prefix | None, on_bytes: Callable[[int], None] = lambda _: None, *, is_quiet: bool
    ) -> Captured | None:
        """Capture a log up to the end of its last whole record or line; ``None`` if that is where *before* ends.

        It may grow meanwhile, so a copy is made, and the identity that is returned has the size of what was captured.
        Unless it *is_quiet*, it must begin with what was captured *before*. The last line of a quiet text needs no end.

        Raises:
            FileHeldError: nothing in it is whole, or what it began with has changed.
            FileError: as ``capture`` does.
        """
        fd = open_entry(self._source, entry)
        try:
            return self._capture_open_log(fd, entry, before, on_bytes, is_quiet=is_quiet)
        except OSError as exc:
            raise _read_failure(entry.path, exc) from exc
        finally:
            os.close(fd)

    def _capture_open_log(
        self, fd: int, entry: Entry, before: Prefix | None, on_bytes: Callable[[int], None], *, is_quiet: bool
    ) -> Captured | None:
        identity = Identity.of(os.fstat(fd))
        _expect_grown(identity, entry.identity, entry.path)
        _expect_whole(fd, entry.path, identity.size)
        is_all = is_quiet and not is_event_log(entry.path)
        end = identity.size if is_all else whole_end(fd, entry.path, identity.size, before.size if before else 0)
        if before is not None and before.size == end < identity.size:
            return None
        if end == 0 < identity.size:
            raise FileHeldError(entry.path, "nothing in it is whole yet", hint=HELD_HINT)
        part = entry._replace(identity=identity._replace(size=end))
        captured = self._capture_part(fd, part, None if is_quiet else before, on_bytes)
        if is_quiet:
            _expect_unchanged(fd, identity, entry.path)
        else:
            _expect_grown(Identity.of(os.fstat(fd)), identity, entry.path)

        return captured

    def _capture_part(self, fd: int, part: Entry, before: Prefix | None, on_bytes: Callable[[int], None]) -> Captured:
        """Capture the beginning of the open file *fd*, as long as *part* says, if it begins with *before*."""
        size = part.identity.size
        routing = choose_route(part.path, size, self._rules)
        if routing is None or routing.route is Route.GIT:
            content = read_all(fd, size)[:size]
            on_bytes(len(content))
            routing = routing or choose_route_by_content(content)
            if routing.route is Route.GIT:
                _expect_appended(part.path, only_appended=before is None or before.begins(content))
                found = self.find_secret(fd, part, content)
                return replace(self.as_blob(part, part.identity, routing, content), secret=found)

        return self.as_copy(fd, part, before, routing, on_bytes)

    def as_copy(
        self, fd: int, part: Entry, before: Prefix | None, routing: Routing, on_bytes: Callable[[int], None]
    ) -> Captured:
        """Copy and hash the beginning of an open file, as long as *part* says; raises as ``capture_log`` does."""
        pin = self._objects.pin(fd, "copy")
        try:
            with pin.path.open("r+b", buffering=0) as copy:
                oid = shared().digest_file(fd, copy.fileno(), lambda piece: on_bytes(len(piece)), part.identity.size)
                os.fsync(copy.fileno())
                _expect_appended(part.path, only_appended=before is None or before.begins_file(copy.fileno()))
                secret = self.find_secret(copy.fileno(), part)
            is_new = self._objects.keep(pin, oid)
        except BaseException:
            self._objects.discard(pin)
            raise

        captured = as_captured(part, part.identity, routing, Pointer(oid, part.identity.size))
        return replace(captured, kind=pin.kind, is_new=is_new, secret=secret)

    def check_again(self, entry: Entry) -> None:
        """Look for secrets in a file that was captured before, perhaps under other rules; raises as ``capture`` does."""
        fd = open_entry(self._source, entry)
        try:
            self.find_secret(fd, entry)
        except OSError as exc:
            raise _read_failure(entry.path, exc) from exc
        finally:
            os.close(fd)

    def recall(self, entry: Entry, pointer: Pointer | None, mode: str, blob: str) -> Captured:
        """Return what capturing *entry* gave before; nothing is read. Without *pointer* it must have been committed."""
        routing = Routing(Route.LFS if pointer else Route.GIT, "captured before")
        return Captured(entry.path, entry.identity, mode, routing, blob, pointer.encode() if pointer else b"", pointer)

    def _capture_open(self, fd: int, entry: Entry) -> Steps[Captured]:
        identity = Identity.of(os.fstat(fd))
        if identity != entry.identity:
            raise FileChangedError(entry.path, "changed since it was settled")
        _expect_small_enough(entry.path, identity.size)
        _expect_whole(fd, entry.path, identity.size)
        if self._knows_writers and time.time() - identity.mtime_ns / 1e9 < _OPEN_S and is_being_written(fd):
            raise FileChangedError(entry.path, "is open for writing")

        routing = choose_route(entry.path, identity.size, self._rules)
        if routing is None or routing.route is Route.GIT:
            content = read_all(fd, identity.size)
            yield len(content)
            _expect_unchanged(fd, identity, entry.path)
            routing = routing or choose_route_by_content(content)
            if routing.route is Route.GIT:
                found = self.find_secret(fd, entry, content)
                blob = self.as_blob(entry, identity, routing, content)
                return blob if found is None else replace(blob, secret=found)

        return (yield from self.as_object(fd, entry, identity, routing))

    def find_secret(self, fd: int, entry: Entry, content: bytes | None = None) -> Secret | None:
        """Return the secret in *entry* if it is to be let through with a warning; raises as ``_judge_secret`` does."""
        if not self._is_looked_at(entry.path):
            return None
        found = self._judge_name(entry)
        found = found or (scan_file(fd, entry.identity.size) if content is None else scan_content(content))

        return self._judge_secret(entry.path, found, lambda: shared().digest_file(fd))

    def _judge_name(self, entry: Entry) -> Secret | None:
        """Judge the name, and if it is a link also the name of what it leads to."""
        names = [entry.path, resolve_link(self._source, entry.path) or ""] if entry.link else [entry.path]
        return next((secret for name in names if (secret := judge_name(name))), None)

    def _is_looked_at(self, path: str) -> bool:
        return self._secrets.mode != "off" and not self._secrets.allows_path(path)

    def _judge_secret(self, path: str, found: Secret | None, oid: Callable[[], str]) -> Secret | None:
        """Return *found* if it is to be let through with a warning, ``None`` if there is nothing to say.

        Raises:
            SecretFoundError: it is not to be let through.
        """
        if found is None or (self._secrets.asks_for_hash and self._secrets.allows_hash(oid())):
            return None
        if self._secrets.mode == "block":
            raise SecretFoundError(path, found, hint=HINT)

        return found

    def as_blob(self, entry: Entry, identity: Identity, routing: Routing, content: bytes) -> Captured:
        """Return a small text as git's own blob; raises as ``capture`` does."""
        if decode_pointer(content):
            raise FileRefusedError(entry.path, "is a git-lfs pointer; its content is not here", hint=_POINTER_HINT)

        return Captured(entry.path, identity, _mode(entry), routing, blob_id(content), content)

    def as_object(self, fd: int, entry: Entry, identity: Identity, routing: Routing) -> Steps[Captured]:
        """Pin and hash an open file, in steps, as long as it stays as it is; raises as ``capture`` does."""
        scanner = Scanner(identity.size) if self._is_looked_at(entry.path) else None
        fingerprint = Fingerprint()

        def take(piece: memoryview) -> None:
            _expect_unchanged(fd, linked, entry.path)  # what is deleted, replaced or rewritten is not read to its end
            fingerprint.update(piece)
            if pin.path in self._to_copy:
                self._to_copy[pin.path] -= len(piece)
            if scanner is not None:
                scanner.feed(piece)

        try:
            pin = self._objects.pin(fd, self._capture)
        except StateError:
            if os.fstat(fd).st_nlink:
                raise
            raise FileChangedError(entry.path, "was replaced or deleted before it was pinned") from None
        try:
            self._expect_room(pin, entry)
            linked = Identity.of(os.fstat(fd))
            _expect_same_content(linked, identity, entry.path)
            oid = yield from _hash_pin(fd, pin, take)
            found = None if scanner is None else self._judge_name(entry) or scanner.finish(fd)
            secret = self._judge_secret(entry.path, found, lambda: oid)
            _expect_unchanged(fd, linked, entry.path)
            is_new = self._objects.keep(pin, oid, fingerprint.text())
        except BaseException:
            self._objects.discard(pin)
            raise
        finally:
            self._to_copy.pop(pin.path, None)

        after = Identity.of(os.fstat(fd))  # naming or dropping the pin moved the ctime once more
        _expect_same_content(after, identity, entry.path)

        return replace(
            as_captured(entry, after, routing, Pointer(oid, identity.size)), kind=pin.kind, is_new=is_new, secret=secret
        )

    def has_room_for(self, size: int) -> bool:
        """Tell whether a copy of so many bytes fits, beside those that are being made."""
        return size <= self._objects.free_bytes() - self.min_free_bytes - sum(self._to_copy.values())

    def _expect_room(self, pin: Pin, entry: Entry) -> None:
        """Expect that the copy that *pin* will be fits; else the file waits alone."""
        if pin.kind is not PinKind.COPY:
            return
        if not self.has_room_for(entry.identity.size):  # which is no news each time
            above = " above min_free" if self.min_free_bytes else ""
            needed = f"a copy of it takes {format_bytes(entry.identity.size)}, more than the store's disk has free{above}"
            raise CopyTooLargeError(entry.path, needed, hint=_NO_ROOM_HINT)
        self._to_copy[pin.path] = entry.identity.size


def as_captured(entry: Entry, identity: Identity, routing: Routing, pointer: Pointer) -> Captured:
    """Return an object as a captured file."""
    content = pointer.encode()
    return Captured(entry.path, identity, _mode(entry), routing, blob_id(content), content, pointer)


def _hash_pin(fd: int, pin: Pin, take: Callable[[memoryview], None]) -> Steps[str]:
    """Return the SHA-256 of the pinned bytes; a copy is written on the way, so that the source is read once."""
    if pin.kind is PinKind.REFLINK:
        with pin.path.open("rb", buffering=0) as clone:
            return (yield from shared().digest_steps(clone.fileno(), None, take))
    if pin.kind is PinKind.LINK:
        return (yield from shared().digest_steps(fd, None, take))
    with pin.path.open("r+b", buffering=0) as copy:
        oid = yield from shared().digest_steps(fd, copy.fileno(), take)
        os.fsync(copy.fileno())

    return oid


def _read_failure(path: str, exc: OSError) -> HubsyncError:
    """Return what stopped a capture: want of room is the copy's, and says nothing of the file."""
    return read_os_error(exc) if exc.errno in NO_ROOM else FileUnreadableError(path, words(exc), hint=find_cure(exc))


def _expect_small_enough(path: str, size: int) -> None:
    if size > MOST_BYTES:
        reason = f"is {format_bytes(size)}, and a Hub takes files of up to {format_bytes(MOST_BYTES)}"
        raise FileRefusedError(path, reason, hint=_TOO_LARGE_HINT)


def _expect_whole(fd: int, path: str, size: int) -> None:
    verdict = check_structure(fd, path, size)
    if verdict.whole:
        return
    if verdict.rejected:
        raise FileRefusedError(path, verdict.reason, hint=_POINTER_HINT)
    raise FileHeldError(path, verdict.reason, hint=HELD_HINT)


def _expect_grown(now: Identity, before: Identity, path: str) -> None:
    if not has_grown(now, before):
        raise FileChangedError(path, "is another file by now, or shorter")


def _expect_appended(path: str, *, only_appended: bool) -> None:
    if not only_appended:
        raise FileHeldError(path, "was rewritten, not only appended to; waits until it is quiet")


def has_grown(now: Identity, before: Identity) -> bool:
    """Tell whether it is the same file, and no shorter."""
    return now[:2] == before[:2] and now.size >= before.size


def _expect_unchanged(fd: int, before: Identity, path: str) -> None:
    if Identity.of(os.fstat(fd)) != before:
        raise FileChangedError(path, "changed while it was read")


def has_same_content(now: Identity, before: Identity) -> bool:
    """Tell whether only the ctime moved, as it does when an inode is linked or unlinked."""
    return now[:4] == before[:4]


def _expect_same_content(now: Identity, before: Identity, path: str) -> None:
    if not has_same_content(now, before):
        raise FileChangedError(path, "changed while it was pinned")


def _mode(entry: Entry) -> str:
    return EXECUTABLE if entry.mode & _EXECUTABLE_BITS else REGULAR
