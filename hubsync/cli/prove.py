"""The commands that prove what mirrors hold."""
# ruff: noqa: PLC0415 - heavy imports stand in the commands that need them

import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from hubsync.cli.app import (
    SHOWN_ROWS,
    Session,
    cli,
    config_option,
    error_document,
    json_option,
    pass_session,
    print_json,
)
from hubsync.errors import UsageError

if TYPE_CHECKING:
    from hubsync.proof.prove import Proof
    from hubsync.proof.verify import Reading, Verification
    from hubsync.store.proof_rows import Publication


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--cached", is_flag=True, help="Do not ask the mirrors: their last proof counts, and its age is shown.")
@click.option("--read-data", is_flag=True, help="Download the objects of large files whole and hash them.")
@json_option
@config_option
@pass_session
def safe(session: Session, paths: tuple[str, ...], *, cached: bool, read_data: bool, as_json: bool) -> None:
    """Say whether PATHs may be deleted: `hubsync safe ckpt-500 && rm -r ckpt-500`.

    Exits with 0 only if every required mirror holds exactly the bytes that are there now, each large file's object
    included; else with 1 and the reasons. All that lies in a directory counts, also what is never published. A file that a
    mirror's own include and exclude leave out must be on another required mirror. Objects up to 8 MiB are read whole; of
    larger ones the start, the end and a random spot, or all with --read-data. Needs no daemon.
    """
    if cached and read_data:
        raise UsageError("--cached asks no mirror, --read-data reads from all", hint="leave one of them out")
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
        proofs = prove_places(means, paths, Path.cwd(), cached=cached, read_data=read_data)
    is_safe = all(proof.is_safe for proof in proofs)
    if as_json:
        print_json(safe=is_safe, cached=cached, paths=[_document(name, proof) for name, proof in _named(paths, proofs)])
    else:
        for name, proof in _named(paths, proofs):
            _tell(name, proof)
    sys.exit(0 if is_safe else 1)


@cli.command()
@click.argument("target")
@click.option("--mirror", help="Only this mirror.")
@click.option("--read-data", is_flag=True, help="Download the contents and hash them; nothing of them is kept.")
@click.option("--sample", default="100%", show_default=True, metavar="PERCENT", help="With --read-data: a random part.")
@click.option("--rate", metavar="RATE", help="With --read-data: at most so much from each mirror, such as 50MB/s.")
@json_option
@config_option
@pass_session
def verify(session: Session, /, *, target: str, as_json: bool, **asked: Any) -> None:  # noqa: ANN401 - click's
    """Compare every mirror of TARGET with what was published to it, and the store with the source.

    Says what is missing, different, or a pointer whose object cannot be had; files that others added are no fault. Exits
    with 1 if something is wrong. Needs no daemon.
    """
    from hubsync.control import send_command
    from hubsync.errors import HubsyncError, MirrorError
    from hubsync.mirror.token import Tokens
    from hubsync.monitor.progress import Progress
    from hubsync.proof.verify import Means
    from hubsync.proof.verify import verify as compare
    from hubsync.signals import stop_on_signals

    config = session.load()
    declared = config.target(target)
    reading = _read_wish(asked)
    session.log(config, level="error" if session.has_console_log(config) else None)
    stop = stop_on_signals()
    with Progress(environment=session.environment) as progress:
        means = Means(
            config,
            Tokens(session.environment),
            stop,
            lambda name, count: progress.add(name, bytes=count),
            lambda name, files, size: progress.update(name, all_bytes=size, doing=f"{files} contents"),
        )
        found = compare(means, declared, reading, asked["mirror"])
    with contextlib.suppress(HubsyncError, OSError):  # a daemon, if one runs, is to show it at once
        send_command(config.service.state_dir / "control.sock", "verified", (target,))
    if as_json:
        print_json(**_verification(found))
    else:
        _tell_verification(found)
    if stop.is_set():
        sys.exit(130)
    errors = {mirror.error.status for mirror in found.mirrors if isinstance(mirror.error, MirrorError)}
    has_faults = any(mirror.found.faults for mirror in found.mirrors)
    sys.exit(0 if found.is_passed else errors.pop() if len(errors) == 1 and not has_faults else 1)


@cli.command()
@click.argument("target")
@click.option("--mirror", help="Only this mirror.")
@click.option("-n", "--last", type=click.IntRange(min=1), help="Only the last N publications.")
@json_option
@config_option
@pass_session
def history(session: Session, target: str, mirror: str | None, last: int | None, *, as_json: bool) -> None:
    """List what was published of TARGET: when, where, how much, how long it took, and what triggered it.

    A trigger is a complete unit, the schedule, or somebody who asked (once, flush, wait). After the loss of the ledger
    what the mirrors' commits tell is listed. Asks no mirror.
    """
    from datetime import UTC, datetime

    from hubsync.proof.history import read_history
    from hubsync.proof.stores import opened_store

    config = session.load()
    declared = config.target(target)
    if mirror is not None:
        declared.mirror(mirror)
    with opened_store(declared, config.service.state_dir) as store:
        found = [each for each in read_history(declared, store) if mirror in {None, each.mirror}]
    found = found[-last:] if last else found
    repos = {each.name: each.repo_id for each in declared.mirrors}
    if as_json:
        documents = [
            {**asdict(each), "at": datetime.fromtimestamp(each.at, UTC).isoformat(), "repo": repos.get(each.mirror)}
            for each in found
        ]
        print_json(target=declared.name, publications=documents)
        return
    _tell_history(found)


def _tell_history(found: "list[Publication]") -> None:
    from datetime import datetime

    from hubsync.monitor.text import escape_unsafe, format_bytes, format_duration

    head = ("when", "mirror", "commit", "files", "size", "took", "trigger", "units")
    rows = [head]
    for each in found:
        took = "" if each.took_s is None else format_duration(each.took_s)
        when = f"{datetime.fromtimestamp(each.at).astimezone():%Y-%m-%d %H:%M:%S}"
        cells = (when, each.mirror, each.commit[:10], str(each.files), format_bytes(each.bytes), took, each.trigger)
        rows.append((*cells, ", ".join(each.units)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells_of_row = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(escape_unsafe("  ".join(cells_of_row).rstrip()))


def _read_wish(asked: dict[str, Any]) -> "Reading":
    from hubsync.config.units import parse_share, parse_size
    from hubsync.proof.verify import Reading

    if not asked["read_data"]:
        return Reading()
    try:
        share = parse_share(asked["sample"])
    except ValueError as exc:
        raise UsageError(f"--sample {exc}") from exc
    try:
        return Reading(share, parse_size(asked["rate"].removesuffix("/s")) if asked["rate"] else 0)
    except ValueError as exc:
        raise UsageError(f"--rate {exc}") from exc


def _verification(found: "Verification") -> dict[str, Any]:
    mirrors = []
    for mirror in found.mirrors:
        document = asdict(mirror) | {"passed": mirror.is_passed, "error": None}
        document |= asdict(document.pop("found"))
        if mirror.error is not None:
            document |= error_document(mirror.error)
        mirrors.append(document)

    return {"target": found.target, "passed": found.is_passed, "source": found.source, "mirrors": mirrors}


def _tell_verification(found: "Verification") -> None:
    from hubsync.monitor.text import escape_unsafe, format_bytes, format_count

    for mirror in found.mirrors:
        amount = f"{format_count(mirror.files, 'file')}, {format_bytes(mirror.bytes)}"
        read = f", {mirror.read_files} contents read ({format_bytes(mirror.read_bytes)})" if mirror.read_files else ""
        behind = f", {format_count(mirror.behind, 'snapshot')} behind" if mirror.behind else ""
        result = "as published" if mirror.is_passed else f"NOT verified: {mirror.error or mirror.found.describe()}"
        click.echo(escape_unsafe(f"{mirror.mirror} ({mirror.repo}): {result}; {amount}{read}{behind}"))
        for kind in ("missing", "different", "dangling", "damaged", "theirs", "extra"):
            paths = getattr(mirror.found, kind)
            for path in paths[:SHOWN_ROWS]:
                click.echo(escape_unsafe(f"  {kind}: {path}"))
            if len(paths) > SHOWN_ROWS:
                click.echo(f"  {kind}: and {len(paths) - SHOWN_ROWS} more")
    source = found.source
    changed = f", {format_count(len(source.changed), 'file')} not captured as they are" if source.changed else ""
    click.echo(f"source: {format_count(source.same, 'file')} as captured{changed}, {source.gone} gone since")


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
        "reasons": proof.objections,
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
