"""Tells a card that a library has filled in by itself from one that a person wrote: nobody's words are in it. Pure."""

import re
from functools import cache
from importlib.resources import files

_PLACEHOLDER = re.compile(r"{{\s*\w+\s*(?:\|\s*default\(\"(?P<text>[^\"]*)\"[^}]*)?}}")
_VERSION = re.compile(r"- (?:PEFT|TRL|Transformers|Pytorch|PyTorch|Datasets|Tokenizers):? \S+")
_FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n.*?\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_HEADING = re.compile(r"# (?:Model Card for )?[\w./ {}|()\"-]*")
_FRAMEWORKS = frozenset(("### Framework versions", "#### Framework versions"))


def is_stock(card: str) -> bool:
    """Tell whether *card* is huggingface_hub's template as PEFT saves it, with no line of a person's in it."""
    body = _FRONT_MATTER.sub("", card)
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    known = _stock_lines()

    return bool(lines) and "[More Information Needed]" in body and all(_is_stock_line(line, known) for line in lines)


def _is_stock_line(line: str, known: frozenset[str]) -> bool:
    return line in known or line in _FRAMEWORKS or bool(_VERSION.fullmatch(line) or _HEADING.fullmatch(line))


@cache
def _stock_lines() -> frozenset[str]:
    template = files("huggingface_hub").joinpath("templates/modelcard_template.md").read_text(encoding="utf-8")
    filled = _PLACEHOLDER.sub(lambda found: found["text"] or "", template)

    return frozenset(line.strip() for line in filled.splitlines() if line.strip())
