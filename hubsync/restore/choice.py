"""Decides from which mirror a piece comes next, and when a mirror that failed is asked again. Knows time as a number."""

from msgspec import Struct, field

from hubsync.mirror.agent_client import TransferError
from hubsync.restore.get import OtherSizeError

MOST_FAILURES = 7  # in a row, with nothing got between them: half a minute or more
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
_LONGEST_ASKED_S = 300.0
_STALE = frozenset({400, 401, 403, 404, 410})  # how storage says that an address has expired
_WINDOW_S = 5.0  # in which a mirror shows how fast it is
_SLOWER = 4  # times: then another one is worth a new connection
_UNKNOWN_RATE = 256_000.0  # bytes per second that a mirror is trusted with which has not shown yet
_SLOW_S = 60.0  # how long a slow one comes last
_NOT_LET_IN = frozenset({401, 403})
_LACKS = frozenset({404, 410, 422})


class Health(Struct):
    """How a mirror does: *out* says why it is not asked any more."""

    name: str
    failures: int = 0
    not_before: float = 0.0
    out: TransferError | None = None
    last: TransferError | None = None
    rate: float | None = None  # bytes per second, over all connections, as last seen
    slow_until: float = 0.0
    _active: int = 0
    _since: float = 0.0
    _bytes: int = 0

    def note_begun(self, now: float) -> None:
        """A transfer begins; how fast it is counts from here if there was none."""
        if self._active == 0:
            self._since, self._bytes = now, 0
        self._active += 1

    def note_ended(self) -> None:
        """A transfer has ended."""
        self._active -= 1

    def note_bytes(self, count: int) -> None:
        """Bytes came."""
        self.failures = 0
        self._bytes += count

    def judge(self, others: "list[Health]", now: float) -> bool:
        """Tell, once in a while, whether it is so much slower than one of *others* that it is to be left."""
        if self._active == 0 or now < max(self._since + _WINDOW_S, self.slow_until):
            return False
        self.rate = self._bytes / (now - self._since)
        self._since, self._bytes = now, 0
        better = [
            each
            for each in others
            if each is not self and each.out is None and max(each.not_before, each.slow_until) <= now
        ]
        if not any((_UNKNOWN_RATE if each.rate is None else each.rate) > _SLOWER * self.rate for each in better):
            return False
        self.slow_until = now + _SLOW_S

        return True

    def note_failure(self, error: TransferError, now: float) -> None:
        """A request failed; those that fail together count once."""
        self.last = error
        if error.status in _NOT_LET_IN or (error.is_general and not error.retryable):
            self.out = error
            return
        if now < self.not_before:
            return
        self.failures += 1
        wait_s = min(_FIRST_WAIT_S * 2 ** (self.failures - 1), _LONGEST_WAIT_S)
        asked_s = min(float(error.retry_after), _LONGEST_ASKED_S) if error.retry_after.isdigit() else 0.0
        self.not_before = now + max(wait_s, asked_s)
        if self.failures >= MOST_FAILURES:
            self.out = error


class Refusals(Struct):
    """Why a piece is not had from some mirrors: they lack it, or gave other bytes."""

    reasons: dict[str, TransferError] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    only: str | None = None  # the mirror that is to give it all: two have given bytes that do not fit together

    def note_wrong(self, mirrors: set[str], count: int) -> None:
        """Bytes from *mirrors*, out of *count* there are, were not those that were wanted."""
        if len(mirrors) > 1:
            self.only = min(mirrors)
            return
        for name in mirrors:
            self.wrong[name] = self.wrong.get(name, 0) + 1
            if count > 1 or self.wrong[name] > 1:
                self.reasons[name] = TransferError(f"{name} gave other bytes than the hash says", status=422)
        self.only = None


def is_stale(error: TransferError) -> bool:
    """Tell whether a fresh address may be better."""
    return error.status in _STALE and not error.is_general


def lacks_piece(error: TransferError) -> bool:
    """Tell whether the mirror does not have just this."""
    return error.status in _LACKS and not error.is_general


def pick(mirrors: list[Health], refusals: Refusals, now: float) -> tuple[Health | None, float]:
    """Return the mirror to ask, or how long to wait for one; neither (``None``, 0) if there is none left."""
    left = [mirror for mirror in mirrors if mirror.out is None and mirror.name not in refusals.reasons]
    if refusals.only is not None:
        left = [mirror for mirror in left if mirror.name == refusals.only] or left
    well = [mirror for mirror in left if mirror.not_before <= now]
    ready = next((mirror for mirror in well if mirror.slow_until <= now), well[0] if well else None)
    if ready is not None or not left:
        return ready, 0.0

    return None, min(mirror.not_before for mirror in left) - now


def gave_wrong(mirrors: list[Health], refusals: Refusals) -> list[str]:
    """Return the mirrors that gave other bytes for a piece, if no mirror could still give the right ones; else none."""
    if any(mirror.name not in refusals.reasons for mirror in mirrors):
        return []
    other_size = {name for name, reason in refusals.reasons.items() if isinstance(reason, OtherSizeError)}

    return [mirror.name for mirror in mirrors if refusals.wrong.get(mirror.name) or mirror.name in other_size]


def why_not(mirrors: list[Health], refusals: Refusals) -> TransferError:
    """Return why a piece cannot be had."""
    reasons = {mirror.name: refusals.reasons.get(mirror.name) or mirror.out or mirror.last for mirror in mirrors}
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason is not None)
    known = [reason for reason in reasons.values() if reason is not None]
    return TransferError(told or "no mirror has it", status=known[0].status if known else 404)
