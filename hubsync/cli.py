"""The command line: reads arguments, calls what does the work, prints values, turns errors into exit codes.

Results go to standard output, messages and logs to standard error. Heavy imports stand inside the commands that need
them, so that ``status`` and ``--help`` answer at once.
"""
# ruff: noqa: PLC0415 - see above

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubsync.errors import ConfigError, HubsyncError, StateError, UsageError

if TYPE_CHECKING:
    from hubsync.config.glance import Glance
    from hubsync.config.model import Config
    from hubsync.explain import Explanation
    from hubsync.once import Outcome
    from hubsync.plan import MirrorPlan, Plan
    from hubsync.views.log import Place
    from hubsync.views.story import Story

SCHEMA_VERSION = 1
_SHOWN_STEPS = 40
_FOLLOWED_LINES = 20

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


@dataclass(slots=True)
class Session:
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

    def has_colour(self) -> bool:
        """Tell whether what is printed may have colours."""
        return sys.stdout.isatty() and not self.environment.get("NO_COLOR")

    def log(self, config: "Config", *, level: str | None = None, log_format: str | None = None) -> None:
        """Send the log where the config says."""
        from hubsync.monitor.log import configure_logging

        configure_logging(
            level=level or self.environment.get("HUBSYNC_LOG_LEVEL") or config.log.level,
            log_format=log_format or config.log.format,
            file=config.log.file,
            environment=self.environment,
        )


class _Group(click.Group):
    """A group whose commands end an error with what to do, and with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        try:
            return super().invoke(ctx)
        except HubsyncError as exc:
            session = ctx.find_object(Session)
            if session is not None and session.as_json:
                problems = getattr(exc, "problems", ()) or [{"message": str(exc)}]
                _print_json(ok=False, **_error_document(exc), problems=problems)
            click.echo(str(exc) if isinstance(exc, ConfigError) else f"error: {exc}", err=True)
            if exc.hint:
                click.echo(f"  → {exc.hint}", err=True)
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


pass_session = click.pass_obj


@cli.command()
@config_option
@pass_session
def run(session: Session) -> None:
    """Watch and publish until stopped (SIGTERM); SIGHUP reads the config again."""
    from hubsync.daemon import Daemon
    from hubsync.priority import stand_back

    config = session.load()
    session.log(config)
    stand_back(config.service.priority)
    sys.exit(Daemon(config, session.environment).run())


@cli.command()
@click.argument("targets", nargs=-1)
@click.option("--timeout", default="10m", show_default=True, help="How long to wait for files to become quiet.")
@click.option("--confirm-deletes", is_flag=True, help="Publish the removal of more than half of the paths.")
@json_option
@config_option
@pass_session
def once(session: Session, targets: tuple[str, ...], timeout: str, *, confirm_deletes: bool, as_json: bool) -> None:
    """Capture, commit and publish what is there now, then exit.

    Exits with 1, and the list, if something was held back or failed.
    """
    from hubsync.mirror.token import Tokens
    from hubsync.once import exit_code, run_once
    from hubsync.priority import stand_back
    from hubsync.service import select_targets
    from hubsync.signals import stop_on_signals

    config = session.load()
    session.log(config)
    stand_back(config.service.priority)
    outcomes = run_once(
        config, select_targets(config, targets), Tokens(session.environment), stop_on_signals(),
        timeout_s=_seconds(timeout), confirm_deletes=confirm_deletes,
    )  # fmt: skip
    if as_json:
        _print_json(targets=[_outcome_document(outcome) for outcome in outcomes])
    else:
        for outcome in outcomes:
            _print_outcome(outcome)
    sys.exit(exit_code(outcomes))


@cli.command()
@click.argument("targets", nargs=-1)
@json_option
@config_option
@pass_session
def plan(session: Session, targets: tuple[str, ...], *, as_json: bool) -> None:
    """Show what `once` would do, with reasons; changes nothing.

    Exits with 1 if a target is halted.
    """
    from hubsync.monitor.log import discard_log
    from hubsync.plan import make_plan
    from hubsync.service import select_targets

    config = session.load()
    discard_log()
    plans = [make_plan(config, target) for target in select_targets(config, targets)]
    if as_json:
        _print_json(targets=[asdict(one) for one in plans])
    else:
        for one in plans:
            _print_plan(one)
    sys.exit(any(one.halted is not None for one in plans))


@cli.command()
@click.argument("path")
@json_option
@config_option
@pass_session
def explain(session: Session, path: str, *, as_json: bool) -> None:
    """Say why a file, or each file of a directory, is published or not: rule, unit, route, and each mirror.

    Exits with 1 if something of it is not on all required mirrors.
    """
    from hubsync.explain import explain as explain_path
    from hubsync.monitor.log import discard_log

    config = session.load()
    discard_log()
    found = explain_path(config, path, Path.cwd())
    if as_json:
        _print_json(paths=[{**asdict(one), "published": one.is_published} for one in found])
    else:
        _print_explanations(found)
    sys.exit(0 if all(one.is_published for one in found) else 1)


@cli.command()
@click.argument("target", required=False)
@click.option("--watch", is_flag=True, help="Show it again each second.")
@json_option
@config_option
@pass_session
def status(session: Session, target: str | None, *, watch: bool, as_json: bool) -> None:
    """Show how targets and mirrors are; exits with 1 if something is wrong, 3 if no daemon runs."""
    from hubsync.status_view import is_in_force, show_status

    rejected = None
    if not is_in_force(session.glance(), target):
        try:
            config = session.load()
        except ConfigError as exc:  # a running daemon goes on with the former one
            rejected = exc
        else:
            if target is not None:
                config.target(target)
    state_dir, colour = session.find_state_dir(), session.has_colour()
    sys.exit(show_status(state_dir, target, rejected, watch=watch, as_json=as_json, colour=colour))


@cli.command()
@click.argument("target")
@click.option("--preview", is_flag=True, help="Show it as a page, on a terminal.")
@click.option("--mirror", "mirror_name", help="The mirror to write it for (default: the first).")
@json_option
@config_option
@pass_session
def card(session: Session, target: str, mirror_name: str | None, *, preview: bool, as_json: bool) -> None:
    """Print the model card of TARGET, made from the source as it stands; publishes nothing."""
    from hubsync.card.merge import without_block
    from hubsync.preview import preview_card

    config = session.load()
    declared = config.target(target)
    mirror = declared.mirror(mirror_name) if mirror_name else declared.mirrors[0]
    composed = preview_card(config, declared, mirror)
    text = composed.files.get("README.md", "")
    if as_json:
        _print_json(target=target, mirror=mirror.name, reason=composed.reason, files=composed.files)
    elif not text:
        raise HubsyncError(f"the source's README.md is left alone: {composed.reason}")
    elif preview and sys.stdout.isatty():
        _print_page(without_block(text))
    else:
        click.echo(text, nl=False)


@cli.command("log")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on.")
@click.option("-n", "--last", type=click.IntRange(min=0), help="Only the last N entries (with --follow: 20).")
@click.option("--since", type=Moment(), help="2h (ago), 03:00, yesterday, 2026-11-23, or RFC 3339.")
@click.option("--until", type=Moment(), help="As --since.")
@click.option("-t", "--target", "targets", multiple=True, help="Only this target; may be given again.")
@click.option("-m", "--mirror", "mirrors", multiple=True, help="Only this mirror; may be given again.")
@click.option(
    "-e",
    "--event",
    "events",
    multiple=True,
    help="Only these events, such as 'mirror.*'; '!file.*' leaves out. Without it, and without --json: no heartbeats.",
)
@click.option(
    "-l", "--level", type=click.Choice(["debug", "info", "warning", "error"]), default="debug", help="The least level."
)
@click.option(
    "--file", type=click.Path(path_type=Path, allow_dash=True), help="A log file to read instead of the config's."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@config_option
@pass_session
def show_log_command(
    session: Session, /, *, follow: bool, last: int | None, file: Path | None, as_json: bool, **conditions: Any  # noqa: ANN401 - Query has them
) -> None:  # fmt: skip
    """Show the log: the file with its rotated parts, packed or not, or the journal; exits with 1 if nothing is found."""
    from hubsync.views.log import Printer, show_log
    from hubsync.views.query import Query

    if not as_json and not conditions["events"]:
        conditions["events"] = ("!heartbeat",)
    if follow and last is None and conditions["since"] is None:
        last = _FOLLOWED_LINES
    printer = Printer(sys.stdout, as_json=as_json, colour=session.has_colour())
    sys.exit(show_log(_log_place(session, file), Query(**conditions), printer, last=last, follow=follow))


@cli.command("report")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page that needs no server to this file."
)
@click.option("--since", type=Moment(), default="7d", show_default=True, help="As in `hubsync log`.")
@click.option("--until", type=Moment(), help="As --since.")
@click.option("-t", "--target", "targets", multiple=True, help="Only this target; may be given again.")
@click.option(
    "--file", type=click.Path(path_type=Path, allow_dash=True), help="A log file to read instead of the config's."
)
@json_option
@config_option
@pass_session
def make_report_command(
    session: Session, /, *, html: Path | None, file: Path | None, as_json: bool, **conditions: Any  # noqa: ANN401 - Query has them
) -> None:  # fmt: skip
    """Tell what the log says of the last week: what was published, how late, what failed and what to do."""
    from hubsync.views.query import Query
    from hubsync.views.story import tell
    from hubsync.views.summary import summarize_story

    query = Query(**conditions)
    story = tell(query.select(_log_place(session, file).read(query.since)))
    if html is not None:
        _write_page(html, story)
    if as_json:
        _print_json(**asdict(story))
    elif html is None:
        click.echo(summarize_story(story), nl=False)


def _command(name: str, doc: str) -> None:
    @cli.command(name, help=doc)
    @click.argument("targets", nargs=-1)
    @config_option
    @pass_session
    def send(session: Session, targets: tuple[str, ...]) -> None:
        from hubsync.control import send_command

        answer = send_command(session.find_state_dir() / "control.sock", name, targets)
        if done := ", ".join(answer["targets"]) or answer.get("done"):
            click.echo(f"{name}: {done}")
        for target, why in answer.get("idle", {}).items():
            click.echo(f"{target} is {why}", err=True)
        if answer.get("idle") and (targets or not answer["targets"]):
            sys.exit(1)


_command("flush", "Ask the running daemon to commit and publish now.")
_command("pause", "Ask the running daemon to publish nothing until `resume`.")
_command("resume", "Ask the running daemon to go on.")
_command("reload", "Ask the running daemon to read its config again.")


@cli.command()
@click.argument("target")
@click.option("--unit", help="The unit, such as checkpoint-500 (default: all that is there now).")
@click.option("--mirror", help="The mirror (default: all that are required).")
@click.option("--timeout", help="How long to wait, such as 10m (default: until it is done).")
@json_option
@config_option
@pass_session
def wait(
    session: Session, target: str, unit: str | None, mirror: str | None, timeout: str | None, *, as_json: bool
) -> None:
    """Wait until a unit, or all that is there now, is published.

    Exits with 1, and why, if it is not published in time or cannot be, and with 3 if no daemon runs. Without --unit it
    does not wait for the schedule: files are committed as they settle. A unit never waits for it.
    """
    from hubsync.monitor.log import discard_log
    from hubsync.wait import Wish
    from hubsync.wait_client import wait_for

    config = session.load()
    discard_log()
    wish = Wish(config.target(target).name, unit.rstrip("/") if unit else None, mirror)
    answer = wait_for(config, wish, None if timeout is None else _seconds(timeout))
    if as_json:
        _print_json(**asdict(wish), **asdict(answer))
    else:
        click.echo(answer.reason, err=not answer.published)
        if answer.hint:
            click.echo(f"  → {answer.hint}", err=True)
    sys.exit(0 if answer.published else 1)


@cli.command()
@click.option("--online", is_flag=True, help="Also try git, git-lfs, tokens, repositories, limits, links and disk.")
@json_option
@config_option
@pass_session
def check(session: Session, *, online: bool, as_json: bool) -> None:
    """Check the config; with --online also everything that it depends on."""
    config = session.load()
    findings = []
    if online:
        from hubsync.mirror.token import Tokens
        from hubsync.preflight import check_online

        findings = list(check_online(config, Tokens(session.environment), session.environment))
    failed = [finding for finding in findings if finding.error_kind]
    if as_json:
        _print_json(ok=not failed, config=str(config.path), findings=[asdict(finding) for finding in findings])
    else:
        names = ", ".join(target.name for target in config.targets)
        click.echo(f"{config.path}: valid ({len(config.targets)} target{'s' * (len(config.targets) != 1)}: {names})")
        for finding in findings:
            click.echo(f"{'FAIL' if finding.error_kind else 'ok':>6}  {finding.what}: {finding.said}")
            if finding.hint:
                click.echo(f"        → {finding.hint}")
    if failed:
        codes = {finding.exit_code for finding in failed}
        sys.exit(codes.pop() if len(codes) == 1 else 1)


@cli.command()
def schema() -> None:
    """Print the config's JSON Schema, for editors."""
    from hubsync.config.load import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@cli.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("hubsync.toml"))
def init(path: Path) -> None:
    """Write a commented config to PATH (hubsync.toml); an existing file is never replaced."""
    from hubsync.config.load import example_text

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(example_text())
    except FileExistsError as exc:
        raise StateError(f"{path} exists already", hint="name another file: hubsync init other.toml") from exc
    except OSError as exc:
        raise StateError(f"{path}: {exc.strerror}") from exc
    click.echo(f"wrote {path}; edit it, then run: hubsync -c {path} check")


@cli.command()
@json_option
def events(*, as_json: bool) -> None:
    """List all events of the log: level, fields, meaning, and what to do."""
    from hubsync.monitor.events import CATALOGUE

    if as_json:
        _print_json(events=[asdict(event) for event in CATALOGUE.values()])
        return
    for event in CATALOGUE.values():
        click.echo(f"{event.name}  [{event.level}]\n    {event.meaning}")
        if event.action:
            click.echo(f"    → {event.action}")
        click.echo(f"    fields: {', '.join(event.fields) or 'none'}\n")


@cli.group()
def localhub() -> None:
    """A Hub on this machine: real git, LFS and the Hub's HTTP API on loopback, for trying out and for tests."""


@localhub.command("serve")
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True, help="Where it keeps repositories.")
@click.option("--port", type=int, default=8000, show_default=True)
@click.option("--fault", "faults", multiple=True, metavar="FAULT", help="Show this fault; may be given more than once.")
@click.option("--part-size", help="Take objects larger than this in parts of this size (the Hub: over 5 GiB).")
@click.option("--commits-per-hour", type=int, help="Per repository; more are refused with 429.")
@click.option("--requests-per-window", type=int, help="API requests per user in five minutes; more are refused with 429.")
@click.option("--storage", help="For all objects of one namespace (10GB); more are refused with 403.")
def localhub_serve(
    directory: Path,
    port: int,
    faults: tuple[str, ...],
    part_size: str | None,
    storage: str | None,
    **limits: Any,  # noqa: ANN401 - numbers, as the other options say
) -> None:
    """Serve a local Hub until stopped.

    A FAULT is METHOD PATH ACTION..., for example "POST */info/lfs/objects/batch 503 times=2 retry-after=3". METHOD and PATH
    may hold "*". Actions: 503 or status=503, header=Name:value, retry-after=3, body=garbage, redirect=URL, delay=5s,
    stall, stall-after=64KiB, reset, reset-after=64KiB, rate=1KB/s, truncate, lose-answer; times=2 and after=3 say how often
    and from when on. GET /_faults counts them.
    """
    _need_extra("localhub")
    from hubsync.localhub import Settings, serve

    settings = Settings(storage_bytes=_size(storage), **limits)
    if part_bytes := _size(part_size):
        settings = replace(settings, single_max_bytes=part_bytes, part_bytes=part_bytes)
    serve(directory, port, settings=settings, faults=faults)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@click.option("--keep", is_flag=True, help="Keep the Hubs running at the end, to look at what arrived.")
@pass_session
def demo(session: Session, directory: Path | None, *, keep: bool) -> None:
    """Show hubsync at work: two local Hubs, a run that saves checkpoints (or DIRECTORY), and the proof."""
    _need_extra("localhub")
    from hubsync.demo import run_demo

    sys.exit(run_demo(directory, keep=keep, environment=session.environment))


@cli.command("lfs-agent", hidden=True)
@pass_session
def lfs_agent(session: Session) -> None:
    """Be git-lfs's transfer agent; git-lfs starts it."""
    from hubsync.mirror.agent import run_agent

    run_agent(session.environment, sys.stdin, sys.stdout)


def main() -> None:
    """Run the command line in a closed environment: children see an allow-list of variables and no token."""
    from hubsync.store.process import close_environment

    cli(obj=close_environment(os.environ))


def _log_place(session: Session, file: Path | None) -> "Place":
    from hubsync.views.log import Place

    return Place(file) if file is not None else Place(configured=session.load().log.file)


def _write_page(path: Path, story: "Story") -> None:
    from hubsync.views.page import draw_page

    try:
        path.write_text(draw_page(story), encoding="utf-8")
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}", hint="name another file") from exc
    click.echo(f"wrote {path}; open it in a browser", err=True)


def _seconds(text: str) -> float:
    from hubsync.config.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--timeout") from exc


def _size(text: str | None) -> int | None:
    from hubsync.config.units import parse_size

    try:
        return None if text is None else parse_size(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _need_extra(name: str) -> None:
    import importlib.util

    if any(importlib.util.find_spec(module) is None for module in ("httptools", "lz4", "starlette")):
        raise StateError(f"this command needs hubsync's extra {name!r}", hint=f"pip install 'hubsync[{name}]'")


def _outcome_document(outcome: "Outcome") -> dict[str, Any]:
    failed = {name: _error_document(error) for name, error in outcome.failed.items()}
    return {"target": outcome.target, "commits": outcome.commits, "held": outcome.held, "failed": failed}


def _error_document(error: HubsyncError) -> dict[str, Any]:
    return {"error": str(error), "error_kind": error.error_kind, "hint": error.hint}


def _print_outcome(outcome: "Outcome") -> None:
    from hubsync.monitor.text import escape_unsafe

    if outcome.is_done:
        click.echo(f"{outcome.target}: everything is published")
        return
    click.echo(f"{outcome.target}: not everything is published")
    for path, reason in sorted(outcome.held.items()):
        click.echo(escape_unsafe(f"  held    {path}: {reason}"))
    for name, error in outcome.failed.items():
        click.echo(escape_unsafe(f"  failed  {name}: {error}"))
        if error.hint:
            click.echo(f"          → {error.hint}")


def _print_explanations(found: "list[Explanation]") -> None:
    from hubsync.explain import describe
    from hubsync.monitor.text import escape_unsafe

    told = [one for one in found if not one.is_published] if len(found) > 1 else found
    for one in told[:_SHOWN_STEPS]:
        click.echo(escape_unsafe(one.path))
        for heading, text in describe(one):
            click.echo(escape_unsafe(f"  {heading:10} {text}"))
    if len(told) > _SHOWN_STEPS:
        click.echo(f"… and {len(told) - _SHOWN_STEPS} more (--json lists all)")
    if len(found) > 1:
        click.echo(f"{len(found) - len(told)} of {len(found)} files are published on all required mirrors")


def _print_plan(plan: "Plan") -> None:
    from hubsync.monitor.text import escape_unsafe, format_bytes, format_count

    taken = [step for step in plan.steps if step.action == "capture"]
    size = format_bytes(sum(step.bytes for step in taken))
    click.echo(f"{plan.target}: {format_count(len(taken), 'file')} to publish ({size}), {plan.unchanged} unchanged")
    click.echo(escape_unsafe(f"  from {plan.source}"))
    if plan.halted is not None:
        click.echo(escape_unsafe(f"  halted: nothing is captured: {plan.halted.error}"))
        click.echo(f"          → {plan.halted.hint}")
    for mirror in plan.publishes:
        click.echo(
            f"  to {mirror.name}: {format_count(mirror.files, 'file')} ({format_bytes(mirror.bytes)}){_backlog(mirror)}"
        )
    for step in plan.steps[:_SHOWN_STEPS]:
        where = f" [{step.unit}]" if step.unit else ""
        amount = f" {format_bytes(step.bytes)} {step.route}" if step.action in {"capture", "upload"} else ""
        click.echo(escape_unsafe(f"  {step.action:8}{step.path}{where}{amount}  ({step.reason})"))
        if step.hint:
            click.echo(escape_unsafe(f"          → {step.hint}"))
    if len(plan.steps) > _SHOWN_STEPS:
        click.echo(f"  … and {len(plan.steps) - _SHOWN_STEPS} more (--json lists all)")


def _print_page(text: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.syntax import Syntax

    from hubsync.card.frontmatter import read_front_matter

    front = read_front_matter(text)
    console = Console()
    console.print(Syntax(front.text, "yaml", background_color="default"))
    console.print(Markdown(front.body))


def _backlog(mirror: "MirrorPlan") -> str:
    from hubsync.monitor.text import format_bytes, format_count

    if not mirror.backlog_snapshots:
        return ""
    files, size = format_count(mirror.backlog_files, "file"), format_bytes(mirror.backlog_bytes)
    return f", of which {files} ({size}) in {format_count(mirror.backlog_snapshots, 'snapshot')} waited for it"


def _print_json(**document: Any) -> None:  # noqa: ANN401 - values that JSON can hold
    generated = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "generated_at": generated, **document}, default=str))
