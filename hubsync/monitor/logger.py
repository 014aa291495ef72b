"""Gives out loggers: imports structlog, and keeps it from importing what takes longer than all the rest of it.

structlog uses rich for tracebacks that show local variables; ours show none, since a variable may hold a token. And it
uses asyncio in methods that are to be awaited, which nobody here does; a training that imports a callback of ours may.
"""

import importlib
import sys
from types import ModuleType


class _Later(ModuleType):
    """Stands for a module that is imported when something of it is used."""

    def __getattr__(self, name: str) -> object:
        return getattr(importlib.import_module(self.__name__), name)


# In place of a library: nothing, so that its import fails, which structlog is prepared for, or one that comes later.
_KEPT_OUT = {"rich": None, "asyncio": _Later("asyncio")}

_absent = {name: instead for name, instead in _KEPT_OUT.items() if name not in sys.modules}
sys.modules.update(_absent)  # type: ignore[arg-type]
try:
    import structlog
finally:
    for _name in _absent:
        del sys.modules[_name]

__all__ = ["FilteringBoundLogger", "bound", "get_logger", "structlog"]

FilteringBoundLogger = structlog.typing.FilteringBoundLogger
get_logger = structlog.get_logger

bound = structlog.contextvars.bound_contextvars
"""Bind fields, such as ``target`` and ``mirror``, to every line of this thread: ``with bound(target=name): ...``."""
