"""Decides whether a file holds a token or a key: by its name, and by what stands in its bytes.

A table of rules, each with words to look for first, since that is quick and nearly all content has none of them.
Patterns follow what the issuers document; their ends are open, since in a pickle the next opcode may be a letter.
Knows names and bytes only. It must never return the secret itself, nor any part of it.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from msgspec import Struct
from pathspec import GitIgnoreSpec

HINT = "take it out (and revoke it), exclude the file, or name its path or sha256 in `secrets_allow`"

_HASH_PREFIX = "sha256:"
_WIDE = b"\0\0\0"  # between the letters of UTF-32; weights of two bytes hardly have it
_BEGIN = 8  # letters that tell where a secret stands
_SPARED = re.compile(r"\.env\.(?:example|sample|template|dist|defaults)|(?:example|sample|template)\.env")


def _as_regex(glob: str) -> str:
    """Return a regular expression for *glob*, whose star matches no slash, at the end of a path."""
    return re.escape(glob).replace(r"\*", "[^/]*") + r"\Z"


_NAMES = (  # lower case; one with a slash is the end of a path
    ("a dotenv file", (".env", ".env.*", "*.env", ".envrc")),
    ("a netrc file", (".netrc", "_netrc")),
    ("a private SSH key", ("id_rsa", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "*.ppk")),
    ("a key store", ("*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx")),
    (
        "a file of passwords",
        (".git-credentials", ".pgpass", ".htpasswd", ".pypirc", "kaggle.json", ".docker/config.json", ".dockercfg"),
    ),
    (
        "a file of cloud credentials",
        (
            ".aws/credentials",
            "gcloud/application_default_credentials.json",
            ".kube/config",
            "kubeconfig",
            "*.kubeconfig",
            ".s3cfg",
        ),
    ),
    ("a Hub token file", ("huggingface/token", "huggingface/stored_tokens", ".huggingface/token")),
)
# All globs in one expression: each path of a source is asked about, and nearly all are ordinary.
_SECRET_NAME = re.compile(
    "|".join(
        f"(?P<n{number}>{'|'.join(f'/{_as_regex(glob)}' for glob in globs)})" for number, (_, globs) in enumerate(_NAMES)
    ),
    re.DOTALL,
)


class Rule(NamedTuple):
    """One kind of secret: *words* that it begins with, and a pattern from there on whose named group is the secret."""

    name: str
    words: tuple[bytes, ...]
    pattern: bytes


class Secret(Struct, frozen=True):
    """Where a secret stands, and the rule that says so; ``line`` counts from 1 and is for text, ``offset`` from 0.

    A file, or a member of an archive, that is one by its name has neither.
    """

    rule: str
    offset: int | None = None
    line: int | None = None
    member: str | None = None

    @property
    def place(self) -> str:
        """The place as a person would say it."""
        inside = f" of {self.member}" if self.member else ""
        if self.offset is None:
            return f"the name{inside} says so" if self.member else "its name says so"

        return f"line {self.line}{inside}" if self.line is not None else f"byte {self.offset}{inside}"


class SecretRules(Struct, frozen=True):
    """What a target does with secrets, and the files (patterns, or hashes) that it lets through."""

    mode: Literal["block", "warn", "off"] = "block"
    allow: tuple[str, ...] = ()

    def allows_path(self, path: str) -> bool:
        """Tell whether a pattern lets *path* through."""
        patterns = [item for item in self.allow if not item.startswith(_HASH_PREFIX)]
        return bool(patterns) and GitIgnoreSpec.from_lines(patterns).match_file(path)

    def allows_hash(self, sha256: str) -> bool:
        """Tell whether the file with this hash (in hex) is let through."""
        return f"{_HASH_PREFIX}{sha256}" in self.allow

    @property
    def asks_for_hash(self) -> bool:
        """Whether any file is let through by its hash."""
        return any(item.startswith(_HASH_PREFIX) for item in self.allow)


def judge_name(path: str) -> Secret | None:
    """Return the secret that a file at *path* is, whatever it holds."""
    folded = f"/{path.casefold()}"
    found = _SECRET_NAME.search(folded)
    if found is None or _SPARED.fullmatch(folded.rpartition("/")[2]):
        return None

    return Secret(_NAMES[int((found.lastgroup or "n0")[1:])][0])


def find_secret(content: bytes) -> Secret | None:
    """Return the first secret in *content*, with its offset; also in text of four bytes a letter, as NumPy keeps it."""
    found = _find_plain(content)
    if found is None and _WIDE in content:
        narrow = content.replace(_WIDE + b"\0", b"\n").replace(_WIDE, b"")  # what fills up a text ends it
        found = _find_plain(narrow)
        if found is not None and found.offset is not None:
            begin = narrow[found.offset : found.offset + _BEGIN]
            offset = content.find(_WIDE.join(begin[at : at + 1] for at in range(len(begin))))
            return Secret(found.rule, offset) if offset >= 0 else None

    return found


def _find_plain(content: bytes) -> Secret | None:
    words = ((word, rule) for word, rule in _likely_words(content) if word in content)
    found = [(offset, rule.name) for word, rule in words for offset in _offsets(rule, word, content)]
    if not found:
        return None
    offset, name = min(found)

    return Secret(name, offset)


def _likely_words(content: bytes) -> Iterator[tuple[bytes, Rule]]:
    """Yield the words that may be in *content*: to look for each of them takes longer than all else that is done with it.

    It is one pass for each joint, and one for each rare byte, however many words they stand in.
    """
    for joint, words in _JOINED.items():
        ends = {part[-2:] for part in content.split(joint)}
        for end in words.keys() & ends:
            yield from words[end]
    for byte, rare in _RARE.items():
        if byte in content:
            yield from rare


def _offsets(rule: Rule, word: bytes, content: bytes) -> Iterator[int]:
    """Yield where the first secret of *rule* is that begins with *word*, if there is one."""
    at = content.find(word)
    while at >= 0:
        found = re.compile(rule.pattern, re.DOTALL).match(content, at)  # once: re keeps it, and most runs need none
        if found is not None:
            group = found.lastgroup or 0
            if not _is_placeholder(found[group]):
                yield found.start(group)
                return
        at = content.find(word, at + 1)


def _is_placeholder(secret: bytes) -> bool:
    """Tell whether *secret* is what documents put there: ``hf_xxxxxxxx``, ``sk-proj-********``, ``AKIA...EXAMPLE``."""
    folded = secret.lower()
    return len(set(folded[-16:]) - set(b"x*.0_-=")) == 0 or any(words in folded for words in _EXAMPLES)


# In the keys that AWS's own documents show, and the signature of the one JWT that all documents show.
_EXAMPLES = (b"example", b"sflkxwrjsmekkf2qt4")

# What stands before a token: nothing that could belong to it, or what ends in a letter or a digit all the same.
_BEFORE = (
    rb"(?<![A-Za-z0-9_\-+])",
    rb"(?<=\\[nrtfb0])",  # escaped in JSON and Python
    rb"(?<=\\x[0-9A-Fa-f]{2})",
    rb"(?<=\\u[0-9A-Fa-f]{4})",
    rb"(?<=%[0-9A-Fa-f]{2})",  # in a URL
    rb"(?<=[0-9;\[][mK])",  # a terminal's colours, as logs and notebooks have them
    rb"(?<=[\x00-\x08\x0e-\x1f\x81-\x8f].)",  # the length of a string: in a pickle, and in SQLite
    rb"(?<=\nV)",  # in an old pickle
)
_START = rb"(?:" + rb"|".join(_BEFORE) + rb")"
_VALUE = rb"[\"']?\s*[:=]\s*[\"']?"


RULES = (
    Rule(
        "a Hugging Face token",  # https://huggingface.co/docs/hub/security-tokens
        (b"hf_", b"api_org_"),
        _START + rb"(?P<s>(?:hf_|api_org_)[A-Za-z0-9]{30,}|hf_(?:oauth|jwt)_[A-Za-z0-9_.\-]{20,})",
    ),
    Rule(
        "a Hub token among training arguments",  # of a Hub whose tokens look otherwise; in a pickle, and in text
        (b"hub_token",),
        rb"hub_token(?:(?:q.|r.{4}|\x94|\np\d+\n)?(?:X.{4}|\x8c.|V)(?P<s>(?!<)[!-~]{8})|[\"']?\s*[:=]\s*[\"'](?P<t>[\w\-]{16,})[\"'])",
    ),
    Rule(
        "an AWS access key",  # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
        (b"AKIA", b"ASIA"),
        _START + rb"(?P<s>(?:AKIA|ASIA)[A-Z0-9]{16})(?![A-Z0-9])",
    ),
    Rule(
        "an AWS secret key",
        (b"secret_access_key", b"SECRET_ACCESS_KEY", b"SecretAccessKey", b"secretAccessKey"),
        rb"(?i)secret_?access_?key" + _VALUE + rb"(?P<s>[A-Za-z0-9/+=]{40})",
    ),
    Rule(
        "a GitHub token",  # https://github.blog/engineering/behind-githubs-new-authentication-token-formats/
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"),
        _START + rb"(?P<s>gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})",
    ),
    Rule("a GitLab token", (b"glpat-",), _START + rb"(?P<s>glpat-[A-Za-z0-9_\-]{20,})"),
    Rule(
        "an OpenAI or Anthropic key",
        (b"sk-",),
        _START
        + rb"(?P<s>sk-(?:(?:proj|svcacct|admin|ant-[a-z0-9]+)-[A-Za-z0-9_\-]{20,}|or-v1-[0-9a-f]{64}|[A-Za-z0-9]{48}))",
    ),
    Rule(
        "a Slack token",  # https://api.slack.com/concepts/token-types
        (b"xox", b"xapp-", b"hooks.slack.com"),
        _START
        + rb"(?P<s>xox[abeoprs]-[0-9]{6,}-[A-Za-z0-9\-]{10,}|xapp-[0-9]-[A-Z0-9]{6,}-[0-9]+-[a-z0-9]{10,}"
        + rb"|hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/]{20,})",
    ),
    Rule("a GCP service account", (b"private_key_id",), rb"private_key_id[\"']\s*:\s*[\"'](?P<s>[0-9a-f]{40})"),
    Rule("a Google API key", (b"AIza",), _START + rb"(?P<s>AIza[A-Za-z0-9_\-]{35})"),
    Rule(
        "a private key",  # PEM, also as one line of JSON; with what follows, since tokenizers know the mere words
        (b"-----BEGIN ",),
        rb"(?P<s>-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        rb"(?:\\r|\\n|\s)+[A-Za-z0-9+/]{4}(?![A-Za-z0-9+/]*\.\.\.))",
    ),
    Rule(
        "a Weights & Biases key",
        (b"wandb_api_key", b"WANDB_API_KEY", b"wandb_v1_"),
        rb"(?i)(?:wandb_api_key" + _VALUE + rb"(?P<s>[0-9a-z_]{40,})|(?P<t>wandb_v1_[A-Za-z0-9_]{40,}))",
    ),
    Rule(
        "a netrc entry",
        (b"machine",),
        rb"machine\s+\S{1,253}\s+login\s+\S{1,253}\s+password\s+(?P<s>[!-~]{16,})",
    ),
    Rule(
        "a token of a package registry",
        (b"npm_", b"pypi-AgE", b"_authToken"),
        _START + rb"(?P<s>npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_\-]{50,}|_authToken=[A-Za-z0-9_\-]{20,})",
    ),
    Rule("a Stripe key", (b"sk_live_", b"rk_live_"), _START + rb"(?P<s>[sr]k_live_[A-Za-z0-9]{20,})"),
    Rule("an Azure storage key", (b"AccountKey=",), rb"AccountKey=(?P<s>[A-Za-z0-9+/]{86}==)"),
    Rule("a Databricks token", (b"dapi",), _START + rb"(?P<s>dapi[0-9a-f]{32})"),
    Rule(
        "a key of a Kubernetes cluster",
        (b"client-key-data",),
        rb"client-key-data[\"']?\s*:\s*[\"']?(?P<s>[A-Za-z0-9+/]{60,})",
    ),
    Rule(
        "a signed token",  # RFC 7519; what a JSON object begins with in base64: {"alg":  {"typ":  {"kid":
        (b"eyJhbGciOi", b"eyJ0eXAiOi", b"eyJraWQiOi"),
        _START + rb"(?P<s>eyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{40,})",
    ),
    Rule(
        "a key of a machine-learning service",
        (b"nvapi-", b"gsk_", b"xai-", b"comet_api_key", b"COMET_API_KEY", b"neptune_api_token", b"NEPTUNE_API_TOKEN"),
        rb"(?i:(?:comet_api_key|neptune_api_token))"
        + _VALUE
        + rb"(?P<s>[A-Za-z0-9+/=]{25,})|"
        + _START
        + rb"(?P<t>nvapi-[A-Za-z0-9_\-]{60,}|gsk_[A-Za-z0-9]{40,}|xai-[A-Za-z0-9]{70,})",
    ),
    Rule("a Replicate token", (b"r8_",), _START + rb"(?P<s>r8_[A-Za-z0-9]{37})"),
)


def _group_words() -> tuple[dict[bytes, dict[bytes, list[tuple[bytes, Rule]]]], dict[int, list[tuple[bytes, Rule]]]]:
    """Return the words by the first joint in them and the two bytes before that; those without one by their rarest byte."""
    joined: dict[bytes, dict[bytes, list[tuple[bytes, Rule]]]] = {b"_": {}, b"-": {}}
    rare: dict[int, list[tuple[bytes, Rule]]] = {}
    for rule in RULES:
        for word in rule.words:
            joint = next((joint for joint in joined if word.find(joint) > 1), None)
            if joint is not None:
                joined[joint].setdefault(word.partition(joint)[0][-2:], []).append((word, rule))
            else:
                rare.setdefault(next(byte for byte in b"_-=KIJzxkpm" if byte in word), []).append((word, rule))

    return joined, rare


_JOINED, _RARE = _group_words()
