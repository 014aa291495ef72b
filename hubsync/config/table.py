"""What all tables of the config have in common, and how a value is declared whose default has a unit."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hubsync.config.rates import parse_rate
from hubsync.config.units import parse_duration, parse_size


class Frozen(BaseModel):
    """The common rules: no unknown key, no conversion from a neighbouring type, no change after birth."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_by_name=True, validate_by_alias=True, hide_input_in_errors=True
    )


def time_of(alias: str, default: str, description: str) -> Any:  # noqa: ANN401 - as pydantic.Field
    """Declare a duration whose default is written, and shown to editors, as the file has it."""
    return Field(parse_duration(default), alias=alias, description=description, json_schema_extra={"default": default})


def size_of(alias: str, default: str, description: str) -> Any:  # noqa: ANN401 - as pydantic.Field
    """Declare a size in the same way."""
    return Field(parse_size(default), alias=alias, description=description, json_schema_extra={"default": default})


def rate_of(description: str) -> Any:  # noqa: ANN401 - as pydantic.Field
    """Declare a rate that nothing bounds by default."""
    return Field(parse_rate("0"), description=description, json_schema_extra={"default": "0"})
