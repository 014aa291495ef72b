"""Decides what the Hub takes into git, and words its refusals as the Hub does.

Pure: it sees paths, sizes and content, no repository. The texts are those that users of huggingface.co have reported:
https://github.com/huggingface/huggingface_hub/issues/1404, https://github.com/huu4ontocord/MDEL/issues/34 and
https://github.com/qdonnars/ohmywind/pull/289.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from msgspec import Struct

from hubsync.localhub.licenses import LICENSES

CARD = "README.md"
REGULAR_MAX_BYTES = 10 * 1024 * 1024  # above, a file must be in LFS
POINTER_MAX_BYTES = 1024  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_SNIFFED_BYTES = 8000  # as much as git itself looks at to call a file binary

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]+\n)*oid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n"
)
_OID = re.compile(r"[0-9a-f]{64}")
_FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LINE = "-" * 73


class Pointer(Struct, frozen=True):
    """What stands in git for an LFS object."""

    oid: str
    size: int

    def encode(self) -> bytes:
        """Return the pointer's text."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size}\n".encode()


def read_pointer(content: bytes) -> Pointer | None:
    """Return the pointer that *content* is, if it is one."""
    if len(content) >= POINTER_MAX_BYTES or not (found := _POINTER.fullmatch(content)):
        return None

    return Pointer(found[1].decode(), int(found[2]))


def is_oid(text: object) -> bool:
    """Whether *text* can name an LFS object."""
    return isinstance(text, str) and _OID.fullmatch(text) is not None


def is_binary(sample: bytes) -> bool:
    """Whether a file that starts with *sample* is binary, by git's own measure."""
    return b"\0" in sample[:_SNIFFED_BYTES]


class Offence(Struct, frozen=True):
    """Why a file is refused: the reason's opening lines, and the file as the refusal names it."""

    words: tuple[str, ...]
    file: str


TOO_LARGE = (
    "Your push was rejected because it contains files larger than 10 MiB.",
    "Please use https://git-lfs.github.com/ to store large files.",
    "See also: https://hf.co/docs/hub/repositories-getting-started#terminal",
    "",
    "Offending files:",
)
BINARY = (
    "Your push was rejected because it contains binary files.",
    "Please use https://huggingface.co/docs/hub/xet to store binary files.",
    "See also: https://huggingface.co/docs/hub/xet/using-xet-storage#git",
    "",
    "Offending files:",
)
MISSING_OBJECT = (
    "Your push was rejected because an LFS pointer pointed to a file that does not exist.",
    "For instance, this can happen if you used git push --no-verify to push your changes.",
    "Offending file:",
)
BAD_CARD = ("Sorry, your push was rejected during YAML metadata verification:",)


def check_size(path: str, size: int, ref: str) -> Offence | None:
    """Refuse a regular file that is too large for git."""
    return Offence(TOO_LARGE, f"{path} (ref: {ref})") if size > REGULAR_MAX_BYTES else None


def check_content(path: str, content: bytes, ref: str, has_object: Callable[[Pointer], bool]) -> Offence | None:
    """Refuse a pointer to nothing and a binary file."""
    if pointer := read_pointer(content):
        return None if has_object(pointer) else Offence(MISSING_OBJECT, path)

    return Offence(BINARY, f"{path} (ref: {ref})") if is_binary(content) else None


def check_card(content: str) -> list[Offence]:
    """Refuse metadata that the Hub cannot use."""
    return [Offence(BAD_CARD, f"Error: {error}") for error in card_errors(content)]


def refusal_lines(offences: Sequence[Offence]) -> list[str]:
    """Return what a refused push reads, one block per reason."""
    lines = [_LINE]
    for words in dict.fromkeys(offence.words for offence in offences):
        lines += words
        lines += [f"  - {offence.file}" for offence in offences if offence.words == words]
        lines.append(_LINE)

    return lines


def denial_lines(refs: Sequence[str]) -> list[str]:
    """Return what a push to protected branches reads: https://github.com/huggingface/huggingface_hub/issues/937."""
    denied = [f"DENIED update {ref}: forbidden" for ref in refs]
    return [_LINE, "Your push was rejected for the following reasons:", *denied, _LINE]


def refusal_text(offences: Sequence[Offence]) -> str:
    """Return what a refused commit over HTTP reads, in one line: the first reason and its files."""
    words = offences[0].words
    named = [f"- {offence.file}" for offence in offences if offence.words == words]
    return " ".join([*filter(None, words), *named])


def card_errors(content: str) -> list[str]:
    """Return what is wrong with a card's metadata; a card without any is fine."""
    block = _FRONT_MATTER.match(content)
    if block is None:
        return []
    try:
        metadata = yaml.safe_load(block[1])
    except (yaml.YAMLError, ValueError) as exc:  # ValueError: a date that does not exist
        return ["YAML metadata is invalid: " + " ".join(str(exc).split())]
    if metadata is None:
        return []
    if not isinstance(metadata, dict):
        return ["YAML metadata must be an object"]

    return [f'"{name}" {wanted}' for name, holds, wanted in _RULES if not holds(metadata.get(name))]


def card_metadata(content: str) -> dict[str, Any]:
    """Return a card's metadata; empty if it has none that can be read."""
    block = _FRONT_MATTER.match(content)
    if block is None or card_errors(content):
        return {}

    return yaml.safe_load(block[1]) or {}


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_text_or_list(value: object) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _is_results(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(item, dict) and {"name", "results"} <= item.keys() for item in value)
    )


def _is_license(value: object) -> bool:
    """Whether all that is named is known; what is no name, another rule judges."""
    named = value if isinstance(value, list) else [value]
    return all(name in LICENSES for name in named if isinstance(name, str))


def _is_short(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 60)  # noqa: PLR2004 - the Hub's limit


_TEXTS = (_is_text_or_list, "must be a string or an array of strings")
_TEXT = (_is_text, "must be a string")
_RULES: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("license", *_TEXTS),
    ("license", _is_license, f"must be one of [{', '.join(LICENSES)}]"),
    ("language", *_TEXTS),
    ("tags", *_TEXTS),
    ("datasets", *_TEXTS),
    ("metrics", *_TEXTS),
    ("base_model", *_TEXTS),
    ("library_name", *_TEXT),
    ("pipeline_tag", *_TEXT),
    ("license_name", *_TEXT),
    ("license_link", *_TEXT),
    ("model-index", _is_results, "must be an array of objects with a name and results"),
    ("short_description", _is_short, "length must be less than or equal to 60 characters long"),
)
