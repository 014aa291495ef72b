"""Asks the LFS Batch API of a mirror which objects it has: what it once took it may have lost since.

It asks as an upload or a download does, and moves nothing.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hubsync.config.model import Endpoint
from hubsync.mirror.agent_handover import Thing
from hubsync.mirror.failures import read_failure
from hubsync.mirror.token import basic_authorization
from hubsync.store.pointer import Pointer

if TYPE_CHECKING:
    from hubsync.mirror.agent_client import Client

_CONNECT_S = 30.0


def open_client(lfs_url: str, endpoint: Endpoint, token: str | None, *, connect_s: float = _CONNECT_S) -> "Client":
    """Return what speaks to the LFS API at *lfs_url*, as patient as *endpoint* wants it; the caller closes it."""
    from hubsync.mirror.agent_client import Client  # noqa: PLC0415 - which most publications do without

    authorization = basic_authorization(token) if token else None
    timeout_s = endpoint.timeout_s
    return Client(lfs_url, authorization, stall_s=timeout_s, connect_s=min(connect_s, timeout_s))


def ask_for(
    lfs_url: str, endpoint: Endpoint, token: str | None, objects: Iterable[Pointer], operation: str
) -> dict[str, bool]:
    """Return of *objects* (by oid) whether the LFS API at *lfs_url* has each; nothing of what it does not take, or give.

    Raises:
        MirrorError: it cannot be asked, or refuses.
    """
    from hubsync.mirror.agent_batch import Batch  # noqa: PLC0415 - as above
    from hubsync.mirror.agent_client import TransferError  # noqa: PLC0415 - as above

    client = open_client(lfs_url, endpoint, token)
    things = [Thing(pointer.oid, pointer.size, is_shared=False) for pointer in objects]
    try:
        return Batch(client, lfs_url, things, operation).ask_all()
    except TransferError as exc:
        raise read_failure("ask for objects", str(exc)) from exc
    finally:
        client.close()
