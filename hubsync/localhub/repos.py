"""Owns the Hub's repositories on disk: how they are named, made, found, changed in visibility and deleted.

``<directory>/<models|datasets|spaces>/<namespace>/<name>.git`` is a bare repository; ``hub.json`` in it says what git
does not know, ``lfs/objects`` holds its LFS objects.
"""

import json
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from hubsync.localhub.git import run_git
from hubsync.localhub.refusals import MovedError, RefusedError, repo_not_found

MAIN = "main"
HIDDEN_REFS = "refs/hub"  # commits in the making; no client sees them
FOLDERS = {"model": "models", "dataset": "datasets", "space": "spaces"}
TYPES = {folder: repo_type for repo_type, folder in FOLDERS.items()}

_PART = re.compile(r"(?!.*(--|\.\.))\w([\w.-]{0,94}\w)?", re.ASCII)
_RESERVED = frozenset({"api", "datasets", "spaces", "models", "login", "_faults", "_lfs", "_requests", "_xet"})
_CONFIG = f"""\
[core]
\trepositoryformatversion = 0
\tbare = true
\tfilemode = true
[gc]
\tauto = 0
[maintenance]
\tauto = false
[receive]
\tfsckObjects = true
[uploadpack]
\tallowFilter = true
\tallowAnySHA1InWant = true
[transfer]
\thideRefs = {HIDDEN_REFS}
"""
_FIRST_COMMIT = b"""\
commit refs/heads/%(branch)s
committer system <system@huggingface.co> %(seconds)d +0000
data 14
initial commit
M 100644 inline .gitattributes
data %(size)d
%(content)s
"""


class RepoName(Struct, frozen=True):
    """What a repository is called: its type and ``namespace/name``."""

    repo_type: str
    repo_id: str

    @property
    def folder(self) -> str:
        """The type as it stands in API paths."""
        return FOLDERS[self.repo_type]

    @property
    def web_path(self) -> str:
        """The path of the repository's page, and of its git remote."""
        return self.repo_id if self.repo_type == "model" else f"{self.folder}/{self.repo_id}"


class Repo(Struct, frozen=True):
    """One repository as it is on disk."""

    name: RepoName
    git_dir: Path
    private: bool
    created_at: datetime
    protected: frozenset[str] = frozenset()  # branches that take nothing but merged pull requests

    @property
    def objects_dir(self) -> Path:
        """Where its LFS objects lie, as git-lfs lays them out."""
        return self.git_dir / "lfs" / "objects"


def read_repo_name(folder: str, namespace: str, name: str) -> RepoName:
    """Return the name that a URL or a request gives; raises RefusedError if it cannot be one."""
    name = name.removesuffix(".git")
    if folder not in TYPES or namespace in _RESERVED or not (_PART.fullmatch(namespace) and _PART.fullmatch(name)):
        raise RefusedError(400, f"Invalid repository name: {namespace}/{name}")

    return RepoName(TYPES[folder], f"{namespace}/{name}")


def drop_half_pushed(git_dir: Path) -> None:
    """Clear away what a git that was killed in the middle of a push left in the repository at *git_dir*."""
    for half in git_dir.glob("objects/tmp_objdir-*"):
        shutil.rmtree(half, ignore_errors=True)  # that git may still be about to clean up itself


class Repos:
    """All repositories below *directory*."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._incoming = directory / "incoming"

    def start(self) -> None:
        """Make the directories, and clear away what a killed Hub left half-made."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True)
        for folder in TYPES:
            (self.directory / folder).mkdir(exist_ok=True)
        for git_dir in self.directory.glob("*/*/*.git"):
            shutil.rmtree(git_dir / "lfs/incoming", ignore_errors=True)
            drop_half_pushed(git_dir)
        for pattern in ("*.lock", "refs/**/*.lock"):  # of a git that was killed; nobody could push any more
            for lock in self.directory.glob(f"*/*/*.git/{pattern}"):
                lock.unlink()

    def create(self, name: RepoName, *, private: bool) -> Repo:
        """Make *name* with the Hub's initial commit; raises FileExistsError if it is there."""
        created_at = datetime.now(UTC)
        made = self._incoming / uuid.uuid4().hex
        _init(made)
        _save_facts(Repo(name, made, private, created_at))
        _commit_defaults(made, int(created_at.timestamp()))
        goal = self._git_dir(name)
        goal.parent.mkdir(exist_ok=True)
        try:
            made.rename(goal)
        except OSError as exc:  # a directory that is not empty is never replaced
            shutil.rmtree(made)
            raise FileExistsError(goal) from exc

        self._moved_path(name).unlink(missing_ok=True)

        return Repo(name, goal, private, created_at)

    def find(self, name: RepoName) -> Repo:
        """Return *name*; raises RefusedError if there is none."""
        git_dir = self._git_dir(name)
        try:
            facts = json.loads((git_dir / "hub.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise self._moved_or_missing(name) from None

        created_at = datetime.fromisoformat(facts["created_at"])
        return Repo(name, git_dir, facts["private"], created_at, frozenset(facts.get("protected", ())))

    def set_private(self, repo: Repo, *, private: bool) -> None:
        """Close or open *repo* to those without a token."""
        _save_facts(replace(repo, private=private))

    def set_protected(self, repo: Repo, branches: Iterable[str]) -> None:
        """Let *branches*, and no others, take nothing but merged pull requests."""
        _save_facts(replace(repo, protected=frozenset(branches)))

    def set_default_branch(self, repo: Repo, branch: str) -> None:
        """Let *branch*, which must be there, be what a client gets that asks for none."""
        run_git(repo.git_dir, "rev-parse", "--verify", f"refs/heads/{branch}")
        run_git(repo.git_dir, "symbolic-ref", "HEAD", f"refs/heads/{branch}")

    def move(self, repo: Repo, name: RepoName) -> None:
        """Call *repo* by another name; the old one leads to it, until a new repository takes it.

        Raises FileExistsError if the new name is taken.
        """
        goal = self._git_dir(name)
        goal.parent.mkdir(exist_ok=True)
        if goal.exists():
            raise FileExistsError(goal)
        repo.git_dir.rename(goal)
        self._moved_path(name).unlink(missing_ok=True)
        self._moved_path(repo.name).write_text(name.repo_id)

    def delete(self, repo: Repo) -> None:
        """Take *repo* away, with its objects."""
        doomed = self._incoming / uuid.uuid4().hex
        repo.git_dir.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def list(self) -> Iterator[Repo]:
        """Yield all repositories, models first, by name."""
        for folder, repo_type in TYPES.items():
            for git_dir in sorted((self.directory / folder).glob("*/*.git")):
                yield self.find(RepoName(repo_type, f"{git_dir.parent.name}/{git_dir.stem}"))

    def list_beside(self, repo: Repo) -> Iterator[Repo]:
        """Yield all repositories of the namespace of *repo*, itself included."""
        namespace = repo.name.repo_id.partition("/")[0]
        return (other for other in self.list() if other.name.repo_id.startswith(f"{namespace}/"))

    def _moved_or_missing(self, name: RepoName) -> RefusedError:
        try:
            return MovedError(name.repo_id, self._moved_path(name).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return repo_not_found()

    def _moved_path(self, name: RepoName) -> Path:
        return self.directory / name.folder / f"{name.repo_id}.moved"

    def _git_dir(self, name: RepoName) -> Path:
        return self.directory / name.folder / f"{name.repo_id}.git"


def default_branch(git_dir: Path) -> str:
    """Return the branch that a client gets that asks for none."""
    return (git_dir / "HEAD").read_text().strip().removeprefix("ref: refs/heads/")


def _save_facts(repo: Repo) -> None:
    facts = {"private": repo.private, "created_at": repo.created_at.isoformat(), "protected": sorted(repo.protected)}
    new = repo.git_dir / "hub.json.new"
    new.write_text(json.dumps(facts))
    new.replace(repo.git_dir / "hub.json")


def _init(git_dir: Path) -> None:
    """Make an empty bare repository, as ``git init --bare --template=`` would."""
    for part in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "lfs/objects"):
        (git_dir / part).mkdir(parents=True)
    (git_dir / "HEAD").write_text(f"ref: refs/heads/{MAIN}\n")
    (git_dir / "config").write_text(_CONFIG)


def _commit_defaults(git_dir: Path, seconds: int) -> None:
    content = (files("hubsync.localhub") / "data" / "default.gitattributes").read_bytes()
    facts = {b"branch": MAIN.encode(), b"seconds": seconds, b"size": len(content), b"content": content}
    run_git(git_dir, "fast-import", "--quiet", feed=_FIRST_COMMIT % facts)
