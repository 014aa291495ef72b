from collections.abc import Callable, Mapping
from typing import Any

import pytest
from support.plain_server import PlainServer
from support.rig import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_units(make_rig: MakeRig, server: PlainServer) -> MakeRig:
    """Return what makes a rig whose units are complete when they say so."""

    def make(mirror: Mapping[str, Any] | None = None, **settings: Any) -> Rig:
        return make_rig(server, mirror=mirror, units=("checkpoint-*",), complete_when=("DONE",), **settings)

    return make
