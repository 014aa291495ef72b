"""The commands that come first: write a config, check it, describe it to an editor."""
# ruff: noqa: PLC0415 - heavy imports stand in the commands that need them

import json
import sys
from pathlib import Path

import click

from hubsync.cli.app import Session, cli, config_option, json_option, pass_session, print_json
from hubsync.errors import StateError
from hubsync.monitor.text import escape_unsafe


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

        findings = list(check_online(config, Tokens(session.environment)))
    failed = [finding for finding in findings if finding.error_kind]
    if as_json:
        print_json(ok=not failed, config=str(config.path), findings=findings)
    else:
        names = ", ".join(target.name for target in config.targets)
        click.echo(f"{config.path}: valid ({len(config.targets)} target{'s' * (len(config.targets) != 1)}: {names})")
        for finding in findings:
            click.echo(escape_unsafe(f"{'FAIL' if finding.error_kind else 'ok':>6}  {finding.what}: {finding.said}"))
            if finding.hint:
                click.echo(escape_unsafe(f"        → {finding.hint}"))
    if failed:
        codes = {finding.exit_code for finding in failed}
        sys.exit(codes.pop() if len(codes) == 1 else 1)


@cli.command()
def schema() -> None:
    """Print the config's JSON Schema, for editors."""
    from hubsync.config.load import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
