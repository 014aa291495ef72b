"""What the program reads after the config was loaded: frozen, checked, complete. It knows no file and no environment.

The keys of the TOML file are the aliases; attributes carry their units. ``hubsync.config.tables`` has what only a
file may say, ``hubsync.config.load`` turns the one into the other.
"""

from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hubsync.config.fields import (
    Allowed,
    Bytes,
    Credential,
    DiskPath,
    Globs,
    Name,
    OneOrMany,
    PathInRepo,
    Patterns,
    Period,
    Policies,
    Policy,
    PositiveSeconds,
    Seconds,
    Share,
    Strings,
    Text,
    UploadRate,
    Url,
    Variable,
    When,
)
from hubsync.config.repo import DEFAULT_BRANCH, RepoType
from hubsync.config.reports import Log, Monitor
from hubsync.config.schedule import parse_schedule
from hubsync.config.table import Frozen, rate_of, size_of, time_of
from hubsync.config.urls import is_plain_http_abroad, parse_url
from hubsync.errors import UsageError

FOREIGN_EDIT_DEFAULTS: dict[str, Policy] = {"README.md": "theirs", "*": "ours"}


class TokenSource(Frozen):
    """Where a token is read from, each time it is needed. Exactly one of the four is set."""

    file: DiskPath | None = Field(None, description="A file that holds only the token; mode 0600.")
    env: Variable | None = Field(None, description="The name of an environment variable of the daemon.")
    credential: Credential | None = Field(None, description="The name of a systemd credential (LoadCredential=).")
    command: Strings | None = Field(None, description="A program and its arguments that prints the token.")

    @model_validator(mode="after")
    def _check_one(self) -> "TokenSource":
        given = [value for value in (self.file, self.env, self.credential, self.command) if value]
        if len(given) != 1:
            raise ValueError('must have exactly one of file, env, credential, command; write { env = "HF_TOKEN" }')

        return self


class EndpointSettings(Frozen):
    """What an [endpoint.NAME] table may say."""

    insecure: bool = Field(default=False, description="Accept plain http to another host than this one.")
    url: Url = Field("", description="The Hub's address. Only the endpoint 'hub' has a default.")
    token: TokenSource | None = Field(None, description="Default: what `hf auth login` or $HF_TOKEN gives.")
    timeout_s: PositiveSeconds = time_of("timeout", "30s", "The longest wait for one API request.")
    stall_s: PositiveSeconds = time_of("stall", "5m", "An upload that moves no byte for this long is ended and retried.")
    upload_rate: UploadRate = rate_of(
        "Bytes per second for all uploads to this endpoint, or a timetable; the first row that matches wins."
    )

    @field_validator("url", mode="before")
    @classmethod
    def _check_url(cls, value: object, info: ValidationInfo) -> str:
        url = parse_url(value)
        if is_plain_http_abroad(url) and info.data.get("insecure") is False:
            raise ValueError('would send the token in clear text; write "https://", or set insecure = true')

        return url

    @field_validator("token", mode="before")
    @classmethod
    def _refuse_literal(cls, value: object) -> object:
        if value is not None and not isinstance(value, (dict, TokenSource)):
            raise ValueError(
                'must not stand here itself; write { file = "/etc/hubsync/hub.token" } or { env = "HF_TOKEN" }'
            )

        return value


class Endpoint(EndpointSettings):
    """A Hub: its address, how to sign in, and how patient to be."""

    name: Name
    url: Url


class KeepRules(Frozen):
    """Which units stay: those that any rule keeps, and always the newest complete one."""

    keep_last: int | None = Field(None, ge=1, description="So many of the newest units stay.")
    keep_best: int | None = Field(None, ge=1, description="So many of the best units stay, as `best` tells.")
    keep_every: int | None = Field(None, ge=1, description="Units whose step is a multiple of this stay.", examples=[1000])

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        if not any(value for name, value in self if name != "free_storage"):
            raise ValueError("names no rule; write e.g. { keep_last = 3 }")

        return self


class LocalRetention(KeepRules):
    """Which published units stay on this machine; without a keep rule, they stay until space is short."""

    min_free_bytes: Bytes = Field(
        0, alias="min_free", description="Below this much free space it is done at once.", examples=["500GB"]
    )


class RemoteRetention(KeepRules):
    """Which units a mirror goes on to show."""

    free_storage: bool = Field(
        default=False, description="Destroy what went on the Hub as well: the branch loses its history."
    )


class MirrorRetention(Frozen):
    """What a mirror may say about it."""

    remote: RemoteRetention | None = Field(None, description="Which units the mirror goes on to show. Default: all.")


class Retention(MirrorRetention):
    """Which units stay; the others go, here and on the mirrors."""

    local: LocalRetention | None = Field(None, description="Which units stay on this machine. Default: all.")


class Mirror(Frozen):
    """One repository, branch and directory that a target is published to."""

    name: str
    endpoint: str
    repo_type: RepoType
    repo_id: str
    branch: str = DEFAULT_BRANCH
    path_in_repo: PathInRepo = PurePosixPath()
    private: bool = True
    required: bool = True
    include: Patterns = ("**",)
    exclude: Patterns = ()
    keep_latest: int | None = None
    retention: MirrorRetention = MirrorRetention()
    max_commits_per_hour: int = 60
    pull_request: bool = False
    transport: Literal["git", "http"] = "git"
    transfer: Literal["hubsync", "git-lfs", "xet"] = "hubsync"
    on_foreign_edit: Policies = Field(default_factory=FOREIGN_EDIT_DEFAULTS.copy)


class Best(Frozen):
    """Which unit is the best one: the one whose metric is the highest or the lowest."""

    metric: Text = Field(description="As the Trainer logs it, with or without 'eval_'.", examples=["eval_loss"])
    direction: Literal["min", "max"] = Field(description="Whether the lowest or the highest value is the best.")


class Lfs(Frozen):
    """What goes through git-lfs, beside the Hub's own rules and binary content of any size."""

    threshold_bytes: Bytes = size_of("threshold", "5MB", "Files of at least this size go through git-lfs.")
    patterns: Patterns = Field((), description="More files that go through git-lfs; gitignore syntax.")


class Batch(Frozen):
    """How much one snapshot may hold; a unit is never split."""

    max_files: int = Field(1000, ge=1, description="The most files of one commit.")
    max_bytes: Bytes = size_of("max_size", "50GB", "The most bytes of one commit.")

    @field_validator("max_bytes")
    @classmethod
    def _check_max_bytes(cls, value: int) -> int:
        if value < 1:
            raise ValueError('must be more than nothing; write e.g. "50GB"')

        return value


class Card(Frozen):
    """What the operator says about the model card; the rest is read from the source."""

    enabled: bool = Field(default=False, description="Keep a card in README.md, beside what people write in it.")
    language: OneOrMany = Field((), description="ISO 639-1 codes.")
    license: Text | None = Field(None, description="A licence of the Hub's list, such as 'apache-2.0'.")
    tags: Strings = ()
    datasets: OneOrMany = Field((), description="Repositories of the training data.")
    base_model: OneOrMany = Field((), description="Repositories of the models that this one was made from.")
    pipeline_tag: Text | None = Field(None, description="The task, such as 'text-generation'.")
    library_name: Text | None = None
    metrics: OneOrMany = ()
    model_name: Text | None = None
    template: DiskPath | None = Field(
        None, description="A file to use instead of the built-in text; $title, $how_to_use ... stand for its parts."
    )
    sections: dict[Text, Text] = Field(default_factory=dict, description="Free text, by heading.")


class TargetSettings(Frozen):
    """What [defaults] and each [[target]] may say."""

    schedule: When = Field(
        parse_schedule("15m"),
        description='When a batch is committed and pushed: a duration, five crontab fields, "@daily", "manual" ...',
        json_schema_extra={"default": "15m"},
    )
    quiet_s: Seconds = time_of("quiet", "30s", "A path is settled after this long without a change.")
    inventory_every_s: Period = time_of("inventory_every", "10m", "How often the whole source is compared.")
    include: Patterns = Field(("**",), description="What is published; gitignore syntax.")
    exclude: Patterns = Field(
        ("*.tmp", "*.partial", "*.lock", ".git/", "__pycache__/"), description="What is not; gitignore syntax."
    )
    units: Globs = Field((), description="Directories that are published whole.", examples=[["checkpoint-*"]])
    unit_timeout_s: PositiveSeconds = time_of("unit_timeout", "6h", "A unit still incomplete after it is reported.")
    complete_when: Globs = Field(
        (), description="Files that complete a unit, instead of the built-in signals.", examples=[["_SUCCESS"]]
    )
    publish: Literal["tree", "revisions"] = Field("tree", description="revisions: each unit is a revision as well.")
    main: Literal["latest", "best"] = Field(
        "latest", description="With revisions: the unit that the main branch shows at its root."
    )
    best: Best | None = Field(None, description="Default: the checkpoint that the Trainer's own state calls the best.")
    retention: Retention = Field(Retention(), description="Which units stay when there are more; proven ones only go.")
    provenance: bool = Field(
        default=False, description="Publish hubsync.json and SHA256SUMS with each unit: hashes, times, host, writer."
    )
    verify: When = Field(
        parse_schedule("manual"),
        description="When whole mirrors are compared with what was published: as `schedule`.",
        json_schema_extra={"default": "manual"},
    )
    verify_sample: Share = Field(
        0.0,
        description="With `verify`: which part of the contents is downloaded and hashed each time.",
        json_schema_extra={"default": "0%"},
    )
    deletes: Literal["keep", "propagate"] = Field("keep", description="Whether a local deletion reaches the mirrors.")
    capture: Literal["auto", "reflink", "link", "copy"] = Field("auto", description="How content is kept until sent.")
    secrets: Literal["block", "warn", "off"] = Field("block", description="What to do with a file that holds a key.")
    secrets_allow: Allowed = Field(
        (),
        description='Files that are let through all the same: gitignore patterns, or "sha256:" and the hash of a file.',
        examples=[["tests/keys/"]],
    )
    on_foreign_edit: Policies = Field(
        default_factory=FOREIGN_EDIT_DEFAULTS.copy,
        description="Whose version of a path of ours wins if somebody else committed one. One word means all paths.",
    )
    lfs: Lfs = Lfs()
    batch: Batch = Batch()
    store_dir: DiskPath | None = Field(None, description="Where captured content lies; default: the state directory.")
    card: Card = Card()


class Target(TargetSettings):
    """A source and the mirrors that it is published to."""

    name: Name
    source: DiskPath
    mirrors: tuple[Mirror, ...]

    def mirror(self, name: str) -> Mirror:
        """Return the mirror called *name*; raise UsageError if there is none."""
        found = next((mirror for mirror in self.mirrors if mirror.name == name), None)
        if found is None:
            names = ", ".join(mirror.name for mirror in self.mirrors)
            raise UsageError(f"target {self.name!r} has no mirror {name!r}", hint=f"declared are: {names}")

        return found


class Pressure(Frozen):
    """From where on hashing slows down: per cent of the last ten seconds in which something waited (/proc/pressure)."""

    cpu: float | None = Field(None, gt=0, le=100, description="For a processor.")
    io: float | None = Field(None, gt=0, le=100, description="For a disk.")
    memory: float | None = Field(None, gt=0, le=100, description="For memory.")

    def limits(self) -> dict[str, float]:
        """Return what is declared: cpu, io or memory → per cent."""
        return self.model_dump(exclude_none=True)


class ServiceSettings(Frozen):
    """What the [service] table may say."""

    state_dir: DiskPath | None = Field(
        None, description="Default: $STATE_DIRECTORY, else $XDG_STATE_HOME/hubsync, else ~/.local/state/hubsync."
    )
    min_free_bytes: Bytes = size_of("min_free", "2GB", "Capture pauses below this much free space.")
    shutdown_grace_s: Seconds = time_of("shutdown_grace", "60s", "How long running work may take after a stop.")
    priority: Literal["idle", "low", "normal"] = Field(
        "low", description="For processor and disk; low leaves most of both to the training, idle all of it."
    )
    hash_threads: int = Field(2, ge=1, le=64, description="So many threads hash at a time, for all targets together.")
    read_rate: UploadRate = rate_of("How fast files are read to be hashed, in all.")
    pressure: Pressure = Pressure()


class Service(ServiceSettings):
    """Where the daemon keeps its state, and its limits."""

    state_dir: DiskPath


class Config(Frozen):
    """Everything that was declared, from all *files*; *path* is the one that includes the others."""

    path: Path
    files: tuple[Path, ...]
    endpoints: dict[str, Endpoint]
    targets: tuple[Target, ...]
    service: Service
    log: Log = Log()
    monitor: Monitor = Monitor()
    mark: str = ""

    def target(self, name: str) -> Target:
        """Return the target called *name*; raise UsageError if there is none."""
        found = next((target for target in self.targets if target.name == name), None)
        if found is None:
            names = [target.name for target in self.targets]
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"declared are: {', '.join(names)}"
            raise UsageError(f"there is no target {name!r}", hint=hint)

        return found
