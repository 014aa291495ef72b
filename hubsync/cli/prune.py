"""The command that gives the disk back."""
# ruff: noqa: PLC0415 - heavy imports stand in the command

import sys
import threading
from typing import TYPE_CHECKING

import click

from hubsync.cli.app import Session, cli, config_option, json_option, pass_session, print_json
from hubsync.errors import UsageError

if TYPE_CHECKING:
    from hubsync.prune.run import Outcome


@cli.command()
@click.argument("target")
@click.option("--yes", "--execute", "execute", is_flag=True, help="Remove what would go.")
@click.option("--dry-run", is_flag=True, help="Only show it: the default.")
@json_option
@config_option
@pass_session
def prune(session: Session, target: str, *, execute: bool, dry_run: bool, as_json: bool) -> None:
    """Show which units of TARGET go by retention.local, and with --yes remove them.

    A unit goes if no rule keeps it, every required mirror proves now that it holds every byte, and nobody is at work in it.
    May be used while the daemon runs. With --yes, exits with 1 if a unit must not go yet.
    """
    from hubsync.mirror.token import Tokens
    from hubsync.proof.prove import Means
    from hubsync.prune.run import Pruner

    if execute and dry_run:
        raise UsageError("--dry-run and --yes exclude each other", hint="give one of them")
    config = session.load()
    found = config.target(target)
    session.log(config)
    means = Means(config, Tokens(session.environment), threading.Event())
    outcomes = Pruner(found, means).run(execute=execute)
    if as_json:
        print_json(target=target, dry_run=not execute, units=outcomes)
    else:
        _print(target, outcomes, execute=execute)
    sys.exit(execute and any(outcome.action == "leave" for outcome in outcomes))


def _print(target: str, outcomes: "list[Outcome]", *, execute: bool) -> None:
    from hubsync.monitor.text import escape_unsafe, format_bytes, format_count

    gone = [outcome for outcome in outcomes if outcome.action == "remove"]
    size = format_bytes(sum(outcome.bytes for outcome in gone))
    done = "removed" if execute else "would be removed"
    click.echo(f"{target}: {format_count(len(outcomes), 'unit')}, {len(gone)} {done} ({size})")
    for outcome in outcomes:
        click.echo(escape_unsafe(f"  {outcome.action:8}{outcome.unit}  ({outcome.reason})"))
        if outcome.action == "leave" and outcome.hint:
            click.echo(escape_unsafe(f"          → {outcome.hint}"))
    if gone and not execute:
        click.echo(f"nothing was removed; `hubsync prune {target} --yes` does it")
