"""Decides when a failed mirror is tried again: exponential with full jitter, capped; permanent failures hourly."""

_FIRST_S = 2.0
_LONGEST_S = 900.0
_PARKED_S = 3600.0  # a permanent failure is tried again this often, in case somebody mended it
_RESTARTED_S = 5.0  # who restarts hubsync has perhaps mended something


def left_after_restart_s(left_s: float, *, retryable: bool, is_asked: bool) -> float:
    """Return what a restart leaves of a wait of *left_s*: all that the Hub asked for, a little of our own.

    What is permanent is tried at once: a restart is how people make a mended config or token take effect.
    """
    if not retryable:
        return 0.0
    return max(0.0, min(left_s, _PARKED_S if is_asked else _RESTARTED_S))


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
