"""Imports GitPython, once it is needed, and whole."""

import functools
import sys
import threading
from typing import Any

_loading = threading.Lock()


@functools.cache
def load_git_python() -> Any:  # noqa: ANN401 - a module
    """Import GitPython, which takes 250 ms, and what is unchanged needs no git."""
    with _loading:  # while its import fails in one thread, another one that waits for it is given what is half built
        try:
            return _import_git_python()
        except (ImportError, OSError):  # it runs a command as it is imported, which may have been killed
            return _import_git_python()


def _import_git_python() -> Any:  # noqa: ANN401 - a module
    try:
        import git  # noqa: PLC0415
    except (ImportError, OSError) as exc:
        for name in [name for name in list(sys.modules) if name.startswith("git.")]:  # half of it is there
            del sys.modules[name]
        if isinstance(exc.__cause__, OSError):
            raise exc.__cause__ from exc
        raise

    return git
