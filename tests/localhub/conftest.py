"""A real Hub for the session, and the unmodified tools that talk to it."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from localhub.clones import GIT_SETTINGS, Clone, make_clone, with_token

from hubsync.localhub import LocalHub


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with LocalHub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def repo_id(api: HfApi) -> str:
    """A new public model repository."""
    repo_id = f"acme/{uuid.uuid4().hex[:8]}"
    api.create_repo(repo_id)
    return repo_id


@pytest.fixture
def http(hub: LocalHub) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=hub.url, headers={"Authorization": f"Bearer {hub.token}"}) as client:
        yield client


@pytest.fixture
def anonymous(hub: LocalHub) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=hub.url) as client:
        yield client


@pytest.fixture
def git_environment(hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }
    settings = {**GIT_SETTINGS, f"url.{with_token(hub)}.insteadOf": hub.url}
    for name, value in settings.items():
        subprocess.run(("git", "config", "--global", name, value), env=environment, check=True)
    return environment


@pytest.fixture
def clone(hub: LocalHub, repo_id: str, tmp_path: Path, git_environment: dict[str, str]) -> Clone:
    return make_clone(f"{hub.url}/{repo_id}", tmp_path / "clone", git_environment)
