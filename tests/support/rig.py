"""One target and its mirrors at work in this process: no schedule, no events, and a test says what happens when."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from support.plain_server import PlainServer

from hubsync.config.model import Card, Config, Endpoint, Mirror, Service, Target, TokenSource
from hubsync.mirror.announce import Published
from hubsync.mirror.publish import Means, Publisher
from hubsync.mirror.token import Tokens
from hubsync.pipeline import Pipeline
from hubsync.service import TargetWork, open_limits, open_target
from hubsync.store.snapshot import Store

REPO = "acme/x"
PATIENCE_S = 20.0
_MIRROR = {"repo_type": "model", "max_commits_per_hour": 10_000}  # a test makes more commits than a day of training

# Nobody's own login may be used, nor sent anywhere.
NO_LOGIN = {"HF_TOKEN_PATH": "/nonexistent/token"}


def declare(
    root: Path,
    servers: Sequence[PlainServer],
    mirror: Mapping[str, Any],
    settings: Mapping[str, Any],
    endpoint: Mapping[str, Any] | None = None,
) -> Config:
    """Return the config of one target, ``run``, with a mirror ``m0``, ``m1`` ... on each server."""
    endpoints = {}
    mirrors = []
    for number, server in enumerate(servers):
        token = None
        if server.token is not None:
            token = TokenSource(file=root / f"token-{number}")
            token.file.write_text(f"{server.token}\n")  # type: ignore[union-attr]
        name = f"e{number}"
        endpoints[name] = Endpoint(
            name=name, url=server.url, token=token, **{"timeout_s": 10.0, "stall_s": 20.0, **(endpoint or {})}
        )
        mirrors.append(Mirror(name=f"m{number}", endpoint=name, repo_id=REPO, **{**_MIRROR, **mirror}))
    target = Target(
        name="run",
        source=root / "source",
        mirrors=tuple(mirrors),
        # A card is on only where a test is about it: what is published is just what was written.
        **{"quiet_s": 0.02, "exclude": (), "card": Card(enabled=False), **settings},
    )

    return Config(
        path=root / "hubsync.toml",
        files=(),
        endpoints=endpoints,
        targets=(target,),
        service=Service(state_dir=root / "state", min_free_bytes=1),
    )


class Rig:
    """``with Rig(tmp_path, [server]) as rig:``; what goes into *settings* stands in a target's table."""

    def __init__(
        self,
        root: Path,
        servers: Sequence[PlainServer],
        mirror: Mapping[str, Any] | None = None,
        endpoint: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.source = root / "source"
        self.source.mkdir(exist_ok=True)
        self.state = root / "state"
        self._root, self._servers, self._settings = root, servers, settings
        self._endpoint = endpoint
        self.config = declare(root, servers, mirror or {}, settings, endpoint)
        self.stop = threading.Event()
        self.work: TargetWork

    def __enter__(self) -> Self:
        self._lock = os.open(os.devnull, os.O_RDONLY)
        self.state.mkdir(exist_ok=True)
        means = Means(self.config, Tokens(NO_LOGIN), open_limits(self.state), self.stop)
        self.work = open_target(self.config.targets[0], means, self._lock)
        return self

    def __exit__(self, *_: object) -> None:
        self.work.close()
        os.close(self._lock)

    def restart(self) -> None:
        """Forget all that is in memory."""
        self.__exit__()
        self.__enter__()

    def restart_with(self, mirror: Mapping[str, Any], **settings: Any) -> None:
        """Restart with another declaration of the mirrors, and other *settings*."""
        self.config = declare(self._root, self._servers, mirror, {**self._settings, **settings}, self._endpoint)
        self.restart()

    @property
    def pipeline(self) -> Pipeline:
        """The way from files to snapshots."""
        return self.work.pipeline

    @property
    def store(self) -> Store:
        """Where captured files wait."""
        return self.work.pipeline.store

    def publisher(self, number: int = 0) -> Publisher:
        """Return what keeps one mirror up to date."""
        return self.work.workers[number].publisher

    def write(self, path: str, content: bytes = b"x", mode: int = 0o644) -> Path:
        """Write a file of the source as careful writers do: whole, then under its name."""
        file = self.source / path
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(".tmp-new")
        new.write_bytes(content)
        new.chmod(mode)
        return new.replace(file)

    def settle(self) -> None:
        """Look until nothing is unquiet any more."""
        deadline = time.monotonic() + PATIENCE_S
        while self.pipeline.take_inventory():
            self.pipeline.settle()
            due = self.pipeline.next_due()
            if due is None:
                return
            assert time.monotonic() < deadline, self.pipeline.waiting()
            time.sleep(max(0.001, due - time.monotonic()))

    def commit(self, *, confirm_deletes: bool = False) -> list[str]:
        """Commit all that is there and whole."""
        self.settle()
        return self.pipeline.commit(confirm_deletes=confirm_deletes)

    def publish(self, number: int = 0) -> Published | None:
        """Publish to one mirror; raises what goes wrong."""
        return self.publisher(number).publish()

    def update(self, number: int = 0) -> Published | None:
        """Commit what is there, and publish it."""
        self.commit()
        return self.publish(number)

    def held_objects(self) -> set[str]:
        """Return the oids that are pinned."""
        return {oid for oid, _ in self.store.objects.held()}


def safetensors(size: int, fill: bytes = b"\1") -> bytes:
    """Return a valid safetensors file with *size* bytes of weights."""
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    return len(header).to_bytes(8, "little") + header + (fill * size)[:size]
