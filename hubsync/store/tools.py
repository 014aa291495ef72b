"""Finds git and git-lfs, and tells whether they are new enough."""

import contextlib
import functools
import os
import re
import shutil

from hubsync.errors import ToolMissingError
from hubsync.store.process import ChildStalledError, read_command

_OLDEST = {"git": (2, 36), "git-lfs": (3, 0)}  # an older git knows no core.fsync: a power cut might take what it has kept
TOOLS = tuple(_OLDEST)
_CLOSED = {"HOME": "/", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
_PATIENCE_S = 5.0


@functools.cache
def git_executable() -> str:
    """Return git's absolute path.

    Raises:
        ToolMissingError: git or git-lfs is not on the PATH.
    """
    _find("git-lfs")
    return _find("git")


def expect_recent(tool: str) -> str:
    """Return what *tool*, one of ``TOOLS``, says of its version; nothing if it does not say it, or not in time.

    Raises:
        ToolMissingError: it is not on the PATH, or too old.
    """
    said, oldest = "", _OLDEST[tool]
    with contextlib.suppress(ChildStalledError):
        done = read_command((_find(tool), "version"), {**os.environ, **_CLOSED}, timeout_s=_PATIENCE_S)
        said = done.stdout.decode("utf-8", "replace").strip()
    version = re.search(r"(\d+)\.(\d+)", said)
    if version is None:
        return ""
    if (int(version[1]), int(version[2])) < oldest:
        raise ToolMissingError(f"{said} is too old", hint=f"install {tool} {oldest[0]}.{oldest[1]} or newer")

    return said


def _find(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        raise ToolMissingError(f"{tool} is not installed", hint=f"install it, e.g. apt-get install {tool}")

    return found
