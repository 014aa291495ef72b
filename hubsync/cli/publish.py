"""The commands that publish, and those that steer a running daemon."""
# ruff: noqa: PLC0415 - heavy imports stand in the commands that need them

import sys
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from hubsync.cli.app import (
    SHOWN_ROWS,
    Duration,
    Session,
    cli,
    config_option,
    error_document,
    json_option,
    pass_session,
    print_json,
)
from hubsync.monitor.text import escape_unsafe

if TYPE_CHECKING:
    from hubsync.once import Outcome
    from hubsync.plan import MirrorPlan, Plan


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
@click.option(
    "--timeout", type=Duration(), default="10m", show_default=True, help="How long to wait for files to become quiet."
)
@click.option("--confirm-deletes", is_flag=True, help="Publish the removal of most paths, or of what was unmounted.")
@json_option
@config_option
@pass_session
def once(session: Session, targets: tuple[str, ...], timeout: float, *, confirm_deletes: bool, as_json: bool) -> None:
    """Capture, commit and publish what is there now, then exit.

    A file is taken when it was unchanged for `quiet` (30s by default), which is waited for. Exits with 1, and the list, if
    something was held back or failed; `hubsync status` then tells it too.
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
        timeout_s=timeout, confirm_deletes=confirm_deletes, shows_progress=session.has_console_log(config),
    )  # fmt: skip
    if as_json:
        print_json(targets=[_outcome_document(outcome) for outcome in outcomes])
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
        print_json(targets=plans)
    else:
        for one in plans:
            _print_plan(one)
    sys.exit(any(one.halted is not None for one in plans))


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
@click.option("--timeout", type=Duration(), help="How long to wait, such as 10m (default: until it is done).")
@json_option
@config_option
@pass_session
def wait(
    session: Session, target: str, unit: str | None, mirror: str | None, timeout: float | None, *, as_json: bool
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
    answer = wait_for(config, wish, timeout)
    if as_json:
        print_json(**asdict(wish), **asdict(answer))
    else:
        click.echo(escape_unsafe(answer.reason), err=not answer.published)
        if answer.hint:
            click.echo(escape_unsafe(f"  → {answer.hint}"), err=True)
    sys.exit(0 if answer.published else 1)


def _outcome_document(outcome: "Outcome") -> dict[str, Any]:
    failed = {name: error_document(error) for name, error in outcome.failed.items()}
    return {"target": outcome.target, "commits": outcome.commits, "held": outcome.held, "failed": failed}


def _print_outcome(outcome: "Outcome") -> None:
    if outcome.is_done:
        click.echo(f"{outcome.target}: everything is published")
        return
    click.echo(f"{outcome.target}: not everything is published")
    for path, reason in sorted(outcome.held.items()):
        click.echo(escape_unsafe(f"  held    {path}: {reason}"))
    for name, error in outcome.failed.items():
        click.echo(escape_unsafe(f"  failed  {name}: {error}"))
        if error.hint:
            click.echo(escape_unsafe(f"          → {error.hint}"))


def _print_plan(plan: "Plan") -> None:
    from hubsync.monitor.text import format_bytes, format_count

    taken = [step for step in plan.steps if step.action == "capture"]
    size = format_bytes(sum(step.bytes for step in taken))
    click.echo(f"{plan.target}: {format_count(len(taken), 'file')} to publish ({size}), {plan.unchanged} unchanged")
    click.echo(escape_unsafe(f"  from {plan.source}"))
    if plan.halted is not None:
        click.echo(escape_unsafe(f"  halted: nothing is captured: {plan.halted.error}"))
        click.echo(escape_unsafe(f"          → {plan.halted.hint}"))
    for mirror in plan.publishes:
        click.echo(
            f"  to {mirror.name}: {format_count(mirror.files, 'file')} ({format_bytes(mirror.bytes)}){_backlog(mirror)}"
        )
    for step in plan.steps[:SHOWN_ROWS]:
        where = f" [{step.unit}]" if step.unit else ""
        amount = f" {format_bytes(step.bytes)} {step.route}" if step.action in {"capture", "upload"} else ""
        click.echo(escape_unsafe(f"  {step.action:8}{step.path}{where}{amount}  ({step.reason})"))
        if step.hint:
            click.echo(escape_unsafe(f"          → {step.hint}"))
    if len(plan.steps) > SHOWN_ROWS:
        click.echo(f"  … and {len(plan.steps) - SHOWN_ROWS} more (--json lists all)")


def _backlog(mirror: "MirrorPlan") -> str:
    from hubsync.monitor.text import format_bytes, format_count

    if not mirror.backlog_snapshots:
        return ""
    files, size = format_count(mirror.backlog_files, "file"), format_bytes(mirror.backlog_bytes)
    return f", of which {files} ({size}) in {format_count(mirror.backlog_snapshots, 'snapshot')} waited for it"
