from collections.abc import Iterator
from pathlib import Path

import pytest
from support.plain_server import PlainServer
from support.running import endpoint, write_config

from hubsync.localhub import LocalHub


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[PlainServer]:
    """Give a server that is not ours, with an empty repository."""
    with PlainServer(tmp_path / "server") as server:
        server.create("acme/x")
        for part in (server._git, server._storage):
            part.handle_error = lambda *_: None  # clients are killed, and no answer finds them
        yield server


@pytest.fixture
def config(tmp_path: Path, source: Path, hub: LocalHub) -> Path:
    """Give a config that publishes ``source`` to ``hub``."""
    return write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})


@pytest.fixture
def plain_config(tmp_path: Path, source: Path, plain: PlainServer) -> Path:
    """Give a config that publishes ``source`` to ``plain``."""
    return write_config(tmp_path / "hubsync.toml", source, {f'url = "{plain.url}"': "acme/x"})
