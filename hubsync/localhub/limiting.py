"""Counts each user's API requests, and says in every answer what is left."""

import math
import time
from collections import defaultdict

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubsync.localhub.calls import Hub, answer_refusal
from hubsync.localhub.limits import too_many_requests

_WINDOW_S = 300


class LimitMiddleware:
    """Counts each user's API requests in windows of five minutes, and says in every answer what is left."""

    def __init__(self, app: ASGIApp, hub: Hub) -> None:
        self._app = app
        self._hub = hub
        self._window_end = 0.0
        self._counts: defaultdict[str, int] = defaultdict(int)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        limit = self._hub.settings.requests_per_window
        if limit is None or scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        used, wait_s = self._count(request.headers.get("authorization", ""))
        headers = {
            "RateLimit": f'"api";r={max(limit - used, 0)};t={wait_s}',
            "RateLimit-Policy": f'"fixed window";"api";q={limit};w={_WINDOW_S}',
        }

        async def send_with_limit(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        if used > limit:
            refused = too_many_requests(limit, wait_s)
            await answer_refusal(request, refused)(scope, receive, send_with_limit)
        else:
            await self._app(scope, receive, send_with_limit)

    def _count(self, user: str) -> tuple[int, int]:
        """Return which request of this window this is, and how long the window lasts."""
        now = time.monotonic()
        if now >= self._window_end:
            self._window_end = now + _WINDOW_S
            self._counts.clear()
        self._counts[user] += 1

        return self._counts[user], math.ceil(self._window_end - now)
