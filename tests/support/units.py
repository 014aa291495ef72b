"""Checkpoints as tests of mirrors write them, and what a server shows of them."""

import json
import os
from collections.abc import Mapping
from typing import Any

from support.plain_server import PlainServer
from support.rig import REPO, Rig, safetensors

UNIT = {
    "config.json": b"{}",
    "model.safetensors": safetensors(2000),
    "optimizer.bin": b"\0optimizer",
    "rng_state.dat": b"\0random",
    "training_args.bin": b"\0args",
}


def write_unit(rig: Rig, step: int, state: Mapping[str, Any] | None = None, at: str = "", weights: int = 2000) -> None:
    """Write a checkpoint whose files are as old as its step says."""
    name = f"{at}checkpoint-{step}"
    told = json.dumps({"global_step": step, **(state or {})}).encode()
    files = {**UNIT, "model.safetensors": safetensors(weights), "trainer_state.json": told, "DONE": b""}
    for path, content in files.items():
        file = rig.write(f"{name}/{path}", content + (b"%d" % step if path == "optimizer.bin" else b""))
        os.utime(file, (1_600_000_000 + step, 1_600_000_000 + step))


def shown(server: PlainServer, branch: str = "main") -> set[str]:
    """Return the paths of a branch, without the attributes."""
    listed = server.git(REPO, "ls-tree", "-r", "--name-only", branch).splitlines()
    return {path for path in listed if path != ".gitattributes"}


def branches(server: PlainServer) -> set[str]:
    """Return the names of all branches."""
    return set(server.git(REPO, "for-each-ref", "--format=%(refname:short)", "refs/heads").split())
