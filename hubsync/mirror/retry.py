"""Decides when a failed mirror is tried again: exponential with full jitter, capped; permanent failures hourly."""

_FIRST_S = 2.0
_LONGEST_S = 900.0
_PARKED_S = 3600.0  # a permanent failure is tried again this often, in case somebody mended it


def next_try_s(attempt: int, *, retryable: bool, asked_s: float | None, luck: float) -> float:
    """Return seconds to wait before the next try.

    Args:
        attempt: how many tries have failed in a row, from 1.
        retryable: whether the failure may go away with nothing changed here.
        asked_s: the wait that the Hub asked for; it is kept, up to an hour.
        luck: a random number in [0, 1); full jitter as in
            https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    if asked_s is not None:
        return min(asked_s, _PARKED_S) + luck
    if not retryable:
        return _PARKED_S
    ceiling = min(_LONGEST_S, _FIRST_S * 2.0 ** min(attempt - 1, 30))

    return max(0.5, ceiling * luck)
