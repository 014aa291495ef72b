import logging
import sys
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Give the process's logging back as it was."""
    root = logging.getLogger()
    before = root.handlers, root.level, logging.getLoggerClass(), logging.raiseExceptions
    hooks = sys.excepthook, threading.excepthook
    root.handlers = []
    yield
    logging.captureWarnings(capture=False)
    for handler in root.handlers:
        handler.close()

    root.handlers = before[0]
    root.setLevel(before[1])
    logging.setLoggerClass(before[2])
    logging.raiseExceptions = before[3]
    sys.excepthook, threading.excepthook = hooks
