"""What hubsync tells of itself, and to whom: the [log] and [monitor] tables."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from hubsync.config.fields import DiskPath, Events, Period, PingUrl, PositiveSeconds, Strings
from hubsync.config.table import Frozen, time_of


class Log(Frozen):
    """What the daemon says about itself, and where."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "journal", "json"] = Field(
        "auto", description="auto: console on a terminal, journal under systemd, json otherwise."
    )
    file: DiskPath | None = Field(None, description="A second log, one JSON object per line.")
    heartbeat_s: Period = time_of("heartbeat", "1m", "How often each target's state is logged.")


class EventCommand(Frozen):
    """What is run when something is logged; the entry comes as JSON on its standard input."""

    events: Events = Field(description="Names or patterns of events, such as 'mirror.parked' or 'target.*'.")
    command: Strings = Field(description="A program and its arguments; no shell reads them.")
    timeout_s: PositiveSeconds = time_of("timeout", "30s", "It is ended after so long.")

    @field_validator("command")
    @classmethod
    def _check_command(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if not command or not command[0].startswith("/"):
            raise ValueError('must begin with the whole path of a program; write e.g. ["/usr/local/bin/page-me"]')

        return command


class Monitor(Frozen):
    """What else is told, beside the log."""

    metrics_file: DiskPath | None = Field(None, description="For node_exporter's textfile collector; ends in .prom.")
    heartbeat_url: PingUrl | None = Field(None, description="Called at each heartbeat while all is in time.")
    in_time_s: PositiveSeconds = time_of("in_time", "1h", "No required mirror may be further behind for heartbeat_url.")
    on_event: Annotated[tuple[EventCommand, ...], Field(strict=False)] = Field(
        (), description="Programs to run when something is logged.", max_length=16
    )

    @field_validator("metrics_file")
    @classmethod
    def _check_metrics_file(cls, path: Path | None) -> Path | None:
        if path is not None and path.suffix != ".prom":
            raise ValueError("must end in .prom; node_exporter reads no other files")

        return path
