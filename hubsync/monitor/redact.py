"""Takes credentials out of text: the last step before anything is written where others may read it.

It knows the shapes of credentials and the literal values it was given; it knows nothing of what the text is about.
It works on final strings, so that a traceback, a dict in a dict or another library's message cannot go round it.
"""

import base64
import json
import re
from threading import Lock
from urllib.parse import quote

MASK = "[redacted]"

# A shorter "secret" would blot out ordinary words.
_MIN_SECRET_CHARS = 6

_VALUE = r"[^&\s\"'\\<>]+"

# A word that must stand in the text, in lower case, for the pattern to be tried: most text holds none of them.
# Values end at a space, a quote or a backslash, so that the JSON or the repr around them stays whole.
_SHAPES = tuple(
    (words, re.compile(pattern), replacement)
    for words, pattern, replacement in (
        # User and organisation tokens; no \b before them, since "\nhf_..." may come escaped, as "\\nhf_...".
        (("hf_", "api_org_"), r"(?:hf_(?:oauth|jwt)_[\w.\-]+|(?:hf|api_org)_[A-Za-z0-9]{10,})", MASK),
        (
            ("authorization",),
            r"(?i)\b(authorization\\?[\"']?\s*[:=]\s*(?:b?\\?[\"'])?(?:(?:bearer|basic|token)\s+)?)[^\s\"'\\,;]+",
            rf"\1{MASK}",
        ),
        (("bearer", "basic"), r"(?i)\b(bearer|basic)(\s+)(?!auth)[A-Za-z0-9+/=._~\-]{6,}", rf"\1\2{MASK}"),
        (("://",), r"://[^/?#\s\"\\<>]*@", f"://{MASK}@"),
        # Signed URLs are credentials too: an LFS upload needs nothing else. Go writes "&" as "\u0026".
        (("x-amz-", "x-goog-"), rf"(?i)(X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)=){_VALUE}", rf"\1{MASK}"),
        (("signature=",), rf"(?i)((?<![a-z])Signature=){_VALUE}", rf"\1{MASK}"),
        (
            ("sig=", "token=", "key=", "password=", "secret="),
            rf"(?i)((?:[?&]|\\u0026)(?:sig|token|access_token|api_key|password|secret)=){_VALUE}",
            rf"\1{MASK}",
        ),
        (("private key",), r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[^\"'\\<>{}]|\\[nr])*", MASK),
    )
)
_SECRET_NAME = re.compile(r"(?i)(?:authorization|cookie|password|passwd|api_?key|private_?key|(?:^|[_-])(?:token|secret))$")


def is_secret_name(name: str) -> bool:
    """Tell whether a value called *name* is a credential, whatever it looks like."""
    return _SECRET_NAME.search(name) is not None


class Redactor:
    """Masks credentials by their shape, and the registered ones by their value in every common encoding."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._spellings: frozenset[str] = frozenset()
        self._literals: re.Pattern[str] | None = None

    def register(self, secret: str) -> None:
        """Mask *secret* from now on, also encoded; too short ones are ignored."""
        secret = secret.strip()
        if len(secret) < _MIN_SECRET_CHARS:
            return

        with self._lock:
            self._spellings |= _spellings(secret)
            longest_first = sorted(self._spellings, key=lambda spelling: (-len(spelling), spelling))
            self._literals = re.compile("|".join(map(re.escape, longest_first)))

    def redact(self, text: str) -> str:
        """Return *text* without credentials."""
        if self._literals is not None:
            text = self._literals.sub(MASK, text)
        lowered = text.lower()
        for words, pattern, replacement in _SHAPES:
            if any(word in lowered for word in words):
                text = pattern.sub(replacement, text)

        return text


def _spellings(secret: str) -> frozenset[str]:
    """Return how *secret* may stand in a text: as it is, in JSON, in a repr, in a URL, in base64."""
    plain = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""), quote(secret)}
    encoded = {_base64_core(secret.encode("utf-8", "surrogateescape"), before) for before in range(3)}
    url_safe = {core.translate(str.maketrans("+/", "-_")) for core in encoded}
    return frozenset(spelling for spelling in plain | encoded | url_safe if len(spelling) >= _MIN_SECRET_CHARS)


def _base64_core(secret: bytes, before: int) -> str:
    """Return the base64 digits that *secret* always has when *before* bytes (modulo three) precede it.

    Basic credentials encode ``user:token``; the user shifts the digits, but only by these three ways. Digits that
    also depend on a neighbour are left out.
    """
    bits_before, bits_after = 8 * before, 8 * (before + len(secret))
    encoded = base64.b64encode(bytes(before) + secret).decode("ascii")
    return encoded[-(-bits_before // 6) : bits_after // 6]


_redactor = Redactor()
register_secret = _redactor.register
redact = _redactor.redact
