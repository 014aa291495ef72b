"""Refuses what is too much, as the Hub does. Texts are the Hub's own.

https://huggingface.co/docs/hub/rate-limits, https://github.com/braindecode/braindecode/issues/947 (commits) and
https://github.com/huggingface/huggingface_hub/issues/3049 (storage). The commit limit says how long to wait in words only,
and its answer carries the headers of the request limit, with requests left: so it does on the Hub.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable

from hubsync.localhub.refusals import RefusedError

_HOUR_S = 3600


def too_many_requests(limit: int, wait_s: int) -> RefusedError:
    """Return the answer to one request too many."""
    return RefusedError(429, _TOO_MANY_REQUESTS.format(limit), headers={"Retry-After": str(wait_s)})


_TOO_MANY_REQUESTS = (
    "We had to rate limit you, you hit the quota of {} api requests per 5 minutes period. Upgrade to a PRO user or"
    " Team/Enterprise organization account (https://hf.co/pricing) to get higher limits."
    " See https://huggingface.co/docs/hub/rate-limits"
)


class CommitCounter:
    """Counts each repository's commits in the last hour."""

    def __init__(self) -> None:
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def count(self, repo: str, limit: int | None) -> None:
        """Count one commit; raises RefusedError if it is one too many."""
        if limit is None:
            return
        now = time.monotonic()
        with self._lock:
            times = self._times[repo]
            while times and times[0] <= now - _HOUR_S:
                times.popleft()
            if len(times) >= limit:
                raise RefusedError(429, _TOO_MANY_COMMITS.format(limit))
            times.append(now)


_TOO_MANY_COMMITS = (
    "You have exceeded the rate limit for repository commits ({} per hour). You can retry this action in about 1 hour."
    " If you're a new user, your limits will raise over time. Get in touch with us at website@huggingface.co if you need"
    " access now."
)


def check_storage(held: Iterable[int], added: int, limit: int | None, *, private: bool) -> None:
    """Raise RefusedError if objects of *added* bytes beside those *held* are too much."""
    if limit is not None and added and sum(held) + added > limit:
        raise RefusedError(403, _PRIVATE_FULL if private else _PUBLIC_FULL)


_PRIVATE_FULL = "Private repository storage limit reached, please upgrade your plan to increase your private storage limit."
_PUBLIC_FULL = (
    "Your storage patterns tripped our internal systems! Please contact us at website@huggingface.co so we can verify your"
    " account and unlock more storage for your use-case. Your storage limit has been reached."
)
