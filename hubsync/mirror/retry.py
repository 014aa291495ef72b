"""Decides when a failed mirror is tried again: exponential with full jitter, capped; permanent failures less often."""

from collections.abc import Collection

_FIRST_S = 2.0
_LONGEST_S = 900.0
_LONGEST_LOCAL_S = 60.0
_PARKED_S = 3600.0  # a permanent failure is tried again this often, in case somebody mended it
# At first sooner: not all that a server says for good is meant so, and who mends it does not wait an hour.
_PARKED_FIRST_S, _PARKED_GROWTH = 60.0, 5.0
_ASKED_S = 5.0  # a shorter wait than this is no reason to ask more often than we would by ourselves
_REFUSED_S = 30.0
# How often it is seen whether what parked a mirror was mended: who does that perhaps waits for it, at first.
_FIRST_LOOK_S, _LAST_LOOK_S = 10.0, 300.0
_OF_FILES = frozenset({"rejected", "too_large", "spoiled"})
# What a person may mend where it shows: in the repository, or in what a token command gives.
_SEEN = frozenset({"auth", "not_found", "forbidden", "conflict", "rejected"})
_RESTARTED_S = 5.0  # who restarts hubsync has perhaps mended something


def left_after_restart_s(left_s: float, *, retryable: bool, is_asked: bool) -> float:
    """Return what a restart leaves of a wait of *left_s*: all that the Hub asked for, a little of our own.

    What is permanent is tried at once: a restart is how people make a mended config or token take effect.
    """
    if not retryable:
        return 0.0
    return max(0.0, min(left_s, _PARKED_S if is_asked else _RESTARTED_S))


def next_try_s(attempt: int, *, retryable: bool, asked_s: float | None, luck: float, is_local: bool = False) -> float:
    """Return seconds to wait before the next try.

    Args:
        attempt: how many tries have failed in a row, from 1.
        retryable: whether the failure may go away with nothing changed here.
        asked_s: the wait that the Hub asked for; it is kept, up to an hour, unless it is next to none.
        luck: a random number in [0, 1); full jitter as in
            https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        is_local: whether it is a failure of this machine, such as a full disk: to look at that again bothers no Hub.
    """
    if asked_s is not None and asked_s >= _ASKED_S:
        return min(asked_s, _PARKED_S) + luck
    if not retryable:
        return min(_PARKED_S, _PARKED_FIRST_S * _PARKED_GROWTH ** min(attempt - 1, 10))
    ceiling = min(_LONGEST_LOCAL_S if is_local else _LONGEST_S, _FIRST_S * 2.0 ** min(attempt - 1, 30))

    return max(asked_s or 0.0, 0.5, ceiling * luck)


def next_look_s(error_kind: str, looks: int) -> float | None:
    """Return after how many seconds to see whether what parked a mirror was mended; ``None``: that does not show.

    *looks* is how often that was done since it was parked.
    """
    if error_kind not in _SEEN:
        return None
    return min(_LAST_LOOK_S, _FIRST_LOOK_S * 2.0 ** min(looks, 10))


def next_refused_try_s(attempt: int, kinds: Collection[str]) -> float:
    """Return seconds to wait before files are sent again that were refused for the *attempt*-th time, from 1.

    What is wrong with a file itself stays wrong, and to send it may cost an upload.
    """
    if set(kinds) <= _OF_FILES:
        return _PARKED_S
    return min(_PARKED_S, _REFUSED_S * 2.0 ** min(attempt - 1, 30))
