"""Asks a server why it refuses pushes: git tells the status of an answer, and keeps its body to itself.

The commit quota of a Hub says in the body alone that it is one, and how long it lasts.
"""

from hubsync.errors import MirrorError
from hubsync.mirror.agent_client import Action, Client, TransferError
from hubsync.mirror.failures import read_failure
from hubsync.mirror.token import basic_authorization

_NOTHING = b"0000"  # no command at all, as git itself sends it before a large push
_HEADERS = {
    "Content-Type": "application/x-git-receive-pack-request",
    "Accept": "application/x-git-receive-pack-result, application/json",
}


def explain_limit(
    failure: MirrorError, git_url: str, token: str | None, *, stall_s: float, connect_s: float
) -> MirrorError:
    """Return *failure*, or a better one if the server says now how long a push that it refused has to wait."""
    client = Client(git_url, basic_authorization(token) if token else None, stall_s=stall_s, connect_s=connect_s)
    try:
        client.post_bytes(client.signed_in(Action(f"{git_url}/git-receive-pack", _HEADERS)), _NOTHING)
    except TransferError as exc:
        told = read_failure("push", str(exc))
        return told if told.error_kind == "commit_quota" or _names_wait(told) else failure
    finally:
        client.close()

    return failure


def _names_wait(failure: MirrorError) -> bool:
    return failure.retry_after_s is not None or failure.retry_at is not None
