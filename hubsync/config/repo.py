"""How a mirror and the place in it are spelt: ``[endpoint:][datasets/|spaces/]owner/name[@branch]``. Pure.

Messages never repeat what was read: somebody may have pasted a token here.
"""

import re
from pathlib import PurePosixPath
from typing import Literal

from msgspec import Struct

RepoType = Literal["model", "dataset", "space"]

DEFAULT_ENDPOINT = "hub"
DEFAULT_BRANCH = "main"
NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # of targets, endpoints and mirrors: safe in a path and in a log

_NAME = re.compile(NAME_PATTERN[1:-1])
_PREFIXES: dict[str, RepoType] = {"datasets": "dataset", "spaces": "space"}
_GRAMMAR = "[endpoint:][datasets/|spaces/]owner/name[@branch]"

# The rules of huggingface_hub.utils.validate_repo_id, which costs 200 ms to import, for each half of owner/name.
_REPO_ID_HALF = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.git$)[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")

# https://git-scm.com/docs/git-check-ref-format; "@" alone and a leading "-" are refused for branches too.
_BAD_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|^[-./]|[./]$|^@$|^refs/|^HEAD$")
_LONGEST_BRANCH = 200  # with "refs/heads/" and ".lock" still a file name
_LONGEST_NAME_BYTES = 255  # NAME_MAX

# git refuses these as components of a tree, also in the spellings that other file systems take for ".git".
_GIT_DIRECTORY = re.compile(r"(?i)(?:\.git|git~1)[ .]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class RepoSpec(Struct, frozen=True):
    """Where a mirror is: an endpoint's name, a repository, a branch."""

    endpoint: str
    repo_type: RepoType
    repo_id: str
    branch: str

    def __str__(self) -> str:
        """Return the shortest spelling that reads back as the same."""
        endpoint = "" if self.endpoint == DEFAULT_ENDPOINT else f"{self.endpoint}:"
        kind = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        branch = "" if self.branch == DEFAULT_BRANCH else f"@{self.branch}"
        return f"{endpoint}{kind}{self.repo_id}{branch}"


def parse_repo(value: object) -> RepoSpec:
    """Return the repository that *value* names; raise ValueError with the cure."""
    if not isinstance(value, str):
        raise ValueError(f'must be a repository in quotes; write "{_GRAMMAR}"')  # noqa: TRY004 - pydantic's contract
    if "://" in value:
        raise ValueError(f'must not be a URL; write "{_GRAMMAR}", and the URL into an [endpoint.NAME] table')

    place, at, branch = value.partition("@")
    endpoint, colon, path = place.rpartition(":")
    prefix, slash, rest = path.partition("/")
    is_typed = slash and prefix in _PREFIXES and "/" in rest
    if colon:
        parse_name(endpoint)
    _check_repo_id(rest if is_typed else path)

    return RepoSpec(
        endpoint if colon else DEFAULT_ENDPOINT,
        _PREFIXES[prefix] if is_typed else "model",
        rest if is_typed else path,
        parse_branch(branch) if at else DEFAULT_BRANCH,
    )


def _check_repo_id(repo_id: str) -> None:
    halves = repo_id.split("/")
    if len(halves) != 2:  # noqa: PLR2004 - owner and name
        raise ValueError(f'is no repository; write "owner/name" ("{_GRAMMAR}")')
    if not all(_REPO_ID_HALF.fullmatch(half) for half in halves):
        raise ValueError(
            "has an owner or name that the Hub refuses; use up to 96 of A-Z a-z 0-9 . _ - each, "
            'without "--" or "..", with no "-" or "." at an end, and not ending in ".git"'
        )


def parse_branch(text: str) -> str:
    """Return *text* if git and the Hub take it as a branch; raise ValueError if not."""
    if not text or len(text) > _LONGEST_BRANCH or _BAD_IN_BRANCH.search(text):
        raise ValueError('has a branch that git refuses; write a name such as "main" or "run-7" after the "@"')

    return text


def parse_name(value: object) -> str:
    """Return *value* if it may name a target, a mirror or an endpoint; raise ValueError if not."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("is no usable name; write up to 64 of A-Z a-z 0-9 . _ - that start with a letter or digit")

    return value


def parse_path_in_repo(value: object) -> PurePosixPath:
    """Return the directory in the repository that *value* names, "" for its root; raise ValueError if there is none."""
    if isinstance(value, PurePosixPath):
        return value
    if not isinstance(value, str):
        raise ValueError('must be a path in quotes; write "" for the root of the repository')  # noqa: TRY004 - as above

    parts = value.removesuffix("/").split("/") if value else []
    if not all(map(_is_usable_part, parts)):
        raise ValueError('must be a plain relative path such as "runs/7": no leading "/", no ".", "..", ".git" or "\\"')

    return PurePosixPath(*parts)


def _is_usable_part(part: str) -> bool:
    return (
        part not in {"", ".", ".."}
        and len(part.encode()) <= _LONGEST_NAME_BYTES
        and not _CONTROL.search(part)
        and "\\" not in part
        and not _GIT_DIRECTORY.fullmatch(part)
    )
