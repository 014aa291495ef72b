"""Checks one file against its shape, and puts what pydantic finds into the operator's terms. No I/O."""

import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hubsync.config.context import FileContext
from hubsync.config.documents import Document
from hubsync.config.positions import Loc
from hubsync.config.problems import Problem
from hubsync.config.secrets import find_secrets
from hubsync.config.tables import IncludedFile, json_schema

_Model = TypeVar("_Model", bound=BaseModel)

_SAID = {  # by pydantic's names; https://docs.pydantic.dev/latest/errors/validation_errors/
    "bool_type": "must be true or false, without quotes",
    "dict_type": "must be a table, { key = value }",
    "float_type": "must be a number, without quotes",
    "int_type": "must be a whole number, without quotes",
    "model_type": "must be a table, { key = value }",
    "model_attributes_type": "must be a table, { key = value }",
    "string_type": "must be text, in quotes",
    "tuple_type": 'must be a list, e.g. ["one", "two"]',
}
_TABLES: dict[str, Loc] = {  # where a key that is unknown in one place may belong
    "[defaults] or [[target]]": ("defaults",),
    "[[target]]": ("target", 0),
    "a mirror's table": ("target", 0, "mirrors", 0),
    "[target.lfs]": ("target", 0, "lfs"),
    "[target.batch]": ("target", 0, "batch"),
    "[target.card]": ("target", 0, "card"),
    "retention.local": ("target", 0, "retention", "local"),
    "a mirror's retention.remote": ("target", 0, "mirrors", 0, "retention", "remote"),
    "[endpoint.NAME]": ("endpoint", "NAME"),
    "[service]": ("service",),
    "[service.pressure]": ("service", "pressure"),
    "[log]": ("log",),
    "the main file, before its first table": (),
}


def read_shape(kind: type[_Model], data: object, context: FileContext) -> _Model:
    """Return *data* from a file as *kind*; raise pydantic's ValidationError with all that is wrong."""
    return kind.model_validate(data, context=context, by_alias=True, by_name=False)


def check_shape(kind: type[IncludedFile], document: Document) -> Iterator[Problem]:
    """Return everything that is wrong with *document* on its own; tokens first, so that they are called that."""
    for loc, message in find_secrets(document.data):
        yield document.problem(loc, message)

    try:
        read_shape(kind, document.data, document.context)
    except ValidationError as exc:
        errors = [(_locate(error, document.data), error) for error in exc.errors(include_url=False)]
        misspelt = {(*loc[:-1], meant) for loc, error in errors if (meant := _meant(error, loc))}
        for loc, error in errors:
            if error["type"] != "missing" or loc not in misspelt:
                yield document.problem(loc, _explain(error, loc))


def _locate(error: ErrorDetails, data: object) -> Loc:
    """Return the place of *error* without the steps that stand in no file: a mirror's text has no ``repo``."""
    *parents, last = [part for part in error["loc"] if part != "[key]"] or [""]
    loc: Loc = ()
    for part in parents:
        if not isinstance(data, (dict, list)):
            return loc

        data = data[part]  # type: ignore[index] # pydantic came the same way
        loc = (*loc, part)

    return (*loc, last) if isinstance(data, (dict, list)) else loc


def _explain(error: ErrorDetails, loc: Loc) -> str:
    """Return what is wrong, and the cure."""
    match error["type"]:
        case "extra_forbidden":
            return _explain_unknown(loc)
        case "missing":
            examples = _describe(loc).get("examples")
            return "is missing; write it" + (f", e.g. {loc[-1]} = {json.dumps(examples[0])}" if examples else "")
        case "literal_error":
            return _explain_choice(error)
        case "value_error":
            return str(error["ctx"]["error"])
        case "tuple_type" if loc == ("target",):
            return "must be a list of tables; write [[target]] in double brackets"
        case kind:
            return _SAID.get(kind) or error["msg"].replace("Input should be", "must be")


def _explain_unknown(loc: Loc) -> str:
    if belongs := _find_home(loc):
        return f"is unknown here; it belongs in {belongs}"
    if meant := _find_close(loc):
        return f"is an unknown key; did you mean {meant}?"

    return f"is an unknown key; known are {', '.join(_known_beside(loc))}"


def _meant(error: ErrorDetails, loc: Loc) -> str | None:
    """Return the key that a misspelt one stands for."""
    return _find_close(loc) if error["type"] == "extra_forbidden" and not _find_home(loc) else None


def _find_home(loc: Loc) -> str | None:
    return next((table for table, place in _TABLES.items() if loc[-1] in _describe(place)["properties"]), None)


def _find_close(loc: Loc) -> str | None:
    return next(iter(get_close_matches(str(loc[-1]).lower(), _known_beside(loc), n=1)), None)


def _known_beside(loc: Loc) -> list[str]:
    return list(_describe(loc[:-1]).get("properties", ()))


def _explain_choice(error: ErrorDetails) -> str:
    choices = error["ctx"]["expected"].replace("'", '"')
    close = get_close_matches(str(error["input"]).lower()[:100], choices.replace('"', "").replace(" or ", ", ").split(", "))

    return f"must be {choices}" + (f'; did you mean "{close[0]}"?' if close else "")


@cache
def _schema() -> dict[str, Any]:
    return json_schema()


def _describe(loc: Loc) -> dict[str, Any]:
    """Return the JSON Schema of what stands at *loc*; an empty one where nothing may stand."""
    node = _follow(_schema())
    for part in loc:
        by_any_name = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties") or {})
        node = _follow(
            node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, by_any_name)
        )

    return node


def _follow(node: dict[str, Any]) -> dict[str, Any]:
    """Return the table or list that *node* refers to, if it may be one."""
    if "$ref" in node:
        return _follow(_schema()["$defs"][node["$ref"].rpartition("/")[2]])

    alternatives = [_follow(choice) for choice in node.get("anyOf", ())]
    return next((choice for choice in alternatives if "properties" in choice or "items" in choice), node)
