"""Asks the LFS Batch API of a mirror which objects it has: what it once took it may have lost since.

It asks as an upload or a download does, and moves nothing.
"""

from collections.abc import Iterable

from hubsync.config.model import Endpoint
from hubsync.mirror.agent_handover import Thing
from hubsync.mirror.failures import read_failure
from hubsync.mirror.token import basic_authorization
from hubsync.store.pointer import Pointer

_CONNECT_S = 30.0


def ask_for(
    lfs_url: str, endpoint: Endpoint, token: str | None, objects: Iterable[Pointer], operation: str
) -> dict[str, bool]:
    """Return of *objects* (by oid) whether the LFS API at *lfs_url* has each; nothing of what it does not take, or give.

    Raises:
        MirrorError: it cannot be asked, or refuses.
    """
    from hubsync.mirror.agent_batch import Batch  # noqa: PLC0415 - its HTTP client, which most publications do without
    from hubsync.mirror.agent_client import Client, TransferError  # noqa: PLC0415 - as above

    authorization = basic_authorization(token) if token else None
    client = Client(lfs_url, authorization, stall_s=endpoint.timeout_s, connect_s=min(_CONNECT_S, endpoint.timeout_s))
    things = [Thing(pointer.oid, pointer.size, is_shared=False) for pointer in objects]
    try:
        return Batch(client, lfs_url, things, operation).ask_all()
    except TransferError as exc:
        raise read_failure("ask for objects", str(exc)) from exc
    finally:
        client.close()
