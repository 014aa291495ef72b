"""Makes frozen values of JSON data again, strictly, by their type hints.

pydantic does more, and takes longer to import than ``hubsync status`` may take to answer.
"""

from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def decode(kind: type[T], data: object) -> T:
    """Return the dataclass *kind* that *data* describes; names that it does not know are passed over.

    Raises:
        ValueError: something is missing, or of another type.
    """
    return _decode(kind, data)  # type: ignore[no-any-return]


def _decode(kind: Any, data: Any) -> Any:  # noqa: ANN401 - type hints and JSON
    if is_dataclass(kind):
        return _decode_fields(kind, data)
    origin, options = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if data is None else _decode(options[0], data)
    if origin is tuple and isinstance(data, list):
        return tuple(_decode(options[0], item) for item in data)
    if kind is datetime and isinstance(data, str):
        return datetime.fromisoformat(data)
    if kind is float and type(data) is int:
        return float(data)
    if (origin is Literal and data in options) or type(data) is kind:
        return data

    raise ValueError(f"not {kind}")


def _decode_fields(kind: Any, data: Any) -> Any:  # noqa: ANN401 - type hints and JSON
    if not isinstance(data, dict):
        raise ValueError(f"not {kind}")  # noqa: TRY004 - what json.loads raises, too
    hints = get_type_hints(kind)
    missing = [one.name for one in fields(kind) if one.default is MISSING and one.name not in data]
    if missing:
        raise ValueError(f"lacks {missing[0]}")

    return kind(**{name: _decode(hint, data[name]) for name, hint in hints.items() if name in data})
