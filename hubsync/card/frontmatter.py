"""Changes single keys of a card's YAML and leaves every other byte as it is: comments, order, quotes, line ends. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    import yaml

# The Hub's own expression, as huggingface_hub/repocard.py has it, after the mark that some editors put first.
_BLOCK = re.compile(r"(\ufeff?\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$))")
_NEWLINE = re.compile(r"\r\n|\r|\n")
_MOST = 1 << 20


class OddYamlError(ValueError):
    """The metadata cannot be read, or not be changed without touching what people wrote."""


class FrontMatter(Struct, frozen=True):
    """A card taken apart: what opens the metadata, its text, what closes it, and all that follows.

    Attributes:
        values: what the text says.
        spans: key → where it stands in the text, its value included.
    """

    start: str
    text: str
    end: str
    body: str
    values: Mapping[str, Any]
    spans: Mapping[str, tuple[int, int]]

    def change(self, changes: Mapping[str, str | None], newline: str) -> str:
        """Return the card with *changes* (key → its YAML, ``None`` removes it); new keys come last."""
        text = self.text
        known = [(self.spans[key], new) for key, new in changes.items() if key in self.spans]
        for (start, stop), new in sorted(known, reverse=True):
            text = _replace(text, start, stop, None if new is None else _NEWLINE.sub(newline, new))
        added = [_NEWLINE.sub(newline, new) for key, new in changes.items() if key not in self.spans and new is not None]
        if added:
            text = newline.join([text.rstrip("\r\n"), *added] if text.strip() else added)

        return f"{self.start}{text}{self.end}{self.body}" if self.start else self._with_first(text, newline)

    def _with_first(self, text: str, newline: str) -> str:
        """Return the card, which had no metadata, with *text* before it."""
        mark = "\ufeff" if self.body.startswith("\ufeff") else ""
        body = self.body.removeprefix("\ufeff")
        return f"{mark}---{newline}{text}{newline}---{newline}{body}" if text else self.body


def read_front_matter(card: str) -> FrontMatter:
    """Take *card* apart.

    Raises:
        OddYamlError: its metadata is no mapping of keys that each stand on a line of their own.
    """
    found = _BLOCK.match(card)
    if found is None:
        return FrontMatter("", "", "", card, {}, {})
    import yaml  # noqa: PLC0415 - 50 ms, and many have no card

    start, text, end = found.groups()
    if len(text) > _MOST:
        raise OddYamlError("the metadata is too large")
    try:
        values = yaml.safe_load(text)
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise OddYamlError(" ".join(str(exc).split())) from exc
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise OddYamlError("the metadata is no mapping")

    return FrontMatter(start, text, end, card[found.end() :], values, dict(_spans(text, node)))


def newline_of(card: str) -> str:
    """Return how lines end in *card*."""
    found = _NEWLINE.search(card)
    return found[0] if found else "\n"


def _spans(text: str, node: "yaml.Node | None") -> Iterable[tuple[str, tuple[int, int]]]:
    if node is None:
        return
    from yaml import MappingNode  # noqa: PLC0415 - as above

    if not isinstance(node, MappingNode) or node.flow_style:
        raise OddYamlError("the metadata is not one key a line")
    starts = [key.start_mark for key, _ in node.value]
    names = [key.value for key, _ in node.value]
    if len(set(names)) < len(names):
        raise OddYamlError("a key stands twice in the metadata")
    if any(start.column for start in starts):
        raise OddYamlError("the metadata is indented")
    places = [start.index for start in starts]
    for name, place, following in zip(names, places, [*places[1:], len(text)], strict=True):
        yield name, (place, _trimmed_end(text, place, following))


def _trimmed_end(text: str, start: int, stop: int) -> int:
    """Return where the value ends: comments and empty lines before the next key are nobody's."""
    lines = text[start:stop].splitlines(keepends=True)
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].startswith("#")):
        lines.pop()

    return start + len("".join(lines).rstrip("\r\n"))


def _replace(text: str, start: int, stop: int, new: str | None) -> str:
    if new is not None:
        return text[:start] + new + text[stop:]
    line_end = _NEWLINE.match(text, stop)
    before, after = text[:start], text[line_end.end() if line_end else stop :]

    return before + after if after else before.rstrip("\r\n")
