"""The commands that prove what mirrors hold."""
# ruff: noqa: PLC0415 - heavy imports stand in the commands that need them

import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubsync.cli.app import SHOWN_ROWS, Session, cli, config_option, json_option, pass_session, print_json

if TYPE_CHECKING:
    from hubsync.proof.prove import Proof


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--cached", is_flag=True, help="Do not ask the mirrors: their last proof counts, and its age is shown.")
@json_option
@config_option
@pass_session
def safe(session: Session, paths: tuple[str, ...], *, cached: bool, as_json: bool) -> None:
    """Say whether PATHs may be deleted: `hubsync safe ckpt-500 && rm -r ckpt-500`.

    Exits with 0 only if every required mirror holds exactly the bytes that are there now, each large file's object
    included; else with 1 and the reasons. All that lies in a directory counts, also what is never published. A file that a
    mirror's own include and exclude leave out must be on another required mirror. Needs no daemon.
    """
    from hubsync.mirror.token import Tokens
    from hubsync.monitor.log import discard_log
    from hubsync.monitor.progress import Progress
    from hubsync.proof.prove import Means
    from hubsync.proof.safe import prove_places

    config = session.load()
    discard_log()
    with Progress(environment=session.environment) as progress:
        means = Means(
            config,
            Tokens(session.environment),
            threading.Event(),
            lambda count: None if as_json else progress.add("reading", bytes=count),
        )
        proofs = prove_places(means, paths, Path.cwd(), cached=cached)
    is_safe = all(proof.is_safe for proof in proofs)
    if as_json:
        print_json(safe=is_safe, cached=cached, paths=[_document(name, proof) for name, proof in _named(paths, proofs)])
    else:
        for name, proof in _named(paths, proofs):
            _tell(name, proof)
    sys.exit(0 if is_safe else 1)


def _named(paths: tuple[str, ...], proofs: "list[Proof]") -> "list[tuple[str, Proof]]":
    return list(zip(paths, proofs, strict=True))


def _document(name: str, proof: "Proof") -> dict[str, Any]:
    now = time.time()
    mirrors = [
        {**asdict(mirror), "age_s": None if mirror.proven_at is None else round(max(0.0, now - mirror.proven_at), 3)}
        for mirror in proof.mirrors
    ]
    return {
        "path": name,
        "path_in_source": proof.path if proof.target else None,
        "target": proof.target,
        "safe": proof.is_safe,
        "files": proof.files,
        "bytes": proof.bytes,
        "reasons": [asdict(objection) for objection in proof.objections],
        "mirrors": mirrors,
    }


def _tell(name: str, proof: "Proof") -> None:
    from hubsync.monitor.text import escape_unsafe, format_bytes, format_count

    if proof.is_safe:
        amount = f"{format_count(proof.files, 'file')}, {format_bytes(proof.bytes)}"
        held = ", ".join(f"{mirror.mirror} ({_age(mirror.proven_at)})" for mirror in proof.mirrors if mirror.meant)
        click.echo(escape_unsafe(f"{name}: safe to delete; {amount}" + (f", held by {held}" if held else "")))
        return
    click.echo(escape_unsafe(f"{name}: NOT safe to delete"))
    for objection in proof.objections[:SHOWN_ROWS]:
        where = f" on {objection.mirror}" if objection.mirror else ""
        hint = f"  → {objection.hint}" if objection.hint else ""
        click.echo(escape_unsafe(f"  {objection.path or '.'}{where}: {objection.reason}{hint}"))
    if (rest := len(proof.objections) - SHOWN_ROWS) > 0:
        click.echo(f"  and {rest} more")


def _age(proven_at: float | None) -> str:
    from hubsync.monitor.text import format_duration

    age_s = 0.0 if proven_at is None else time.time() - proven_at
    return "proved now" if age_s < 60 else f"proved {format_duration(age_s)} ago"  # noqa: PLR2004 - a minute
