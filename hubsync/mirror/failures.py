"""Decides what a failure is, from what git, git-lfs, huggingface_hub or HTTP said: the first row that matches wins.

No I/O, no clock. Unknown failures keep the tool's own words and are retried. git's words are stable under LC_ALL=C.
"""

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from msgspec import Struct

from hubsync.errors import TASKS_HINT, DiskFullError, GitError, MirrorError, StateError
from hubsync.monitor.text import escape_unsafe

_SAID_CHARS = 600  # of a tool's words in a message; a captive portal's page is no news


class FailureRow(Struct, frozen=True):
    """A row: a pattern in what was said, and what it means. It is compiled with the first failure; most runs have none."""

    pattern: str
    error_kind: str
    retryable: bool
    hint: str = ""

    def is_in(self, said: str) -> bool:
        """Tell whether *said* has the pattern."""
        return re.search(self.pattern, said, re.IGNORECASE) is not None


def _row(pattern: str, error_kind: str, hint: str = "", *, retryable: bool = False) -> FailureRow:
    return FailureRow(pattern, error_kind, retryable, hint)


# It may answer anything, from a look to an upload. nginx takes 1 MB unless it is told otherwise.
_REQUEST_HINT = (
    "a proxy in front of the Hub, or the Hub, takes no request of this size; raise its limit (nginx: client_max_body_size)"
)
_SPLIT_HINT = "lower lfs.threshold so that the file goes through git-lfs"
_SIGN_IN_HINT = "check the endpoint's token: it may be wrong, expired or revoked"
_REACH_HINT = "check the endpoint's url, and that this machine reaches it; hubsync tries again by itself"
_WRITE_HINT = "give the token write access to this repository, or ask its owner"
_NAME_HINT = "check the repository's name, and that the token may see it"
_MOVED_HINT = "the repository or the Hub moved; change its address in the config"
_STORAGE_HINT = "free storage on the Hub or raise its limit"
ADDRESS_HINT = "the Hub's storage refused an address that the Hub gave; hubsync asks for a new one by itself"
_TROUBLE_HINT = "the Hub is in trouble or not yet ready; hubsync tries again by itself"
_PATIENCE_HINT = "hubsync waits as long as the Hub asks, and tries again by itself"
_RACE_HINT = "others publish at the same time; hubsync tries again by itself"
_PULL_HINT = "set pull_request = true on this mirror, or allow the token to push to this branch"

# What git says of a repository of ours, never of what a server sent it ("bad object at offset").
_DAMAGED = (
    r"(?m-i:^(?:error|fatal): (?!.*bad object at offset)"
    r"(?:inflate: |object file .* is empty|loose object .* is corrupt|packfile .*|bad (?:shallow line|object|tree object) "
    r"|(?:unable to|could not) (?:read|parse|unpack) (?:tree |commit |object )?[0-9a-f]{40}|.*\.lock': File exists"
    r"|not a git repository|missing blob ))"
)  # fmt: skip
_LACKS_OBJECT = "LFS pointer pointed to a file that does not exist"

# What tells more than a status does. Precedents: the Hub's own texts
# (https://github.com/huggingface/huggingface_hub/issues/138, /937, /1404 and /3049), git's transport.c and receive-pack.c.
WORDS: tuple[FailureRow, ...] = (
    # Of ours, whatever else is said for want of it; not by SIGPIPE, which is how it ends when the other side hangs up.
    _row(r"(?m:^error: .* died of signal (?!13\b)\d+)|^this machine: .*: killed by signal", "local_io",
         "a program of git was killed here; hubsync tries again by itself", retryable=True),
    _row(r"(?m:^(?!remote:).*Resource temporarily unavailable)", "local_io", TASKS_HINT, retryable=True),
    FailureRow(_DAMAGED, "local_io", retryable=True,
               hint="a repository of hubsync's own is damaged; see whether the disk of the state directory is whole"),
    _row(r"(?m:^\s*\(missing\) /)|Unable to stat local media path", "local_io",
         "an object of hubsync's own store is gone; see who removes files of the state directory", retryable=True),
    _row(r"\bspoiled: the bytes of", "spoiled", "the next state of the file is published instead", retryable=True),
    _row(r"\bwithout encryption: ", "tls", "the Hub's LFS API must name https addresses; ask whoever runs the Hub"),
    _row(r"\bstalled: no progress", "stalled", _REACH_HINT, retryable=True),
    _row(r"files larger than \d+ ?Mi?B?", "rejected", _SPLIT_HINT),
    _row(r"contains binary files", "rejected", "add the file's pattern to lfs.patterns"),
    _row(r"YAML metadata verification", "rejected", "mend the metadata at the top of README.md"),
    # Of its storage, never of the content: a pointer without its content is not captured.
    _row(_LACKS_OBJECT, "server", "the Hub lacks an object that it took; hubsync sends it again", retryable=True),
    _row(r"pack exceeds maximum|\bGH001\b|file size limit|enable upload of files > ?5 ?GB", "too_large",
         "the server refuses a file of this size; save it in smaller parts, or leave it out with exclude"),
    _row(r"no DAV locking support|git-http-push failed|not valid: is this a git repository", "server",
         "no git server answers, but perhaps a proxy or a login page; hubsync tries again by itself", retryable=True),
    _row(r"redirected without end|maximum allowed redirects", "server", _TROUBLE_HINT, retryable=True),
    # Whatever a storage has against an address of the Hub's, it is not the content.
    _row(r"\bstorage: HTTP (?:401|402|403|404|410|451)\b", "server", ADDRESS_HINT, retryable=True),
    _row(r"\bstorage: HTTP 50[79]\b", "quota", _STORAGE_HINT, retryable=True),
    _row(r"exceeded the rate limit for repository commits", "commit_quota",
         "hubsync waits by itself; a lower max_commits_per_hour on the mirror keeps clear of the limit", retryable=True),
    _row(r"storage (limit|quota)|(?<!disk )quota exceeded|insufficient server storage|bandwidth limit", "quota",
         _STORAGE_HINT),
    _row(r"protected branch|\bGH006\b|DENIED update|create_pr=1", "forbidden", _PULL_HINT),
    _row(r"unpacker error|remote unpack failed|remote:[^\n]*No space left", "server",
         "the server cannot store what it is sent; ask whoever runs it", retryable=True),
    _row(r"\[rejected\]|fetch first|non-fast-forward|cannot lock ref|failed to update ref|incorrect old value"
         r"|shallow update not allowed", "conflict", _RACE_HINT, retryable=True),
    _row(r"pre-receive hook declined|\[remote rejected\]", "rejected", "see what the Hub says of it"),
    _row(r"No space left on device|disk quota exceeded", "disk_full", "free space on the state directory", retryable=True),
    _row(r"^this machine: ", "local_io", "see what is wrong with the state directory and its file system", retryable=True),
)  # fmt: skip

# What a status means where nothing above is said: RFC 9110, RFC 4918 (423, 507), RFC 6585 (429), RFC 8470 (425).
STATUSES: dict[int, FailureRow] = {
    400: _row("", "rejected", "see what the Hub says of it", retryable=True),
    **dict.fromkeys((301, 302, 303, 307, 308), _row("", "not_found", _MOVED_HINT)),
    401: _row("", "auth", _SIGN_IN_HINT),
    402: _row("", "quota", "see the account's billing on the Hub"),
    403: _row("", "forbidden", _WRITE_HINT),
    **dict.fromkeys((404, 410), _row("", "not_found", _NAME_HINT)),
    407: _row("", "network", "a proxy on the way wants a login of its own", retryable=True),
    408: _row("", "timeout", _REACH_HINT, retryable=True),
    **dict.fromkeys((409, 412), _row("", "conflict", _RACE_HINT, retryable=True)),
    413: _row("", "too_large", _REQUEST_HINT),
    422: _row("", "rejected", "see what the Hub says of it"),
    423: _row("", "forbidden", "the repository is locked; ask its owner", retryable=True),
    429: _row("", "rate_limited", _PATIENCE_HINT, retryable=True),
    451: _row("", "forbidden", "the Hub withholds this repository; ask its operator"),
    **dict.fromkeys((507, 509), _row("", "quota", _STORAGE_HINT)),
}

# What is said without a status: git's http.c and connect.c, curl's strerror.c, git-lfs's lfshttp errors.
OTHER_WORDS: tuple[FailureRow, ...] = (
    _row(r"too many requests|rate limit", "rate_limited", _PATIENCE_HINT, retryable=True),
    _row(r"Authentication failed|could not read (Username|Password)|Unauthorized|Invalid (user token|username or password)"
         r"|Authentication required|bad credentials", "auth", _SIGN_IN_HINT),
    _row(r"Forbidden|not authorized|Authorization error|access denied", "forbidden", _WRITE_HINT),
    _row(r"entity too large", "too_large", _REQUEST_HINT),
    _row(r"not found|does not (appear to be a git repository|exist)", "not_found", _NAME_HINT),
    _row(r"certificate|x509|self.signed", "tls", "check the endpoint's certificate and the clock of this machine"),
    _row(r"redirect", "not_found", _MOVED_HINT),
    _row(r"server error|internal error", "server", _TROUBLE_HINT, retryable=True),
    _row(r"timed? ?out|too slow|Operation too slow", "timeout", _REACH_HINT, retryable=True),
    _row(r"Could not resolve|Connection refused|Couldn't connect|Failed to connect|Connection reset|Network is unreachable"
         r"|No route to host|unexpected EOF|early EOF|hung up|connection error|RPC failed|broken pipe|EOF\b|curl \d+"
         r"|SSL|TLS", "network", _REACH_HINT, retryable=True),
)  # fmt: skip

_OF_CONTENT = frozenset({"rejected", "too_large", "forbidden"})  # the last if a file is named: some scanners answer 403
_UNKNOWN = _row("", "server", _TROUBLE_HINT, retryable=True)

# As git ("The requested URL returned error: 403", "RPC failed; HTTP 500"), git-lfs ("from HTTP 413") and hubsync say it.
_STATUS = re.compile(r"(?:\bHTTP |\breturned error: )([1-5]\d\d)\b")
# A repository may be called run-404, and a transfer may end with 503 bytes to go.
_SAYS_NOTHING = re.compile(r"https?://[^\s'\"]+|\d+ bytes|stream \d+")
# git's frame around what the server said.
_SAYS_LITTLE = re.compile(
    r"To https?://|error: failed to push some refs|!\t|Done$|hint: |fatal: the remote end hung up"
    r"|error: unable to read askpass response|send-pack: unexpected disconnect"
)
_HUNG_UP = "the remote end hung up"
_PROGRESS = re.compile(
    r"(?:(?:Enumerating|Counting|Compressing|Writing|Receiving|Resolving|Unpacking) [a-z]+|Delta compression|Total)\b"
)
_OFFENDING = (  # a line each, as git pads them; or all in one line, as the API has them
    re.compile(r"^remote:\s+- (?P<path>.+?)(?: \(ref: .*\))?\s*$", re.MULTILINE),
    re.compile(r"- (?P<path>.+?) \(ref: [^)]*\)"),
)
_HELPER = re.compile(r"f\(\) \{.*\}; f (?:get|store|erase)\b")  # git names it by its source, see token
# After a 401 it asks a person, whom there is none; what the Hub said it keeps to itself.
_ASKS = re.compile(r"^fatal: could not read (?:Username|Password) for '([^']*)': .*$", re.MULTILINE)
_BETWEEN_REASONS = re.compile(r"^remote:\s+-{20,}\s*$", re.MULTILINE)
_BODY_WAIT = re.compile(r"retry(?: after| this action in about)\D{0,3}(\d+) ?(hour|minute|second|s\b)?", re.IGNORECASE)
_HEADER_WAIT = re.compile(r"Retry-After: ?([^;\n]+)", re.IGNORECASE)
_LIMIT_WAIT = re.compile(r"RateLimit: ?\"[^\"]*\";r=0;t=(\d+)", re.IGNORECASE)
_SECONDS = {"hour": 3600.0, "minute": 60.0}


class AskedWait(Struct, frozen=True):
    """The wait that a server asked for: for *seconds*, or *until* a time in seconds since the epoch; neither: none."""

    seconds: float | None = None
    until: float | None = None


def read_failure(doing: str, said: str) -> MirrorError:
    """Turn what a tool *said* while *doing* something into an error with kind, hint and the paths that it named."""
    asked = read_asked_wait(said)
    said = _first_reason(said)
    row = _find_row(said)
    failure = MirrorError(
        f"{doing}: {_shorten(said)}",
        error_kind=row.error_kind,
        retryable=row.retryable,
        hint=row.hint,
        retry_after_s=asked.seconds,
        paths=_read_paths(said),
    )
    failure.retry_at = asked.until
    failure.said = said
    failure.lacks_object = row.pattern == _LACKS_OBJECT

    return failure


def is_of_content(failure: MirrorError) -> bool:
    """Tell whether *failure* may be about single files, and not about the mirror."""
    return failure.error_kind in _OF_CONTENT


def is_refusal(failure: MirrorError) -> bool:
    """Tell whether *failure*, which is that of one object, refuses its content for good."""
    return is_of_content(failure) and not failure.retryable


def is_of_damage(failure: GitError | StateError | MirrorError) -> bool:
    """Tell whether a repository of ours may be what failed: git on it alone, or as git says when it talks to a server."""
    if isinstance(failure, MirrorError):
        return re.search(_DAMAGED, failure.said) is not None
    return not isinstance(failure, DiskFullError)


def read_asked_wait(said: str) -> AskedWait:
    """Return the wait that is asked for in the words of a body, or in headers that are among them.

    The body goes first: the Hub's commit quota comes with the headers of another limit, which still has requests left.
    """
    if found := _BODY_WAIT.search(said):
        return AskedWait(float(found[1]) * _SECONDS.get((found[2] or "").lower(), 1.0))
    if found := _HEADER_WAIT.search(said):
        return read_retry_after(found[1])
    if found := _LIMIT_WAIT.search(said):
        return AskedWait(float(found[1]))

    return AskedWait()


def read_retry_after(value: str) -> AskedWait:
    """Return the wait that a ``Retry-After`` header asks for: seconds or a date (RFC 9110, 10.2.3); else none."""
    value = value.strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return AskedWait(float(value))
    try:
        return AskedWait(until=parsedate_to_datetime(value).timestamp())
    except (ValueError, OverflowError):
        return AskedWait()


def _first_reason(said: str) -> str:
    """Return the first of several reasons that a Hub gives for one refusal, if it is a known one; else all that was *said*.

    What follows the last one is git's.
    """
    reasons = _BETWEEN_REASONS.split(said)[:-1]
    return next((reason for reason in reasons if any(row.is_in(reason) for row in WORDS)), said)


def _find_row(said: str) -> FailureRow:
    telling = _SAYS_NOTHING.sub("", said)
    if row := next((row for row in WORDS if row.is_in(telling)), None):
        return row
    if status := _STATUS.search(telling):
        return STATUSES.get(int(status[1]), _UNKNOWN)

    return next((row for row in OTHER_WORDS if row.is_in(telling)), _UNKNOWN)


def _read_paths(said: str) -> tuple[str, ...]:
    if "YAML metadata verification" in said:
        return ("README.md",)
    named = said.partition("Offending files:")[2]
    listed = (tuple(found["path"].strip() for found in form.finditer(named)) for form in _OFFENDING)

    return next(filter(None, listed), ())


def find_named(said: str, paths: Iterable[str]) -> tuple[str, ...]:
    """Return those of *paths* that are named in what was *said*: each Hub words a refusal of its own hooks as it likes.

    A name that may be a mere word counts in quotes only.
    """
    return tuple(path for path in paths if path in said and _naming(path).search(said))


def _naming(path: str) -> re.Pattern[str]:
    name = re.escape(path)
    if not set("./") & set(path):
        return re.compile(rf"(['\"`]){name}\1")
    return re.compile(rf"(?<![\w./-]){name}(?![\w/-]|\.\w)")


def _shorten(said: str) -> str:
    said = said.partition("\ngoroutine ")[0]  # git-lfs panics with the stack of every thread
    said = _HELPER.sub("the credential helper", said)
    said = _ASKS.sub(r"\1 answered 401: it wants a token, or another one", said)
    lines = [words for line in said.splitlines() if (words := line.removeprefix("remote:").strip(" -"))]
    lines = [line for line in lines if not _PROGRESS.match(line)]
    telling = [line for line in lines if not _SAYS_LITTLE.match(line)] or _least(lines)
    words = escape_unsafe("; ".join(telling))
    return words if len(words) <= _SAID_CHARS else words[:_SAID_CHARS] + " …"


def _least(lines: list[str]) -> list[str]:
    """Return what the *lines* of git's frame come to, where they are all that was said."""
    if any(_HUNG_UP in line for line in lines):
        return ["the server closed the connection without an answer"]
    return lines[-1:]
