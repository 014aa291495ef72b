"""Owns the transfer agent's HTTP: requests that have a deadline for progress, and refusals as one kind of error.

What is not the LFS API is sent nothing but the headers that came with its address: the token never goes to another host,
with a redirect or without. It must never know what the bytes are.
"""

import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2

from hubsync.errors import HubsyncError

LFS_TYPE = "application/vnd.git-lfs+json"
_REDIRECTS = frozenset({301, 302, 307, 308})  # 303 asks for a GET, which stores nothing
_MOST_REDIRECTS = 5
_SAID_CHARS = 400  # of a body; a captive portal's page is no news
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

Body = Callable[[], Iterator[bytes]]  # called again for each time that the bytes have to be sent


class TransferError(HubsyncError):
    """A request failed. ``status`` is 0 if there was no answer; ``retry_after`` is the header as it came."""

    def __init__(self, message: str, *, status: int = 0, retry_after: str = "", is_general: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.is_general = is_general
        self.retryable = status in _TRY_AGAIN or not status


@dataclass(frozen=True, slots=True)
class Action:
    """Where to send something, with which headers."""

    href: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Client:
    """Sends to whatever an LFS API at *lfs_url* names; *authorization* is for that API's own host only."""

    def __init__(self, lfs_url: str, authorization: str | None, *, stall_s: float, connect_s: float) -> None:
        self._origin = _origin(lfs_url)
        self._authorization = authorization
        self._http = httpx2.Client(
            timeout=httpx2.Timeout(stall_s, connect=connect_s, pool=None),
            # The system's certificates, as git and git-lfs use them.
            verify=ssl.create_default_context(),
            trust_env=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=16),
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def signed_in(self, action: Action) -> Action:
        """Return *action* with the token, if it leads to the LFS API's host and brings no credentials of its own."""
        is_signed = any(name.lower() == "authorization" for name in action.headers)
        if self._authorization is None or is_signed or _origin(action.href) != self._origin:
            return action
        return Action(action.href, {**action.headers, "Authorization": self._authorization})

    def post(self, action: Action, content: object) -> Any:  # noqa: ANN401 - JSON
        """Post *content* as LFS wants it and return the answer's.

        Raises:
            TransferError: it was refused, or there is no answer.
        """
        body = json.dumps(content).encode()
        headers = {"Accept": LFS_TYPE, "Content-Type": LFS_TYPE, **action.headers}
        response = self._request("POST", Action(action.href, headers), lambda: iter((body,)), len(body))
        try:
            return response.json() if response.content else {}
        except ValueError:
            return {}

    def put(self, action: Action, body: Body, size: int) -> str:
        """Put the *size* bytes of *body*; follow redirects; return the answer's ETag.

        Raises:
            TransferError: it was refused, or there is no answer.
        """
        action = Action(action.href, {"Content-Type": "application/octet-stream", **action.headers})
        for _ in range(_MOST_REDIRECTS):
            response = self._request("PUT", action, body, size, allow=_REDIRECTS)
            if response.is_success:
                return str(response.headers.get("ETag", ""))
            action = _redirect(action, response)

        raise TransferError("redirected without end", status=response.status_code)

    def _request(
        self, method: str, action: Action, body: Body, size: int, allow: frozenset[int] = frozenset()
    ) -> httpx2.Response:
        headers = {**action.headers, "Content-Length": str(size)}
        try:
            response = self._http.request(method, action.href, headers=headers, content=body())
        except httpx2.ConnectTimeout as exc:
            raise TransferError("timed out: no connection") from exc
        except httpx2.TimeoutException as exc:
            raise TransferError(f"stalled: no progress for {self._http.timeout.read:.0f} s") from exc
        except (httpx2.TransportError, httpx2.InvalidURL) as exc:
            raise TransferError(f"connection error: {exc}") from exc
        if response.is_success or response.status_code in allow:
            return response

        raise _read_refusal(response)


def _redirect(action: Action, response: httpx2.Response) -> Action:
    goal = urljoin(action.href, response.headers.get("Location", ""))
    if urlsplit(goal).scheme not in {"https", urlsplit(action.href).scheme}:
        raise TransferError(f"redirected to {urlsplit(goal).scheme or 'nowhere'}", status=response.status_code)
    if _origin(goal) == _origin(action.href):
        return Action(goal, action.headers)
    return Action(goal, {"Content-Type": "application/octet-stream"})


def _read_refusal(response: httpx2.Response) -> TransferError:
    """Return what was refused: status, the wait that was asked for, and the answer's own words, in this order."""
    retry_after = str(response.headers.get("Retry-After", ""))
    said = " ".join((response.headers.get("X-Error-Message") or _words(response)).split())[:_SAID_CHARS]
    parts = [f"HTTP {response.status_code}", f"Retry-After: {retry_after}" if retry_after else "", said]

    return TransferError("; ".join(filter(None, parts)), status=response.status_code, retry_after=retry_after)


def _words(response: httpx2.Response) -> str:
    try:
        content = response.json()
        return str(content.get("message") or content.get("error") or content)
    except (ValueError, AttributeError):
        return response.text


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]
