"""The commands that run on this machine alone: the local Hub, the demo, and the agent that git-lfs starts."""
# ruff: noqa: PLC0415 - heavy imports stand in the commands that need them

import sys
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from hubsync.cli.app import Session, Size, cli, pass_session
from hubsync.errors import StateError


@cli.group()
def localhub() -> None:
    """A Hub on this machine: real git, LFS and the Hub's HTTP API on loopback, for trying out and for tests."""


@localhub.command("serve")
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True, help="Where it keeps repositories.")
@click.option("--port", type=int, default=8000, show_default=True)
@click.option("--fault", "faults", multiple=True, metavar="FAULT", help="Show this fault; may be given more than once.")
@click.option("--part-size", type=Size(), help="Take objects larger than this in parts of this size (the Hub: over 5 GiB).")
@click.option("--commits-per-hour", type=int, help="Per repository; more are refused with 429.")
@click.option("--requests-per-window", type=int, help="API requests per user in five minutes; more are refused with 429.")
@click.option("--storage", type=Size(), help="For all objects of one namespace (10GB); more are refused with 403.")
def localhub_serve(
    directory: Path,
    port: int,
    faults: tuple[str, ...],
    part_size: int | None,
    storage: int | None,
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

    settings = Settings(storage_bytes=storage, **limits)
    if part_size:
        settings = replace(settings, single_max_bytes=part_size, part_bytes=part_size)
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


def _need_extra(name: str) -> None:
    import importlib.util

    if any(importlib.util.find_spec(module) is None for module in ("httptools", "lz4", "starlette")):
        raise StateError(f"this command needs hubsync's extra {name!r}", hint=f"pip install 'hubsync[{name}]'")
