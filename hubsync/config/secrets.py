"""Finds tokens that stand in a config, where they do not belong. Pure; it returns places, never values."""

import re
from collections.abc import Iterator
from typing import Any

from hubsync.config.positions import Loc

# The Hub's tokens have 34 or more letters and digits after the prefix; paths and repositories may begin with hf_ too.
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}|(?:hf_(?:jwt|oauth)_|api_org_)[\w.\-]{20,}")
_SHORT_TOKEN = re.compile(r"hf_[A-Za-z0-9]{10,}")  # where a token's name stands, people paste the token
_USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s@]*@")


def find_secrets(data: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Return the place of every value that looks like a token or holds a user in a URL, and what to do."""
    todo: list[tuple[Loc, Any]] = [((), data)]
    while todo:
        loc, value = todo.pop()
        if isinstance(value, dict):
            todo += (((*loc, key), child) for key, child in value.items())
            todo += (((*loc, key), key) for key in value)
        elif isinstance(value, list):
            todo += (((*loc, index), child) for index, child in enumerate(value))
        elif isinstance(value, str):
            if _TOKEN.search(value) or ("token" in loc and _SHORT_TOKEN.search(value)):
                yield (
                    loc,
                    (
                        "looks like a token; put it into a file of mode 0600, name that as "
                        'token = { file = "/etc/hubsync/hub.token" }, and revoke it if others could read this config'
                    ),
                )
            elif _USERINFO.search(value):
                yield loc, "must not hold a user, password or token in a URL; take it out, and set token = { file = ... }"
