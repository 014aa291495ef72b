"""Decides what becomes of a card that others may have written in: hubsync owns a marked block and the keys it set. Pure.

The block opens with the digests of what hubsync wrote: of the block's text, and of each metadata key. What differs from its
digest was changed by a person, and is theirs from then on. So a card carries its own memory, wherever it was edited.
"""

import hashlib
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from msgspec import Struct, field

from hubsync.card.frontmatter import FrontMatter, OddYamlError, newline_of, read_front_matter
from hubsync.card.metadata import encode_metadata
from hubsync.card.rules import check_metadata

_NOTE = "write above or below, what stands in this block is written again"
_BEGIN = re.compile(r"<!-- hubsync:begin text=(?P<text>[0-9a-f]*) metadata=(?P<metadata>\S*) [^\r\n]*?-->")
_MARK, _ANY_BEGIN, _END = "<!-- hubsync:", "<!-- hubsync:begin", "<!-- hubsync:end -->"
_DIGEST_LENGTH = 12


class Draft(Struct, frozen=True):
    """What hubsync would say: the metadata, which of its keys the operator has *told*, and the text of the block."""

    metadata: Mapping[str, Any]
    text: str
    told: AbstractSet[str] = field(default_factory=frozenset)


class Merged(Struct, frozen=True):
    """The card as it is to be; ``None`` if it is left alone, and the reason."""

    card: str | None
    reason: str = ""


class _Block(Struct, frozen=True):
    """Where the block stands in the card, and what it remembers."""

    start: int
    stop: int
    is_intact: bool
    keys: Mapping[str, str]


def merge_card(theirs: str | None, draft: Draft) -> Merged:
    """Put *draft* into *theirs*, the card as it stands; what people wrote stays byte for byte."""
    theirs = theirs or ""
    newline = newline_of(theirs)
    try:
        front = read_front_matter(theirs)
        block = _find_block(theirs, len(theirs) - len(front.body))
    except OddYamlError as exc:
        return Merged(None, str(exc))
    if block is not None and not block.is_intact:
        return Merged(None, "somebody changed the text inside the block")
    if problems := check_metadata(front.values):
        return Merged(None, problems[0])

    changes, keys = _change_keys(front, draft, block.keys if block else {})
    text = _encode_block(draft.text, keys, newline)
    written = _put_block(theirs, block, text, newline)
    card = _reread(front, written).change(changes, newline)

    return _check(card)


def is_merge_of(card: str, source: str) -> bool:
    """Tell whether *card* is *source* with our block and keys put in, and nothing else."""
    try:
        front = read_front_matter(card)
        block = _find_block(card, len(card) - len(front.body))
    except OddYamlError:
        return False
    if block is None or not block.is_intact:
        return False
    begin = _BEGIN.match(card, block.start)
    inside = card[begin.end() if begin else block.start : block.stop - len(_END)]
    ours = {key: front.values[key] for key in block.keys if key in front.values}

    return merge_card(source, Draft(ours, inside, frozenset(ours))).card == card


def has_block(card: str) -> bool:
    """Tell whether *card* has a block of ours, or what is left of one."""
    return _ANY_BEGIN in card


def without_block(card: str) -> str:
    """Return *card* with the block's own lines taken out, to show what is said."""
    return _BEGIN.sub("", card).replace(_END, "")


def _check(card: str) -> Merged:
    """Read the card that was made as the Hub would; anything odd is a reason not to publish it."""
    try:
        problems = check_metadata(read_front_matter(card).values)
    except OddYamlError as exc:
        problems = [str(exc)]

    return Merged(None, problems[0]) if problems else Merged(card)


# --- the block


def _find_block(card: str, body_at: int) -> _Block | None:
    if not has_block(card) and _END not in card:
        return None
    begins = list(_BEGIN.finditer(card))
    end = card.find(_END)
    if len(begins) != 1 or card.count(_ANY_BEGIN) != 1 or card.count(_END) != 1 or not body_at <= begins[0].start() < end:
        raise OddYamlError("the block's marks are damaged")
    begin = begins[0]
    keys = dict(part.split(":", 1) for part in begin["metadata"].split(",") if ":" in part)
    is_intact = _digest(card[begin.end() : end]) == begin["text"]

    return _Block(begin.start(), end + len(_END), is_intact, keys)


def _encode_block(text: str, keys: Mapping[str, str], newline: str) -> str:
    plain = text.replace(_MARK, "<!-- ").replace("\r\n", "\n").replace("\r", "\n")
    inside = f"\n\n{plain.strip()}\n\n"
    remembered = ",".join(f"{key}:{digest}" for key, digest in keys.items())
    block = f"<!-- hubsync:begin text={_digest(inside)} metadata={remembered} {_NOTE} -->{inside}{_END}"

    return block.replace("\n", newline)


def _put_block(card: str, block: _Block | None, text: str, newline: str) -> str:
    if block is not None:
        return card[: block.start] + text + card[block.stop :]
    if not card.strip("\ufeff \t\r\n"):
        return f"{card}{text}{newline}"
    gap = "" if card.endswith(newline * 2) else newline if card.endswith(("\n", "\r")) else newline * 2

    return f"{card}{gap}{text}{newline}"


def _reread(front: FrontMatter, written: str) -> FrontMatter:
    """Return *front* with the body of *written*, the same card but for its block."""
    head = len(front.start) + len(front.text) + len(front.end)
    return FrontMatter(front.start, front.text, front.end, written[head:], front.values, front.spans)


def _digest(text: str) -> str:
    """Return the digest of *text*, whichever way its lines end."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]


# --- the metadata


def _change_keys(
    front: FrontMatter, draft: Draft, remembered: Mapping[str, str]
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Return the keys to change, and what to remember of those that are ours."""
    gone = remembered.keys() - draft.metadata.keys()  # facts that are none any more
    changes: dict[str, str | None] = {key: None for key in gone if _is_ours(front, key, remembered)}
    keys: dict[str, str] = {}
    for key, value in draft.metadata.items():
        if key not in draft.told and key not in front.values and key in remembered:  # a person took it out
            keys[key] = remembered[key]
            continue
        if key not in draft.told and key in front.values and not _is_ours(front, key, remembered):
            continue
        wanted = value if _is_ours(front, key, remembered) else _joined(front.values.get(key), value)
        encoded = encode_metadata({key: wanted})
        if key not in front.values or front.values[key] != wanted:
            changes[key] = encoded
        else:
            encoded = _span(front, key)
        if wanted == value:
            keys[key] = _digest(encoded)

    return changes, keys


def _joined(theirs: Any, told: Any) -> Any:  # noqa: ANN401 - values of YAML
    """Return what was *told*; a list keeps what a person has added to it."""
    if not isinstance(theirs, list) or not isinstance(told, list):
        return told
    return theirs + [item for item in told if item not in theirs]


def _is_ours(front: FrontMatter, key: str, remembered: Mapping[str, str]) -> bool:
    return key in front.spans and remembered.get(key) == _digest(_span(front, key))


def _span(front: FrontMatter, key: str) -> str:
    start, stop = front.spans[key]
    return front.text[start:stop]
