"""Decides which paths of a source are looked at: the operator's patterns, and names that writers use for unfinished files.

A path that is not taken never leaves the machine, whatever its content. Knows names only; never touches the disk.
Patterns are gitignore's (https://git-scm.com/docs/gitignore): what an excluded directory holds is excluded with it.
"""

import fnmatch
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import pathspec

from hubsync.watch.unit_facts import MARK, UNFINISHED

# Names of files that a writer has not finished, and what other programs leave beside them. Never taken, by any rule.
TEMPORARY_NAMES = (
    ".tmp*",  # safetensors >= 0.8: .tmpXXXXXX, full size from the start (huggingface/safetensors, pull request 764)
    "*.tmp",
    "*.temp",
    "*.tmp.*",
    "*.incomplete",  # huggingface_hub downloads
    "*.partial",  # rclone, curl --remove-on-error wrappers
    "*.part",
    "*.filepart",
    "*.download",
    "*.crdownload",
    "*.aria2",
    "*.lock",
    "*.tempstate*",  # tf.train.Checkpoint
    "*.orbax-checkpoint-tmp*",
    "tmp-checkpoint-*",  # transformers 4.3x staged a checkpoint under this name
    ".goutputstream-*",
    ".nfs*",  # NFS keeps an open, deleted file under this name
    ".fuse_hidden*",
    ".~*",
    "~$*",
    ".#*",
    "*~",
    "*.swp",
    "*.swo",
    "*.swx",
)
TEMPORARY_FILES = (f"*{UNFINISHED}",)  # NeMo's empty file beside a checkpoint; a directory of that name is somebody's own
TEMPORARY_DIRECTORIES = (".cache", "__pycache__", ".ipynb_checkpoints", ".Trash*", "lost+found")

_RSYNC_NAME = r"\..+\.(?=[A-Za-z]*[A-Z0-9])[A-Za-z0-9]{6}"  # mkstemp's six characters; all lower case may be a suffix
_PYTHON_NAME = r"tmp[a-z0-9_]{8}"  # tempfile's default
_DIRECTORIES_KEPT = 1 << 8  # they are asked for one after the other; what stays amid what goes keeps its memory from going
DEEPEST = 100  # directories below each other; reading one opens each on the way, and a process may open 1,024 by default


class Ruling(NamedTuple):
    """Whether a path is taken, and the rule that says so."""

    taken: bool
    reason: str


_OWN_MARK = Ruling(False, "it is for hubsync alone")
_TAKEN = Ruling(True, "no rule excludes it")
_NOT_INCLUDED = Ruling(False, "no include pattern matches")
_TOO_DEEP = Ruling(False, f"deeper than {DEEPEST} directories")


class PathRules:
    """The rules of one target. *include* and *exclude* are gitignore patterns, *include* ``("**",)`` takes all."""

    def __init__(self, include: Iterable[str] = ("**",), exclude: Iterable[str] = ()) -> None:
        self.include = tuple(include)
        self.exclude = tuple(line for line in exclude if line)  # as pathspec does, whose index must be ours
        self._included = None if self.include == ("**",) else pathspec.GitIgnoreSpec.from_lines(self.include)
        self._excluded = pathspec.GitIgnoreSpec.from_lines(self.exclude)
        self._may_exclude = Prefilter(self.exclude, self._excluded)
        self._excluding_parent = lru_cache(_DIRECTORIES_KEPT)(self._find_excluding_parent)

    def verdict(self, path: str, *, is_dir: bool = False) -> Ruling:
        """Return whether *path*, relative to the source, is taken; its parents count too."""
        if path.count("/") > DEEPEST:
            return _TOO_DEEP
        parent, _, name = path.rpartition("/")
        if parent and (refused := self._excluding_parent(parent)):
            return refused

        return self.verdict_below_taken(path, name, is_dir=is_dir)

    def verdict_below_taken(self, path: str, name: str, *, is_dir: bool = False) -> Ruling:
        """Return :meth:`verdict` of *path* (its last part is *name*) for a caller that has already asked for the parent."""
        if reason := self.exclusion(path, name, is_dir=is_dir):
            return Ruling(False, reason)
        if reason := temporary_reason(name, is_dir=is_dir):
            return Ruling(False, reason)
        if name == MARK:
            return _OWN_MARK
        if not is_dir and self._included is not None and not self._included.match_file(path):
            return _NOT_INCLUDED

        return _TAKEN

    def is_ordinary(self, path: str, name: str) -> bool:
        """Tell of a file whose directory is taken that its name, as nearly all are, is none that a rule could leave out.

        One that is not ordinary may be taken all the same: :meth:`verdict_below_taken` tells.
        """
        return (
            self._included is None
            and not (name.startswith(_PREFIXES) or name.endswith(_SUFFIXES) or _INFIXES.search(name))
            and not self._may_exclude.matches(path, name)
        )

    def are_ordinary(self, names: str) -> bool:
        """Tell whether :meth:`is_ordinary` says so of all *names*, which a slash divides, of one directory."""
        if self._included is not None or self._may_exclude.may_match_any(names):
            return False
        divided = f"/{names}/"

        return not any([part in divided for part in _PARTS])  # noqa: C419 - a third of the time of a generator

    def exclusion(self, path: str, name: str, *, is_dir: bool = False) -> str:
        """Return the reason if the operator's own patterns exclude *path*, else an empty string."""
        shown = path + "/" if is_dir else path
        if not self._may_exclude.matches(shown, name + "/" if is_dir else name):
            return ""
        result = self._excluded.check_file(shown)

        return f"exclude pattern {self.exclude[result.index or 0]!r}" if result.include else ""

    def _find_excluding_parent(self, directory: str) -> Ruling | None:
        parent, _, name = directory.rpartition("/")
        if parent and (refused := self._excluding_parent(parent)):
            return refused
        ruling = self.verdict_below_taken(directory, name, is_dir=True)

        return None if ruling.taken else Ruling(False, f"{ruling.reason} (on {directory}/)")


class PublishedRules(PathRules):
    """The same patterns for what a mirror shows: there no name is a temporary one, and nothing is left out unasked."""

    def verdict(self, path: str, *, is_dir: bool = False) -> Ruling:
        """Return whether the patterns take *path*."""
        return _TAKEN if path.count("/") > DEEPEST else super().verdict(path, is_dir=is_dir)

    def verdict_below_taken(self, path: str, name: str, *, is_dir: bool = False) -> Ruling:
        """Return :meth:`verdict` of *path* for a caller that has already asked for the parent."""
        if reason := self.exclusion(path, name, is_dir=is_dir):
            return Ruling(False, reason)
        return _TAKEN if is_dir or self._included is None or self._included.match_file(path) else _NOT_INCLUDED


class Prefilter:
    """One search that says whether any pattern could match: most paths match none, and asking each pattern costs more."""

    def __init__(self, lines: tuple[str, ...], spec: pathspec.GitIgnoreSpec) -> None:
        by_name, by_path = [], []
        for line, pattern in zip(lines, spec.patterns, strict=True):
            if pattern.regex is not None:
                regex = re.sub(r"\(\?P<\w+>", "(?:", pattern.regex.pattern)
                if "/" in line.strip().rstrip("/"):
                    by_path.append(regex)
                else:
                    by_name.append(regex.removeprefix("^(?:.+/)?"))  # any parents: a name has none
        self._by_name = re.compile("|".join(by_name)) if by_name else None
        self._by_any_name = re.compile(f"(?:.*/)?(?:{'|'.join(by_name)})", re.DOTALL) if by_name else None
        self._by_path = re.compile("|".join(by_path)) if by_path else None

    def matches(self, path: str, name: str) -> bool:
        """Return whether a pattern without a slash matches *name*, or another one matches *path*."""
        if self._by_name is not None and self._by_name.match(name):
            return True

        return self._by_path is not None and self._by_path.match(path) is not None

    def may_match_any(self, names: str) -> bool:
        """Return whether a pattern may match a file of one of *names*, which a slash divides as it does parents."""
        return self._by_path is not None or (self._by_any_name is not None and self._by_any_name.match(names) is not None)


def temporary_reason(name: str, *, is_dir: bool = False) -> str:
    """Return why *name* is a temporary one, or an empty string."""
    if not is_dir and not (name.startswith(_PREFIXES) or name.endswith(_SUFFIXES) or _INFIXES.search(name)):
        return ""
    found = (_TEMPORARY_DIRECTORY if is_dir else _TEMPORARY_FILE).match(name)

    return "" if found is None else f"temporary name {_LABELS[found.lastgroup or '']!r}"


def _alternation(regexes: dict[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?P<{group}>{regex})" for group, regex in regexes.items()))


def _translate(globs: Iterable[str], letter: str) -> dict[str, str]:
    return {f"{letter}{number}": fnmatch.translate(glob) for number, glob in enumerate(globs)}


_BOTH = _translate(TEMPORARY_NAMES, "f") | {"rsync": rf"(?:{_RSYNC_NAME})\Z", "python": rf"(?:{_PYTHON_NAME})\Z"}
_FILES = _BOTH | _translate(TEMPORARY_FILES, "g")
_DIRECTORIES = _BOTH | _translate(TEMPORARY_DIRECTORIES, "d")
_TEMPORARY_FILE = _alternation(_FILES)
_TEMPORARY_DIRECTORY = _alternation(_DIRECTORIES)
_LABELS = {"rsync": ".NAME.XXXXXX", "python": "tmpXXXXXXXX"}
_LABELS |= {f"f{number}": glob for number, glob in enumerate(TEMPORARY_NAMES)}
_LABELS |= {f"g{number}": glob for number, glob in enumerate(TEMPORARY_FILES)}
_LABELS |= {f"d{number}": glob + "/" for number, glob in enumerate(TEMPORARY_DIRECTORIES)}

# Nearly every name is an ordinary one, and these three questions say so many times faster than the labelled expression.
_PREFIXES = (".", "tmp", *(glob[:-1] for glob in TEMPORARY_NAMES if glob.find("*") == len(glob) - 1))
_SUFFIXES = tuple(glob[1:] for glob in (*TEMPORARY_NAMES, *TEMPORARY_FILES) if glob.rfind("*") == 0)
_INFIXES = re.compile("|".join(re.escape(glob.strip("*")) for glob in TEMPORARY_NAMES if glob.count("*") > 1))
_PARTS = (  # of names that a slash divides, before and after them too
    *(f"/{prefix}" for prefix in _PREFIXES),
    *(f"{suffix}/" for suffix in _SUFFIXES),
    *(glob.strip("*") for glob in TEMPORARY_NAMES if glob.count("*") > 1),
)
