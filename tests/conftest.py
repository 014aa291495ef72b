"""Fixtures that several parts share."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

# Read by huggingface_hub when it is imported.
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

from support.plain_server import PlainServer
from support.rig import REPO, Rig


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PlainServer]:
    """Give a server that is not ours, with an empty repository."""
    with PlainServer(tmp_path / "server") as plain:
        plain.create(REPO)
        yield plain


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Give what makes a target on some servers; see ``Rig``."""
    with ExitStack() as stack:
        yield lambda *servers, **settings: stack.enter_context(Rig(tmp_path, servers, **settings))


@pytest.fixture
def rig(server: PlainServer, make_rig: Callable[..., Any]) -> Rig:
    """Give a target with one mirror on ``server``."""
    made: Rig = make_rig(server)
    return made
