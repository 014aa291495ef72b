"""Decides how a file travels: as a git-lfs object or as a git blob. The first rule that matches wins.

No I/O: a small file's content is an argument. The Hub refuses binary content in git at any size, and any file over
10 MiB (https://huggingface.co/docs/hub/repositories-getting-started), so both go to LFS.
"""

from enum import Enum

import pathspec
from msgspec import Struct

from hubsync.watch.rules import Prefilter

# The .gitattributes of a new Hub repository, git blob a6344aac8c09253b3b630fb776ae94478aa0275b.
HUB_PATTERNS = (
    "*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gz", "*.h5", "*.joblib", "*.lfs.*", "*.mlmodel",
    "*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt",
    "*.pth", "*.rar", "*.safetensors", "saved_model/**/*", "*.tar.*", "*.tar", "*.tflite", "*.tgz", "*.wasm", "*.xz",
    "*.zip", "*.zst", "*tfevents*",
)  # fmt: skip
LFS_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"


class Route(Enum):
    """How a file travels."""

    LFS = "lfs"
    GIT = "git"


class Routing(Struct, frozen=True):
    """A route and the rule that chose it."""

    route: Route
    reason: str


class RouteRules:
    """The rules of one target: the Hub's patterns, the operator's *patterns*, and a size in bytes."""

    def __init__(self, patterns: tuple[str, ...], lfs_from_bytes: int) -> None:
        self.patterns = patterns
        self.lfs_from_bytes = lfs_from_bytes
        self._all = (*HUB_PATTERNS, *patterns)
        self._spec = pathspec.GitIgnoreSpec.from_lines(self._all)
        self._may_match = Prefilter(self._all, self._spec)

    def pattern_for(self, path: str) -> str | None:
        """Return the LFS pattern that *path* matches."""
        if not self._may_match.matches(path, path.rpartition("/")[2]):
            return None
        result = self._spec.check_file(path)

        return self._all[result.index] if result.include and result.index is not None else None


def choose_route(path: str, size: int, rules: RouteRules) -> Routing | None:
    """Return the route of *path* (*size* in bytes), or ``None`` if its content has to decide."""
    if size == 0:
        return Routing(Route.GIT, "empty")
    if pattern := rules.pattern_for(path):
        return Routing(Route.LFS, f"lfs pattern {pattern!r}")
    if size >= rules.lfs_from_bytes:
        return Routing(Route.LFS, f"{size} bytes >= {rules.lfs_from_bytes}")

    return None


def choose_route_by_content(content: bytes) -> Routing:
    """Return the route of a small file that no pattern names: text is git's, all else goes to LFS."""
    if b"\0" in content:
        return Routing(Route.LFS, "binary content (a NUL byte)")
    try:
        content.decode()
    except UnicodeDecodeError:
        return Routing(Route.LFS, "binary content (not UTF-8)")

    return Routing(Route.GIT, "small text")


def hub_attributes() -> bytes:
    """Return the ``.gitattributes`` that the Hub gives a new repository, byte for byte."""
    return "".join(f"{pattern} {LFS_ATTRIBUTES}\n" for pattern in HUB_PATTERNS).encode()
