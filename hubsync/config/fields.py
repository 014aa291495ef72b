"""The types of single values: how each is read from a file, checked, and described to an editor.

Durations and sizes are text with a unit in a file, and plain numbers in the program: a file is read with a
``FileContext``, the program builds the same models without one. No value is ever repeated in a message.
"""

import fnmatch
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pathspec import GitIgnoreSpec
from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, ValidationInfo, WithJsonSchema

from hubsync.config.context import FileContext
from hubsync.config.rates import RATE_PATTERN, ROW_PATTERN, Rate, parse_rate
from hubsync.config.repo import NAME_PATTERN, RepoSpec, parse_name, parse_path_in_repo, parse_repo
from hubsync.config.schedule import Schedule, parse_schedule
from hubsync.config.units import DURATION_PATTERN, SHARE_PATTERN, SIZE_PATTERN, parse_duration, parse_share, parse_size
from hubsync.config.urls import URL_PATTERN
from hubsync.monitor.events import CATALOGUE

Policy = Literal["ours", "theirs", "halt"]

_POLICIES = ("ours", "theirs", "halt")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _read_path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise ValueError('must be a path in quotes; write e.g. "/data/runs/llama"')  # noqa: TRY004 - pydantic's contract

    return info.context.locate(value) if isinstance(info.context, FileContext) else Path(value)


def _in_file(parse: Callable[[object], Any]) -> Callable[[object, ValidationInfo], Any]:
    """Return a validator that parses what a file says, and takes the program's numbers as they are."""

    def read(value: object, info: ValidationInfo) -> Any:  # noqa: ANN401 - pydantic checks the type after it
        return value if info.context is None else parse(value)

    return read


def _parse_unless(kind: type, parse: Callable[[object], Any]) -> Callable[[object], Any]:
    def read(value: object) -> Any:  # noqa: ANN401 - as above
        return value if isinstance(value, kind) else parse(value)

    return read


def _at_least(least: float, spelt: str) -> Callable[[float], float]:
    def check(value: float) -> float:
        if value < least:
            raise ValueError(f'is too short; write at least "{spelt}"')

        return value

    return check


def _read_strings(value: object) -> object:
    """Turn one text into a list of one; a list is checked item by item afterwards."""
    return (value,) if isinstance(value, str) else value


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; write something, or leave the key out")

    return text


def _check_pattern(pattern: str) -> str:
    try:
        compiled = GitIgnoreSpec.from_lines([pattern]).patterns
    except Exception:  # noqa: BLE001 - re.error, IndexError and others, by pattern
        compiled = []
    if not compiled or compiled[0].include is None or _CONTROL.search(pattern):
        raise ValueError('is a pattern that matches nothing; write gitignore syntax, e.g. "*.tmp" or "logs/"')

    return pattern


def _check_allowed(item: str) -> str:
    if not item.startswith("sha256:"):
        return _check_pattern(item)
    if not re.fullmatch("sha256:[0-9a-f]{64}", item):
        raise ValueError('is no hash of a file; write "sha256:" and the 64 digits that sha256sum prints')

    return item


def _check_glob(pattern: str) -> str:
    _check_pattern(pattern)
    if pattern.startswith("!") or ".." in pattern.split("/"):
        raise ValueError('must be a glob below the source, without "!" and ".."; write e.g. "checkpoint-*"')

    return pattern


def _read_policies(value: object) -> object:
    if isinstance(value, str) and value in _POLICIES:
        return {"*": value}
    if not isinstance(value, dict):
        raise ValueError('must be "ours", "theirs", "halt" or a table such as { "README.md" = "theirs" }')  # noqa: TRY004 - as above

    return value


def _check_policies(policies: dict[str, Policy]) -> dict[str, Policy]:
    for pattern in policies:
        _check_pattern(pattern)

    return policies


def _check_variable(text: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError('is no name of an environment variable; write e.g. "HF_TOKEN", never the token itself')

    return text


def _check_credential(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_][A-Za-z0-9._-]{0,254}", text):
        raise ValueError("is no name of a systemd credential; write the one in LoadCredential=NAME:PATH")

    return text


def _check_events(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise ValueError('is empty; name at least one event, e.g. ["mirror.parked", "target.*"]')
    for pattern in patterns:
        if not fnmatch.filter(CATALOGUE, pattern):
            close = get_close_matches(pattern, CATALOGUE, n=1)
            cure = f"did you mean {close[0]!r}?" if close else "`hubsync events` lists them"
            raise ValueError(f"has a name that no event has; {cure}")

    return patterns


def _check_ping(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s@]+", url):
        raise ValueError('must be a URL without a user in it; write e.g. "https://hc.example.com/ping/..."')

    return url


_DURATION_SCHEMA = {"type": "string", "pattern": DURATION_PATTERN, "examples": ["30s", "5m", "1h30m", "2d"]}
_SIZE_SCHEMA = {"type": "string", "pattern": SIZE_PATTERN, "examples": ["0", "10MB", "16MiB", "50GB"]}
_RATE_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": RATE_PATTERN},
        {"type": "array", "items": {"type": "string", "pattern": ROW_PATTERN}, "minItems": 1},
    ],
    "examples": ["0", "80MB/s", ["mon-fri 09:00-18:00 20MB/s", "0"]],
}
_POLICY_SCHEMA = {"type": "string", "enum": list(_POLICIES)}

# What a duration of zero would mean is said by the keys that take it; waits and periods need some length.
Seconds = Annotated[float, BeforeValidator(_in_file(parse_duration)), WithJsonSchema(_DURATION_SCHEMA)]
PositiveSeconds = Annotated[Seconds, AfterValidator(_at_least(0.001, "1ms")), WithJsonSchema(_DURATION_SCHEMA)]
Period = Annotated[Seconds, AfterValidator(_at_least(1, "1s")), WithJsonSchema(_DURATION_SCHEMA)]
Bytes = Annotated[int, BeforeValidator(_in_file(parse_size)), WithJsonSchema(_SIZE_SCHEMA)]
Share = Annotated[
    float,
    BeforeValidator(_in_file(parse_share)),
    WithJsonSchema({"type": "string", "pattern": SHARE_PATTERN, "examples": ["0%", "5%", "100%"]}),
]
UploadRate = Annotated[InstanceOf[Rate], BeforeValidator(_parse_unless(Rate, parse_rate)), WithJsonSchema(_RATE_SCHEMA)]
When = Annotated[
    InstanceOf[Schedule],
    BeforeValidator(_parse_unless(Schedule, parse_schedule)),
    WithJsonSchema({"type": "string", "examples": ["15m", "*/10 * * * *", "@hourly", "@daily", "@weekly", "manual"]}),
]

DiskPath = Annotated[Path, BeforeValidator(_read_path), WithJsonSchema({"type": "string", "minLength": 1})]
PathInRepo = Annotated[
    InstanceOf[PurePosixPath], BeforeValidator(parse_path_in_repo), WithJsonSchema({"type": "string", "default": ""})
]
Repo = Annotated[
    InstanceOf[RepoSpec],
    BeforeValidator(_parse_unless(RepoSpec, parse_repo)),
    WithJsonSchema({"type": "string", "examples": ["acme/llama", "onprem:datasets/team/corpus@dev"]}),
]
Name = Annotated[str, BeforeValidator(parse_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
Url = Annotated[str, WithJsonSchema({"type": "string", "pattern": URL_PATTERN, "examples": ["https://huggingface.co"]})]

Text = Annotated[str, AfterValidator(_check_text)]
Strings = Annotated[tuple[Text, ...], Field(strict=False)]  # a TOML list is no tuple; its items stay strict
OneOrMany = Annotated[
    Strings,
    BeforeValidator(_read_strings),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Patterns = Annotated[tuple[Annotated[str, AfterValidator(_check_pattern)], ...], Field(strict=False)]
Allowed = Annotated[tuple[Annotated[str, AfterValidator(_check_allowed)], ...], Field(strict=False)]
Globs = Annotated[tuple[Annotated[str, AfterValidator(_check_glob)], ...], Field(strict=False)]
Policies = Annotated[
    dict[str, Policy],
    BeforeValidator(_read_policies),
    AfterValidator(_check_policies),
    WithJsonSchema({"anyOf": [_POLICY_SCHEMA, {"type": "object", "additionalProperties": _POLICY_SCHEMA}]}),
]
Events = Annotated[Strings, AfterValidator(_check_events)]
PingUrl = Annotated[str, AfterValidator(_check_ping)]
Variable = Annotated[str, AfterValidator(_check_variable)]
Credential = Annotated[str, AfterValidator(_check_credential)]
