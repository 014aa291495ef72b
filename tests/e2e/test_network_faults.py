"""The daemon between a Hub in trouble and one that is well: said once, asked seldom, over by itself, nothing left behind.

``HUBSYNC_MATRIX=whole`` (``make soak``) shows it more kinds of trouble.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from outside import processes_of, wait_until
from support import fault_proxy as faults
from support.fault_proxy import FaultProxy
from support.running import Daemon, digests, download, endpoint, write_checkpoint, write_config

from hubsync.localhub import LocalHub

Show = Callable[[FaultProxy], None]
MIRROR = "m0:acme/x"
_MOST_REQUESTS = 80  # in an outage of some seconds, and the publication after it


def shows(where: str, fault: faults.Fault) -> Show:
    """Return what shows *fault* at requests like *where*."""
    return lambda proxy: proxy.show(where, fault)


TROUBLES: dict[str, tuple[Show, set[str]]] = {
    "refused": (FaultProxy.refuse, {"network"}),
    "silent": (shows(".", faults.hole), {"timeout", "stalled"}),
    "dripping": (shows("objects/batch|git-receive-pack|/api/", faults.drip), {"timeout", "stalled"}),
    "unavailable": (shows(".", faults.status(503)), {"server"}),
    "resetting": (shows("PUT", faults.reset(10_000)), {"network"}),
    "endless": (shows("objects/batch", faults.endless()), {"server"}),
}
SHORT = ("refused",)
CHOSEN = TROUBLES if os.environ.get("HUBSYNC_MATRIX") == "whole" else SHORT


@pytest.mark.parametrize("trouble", CHOSEN)
def test_a_hub_in_trouble_is_waited_for(
    trouble: str, tmp_path: Path, source: Path, state: Path, hub: LocalHub, other_hub: LocalHub
) -> None:
    """A checkpoint reaches the other mirror meanwhile, and this one when the trouble is over, without being asked to."""
    show, kinds = TROUBLES[trouble]
    with FaultProxy(hub) as proxy:
        table = endpoint(hub).replace(hub.url, proxy.url) + '\ntimeout = "2s"\nstall = "2s"'
        config = write_config(tmp_path / "hubsync.toml", source, {table: "acme/x", endpoint(other_hub): "acme/x"})
        with Daemon(config) as daemon:
            daemon.wait_for("daemon.ready")
            show(proxy)
            write_checkpoint(source / "checkpoint-1")
            failed = daemon.wait_for("mirror.failed", mirror=MIRROR)
            wait_until(lambda: _shows(other_hub), "the other mirror has it")
            proxy.clear()
            if trouble == "refused":
                proxy.listen()
            daemon.wait_for("mirror.recovered", mirror=MIRROR)
            wait_until(lambda: _shows(hub), "the mirror has it")
            assert 0 == daemon.stop()

        assert failed["error_kind"] in kinds
        assert (True, True) == (failed["retryable"], bool(failed["hint"]))
        assert len(proxy.requests) < _MOST_REQUESTS
        assert [] == processes_of(state)
        wanted = digests(source)
        assert wanted == download(hub, "acme/x", tmp_path / "got") == download(other_hub, "acme/x", tmp_path / "other")


def _shows(hub: LocalHub) -> bool:
    """Tell whether a push to *hub* was answered."""
    return any("git-receive-pack" in request.path and request.method == "POST" for request in hub.requests)
