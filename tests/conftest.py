"""Fixtures that several parts share."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

# Read by huggingface_hub when it is imported.
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import canary
from huggingface_hub import HfApi
from hypothesis import HealthCheck, settings
from support.plain_server import PlainServer
from support.rig import REPO, Rig

from hubsync.localhub import LocalHub
from hubsync.localhub import server as localhub_server

# The same examples each time, however slow the machine; `make soak` has the long search of what comes from outside.
settings.register_profile(
    "quick", max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.load_profile("quick")

LEAKS = Path(tempfile.mkdtemp(prefix="hubsync-leaks-")) / "leaks"


def pytest_configure() -> None:
    """Have every token of a local Hub known by its letters, and every hubsync watched; see support/site/canary.py."""
    LEAKS.parent.chmod(0o1777)  # a test's hubsync may run as another user
    localhub_server._TOKEN_LETTERS = canary.LETTERS
    os.environ |= {canary.PLACE: str(LEAKS), "PYTHONPATH": str(Path(canary.__file__).parent)}
    canary.watch_children(str(LEAKS))


def pytest_unconfigure() -> None:
    """Clean up."""
    shutil.rmtree(LEAKS.parent, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_token_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a token in a child's arguments or environment, or in a file of the state or a log."""
    yield
    leaks = LEAKS.read_text().splitlines() if LEAKS.exists() else []
    LEAKS.unlink(missing_ok=True)
    place = request.node.funcargs.get("tmp_path")
    assert [] == leaks + ([] if place is None else [str(file) for file in canary.search(place)])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PlainServer]:
    """Give a server that is not ours, with an empty repository."""
    with PlainServer(tmp_path / "server") as plain:
        plain.create(REPO)
        yield plain


@pytest.fixture
def second(tmp_path: Path) -> Iterator[PlainServer]:
    """Give another such server."""
    with PlainServer(tmp_path / "second") as plain:
        plain.create(REPO)
        yield plain


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    """Give a Hub."""
    with LocalHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def other_hub(tmp_path: Path) -> Iterator[LocalHub]:
    """Give a second Hub."""
    with LocalHub(tmp_path / "other-hub") as running:
        yield running


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    """Give what its users speak to the Hub with."""
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give an empty directory to publish."""
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give the path of the state directory."""
    return tmp_path / "state"


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
