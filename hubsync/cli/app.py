"""What all commands share: the group, the session, options that stand on several of them, and how results are printed."""
# ruff: noqa: PLC0415 - heavy imports stand where they are needed

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct
from msgspec.structs import asdict

from hubsync.errors import ConfigError, HubsyncError, StateError, UsageError, find_cure
from hubsync.monitor.text import escape_unsafe

if TYPE_CHECKING:
    from hubsync.config.glance import Glance
    from hubsync.config.model import Config

SCHEMA_VERSION = 1
SHOWN_ROWS = 40

_EXIT_CODES = """
\b
Exit codes:
  0    done
  1    failed, or the answer is "no"
  2    the command line is wrong
  3    the daemon is not running
  69   the Hub cannot be reached
  73   the state directory cannot be written, or the disk is full
  75   busy: another hubsync holds the lock
  77   not authorised
  78   the config is invalid
  130  interrupted
"""


class Session(Struct):
    """What all commands share: the config's path and the environment that hubsync was started in."""

    path: Path | None
    environment: dict[str, str]
    as_json: bool = False

    def load(self) -> "Config":
        """Load the config and send the log where it says."""
        from hubsync.config.load import load_config

        return load_config(self.path, self.environment)

    def glance(self) -> "Glance | None":
        """Return what the config says without being checked. Raises ConfigError if there is none."""
        from hubsync.config.glance import glance_at

        return glance_at(self.path, self.environment)

    def find_state_dir(self) -> Path:
        """Return the running daemon's state directory; it runs on while the config is being edited.

        Raises:
            ConfigError: the config does not say it.
        """
        seen = self.glance()
        return seen.state_dir if seen is not None else self.load().service.state_dir

    def find_log_file(self) -> Path | None:
        """Return the log file that the config names, whatever else is wrong in it; ``None``: there is only the journal.

        Raises:
            ConfigError: the config does not say it.
        """
        seen = self.glance()
        return seen.log_file if seen is not None else self.load().log.file

    def has_colour(self) -> bool:
        """Tell whether what is printed may have colours."""
        return sys.stdout.isatty() and not self.environment.get("NO_COLOR")

    def has_console_log(self, config: "Config") -> bool:
        """Tell whether people read standard error, so that progress may be shown there; others read the log's events."""
        from hubsync.monitor.log import choose_format

        return choose_format(config.log.format, sys.stderr, self.environment) == "console"

    def log(self, config: "Config", *, level: str | None = None, log_format: str | None = None) -> None:
        """Send the log where the config says."""
        from hubsync.monitor.log import configure_logging

        configure_logging(
            level=level or self.environment.get("HUBSYNC_LOG_LEVEL") or config.log.level,
            log_format=log_format or config.log.format,
            file=config.log.file,
            environment=self.environment,
        )


def _invoke(invoke: Callable[[click.Context], Any], ctx: click.Context) -> Any:  # noqa: ANN401 - click's
    """Let what the system refuses end a command as an error of ours does."""
    try:
        return invoke(ctx)
    except BrokenPipeError:  # click ends quietly when nobody reads on
        raise
    except OSError as exc:
        said = f"{exc.filename}: {exc.strerror}" if exc.filename and exc.strerror else str(exc)
        hint = find_cure(exc) or "see what is there, whose it is, and whether its disk is whole and has room"
        raise StateError(said, hint=hint) from exc


class _Group(click.Group):
    """A group whose commands end an error with what to do, and with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        try:
            return _invoke(super().invoke, ctx)
        except HubsyncError as exc:
            session = ctx.find_object(Session)
            if session is not None and session.as_json:
                problems = getattr(exc, "problems", ()) or [{"message": str(exc)}]
                print_json(ok=False, **error_document(exc), problems=problems)
            lines = [escape_unsafe(line) for line in str(exc).splitlines()]
            is_list = isinstance(exc, ConfigError)  # of problems; elsewhere a name may hold a line's end
            click.echo("\n".join(lines) if is_list else "error: " + "\n  ".join(lines), err=True)
            if exc.hint:
                click.echo(f"  → {escape_unsafe(exc.hint)}", err=True)
            ctx.exit(getattr(exc, "status", exc.exit_code))
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXIT_CODES)
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="The config file (default: searched for).")
@click.version_option(package_name="hubsync", prog_name="hubsync")
@click.pass_context
def cli(ctx: click.Context, path: Path | None) -> None:
    """Publish local model directories to mirrored Hub repositories: whole checkpoints, through git-lfs, on a schedule."""
    ctx.obj = Session(path, ctx.obj or dict(os.environ))


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let -c/--config stand after the command as well."""

    def remember(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
        if value is not None:
            ctx.find_object(Session).path = value  # type: ignore[union-attr]

    return click.option(
        "-c", "--config", type=click.Path(path_type=Path), expose_value=False, callback=remember, help="The config file."
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let --json make the result, or the error, one document on standard output."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:  # noqa: FBT001 - click's
        ctx.find_object(Session).as_json = value  # type: ignore[union-attr]
        return value

    return click.option("--json", "as_json", is_flag=True, callback=remember, help="Print one JSON document.")(command)


class Moment(click.ParamType[datetime]):
    """A point in time, as a person writes it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401 - click's
        """Return the time that *value* means."""
        from hubsync.views.query import parse_moment

        try:
            return value if isinstance(value, datetime) else parse_moment(value, datetime.now().astimezone())
        except UsageError as exc:
            self.fail(f"{exc}; {exc.hint}", param, ctx)


class Duration(click.ParamType[float]):
    """A time with its unit, such as 10m, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's
        """Return the seconds that *value* means."""
        from hubsync.config.units import parse_duration

        try:
            return value if isinstance(value, float) else parse_duration(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Size(click.ParamType[int]):
    """An amount with its unit, such as 10GB, in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's
        """Return the bytes that *value* means."""
        from hubsync.config.units import parse_size

        try:
            return value if isinstance(value, int) else parse_size(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


pass_session = click.pass_obj


def error_document(error: HubsyncError) -> dict[str, Any]:
    """Return what --json tells of an error."""
    return {"error": str(error), "error_kind": error.error_kind, "hint": error.hint}


def print_json(**document: Any) -> None:  # noqa: ANN401 - values that JSON can hold
    """Print one document on standard output."""
    generated = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "generated_at": generated, **document}, default=_as_plain))


def _as_plain(value: object) -> object:
    return asdict(value) if isinstance(value, Struct) else str(value)
