"""A Hub on loopback: real git, git-lfs and the Hub's HTTP API, for trying out, tests and offline clusters.

``serve`` blocks until a signal ends it; ``LocalHub`` runs the same Hub beside the caller, who may change it as it runs:

    with LocalHub(directory, settings=Settings(part_bytes=1000, single_max_bytes=1000)) as hub:
        fault = hub.add_fault("PUT /_lfs/* 503 times=2")  # see ``faults``; ``fault.shown`` counts
        hub.settings = Settings(commits_per_hour=3)
        hub.protect("acme/model", "main")
        hub.revoke(hub.token)

All are loaded on first use, because the hook that checks every push is part of this package and must not wait for a web
framework.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubsync.localhub.faults import ActiveFault
    from hubsync.localhub.server import LocalHub, serve
    from hubsync.localhub.settings import Settings
    from hubsync.localhub.traffic import Request

__all__ = ["ActiveFault", "LocalHub", "Request", "Settings", "serve"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute is anything
    if name not in __all__:
        raise AttributeError(name)
    from hubsync.localhub import server  # noqa: PLC0415 - see the module's docstring

    return getattr(server, name)
