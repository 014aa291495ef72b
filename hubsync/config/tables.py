"""What a file may say: the shape that is checked first, and that the JSON Schema describes to editors."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from hubsync.config.fields import DiskPath, Name, PathInRepo, Patterns, Policies, Repo, Strings
from hubsync.config.model import EndpointSettings, MirrorRetention, ServiceSettings, TargetSettings
from hubsync.config.repo import DEFAULT_BRANCH, NAME_PATTERN
from hubsync.config.reports import Log, Monitor
from hubsync.config.table import Frozen

VERSION = 1
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class MirrorTable(Frozen):
    """A mirror in a target's list; plain text there is short for ``{ repo = ... }``."""

    repo: Repo = Field(description="[endpoint:][datasets/|spaces/]owner/name[@branch]")
    name: Name | None = Field(None, description="Stands in every log line; default: the repository as written.")
    path_in_repo: PathInRepo = Field(PurePosixPath(), description="The directory in the repository; empty is its root.")
    private: bool = Field(default=True, description="How the repository is created if it does not exist.")
    required: bool = Field(default=True, description="Whether `safe` and `prune` wait for this mirror.")
    include: Patterns = Field(
        ("**",), description="What of the target goes here; gitignore syntax, or a role: weights, resume, logs."
    )
    exclude: Patterns = Field((), description="What of the target does not go here; as include.", examples=[["logs"]])
    keep_latest: int | None = Field(None, ge=1, description="Only so many of the newest units stay here. Default: all.")
    retention: MirrorRetention = Field(
        MirrorRetention(), description="Which units it goes on to show; wins over the target's."
    )
    max_commits_per_hour: int = Field(
        60, ge=1, description="What the repository gets from hubsync at most; then a commit holds more, or waits."
    )
    pull_request: bool = Field(
        default=False, description="Publish as a pull request, for a main branch that takes nothing else."
    )
    transport: Literal["git", "http"] = Field(
        "git", description="http: through the Hub's API alone, for networks that let nothing else through."
    )
    transfer: Literal["hubsync", "git-lfs", "xet"] = Field(
        "hubsync",
        description="Who sends large files: hubsync, git-lfs itself, or Xet; the last two without upload_rate.",
    )
    on_foreign_edit: Policies = Field(default_factory=dict, description="Wins over the target's, path by path.")

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: object) -> object:
        return {"repo": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_pull_request(self) -> "MirrorTable":
        if self.pull_request and self.repo.branch != DEFAULT_BRANCH:
            raise ValueError(f"pull_request is for the branch {DEFAULT_BRANCH}, where a Hub merges; leave out @branch")

        return self

    @model_validator(mode="after")
    def _check_retention(self) -> "MirrorTable":
        if self.keep_latest is not None and self.retention.remote is not None:
            raise ValueError("has keep_latest and retention.remote; keep one, e.g. retention.remote = { keep_last = 3 }")

        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe both spellings."""
        table = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [{**table["properties"]["repo"], "title": "Mirror"}, table]}


class TargetTable(TargetSettings):
    """A [[target]]: a source and the mirrors that it is published to; all else is as in [defaults]."""

    name: Name = Field(description="Short and unique; stands in every log line.", examples=["llama-sft"])
    source: DiskPath = Field(description="The directory to publish.", examples=["/data/runs/llama-sft"])
    mirrors: Annotated[tuple[MirrorTable, ...], Field(strict=False)] = Field(
        description="Where it is published to.", examples=[["acme/llama-sft"]], json_schema_extra={"minItems": 1}
    )

    @field_validator("mirrors")
    @classmethod
    def _check_mirrors(cls, mirrors: tuple[MirrorTable, ...]) -> tuple[MirrorTable, ...]:
        if not mirrors:
            raise ValueError('is empty; name at least one repository, e.g. ["acme/llama-sft"]')

        return mirrors


class IncludedFile(Frozen):
    """What a file named by ``include`` may say."""

    endpoint: dict[Name, EndpointSettings] = Field(
        default_factory=dict,
        description='Hubs by name; "hub" is the default one.',
        json_schema_extra={"propertyNames": {"pattern": NAME_PATTERN}},
    )
    target: Annotated[tuple[TargetTable, ...], Field(strict=False)] = Field((), description="What is published where.")


class ConfigFile(IncludedFile):
    """The config of hubsync."""

    version: int = Field(VERSION, description="Of this format.", json_schema_extra={"enum": [VERSION]})
    include: Strings = Field((), description="More files, as globs relative to this one.", examples=[["conf.d/*.toml"]])
    defaults: TargetSettings = Field(TargetSettings(), description="For all targets; a target's own keys win.")
    service: ServiceSettings = Field(ServiceSettings(), description="The daemon's state and limits.")
    log: Log = Field(Log(), description="What the daemon says about itself, and where.")

    monitor: Monitor = Field(Monitor(), description="What else is told, beside the log.")

    @field_validator("version")
    @classmethod
    def _check_version(cls, version: int) -> int:
        if version != VERSION:
            raise ValueError(f"is not a version that this hubsync reads; write {VERSION}, or install a newer hubsync")

        return version


class _Describer(GenerateJsonSchema):
    """Shows only those defaults that a file could hold as they are; the others are given beside their field."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = self.generate_inner(schema["schema"])
        default: Any = schema.get("default")
        is_toml = isinstance(default, (bool, int, str, tuple)) and default not in {"", ()}
        if is_toml and "$ref" not in described:
            described["default"] = list(default) if isinstance(default, tuple) else default

        return described


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``hubsync.toml``, for editors (https://taplo.tamasfe.dev)."""
    schema = ConfigFile.model_json_schema(by_alias=True, schema_generator=_Describer)
    return {"$schema": SCHEMA_DIALECT, **schema, "title": "hubsync.toml"}
