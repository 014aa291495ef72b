"""Asks the LFS Batch API where objects go, in groups, as late as possible: addresses expire.

https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md. A request that fails fails for all that is left, so that a
server in trouble sees one request and not one for each object; but for the refusal of some of the objects.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NamedTuple

from hubsync.mirror.agent_client import Action, Client, TransferError
from hubsync.mirror.agent_handover import Thing

_GROUP_THINGS = 100  # as git-lfs
_GROUP_BYTES = 4 << 30  # so that the addresses are used before they expire
_EXPIRY_MARGIN_S = 60.0
_ASKED_AT_ONCE = 256  # as huggingface_hub


class Actions(NamedTuple):
    """What the server says of one object: where it goes, nowhere if it has it, or where it comes from.

    *until* is a monotonic time.
    """

    upload: Action | None = None
    verify: Action | None = None
    download: Action | None = None
    until: float = float("inf")


class Batch:
    """The answers for *things*, in their order."""

    def __init__(self, client: Client, lfs_url: str, things: Sequence[Thing], operation: str = "upload") -> None:
        self._client = client
        self._api = client.signed_in(Action(f"{lfs_url}/objects/batch"))
        self._things = things
        self._operation = operation
        self._lock = threading.Lock()
        self._answers: dict[str, Actions | TransferError] = {}
        self._failure: TransferError | None = None

    def find(self, thing: Thing) -> Actions:
        """Return what the server wants for *thing*.

        Raises:
            TransferError: the server refuses this object, or answers no request.
        """
        with self._lock:
            answer = self._answers.pop(thing.oid, None)
            if answer is None or (isinstance(answer, Actions) and answer.until < time.monotonic() + _EXPIRY_MARGIN_S):
                self._answers |= self._ask(self._group(thing))
                answer = self._answers.pop(thing.oid, None)
        if isinstance(answer, Actions):
            return answer

        raise answer or TransferError("the LFS Batch API did not answer for this object", status=422)

    def find_again(self, thing: Thing) -> Actions:
        """Return what the server wants for *thing* now that it has refused the address that it gave."""
        with self._lock:
            answer = self._ask([thing]).get(thing.oid)
        if isinstance(answer, Actions):
            return answer

        raise answer or TransferError("the LFS Batch API did not answer for this object", status=422)

    def ask_all(self) -> dict[str, bool]:
        """Return of each thing whether the server has it (by oid); nothing of those that it refuses.

        Raises:
            TransferError: it answers no request.
        """
        answers: dict[str, Actions | TransferError] = {}
        for start in range(0, len(self._things), _ASKED_AT_ONCE):
            answers |= self._ask(self._things[start : start + _ASKED_AT_ONCE])

        return {oid: answer.upload is None for oid, answer in answers.items() if isinstance(answer, Actions)}

    def _group(self, first: Thing) -> list[Thing]:
        """Return *first* and what follows it and was not asked for, few enough to be sent soon."""
        group, size = [first], first.size
        for thing in self._things[self._things.index(first) + 1 :] if first in self._things else ():
            size += thing.size
            if len(group) == _GROUP_THINGS or size > _GROUP_BYTES:
                break
            if thing.oid not in self._answers:
                group.append(thing)

        return group

    def _ask(self, things: Sequence[Thing]) -> dict[str, Actions | TransferError]:
        if self._failure is not None:
            raise self._failure
        question = {
            "operation": self._operation,
            "transfers": ["basic", "multipart"] if self._operation == "upload" else ["basic"],
            "hash_algo": "sha256",
            "objects": [{"oid": thing.oid, "size": thing.size} for thing in things],
        }
        try:
            answer = self._client.post(self._api, question)
            return {each["oid"]: self._read(each) for each in answer["objects"]}
        except TransferError as exc:
            if exc.status == HTTPStatus.UNPROCESSABLE_ENTITY and not exc.is_general:
                return self._ask_apart(things, exc)
            self._failure = TransferError(str(exc), status=exc.status, retry_after=exc.retry_after, is_general=True)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            self._failure = TransferError("server error: an answer that no LFS Batch API gives", is_general=True)
        raise self._failure

    def _ask_apart(self, things: Sequence[Thing], refusal: TransferError) -> dict[str, Actions | TransferError]:
        """Find out which of *things* it is that the server refuses to be asked for: by LFS, a 422 is about some of them."""
        if len(things) == 1:
            return {things[0].oid: refusal}
        half = len(things) // 2
        return {**self._ask(things[:half]), **self._ask(things[half:])}

    def _read(self, answer: Mapping[str, Any]) -> Actions | TransferError:
        if error := answer.get("error"):
            return TransferError(f"HTTP {error.get('code')}; {error.get('message')}", status=int(error.get("code") or 422))
        actions = answer.get("actions") or {}
        upload, verify, download = (self._action(actions.get(name), answer) for name in ("upload", "verify", "download"))
        lives_s = _lives_s(actions.get("upload") or actions.get("download") or {})

        return Actions(upload, verify if upload else None, download, time.monotonic() + lives_s)

    def _action(self, action: Mapping[str, Any] | None, answer: Mapping[str, Any]) -> Action | None:
        if action is None:
            return None
        plain = Action(str(action["href"]), {name: str(value) for name, value in (action.get("header") or {}).items()})
        return plain if answer.get("authenticated") else self._client.signed_in(plain)


def _lives_s(action: Mapping[str, Any]) -> float:
    """Return for how long the address of *action* is good."""
    if action.get("expires_in"):
        return float(action["expires_in"])
    try:
        return (datetime.fromisoformat(action["expires_at"]) - datetime.now(UTC)).total_seconds()
    except (KeyError, TypeError, ValueError):  # not given, or in a form that no standard names
        return float("inf")
