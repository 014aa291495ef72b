"""Decides what a failure is, from what git, git-lfs, huggingface_hub or HTTP said: one table, the first row wins.

No I/O. Unknown failures keep the tool's own words and are retried. git's words are stable under LC_ALL=C.
"""

import re
from dataclasses import dataclass

from hubsync.errors import MirrorError

_SAID_CHARS = 600  # of a tool's words in a message; a captive portal's page is no news


@dataclass(frozen=True, slots=True)
class FailureRow:
    """One row: a pattern in what was said, and what it means."""

    pattern: re.Pattern[str]
    error_kind: str
    retryable: bool
    hint: str = ""


def _row(pattern: str, error_kind: str, hint: str = "", *, retryable: bool = False) -> FailureRow:
    return FailureRow(re.compile(pattern, re.IGNORECASE), error_kind, retryable, hint)


_SPLIT_HINT = "lower lfs.threshold so that the file goes through git-lfs"
_SIGN_IN_HINT = "check the endpoint's token: it may be wrong, expired or revoked"
_REACH_HINT = "check the endpoint's url, and that this machine reaches it; hubsync tries again by itself"
_WRITE_HINT = "give the token write access to this repository, or ask its owner"

_LACKS_OBJECT = "LFS pointer pointed to a file that does not exist"

# Precedents: the Hub's pre-receive texts (https://github.com/huggingface/huggingface_hub/issues/138 and /1404), git's
# transport.c and http.c, git-lfs's lfshttp errors, and RFC 9110's status codes.
FAILURES: tuple[FailureRow, ...] = (
    _row(r"\bspoiled: the bytes of", "spoiled", "the next state of the file is published instead", retryable=True),
    _row(r"\bstalled: no progress", "stalled", _REACH_HINT, retryable=True),
    _row(r"files larger than \d+ ?Mi?B?", "rejected", _SPLIT_HINT),
    _row(r"contains binary files", "rejected", "add the file's pattern to lfs.patterns"),
    _row(r"YAML metadata verification", "rejected", "mend the metadata at the top of README.md"),
    _row(_LACKS_OBJECT, "rejected", retryable=True),
    _row(r"exceeded the rate limit for repository commits", "commit_quota", retryable=True),
    _row(r"storage (limit|quota)|(?<!disk )quota exceeded|insufficient server storage|bandwidth limit|\b(507|509)\b",
         "quota", "free storage on the Hub or raise its limit"),
    _row(r"\[rejected\]|fetch first|non-fast-forward|cannot lock ref|failed to update ref|incorrect old value"
         r"|shallow update not allowed|remote unpack failed|\b412\b|\b409\b", "conflict", retryable=True),
    _row(r"protected branch|GH006", "rejected", "allow the token to push to this branch"),
    _row(r"pre-receive hook declined|\[remote rejected\]", "rejected", "see what the Hub says of it"),
    _row(r"\b429\b|too many requests|rate limit", "rate_limited", retryable=True),
    _row(r"Authentication failed|could not read (Username|Password)|\b401\b|Unauthorized|Invalid (user token|username or"
         r" password)|Authentication required|bad credentials", "auth", _SIGN_IN_HINT),
    _row(r"\b403\b|Forbidden|not authorized|Authorization error|access denied", "forbidden", _WRITE_HINT),
    _row(r"\b413\b|entity too large", "too_large", "the server refuses a file of this size"),
    _row(r"HTTP 422\b", "rejected", "see what the Hub says of this file"),
    _row(r"\b40[48]\b|\b410\b|not found|does not (appear to be a git repository|exist)", "not_found",
         "check the repository's name, and that the token may see it"),
    _row(r"certificate|x509|self.signed", "tls", "check the endpoint's certificate and the clock of this machine"),
    _row(r"redirect|\b30[1278]\b", "not_found", "the repository or the Hub moved; change its address in the config"),
    _row(r"No space left on device|disk quota exceeded", "disk_full", "free space on the state directory", retryable=True),
    _row(r"\b5\d\d\b|server error|internal error", "server", retryable=True),
    _row(r"timed? ?out|too slow|Operation too slow", "timeout", retryable=True),
    _row(r"Could not resolve|Connection refused|Couldn't connect|Failed to connect|Connection reset|Network is unreachable"
         r"|No route to host|unexpected EOF|early EOF|hung up|connection error|RPC failed|broken pipe|EOF\b|curl \d+"
         r"|SSL|TLS", "network", _REACH_HINT, retryable=True),
)  # fmt: skip

# A repository may be called run-404, and a transfer may end with 503 bytes to go.
_SAYS_NOTHING = re.compile(r"https?://[^\s'\"]+|\d+ bytes|stream \d+")
_OFFENDING = re.compile(r"^remote:\s+- (?P<path>.+?)(?: \(ref: .*\))?\s*$", re.MULTILINE)  # git pads each line
_RETRY_AFTER = re.compile(r"retry(?:[- ]after| this action in about)\D{0,3}(\d+) ?(hour|minute|second|s\b)?", re.IGNORECASE)
_SECONDS = {"hour": 3600.0, "minute": 60.0}


def read_failure(doing: str, said: str) -> MirrorError:
    """Turn what a tool *said* while *doing* something into an error with kind, hint and the paths that it named."""
    words = _shorten(said)
    telling = _SAYS_NOTHING.sub("", said)
    row = next((row for row in FAILURES if row.pattern.search(telling)), None)
    if row is None:
        return MirrorError(f"{doing}: {words}", error_kind="server", retryable=True)

    failure = MirrorError(
        f"{doing}: {words}",
        error_kind=row.error_kind,
        retryable=row.retryable,
        hint=row.hint,
        retry_after_s=_retry_after_s(said),
        paths=_read_paths(said),
    )
    failure.lacks_object = row.pattern.pattern == _LACKS_OBJECT

    return failure


def _read_paths(said: str) -> tuple[str, ...]:
    if "YAML metadata verification" in said:
        return ("README.md",)
    return tuple(found["path"].strip() for found in _OFFENDING.finditer(said.partition("Offending files:")[2]))


def _retry_after_s(said: str) -> float | None:
    found = _RETRY_AFTER.search(said)
    return float(found[1]) * _SECONDS.get((found[2] or "").lower(), 1.0) if found else None


def _shorten(said: str) -> str:
    said = said.partition("\ngoroutine ")[0]  # git-lfs panics with the stack of every thread
    lines = [line.removeprefix("remote:").strip(" -") for line in said.splitlines()]
    words = "; ".join(line for line in lines if line)
    return words if len(words) <= _SAID_CHARS else words[:_SAID_CHARS] + " …"
