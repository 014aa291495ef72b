"""Reads what lies on this disk below a path: every file, by its content, and whatever stands against deleting it.

Nothing that was known before is trusted: what was captured may have changed since in ways that no time tells. Sources are
opened read-only. It must never know a mirror.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct, field

from hubsync.errors import FileError
from hubsync.proof.claims import Content
from hubsync.proof.writers import find_writers
from hubsync.store.hashing import shared
from hubsync.watch.beneath import open_entry, words
from hubsync.watch.entry import Entry, Identity
from hubsync.watch.inventory import examine
from hubsync.watch.names import Skip
from hubsync.watch.rules import PathRules
from hubsync.watch.unit_facts import MARK

_GIT_BYTES = 64 << 20  # larger files are never git's own
_TRIES = 3  # a pin that comes or goes meanwhile moves the ctime
_READERS = min(4, os.cpu_count() or 1)
CHANGED = "it changed while it was looked at"
OPEN = "a process has it open for writing"
_QUIET_HINT = "ask again when its writer has ended"


class Survey(Struct):
    """What lies at some paths of a source. Paths are relative to it.

    Attributes:
        files: every file whose content was read, and at which identity.
        against: why a path must not be deleted, whatever the mirrors say.
        directories: every directory, and its identity.
        hints: what the operator can do about a path.
    """

    files: dict[str, tuple[Content, Identity]] = field(default_factory=dict)
    against: dict[str, str] = field(default_factory=dict)
    directories: dict[str, Identity] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)

    def object_to(self, path: str, reason: str, hint: str = "") -> None:
        """Note the first reason against *path*."""
        if path not in self.against:
            self.against[path] = reason
            if hint:
                self.hints[path] = hint


class Surveyor:
    """Surveys paths of one *source*, of which *rules* say what is published."""

    def __init__(self, source: Path, rules: PathRules, quiet_s: float, on_bytes: Callable[[int], None]) -> None:
        self._source = source
        self._rules = rules
        self._quiet_s = quiet_s
        self._on_bytes = on_bytes

    def survey(self, paths: Iterable[str]) -> dict[str, Survey]:
        """Return what is at each of *paths* (a file or directory; empty is the source itself), read to the last byte."""
        found = {path: Survey() for path in paths}
        entries = {path: self._list(path, survey) for path, survey in found.items()}
        writers = find_writers({entry.identity[:2] for some in entries.values() for entry in some.values()})
        for path, survey in found.items():
            for name, entry in entries[path].items():
                if (who := writers.get(entry.identity[:2])) is not None:
                    survey.object_to(name, OPEN, f"process {who}; {_QUIET_HINT}")
            self._expect_quiet(entries[path], survey)
        wanted = {
            name: entry
            for path, survey in found.items()
            for name, entry in entries[path].items()
            if name not in survey.against
        }
        with ThreadPoolExecutor(_READERS) as pool:
            contents = dict(zip(wanted, pool.map(self._read, wanted.values()), strict=True))
        for path, survey in found.items():
            for name in [name for name in entries[path] if name not in survey.against]:
                read = contents[name]
                if isinstance(read, str):
                    survey.object_to(name, read)
                else:
                    survey.files[name] = (read, wanted[name].identity)

        return found

    def look_again(self, surveys: Mapping[str, Survey]) -> None:
        """Object to whatever is not as it was in *surveys*."""
        for path, before in surveys.items():
            now = Survey()
            entries = self._list(path, now)
            for name, (content, identity) in before.files.items():
                if name not in entries or not self._is_same(entries[name], content, identity):
                    before.object_to(name, CHANGED, _QUIET_HINT)
            for name in (entries.keys() | now.against.keys()) - before.files.keys():
                before.object_to(name, now.against.get(name) or "it came while the rest was looked at", _QUIET_HINT)
            for name in before.directories.keys() ^ now.directories.keys():
                before.object_to(name, CHANGED, _QUIET_HINT)
        writers = find_writers({each[1][:2] for before in surveys.values() for each in before.files.values()})
        for before in surveys.values():
            for name, (_, identity) in before.files.items():
                if (who := writers.get(identity[:2])) is not None:
                    before.object_to(name, OPEN, f"process {who}; {_QUIET_HINT}")

    def _is_same(self, now: Entry, content: Content, before: Identity) -> bool:
        """Tell whether it is the file that it was; where only the ctime moved, as our pins do it, its bytes tell."""
        if now.identity == before:
            return True
        return now.identity[:4] == before[:4] and self._read(now) == content

    # --- what is there

    def _list(self, path: str, found: Survey) -> dict[str, Entry]:
        """Return the files at and below *path*; what is no such file stands against it."""
        entries: dict[str, Entry] = {}
        for name, status in self._walk(path, found):
            if stat.S_ISDIR(status.st_mode):
                found.directories[name] = Identity.of(status)
                continue
            if name.rpartition("/")[2] == MARK and stat.S_ISREG(status.st_mode) and not status.st_size:
                continue  # our own callback's, and empty: there is nothing to lose in it
            ruling = self._rules.verdict(name)
            if not ruling.taken:
                found.object_to(name, f"it is not published: {ruling.reason}", "hubsync explain tells more")
                continue
            entry = examine(self._source, name)
            if isinstance(entry, Entry):
                entries[name] = entry
            elif isinstance(entry, Skip):
                found.object_to(name, f"it is not published: {entry.reason}", entry.hint)
            else:
                found.object_to(name, CHANGED, _QUIET_HINT)

        return entries

    def _walk(self, path: str, found: Survey) -> Iterator[tuple[str, os.stat_result]]:
        top = self._source / path if path else self._source
        try:
            status = top.stat(follow_symlinks=not path)
        except OSError as exc:
            found.object_to(path, f"there is no such path: {words(exc)}")
            return
        yield path, status
        if not stat.S_ISDIR(status.st_mode):
            return

        def note(exc: OSError) -> None:
            where = os.path.relpath(exc.filename, self._source) if exc.filename else path
            found.object_to(where, f"it cannot be read: {words(exc)}")

        for directory, directories, files in os.walk(top, onerror=note):
            for name in (*directories, *files):
                full = Path(directory, name)
                inside = str(full.relative_to(self._source))
                try:
                    yield inside, full.lstat()
                except OSError as exc:
                    found.object_to(inside, f"{CHANGED}: {words(exc)}")

    def _expect_quiet(self, entries: dict[str, Entry], found: Survey) -> None:
        """Object to what was written so lately that its writer may not be done."""
        now = time.time()
        touched = {name: entry.identity for name, entry in entries.items()} | found.directories
        for name, identity in touched.items():
            age_s = now - identity.mtime_ns / 1e9
            if 0 <= age_s < self._quiet_s:
                reason = f"it was written {age_s:.1f} s ago, and counts as settled after {self._quiet_s:g} s"
                found.object_to(name, reason, _QUIET_HINT)

    # --- what it holds

    def _read(self, entry: Entry) -> Content | str:
        """Return the content of *entry*, or why it could not be read as one."""
        try:
            fd = open_entry(self._source, entry)
        except FileError as exc:
            return exc.reason
        try:
            for _ in range(_TRIES):
                before = Identity.of(os.fstat(fd))
                if before[:4] != entry.identity[:4]:
                    return CHANGED
                content = self._digest(fd, before.size)
                if Identity.of(os.fstat(fd)) == before:
                    return content if content.size == before.size else CHANGED
        except OSError as exc:
            return f"it cannot be read: {words(exc)}"
        finally:
            os.close(fd)

        return CHANGED

    def _digest(self, fd: int, size: int) -> Content:
        small = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        for_git = size <= _GIT_BYTES
        read = 0

        def take(piece: memoryview) -> None:
            nonlocal read
            read += len(piece)
            if for_git:
                small.update(piece)
            self._on_bytes(len(piece))

        oid = shared().digest_file(fd, take=take)  # at the pace that the config allows

        return Content(read, oid, small.hexdigest() if for_git else None)
