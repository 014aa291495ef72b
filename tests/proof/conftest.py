"""A published target, and asking whether its files may be deleted."""

import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from support.rig import NO_LOGIN, REPO, Rig, safetensors

from hubsync.localhub import LocalHub
from hubsync.mirror.token import Tokens
from hubsync.proof.prove import Means, Proof, prove_paths

UNIT = {"model.safetensors": safetensors(3000), "config.json": b"{}", "sub/notes.txt": b"n", "empty": b""}


@pytest.fixture
def hub_rig(hub: LocalHub, make_rig: Callable[..., Rig]) -> Rig:
    """Give a target with one mirror on ``hub``."""
    return make_rig(hub)


def write_unit(rig: Rig, unit: str = "checkpoint-1", files: Mapping[str, bytes] = UNIT) -> None:
    """Write a unit as old as it has to be."""
    for name, content in files.items():
        rig.write(f"{unit}/{name}", content)


def ask(rig: Rig, *paths: str, cached: bool = False, read_data: bool = False) -> list[Proof]:
    """Ask about *paths*."""
    means = Means(rig.config, Tokens(NO_LOGIN), threading.Event())
    return prove_paths(means, rig.config.targets[0], paths, cached=cached, read_data=read_data)


def reasons(rig: Rig, *paths: str, cached: bool = False) -> dict[str, str]:
    """Return what stands against *paths* (path → reason); nothing if they are safe."""
    return {objection.path: objection.reason for proof in ask(rig, *paths, cached=cached) for objection in proof.objections}


def api(hub: LocalHub) -> HfApi:
    """Return a client of *hub*."""
    return HfApi(endpoint=hub.url, token=hub.token)


def change(hub: LocalHub, files: Mapping[str, bytes | None], branch: str = "main") -> None:
    """Commit on *hub* as a person does; ``None`` removes a file."""
    operations: list[Any] = [
        CommitOperationDelete(path, is_folder=False) if content is None else CommitOperationAdd(path, content)
        for path, content in files.items()
    ]
    api(hub).create_commit(REPO, operations, commit_message="by hand", revision=branch)


def objects_of(hub: LocalHub) -> list[Path]:
    """Return the LFS objects that *hub* holds."""
    found = [path for path in hub.directory.rglob("*") if path.is_file() and len(path.name) == 64]
    assert found
    return found


def git_of(hub: LocalHub, *args: str, strip: bool = True) -> str:
    """Run git in the repository of *hub*."""
    [git_dir] = [path.parent for path in hub.directory.rglob("HEAD") if (path.parent / "objects").is_dir()]
    said = subprocess.run(["git", "-C", git_dir, *args], check=True, capture_output=True, text=True).stdout
    return said.strip() if strip else said
