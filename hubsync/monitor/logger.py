"""Gives out loggers: imports structlog, and keeps it from importing rich, which takes longer than all the rest of it.

structlog uses rich for tracebacks that show local variables; ours show none, since a variable may hold a token.
"""

import sys

_KEPT_OUT = "rich"

if _KEPT_OUT in sys.modules:
    import structlog
else:
    sys.modules[_KEPT_OUT] = None  # type: ignore[assignment] # its import fails, which structlog is prepared for
    try:
        import structlog
    finally:
        del sys.modules[_KEPT_OUT]

__all__ = ["FilteringBoundLogger", "bound", "get_logger", "structlog"]

FilteringBoundLogger = structlog.typing.FilteringBoundLogger
get_logger = structlog.get_logger

bound = structlog.contextvars.bound_contextvars
"""Bind fields, such as ``target`` and ``mirror``, to every line of this thread: ``with bound(target=name): ...``."""
