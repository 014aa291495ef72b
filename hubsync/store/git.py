"""Owns git on a bare repository of ours: one closed environment, one way to run, answers read into values.

The only user of GitPython beside ``mirror.remote``. Only commands are run through it: its object database keeps
processes and descriptors alive, and its index bypasses the rules of git-lfs. It must never know what a snapshot is.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from msgspec import Struct

from hubsync.errors import FULL_HINT, TASKS_HINT, DiskFullError, GitError, GitKilledError, HubsyncError, StateError
from hubsync.store.git_python import load_git_python
from hubsync.store.private import expect_no_link, make_private
from hubsync.store.process import LONGEST_LISTING, PIPE, Finished, Watch, finish
from hubsync.store.tools import git_executable
from hubsync.store.trouble import DAMAGE_HINT, MARK, at_work, clear_lock, tells_damage

FEW_PATHS = 100  # more are listed with the whole tree, not on a command line
_MANY_PACKS = 50
_FREED_BYTES = 4 << 20  # that a git keeps: for each blob zlib frees 256 KiB, and to get them back took as long as to pack

ABSENT = "0" * 40  # git's name for "no object"
_PLAIN_PATH = re.compile("[A-Za-z0-9._/@=+-]*")
_FULL_ID = re.compile("[0-9a-f]{40}")
REGULAR, EXECUTABLE, DIRECTORY = "100644", "100755", "040000"

_OURS = {
    "HEAD": "ref: refs/heads/none\n",
    "config": "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n",
}

_AGAIN_HINT = "it is tried again by itself; if it stays so, see whether the disk of the state directory is whole"

_LISTS = Watch(output=LONGEST_LISTING)

_HOOKS_OFF = {"core.hooksPath": "/dev/null"}
_BASE_CONFIG = {
    **_HOOKS_OFF,
    "core.fsync": "all",  # git 2.39 syncs neither loose objects nor refs by default
    "core.compression": "1",  # what is large goes through LFS; the rest is small and waits for a push only
    "core.quotePath": "false",
    "core.attributesFile": "/dev/null",
    "fastimport.unpackLimit": "0",  # a pack costs three fsyncs, loose objects cost one each
    "gc.auto": "0",
    "maintenance.auto": "false",
    "pack.threads": "1",
    "pack.window": "2",  # a delta to the same file before, or to one of its name; to search on takes longer than a push
    "protocol.allow": "never",
    "protocol.http.allow": "always",
    "protocol.https.allow": "always",
    "transfer.fsckObjects": "false",
}


class TreeEntry(Struct, frozen=True):
    """What a tree holds at one path."""

    mode: str
    blob: str


class TreeChange(Struct, frozen=True):
    """The difference of two trees at one path; ``None`` means absent there."""

    path: str
    before: TreeEntry | None
    after: TreeEntry | None


class Git:
    """Runs git commands on the bare repository at *git_dir*.

    *inherit* is a file descriptor that every child keeps open (the lock: an orphan keeps a second daemon out).
    """

    def __init__(self, git_dir: Path, *, inherit: tuple[int, ...] = ()) -> None:
        self.git_dir = git_dir
        self._inherit = inherit
        self._trees: dict[str, Mapping[str, TreeEntry]] = {}
        self._places: dict[str, tuple[frozenset[str], Mapping[str, TreeEntry]]] = {}  # what was asked of a commit last
        self._trees_lock = threading.Lock()
        self._remembering = 0

    def open(self, borrow: Path | None = None) -> int:
        """Make the repository if it is not there, and clean up what killed processes left; return how many files.

        HEAD names a branch that never exists, so that nothing in a published tree is obeyed. Objects of the repository
        at *borrow* are used without being copied. Nobody else may use the repository meanwhile.
        """
        make_private(self.git_dir)
        for directory in (".", "objects", "objects/info", "lfs"):
            expect_no_link((self.git_dir / directory).glob("*"))
        leftovers = _remove_leftovers(self.git_dir)
        _lay_out(self.git_dir)
        if borrow is not None:
            alternates = self.git_dir / "objects" / "info" / "alternates"
            alternates.parent.mkdir(exist_ok=True)
            alternates.write_text(f"{borrow / 'objects'}\n")

        return leftovers

    def repack(self) -> None:
        """Put all that the refs reach into one pack once there are many; nobody else may write meanwhile."""
        if len(self._packs()) > _MANY_PACKS:
            self.run("repack", "-a", "-d", "-l", "--quiet")

    def run(
        self,
        *args: str,
        feed: Iterable[bytes] = (),
        config: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        pass_fds: tuple[int, ...] = (),
        check: bool = True,
    ) -> Finished:
        """Run ``git *args`` to its end.

        A lock that a killed git left is removed, and the command tried again.

        Raises:
            GitError: it was killed, or failed and *check* is set; carries git's own words.
            StateError: it failed because the repository is damaged and cannot be fetched again.
        """
        with at_work(self.git_dir, args):
            child = self._start(args, config or {}, environment or {}, pass_fds)
            finished = finish(child, feed, watch)
        if finished.returncode == 0:
            return finished
        if _was_killed(finished):  # that answers nothing, least of all whether a snapshot is whole
            raise read_failure(args, finished)
        if clear_lock(self.git_dir, finished.stderr) is not None:
            if pass_fds or not isinstance(feed, Sequence):  # what they held has been read
                raise GitError(f"git {args[0]}: a lock was in its way, which is removed", hint=_AGAIN_HINT)
            return self.run(*args, feed=feed, config=config, environment=environment, watch=watch, check=check)
        if (check or pass_fds) and tells_damage(finished.stderr):
            self.expect_undamaged()
        if check:
            raise read_failure(args, finished)

        return finished

    def expect_undamaged(self) -> None:
        """Raise an error if what failed may have met damage, here or in the repository that this one borrows from."""
        borrowed = self.git_dir / "objects" / "info" / "alternates"
        named = borrowed.read_text("utf-8", "replace").splitlines() if borrowed.exists() else []
        others = [Path(objects).parent for objects in named]
        for git in (self, *map(Git, others)):
            if git.is_whole():
                continue
            said = f"{git.git_dir} is damaged: git cannot read all that should be there"
            if others and git is self:  # it borrows: all that is its own can be fetched again
                raise GitError(said, hint=_AGAIN_HINT)
            git.mark_damaged()
            damage = StateError(said, hint=DAMAGE_HINT)
            damage.retryable = True
            raise damage

    def is_whole(self) -> bool:
        """Tell whether all packs can be read, and all that the refs need is there."""
        packs = self._packs()
        readings = [("verify-pack", str(pack.with_suffix(".idx"))) for pack in packs]
        commands = [*readings, ("rev-list", "--objects", "--quiet", "--all")]
        if all(self.run(*command, check=False).returncode == 0 for command in commands):
            return True
        return self._packs() != packs and self.is_whole()  # a repack took away what was to be read

    def _packs(self) -> set[Path]:
        return set((self.git_dir / "objects" / "pack").glob("*.pack"))

    def mark_damaged(self) -> None:
        """Have all of the repository read, and mended, when it is opened next."""
        self.git_dir.mkdir(mode=0o700, exist_ok=True)  # all of it may be gone
        (self.git_dir / MARK).touch()

    @property
    def is_damaged(self) -> bool:
        """Whether damage was met since it was opened, or all of it is gone."""
        return (self.git_dir / MARK).exists() or not (self.git_dir / "HEAD").exists()

    def text(self, *args: str, **options: Any) -> str:  # noqa: ANN401 - those of run()
        """Run ``git *args`` and return its stripped output."""
        return self.run(*args, **options).stdout.decode("utf-8", "surrogateescape").strip()

    def resolve(self, revision: str) -> str | None:
        """Return the commit that *revision* names, or ``None``."""
        found = self.run("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False)
        return found.stdout.decode().strip() or None

    def read_ref(self, ref: str) -> str | None:
        """Return what *ref*, named in full, points to, without a look whether that is there; ``None`` if it is not set."""
        if (self.git_dir / "packed-refs").exists():  # somebody tidied up: we never pack refs
            return self.resolve(ref)
        try:
            commit = (self.git_dir / ref).read_text("ascii").strip()
        except OSError:
            return None
        return commit if _FULL_ID.fullmatch(commit) else self.resolve(ref)

    def list_refs(self, prefix: str) -> dict[str, str]:
        """Return the refs below *prefix* (``refs/mirror``) and what they point to."""
        if (self.git_dir / "packed-refs").exists():
            listed = self.text("for-each-ref", "--format=%(objectname) %(refname)", prefix)
            return {ref: commit for commit, _, ref in (line.partition(" ") for line in listed.splitlines())}
        refs = sorted(
            os.path.relpath(os.path.join(directory, name), self.git_dir)  # noqa: PTH118 - as walked
            for directory, _, names in os.walk(self.git_dir / prefix)  # which passes over what goes meanwhile
            for name in names
            if not name.endswith(".lock")
        )
        return {ref: commit for ref in refs if (commit := self.read_ref(ref)) is not None}

    def list_tree(self, treeish: str, *paths: str) -> Mapping[str, TreeEntry]:
        """List all files below *treeish*, or what is at *paths*, be it a file or a directory."""
        if not self._remembering or not _FULL_ID.fullmatch(treeish):
            return self._list_tree(treeish, paths)
        if paths:
            asked, entries = self._places.get(treeish, (frozenset(), {}))
            if not asked.issuperset(paths):
                entries = self._list_tree(treeish, paths)
                self._places[treeish] = (frozenset(paths), entries)
            return {path: entry for path in paths if (entry := entries.get(path)) is not None}
        if (tree := self._trees.get(treeish)) is None:
            tree = self._trees[treeish] = self._list_tree(treeish, ())

        return tree

    def find_files(self, treeish: str, paths: Collection[str]) -> dict[str, TreeEntry]:
        """Return those of *paths* that are files below *treeish*; of many, or of what is listed already, all is listed."""
        all_listed = treeish in self._trees or len(paths) > FEW_PATHS
        entries = self.list_tree(treeish) if all_listed else self.list_tree(treeish, *paths) if paths else {}
        return {path: entry for path in paths if (entry := entries.get(path)) is not None and entry.mode != DIRECTORY}

    @contextlib.contextmanager
    def remember_trees(self) -> Iterator[None]:
        """Remember inside what was listed of whole commits; not for longer: 100,000 files take 40 MB."""
        with self._trees_lock:
            self._remembering += 1
        try:
            yield
        finally:
            with self._trees_lock:
                self._remembering -= 1
                if not self._remembering:
                    self._trees.clear()
                    self._places.clear()

    def _list_tree(self, treeish: str, paths: Sequence[str]) -> dict[str, TreeEntry]:
        flags = () if paths else ("-r",)
        listed = self.run(
            "--literal-pathspecs", "ls-tree", "-z", "--full-tree", *flags, treeish, "--", *paths, watch=_LISTS
        ).stdout
        return dict(_read_tree(listed))

    def diff_trees(self, before: str | None, after: str) -> Iterator[TreeChange]:
        """Yield what differs from *before* (``None``: the empty tree) to *after*."""
        if before is None:  # read anew: what is remembered of a whole tree is for those who ask twice
            listed = self.run("ls-tree", "-z", "--full-tree", "-r", after, watch=_LISTS).stdout
            return (TreeChange(path, None, entry) for path, entry in _read_tree(listed))
        return _read_diff(self.run("diff-tree", "-r", "-z", "--no-renames", before, after, watch=_LISTS).stdout)

    def diff_line(self, commits: Sequence[str]) -> list[list[TreeChange]]:
        """Return what each of *commits*, which follow one another, changes on its first parent; one process."""
        if not commits:
            return []
        feed = [f"{commit}\n".encode() for commit in commits]
        raw = self.run("diff-tree", "--stdin", "-r", "-z", "--root", "--no-renames", feed=feed, watch=_LISTS).stdout
        steps: dict[str, list[TreeChange]] = {commit: [] for commit in commits}
        fields = split(raw)
        current: list[TreeChange] = []
        for field in fields:
            if field.startswith(b":"):
                current.append(_read_change(field, next(fields)))
            else:
                current = steps[field.decode()]

        return [steps[commit] for commit in commits]

    def read_blobs(self, blobs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the content of *blobs* (small ones: all are held in memory) through one process."""
        names = list(blobs)
        if not names:
            return
        out = self.run("cat-file", "--batch", feed=(f"{name}\n".encode() for name in names)).stdout
        at = 0
        while at < len(out):
            header, _, _ = out[at : at + 200].partition(b"\n")
            name, kind, *rest = header.decode().split(" ")
            if not rest:
                raise GitError(f"object {name} is {kind}")
            size, start = int(rest[0]), at + len(header) + 1
            if kind != "blob":
                raise GitError(f"object {name} is a {kind}, expected a blob")
            yield name, out[start : start + size]
            at = start + size + 1

    def sizes(self, blobs: Iterable[str]) -> dict[str, int]:
        """Return the size in bytes of each of *blobs* that exists."""
        feed = [f"{name}\n".encode() for name in blobs]
        if not feed:
            return {}
        check = "--batch-check=%(objectname) %(objectsize)"
        lines = self.run("cat-file", check, feed=feed, watch=_LISTS).stdout.decode().splitlines()
        return {name: int(size) for name, _, size in (line.partition(" ") for line in lines) if size.isdigit()}

    def write_blob(self, content: bytes) -> str:
        """Store *content* as it is and return its name."""
        return self.text("hash-object", "-w", "--stdin", "--no-filters", feed=[content])

    @contextlib.contextmanager
    def scratch_files(self, files: Mapping[str, bytes]) -> Iterator[Path]:
        """Yield a directory in which *files* (path → content) lie; those that git would not check out are left out."""
        with tempfile.TemporaryDirectory(dir=self.git_dir, prefix="index-") as scratch:
            for path, content in files.items():
                if {"", ".", ".."}.isdisjoint(path.split("/")):
                    with contextlib.suppress(OSError):  # a name that is too long, or is a directory's
                        (Path(scratch) / path).parent.mkdir(parents=True, exist_ok=True)
                        (Path(scratch) / path).write_bytes(content)
            yield Path(scratch)

    @contextlib.contextmanager
    def scratch_index(self, entries: Mapping[str, TreeEntry]) -> Iterator[dict[str, str]]:
        """Yield the environment in which commands see an index of *entries* (path → entry)."""
        with tempfile.TemporaryDirectory(dir=self.git_dir, prefix="index-") as scratch:
            environment = {"GIT_INDEX_FILE": f"{scratch}/index"}
            lines = [f"{e.mode} {e.blob}\t".encode() + os.fsencode(path) + b"\0" for path, e in entries.items()]
            self.run("update-index", "-z", "--index-info", feed=lines, environment=environment)
            yield environment

    def update_refs(self, refs: Mapping[str, str | None]) -> None:
        """Set (or, with ``None``, delete) several refs, all or none, and make that durable."""
        lines = [f"update {ref} {commit}" if commit else f"delete {ref}" for ref, commit in refs.items()]
        self.run("update-ref", "--stdin", feed=[("\n".join(["start", *lines, "commit"]) + "\n").encode()])
        for directory in {(self.git_dir / ref).parent for ref in refs}:
            sync_directory(directory)

    def _start(
        self, args: tuple[str, ...], config: Mapping[str, str], environment: Mapping[str, str], pass_fds: tuple[int, ...]
    ) -> Any:  # noqa: ANN401 - GitPython types its process loosely
        runner = load_git_python().Git(self.git_dir)
        process = runner.execute(
            [git_executable(), f"--git-dir={self.git_dir}", *args],
            istream=cast("Any", PIPE),
            as_process=True,
            env={**self._environment(config), **environment},
            process_group=0,  # no session: some kernels weigh sessions before niceness (sched(7), autogroup)
            pass_fds=(*self._inherit, *pass_fds),
        )

        child, process.proc = process.proc, None  # GitPython would end it when its wrapper is collected

        return child

    def _environment(self, config: Mapping[str, str]) -> dict[str, str]:
        pairs = list({**_BASE_CONFIG, "safe.directory": str(self.git_dir), **config}.items())
        numbered = {f"GIT_CONFIG_KEY_{n}": key for n, (key, _) in enumerate(pairs)}
        numbered |= {f"GIT_CONFIG_VALUE_{n}": value for n, (_, value) in enumerate(pairs)}
        return {
            "HOME": str(self.git_dir),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_OPTIONAL_LOCKS": "0",
            "MALLOC_TRIM_THRESHOLD_": str(_FREED_BYTES),
            "GIT_CONFIG_COUNT": str(len(pairs)),
            **numbered,
        }


class FastImport:
    """One ``git fast-import``: blobs stream in while files are read, commits follow, refs move at the very end.

    Use as a context manager; leaving it on an error leaves every ref as it was.
    """

    def __init__(self, runner: Git) -> None:
        self._git = runner
        self._child: Any = None
        self._marks = 0
        self._tips: dict[str, str] = {}
        self._leave = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(at_work(self._git.git_dir, ("fast-import",)))
            self._child = self._git._start(("fast-import", "--quiet", "--done", "--force", "--depth=0"), {}, {}, ())  # noqa: SLF001 - same module
            self._leave = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._leave:
            self._send([] if kind else [b"done\n"])
            finished = finish(self._child)
        if kind is None and finished.returncode != 0:
            if clear_lock(self._git.git_dir, finished.stderr) is None:
                raise self._read_failure(finished)
            self._git.update_refs(self._tips)  # its pack is finished by then
        sync_directory(self._git.git_dir / "objects" / "pack")
        sync_directory(self._git.git_dir / "refs" / "heads")

    def blob(self, content: bytes) -> None:
        """Add a blob; it is named by its git object id afterwards."""
        self._send([b"blob\ndata %d\n%b\n" % (len(content), content)])

    def commit(
        self,
        ref: str,
        parent: str | None,
        header: "CommitHeader",
        changes: Iterable[tuple[str, TreeEntry | None]],
    ) -> str:
        """Add a commit of *changes* (``None`` removes) on *parent* and return its id; *ref* will point to it."""
        self._marks += 1
        message = header.message.encode()
        # A commit of this very session cannot be named by its id yet; without "from", git takes the branch's own tip.
        named = f"from {parent}\n" if parent and self._tips.get(ref) != parent else ""
        self._send(
            [
                f"commit {ref}\nmark :{self._marks}\n".encode(),
                f"author {header.author} {header.authored}\ncommitter {header.author} {header.committed}\n".encode(),
                b"data %d\n%s\n" % (len(message), message),
                named.encode(),
                *(_change_line(path, entry) for path, entry in changes),
                b"\n",
                f"get-mark :{self._marks}\n".encode(),
            ],
            flush=True,
        )

        self._tips[ref] = self._read_commit()

        return self._tips[ref]

    def _read_commit(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            piece = os.read(self._child.stdout.fileno(), 41)
            if not piece:
                raise self._read_failure(finish(self._child))
            line += piece

        return line.decode().strip()

    def _send(self, pieces: Iterable[bytes], *, flush: bool = False) -> None:
        try:
            for piece in pieces:
                self._child.stdin.write(piece)
            if flush:
                self._child.stdin.flush()
        except BrokenPipeError as exc:
            raise self._read_failure(finish(self._child)) from exc

    def _read_failure(self, finished: Finished) -> HubsyncError:
        """Return why it failed; what it was told was right, so that the repository may be what is wrong."""
        failure = read_failure(("fast-import",), finished)
        if not isinstance(failure, DiskFullError | GitKilledError):
            self._git.expect_undamaged()

        return failure


class CommitHeader(Struct, frozen=True):
    """Who, when (git's raw dates: ``1700000000 +0000``) and why."""

    author: str
    authored: str
    committed: str
    message: str


def read_failure(args: tuple[str, ...], finished: Finished) -> GitError | DiskFullError:
    """Turn what git said into an error; its own words are kept."""
    said = finished.stderr.strip() or f"exit status {finished.returncode}"
    if any(words in said for words in ("No space left on device", "Disk quota exceeded", "Out of diskspace")):
        return DiskFullError(f"git {args[0]}: no space left on the disk", hint=FULL_HINT)
    if _was_killed(finished):
        return GitKilledError(f"git {args[0]}: killed by signal {-finished.returncode}", hint=_AGAIN_HINT)
    return GitError(f"git {args[0]}: {said}", hint=TASKS_HINT if os.strerror(errno.EAGAIN) in said else _AGAIN_HINT)


def _was_killed(finished: Finished) -> bool:
    return finished.returncode < 0 and finished.returncode != -signal.SIGPIPE  # by which git ends as its helper gives up


def blob_id(content: bytes) -> str:
    """Return the name that git gives to a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* durable (git syncs files, never directories)."""
    if not directory.is_dir():
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as exc:
        exc.filename = str(directory)  # of a descriptor the system names none
        raise
    finally:
        os.close(fd)


def quote_path(path: str) -> bytes:
    """Return *path* as git quotes it in C style, always in double quotes."""
    if _PLAIN_PATH.fullmatch(path):
        return b'"%b"' % path.encode()
    escapes = {ord('"'): b'\\"', ord("\\"): b"\\\\"}
    body = b"".join(
        escapes.get(byte) or (b"\\%03o" % byte if byte < 32 or byte == 127 else bytes([byte]))  # noqa: PLR2004 - ASCII
        for byte in os.fsencode(path)
    )
    return b'"' + body + b'"'


def _lay_out(git_dir: Path) -> None:
    """Make *git_dir* a bare repository without templates, as ``git init`` does, that nobody else has configured."""
    for directory in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (git_dir / directory).mkdir(parents=True, exist_ok=True)
    for name, text in _OURS.items():  # whole, or a power cut emptied it, or somebody set a proxy there
        file = git_dir / name
        if not file.is_file() or file.read_bytes() != text.encode():
            file.write_text(text)


def _remove_leftovers(git_dir: Path) -> int:
    patterns = ("*.lock", "refs/**/*.lock", "objects/**/tmp_*", "objects/pack/*.keep", "fast_import_crash_*",
                "lfs/tmp/*", "lfs/logs/*")  # fmt: skip
    found = [path for pattern in patterns for path in git_dir.glob(pattern) if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    scratch = list(git_dir.glob("index-*"))
    for path in scratch:
        shutil.rmtree(path)

    return len(found) + len(scratch)


def _change_line(path: str, entry: TreeEntry | None) -> bytes:
    if entry is None:
        return b"D %s\n" % quote_path(path)
    return b"M %s %s %s\n" % (entry.mode.encode(), entry.blob.encode(), quote_path(path))


def _read_tree(listed: bytes) -> Iterator[tuple[str, TreeEntry]]:
    for line in split(listed):
        meta, _, path = line.partition(b"\t")
        mode, _, blob = meta.decode().split(" ")
        yield os.fsdecode(path), TreeEntry(sys.intern(mode), blob)


def _read_diff(raw: bytes) -> Iterator[TreeChange]:
    fields = split(raw)
    for meta in fields:
        yield _read_change(meta, next(fields))


def _read_change(meta: bytes, path: bytes) -> TreeChange:
    mode_before, mode_after, before, after, _ = meta[1:].decode().split(" ")
    return TreeChange(os.fsdecode(path), _entry(mode_before, before), _entry(mode_after, after))


def _entry(mode: str, blob: str) -> TreeEntry | None:
    return None if blob == ABSENT else TreeEntry(sys.intern(mode), blob)


def split(raw: bytes) -> Iterator[bytes]:
    """Yield the fields of *raw*, each of which ends with a NUL; a list of them would take several times its room."""
    start = 0
    while (end := raw.find(b"\0", start)) >= 0:
        yield raw[start:end]
        start = end + 1
