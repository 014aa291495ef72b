"""The command that brings published files home."""
# ruff: noqa: PLC0415 - heavy imports stand in the commands that need them

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from hubsync.cli.app import Session, cli, config_option, json_option, pass_session, print_json
from hubsync.errors import UsageError

if TYPE_CHECKING:
    from hubsync.config.model import Config
    from hubsync.restore.catalog import Wish
    from hubsync.restore.run import From, Restored

_DEFAULT_ENDPOINT = "https://huggingface.co"


@cli.command()
@click.argument("places", nargs=-1, metavar="[TARGET] DEST", required=True)
@click.option("--unit", help="Restore this unit, such as checkpoint-500.")
@click.option("--latest", is_flag=True, help="Restore the newest unit.")
@click.option("--best", is_flag=True, help="Restore the best unit, by the config's metric or the trainer's own state.")
@click.option("--revision", help="Restore from this branch, tag or commit (40 digits).")
@click.option("--mirror", help="Restore from this mirror only (default: the fastest, and the next when it fails).")
@click.option("--repo", help="Restore from this repository, without a config: [datasets/|spaces/]owner/name[@branch].")
@click.option("--endpoint", help="With --repo: the Hub's address (default: $HF_ENDPOINT, or the Hugging Face Hub).")
@click.option("--include", multiple=True, metavar="PATTERN", help="Restore only such files; gitignore syntax.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave such files out; gitignore syntax.")
@json_option
@config_option
@pass_session
def restore(session: Session, /, places: tuple[str, ...], *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401 - click's
    """Bring a unit, a revision or everything from a mirror to the new directory DEST.

    DEST appears when it is complete and every file's hash is right. After an interruption, run the same again: it goes on.
    Needs no daemon; with --repo no config either.
    """
    from hubsync.mirror.token import Tokens
    from hubsync.monitor.log import discard_log
    from hubsync.restore.progress import Meter, Teller
    from hubsync.restore.run import restore as bring

    if len(places) != (1 if asked["repo"] else 2):
        raise UsageError("restore takes TARGET and DEST, or --repo and DEST", hint="hubsync restore --help")
    wish = _read_wish(asked)
    mirrors = _from_repo(session.environment, asked) if asked["repo"] else _from_target(session, places, asked["mirror"])
    discard_log()
    meter = Meter()
    with Teller(meter, quiet=as_json):
        done = bring(wish, mirrors, Path(places[-1]), Tokens(session.environment), meter, threading.Event())
    if as_json:
        print_json(ok=True, **asdict(done))
    else:
        _tell(done)


def _read_wish(asked: Mapping[str, Any]) -> "Wish":
    from hubsync.restore.catalog import Wish
    from hubsync.watch.rules import PublishedRules

    named = [name for name in ("unit", "latest", "best") if asked[name]]
    if len(named) > 1:
        raise UsageError(f"--{named[0]} and --{named[1]} exclude each other", hint="give one of them")
    rules = PublishedRules(asked["include"] or ("**",), asked["exclude"])
    unit = asked["unit"].strip("/") if asked["unit"] else None

    return Wish(unit, asked["revision"], asked["latest"], asked["best"], rules)


def _from_target(session: Session, places: tuple[str, ...], mirror: str | None) -> "list[From]":
    from hubsync.restore.catalog import Layout
    from hubsync.restore.run import From
    from hubsync.restore.times import read_unit_times

    config = session.load()
    target = config.target(places[0])
    _expect_outside(config, Path(places[1]))
    mirrors = (target.mirror(mirror),) if mirror else target.mirrors
    written_at = read_unit_times(target, config.service.state_dir)

    return [From(each, config.endpoints[each.endpoint], Layout.of(target, each, written_at)) for each in mirrors]


def _expect_outside(config: "Config", dest: Path) -> None:
    """Raise UsageError if *dest* lies in a directory that is hubsync's own."""
    from hubsync.pipeline import store_directory

    state_dir = config.service.state_dir
    for own in (state_dir, *(store_directory(target, state_dir) for target in config.targets)):
        if dest.resolve().is_relative_to(own.resolve()):
            raise UsageError(f"{dest} lies in {own}, where hubsync keeps its state", hint="name a directory elsewhere")


def _from_repo(environment: Mapping[str, str], asked: Mapping[str, Any]) -> "list[From]":
    from pydantic import ValidationError

    from hubsync.config.model import Endpoint, Mirror
    from hubsync.config.repo import parse_repo
    from hubsync.restore.catalog import Layout
    from hubsync.restore.run import From

    if asked["mirror"]:
        raise UsageError("--mirror names a mirror of a target, and --repo asks for none", hint="leave one of them out")
    url = asked["endpoint"] or environment.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT
    try:
        spec = parse_repo(asked["repo"])
    except ValueError as exc:
        raise UsageError(f"--repo {exc}") from exc
    if spec.endpoint != "hub":
        raise UsageError("--repo names no endpoint", hint="give the Hub's address with --endpoint")
    try:
        endpoint = Endpoint(name="hub", url=url)
    except ValidationError as exc:
        raise UsageError(f"--endpoint {exc.errors()[0]['msg'].removeprefix('Value error, ')}") from exc
    mirror = Mirror(name=str(spec), endpoint="hub", repo_type=spec.repo_type, repo_id=spec.repo_id, branch=spec.branch)

    return [From(mirror, endpoint, Layout(spec.branch))]


def _tell(done: "Restored") -> None:
    from hubsync.monitor.text import escape_unsafe, format_bytes, format_count, format_duration

    what = done.unit or done.revision or "everything"
    amount = f"{format_count(done.files, 'file')}, {format_bytes(done.bytes)}"
    sources = ", ".join(done.by_mirror) or done.mirror
    click.echo(escape_unsafe(f"{what}: {amount} from {sources} in {format_duration(done.took_s)}, every hash checked"))
    click.echo(escape_unsafe(str(done.dest)))
    sys.stdout.flush()
