"""The commands that only look: status, explanations, the log and what is made from it, the card."""
# ruff: noqa: PLC0415 - heavy imports stand in the commands that need them

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from hubsync.cli.app import SHOWN_ROWS, Moment, Session, cli, config_option, json_option, pass_session, print_json
from hubsync.errors import ConfigError, HubsyncError, StateError

if TYPE_CHECKING:
    from hubsync.explain import Explanation
    from hubsync.monitor.events import Event
    from hubsync.views.log import Place
    from hubsync.views.story import Story

_FOLLOWED_LINES = 20


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
        print_json(paths=[{**asdict(one), "published": one.is_published} for one in found])
    else:
        _print_explanations(found)
    sys.exit(0 if all(one.is_published for one in found) else 1)


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
    code = show_log(_log_place(session, file), Query(**conditions), printer, last=last, follow=follow)
    if code and not as_json:
        click.echo(_describe_nothing(conditions["events"]), err=True)
    sys.exit(code)


def _describe_nothing(patterns: tuple[str, ...]) -> str:
    from fnmatch import fnmatchcase

    from hubsync.monitor.events import CATALOGUE

    unknown = [one for one in patterns if not any(fnmatchcase(name, one.removeprefix("!")) for name in CATALOGUE)]
    return f"no event is named {unknown[0]!r}: see `hubsync events`" if unknown else "the log has no such entry"


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
        print_json(**asdict(story))
    elif html is None:
        click.echo(summarize_story(story), nl=False)


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--markdown", is_flag=True, help="Print the whole list as a page of Markdown.")
@json_option
def events(names: tuple[str, ...], *, markdown: bool, as_json: bool) -> None:
    """List the events of the log: level, fields, meaning, and what to do.

    NAMES may be patterns, such as 'mirror.*'. Exits with 1 if no event has such a name.
    """
    from fnmatch import fnmatch

    from hubsync.monitor.events import CATALOGUE, draw_catalogue

    listed = [one for one in CATALOGUE.values() if not names or any(fnmatch(one.name, name) for name in names)]
    if as_json:
        print_json(events=listed)
    elif markdown:
        click.echo(draw_catalogue(), nl=False)
    else:
        _print_events(listed)
    sys.exit(0 if listed else 1)


def _print_events(listed: "list[Event]") -> None:
    for event in listed:
        click.echo(f"{event.name}  [{event.level}]\n    {event.meaning}")
        if event.action:
            click.echo(f"    → {event.action}")
        click.echo(f"    fields: {', '.join(event.fields) or 'none'}\n")


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
        print_json(target=target, mirror=mirror.name, reason=composed.reason, files=composed.files)
    elif not text:
        raise HubsyncError(f"the source's README.md is left alone: {composed.reason}")
    elif preview and sys.stdout.isatty():
        _print_page(without_block(text))
    else:
        click.echo(text, nl=False)


def _log_place(session: Session, file: Path | None) -> "Place":
    from hubsync.views.log import Place

    return Place(file) if file is not None else Place(configured=session.find_log_file())


def _write_page(path: Path, story: "Story") -> None:
    from hubsync.views.page import draw_page

    try:
        path.write_text(draw_page(story), encoding="utf-8")
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}", hint="name another file") from exc
    click.echo(f"wrote {path}; open it in a browser", err=True)


def _print_explanations(found: "list[Explanation]") -> None:
    from hubsync.explain import describe
    from hubsync.monitor.text import escape_unsafe

    told = [one for one in found if not one.is_published] if len(found) > 1 else found
    for one in told[:SHOWN_ROWS]:
        click.echo(escape_unsafe(one.path))
        for heading, text in describe(one):
            click.echo(escape_unsafe(f"  {heading:10} {text}"))
    if len(told) > SHOWN_ROWS:
        click.echo(f"… and {len(told) - SHOWN_ROWS} more (--json lists all)")
    if len(found) > 1:
        click.echo(f"{len(found) - len(told)} of {len(found)} files are published on all required mirrors")


def _print_page(text: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.syntax import Syntax

    from hubsync.card.frontmatter import read_front_matter

    front = read_front_matter(text)
    console = Console()
    console.print(Syntax(front.text, "yaml", background_color="default"))
    console.print(Markdown(front.body))
